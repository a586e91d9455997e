"""Learn a book by heart in one command: prepare it, train, measure, recite.

    python learn.py my_book.epub
    python learn.py chapters/ --target_recall=1
    python learn.py https://example.org/a.txt --serve=True

A book is a file, a folder of chapters or an address; several are learned by one model. Typed again after an
interruption, the same command goes on where it stopped. The text is written to data/NAME, the model to out-NAME; NAME
is made from the first book's title. A short text is learned as in config/train_tale.py, others as in
config/train_prince.py.

Every setting of train.py can be given, too (python train.py config/train_prince.py --help lists them), and so can
config files.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import re
import sys
import unicodedata
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
import llm  # noqa: F401  (checks the installation before torch is imported)

# isort: split
from llm import runtime, serve, train
from llm.configurator import (
    PACKAGE,
    UserError,
    Words,
    assigned_settings,
    command,
    from_here,
    require,
    run_script,
    settings_of,
)
from llm.data.book import prepare
from llm.files import read_regular, write_atomic
from llm.runtime import notice
from llm.storage import checkpoint
from llm.text import dataset
from llm.text.book import Book
from llm.text.dataset import Dataset, data_folder
from llm.text.inputs import grouped
from llm.text.names import BUNDLED, has_script, is_name

TALE = BUNDLED / "tale" / "tale.txt"
SHORT_TEXT = 13_000  # tokens: up to here config/train_tale.py is large enough to write them, and the faster one
MAX_NAME = 40  # characters of a name that is made from a book's
MAX_NAMESAKES = 1000
RECORD = "learn.json"  # in the dataset's folder: which books it was made from


@dataclass(frozen=True)
class Settings(prepare.Settings, train.Settings):
    # the book
    input: Words = ()  # files, folders, patterns, addresses (http://, https://)
    dataset: str | None = None  # the book's name, for the folders data/NAME and out-NAME; None = made from its title
    out_dir: str | None = None  # the folder for the model; None = out-NAME in the current folder
    # afterwards
    serve: bool = False  # open the page in which the book can be read (extra: serve)

    NOT_IN_HELP: ClassVar = (train.Settings, runtime.Settings)

    def __post_init__(self):
        """Checks nothing: train.Settings checks the settings of training once the config is known."""


def name_of(books: list[Book]) -> str:
    """A dataset's name made from the title of the first book: Les Misérables -> les_miserables."""
    plain = unicodedata.normalize("NFKD", books[0].title).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain)[:MAX_NAME].strip("_").lower() or "my_book"
    if len(books) > 1:
        name += f"_and_{len(books) - 1}_more"
    return f"my_{name}" if has_script(name) else name


def fingerprint(words: Words, prepare_settings: dict[str, Any]) -> dict[str, Any]:
    """What a dataset follows from: the sha256 of each file (of an address: of its name), and the settings typed."""
    digests = [
        [hashlib.sha256(file.data).hexdigest() for file in files]
        for files, _ in grouped(words, lambda address: address.encode(errors="surrogateescape"))
    ]
    return {"files": digests, "settings": prepare_settings}


def recorded(folder: Path) -> dict[str, Any]:
    """The fingerprint that a dataset was prepared with; {} if another command has prepared it, or nobody yet."""
    try:
        record = json.loads(read_regular(folder / RECORD).decode("utf-8"))
        return record["fingerprint"] if record["meta"] == sha256_of(folder / "meta.json") else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def record(folder: Path, wanted: dict[str, Any]) -> None:
    """Write the fingerprint of the dataset that is in the folder now, or that will be prepared there."""
    content = {"fingerprint": wanted, "meta": sha256_of(folder / "meta.json")}
    write_atomic(folder / RECORD, (json.dumps(content, indent=1) + "\n").encode())


