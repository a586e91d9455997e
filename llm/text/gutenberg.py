"""Remove what Project Gutenberg adds to a book: header, licence, credits, transcriber's notes, marks of illustrations.

Never more is cut than what is certainly Project Gutenberg's. A text that only mentions it stays whole.
"""

import re
from collections.abc import Iterator

from llm.text.formats import Cleaned
from llm.text.headings import is_capitals, is_numbered

NAME = re.compile(r"Gutenberg", re.I)
MARKER = re.compile(r"^[ \t]*\*\*\*[ \t]?[^\n]*(?:\n[^\n]+){0,3}?\*\*\*[ \t]*$", re.M)  # a title may be wrapped
END_WORD = re.compile(r"\*\*\*\s*(?:END|ENDE|FIN|FINE|EINDE|SLUT|LOPPU|FIM|KONIEC|КОНЕЦ|ΤΕΛΟΣ|結束|终)\b", re.I)
START_WORD = re.compile(r"\*\*\*\s*(?:START|BEGINN?|D[ÉE]BUT|INIZIO|COMIENZO|IN[IÍ]CIO|ALKU|BEGIN|НАЧАЛО|ΑΡΧΗ)\b", re.I)
SMALL_PRINT = re.compile(r"^[ \t]*\*\*The Legal Small Print\*\*|^[ \t]*\*\*\*START\*\*THE SMALL PRINT!", re.I | re.M)
SMALL_PRINT_END = re.compile(r"^[ \t]*\*END\*? ?THE SMALL PRINT![^\n]*", re.I | re.M)  # before about 2004
PLAIN_END = re.compile(  # a paragraph of its own, at most three lines: "Ende dieses Projekt Gutenberg Etextes ..."
    r"(?:\A|(?<=\n\n))[ \t]*\[?(?:The )?(?-i:END|End|Ende|Fin|Fine|Einde|Slut|Loppu|Fim)\b[^\n]{0,30}?"
    r"\b(?:of|dieses|des|du|de|del|di|van|do|da|av|af|på|the)\b[^\n]{0,20}?"
    r"\b(?:Project|Projekt|Projet|Progetto|Proyecto|Projeto|Projekti)\w*[ '’-]+"
    r"Gutenberg[^\n]*(?:\n[^\n]+){0,2}(?=\n\s*\n|\s*\Z)",
    re.I,
)
HEADER = re.compile(
    r"\s*(?:\*+[ \t]*)?(?:This is )?(?:The |A )?(?:Project Gutenberg|Distributed Proofreaders Canada)", re.I
)
HEADER_TITLE = re.compile(  # a header of one paragraph
    HEADER.pattern + r"(?:['’]s)?\s+(?:e-?books?|e-?texts?|editions?|(?:of )?(?:Australia|Canada)|presents)\b"
    r"|\s*\*?\s*A Distributed Proofreaders",
    re.I,
)
NEXT_HEADER = re.compile(
    r"(?<=\n\n)(?:\*+[ \t]*)?(?:This is )?(?:The |A )?Project Gutenberg(?:['’]s)?\s+(?:e-?book|e-?text|edition)\b", re.I
)
HEADER_PARAGRAPH = re.compile(  # what stands in headers without a START line
    r"\s*(?:(?:\*+[ \t]*)?(?:This is )?(?:The |A )?(?:Project Gutenberg|Distributed Proofreaders Canada)|"
    r"Copyright laws are chang|"
    r"Please take a look at|This header should be|We encourage you to keep|\**Welcome To The World of Free|"
    r"\**eBooks Readable By Both|\**Etexts Readable By Both|\*{3,}These e|This e(?:Book|text) is |"
    r"Title:|Author:|Editor:|"
    r"Translator:|Illustrator:|Release Date:|Posting Date:|Language:|Edition:|Character set|Date first posted|"
    r"Last updated|Most recently updated|Original publication|Credits:|e?Book No\.|"
    r"\[(?:e?Book|etext) ?#|[-=_*]{3,}\s*$|"
    r"Contact the|Information on contacting|To contact Project Gutenberg|"
    r"Copyright \(C\)|Produced by|Prepared by|Transcribed by)",
    re.I,
)
CREDIT = re.compile(
    r"\s*(?:(?:This )?e-?(?:text|book) (?:was )?)?(?:produced|prepared|transcribed|scanned) (?:by|from)\b", re.I
)
NOTE = re.compile(r"\s*[\[(*_]*Transcriber[’']?s?[’']? notes?\b", re.I)
NOTE_HEADING = re.compile(NOTE.pattern + r"[:.\s*_]*", re.I)  # alone, its text follows in paragraphs of their own
ILLUSTRATION = re.compile(
    r"^[ \t]*\[(?:Illustration|Ilustración|Abbildung)\.?:?\s*\][ \t]*(?:\n|\Z)(?:[ \t]*\n)*", re.M | re.I
)
INSERT = re.compile(r"^<<THIS ELECTRONIC VERSION(?:[^>\n]|\n(?!\n))*?>>[ \t]*\n(?:[ \t]*\n)*", re.M | re.I)
CANADA_END = re.compile(r"(?<=\n)[ \t]*\[End of [^\]]{1,300}\]\s*\Z")
AUSTRALIA_END = re.compile(r"(?<=\n)[ \t]*This site is full of FREE ebooks[^\n]*\s*\Z", re.I)
LICENCE_WORDS = re.compile(
    r"Gutenberg|licen[cs]e|Lizenz|licencia|licenza|e-?texts?\b|e-?books?\b|small print|copyright|editions", re.I
)
MAX_TAIL = 3_000  # characters after an end line that are removed whatever they say
MAX_GAP = 2_500  # characters of a licence without one of its words
MIN_KEPT = 0.5  # of a text; if less remained, more than the frame would be lost


