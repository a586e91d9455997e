"""Teach a small GPT one book by heart, then read it back; the commands are the scripts in this folder.

Importing any module of the package runs this file first, before torch is loaded.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

from llm.configurator import IN_CLONE, PACKAGE, from_here

REQUIRED = ("torch", "numpy", "tiktoken", "requests", "tqdm", "charset_normalizer")  # pyproject.toml's dependencies

# torch's OpenMP threads spin while they wait for each other, so two trainings at once on two cores take four times as
# long as with this limit, which costs a single training nothing (docs/LOG.md, "Limit of OpenMP's spinning").
# OpenMP reads it once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# oneDNN, which multiplies torch's bfloat16 matrices on CPUs, keeps the code that it makes for each shape: about 0.8 MB
# each, of 1,024 shapes. Writing a text has more shapes than that, because in each step other rows are still in doubt.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def install_command(root: Path) -> str:
    """What to type in the current folder to have the required packages; root: the folder of pyproject.toml."""
    activate = root / ".venv" / "bin" / "activate"
    if activate.exists() and Path(sys.prefix).resolve() != (root / ".venv").resolve():
        return f"source {shlex.quote(from_here(activate))}"
    return f'pip install -e "{from_here(root)}"'


def running_program() -> str:
    """The name of the program of ours that is running: train.py, or byheart; "" in a notebook and elsewhere."""
    if Path(sys.argv[0] if sys.argv else "").stem == "byheart":  # byheart.exe on Windows
        return "byheart"
    if sys.argv[:1] == ["-m"]:  # python -m llm.train: the module itself is not loaded yet
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
        return f"{module[0].rpartition('.')[2]}.py" if module and module[0].startswith("llm.") else ""
    script = getattr(sys.modules["__main__"], "__file__", None)  # None in a notebook
    return Path(script).name if script and PACKAGE in Path(script).resolve().parents else ""


def check_installation() -> None:
    """Exit with one line if a program of ours is running and lacks packages that it needs."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    program = running_program() if missing else ""
    if program:
        typed = install_command(PACKAGE.parent) if IN_CLONE else f"pip install {' '.join(missing)}"
        sys.exit(f"{program}: error: not installed: {', '.join(missing)}; type: {typed}")


def load(out_dir: str | Path, checkpoint_name: str = "ckpt.pt", **options):
    """The trained model in a folder, for notebooks: a BookModel of reading/book_model.py.

    options: device and dtype, as the settings of these names. Torch is loaded here, not by `import llm`.
    """
    from llm.reading.book_model import BookModel

    return BookModel(out_dir, checkpoint_name, **options)


check_installation()  # elsewhere, as in a notebook, importing a missing package raises Python's own ImportError