def sha256_of(path: Path) -> str | None:
    """The sha256 of a file, None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def find_prepared(wanted: dict[str, Any], typed: str | None) -> str | None:
    """The name of the dataset that was prepared from the same books in the same way; typed: its name, None = any."""
    names = [typed] if typed else sorted(path.parent.name for path in dataset.DATA.glob(f"*/{RECORD}"))
    found = [name for name in names if recorded(data_folder(name)) == wanted]
    return next((name for name in found if (data_folder(name) / "meta.json").exists()), None)


def choose_name(cfg: Settings, books: list[Book], wanted: dict[str, Any]) -> str:
    """The name for a dataset of these books; one that is taken gets a number at its end, if it was not typed.

    UserError if a name that was typed is taken.
    """
    first = cfg.dataset or name_of(books)
    for name in [first, *(f"{first}_{number}" for number in range(2, MAX_NAMESAKES))]:
        folder, out_dir = data_folder(name), Path(f"out-{name}")
        taken = any(folder.glob("*")) or (not cfg.out_dir and checkpoint.resumable(out_dir))
        if not taken or recorded(folder) == wanted:  # perhaps a preparation that was killed
            if name != first:
                notice(f"{first} is the name of another book already, so this one is called {name}")
            return name
        if cfg.dataset:
            raise UserError(
                f"--dataset={name}: another text or model has this name ({from_here(folder)}, {out_dir}); type another "
                "--dataset, or leave it out"
            )
    raise UserError(f"{first} is the name of too many other books; type --dataset=NAME")


def check_name(name: str) -> None:
    """UserError unless a name that the user has typed can be that of a dataset."""
    if not is_name(name):
        raise UserError(f"--dataset={name}: expected at most 64 letters, digits, _ and -, not beginning with -")
    if has_script(name):
        raise UserError(f"--dataset={name}: a dataset that comes with llm has this name; type --dataset=my_{name}")


def prepare_dataset(cfg: Settings, prepare_settings: dict[str, Any]) -> str:
    """Prepare the books, unless that was done before; returns the dataset's name. Prints what was read."""
    if [os.path.realpath(word) for word in cfg.input] == [str(TALE)] and not (cfg.dataset or prepare_settings):
        tale = importlib.import_module("llm.data.tale.prepare")  # the same name and text as by its own script
        tale.main(tale.Settings(), suggest=False)
        return "tale"
    if cfg.dataset:
        check_name(cfg.dataset)
    wanted = fingerprint(cfg.input, prepare_settings)
    if name := find_prepared(wanted, cfg.dataset):
        print(f"{from_here(data_folder(name))} holds this text already")
        return name
    settings = prepare.Settings(**prepare_settings, input=cfg.input)
    books = prepare.read_books(settings, otherwise=command("learn.py", "my_book.txt"))
    name = choose_name(cfg, books, wanted)
    folder = data_folder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record(folder, wanted)
        prepare.write_books(settings, name, books, None)
        record(folder, wanted)
    except OSError as error:
        raise UserError(f"cannot write to {from_here(folder)}: {error.strerror}") from None
    except UserError:  # as of a text that is too short: it has no dataset, and its name is free
        with contextlib.suppress(OSError):
            (folder / RECORD).unlink(missing_ok=True)
            folder.rmdir()
        raise
    return name


def config_for(n_tokens: int) -> list[str]:
    """The arguments of train.py that suit a text of this length: a config file, for a very short text a block_size."""
    config, block_size = ("train_tale.py", 128) if n_tokens <= SHORT_TEXT else ("train_prince.py", 256)
    words = [str(PACKAGE / "config" / config)]
    return words if n_tokens > block_size else [*words, f"--block_size={n_tokens - 1}"]


def train_settings(name: str, typed: dict[str, Any]) -> train.Settings:
    """The settings of the training: those of the config by rule, then those that the user has typed."""
    n_tokens = len(Dataset(name).train)
    known = settings_of(train.Settings)
    values = assigned_settings(known, config_for(n_tokens), PACKAGE) | {k: v for k, v in typed.items() if k in known}
    values |= {"dataset": name, "out_dir": typed.get("out_dir") or f"out-{name}"}
    if typed.get("init_from") != "scratch":  # a run that has begun goes on, whatever it started from
        resumable = checkpoint.resumable(Path(values["out_dir"]))
        values["init_from"] = "resume" if resumable else typed.get("init_from", "auto")
    return train.Settings(**values)


def check_model(cfg: train.Settings) -> None:
    """UserError if the model that is to be trained further was trained on another text than the dataset's."""
    if cfg.init_from != "resume":
        return
    path = checkpoint.latest(cfg.out_dir)
    sha256 = checkpoint.read(path, parts=())["progress"].text_sha256
    if sha256 not in (None, Dataset(cfg.dataset).train.sha256):
        raise UserError(
            f"{path} is the model of another text than {cfg.dataset} is now: type another --out_dir, or "
            "--init_from=scratch to begin anew"
        )


def open_page(address: str) -> None:
    """Open the page in a browser, if there is a display to see it on."""
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def main(cfg: Settings) -> int:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"learn.py is one process; under torchrun, run {command('train.py')} on a prepared dataset")
    if not cfg.input:
        books = [command("learn.py", book) for book in ("my_book.txt", from_here(TALE))]
        raise UserError(f"there is no book: type {books[0]}; or, for the bundled tale, {books[1]}")
    if {"-", "/dev/stdin"} & set(cfg.input):
        raise UserError(
            "standard input: the same command must find the book again; save it as a file, and type the file's name"
        )
    if cfg.serve:  # not after an hour of training
        require("uvicorn", "serve")
        require("fastapi", "serve")
    typed = assigned_settings(settings_of(Settings), sys.argv[1:], PACKAGE)
    own = {"input", "dataset"}
    prepare_settings = {k: v for k, v in typed.items() if k in settings_of(prepare.Settings) and k not in own}
    name = prepare_dataset(cfg, prepare_settings)
    print()
    settings = train_settings(name, typed)
    check_model(settings)
    status = train.main(settings, resume_command=command("learn.py", *sys.argv[1:]))
    if status:
        return status
    more = [("sample.py", "--interactive=True"), ("serve.py",)]
    print("\n".join(f"  {command(script, f'--out_dir={settings.out_dir}', *words)}" for script, *words in more))
    if cfg.serve:
        page = serve.Settings(out_dir=settings.out_dir)
        serve.main(dataclasses.replace(page, port=serve.free_port(page)), on_start=open_page)
    return 0


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
