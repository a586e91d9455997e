"""EPUB 2 and 3: the prose of the spine, in its order.

The navigation, the cover page and ruby annotations are no prose. Footnotes (epub:type or role: footnote, endnote,
rearnote) stand at the end of the chapter that names them. Chapters are those of the table of
contents, else the headings.
"""

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from llm.configurator import UserError
from llm.text.book import Book, Chapter, TextBuilder
from llm.text.html import marked, notes_of, paragraphs_of, without_outer_rules
from llm.text.html_parser import Paragraphs
from llm.text.markup import decode_markup
from llm.text.packed import Archive, BadMember, attribute, local_name, text_of

FONT_ALGORITHMS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts alone, no prose
MAX_COVER = 200  # characters of text on a cover page
JACKET_MARKS = ('name="calibre-content" content="jacket"', 'class="cbj_banner"')  # of Calibre's page about the book
NOTE_HEADINGS = re.compile(r"(?:foot|end)?notes?|notes|anmerkungen|fußnoten|примечания|notas|note|注释|註釋", re.I)


@dataclass
class Package:
    """The contents of an EPUB's .opf file; all paths are those of the archive."""

    title: str
    author: str
    spine: list[str]
    navigation: str | None  # the EPUB 3 navigation document
    ncx: str | None  # EPUB 2's
    covers: set[str]
    contents: set[str]  # pages that hold a table of contents


def epub_book(archive: Archive, *, footnotes: bool = True) -> Book:
    """The book in an EPUB. UserError if it is encrypted or has no readable chapter; single broken ones are named."""
    refuse_encrypted(archive)
    package = read_package(archive)
    pages, notes = {}, []
    for path in package.spine:
        try:
            markup = decode_markup(archive.read(path))
        except BadMember as problem:
            notes.append(f"WARNING: the chapter {path} is left out: {problem}")
            continue
        page = paragraphs_of(markup, footnotes=footnotes)
        if not any(mark in markup for mark in JACKET_MARKS) and not is_furniture(path, page, package):
            pages[path] = page
    if not pages:
        raise UserError(f"{archive.name} has no chapter that can be read: expected an EPUB with text")
    entries = table_of_contents(archive, package)
    builder = assembled(pages, {(path, anchor) for path, anchor, _ in entries})
    chapters = chapters_of(entries, builder)
    soft_hyphens = sum(page.n_soft_hyphens for page in pages.values())
    notes += [f"soft hyphens removed: {soft_hyphens:,}"] if soft_hyphens else []
    return Book(package.title, package.author, builder.text(), chapters or builder.chapters, notes)


def refuse_encrypted(archive: Archive) -> None:
    """UserError if more than fonts is encrypted."""
    if archive.find("META-INF/encryption.xml") is None:
        return
    try:
        methods = [attribute(e, "Algorithm") for e in archive.xml("META-INF/encryption.xml").iter() if is_method(e)]
    except BadMember:
        return
    if any(method not in FONT_ALGORITHMS for method in methods):
        raise UserError(f"{archive.name} is encrypted (DRM): expected an EPUB without copy protection")


def is_method(element) -> bool:
    return local_name(element) == "EncryptionMethod"


def read_package(archive: Archive) -> Package:
    """The contents of the .opf file. UserError if there is none."""
    try:
        roots = [e for e in archive.xml("META-INF/container.xml").iter() if local_name(e) == "rootfile"]
        opf = unquote(attribute(roots[0], "full-path"))
    except (BadMember, IndexError):
        opf = next((name for name in archive.names if name.lower().endswith(".opf")), "")
    try:
        root = archive.xml(opf)
    except BadMember as problem:
        raise UserError(f"{archive.name} is a damaged EPUB: its list of chapters cannot be read ({problem})") from None
    folder = posixpath.dirname(opf)
    items, spine, covers, contents = {}, [], set(), set()
    navigation = ncx = None
    for element in root.iter():
        kind, href = (
            local_name(element),
            posixpath.normpath(posixpath.join(folder, unquote(attribute(element, "href")))),
        )
        href, properties = href.partition("#")[0], attribute(element, "properties").split()
        media_type = attribute(element, "media-type")
        if kind == "item":
            items[attribute(element, "id")] = href, media_type
            navigation = href if "nav" in properties else navigation
            ncx = href if media_type == "application/x-dtbncx+xml" else ncx
        elif kind == "itemref":
            spine.append(attribute(element, "idref"))
        elif kind == "reference":
            covers |= {href} if attribute(element, "type") == "cover" else set()
            contents |= {href} if attribute(element, "type") == "toc" else set()
    paths = [items[i][0] for i in spine if i in items and ("html" in items[i][1] or items[i][1] in ("", "text/xml"))]
    title = next(filter(None, (text_of(e) for e in root.iter() if local_name(e) == "title")), "")
    return Package(title, author_of(root), list(dict.fromkeys(paths)), navigation, ncx, covers, contents)


