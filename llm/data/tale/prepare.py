"""Write data/tale/: the bundled tale as GPT-2 tokens, for `train.py config/train_tale.py`.

    python data/tale/prepare.py

The tale was written for this project and is included: there is no download, and no other licence applies. It is not
cleaned, because it already has one paragraph on each line.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, run_script
from llm.text.book import Book
from llm.text.dataset import BUNDLED, data_folder, write_dataset
from llm.text.formats import read_text, source_of
from llm.text.headings import find_chapters
from llm.text.tokenizer import gpt2


@dataclass(frozen=True)
class Settings:
    val_fraction: Fraction = 0.0  # fraction of the text, at its end, that is written to val.bin


def main(settings: Settings, *, suggest: bool = True) -> None:
    """Write the dataset; suggest: print the command that trains on it."""
    path = BUNDLED / "tale" / "tale.txt"
    text, _ = read_text(path)
    write_dataset(
        data_folder("tale"),
        [Book("The Echo Of The Kettle", "", text, find_chapters(text))],
        gpt2(),
        val_fraction=settings.val_fraction,
        source=source_of(path, path.read_bytes()),
        train_command=("config/train_tale.py",) if suggest else None,
    )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
