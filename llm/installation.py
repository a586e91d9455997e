"""Where the package is: in a clone of the repository, or installed by pip; and what can be typed there.

In a clone, commands are the scripts (python train.py) and datasets are folders of llm/data/. Installed by pip, they are
subcommands of the console command byheart (byheart train), and datasets go below the current folder, to data/.
"""

import importlib.metadata
import os
from pathlib import Path

from llm.settings import quoted

PACKAGE = Path(__file__).resolve().parent
DISTRIBUTION = "llm-by-heart"  # the package's name for pip
SUBCOMMANDS = {  # of the console command byheart -> scripts
    "learn": "learn.py",
    "sample": "sample.py",
    "recall": "recall.py",
    "serve": "serve.py",
    "prepare": "data/book/prepare.py",
    "train": "train.py",
    "export": "export.py",
    "probe": "probe.py",
    "plot": "plot.py",
}


def is_installed(root: Path) -> bool:
    """Whether `root`, the folder above the package, is one that pip installs into, not a clone or a copy of one."""
    return root.name in ("site-packages", "dist-packages") or any(root.glob("llm_by_heart-*.dist-info"))


IN_CLONE = not is_installed(PACKAGE.parent)


def from_here(path: str | Path) -> str:
    """`path` relative to the current folder, or absolute if it is on another drive."""
    try:
        return Path(os.path.relpath(path)).as_posix()
    except ValueError:
        return Path(path).as_posix()


def command(script: str, *args: str) -> str:
    """The command that runs a script of this package, as typed in the current folder.

    Installed by pip, scripts are subcommands of byheart, and those of the bundled datasets are modules.
    """
    if IN_CLONE:
        start = f"python {quoted(from_here(PACKAGE / script))}"
    else:
        start = as_subcommand(script) or "python -m llm." + script.removesuffix(".py").replace("/", ".")
    return " ".join([start, *map(quoted, args)])


def as_subcommand(script: str) -> str:
    """The words that run a script of this package by the console command, "" if it is none of its subcommands."""
    return next((f"byheart {name}" for name, path in SUBCOMMANDS.items() if path == script), "")


def install_command(extra: str) -> str:
    """What to type in the current folder to install an extra: its name in a clone, else its packages."""
    if IN_CLONE:
        return f"pip install -e {quoted(f'{from_here(PACKAGE.parent)}[{extra}]')}"
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # a copy of the folder, known to nobody
        requirements = []
    packages = [text.partition(";")[0].strip() for text in requirements if f'extra == "{extra}"' in text]
    return " ".join(["pip install", *map(quoted, packages or [f"{DISTRIBUTION}[{extra}]"])])
