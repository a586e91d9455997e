"""Text for a dataset: fetch a file, read it whatever its encoding, clean it, join its wrapped lines into paragraphs.

Used by every data/NAME/prepare.py; there is no command of its own. The functions that change a text return it together
with notes: short phrases that say what was done, none when nothing was.
What this file does not do: tokens and shards (dataset.py), printing, guessing. In doubt a text stays as it is.
"""

import hashlib
import queue
import re
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from llm.configurator import UserError
from llm.files import write_whole

Cleaned = tuple[str, list[str]]  # a text, and what was done to it

# Project Gutenberg's frame; what stands between asterisks may be wrapped
GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG[^*]{0,400}\*\*\*[^\n]*", re.I | re.M)
SMALL_PRINT_END = re.compile(r"^\*END\*? ?THE SMALL PRINT![^\n]*", re.I | re.M)  # before about 2004
GUTENBERG_END = re.compile(
    r"^(?:(?:End of (?:the |this )?Project Gutenberg[^\n]*(?:\n[^\n]+){0,2}\s+)?\*\*\* ?END OF TH(?:E|IS) "
    r"|End of (?:the |this )?)PROJECT GUTENBERG",
    re.I | re.M,
)
PAGE_NUMBER = re.compile(r"\s*[-–—\[(]?\s*([0-9]{1,4})\s*[-–—\])]?\s*")  # alone on its line: 12, - 12 -, [12], (12)
SENTENCE_END = re.compile(r"[.!?:…][\"'”’»)\]_]*\s*$")
# an item of a list never goes on from the line above; a line of a table of contents does not on either side
LIST_ITEM = re.compile(r"(?:[*•·+-]|\(?(?:\d{1,3}|[a-z])[.)])\s")
TABLE_LINE = re.compile(r"\.{5,}|(?:\. ){5,}|\S {3,}\S|\t")
PROBLEMS = {  # of a download, by the exception's name; what requests itself says is long and full of object names
    "Timeout": "no answer in time",
    "SSLError": "the secure connection failed",
    "ProxyError": "the proxy let nothing through",
    "ChunkedEncodingError": "the connection broke off midway",
    "ConnectionError": "no connection (offline, or the server is down)",
    "ValueError": "this is no usable address",
    "ImportError": "the package requests is missing: pip install requests",
}


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


def obtain(folder: Path, url: str, given: str | None, *, instead: str, **checks) -> tuple[Path, str | None]:
    """(file to read, its url if it was downloaded now): the given file, else folder/input.txt, else a download to it.

    `instead` is the command that a user without a network can type, `checks` are those of `download`.
    """
    kept = folder / "input.txt"
    if given is not None or kept.exists():
        return (kept if given is None else Path(given)), None
    download(url, kept, by_hand=f"put the text into {kept} by hand, or do without a download: {instead}", **checks)
    return kept, url


def download(
    url: str, path: Path, *, min_bytes: int, max_bytes: int, must_contain: str, by_hand: str, timeout: float = 12
) -> None:
    """Writes the text at `url` to `path`, all of it or nothing. UserError, which ends with `by_hand`, if it cannot.

    `timeout` is for the whole of it, in seconds. `must_contain` is compared without regard to case.
    """
    # The timeouts of requests hold for one packet each, and not at all for looking up a host's name, so a server that
    # drips would keep us for hours: a daemon thread does the waiting, and is left behind at the deadline.
    answers: queue.SimpleQueue[bytes | UserError] = queue.SimpleQueue()

    def work() -> None:
        try:
            import requests

            with requests.get(url, stream=True, timeout=timeout) as response:
                answers.put(checked_body(response, min_bytes, max_bytes, must_contain))
        except UserError as e:
            answers.put(e)
        except Exception as e:
            kinds = [kind.__name__ for kind in type(e).__mro__]
            answers.put(UserError(next((words for kind, words in PROBLEMS.items() if kind in kinds), kinds[0])))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = UserError(f"no complete answer within {timeout:g} seconds")
    if isinstance(answer, UserError):
        raise UserError(f"could not download {url}: {answer}; {by_hand}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, answer)


def checked_body(response, min_bytes: int, max_bytes: int, must_contain: str) -> bytes:
    """Body of a response, in memory until all of it is checked. UserError, the bare reason, if it is not the text."""
    if response.status_code != 200:
        raise UserError(f"the server answered {response.status_code} {response.reason}")
    kind = response.headers.get("Content-Type", "text/plain").split(";")[0].strip().lower()
    body = bytearray()
    if kind.startswith("text/") or kind.endswith("octet-stream"):
        for chunk in response.iter_content(65_536):
            body += chunk
            if len(body) > max_bytes:
                raise UserError(f"the server sends more than {max_bytes:,} bytes")
    if not body or "html" in kind or re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html)", body, re.I):
        raise UserError(f"the server sent a page or file of type {kind}, not a plain text")
    if len(body) < min_bytes:
        raise UserError(f"the server sent {len(body):,} bytes, expected at least {min_bytes:,}")
    if must_contain.lower().encode() not in body.lower():
        raise UserError(f"the words {must_contain!r} do not occur in what the server sent")
    return bytes(body)


