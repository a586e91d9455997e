"""A text too large for a book: drafts and citations come from its index on disk."""

import dataclasses

import pytest
from conftest import STORY, save_trained

from llm import sample
from llm.configurator import UserError
from llm.reading import load
from llm.reading.corpus_index import CorpusIndex
from llm.text.dataset import Dataset
from llm.text.token_index import TokenIndex, build_index
from llm.text.tokenizer import gpt2


@pytest.fixture
def index(prepare) -> CorpusIndex:
    data = prepare(
        "corpus", text=STORY[:9000] + "Drei Vögel saßen auf dem Dach: „Größe“ heißt auf Japanisch 大きさ, sagte er.\n"
    )
    build_index(data.folder, data.train, lambda line: None)
    return CorpusIndex(TokenIndex(data.folder, data.train), data.tokenizer)


@pytest.fixture
def run_sample(prepare, tiny_model, tmp_path, monkeypatch, capsys):
    """run_sample(**settings) is (standard output, standard error) of sample.py; its text counts as a large one."""
    monkeypatch.setattr(load, "MAX_SEARCH_TOKENS", 100)
    data = prepare("corpus", text=STORY[:9000])
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, n_embd=8, block_size=32)
    save_trained(tmp_path / "out" / "ckpt.pt", model, data.train, data.corpus_ids, dataset="corpus")
    monkeypatch.chdir(tmp_path)
    settings = sample.Settings(max_new_tokens=40, device="cpu", dtype="float32")

    def run_sample(**changes):
        capsys.readouterr()
        sample.main(dataclasses.replace(settings, **changes))
        return capsys.readouterr()

    return run_sample


def test_spans_are_those_that_a_search_finds(index):
    passage = STORY[2000:2300].strip()
    inner = passage[passage.index(" ") + 1 : passage.rindex(" ")]
    text = f"Nobody ever wrote this sentence down. {inner} And nobody wrote that one."
    spans = index.spans(text)
    assert len(spans) == 1
    found = text[spans[0].start : spans[0].end]
    assert found in STORY and found in inner and len(found) > 0.9 * len(inner)
    assert spans[0].words == len(found.split())
    token = index.index[spans[0].at : spans[0].at + 40].tolist()
    assert gpt2().decode(token).strip().startswith(found[:60])
    assert "".join(piece for piece, _ in index.pieces(text)) == text


def test_spans_end_with_whole_words_in_any_script(index):
    text = "Er sagte: Drei Vögel saßen auf dem Dach: „Größe“ heißt auf Japanisch 大きさ, sagen wir."
    [span] = index.spans(text)
    assert text[span.start : span.end].startswith("Vögel saßen") and text[span.start : span.end].endswith("大きさ,")


def test_a_short_agreement_is_no_span(index):
    words = STORY[2000:2300].split()[1:6]
    assert index.spans(f"Nobody wrote {' '.join(words)} before.") == []


def test_a_place_is_a_token_and_its_share(index):
    n = len(index.index)
    assert index.where(n // 2) == f"token {n // 2 + 1:,}, 50 %"


def test_drafts_from_an_index_change_no_token(run_sample):
    prompt = STORY[3000:3060].strip()
    without = run_sample(start=prompt, num_samples=2)
    assert "an index would serve instead, type python" in without.err and "--index=True" in without.err
    data = Dataset("corpus")
    build_index(data.folder, data.train, lambda line: None)
    drafted = run_sample(start=prompt, num_samples=2)
    assert "drafts and citations are from the index of dataset corpus" in drafted.err
    assert drafted.out == without.out


def test_citations_come_from_the_index(run_sample):
    with pytest.raises(UserError, match="cite=True needs the text .* an index would serve instead"):
        run_sample(cite=True)
    data = Dataset("corpus")
    build_index(data.folder, data.train, lambda line: None)
    out, err = run_sample(cite=True, start=STORY[3000:3200].strip(), max_new_tokens=3)
    assert "⟦" in out and "(token 7" in out
    assert "words stand in the book, in spans of 8 words or more" in err


def test_what_needs_the_whole_text_says_why_it_is_missing(run_sample):
    data = Dataset("corpus")
    build_index(data.folder, data.train, lambda line: None)
    with pytest.raises(UserError, match=r"dataset corpus has [\d,]+ tokens, at most 100 are searched as a book"):
        run_sample(book="The Echo")
