"""Markdown: the text is learned as it is; its title and chapters are those of its headings."""

import re

from llm.text.book import Book, Chapter

HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S.{0,199})$", re.M)  # a longer line is none
UNDERLINED = re.compile(r"^(?=\S)([^\n]{1,100})\n(={3,}|-{3,})[ \t]*$", re.M)
FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1", re.M | re.S)
FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n((?:[^\n]*\n){0,60}?)(?:\1|\.\.\.)[ \t]*\n+")  # YAML or TOML
TITLE_BLOCK = re.compile(r"\A%[ \t]+(\S[^\n]*)\n%[ \t]*([^\n]*)\n(?:%[^\n]*\n)?\n+")  # Pandoc's: title, authors, date
FACT = re.compile(r"(title|author|authors)[ \t]*[:=][ \t]*([^\n]*)")
LISTED = re.compile(r"\s*-[ \t]+(?:name:[ \t]*)?(\S[^\n]*)")
MARKS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")


def markdown_book(text: str) -> Book:
    """A text with the title and chapters of its Markdown headings, if it has any.

    Front matter that has a title (YAML, TOML or Pandoc's) is no prose and is left out.
    """
    notes, facts = [], {}
    if (front := FRONT_MATTER.match(text)) and "title" in (stated := front_matter(front[2])):
        facts = stated
    elif front := TITLE_BLOCK.match(text):
        facts = {"title": front[1].strip(), "author": ", ".join(name.strip() for name in front[2].split(";"))}
    if facts:
        text = text[front.end() :]
        notes.append("front matter removed")
    hidden = [range(match.start(), match.end()) for match in FENCE.finditer(text)]
    found = [(match.start(), len(match[1]), without_closing(match[2])) for match in HEADING.finditer(text)]
    found += [(match.start(), 1 if match[2][0] == "=" else 2, match[1]) for match in UNDERLINED.finditer(text)]
    found = sorted(f for f in found if not any(f[0] in block for block in hidden) and stands_alone(text, f[0]))
    levels = {level for _, level, _ in found}
    if len(found) < 2 and not facts and not (found and found[0][0] == 0):
        return Book("", "", text, [], notes, plain=True)  # one line with # is not Markdown
    chapters = [Chapter(MARKS.sub(r"\2", title).strip(), start) for start, level, title in found if level <= 3]
    title = facts.get("title", "")
    if not title and found and found[0][1] == min(levels) and [f[1] for f in found].count(found[0][1]) == 1:
        title, chapters = chapters[0].title, chapters[1:]
    return Book(title, facts.get("author", ""), text, chapters, notes, plain=True, hard_breaks=True)


def front_matter(lines: str) -> dict[str, str]:
    """Title and author in the simplest forms of YAML and TOML: "title: The Ferry", "authors = ['Ann', 'Bob']"."""
    facts: dict[str, str] = {}
    names: list[str] | None = None  # of the authors, while a list of them goes on
    for line in lines.split("\n"):
        if found := FACT.match(line):
            values = re.sub(r"^\[(.*)\]$", r"\1", found[2].strip()).split(",") if found[1] != "title" else [found[2]]
            names = [value.strip().strip("\"'") for value in values if value.strip()]
            facts[found[1].rstrip("s")] = ", ".join(names)
            names = names if found[1] != "title" else None
        elif names is not None and (found := LISTED.match(line)):
            names.append(found[1].strip().strip("\"'"))
            facts["author"] = ", ".join(names)
        elif not line.startswith((" ", "\t")):
            names = None
    return facts


def without_closing(heading: str) -> str:
    """A heading without the marks that may stand at its end, too: "One ##"."""
    return heading.rstrip().rstrip("#").rstrip() or "#"


def stands_alone(text: str, start: int) -> bool:
    """Whether an empty line, or nothing, stands before a line."""
    return start == 0 or bool(re.search(r"\n[ \t]*\n\Z", text[max(0, start - 80) : start]))
