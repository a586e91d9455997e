"""Read a file as text, whatever its encoding."""

import hashlib
import re
from pathlib import Path

from llm.configurator import UserError

Cleaned = tuple[str, list[str]]  # a text, and notes: short phrases that say what was done to it


BINARY = {  # what people take for a text, by its first bytes
    "a PDF": b"%PDF-",
    "an EPUB, a Word or another packed document": b"PK\x03\x04",
    "an old Word document": b"\xd0\xcf\x11\xe0",
    "an RTF document": b"{\\rtf",
    "packed (gzip)": b"\x1f\x8b",
}


def read_text(path: Path | str) -> Cleaned:
    r"""Text of a file, its lines ended by \n, and notes. UserError for what is no readable text."""
    path, notes = Path(path), []
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read ({getattr(e, 'strerror', e)}): expected a text file") from None
    for name, begins in BINARY.items():
        if data.startswith(begins):
            raise UserError(f"{path} is {name}: expected a plain text file; save it as one first")
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8")
    except UnicodeDecodeError as e:
        # Windows-1252 is latin-1 with curly quotes and dashes where latin-1 has control characters
        name = "windows-1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
        text = data.decode(name, errors="replace")
        notes.append(f"read as {name}: byte 0x{data[e.start]:02x} at position {e.start} is not {e.encoding.upper()}")
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append("UTF-8 BOM removed")
    for name, end in (("CRLF", "\r\n"), ("CR", "\r")):
        if end in text:
            text = text.replace(end, "\n")
            notes.append(f"{name} line ends converted")
    if "\0" in text:
        raise UserError(f"{path} is not text (it contains NUL bytes): expected a plain text file, best in UTF-8")
    if not text.strip():
        raise UserError(f"{path} is empty: expected a text file with at least a few pages of text")
    return text, notes


def source_of(path: Path, url: str | None = None) -> dict:
    """What meta.json says about where a text came from; `url` only if this run downloaded it."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | ({"url": url} if url else {})
