"""Write data/shakespeare_char/: a million characters of Shakespeare, one token each (nanoGPT's classic).

    python data/shakespeare_char/prepare.py
    python data/shakespeare_char/prepare.py --input=plays.txt

The text is the given file, else input.txt beside this script, else it is downloaded to input.txt, once. It is not
cleaned, and its lines are not joined.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, command, run_script
from llm.text.dataset import data_folder, write_dataset
from llm.text.download import obtain
from llm.text.formats import plain_text, read_bytes, source_of
from llm.text.tokenizer import characters

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


@dataclass(frozen=True)
class Settings:
    input: str | None = None  # a text file to use instead of input.txt or the download
    val_fraction: Fraction = 0.1  # fraction of the text, at its end, that is written to val.bin


def main(settings: Settings) -> None:
    folder = data_folder("shakespeare_char")
    path, url = obtain(
        folder,
        URL,
        settings.input,
        instead=command("data/tale/prepare.py"),
        min_bytes=1_000_000,
        max_bytes=1_300_000,
        must_contain="First Citizen",
    )
    data = read_bytes(path)  # once: it may be a pipe
    text, notes = plain_text(data, str(path))
    write_dataset(
        folder,
        text,
        characters(text),
        val_fraction=settings.val_fraction,
        source=source_of(path, data, url),
        notes=[f"read {path}", *notes],
        train_command=("config/train_shakespeare_char.py",),
    )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
