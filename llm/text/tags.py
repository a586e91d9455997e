r"""Split HTML into tags and text, in time that is linear in its length, whatever never closes in it.

    >>> list(markup_events("<p class=a>x &amp; y<br/></p>"))
    [Start('p', {'class': 'a'}), 'x & y', Start('br', {}, closed=True), End('p')]

The rules are those of browsers (https://html.spec.whatwg.org/#tokenization), but what never closes stays text: a book
does not end at its first stray "<". The standard library's html.parser begins anew at each of them, and reads some
pages in another way in each version of Python.
"""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

TAG_START = re.compile(r"<(?:[A-Za-z]|/[A-Za-z]|[!?/])")
TAG_NAME = re.compile(r"[^\s/>\x00]+")
ATTRIBUTE = re.compile(r"[\s/]*(?:(?P<end>>)|(?P<name>[^\s/>][^\s/>=]*)(?:\s*=\s*(?P<quote>[\"']?))?)")
BARE_VALUE = re.compile(r"[^\s>]*")
RAW_TEXT = {  # elements that hold no tags -> their end
    name: re.compile(rf"</{name}(?=[\s/>])", re.I) for name in ("script", "style", "textarea", "title")
}
PROSE = {"textarea", "title"}  # those whose character references count, and which end at once if they end nowhere
LONG_NUMBER = re.compile(r"&#(?:[xX]0*[0-9a-fA-F]{7}|0*[0-9]{8})[0-9a-fA-F]*;?")  # beyond Unicode


class Start(NamedTuple):
    """A start tag; closed: <br/>. Of an attribute that stands twice, the first counts."""

    tag: str
    attributes: dict[str, str]
    closed: bool = False


class End(NamedTuple):
    """An end tag."""

    tag: str


def markup_events(markup: str) -> Iterator[Start | End | str]:
    """The tags and pieces of text of a page, in order; comments and declarations are left out."""
    reader = TagReader(markup)
    position = 0
    while (found := TAG_START.search(markup, position)) and found.start() < reader.last_end:
        start = found.start()
        if start > position:
            yield unescaped(markup[position:start])
        if markup[start + 1].isalpha():
            tag, position = reader.start_tag(start)
            yield tag
            if tag.tag in RAW_TEXT and not tag.closed:
                raw, position = reader.raw_text(tag.tag, position)
                yield unescaped(raw) if tag.tag in PROSE else raw
                if tag.tag in reader.unclosed:
                    yield End(tag.tag)
        elif markup[start + 1] == "/" and markup[start + 2].isalpha():
            yield End(TAG_NAME.match(markup, start + 2)[0].lower())
            position = markup.index(">", start) + 1
        else:
            position = reader.after_comment(start)
    if position < len(markup):
        yield unescaped(markup[position:])


def unescaped(text: str) -> str:
    """The text with character references as characters: &amp; and &#38; are &.

    Numbers beyond Unicode become U+FFFD; the standard library raises an error for those of 5,000 digits.
    """
    return html.unescape(LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text


class TagReader:
    """Reads the tags of a page. A search that finds no end in the rest of the page is never made a second time."""

    def __init__(self, markup: str):
        self.markup = markup
        self.last_end = markup.rfind(">")  # a "<" behind it is text
        self.last_comment_end = markup.rfind("-->")
        self.last_quote = {quote: markup.rfind(quote) for quote in "\"'"}
        self.quotes_balance = True
        self.unclosed: set[str] = set()  # elements of RAW_TEXT without an end in the rest of the page

    def start_tag(self, start: int) -> tuple[Start, int]:
        """(a tag, where it ends); a ">" stands behind its start."""
        name = TAG_NAME.match(self.markup, start + 1)
        attributes: dict[str, str] = {}
        position = name.end()
        while self.quotes_balance and (found := ATTRIBUTE.match(self.markup, position)):
            position = found.end()
            if found["end"]:
                closed = self.markup[position - 2] == "/"
                return Start(name[0].lower(), attributes, closed), position
            value, position = self.value(position, found["quote"])
            attributes.setdefault(found["name"].lower(), unescaped(value))
        # a quotation mark that closes nowhere: from now on, tags end at the first ">"
        self.quotes_balance = False
        end = self.markup.index(">", start) + 1
        return TagReader(self.markup[start:end]).start_tag(0)[0], end

    def raw_text(self, tag: str, start: int) -> tuple[str, int]:
        """(the text of an element that holds no tags, where its end tag begins).

        Without an end tag, a script or style sheet reaches to the end of the page, another element holds nothing.
        """
        end = RAW_TEXT[tag].search(self.markup, start) if tag not in self.unclosed else None
        if end:
            return self.markup[start : end.start()], end.start()
        self.unclosed.add(tag)
        stop = start if tag in PROSE else len(self.markup)
        return self.markup[start:stop], stop

    def value(self, position: int, quote: str | None) -> tuple[str, int]:
        """(the value of an attribute, where it ends); quote: the mark before it, "" = none, None = no value."""
        if quote is None:
            return "", position
        if quote and self.last_quote[quote] >= position:
            end = self.markup.index(quote, position)
            return self.markup[position:end], end + 1
        found = BARE_VALUE.match(self.markup, position)
        return found[0], found.end()

    def after_comment(self, start: int) -> int:
        """Where a comment, a declaration or another thing that is no text ends; a ">" stands behind its start."""
        markup = self.markup
        if markup.startswith(("<!-->", "<!--->"), start):
            return markup.index(">", start) + 1
        if markup.startswith("<!--", start) and self.last_comment_end >= start + 4:
            return markup.index("-->", start + 4) + 3
        return markup.index(">", start) + 1
