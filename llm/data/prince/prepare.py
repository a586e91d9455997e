"""Write data/prince/: The Little Prince in English as GPT-2 tokens, for `train.py config/train_prince.py`.

    python data/prince/prepare.py
    python data/prince/prepare.py --input=my_little_prince.txt

The text is the given file, else input.txt beside this script, else it is downloaded to input.txt, once. The book is
under copyright in some countries: check whether you may use it. Misread letters are not corrected.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, command, run_script
from llm.text.book import Book
from llm.text.dataset import data_folder, write_dataset
from llm.text.download import obtain
from llm.text.formats import plain_text, read_bytes, source_of
from llm.text.headings import find_chapters
from llm.text.scan import clean_scan
from llm.text.tokenizer import gpt2
from llm.text.unwrap import unwrap

URL = "https://archive.org/download/TheLittlePrince-English/littleprince_djvu.txt"


@dataclass(frozen=True)
class Settings:
    input: str | None = None  # a text file to use instead of input.txt or the download
    unwrap: bool = True  # join wrapped lines into paragraphs
    val_fraction: Fraction = 0.0  # fraction of the text, at its end, that is written to val.bin


def main(settings: Settings) -> None:
    folder = data_folder("prince")
    path, url = obtain(
        folder,
        URL,
        settings.input,
        instead=command("data/tale/prepare.py"),
        min_bytes=50_000,
        max_bytes=200_000,
        must_contain="little prince",
    )
    data = read_bytes(path)  # once: it may be a pipe
    text, notes = plain_text(data, str(path))
    for step in [clean_scan, unwrap] if settings.unwrap else [clean_scan]:
        text, step_notes = step(text)
        notes += step_notes
    write_dataset(
        folder,
        [Book("The Little Prince" if settings.input is None else path.stem, "", text, find_chapters(text))],
        gpt2(),
        val_fraction=settings.val_fraction,
        source=source_of(path, data, url),
        notes=[f"read {path}", *notes],
        train_command=("config/train_prince.py",),
    )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
