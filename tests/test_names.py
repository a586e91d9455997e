"""The names and sizes of our modules and functions, and which module imports which.

Running a script puts llm/ on the import path: none of our names may shadow what a dependency imports.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from llm.configurator import PACKAGE

MAX_MODULE_LINES = 320
MAX_FUNCTION_LINES = 62
IMPORTS = "torch, torch.optim, torch._dynamo, torch.distributed.run, numpy, tiktoken, requests"


@pytest.mark.slow
def test_no_dependency_imports_a_name_of_ours():
    probe = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); import {IMPORTS}\n"
        "print([n for n, m in sys.modules.items() if (getattr(m, '__file__', None) or '').startswith(sys.path[0])])"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", cwd="/")
    assert finished.stdout == "[]\n", finished.stdout + finished.stderr


def test_every_name_of_ours_is_free_of_the_standard_librarys():
    ours = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not ours & sys.stdlib_module_names


def imports_of(path: Path) -> set[str]:
    """Our modules that a file imports, as dotted names: llm.text.dataset."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "llm":
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "llm"}
    return found


def dotted(path: Path) -> str:
    return ".".join(["llm", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


FILES = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("config", "data")]
MODULES = {dotted(path) for path in FILES}
IMPORTS_OF = {dotted(path): imports_of(path) for path in FILES}


def test_modules_import_each_other_in_no_cycle():
    assert {"llm.configurator", "llm.runtime"} <= IMPORTS_OF["llm.train"]  # both ways of importing are seen
    graphlib.TopologicalSorter(IMPORTS_OF).prepare()  # raises CycleError


def test_folders_import_each_other_in_no_cycle():
    folders = {}
    for module, imported in IMPORTS_OF.items():
        if module.count(".") == 2:
            folder = module.rpartition(".")[0]
            others = {name.rpartition(".")[0] for name in imported if name.count(".") == 2}
            folders.setdefault(folder, set()).update(others - {folder})
    assert "llm.text" in folders["llm.training"]
    graphlib.TopologicalSorter(folders).prepare()


def test_folders_never_import_scripts():
    scripts = {dotted(path) for path in PACKAGE.glob("*.py") if "\nif __name__ ==" in path.read_text("utf-8")}
    assert {"llm.train", "llm.sample", "llm.recall"} <= scripts
    modules = {module: imported & scripts for module, imported in IMPORTS_OF.items() if module.count(".") == 2}
    assert not {module: imported for module, imported in modules.items() if imported}


def code_lines(path: Path) -> int:
    """Lines of a file; a script's Settings, which are its manual, do not count."""
    source = path.read_text(encoding="utf-8")
    settings = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    return len(source.splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in settings)


def test_no_module_is_too_long():
    lengths = {path.relative_to(PACKAGE).as_posix(): code_lines(path) for path in PACKAGE.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES}


def test_no_function_is_too_long():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = node.end_lineno - node.lineno + 1  # signature and docstring included
                if n_lines > MAX_FUNCTION_LINES:
                    found[f"{path.relative_to(PACKAGE).as_posix()}:{node.name}"] = n_lines
    assert not found
