"""sample.py prints the prompt and what follows it, and says what it reads."""

import dataclasses
import io
import re

import pytest
import torch
from conftest import STORY, save_trained

from llm import sample
from llm.configurator import UserError


@pytest.fixture
def trained(prepare, tiny_model, tmp_path, monkeypatch):
    """A checkpoint in tmp_path/out, as train.py saves it, of a tiny model of the tale's beginning."""
    data = prepare()
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, n_embd=8, block_size=32)
    save_trained(tmp_path / "out" / "ckpt.pt", model, data.train, data.ids, dataset="story")
    monkeypatch.chdir(tmp_path)
    return sample.Settings(max_new_tokens=40, device="cpu")


@pytest.fixture
def said(trained, capsys):
    """said(**settings) is (standard output, standard error) of sample.py with these settings."""

    def said(**settings):
        capsys.readouterr()
        sample.main(dataclasses.replace(trained, **settings))
        return capsys.readouterr()

    return said


def test_the_prompt_its_continuation_and_a_line_that_says_how_fast(said):
    out, err = said(start="The echo")
    assert out.startswith("The echo") and len(out) > 60 and out.endswith("\n")
    first, last = err.splitlines()[0], err.splitlines()[-1]
    assert "ckpt.pt: step 12, dataset story; cpu" in first and "seed 1337" in first
    assert last.startswith("40 tokens in ") and last.endswith(" tokens/s")


def test_a_seed_reproduces_and_samples_differ(said):
    first, again, other = said(num_samples=2), said(num_samples=2), said(seed=1, num_samples=2)
    assert first.out == again.out != other.out
    one, two = first.out.split("\n---------------\n")
    assert one != two.rstrip("\n")


def test_a_sample_does_not_depend_on_how_many_are_drawn(said):
    assert said(num_samples=3).out.startswith(said(num_samples=1).out.rstrip("\n"))


def test_temperature_0_is_the_same_for_every_seed(said):
    assert said(temperature=0.0, seed=1).out == said(temperature=0.0, seed=2).out


def test_only_whole_characters_are_printed(said):
    """Random weights draw parts of characters; what is printed is valid UTF-8 without surrogates."""
    out, _ = said(num_samples=5, temperature=3.0, top_k=None)
    assert out.encode("utf-8").decode("utf-8") == out


def test_the_prompt_may_come_from_a_file(said, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffThe echo\r\nhad\n".encode())
    expected = said(start="The echo\nhad").out
    assert said(start="FILE:prompt.txt").out == expected


def test_endoftext_alone_is_the_token_as_in_nanogpt(said):
    assert said(start="<|endoftext|>", temperature=0.0).out != said(start="<|endoftext|>\n", temperature=0.0).out


def test_a_prompt_longer_than_the_context_is_cropped_with_a_notice(said):
    out, err = said(start="had been ill " * 20)
    assert out.startswith("had been ill had") and "the model sees the last 32 of them" in err


def test_sampling_needs_the_checkpoint_alone(said, data):
    before = said(start="The echo").out
    for path in (data / "story").iterdir():
        path.unlink()
    assert said(start="The echo").out == before


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"start": ""}, "start is empty"),
        ({"start": "FILE:nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"out_dir": "out-x"}, r"out_dir=out-x does not exist \(here are: out\)"),
        ({"checkpoint_name": "ckpt_init.pt"}, r"ckpt_init.pt does not exist in out_dir=out \(it has: ckpt.pt\)"),
    ],
)
def test_mistakes_get_one_line_and_no_output(trained, capsys, settings, message):
    with pytest.raises(UserError, match=message):
        sample.main(dataclasses.replace(trained, **settings))
    assert capsys.readouterr().out == ""


def test_bfloat16_is_used_where_asked(said):
    out, err = said(dtype="bfloat16", temperature=0.0)
    assert "bfloat16" in err and len(out) > 20
    assert not torch.is_autocast_enabled("cpu")


def test_a_stop_string_ends_a_sample_before_it(said):
    whole = said(start="The echo").out.rstrip("\n")
    stop = whole[30:33]
    assert said(start="The echo", stop=stop).out == whole[: whole.index(stop, len("The echo"))] + "\n"


def test_more_samples_than_are_drawn_at_once_are_what_they_are_alone(said):
    together = (
        said(num_samples=10, max_new_tokens=5, dtype="float32").out.removesuffix("\n").split("\n---------------\n")
    )
    assert len(together) == 10 and len(set(together)) > 5
    assert (
        said(num_samples=9, max_new_tokens=5, dtype="float32").out.removesuffix("\n").split("\n---------------\n")
        == (together[:9])
    )


def test_what_stands_in_the_book_is_marked_with_its_place(said):
    words = " ".join(STORY[:6000].split()[100:120])
    out, err = said(start=f"He said: {words} but", cite=True)
    assert out.startswith(f"He said: ⟦{words}⟧ (") and "line " in out
    assert re.search(r"20 of \d+ words stand in the book, in spans of 8 words or more", err)


def test_citing_needs_the_book(said, data):
    for path in (data / "story").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cite=True needs the text that .* was trained on.*leave out --cite"):
        said(start="The echo", cite=True)


def test_interactive_asks_again_until_the_input_ends(said, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\n\nA wall\n"))
    out, err = said(interactive=True, max_new_tokens=5)
    assert out.startswith("The echo") and "\nA wall" in out and err.count("> ") == 4
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\nThe echo"))
    one, two = said(interactive=True).out.split("\nThe echo")
    assert one.removeprefix("The echo") != two.rstrip("\n")  # another try, another continuation


def test_ctrl_c_ends_a_continuation_and_not_the_program(said, monkeypatch):
    def interrupted(*arguments, generate=sample.generate, **options):
        for n, drawn in enumerate(generate(*arguments, **options)):
            if n == 3:
                raise KeyboardInterrupt
            yield drawn

    monkeypatch.setattr(sample, "generate", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\nA wall\n"))
    out, err = said(interactive=True)
    assert "\nA wall" in out and err.count("3 tokens in") == 2
