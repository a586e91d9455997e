"""A clean clone: what a script says before anything is installed, and what is set before torch is loaded."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PACKAGE, STORY

import llm
from llm import byheart, installation
from llm.configurator import SUBCOMMANDS

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
    line = "error: not installed: torch, numpy, tiktoken, requests, tqdm, charset_normalizer; type: pip install -e"
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


@pytest.mark.slow
def test_a_script_imports_its_own_package_even_if_another_tool_named_llm_is_installed(package, tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "__init__.py").write_text("raise SystemExit('the other llm')")
    finished = run_python(package / "plot.py", "--help", PYTHONPATH=str(tmp_path))
    assert (finished.returncode, finished.stderr) == (0, "") and "--out_dir=out" in finished.stdout


def test_a_module_of_ours_that_python_runs_with_m_says_what_to_type(package):
    finished = run_bare("-c", f"import sys, runpy; sys.path.insert(0, {str(package.parent)!r}); {RUN_AS_M}", cwd="/")
    assert (finished.returncode, finished.stderr.count("\n")) == (1, 1)
    assert finished.stderr.startswith(
        "learn.py: error: not installed: torch, numpy, tiktoken, requests, tqdm, charset_normalizer; type: "
    )


# what `python -m llm.learn` does; -m itself is not possible with -I, which leaves the current folder out of sys.path
RUN_AS_M = "sys.argv = ['-m']; sys.orig_argv = ['python', '-m', 'llm.learn']; runpy.run_module('llm.learn')"


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
    assert list(llm.REQUIRED) == [name.replace("-", "_") for name in names]  # modules, which pip understands, too


# --- OpenMP, oneDNN ---

SHOW = "import os, sys, llm; print(os.environ.get(sys.argv[1]))"


@pytest.mark.parametrize(
    "users, value",
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_openmp_threads_spin_briefly_unless_the_user_says_otherwise(users, value):
    assert run_python("-c", SHOW, "GOMP_SPINCOUNT", PYTHONPATH=str(ROOT), **users).stdout == f"{value}\n"


@pytest.mark.parametrize("users, value", [({}, "128"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7")])
def test_onednn_keeps_code_for_few_shapes_unless_the_user_says_otherwise(users, value):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    assert run_python("-c", SHOW, name, PYTHONPATH=str(ROOT), **users).stdout == f"{value}\n"


@pytest.mark.slow
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
    installed = ("dev", "books", "corpora", "plot", "serve", "hf", "gguf")
    wanted = [*project["dependencies"], *(r for name in installed for r in extras[name])]
    assert {requirement.partition(">=")[0] for requirement in wanted} == pinned


# --- installed by pip ---

TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--batch_size=2", "--max_iters=2", "--device=cpu", "--dtype=float32"]


@pytest.fixture(scope="module")
def site(package, tmp_path_factory):
    """A folder in which pip has installed the wheel of this package, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(package, folder / "clone" / "llm")
    (folder / "clone" / "llm" / "data" / "mine").mkdir()  # a dataset of the developer's: it stays at home
    for name in ("train.bin", "meta.json"):
        (folder / "clone" / "llm" / "data" / "mine" / name).touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # the build needs setuptools, which torch requires, too
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / "clone"]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def byheart_runs(site, tmp_path):
    """byheart_runs("learn", ...) types byheart learn ... in an empty folder; returns the finished process."""
    (tmp_path / "here").mkdir()

    def byheart_runs(*words, status=0):
        finished = subprocess.run(
            [sys.executable, "-B", site / "bin" / "byheart", *words],
            cwd=tmp_path / "here",
            env=os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert finished.returncode == status, finished.stderr
        return finished

    return byheart_runs


def contents(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_the_wheel_holds_what_runs_and_no_data_of_the_developers(site):
    wanted = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    wanted |= {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "serving" / "page").iterdir()}
    wanted |= {"text/vocab.bpe", "data/tale/tale.txt", "data/tale/control.txt"}
    held = contents(site / "llm")
    assert wanted <= held and not [name for name in held if name.startswith("data/mine") or name.endswith(".bin")]


@pytest.mark.slow
def test_byheart_learns_and_samples_below_the_current_folder(byheart_runs, site, tmp_path):
    before, here = contents(site), tmp_path / "here"
    (here / "my novel.txt").write_text(STORY[:3000], encoding="utf-8")
    printed = byheart_runs("learn", "my novel.txt", *TINY).stdout
    assert contents(site) == before
    assert {path.name for path in here.iterdir()} == {"my novel.txt", "data", "out-my_novel"}
    assert {"train.bin", "meta.json"} <= {path.name for path in (here / "data" / "my_novel").iterdir()}
    assert printed.splitlines()[-2:] == [
        "  byheart sample --out_dir=out-my_novel --interactive=True",
        "  byheart serve --out_dir=out-my_novel",
    ]
    assert " python " not in printed
    drawn = byheart_runs("sample", "--out_dir=out-my_novel", "--start=The echo", "--max_new_tokens=3").stdout
    assert drawn.startswith("The echo")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["learn", "--zzz=1"], "byheart learn: error: --zzz=1: no setting zzz; --help lists the settings"),
        (
            ["train", "--dataset=tale"],
            "byheart train: error: dataset tale is not prepared in data/tale (none is prepared yet); type: "
            "python -m llm.data.tale.prepare",
        ),
    ],
)
@pytest.mark.slow
def test_a_mistake_names_the_subcommand_and_what_to_type(byheart_runs, words, line):
    finished = byheart_runs(*words, status=1)
    assert (finished.stderr, finished.stdout) == (line + "\n", "")


