"""A clean clone: what a script says before anything is installed, and what is set before torch is loaded."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PACKAGE

import llm

ROOT = PACKAGE.parent
SCRIPTS = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if "\nif __name__ ==" in path.read_text(encoding="utf-8")
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_bare(*words, cwd):
    """Runs an interpreter that sees Python's own library alone: no package is installed for it."""
    command = [sys.executable, "-I", "-S", "-B", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8")


def run_python(*words, **environment):
    """Runs an interpreter that has all packages, from a folder outside the clone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-B", *map(str, words)]
    return subprocess.run(command, cwd="/", env=kept | environment, capture_output=True, encoding="utf-8")


@pytest.fixture
def clone_with_venv(package):
    """A copy of the package whose .venv is not activated."""
    activate = package.parent / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    yield package
    activate.unlink()
    activate.parent.rmdir()
    activate.parents[1].rmdir()


def test_all_scripts_are_found():
    assert {"train.py", "sample.py", "serve.py", "data/book/prepare.py", "data/tale/prepare.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_in_a_clone_without_installation_says_what_to_type(package, script):
    finished = run_bare(package / script, "--help", cwd=package.parent)
    line = "error: not installed: torch, numpy, tiktoken, requests, tqdm; type: pip install -e"
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f'{Path(script).name}: {line} "."\n'


@pytest.mark.parametrize(
    "folder, typed",
    [(".", ".venv/bin/activate"), ("llm", "../.venv/bin/activate"), ("llm/data/book", "../../../.venv/bin/activate")],
)
def test_a_venv_that_is_not_activated_is_named_as_seen_from_the_current_folder(clone_with_venv, folder, typed):
    finished = run_bare(clone_with_venv / "train.py", cwd=clone_with_venv.parent / folder)
    assert finished.stderr.endswith(f"; type: source {typed}\n") and finished.stderr.count("\n") == 1


def test_a_venv_that_is_activated_but_incomplete_is_installed_into(clone_with_venv, monkeypatch):
    monkeypatch.chdir(clone_with_venv)
    monkeypatch.setattr(sys, "prefix", str(clone_with_venv.parent / ".venv"))
    assert llm.install_command(clone_with_venv.parent) == 'pip install -e ".."'


def test_imported_elsewhere_the_package_leaves_pythons_own_error(package):
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import llm; print('here'); import llm.model"
    finished = run_bare("-c", code, cwd="/")
    assert finished.stdout == "here\n"
    assert finished.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torch'"


def test_a_script_imports_its_own_package_even_if_another_tool_named_llm_is_installed(package, tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "__init__.py").write_text("raise SystemExit('the other llm')")
    finished = run_python(package / "plot.py", "--help", PYTHONPATH=str(tmp_path))
    assert (finished.returncode, finished.stderr) == (0, "") and "--out_dir=out" in finished.stdout


def third_party_imports(path):
    """The modules outside Python's own library that a file imports at its top level, in order."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_llm_before_any_package_that_may_be_missing(script):
    assert next(third_party_imports(PACKAGE / script)).partition(".")[0] == "llm"


def test_all_dependencies_of_pyproject_are_checked():
    names = [requirement.partition(">=")[0] for requirement in PYPROJECT["project"]["dependencies"]]
    assert list(llm.REQUIRED) == names


# --- OpenMP ---

SHOW = "import os, llm; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    "users, value",
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_openmp_threads_spin_briefly_unless_the_user_says_otherwise(users, value):
    assert run_python("-c", SHOW, PYTHONPATH=str(ROOT), **users).stdout == f"{value}\n"


def test_openmp_reads_the_limit_when_train_py_loads_torch():
    """A setting that is made after torch is loaded shows in os.environ, too, and has no effect."""
    finished = run_python(PACKAGE / "train.py", "--help", OMP_DISPLAY_ENV="VERBOSE")
    if "GOMP_" not in finished.stderr:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert "GOMP_SPINCOUNT = '10000'" in finished.stderr


# --- pyproject.toml ---


def test_the_extra_all_has_every_extra_that_is_for_users():
    extras = PYPROJECT["project"]["optional-dependencies"]
    [everything] = extras["all"]
    name, _, rest = everything.partition("[")
    assert name == PYPROJECT["project"]["name"] == "llm-by-heart"
    assert set(rest.removesuffix("]").split(",")) == extras.keys() - {"all", "dev", "peers"}


def test_constraints_pin_what_make_test_installs():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for name in ("dev", "plot", "serve", "hf", "gguf") for r in extras[name])]
    assert {requirement.partition(">=")[0] for requirement in wanted} == pinned
