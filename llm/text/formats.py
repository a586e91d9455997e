"""Read a file as text, whatever its encoding."""

import hashlib
import re
from pathlib import Path

from llm.configurator import UserError

Cleaned = tuple[str, list[str]]  # a text, and notes: short phrases that name what was changed

MAGIC = {  # the first bytes of files that people mistake for plain text
    "a PDF": b"%PDF-",
    "an EPUB, a Word or another packed document": b"PK\x03\x04",
    "an old Word document": b"\xd0\xcf\x11\xe0",
    "an RTF document": b"{\\rtf",
    "packed (gzip)": b"\x1f\x8b",
}


def read_text(path: Path | str) -> Cleaned:
    r"""The text of a file with \n as line end, and notes. UserError if it is not readable as text."""
    path, notes = Path(path), []
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        raise UserError(f"{path} cannot be read ({getattr(e, 'strerror', e)}): expected a text file") from None
    for kind, first_bytes in MAGIC.items():
        if data.startswith(first_bytes):
            raise UserError(f"{path} is {kind}: expected a plain text file; save it as one first")
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8")
    except UnicodeDecodeError as e:
        # windows-1252 is latin-1 with curly quotes and dashes in place of control characters
        encoding = "windows-1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
        text = data.decode(encoding, errors="replace")
        byte = f"byte 0x{data[e.start]:02x} at position {e.start}"
        notes.append(f"read as {encoding}: {byte} is not {e.encoding.upper()}")
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append("UTF-8 BOM removed")
    for name, line_end in (("CRLF", "\r\n"), ("CR", "\r")):
        if line_end in text:
            text = text.replace(line_end, "\n")
            notes.append(f"{name} line ends converted")
    if "\0" in text:
        raise UserError(f"{path} is not text (it contains NUL bytes): expected a plain text file, best in UTF-8")
    if not text.strip():
        raise UserError(f"{path} is empty: expected a text file with at least a few pages of text")
    return text, notes


def source_of(path: Path, url: str | None = None) -> dict:
    """The entry "source" of meta.json: where a text comes from; url: only if this run downloaded it."""
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return source | {"url": url} if url else source
