"""Write data/tale/: the bundled tale as GPT-2 tokens, for `train.py config/train_tale.py`.

    python data/tale/prepare.py

The tale was written for this project and lies beside this script: no download, no licence to ask for. It is taken as it
stands, because it has one paragraph on each line already.
"""

from dataclasses import dataclass

from llm.configurator import Fraction, run_script
from llm.text.dataset import data_folder, write_dataset
from llm.text.formats import read_text, source_of
from llm.text.tokenizer import gpt2


@dataclass(frozen=True)
class Settings:
    val_fraction: Fraction = 0.0  # share of the text, from its end, held out into val.bin


def main(settings: Settings) -> None:
    folder = data_folder("tale")
    path = folder / "tale.txt"
    text, _ = read_text(path)
    write_dataset(
        folder,
        text,
        gpt2(),
        val_fraction=settings.val_fraction,
        source=source_of(path),
        train_command=("config/train_tale.py",),
    )


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
