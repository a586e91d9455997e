"""sample.py prints the prompt and its continuation, and says how it reads them."""

import dataclasses
import io
import re

import pytest
import torch
from conftest import STORY, save_trained

from llm import sample
from llm.configurator import UserError
from llm.reading.continuation import step
from llm.reading.prompt import encode_prompt
from llm.text.tokenizer import gpt2


@pytest.fixture
def trained(prepare, tiny_model, tmp_path, monkeypatch):
    """Settings for a checkpoint in tmp_path/out, as train.py saves it, of a tiny model of the tale's beginning."""
    data = prepare()
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, n_embd=8, block_size=32)
    save_trained(tmp_path / "out" / "ckpt.pt", model, data.train, data.corpus_ids, dataset="story")
    monkeypatch.chdir(tmp_path)
    return sample.Settings(max_new_tokens=40, device="cpu")


@pytest.fixture
def run_sample(trained, capsys):
    """run_sample(**settings) is (standard output, standard error) of sample.py with these settings."""

    def run_sample(**settings):
        capsys.readouterr()
        sample.main(dataclasses.replace(trained, **settings))
        return capsys.readouterr()

    return run_sample


def test_the_prompt_its_continuation_and_a_line_that_says_how_fast(run_sample):
    out, err = run_sample(start="The echo")
    assert out.startswith("The echo") and len(out) > 60 and out.endswith("\n")
    first, last = err.splitlines()[0], err.splitlines()[-1]
    assert "ckpt.pt: step 12, dataset story; cpu" in first and "seed 1337" in first
    assert last.startswith("40 tokens in ") and last.endswith(" tokens/s")


def test_a_seed_reproduces_and_samples_differ(run_sample):
    first, repeated, other = run_sample(num_samples=2), run_sample(num_samples=2), run_sample(seed=1, num_samples=2)
    assert first.out == repeated.out != other.out
    one, two = first.out.split("\n---------------\n")
    assert one != two.rstrip("\n")


def test_a_sample_does_not_depend_on_how_many_are_drawn(run_sample):
    assert run_sample(num_samples=3).out.startswith(run_sample(num_samples=1).out.rstrip("\n"))


def test_temperature_0_is_the_same_for_every_seed(run_sample):
    assert run_sample(temperature=0.0, seed=1).out == run_sample(temperature=0.0, seed=2).out


def test_only_whole_characters_are_printed(run_sample):
    """Random weights draw parts of characters; what is printed is valid UTF-8 without surrogates."""
    out, _ = run_sample(num_samples=5, temperature=3.0, top_k=None)
    assert out.encode("utf-8").decode("utf-8") == out


