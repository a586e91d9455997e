"""Names of datasets, and which of them come with the package."""

import re

from llm.configurator import PACKAGE, UserError

BUNDLED = PACKAGE / "data"  # what comes with the package: scripts of some datasets, and texts


def is_name(name: str) -> bool:
    """Whether a dataset can have this name: at most 64 letters, digits, _ and -, not beginning with -."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name) is not None


def has_script(name: str) -> bool:
    """Whether a dataset has a prepare.py of its own, which comes with the package."""
    return (BUNDLED / name / "prepare.py").exists()


def checked_name(name: str | None, hint: str) -> str:
    """The name of a dataset to be prepared. UserError, which ends with the hint, if it is missing or not valid."""
    if name is None:
        raise UserError(f"the dataset has no name yet; {hint}")
    if not is_name(name):
        raise UserError(f"--dataset={name}: expected at most 64 letters, digits, _ and -, not beginning with -; {hint}")
    if has_script(name):
        raise UserError(f"--dataset={name}: that dataset has a script of its own, data/{name}/prepare.py; {hint}")
    return name