def strip_gutenberg(text: str) -> Cleaned:
    """The book between Project Gutenberg's header and its licence, and notes; any other text unchanged."""
    notes = []
    if start := GUTENBERG_START.search(text) or SMALL_PRINT_END.search(text):
        text = text[start.end() :].lstrip("\n")
        notes.append("Project Gutenberg's header removed")
    if ends := list(GUTENBERG_END.finditer(text)):
        text = text[: ends[-1].start()].rstrip() + "\n"
        notes.append("Project Gutenberg's licence removed")
    return text, notes


def runs_on(before: str, after: str) -> bool:
    """Whether a sentence goes on from one line to the other, as it often does across a page break."""
    return not SENTENCE_END.search(before) and after.strip()[:1].islower()


def page_numbers(lines: list[str]) -> set[int]:
    """Places of the lines that are page numbers: alone, rising through the text, some of them in mid-sentence.

    They are the heaviest chain of numbers with steps of 1 to 10 (scanners lose some); a year or a chapter's number
    outside of it stays. Chapters rise as well, but not in mid-sentence, between dashes or next to a form feed.
    """
    chains: list[tuple[float, int, int, bool, int]] = []  # weight, line, number, whether it looks like one, previous
    for i, line in enumerate(lines):
        around = [*lines[max(0, i - 1) : i], *lines[i + 1 : i + 2]]
        if not (match := PAGE_NUMBER.fullmatch(line)) or any(a.strip() for a in around) and "\f" not in around:
            continue
        before = next((lines[j] for j in range(i - 1, -1, -1) if lines[j].strip()), "")
        after = next((lines[j] for j in range(i + 1, len(lines)) if lines[j].strip()), "")
        looks = "\f" in around or not line.strip().isdigit() or runs_on(before, after)
        number = int(match[1])
        near = [n for n in range(max(0, len(chains) - 50), len(chains)) if 0 < number - chains[n][2] <= 10]
        best = max(near, key=lambda n: chains[n][0], default=-1)
        chains.append((1 + looks / 2 + (chains[best][0] if near else 0), i, number, looks, best))
    found: dict[int, bool] = {}
    n = chains.index(max(chains)) if chains else -1
    while n >= 0:
        _, i, _, found[i], n = chains[n]
    return set(found) if len(found) >= 3 and sum(found.values()) * 5 >= len(found) else set()


def clean_scan(text: str) -> Cleaned:
    """A scanned text without form feeds, page numbers, trailing spaces and long gaps, and notes.

    A sentence that runs over a page break is closed up. A line with a letter in it is never removed.
    """
    text, trailing = re.subn(r"(?<![^\S\n\f])[^\S\n\f]+$", "", text, flags=re.M)  # the (?<!) keeps this linear
    lines = re.sub(r"\n?\f\n?", "\n\f\n", text).split("\n")
    numbers = page_numbers(lines)
    marked = "\n".join("\f" if i in numbers else line for i, line in enumerate(lines))
    marked, gaps = re.subn(r"\n{4,}", "\n\n\n", marked)

    def close_up(gap: re.Match) -> str:
        before, after = marked[max(0, gap.start() - 80) : gap.start()], marked[gap.end() : gap.end() + 80]
        return ("\n" if runs_on(before, after) else "\n\n") if before else ""

    feeds = lines.count("\f")
    done = {"form feeds": feeds, "page numbers": len(numbers), "trailing spaces": trailing, "long gaps": gaps}
    notes = [f"{what} removed: {n:,}" for what, n in done.items() if n]
    return re.sub(r"(?<!\s)\s*\f(?:\s*\n)?", close_up, marked), notes


