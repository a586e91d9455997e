"""Recognise a file by its content, and read it as a book: plain text, Markdown, HTML, EPUB, DOCX, ODT, FB2 or PDF.

Files may be packed (gzip, bzip2, xz, zip). What cannot be read is refused in one line that says what to type.
"""

import hashlib
import re
from pathlib import Path, PurePosixPath

from llm.configurator import UserError
from llm.text.book import Book, joined
from llm.text.control_characters import is_blank
from llm.text.docx import docx_book
from llm.text.download import public_address
from llm.text.encodings import decode
from llm.text.epub import epub_book
from llm.text.fb2 import fb2_book
from llm.text.html import html_book
from llm.text.markdown import markdown_book
from llm.text.markup import decode_markup
from llm.text.odt import odt_book
from llm.text.packed import Archive, BadMember, unpacked
from llm.text.pdf import pdf_book

Cleaned = tuple[str, list[str]]  # a text, and notes: short phrases that name what was changed
MAX_DEPTH = 3  # of packed files in packed files

# (what it is, its first bytes, what to type to convert it; FILE stands for its name)
CALIBRE = "ebook-convert FILE book.epub"
OFFICE = "soffice --headless --convert-to docx FILE"
OCR = "ocrmypdf --image-dpi 300 FILE book.pdf"
REFUSED: tuple[tuple[str, bytes, str], ...] = (
    ("an old Word document", rb"\xd0\xcf\x11\xe0", OFFICE),
    ("an RTF document", rb"\s*\{\\rtf", OFFICE),
    ("a MOBI or Kindle book", rb"(?:.{60})?(?:BOOKMOBI|TEXtREAd)", CALIBRE),
    ("a Kindle book", rb"CONT\x02\x00|\xeaDRMION|TPZ0", CALIBRE),
    ("a Microsoft Reader book", rb"ITOLITLS", CALIBRE),
    ("a Help file", rb"ITSF", CALIBRE),
    ("a DjVu document", rb"AT&TFORM", "djvutxt FILE book.txt"),
    ("a PostScript document", rb"\s*%!PS|\x04%!PS", "ps2pdf FILE book.pdf"),
    ("a picture", rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\x00|MM\x00\*|BM.{4}\x00\x00\x00\x00|RIFF.{4}WEBP", OCR),
    ("a picture", rb"\x00\x00\x00.ftyp(?:hei|hev|mif1|msf1|avif)|\x00\x00\x00\x0c(?:jP  |JXL )|\xff\x0a", OCR),
    ("a recording", rb"ID3[\x02-\x04]\x00|OggS|fLaC|RIFF.{4}(?:WAVE|AVI )|\x00\x00\x00.ftyp|\x1aE\xdf\xa3", ""),
    ("a RAR archive", rb"Rar!", "unar FILE"),
    ("a 7-Zip archive", rb"7z\xbc\xaf\x27\x1c", "7z x FILE"),
    ("a tar archive", rb".{257}ustar", "tar xf FILE"),
    ("a program", rb"\x7fELF|MZ.{58}[\x00-\xff]{2}\x00\x00", ""),
)
HTML_START = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)*(?:<!--.*?-->\s*)*(?:<!doctype\s+html|<(?:html|head|body|title|meta|div|p|h[1-6]|main|article"
    r"|section|center|pre|table|font)\b)",
    re.I | re.S,
)
OTHER_XML = re.compile(r"\s*<(?:\?xml|!DOCTYPE\b|svg\b|TEI\b)", re.I)
SAVED_PAGE = re.compile(r"(?:[\w-]+:[^\n]*\n(?:[ \t][^\n]*\n)*)*?Content-Type:\s*multipart/related", re.I)  # MHTML
CHAPTER_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xhtml", ".xml", ".fb2", ""}


def read_text(path: Path | str) -> Cleaned:
    r"""The text of a plain text file with \n as line end, and notes. UserError if it is not readable as text."""
    return plain_text(read_bytes(Path(path)), str(path))


def plain_text(data: bytes, name: str) -> Cleaned:
    """The same of the content of a file; name: for messages."""
    if not (data.startswith(b"%PDF-") or data.startswith(b"PK\x03\x04")):
        refuse_unreadable(data, name)
        return decode(data, name=name)
    kind = "a PDF" if data.startswith(b"%") else "a packed document"
    raise UserError(f"{name} is {kind}: expected a plain text file")


def read_bytes(path: Path) -> bytes:
    """The content of a file. UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        raise UserError(f"{path} cannot be read ({getattr(e, 'strerror', None) or e}): expected a text file") from None


def refuse_unreadable(data: bytes, name: str) -> None:
    """UserError with the command that converts it, if a file is of a kind that is not read here."""
    for kind, first_bytes, convert in REFUSED:
        if re.match(first_bytes, data[:1024], re.S):
            todo = f"; type: {convert.replace('FILE', name)}, and prepare that" if convert else ""
            raise UserError(f"{name} is {kind}: expected text, EPUB, DOCX, HTML or PDF{todo}")


def read_book(
    data: bytes, *, name: str, encoding: str | None = None, footnotes: bool = True, depth: int = MAX_DEPTH
) -> Book:
    """The book in the content of a file; name: for messages. encoding: of plain text and HTML, None = recognised.

    footnotes: keep them, in formats that mark them. UserError if there is no text.
    """
    if (content := unpacked(data, name)) is not None:
        if not depth:
            raise UserError(f"{name} is packed too often: expected a book")
        return read_book(content, name=name, encoding=encoding, footnotes=footnotes, depth=depth - 1)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        book = read_archive(Archive(data, name), encoding=encoding, footnotes=footnotes, depth=depth)
    elif re.match(rb"[\s\x00-\xff]{0,1000}?%PDF-\d", data[:1020]):
        book = pdf_book(data, name=name, footnotes=footnotes)
    else:
        refuse_unreadable(data, name)
        book = read_markup_or_text(data, name=name, encoding=encoding, footnotes=footnotes)
    if is_blank(book.text):
        raise UserError(f"{name} is empty: expected a text file with at least a few pages of text")
    return book


def read_markup_or_text(data: bytes, *, name: str, encoding: str | None, footnotes: bool) -> Book:
    """The book in HTML, FB2, Markdown or plain text."""
    start = data[:2000].decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "ignore")
    start = start.removeprefix("ï»¿")  # UTF-8's mark
    if "<FictionBook" in start and start.lstrip().startswith("<"):
        return fb2_book(data, name=name, footnotes=footnotes)
    if HTML_START.match(start):
        return html_book(decode_markup(data, encoding=encoding, name=name), footnotes=footnotes)
    if OTHER_XML.match(start):
        raise UserError(f"{name} is XML, but no HTML or FB2: expected a book; type: pandoc -s -o book.epub {name}")
    if SAVED_PAGE.match(start.replace("\r\n", "\n")):
        raise UserError(f"{name} is a page saved as MHTML: expected HTML; save it in the browser as a complete page")
    text, notes = decode(data, encoding=encoding, name=name)
    book = markdown_book(text)
    book.notes[:0] = notes
    return book


def read_archive(archive: Archive, *, encoding: str | None, footnotes: bool, depth: int) -> Book:
    """The book in a zip file: EPUB, DOCX, ODT, or books packed in it."""
    try:
        mimetype = archive.read("mimetype").strip() if archive.find("mimetype") else b""
        if archive.find("META-INF/container.xml") or mimetype == b"application/epub+zip":
            return epub_book(archive, footnotes=footnotes)
        if archive.find("word/document.xml"):
            return docx_book(archive, footnotes=footnotes)
        if mimetype.startswith(b"application/vnd.oasis.opendocument.text") or archive.find("content.xml"):
            return odt_book(archive, footnotes=footnotes)
        members = [m for m in sorted(archive.names, key=natural_key) if is_readable(m)]
        if not members:
            raise UserError(f"{archive.name} is an archive without a text in it: expected a book")
        if not depth:
            raise UserError(f"{archive.name} is packed too often: expected a book")
        files = [(m, archive.read(m)) for m in members]
    except BadMember as problem:
        raise UserError(f"{archive.name} is damaged: a file in it cannot be read ({problem})") from None
    books = []
    for member, data in files:
        full = f"{archive.name} ({member})"
        book = read_book(data, name=full, encoding=encoding, footnotes=footnotes, depth=depth - 1)
        books.append((member, book))
    return books[0][1] if len(books) == 1 else of_chapters(books, title=Path(archive.name).stem)


def is_readable(name: str) -> bool:
    """Whether a file in a folder or an archive may be a chapter or a book, by its name."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
    books = {".epub", ".docx", ".odt", ".pdf", ".zip", ".gz", ".bz2", ".xz"}
    return not hidden and path.suffix.lower() in CHAPTER_SUFFIXES | books


def is_chapter(name: str) -> bool:
    """Whether a file in a folder is a chapter of one book, not a book of its own, by its name."""
    return PurePosixPath(name).suffix.lower() in CHAPTER_SUFFIXES


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people do: chapter2 before chapter10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", name)]


def of_chapters(books: list[tuple[str, Book]], *, title: str) -> Book:
    """One book of several files, (name, book) each."""
    return joined([book for _, book in books], title=title, author=books[0][1].author)


def source_of(name: str | Path, data: bytes, url: str | None = None) -> dict:
    """The entry "source" of meta.json: where a text comes from; url: only if this run downloaded it."""
    source = {"file": Path(name).name, "sha256": hashlib.sha256(data).hexdigest()}
    return source | {"url": public_address(url)} if url else source
