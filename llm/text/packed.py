"""Open packed files safely: gzip, bzip2, xz, zip, and the XML in them.

What is unpacked has at most MAX_UNPACKED bytes, whatever a file claims; XML that declares entities is refused, because
a few bytes of it can stand for gigabytes.
"""

import bz2
import gzip
import html.entities
import io
import lzma
import re
import zipfile
import zlib
from xml.etree import ElementTree
from xml.parsers import expat

from llm.configurator import UserError

MAX_UNPACKED = 300_000_000  # bytes
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError)


def too_large(name: str) -> UserError:
    return UserError(f"{name} unpacks to more than {MAX_UNPACKED // 10**6} MB: expected a book")


def unpacked(data: bytes, name: str) -> bytes | None:
    """The content of a gzip, bzip2 or xz file; None if it is none of these. UserError if it is damaged."""
    opener = next((opener for magic, opener in OPENERS.items() if data.startswith(magic)), None)
    if opener is None:
        return None
    try:
        with opener(io.BytesIO(data)) as f:
            content = f.read(MAX_UNPACKED + 1)
    except DAMAGED:
        raise UserError(f"{name} is packed and damaged: it cannot be unpacked completely") from None
    if len(content) > MAX_UNPACKED:
        raise too_large(name)
    return content


class Archive:
    """A zip file whose members are read within one limit; damaged members raise BadMember."""

    def __init__(self, data: bytes, name: str):
        self.name, self.left = name, MAX_UNPACKED
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (*DAMAGED, ValueError):
            raise UserError(f"{name} is a damaged zip file: it cannot be opened") from None
        self.names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        self._lower = {member.lower(): member for member in self.names}

    def find(self, member: str) -> str | None:
        """The name of a member as the archive spells it; None if it has none."""
        return member if member in self.names else self._lower.get(member.lower())

    def read(self, member: str) -> bytes:
        """The bytes of a member. BadMember if it is missing or damaged, UserError beyond the limit."""
        found = self.find(member)
        if found is None:
            raise BadMember("it is missing")
        try:
            with self._zip.open(found) as f:
                content = f.read(self.left + 1)
        except RuntimeError:
            raise UserError(
                f"{self.name} is encrypted with a password; type: 7z x -oreadable {self.name}, and prepare readable"
            ) from None
        except (*DAMAGED, ValueError, KeyError):
            raise BadMember("its data are damaged") from None
        self.left -= len(content)
        if self.left < 0:
            raise too_large(self.name)
        return content

    def xml(self, member: str) -> ElementTree.Element:
        """The root element of a member. BadMember if it is missing, damaged or no XML."""
        return xml_root(self.read(member), f"{self.name} ({member})")


class BadMember(Exception):
    """A member of an archive that cannot be read; the message says why."""


def xml_root(data: bytes, name: str) -> ElementTree.Element:
    """The root element of XML. BadMember if it is not well-formed; UserError if it declares entities."""

    def refuse(*args) -> None:
        raise UserError(f"{name} declares entities of its own, which may be an attack: expected plain XML")

    for content in (data, with_known_entities(data)):
        scanner = expat.ParserCreate()
        scanner.EntityDeclHandler = refuse
        try:
            scanner.Parse(content, True)
            return ElementTree.fromstring(content)
        except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError):
            continue
    raise BadMember("it is not well-formed XML")


def with_known_entities(data: bytes) -> bytes:
    """XML with HTML's named characters, such as &nbsp;, as numbers: XML knows only five names."""

    def number(match: re.Match) -> bytes:
        code = html.entities.name2codepoint.get(match[1].decode("ascii"))
        return match[0] if code is None or match[1] in (b"amp", b"lt", b"gt", b"quot", b"apos") else b"&#%d;" % code

    return re.sub(rb"&(\w{2,8});", number, data)


def local_name(element: ElementTree.Element) -> str:
    """The name of an element without its namespace; "" for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: ElementTree.Element, name: str, default: str = "") -> str:
    """An attribute by its name without the namespace."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), default)


def text_of(element: ElementTree.Element | None) -> str:
    """All text in an element, on one line."""
    return " ".join("".join(element.itertext()).split()) if element is not None else ""