def groups(lines: list[str]) -> Iterator[list[str]]:
    """The lines in groups inside which one may go on in the next: cut at blank lines, indents, list items, tables."""
    group: list[str] = []
    for line in lines:
        starts = not line.strip() or line[0].isspace() or LIST_ITEM.match(line) or TABLE_LINE.search(line.rstrip())
        if group and (starts or not group[-1].strip() or TABLE_LINE.search(group[-1].strip())):
            yield group
            group = []
        group.append(line)
    yield group


def reaches(group: list[str]) -> list[tuple[int, int]]:
    """For each line but the last: its length, and the length it would have with the next line's first word.

    None for verse: where three or more lines follow the first and all begin with a capital, which prose does not do.
    """
    firsts = [next((c for c in line if c.isalpha()), "") for line in group[1:]]
    if len(firsts) >= 3 and all(c.isupper() for c in firsts):
        return []
    return [(len(a.rstrip()), len(a.rstrip()) + 1 + len(b.split()[0])) for a, b in pairwise(group)]


def wrapping(lines: list[str]) -> tuple[float, float] | None:
    """(longest line, what a line and the next word must exceed for the line to be full); None if it is not wrapped."""
    pairs = [pair for group in groups(lines) for pair in reaches(group)]
    tight = Counter(w for length, reach in pairs for w in range(max(length, 40), min(reach, 121)))
    if not tight:
        return None
    width = limit = max(sorted(tight), key=tight.__getitem__)
    # a program wraps at one exact width, a printed page at a ragged one: nearly that of its longest line
    if tight[width] < 0.85 * sum(length > 0.8 * width for length, _ in pairs):
        width = sorted(length for length, _ in pairs)[int(0.98 * (len(pairs) - 1))]
        limit = 0.85 * width
        if not 40 <= width <= 120 or sum(reach > limit for _, reach in pairs) < 0.7 * len(pairs):
            return None
    full = [length for length, reach in pairs if length <= 1.1 * width and reach > limit]
    # where more of the text stands in long lines, it has one paragraph on each, and the rest is verse or lists
    unwrapped = sum(len(line) for line in lines if len(line) > 1.5 * width)
    return (1.1 * width, limit) if len(full) >= 3 and sum(full) >= unwrapped else None


def glue(line: str, following: str, words: set[str]) -> str:
    """Two lines as one: a space between, none at a dash, and no hyphen in a word that the text also has without."""
    line = line.rstrip()
    head, tail = re.search(r"(\w+)-$", line), re.match(r"\w+", following)
    if head and tail:
        return (line[:-1] if (head[1] + tail[0]).lower() in words else line) + following
    dash = re.search(r"\S(?:--+|—)$", line) or re.match(r"(?:--+|—)\S", following)
    return line + ("" if dash else " ") + following


def join_lines(lines: list[str], longest: float, limit: float, words: set[str]) -> list[str]:
    """The lines, the full ones joined with the next; so is one in mid-sentence where the lines around are full."""
    result: list[str] = []
    for group in groups(lines):
        pairs = reaches(group)
        full = [length <= longest and reach > limit for length, reach in pairs]
        wrapped = sum(full) * 2 >= len(full)
        result.append(group[0])
        for n, (line, following) in enumerate(pairwise(group)):
            goes_on = following[0].islower() or len(line) > 0.8 * limit and not SENTENCE_END.search(line)
            if pairs and (full[n] or wrapped and goes_on and len(line) <= longest):
                result[-1] = glue(result[-1], following, words)
            else:
                result.append(following)
    return result


def unwrap(text: str) -> Cleaned:
    """The text with one line per paragraph, and notes; verse, headings, lists and texts without wrapping unchanged.

    unwrap(unwrap(t)) == unwrap(t): it goes on until nothing is left to join, which for a book is after one round.
    """
    lines = text.split("\n")
    words = set(re.findall(r"\w+", text.lower()))
    while found := wrapping(lines):
        joined = join_lines(lines, *found, words)
        if len(joined) == len(lines):
            break
        lines = joined
    gone = text.count("\n") + 1 - len(lines)
    return "\n".join(lines), [f"wrapped lines joined: {gone:,}"] if gone else []
