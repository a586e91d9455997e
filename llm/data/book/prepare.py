"""Write data/NAME/: any text as GPT-2 tokens, for `train.py config/train_prince.py --dataset=NAME`.

    python data/book/prepare.py --input=my_book.txt --dataset=my_book
    python data/book/prepare.py --input=https://example.org/a.txt --dataset=a

Project Gutenberg's header and licence are removed. An address is downloaded to data/NAME/input.txt each time.
Web pages, PDF and EPUB are not supported: save those as plain text first.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, UserError, command, run_script
from llm.text.clean import strip_gutenberg, unwrap
from llm.text.dataset import data_folder, has_script, write_dataset
from llm.text.download import download
from llm.text.formats import read_text, source_of
from llm.text.tokenizer import gpt2

SCRIPT = "data/book/prepare.py"


@dataclass(frozen=True)
class Settings:
    input: str | None = None  # the text: a file, or an address that begins with http:// or https://
    dataset: str | None = None  # the name of the dataset, a folder in data/
    unwrap: bool = True  # join wrapped lines into paragraphs
    val_fraction: Fraction = 0.0  # fraction of the text, at its end, that is written to val.bin


def checked_name(name: str | None, source: str) -> str:
    """The dataset's name. UserError if it is not valid; it suggests a name derived from the source's."""
    example = re.sub(r"[^A-Za-z0-9]+", "_", Path(source).stem).strip("_")[:40].lower() or "my_book"
    if has_script(example):
        example = f"my_{example}"
    hint = f"type {command(SCRIPT, f'--input={source}', f'--dataset={example}')}"
    if name is None:
        raise UserError(f"the dataset has no name yet; {hint}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name):
        raise UserError(f"--dataset={name}: expected at most 64 letters, digits, _ and -, not beginning with -; {hint}")
    if has_script(name):
        raise UserError(f"--dataset={name}: that dataset has a script of its own, data/{name}/prepare.py; {hint}")
    return name


def main(settings: Settings) -> None:
    if not settings.input:
        example = command(SCRIPT, "--input=my_book.txt", "--dataset=my_book")
        raise UserError(f"there is no text to prepare: expected a file or an address; type {example}")
    name = checked_name(settings.dataset, settings.input)
    folder, path, url = data_folder(name), Path(settings.input), None
    if re.match(r"https?://", settings.input, re.I):
        path, url = folder / "input.txt", settings.input
        by_hand = f"save the text as a file and type {command(SCRIPT, '--input=my_book.txt', f'--dataset={name}')}"
        download(url, path, min_bytes=1, max_bytes=100_000_000, must_contain="", by_hand=by_hand)
    text, notes = read_text(path)
    for step in [strip_gutenberg, unwrap] if settings.unwrap else [strip_gutenberg]:
        text, step_notes = step(text)
        notes += step_notes
    if not text.strip():
        raise UserError(f"{path} holds nothing but Project Gutenberg's header and licence: expected a book")
    write_dataset(
        folder,
        text,
        gpt2(),
        val_fraction=settings.val_fraction,
        source=source_of(path, url),
        notes=[f"read {path}", *notes],
        train_command=("config/train_prince.py", f"--dataset={name}", f"--out_dir=out-{name}"),
    )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
