"""Compare what is read from files that other programs have made with their source: EPUB, DOCX, ODT, PDF, HTML.

    python tests/converters.py [book.txt]     # default: the tale; needs pandoc and soffice (LibreOffice)

The source is plain text, one paragraph a line; lines that begin with "Chapter" are headings. Not collected by pytest,
because most machines have neither program.
"""

import difflib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from llm.configurator import PACKAGE
from llm.data.book.prepare import cleaned
from llm.text.formats import read_book

TALE = PACKAGE / "data" / "tale" / "tale.txt"
LEAST = {"pdf": 0.99}  # share of the source's characters that must be found; of other formats, 0.999
TITLE = "A title page"  # as the programs make one; not counted
OFFICE = ["soffice", "--headless", "--convert-to"]
MADE = {  # file -> the command that makes it, from book.md or from another file
    "epub2.epub": ["pandoc", "book.md", "-f", "markdown-smart", "-t", "epub2", "-o", "epub2.epub", "--toc"],
    "epub3.epub": ["pandoc", "book.md", "-f", "markdown-smart", "-t", "epub3", "-o", "epub3.epub", "--toc"],
    "page.html": ["pandoc", "book.md", "-f", "markdown-smart", "-s", "-o", "page.html"],
    "book.fb2": ["pandoc", "book.md", "-f", "markdown-smart", "-o", "book.fb2"],
    "pandoc.docx": ["pandoc", "book.md", "-f", "markdown-smart", "-o", "pandoc.docx"],
    "pandoc.odt": ["pandoc", "book.md", "-f", "markdown-smart", "-o", "pandoc.odt"],
    "out/pandoc.docx": [*OFFICE, "docx", "pandoc.odt", "--outdir", "out"],
    "out/pandoc.odt": [*OFFICE, "odt", "pandoc.docx", "--outdir", "out"],
    "out/pandoc.pdf": [*OFFICE, "pdf", "pandoc.docx", "--outdir", "out"],
}


def markdown_of(text: str) -> str:
    """The source as Markdown: headings marked, and what Markdown would read otherwise escaped."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#+|~^$@-])", r"\\\1", text)
    lines = [f"# {line}" if line.startswith("Chapter") else line for line in escaped.split("\n")]
    return f"---\ntitle: {TITLE}\n---\n\n" + "\n".join(lines)


def shares(source: list[str], read: list[str]) -> tuple[float, float]:
    """(share of the source's characters that are read, share of the characters read that are the source's)."""
    n_equal = 0
    for kind, a, b, c, d in difflib.SequenceMatcher(None, source, read, autojunk=False).get_opcodes():
        if kind == "equal":
            n_equal += sum(map(len, source[a:b]))
        elif kind == "replace":
            pairs = difflib.SequenceMatcher(None, "\n".join(source[a:b]), "\n".join(read[c:d]), autojunk=False)
            n_equal += sum(block.size for block in pairs.get_matching_blocks())
    return n_equal / sum(map(len, source)), n_equal / sum(map(len, read))


def main() -> None:
    text = Path(sys.argv[1] if len(sys.argv) > 1 else TALE).read_text(encoding="utf-8")
    source = [line for line in text.split("\n") if line.strip()]
    missing = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "book.md").write_text(markdown_of(text), encoding="utf-8")
        for name, command in MADE.items():
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            book = cleaned(read_book(Path(folder, name).read_bytes(), name=name), unwrap=True)
            lines = [line for line in book.text.split("\n") if line.strip() and line != TITLE]
            found, right = shares(source, lines)
            n_equal = sum(a == b for a, b in zip(source, lines, strict=False))
            print(
                f"{name}: {found:.5f} of the source's characters, {right:.5f} of those read; "
                f"{n_equal} of {len(source)} paragraphs; {len(book.chapters)} chapters"
            )
            if min(found, right) < LEAST.get(name.rpartition(".")[2], 0.999):
                missing.append(name)
    sys.exit(f"too little: {', '.join(missing)}" if missing else 0)


if __name__ == "__main__":
    main()