def strip_gutenberg(text: str) -> Cleaned:
    """The text without Project Gutenberg's additions, and notes; any other text is unchanged."""
    pieces, removed = book_pieces(text)
    if not removed:
        return text, []
    book = "\n\n\n".join(filter(None, (piece.strip("\n") for piece in pieces)))
    book, notes = strip_additions(book)
    n_certain = sum(len(part) for part in removed if is_licence(part))
    if len(book.strip()) < MIN_KEPT * (len(text.strip()) - n_certain) or not book.strip():
        return text, [
            "it looks like Project Gutenberg's, but less than half would remain without its header and licence: left"
        ]
    names = {"header": "Project Gutenberg's header removed", "licence": "Project Gutenberg's licence removed"}
    kinds = dict.fromkeys("header" if part is removed[0] and text.startswith(part) else "licence" for part in removed)
    return book.rstrip() + "\n", [names[kind] for kind in kinds] + notes


def is_licence(part: str) -> bool:
    """Whether a removed part is certainly Project Gutenberg's: it keeps naming it."""
    return len(NAME.findall(part)) * 1500 >= len(part)


def marks(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of the lines that delimit books, in order; kind: start, end, plain end, small print."""
    found = []
    for match in MARKER.finditer(text):
        if NAME.search(match[0]) and not re.search("SMALL PRINT", match[0], re.I):
            if END_WORD.match(match[0].strip()):
                found.append((match.start(), match.end(), "end"))
            elif START_WORD.match(match[0].strip()):
                found.append((match.start(), match.end(), "start"))
    for match in SMALL_PRINT_END.finditer(text):
        found.append((match.start(), match.end(), "small print"))
    found += [(match.start(), match.end(), "plain end") for match in PLAIN_END.finditer(text)]
    return iter(sorted(found))


def book_pieces(text: str) -> tuple[list[str], list[str]]:
    """(the books in a text, the parts around them that are removed); ([text], []) for any other text."""
    pieces, removed = [], []
    header = header_end(text)
    book_start, state = header, "book"  # or "frame": after an end line
    found = list(marks(text))
    frame_start = 0
    for n, (start, end, kind) in enumerate(found):
        later = [other for _, _, other in found[n + 1 :]]
        if state == "frame" and kind != "start":
            last_mark = max(frame_start, found[n - 1][1] if n else 0)
            if (begin := unmarked_book(text, last_mark, start)) is not None:
                removed.append(text[frame_start:begin])
                book_start, state = begin, "book"
        if kind == "start":
            if state == "book" and text[book_start:start].strip() and pieces_before(text, book_start, start):
                pieces.append(text[book_start : header_before(text, book_start, start)])
            removed.append(
                text[frame_start if state == "frame" else min(book_start, start) if not pieces else start : end]
            )
            book_start, state = end, "book"
        elif kind == "small print":
            begin = small_print_start(text, book_start if state == "book" else frame_start, start)
            front = state == "book" and "start" not in later[:1] and not has_book(text[book_start:begin])
            if front or state == "frame" and HEADER.search(text, frame_start, begin) and has_book(text[end:]) and later:
                removed.append(text[0 if front and not pieces else frame_start : end])
                book_start, state = end, "book"
            elif state == "book":  # the licence stands after the book
                pieces.append(text[book_start:begin])
                frame_start, state = begin, "frame"
        elif state == "book" and (kind == "end" or is_end(text, start, end, later, framed=header > 0 or n > 0)):
            pieces.append(text[book_start:start])
            frame_start, state = start, "frame"
    if state == "book":
        pieces.append(text[book_start:])
    else:
        cut, rest = licence_end(text, frame_start)
        removed.append(text[frame_start:cut])
        pieces.append(rest)
    if header and not any(text.startswith(part) for part in removed if part):
        removed.insert(0, text[:header])
    pieces[1:] = [piece[header_end(piece, after_frame=True) :] for piece in pieces[1:]]
    return (pieces, removed) if any(part.strip() for part in removed) else ([text], [])


def pieces_before(text: str, book_start: int, start: int) -> bool:
    """Whether a book, and not a header, ends before a start line."""
    return book_start > 0 and has_book(text[book_start:start])


def has_book(part: str) -> bool:
    """Whether a part holds more than a header or licence: a long stretch that does not speak of either."""
    return any(len(piece.strip()) > MAX_GAP for piece in LICENCE_WORDS.split(part))


def unmarked_book(text: str, begin: int, end: int) -> int | None:
    """Where a book begins in text[begin:end], which a licence precedes: after a header without a start line."""
    for match in NEXT_HEADER.finditer(text, begin, end):
        length = header_end(text[match.start() : end], after_frame=True)
        if text[match.start() + length : end].strip():
            return match.start() + length
    return None


def header_before(text: str, book_start: int, start: int) -> int:
    """Where the header of the next book begins, if one stands right before its start line; else `start`."""
    found = [
        match.start()
        for match in re.finditer(r"^[ \t]*(?:The )?Project Gutenberg", text[book_start:start], re.M | re.I)
    ]
    near = [book_start + at for at in found if start - book_start - at < MAX_TAIL]
    return near[0] if near else start


def small_print_start(text: str, begin: int, end: int) -> int:
    """Where the small print that ends at `end` begins."""
    found = [match.start() for match in SMALL_PRINT.finditer(text, begin, end)]
    return found[0] if found else end


def is_end(text: str, start: int, end: int, later: list[str], *, framed: bool) -> bool:
    """Whether nothing but a licence, or the next book's header, follows the plain end line text[start:end].

    framed: a header or another such line stands before it. Without one, "End of Project Gutenberg's first winter" may
    be the book's last line.
    """
    rest = text[end:]
    if not rest.strip():
        return framed or bool(re.search(r"e-?texts?\b|e-?book|, ", text[start:end], re.I))
    return bool(later) or not has_book(rest) and bool(LICENCE_WORDS.search(rest))


def licence_end(text: str, frame_start: int) -> tuple[int, str]:
    """(where the licence at a text's end ends, what is kept after it: a long stretch without the licence's words)."""
    at = frame_start
    for match in LICENCE_WORDS.finditer(text, frame_start):
        if match.start() - at > MAX_TAIL:
            break
        at = match.end()
    if len(text) - at <= MAX_TAIL:
        return len(text), ""
    paragraph = text.find("\n\n", at)
    return (paragraph, text[paragraph:]) if paragraph >= 0 else (len(text), "")


def header_end(text: str, *, after_frame: bool = False) -> int:
    """Where the header of a text without a start line ends: 0 if it has none.

    after_frame: another book's licence stands before it, so the header may begin anywhere. A book may begin with "The
    Project Gutenberg of her youth was a shed": a first paragraph that names no e-book is none without a second one.
    """
    if not HEADER.match(text) and not after_frame:
        return 0
    ends = []
    for match in re.finditer(r"\s*(?:[^\n]+\n?)+", text):
        if not HEADER_PARAGRAPH.match(match[0]):
            break
        ends.append(match.end())
    certain = after_frame or len(ends) > 1 or HEADER_TITLE.match(text)
    return ends[-1] if ends and certain else 0


def strip_additions(book: str) -> Cleaned:
    """A book of Project Gutenberg's without credits, transcriber's notes, inserted licences and illustration marks."""
    book, n_inserts = INSERT.subn("", book)
    book, n_marks = ILLUSTRATION.subn("", book)
    book, n_canada = CANADA_END.subn("\n", book)
    book, n_australia = AUSTRALIA_END.subn("\n", book)
    paragraphs = re.split(r"(\n[ \t]*\n\s*)", book)
    edges = [*range(0, min(12, len(paragraphs)), 2), *range(max(0, (len(paragraphs) - 5) // 2 * 2), len(paragraphs), 2)]
    lasts = range(max(0, len(paragraphs) // 2 * 2 - 60), len(paragraphs), 2)  # a note of many paragraphs at the end
    edges += [n for n in lasts if n not in edges and NOTE_HEADING.fullmatch(paragraphs[n])]
    credits = [n for n in edges if len(paragraphs[n]) < 600 and CREDIT.match(paragraphs[n])]
    notes = [n for n in edges if len(paragraphs[n]) < 2_000 and NOTE.match(paragraphs[n])]
    for n in {*credits, *notes}:
        stop = note_end(paragraphs, n) if n in notes else n + 2
        paragraphs[n:stop] = [""] * len(paragraphs[n:stop])
    done = {
        "inserted licences": n_inserts,
        "illustration marks": n_marks,
        "lines of credits": len(credits) + n_canada + n_australia,
        "transcriber's notes": len(set(notes)),
    }
    return "".join(paragraphs).strip("\n"), [f"{what} removed: {n:,}" for what, n in done.items() if n]


def note_end(paragraphs: list[str], start: int) -> int:
    """The index after a transcriber's note that begins with the paragraph `start`; every second item is a gap.

    A heading alone goes with the paragraphs up to a gap of two empty lines, or to the end of the book; if neither is
    near, or if a chapter begins before it, with one.
    """
    if not NOTE_HEADING.fullmatch(paragraphs[start]):
        return start + 2
    length = 0
    for n in range(start + 2, len(paragraphs), 2):
        length += len(paragraphs[n])
        if length > MAX_TAIL or is_numbered(paragraphs[n].strip()) or is_capitals(paragraphs[n]):
            break
        if n + 1 >= len(paragraphs) or paragraphs[n + 1].count("\n") > 2:
            return n + 2
    return start + 4