def test_installed_commands_are_subcommands(monkeypatch):
    monkeypatch.setattr(installation, "IN_CLONE", False)
    assert installation.command("sample.py", "--start=a b") == "byheart sample --start='a b'"
    assert installation.command("data/book/prepare.py", "a b.txt") == "byheart prepare 'a b.txt'"
    assert installation.command("data/prince/prepare.py") == "python -m llm.data.prince.prepare"


@pytest.mark.slow
def test_installed_an_extra_is_named_by_its_packages(site):
    code = "from llm.configurator import install_command; print(install_command('serve'))"
    typed = run_python("-c", code, PYTHONPATH=str(site)).stdout
    packages = PYPROJECT["project"]["optional-dependencies"]["serve"]
    assert typed == "pip install " + " ".join(f"'{package}'" for package in packages) + "\n"


@pytest.fixture
def type_byheart(monkeypatch, capsys):
    """type_byheart(...) runs the entry point in this process: (exit status, standard output, standard error)."""

    def type_byheart(*words):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/byheart", *words])
        try:
            status = byheart.main()
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out, err

    return type_byheart


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_its_help(type_byheart, name):
    status, out, err = type_byheart(name, "--help")
    assert (status, err) == (0, "") and f"\nusage: byheart {name} [" in out
    assert f"\n    byheart {name} " in out and f"python {SUBCOMMANDS[name]}" not in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_byheart_alone_lists_the_subcommands(type_byheart, words):
    status, out, err = type_byheart(*words)
    assert (status or 0, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "] == [*SUBCOMMANDS]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("lern", "lern: expected learn, sample, "),
        ("", "'': expected learn, sample, "),
        (str(ROOT / "README.md"), f"{ROOT / 'README.md'} is no subcommand; type byheart learn {ROOT / 'README.md'}"),
        ("https://a.org/b.txt", "https://a.org/b.txt is no subcommand; type byheart learn https://a.org/b.txt"),
    ],
)
def test_a_word_that_is_no_subcommand_has_its_line(type_byheart, word, line):
    status, out, err = type_byheart(word)
    assert out == "" and status.startswith(f"byheart: error: {line}")  # sys.exit prints it and returns 1
    assert word != "lern" or status.endswith("; type byheart learn")


def test_a_stray_pyproject_does_not_make_site_packages_a_clone(tmp_path):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "pyproject.toml").touch()
    assert installation.is_installed(tmp_path / "site-packages") and not installation.is_installed(tmp_path)
    (tmp_path / "llm_by_heart-0.1.0.dist-info").mkdir()
    assert installation.is_installed(tmp_path) and not installation.is_installed(ROOT)
