"""HTML as a book: headings, paragraphs, verse, lists, tables and preformatted lines stay; furniture goes.

    >>> html_book("<title>T</title><nav>Home</nav><h1>One</h1><p>A <i>b</i><br>c<p>d").text
    'One\\n\\nA b\\nc\\n\\nd\\n'

Left out: scripts, styles, navigation, page headers and footers, forms, comments, hidden elements, page numbers, ruby
annotations (<rt>).
"""

import re

from llm.text.book import Book, TextBuilder
from llm.text.html_parser import Paragraph, Paragraphs
from llm.text.markup import replaced


def main_part(markup: str) -> str:
    """The <main> element of a page, or its only <article>, if there is one; else all of it."""
    for tag in ("main", "article"):
        starts = list(re.finditer(rf"<{tag}[\s>]", markup, re.I))
        ends = list(re.finditer(rf"</{tag}\s*>", markup, re.I))
        if len(starts) == len(ends) == 1 and starts[0].start() < ends[0].start():
            return markup[starts[0].start() : ends[0].end()]
    return markup


def paragraphs_of(markup: str, *, footnotes: bool = True) -> Paragraphs:
    """The paragraphs of a page, and what is known about it."""
    markup = replaced(r"<!\[CDATA\[(.*?)\]\]>", r"\1", markup, end="]]>")
    for blank_lines in (False, True):
        page = Paragraphs(markup, footnotes=footnotes, blank_lines=blank_lines)
        if page.n_blank_lines <= len(page.paragraphs):
            break  # otherwise it is a plain text in a few tags: its empty lines separate its paragraphs
    return page


def without_outer_rules(paragraphs: list[Paragraph]) -> list[Paragraph]:
    """The paragraphs without rules at the beginning, the end, and next to a heading: those are ornaments."""
    kept: list[Paragraph] = []
    for paragraph in paragraphs:
        if paragraph.rule and (not kept or kept[-1].rule or kept[-1].level):
            continue
        if paragraph.level and kept and kept[-1].rule:
            kept.pop()
        kept.append(paragraph)
    return kept[:-1] if kept and kept[-1].rule else kept


def notes_of(page: Paragraphs) -> dict[str, list[Paragraph]]:
    """The footnotes of a page by their ids, in its order."""
    notes: dict[str, list[Paragraph]] = {}
    for paragraph in page.paragraphs:
        if paragraph.note:
            notes.setdefault(paragraph.note, []).append(paragraph)
    return notes


def marked(note: list[Paragraph], mark: str) -> list[Paragraph]:
    """The paragraphs of a footnote, the first of which begins with its mark in brackets."""
    first = note[0]
    if mark and not first.text.startswith(("[", "(", mark)):
        first.text = f"[{mark}] {first.text}"
    elif mark and (bare := re.match(re.escape(mark) + r"[.:)]?\s+", first.text)):
        first.text = f"[{mark}] {first.text[bare.end() :]}"
    return note


def html_book(markup: str, *, footnotes: bool = True) -> Book:
    """A web page as a book; its footnotes stand at the end."""
    page = paragraphs_of(main_part(markup), footnotes=footnotes)
    whole = page if page.title else paragraphs_of(markup.partition("<body")[0])
    marks = {href.rpartition("#")[2]: mark for p in page.paragraphs for href, mark in p.references}
    paragraphs = without_outer_rules([p for p in page.paragraphs if not p.note])
    for name, note in notes_of(page).items():
        paragraphs += marked(note, marks.get(name, ""))
    builder = TextBuilder()
    for paragraph in paragraphs:
        builder.add(paragraph.text, heading=0 < paragraph.level <= 3, close=paragraph.close)
    preformatted = sum(len(p.text) for p in paragraphs if p.preformatted)
    plain = preformatted > builder.length / 2  # a plain text in <pre>
    title = whole.title or (builder.chapters[0].title if builder.chapters else "")
    notes = [f"soft hyphens removed: {page.n_soft_hyphens:,}"] if page.n_soft_hyphens else []
    return Book(title, whole.author, builder.text(), [] if plain else builder.chapters, notes, plain=plain)