def author_of(root: Element) -> str:
    """The creators that an .opf file names; without translators and others, whose roles say so."""
    roles = {  # of EPUB 3; in EPUB 2, they are attributes
        attribute(e, "refines").lstrip("#"): text_of(e)
        for e in root.iter()
        if local_name(e) == "meta" and attribute(e, "property") == "role"
    }
    creators = [e for e in root.iter() if local_name(e) == "creator" and text_of(e)]
    found = [(attribute(e, "role") or roles.get(attribute(e, "id"), "aut"), text_of(e)) for e in creators]
    authors = [name for role, name in found if role == "aut"] or [name for _, name in found]
    return ", ".join(dict.fromkeys(authors))


def is_furniture(path: str, page: Paragraphs, package: Package) -> bool:
    """Whether a page of the spine is no prose: navigation, a cover, or nothing but a table of contents."""
    length = sum(len(p.text) for p in page.paragraphs)
    is_cover = path in package.covers or re.search(r"(?:^|/)cover[^/]*$", path, re.I)
    is_contents = page.n_linked >= (0.5 if path in package.contents else 0.7) * length
    return length == 0 or path == package.navigation or bool(is_cover and length < MAX_COVER) or is_contents


def assembled(pages: dict[str, Paragraphs], boundaries: set[tuple[str, str]]) -> TextBuilder:
    """The text of all pages; notes stand at the end of the chapter that names them.

    A chapter ends where a target of the table of contents (path, anchor) begins; without one, with each page.
    """
    notes = {(path, name): note for path, page in pages.items() for name, note in notes_of(page).items()}
    named = {resolved(path, href) for path, page in pages.items() for p in page.paragraphs for href, _ in p.references}
    builder, pending = TextBuilder(), {}

    def end_chapter() -> None:
        for key, mark in pending.items():
            for n, paragraph in enumerate(marked(notes[key], mark)):
                builder.add(paragraph.text, close=bool(n) and paragraph.close)
        pending.clear()

    for path, page in pages.items():
        if not boundaries or (path, "") in boundaries:
            end_chapter()
        paragraphs = [p for p in page.paragraphs if p.note is None or (path, p.note) not in named]
        if len(paragraphs) < len(page.paragraphs) and all(NOTE_HEADINGS.fullmatch(p.text) for p in paragraphs):
            paragraphs = []  # a page of notes that all stand elsewhere now
        first = True
        for paragraph in without_outer_rules(paragraphs):
            if any((path, anchor) in boundaries for anchor in paragraph.anchors):
                end_chapter()
            anchors = [f"{path}#{anchor}" for anchor in paragraph.anchors] + [f"{path}#"] * first
            first = False
            heading = 0 < paragraph.level <= 3
            builder.add(paragraph.text, heading=heading, anchors=tuple(anchors), close=paragraph.close)
            for href, mark in paragraph.references:
                if (key := resolved(path, href)) in notes:
                    pending.setdefault(key, mark)
    end_chapter()
    return builder


def resolved(path: str, href: str) -> tuple[str, str]:
    """(path in the archive, anchor) of a link in the page `path`."""
    target, _, anchor = unquote(href).partition("#")
    return (posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path), anchor


def table_of_contents(archive: Archive, package: Package) -> list[tuple[str, str, str]]:
    """(path, anchor, title) of each entry, from EPUB 3's navigation or EPUB 2's NCX; empty if neither can be read."""
    entries = []
    try:
        if package.navigation:
            markup = decode_markup(archive.read(package.navigation))
            closed = markup[: markup.lower().rfind("</nav>") + len("</nav>")]  # linear: each beginning has its end
            navs = re.findall(r"<nav\b([^>]*)>(.*?)</nav>", closed, re.S | re.I)
            toc = next((body for attributes, body in navs if re.search(r"[\"'\s]toc[\"'\s]", attributes)), "")
            link = r"<a\b[^<>]*?\bhref\s*=\s*[\"']([^\"'<]*)[\"'][^<>]*>(.*?)</a>"
            for href, label in re.findall(link, toc[: toc.lower().rfind("</a>") + len("</a>")], re.S | re.I):
                page = paragraphs_of(label)
                title = " ".join(" ".join(p.text for p in page.paragraphs).split())
                entries.append((*resolved(package.navigation, href), title))
        if not entries and package.ncx:
            for point in archive.xml(package.ncx).iter():
                if local_name(point) == "navPoint":
                    label = next((e for e in point if local_name(e) == "navLabel"), None)
                    href = next((attribute(e, "src") for e in point if local_name(e) == "content"), "")
                    entries.append((*resolved(package.ncx, href), text_of(label)))
    except BadMember:
        return []
    return [entry for entry in entries if entry[2]]


def chapters_of(entries: list[tuple[str, str, str]], builder: TextBuilder) -> list[Chapter]:
    """The chapters that a table of contents names, where the text has them; empty if these are fewer than two.

    An entry that begins where the next one does, such as a part and its first chapter, is left out.
    """
    starts = {}
    for path, anchor, title in entries:
        start = builder.anchors.get(f"{path}#{anchor}", builder.anchors.get(f"{path}#"))
        if start is not None:
            starts[start] = title
    return [Chapter(title, start) for start, title in sorted(starts.items())] if len(starts) > 1 else []
