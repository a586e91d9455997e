"""Running a script puts llm/ on the import path: none of our names may shadow what a dependency imports."""

import graphlib
import re
import subprocess
import sys

from conftest import PACKAGE

IMPORTS = "torch, torch.optim, torch._dynamo, torch.distributed.run, numpy, tiktoken, requests"


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


def test_imports_make_no_cycle():
    imports = {}
    for path in PACKAGE.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        modules = re.findall(r"^from llm\.(\w+) import", source, re.M)
        for names in re.findall(r"^from llm import ([\w, ]+)", source, re.M):
            modules += names.split(", ")
        imports[path.stem] = modules
    assert "configurator" in imports["train"] and "runtime" in imports["train"]  # both ways of importing are seen
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError
