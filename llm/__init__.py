"""Teach a small GPT one book by heart, then read it back; the commands are the scripts in this folder.

Importing any module of the package runs this file first, before torch is loaded.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

from llm.configurator import PACKAGE, from_here

REQUIRED = ("torch", "numpy", "tiktoken", "requests", "tqdm")  # pyproject.toml's dependencies

# torch's OpenMP threads spin while they wait for each other, so two trainings at once on two cores take four times as
# long as with this limit, which costs a single training nothing (docs/LOG.md, "Limit of OpenMP's spinning").
# OpenMP reads it once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def install_command(root: Path) -> str:
    """What to type in the current folder to have the required packages; root: the folder of pyproject.toml."""
    activate = root / ".venv" / "bin" / "activate"
    if activate.exists() and Path(sys.prefix).resolve() != (root / ".venv").resolve():
        return f"source {shlex.quote(from_here(activate))}"
    return f'pip install -e "{from_here(root)}"'


def check_installation() -> None:
    """Exit with one line if a script of ours is running and lacks packages that it needs."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    script = getattr(sys.modules["__main__"], "__file__", None)  # None in a notebook
    if missing and script and PACKAGE in Path(script).resolve().parents:
        typed = install_command(PACKAGE.parent)
        sys.exit(f"{Path(script).name}: error: not installed: {', '.join(missing)}; type: {typed}")


check_installation()  # elsewhere, as in a notebook, importing a missing package raises Python's own ImportError
