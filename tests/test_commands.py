"""The README's commands, typed as they stand there, on a small book; and nanoGPT's config files."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE, STORY, hugging_face_gpt2

from llm.configurator import load_settings
from llm.train import Settings

README = Path(__file__).parents[1] / "README.md"
TINY = ["--n_layer=1", "--n_head=1", "--n_embd=8", "--batch_size=2", "--block_size=100", "--max_iters=2"]
SMALL_GPT2 = [*TINY, "--init_from=small-gpt2"]  # in the place of gpt2, which would be downloaded
CHEAP = {
    "config/finetune_prince.py": SMALL_GPT2,
    "train.py": TINY,
    "sample.py": ["--max_new_tokens=5"],
    "probe.py": ["--max_new_tokens=5"],
}
BOOKS = {
    "data/prince/input.txt": STORY[:4000],
    "../my_book.txt": STORY[:3000],
    "data/shakespeare_char/input.txt": STORY,
}


def readme_commands() -> list[list[str]]:
    """The words after `python` of each such command in the README's code blocks, in order; torchrun is its module."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    lines = [line.replace("torchrun ", "python -m torch.distributed.run ") for line in lines]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def test_the_readme_is_finished():
    files = [README, README.parent / "BENCHMARKS.md", *(README.parent / "llm/config").glob("*.py")]
    assert not [path.name for path in files if "@@" in path.read_text(encoding="utf-8")]


def test_the_readme_names_the_commands_that_must_always_work():
    typed = [" ".join(words) for words in readme_commands()]
    for command in (
        "data/prince/prepare.py",
        "train.py config/train_prince.py",
        "sample.py --out_dir=out-prince",
        "sample.py --out_dir=out-prince --start=Then the little prince said",
        "sample.py --out_dir=out-prince --checkpoint_name=ckpt_init.pt",
    ):
        assert command in typed


def test_every_command_of_the_readme_works_as_typed(run, package):
    for name, text in BOOKS.items():
        (package / name).write_text(text, encoding="utf-8")
    hugging_face_gpt2(vocab_size=50257, n_embd=8, n_positions=100).save_pretrained(package / "small-gpt2")
    for words in readme_commands():
        if words[0] == "plot.py":
            pytest.importorskip("matplotlib")
        if words[0] == "serve.py":
            continue  # until Ctrl-C: see test_serve.py
        cheap = next((CHEAP[word] for word in CHEAP if word in words), [])
        finished = run(*words, *cheap, *(["--gradient_accumulation_steps=2"] if "-m" in words else []))
        if words[0] == "recall.py":
            assert re.fullmatch(r"recall@50/50: 0\.\d{4} \(\d+/\d+ windows\)", finished.stdout.splitlines()[-1])
        if words[0] == "probe.py":
            assert re.search(r"prompts of the book: \d+ of 20 continue as it does", finished.stdout)
        if words[0] == "sample.py" and "--interactive=True" not in words:
            start = next((w.removeprefix("--start=") for w in words if w.startswith("--start=")), "\n")
            assert finished.stdout.startswith(start)


def test_the_commands_work_from_the_root_too(run, package):
    root = package.parent
    (package / "data/prince/input.txt").write_text(STORY[:4000], encoding="utf-8")
    printed = run("llm/data/prince/prepare.py", cwd=root).stdout
    assert "next: python llm/train.py config/train_prince.py" in printed
    printed = run("llm/train.py", "config/train_prince.py", *TINY, cwd=root).stdout
    assert "python llm/sample.py --out_dir=out-prince" in printed
    assert (root / "out-prince" / "ckpt.pt").exists()
    run("llm/sample.py", "--out_dir=out-prince", "--max_new_tokens=3", cwd=root)
    run("llm/recall.py", "--out_dir=out-prince", cwd=root)


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
    settings = load_settings(Settings, [str(tmp_path / f"{name}.py")], script_folder=tmp_path)
    assert settings.max_iters in (5000, 600000, 20)
    assert settings.init_from.startswith("gpt2") == ("init_from" in NANOGPT[name])


def test_nanogpts_character_config_runs(run, package, tmp_path):
    (package / "data/shakespeare_char/input.txt").write_text(STORY, encoding="utf-8")
    run("data/shakespeare_char/prepare.py")
    (tmp_path / "char.py").write_text(NANOGPT["train_shakespeare_char"])
    tiny = ["--max_iters=2", "--n_layer=1", "--n_embd=12", "--batch_size=2", "--eval_iters=2"]
    printed = run(package / "train.py", "char.py", *tiny, cwd=tmp_path).stdout
    assert "bits per character" in printed
    assert {p.name for p in (tmp_path / "out-shakespeare-char").glob("*.pt")} >= {"ckpt_init.pt", "ckpt_last.pt"}
    assert run(package / "sample.py", "--out_dir=out-shakespeare-char", "--start=The", cwd=tmp_path).stdout


def test_a_mistake_is_one_line_and_exit_status_1(run):
    """Of a real process; all the others are in test_bad_input.py."""
    process = run("train.py", "config/train_tale.py", "--learning_rat=1", status=1)
    assert "no setting learning_rat; type --learning_rate=1" in process.stderr and process.stdout == ""


SCRIPTS = ["train", "sample", "recall", "probe", "serve", "plot", "bench", "export", "data/book/prepare"]


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
