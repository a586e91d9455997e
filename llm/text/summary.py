"""What a person sees of a book before it is learned: its facts, its beginning and end, how long learning it takes."""

import math
from pathlib import Path

from llm.configurator import command, from_here
from llm.terminal import visible
from llm.text.book import Book
from llm.text.scripts import mostly_spaceless

BOOK_BLOCK_SIZE = 256  # tokens: block_size of the config files for books
SHOWN = 200  # characters of a book's beginning and end
SHOWN_CHAPTERS = 4
# tokens of a text -> minutes of learning on two CPU cores (BENCHMARKS.md); between them, straight lines of logarithms
MINUTES = ((9_000, 0.17), (21_500, 0.6), (50_000, 2.3), (133_900, 17.4))


def expected_minutes(n_tokens: int) -> float:
    """Minutes that training on so many tokens takes on two CPU cores."""
    pairs = list(zip(MINUTES, MINUTES[1:], strict=False))
    (n0, m0), (n1, m1) = next((pair for pair in pairs if n_tokens <= pair[1][0]), pairs[-1])
    slope = math.log(m1 / m0) / math.log(n1 / n0)
    return m0 * (max(n_tokens, 1) / n0) ** slope


def in_words(minutes: float) -> str:
    """A rough duration: "less than a minute", "about 10 minutes", "about 3 hours"."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        n = round(minutes) if minutes < 10 else 5 * round(minutes / 5)
        return f"about {n} minute{'s' * (n > 1)}"
    return f"about {minutes / 60:.0f} hours"


def book_lines(book: Book) -> list[str]:
    """Lines that show a book as it will be learned."""
    title = (book.title or "untitled") + (f", by {book.author}" if book.author else "")
    n_words = len(book.text.split())
    words = "" if mostly_spaceless(book.text[:20_000]) else f"{n_words:,} words, "
    lines = [f"{title}: {words}{len(book.text):,} characters"]
    if book.chapters:
        shown = "; ".join(chapter.title for chapter in book.chapters[:SHOWN_CHAPTERS])
        more = "; ..." if len(book.chapters) > SHOWN_CHAPTERS else ""
        lines.append(f"  {len(book.chapters):,} chapter{'s' * (len(book.chapters) > 1)}: {shown}{more}")
    else:
        lines.append("  no chapters found")
    lines += [f"  {note}" for note in book.notes]
    shown = book.text.strip()
    if len(shown) <= 2 * SHOWN:
        return [*lines, f"  text: {excerpt(shown)}"]
    return [*lines, f"  begins: {excerpt(shown[:SHOWN])}", f"  ends: {excerpt(shown[-SHOWN:])}"]


def excerpt(text: str) -> str:
    """A piece of text on one line, with its line ends visible."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else "\ufffd" for c in shown)


def print_summary(
    folder: Path, books: list[Book], notes: list[str], ids: dict[str, list[int]], characters: dict[str, int]
) -> None:
    """Print what was read and written; ids and characters: of each part."""
    if notes:
        print(visible("; ".join(notes)))
    for book in books:
        print(visible("\n".join(book_lines(book))))
    print(f"{sum(characters.values()):,} characters")
    for name, part_ids in ids.items():
        per_token = characters[name] / len(part_ids)
        distinct = f"{len(set(part_ids)):,} of them distinct"
        print(f"{name}: {len(part_ids):,} tokens, {distinct}, {per_token:.1f} characters each")
    print(f"wrote {', '.join(f'{name}.bin' for name in ids)} and meta.json to {from_here(folder)}")
    minutes = in_words(expected_minutes(len(ids["train"])))
    print(f"training to know it by heart: {minutes} on two CPU cores")


def print_next_command(train_command: tuple[str, ...], n_tokens: int) -> None:
    """Print the command that trains on a text of n_tokens; a short text needs a smaller block_size."""
    if n_tokens <= BOOK_BLOCK_SIZE:
        fits = n_tokens - 1
        print(f"this text is shorter than the usual context of {BOOK_BLOCK_SIZE} tokens, so train with one of {fits}")
        train_command = (*train_command, f"--block_size={fits}")
    print(f"next: {command('train.py', *train_command)}")
