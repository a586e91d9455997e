"""Token ids are GPT-2's, and decode to the text that they encode."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.text import tokenizer

TEXT = st.text(alphabet=st.characters(codec="utf-8"))


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """Hugging Face's GPT-2 tokenizer, its vocabulary rebuilt from the same merges."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("gpt2")
    merges = tokenizer.MERGES.read_text(encoding="utf-8")
    byte_symbols = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [
        chr(256 + n) for n in range(256 - 94 - 12 - 82)
    ]
    words = byte_symbols + [line.replace(" ", "") for line in merges.split("\n")[1:] if line] + ["<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return transformers.GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.mark.parametrize(
    "text, ids",
    [
        ("Then the little prince said", [6423, 262, 1310, 19716, 531]),
        ("Hello world", [15496, 995]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),  # plain text, never the special id 50256
        ("\n\n", [628]),
        ("  two  spaces", [220, 734, 220, 9029]),
        ("", []),
    ],
)
def test_golden_ids(text, ids):
    assert tokenizer.gpt2().encode(text) == ids


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_gpt2_round_trip(text):
    encoder = tokenizer.gpt2()
    assert encoder.decode(encoder.encode(text)) == text


@given(text=TEXT.filter(lambda text: "<|endoftext|>" not in text))
@settings(max_examples=300, deadline=None, derandomize=True)  # letters newer than a library's Unicode may differ
def test_ids_equal_hugging_faces(hugging_face, text):
    assert tokenizer.gpt2().encode(text) == hugging_face(text)["input_ids"]


BLANKS = st.text(st.sampled_from(" \n\t\u3000\x1c\x85"), min_size=1, max_size=9)


@given(st.lists(st.one_of(BLANKS, TEXT, st.sampled_from(["word", "12", "!", "'s"])), max_size=8).map("".join))
@settings(max_examples=300, deadline=None)
def test_a_long_run_of_white_space_is_split_off_without_changing_an_id(text):
    """tiktoken panics at a million white-space characters in a row; the limit is 3 here, so that borders are tried."""
    encoder = tokenizer.gpt2()
    expected = encoder._encoding.encode_ordinary(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "MAX_RUN", 3)
        assert encoder.encode(text) == expected


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000", " \n"])
def test_a_million_white_space_characters_are_encoded(blank):
    """tiktoken#15: its pattern overflowed the stack, a panic that is no Exception."""
    text = "word" + blank * (1_100_000 // len(blank)) + "word"
    began = time.perf_counter()
    encoder = tokenizer.gpt2()
    assert encoder.decode(encoder.encode(text)) == text
    assert time.perf_counter() - began < 10


def test_a_lone_surrogate_is_encoded_as_the_replacement_character():
    encoder = tokenizer.gpt2()
    assert encoder.decode(encoder.encode("a\ud800b")) == "a\ufffdb"


@given(TEXT)
@settings(deadline=None)
def test_characters_round_trip(text):
    encoder = tokenizer.characters(text)
    assert encoder.decode(encoder.encode(text)) == text
    assert encoder.decode_bytes(encoder.encode(text)) == text.encode()
    again = tokenizer.from_description(json.loads(json.dumps(encoder.description)), "meta.json")
    assert again.encode(text) == encoder.encode(text)


def test_an_unknown_character_is_named_with_its_position():
    with pytest.raises(UserError, match=r"'z' at position 2 .* these 2: 'ab'"):
        tokenizer.characters("abba").encode("abz")


def test_a_tokenizer_says_whether_it_encodes_by_characters():
    assert tokenizer.characters("abba").by_characters
    assert not tokenizer.gpt2().by_characters


def test_a_description_from_a_newer_version_is_refused():
    with pytest.raises(UserError, match="^x/meta.json is encoded by 'words': expected gpt2, book or characters"):
        tokenizer.from_description({"kind": "words"}, "x/meta.json")


def test_a_changed_merges_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "vocab.bpe").write_bytes(tokenizer.MERGES.read_bytes().replace("Ġ t".encode(), "Ġ q".encode(), 1))
    monkeypatch.setattr(tokenizer, "MERGES", tmp_path / "vocab.bpe")
    with pytest.raises(UserError, match="not GPT-2's merges file"):
        tokenizer.GPT2()
