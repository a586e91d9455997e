"""README.md, docs/ and nanoGPT's config files: what they say can be typed works, what they name exists."""

import dataclasses
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE, STORY, hugging_face_gpt2

from llm import installation, sample, train
from llm.configurator import load_settings
from llm.text import dataset

ROOT = PACKAGE.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, *DOCS, *(ROOT / name for name in ("BENCHMARKS.md", "CONTRIBUTING.md", "SECURITY.md"))]
SCRIPTS = ["learn", "train", "sample", "recall", "probe", "serve", "plot", "bench", "export"]
SCRIPTS += ["data/book/prepare", "data/corpus/prepare", "data/corpus/synthetic"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- commands ---

TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--batch_size=2", "--block_size=100", "--max_iters=2"]
SMALL_GPT2 = [*TINY, "--init_from=small-gpt2"]  # instead of gpt2, which would be downloaded
CHEAP = {  # arguments that are added to a command with this word
    "--help": [],
    "config/finetune_prince.py": SMALL_GPT2,
    "train.py": TINY,
    "learn.py": [word for word in TINY if "block_size" not in word],  # which follows from the length of the text
    "sample.py": ["--max_new_tokens=5"],
    "probe.py": ["--max_new_tokens=5"],
    "data/corpus/synthetic.py": ["--megabytes=1"],
}
BOOKS = {
    "data/prince/input.txt": STORY[:4000],
    "../my_book.txt": STORY[:3000],
    "data/shakespeare_char/input.txt": STORY,
}
CONTRACT = [  # commands that must always work
    "data/prince/prepare.py",
    "train.py config/train_prince.py",
    "sample.py --out_dir=out-prince",
    "sample.py --out_dir=out-prince --start=Then the little prince said",
    "sample.py --out_dir=out-prince --checkpoint_name=ckpt_init.pt",
]


def commands_in(document: Path) -> list[list[str]]:
    """The words after `python` of each such command in a document's sh blocks, in order; torchrun is its module."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    lines = [line.replace("torchrun ", "python -m torch.distributed.run ") for line in lines]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def all_commands() -> list[list[str]]:
    """Each distinct command of README.md and docs/ once: those that prepare data first, then those that train."""
    found = [words for document in (README, *DOCS) for words in commands_in(document)]
    found = [list(words) for words in dict.fromkeys(map(tuple, found))]

    def stage(words: list[str]) -> int:
        if words[0] == "learn.py":  # before its book has a dataset of the same name
            return 0
        return 1 if words[0].startswith("data/") else 2 if "train.py" in words else 3

    return sorted(found, key=stage)


@pytest.fixture
def run_here(package, monkeypatch, capsys):
    """run_here(words, cwd=...) runs a script of the package's copy in this process, which has torch already.

    Returns what a finished process would be.
    """
    monkeypatch.setattr(installation, "PACKAGE", package)
    monkeypatch.setattr(dataset, "DATA", package / "data")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run_here(words: list[str], cwd: Path = package) -> subprocess.CompletedProcess:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(words[0], run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, f"{words}\n{printed.err}"
        return subprocess.CompletedProcess(words, 0, printed.out, printed.err)

    return run_here


def test_the_readme_names_the_commands_that_must_always_work():
    typed = [" ".join(words) for words in commands_in(README)]
    assert [command for command in typed if command in CONTRACT] == CONTRACT


@pytest.mark.slow
def test_the_commands_that_must_always_work_do(run, package):
    """As processes of their own."""
    (package / "data/prince/input.txt").write_text(STORY[:4000], encoding="utf-8")
    for words in commands_in(README):
        if " ".join(words) in CONTRACT:
            run(*words, *next((CHEAP[word] for word in CHEAP if word in words), []))


def test_every_command_of_the_documents_works_as_typed(run_here, package):
    """In this process."""
    for module in ("matplotlib", "safetensors", "gguf"):
        pytest.importorskip(module)
    for name, text in BOOKS.items():
        (package / name).write_text(text, encoding="utf-8")
    hugging_face_gpt2(vocab_size=50257, n_embd=8, n_positions=100).save_pretrained(package / "small-gpt2")
    for words in all_commands():
        if words[0] == "serve.py" or words[0] == "-m":
            continue  # the former run until Ctrl-C (see test_serve.py), the latter in processes of their own
        cheap = next((CHEAP[word] for word in CHEAP if word in words), [])
        printed = run_here([*words, *cheap]).stdout
        if words[0] == "recall.py":
            assert re.fullmatch(r"recall@50/50: 0\.\d{4} \(\d+/\d+ windows\)", printed.splitlines()[-1])
        if words[0] == "probe.py":
            assert re.search(r"prompts of the book: \d+ of 20 continue as it does", printed)
        if words[0] == "sample.py" and not {"--interactive=True", "--cite=True"} & set(words):
            start = next((word.removeprefix("--start=") for word in words if word.startswith("--start=")), "\n")
            assert printed.startswith(start)


@pytest.mark.slow
def test_the_modules_of_the_documents_work_as_typed(run):
    """torchrun's commands, above all."""
    run("data/tale/prepare.py")
    for words in all_commands():
        if words[0] == "-m":
            run(*words, *next((CHEAP[word] for word in CHEAP if word in words), []))


def test_the_commands_work_from_the_root_too(run_here, package):
    root = package.parent
    (package / "data/prince/input.txt").write_text(STORY[:4000], encoding="utf-8")
    printed = run_here(["llm/data/prince/prepare.py"], root).stdout
    assert "next: python llm/train.py config/train_prince.py" in printed
    printed = run_here(["llm/train.py", "config/train_prince.py", *TINY], root).stdout
    assert "python llm/sample.py --out_dir=out-prince" in printed
    assert (root / "out-prince" / "ckpt.pt").exists()
    run_here(["llm/sample.py", "--out_dir=out-prince", "--max_new_tokens=3"], root)
    run_here(["llm/recall.py", "--out_dir=out-prince"], root)


# --- what the documents name ---


def prose(document: Path) -> list[tuple[int, str]]:
    """(line number, line) of what is neither a table nor code."""
    found, in_block = [], False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            in_block = not in_block
        elif not in_block and not line.startswith(("|", "    ")):
            found.append((number, line))
    return found


def without_blocks(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchor(heading: str) -> str:
    """The anchor of a heading as GitHub forms it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def headings(document: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", without_blocks(document), re.M)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_to_files_and_headings_that_exist(document):
    links = re.findall(r"\]\(([^)\s]+)\)", without_blocks(document))
    for link in (link for link in links if not link.startswith(("http://", "https://"))):
        path, _, fragment = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not fragment or fragment in map(anchor, headings(target)), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_files_and_folders_in_backticks_exist(document):
    """Those of this repository: a module or a document, a folder such as `llm/text/`; not what scripts write."""
    for word in " ".join(re.findall(r"`([^`\n]+)`", without_blocks(document))).split():
        if word.startswith("llm/out-") or "NAME" in word:
            continue
        if re.fullmatch(r"[\w./-]+\.(py|md|toml|html|svg|bpe)|(llm|docs|tests)/[\w/-]+/", word):
            folders = [ROOT, PACKAGE, document.parent]
            bare = "/" not in word and any(PACKAGE.rglob(word))
            assert bare or any((folder / word).exists() for folder in folders), word


def test_the_readmes_map_has_every_script_and_folder():
    [found] = re.findall(r"^```\nllm/\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    named = {word.rstrip("/") for line in found.splitlines() for word in re.split(r"\s{2,}", line.strip())}
    scripts = {path.name for path in PACKAGE.glob("*.py") if "\nif __name__ ==" in path.read_text(encoding="utf-8")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert named >= scripts | folders
    files = {name for name in named if name.endswith(".py")}
    assert all((PACKAGE / name).exists() for name in files)


def test_experiments_that_are_cited_are_in_the_log():
    titles = {heading.partition(": ")[2].removesuffix(" (negative)") for heading in headings(ROOT / "docs" / "LOG.md")}
    for path in (*DOCUMENTS, *PACKAGE.rglob("*.py")):
        text = re.sub(r"\n[ #|]*", " ", path.read_text(encoding="utf-8"))  # a citation may be wrapped
        cited = re.findall(r'docs/LOG\.md, "([^"]+)"', text)
        assert titles.issuperset(cited), f"{relative(path)}: {cited}"


def settings_of_scripts() -> set[str]:
    modules = [importlib.import_module(f"llm.{name.replace('/', '.')}") for name in SCRIPTS]
    classes = [sample.SamplingSettings if module.__name__ == "llm.probe" else module.Settings for module in modules]
    return {field.name for cls in classes for field in dataclasses.fields(cls)}


# examples; options of other programs
NO_SETTINGS = {"key", "learning_rat", "nproc_per_node", "seconds", "times", "wrap"}


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "LOG.md"], ids=relative)
def test_settings_that_documents_name_exist(document):
    named = re.findall(r"--([a-z_]+)=", document.read_text(encoding="utf-8"))
    assert set(named) <= settings_of_scripts() | NO_SETTINGS


NANOGPT_SETTINGS = """
    out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log wandb_project
    wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd dropout bias
    learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend
    device dtype compile start num_samples max_new_tokens temperature top_k
"""


def test_every_setting_that_nanogpt_lacks_is_explained():
    ours = {field.name for cls in (train.Settings, sample.Settings) for field in dataclasses.fields(cls)}
    explained = re.findall(r"`(\w+)`", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))
    assert ours - set(NANOGPT_SETTINGS.split()) <= set(explained)


# --- the form of the documents ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_no_line_of_a_document_is_longer_than_120_columns(document):
    assert not [(number, line) for number, line in prose(document) if len(line) > 120]


def test_no_document_is_too_long():
    lengths = {relative(path): path.read_text(encoding="utf-8").count("\n") for path in (README, *DOCS)}
    assert lengths.pop("README.md") <= 170
    assert not {name: n for name, n in lengths.items() if n > 150 and name != "docs/LOG.md"}


def test_no_document_or_config_file_has_a_placeholder():
    files = [*DOCUMENTS, *(PACKAGE / "config").glob("*.py")]
    assert not [path for path in files if re.search(r"@@|\bTODO\b|\bTBD\b", path.read_text(encoding="utf-8"))]


# --- nanoGPT's config files ---

# what nanoGPT's config files set, in their order
GPT2_EVAL = "batch_size = 8; eval_iters = 500; eval_only = True; wandb_log = False; init_from = "
NANOGPT = {
    "eval_gpt2": GPT2_EVAL + "'gpt2'",
    "eval_gpt2_large": GPT2_EVAL + "'gpt2-large'",
    "eval_gpt2_medium": GPT2_EVAL + "'gpt2-medium'",
    "eval_gpt2_xl": GPT2_EVAL + "'gpt2-xl'",
    "finetune_shakespeare": """
import time
out_dir = 'out-shakespeare'; eval_interval = 5; eval_iters = 40; wandb_log = False
wandb_project = 'shakespeare'; wandb_run_name = 'ft-' + str(time.time())
dataset = 'shakespeare'; init_from = 'gpt2-xl'; always_save_checkpoint = False
batch_size = 1; gradient_accumulation_steps = 32; max_iters = 20; learning_rate = 3e-5; decay_lr = False
""",
    "train_gpt2": """
wandb_log = True; wandb_project = 'owt'; wandb_run_name='gpt2-124M'
batch_size = 12; block_size = 1024; gradient_accumulation_steps = 5 * 8; max_iters = 600000
lr_decay_iters = 600000; eval_interval = 1000; eval_iters = 200; log_interval = 10; weight_decay = 1e-1
""",
    "train_shakespeare_char": """
out_dir = 'out-shakespeare-char'; eval_interval = 250; eval_iters = 200; log_interval = 10
always_save_checkpoint = False; wandb_log = False; wandb_project = 'shakespeare-char'; wandb_run_name = 'mini-gpt'
dataset = 'shakespeare_char'; gradient_accumulation_steps = 1; batch_size = 64; block_size = 256
n_layer = 6; n_head = 6; n_embd = 384; dropout = 0.2
learning_rate = 1e-3; max_iters = 5000; lr_decay_iters = 5000; min_lr = 1e-4; beta2 = 0.99; warmup_iters = 100
""",
}


@pytest.mark.parametrize("name", NANOGPT)
def test_nanogpts_config_files_parse(name, tmp_path):
    (tmp_path / f"{name}.py").write_text(NANOGPT[name])
    settings = load_settings(train.Settings, [str(tmp_path / f"{name}.py")], script_folder=tmp_path)
    assert settings.max_iters in (5000, 600000, 20)
    assert settings.init_from.startswith("gpt2") == ("init_from" in NANOGPT[name])


def test_nanogpts_character_config_runs(run_here, package, tmp_path):
    (package / "data/shakespeare_char/input.txt").write_text(STORY, encoding="utf-8")
    run_here(["data/shakespeare_char/prepare.py"])
    (tmp_path / "char.py").write_text(NANOGPT["train_shakespeare_char"])
    tiny = ["--max_iters=2", "--n_layer=1", "--n_embd=12", "--batch_size=2", "--eval_iters=2"]
    printed = run_here([str(package / "train.py"), "char.py", *tiny], tmp_path).stderr
    assert re.search(r"evaluated: step 0, .*val loss .* bits per character", printed)
    assert {p.name for p in (tmp_path / "out-shakespeare-char").glob("*.pt")} >= {"ckpt_init.pt", "ckpt_last.pt"}
    assert run_here([str(package / "sample.py"), "--out_dir=out-shakespeare-char", "--start=The"], tmp_path).stdout


# --- mistakes and help ---


def test_a_mistake_is_one_line_and_exit_status_1(run):
    """Of a real process; all the others are in test_bad_input.py."""
    process = run("train.py", "config/train_tale.py", "--learning_rat=1", status=1)
    assert "no setting learning_rat; type --learning_rate=1" in process.stderr and process.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_setting_with_its_reason(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / f"{script}.py"), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PACKAGE / f"{script}.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    text = re.sub(r"\n {20,}", " ", text)  # a reason may be wrapped
    lines = [line for line in text.splitlines() if line.startswith("  --")]
    assert ended.value.code == 0 and lines and all("; " in line for line in lines)


def test_a_script_runs_as_a_module(run, tmp_path):
    assert "--watch" in run("-m", "llm.train", "--help", cwd=tmp_path).stdout