def test_the_prompt_may_come_from_a_file(run_sample, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffThe echo\r\nhad\n".encode())
    expected = run_sample(start="The echo\nhad").out
    assert run_sample(start="FILE:prompt.txt").out == expected


def test_endoftext_alone_is_the_token_as_in_nanogpt(run_sample):
    token, text = (run_sample(start=start, temperature=0.0).out for start in ("<|endoftext|>", "<|endoftext|>\n"))
    assert token != text


def test_a_prompt_longer_than_the_context_is_cropped_with_a_notice(run_sample):
    out, err = run_sample(start="had been ill " * 20)
    assert out.startswith("had been ill had") and "the model sees the last 32 of them" in err


def test_sampling_needs_only_the_checkpoint_and_says_what_it_lacks(run_sample, data):
    out, err = run_sample(start="The echo")
    assert "without its book" not in err
    for path in (data / "story").iterdir():
        path.unlink()
    out_without, err_without = run_sample(start="The echo")
    assert out_without == out
    (notice,) = [line for line in err_without.splitlines() if "without its book" in line]
    assert notice.startswith(
        f"without its book, prompts are tokenised as typed and sampling is slower: dataset story is not prepared in "
        f"{data / 'story'}"
    )
    assert "type: " in notice


def test_another_text_in_the_dataset_is_not_taken_for_the_book(run_sample, prepare):
    prepare(text=STORY[:5000])
    _, err = run_sample(start="The echo")
    assert "sampling is slower: dataset story holds another text than the model's now; prepare that one again: " in err


def test_a_prompt_of_the_book_is_tokenised_as_printed_only_with_the_book(run_sample, data):
    one, other = STORY[:6000].split("\n\n")[2:4]
    prompt = " ".join(one.split()[-3:] + other.split()[:3])  # across the end of a paragraph
    with_book = run_sample(start=prompt).out
    (data / "story" / "train.bin").unlink()
    assert run_sample(start=prompt).out != with_book


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


def test_bfloat16_is_used_if_set(run_sample):
    out, err = run_sample(dtype="bfloat16", temperature=0.0)
    assert "bfloat16" in err and len(out) > 20
    assert not torch.is_autocast_enabled("cpu")


def test_a_stop_string_ends_a_sample_before_it(run_sample):
    whole = run_sample(start="The echo").out.rstrip("\n")
    stop = whole[30:33]
    assert run_sample(start="The echo", stop=stop).out == whole[: whole.index(stop, len("The echo"))] + "\n"


def test_more_samples_than_are_drawn_at_once_are_what_they_are_alone(run_sample):
    options = dict(max_new_tokens=5, dtype="float32")
    ten, nine = (run_sample(num_samples=n, **options).out.removesuffix("\n") for n in (10, 9))
    samples = ten.split("\n---------------\n")
    assert len(samples) == 10 and len(set(samples)) > 5
    assert nine.split("\n---------------\n") == samples[:9]


def test_spans_of_the_book_are_marked_with_their_place(run_sample):
    words = " ".join(STORY[:6000].split()[100:120])
    out, err = run_sample(start=f"He said: {words} but", cite=True)
    assert re.match(rf"He said: ⟦{re.escape(words)}⟧ \(Chapter 1. The Invalid, \d+ %\)", out)
    assert re.search(r"20 of \d+ words stand in the book, in spans of 8 words or more", err)


def test_citing_needs_the_book(run_sample, data):
    for path in (data / "story").iterdir():
        path.unlink()
    match = "cite=True needs the text that .* was trained on: dataset story is not prepared.*leave out --cite"
    with pytest.raises(UserError, match=match):
        run_sample(start="The echo", cite=True)


def test_interactive_asks_again_until_the_input_ends(run_sample, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\n\nA wall\n"))
    out, err = run_sample(interactive=True, max_new_tokens=5)
    assert out.startswith("The echo") and "\nA wall" in out and err.count("> ") == 4
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\nThe echo"))
    one, two = run_sample(interactive=True).out.split("\nThe echo")
    assert one.removeprefix("The echo") != two.rstrip("\n")  # another try, another continuation


def test_interactive_obeys_commands(run_sample, monkeypatch):
    lines = [":help", ":temperature 0.5", ":temperature", ":temperature hot", ":more", ":where", "The echo", ":more"]
    lines += [":cite on", ":random", ":where", ":cite maybe", ":quit", "never read"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    out, err = run_sample(interactive=True, max_new_tokens=5)
    assert ":cite on, :cite off" in err and err.count("temperature 0.5\n") == 3
    assert "temperature hot: expected a number from 0 on" in err
    assert "there is no text yet" in err and "no passage of eight words" in err
    first, more, cited = out.rstrip("\n").split("\n")[0], *out.rstrip("\n").split("\n…", 1)[1:], err
    assert first.startswith("The echo") and more
    assert re.search(r"\d+ of \d+ words stand in the book", cited) and ":cite maybe: no such command" in err
    assert "⟦" in out and re.search(r"\d+ %: 1\d words", err)
    assert "never read" not in out


def test_bad_bytes_do_not_end_it(run_sample, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"The \xff echo\nThe echo\n"), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stream)
    out, err = run_sample(interactive=True, max_new_tokens=5)
    assert "the line is not UTF-8; type it again" in err and out.startswith("The echo")


def test_in_colour_what_is_invented_has_one(run_sample, monkeypatch):
    words = " ".join(STORY[:6000].split()[100:120])
    monkeypatch.setattr(sample, "has_colours", lambda stream: True)
    out, _ = run_sample(start=f"{words} but", cite=True, max_new_tokens=3)
    assert out.startswith(words + "\x1b[2m (Chapter 1. The Invalid, ") and "\x1b[33m but" in out and "⟦" not in out


def test_ctrl_c_ends_a_continuation_and_not_the_program(run_sample, monkeypatch):
    drawn = []  # the numbers of tokens when each continuation was interrupted

    def interrupted_step(reader, continuations):
        if len(continuations[0].tokens) >= 3:
            drawn.append(len(continuations[0].tokens))
            raise KeyboardInterrupt
        return step(reader, continuations)

    monkeypatch.setattr(sample, "step", interrupted_step)
    monkeypatch.setattr("sys.stdin", io.StringIO("The echo\nA wall\n"))
    out, err = run_sample(interactive=True)
    assert out.startswith("The echo") and "\nA wall" in out
    assert [int(n) for n in re.findall(r"(\d+) tokens in", err)] == drawn and len(drawn) == 2


def test_a_prompt_that_ends_within_a_word_is_printed_once_and_completed(run_sample):
    """Letters of the book were left out: "wet part of aut" went on with " a woman came down"."""
    word = next(w for w in STORY[:6000].split()[50:] if len(w) > 6 and w.isalpha())
    before = STORY[: STORY.index(word) + len(word) - 2].split("\n")[-1][-60:].lstrip()
    out = run_sample(start=before).out
    ids = encode_prompt(gpt2(), before, STORY[:6000])
    assert out.startswith(before + ids.rest) and gpt2().decode(ids).endswith(before[-20:] + ids.rest)


def test_a_space_at_the_end_of_a_prompt_is_printed_once(run_sample):
    without, with_space = (run_sample(start=f"The echo{end}", temperature=0.0).out for end in ("", " "))
    assert with_space.removeprefix("The echo ").strip() == without.removeprefix("The echo").removeprefix(" ").strip()


def test_a_line_that_is_not_utf8_is_asked_again_and_carriage_returns_are_removed(run_sample, monkeypatch):
    """UnicodeDecodeError ended the session; a carriage return made the terminal overwrite the prompt."""
    data = io.BytesIO(b"caf\xff\r\nThe \x1b[31mecho\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data, encoding="utf-8", errors="strict", newline=""))
    out, err = run_sample(interactive=True, max_new_tokens=5)
    assert out.startswith("The [31mecho") and "\r" not in out and "\x1b" not in out
    assert "not UTF-8; type it again" in err and "control characters left out" in err


def test_an_empty_prompt_file_is_an_empty_prompt(run_sample, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"")
    with pytest.raises(UserError, match="start is empty"):
        run_sample(start="FILE:prompt.txt")


def test_a_prompt_file_cut_within_a_character_loses_that_character(run_sample, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("One evening — café".encode()[:-1])
    out, err = run_sample(start="FILE:prompt.txt")
    assert out.startswith("One evening — caf") and "Ã" not in out and "prompt.txt" in err
