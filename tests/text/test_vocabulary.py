"""A vocabulary learned from a book encodes every text, and needs few tokens in any language."""

import json

import pytest
from conftest import STORY
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.storage import gguf, huggingface
from llm.text import tokenizer, vocabulary

RUSSIAN = (
    "Старый часовщик из Заречья чинил только те часы, которые спешили, а про отстающие говорил, что они ещё могут "
    "одуматься сами, и складывал их в большой сундук под окном, где они тихо тикали всю зиму, каждые по-своему.\n"
)
HINDI = (
    "बूढ़े नाविक के पास तीन रस्सियाँ थीं, और उसने हर एक का नाम एक ऐसी नदी पर रखा था जिसे उसने कभी नहीं देखा था। "
    "जब पानी कम होता तो वह पहली रस्सी खींचता, और जब पानी ज़्यादा होता तो दूसरी।\n"
)
CHINESE = (
    "老渡船夫有三根绳子，他给每根绳子都起了一个名字，都是他从来没有见过的河流的名字。"
    "水浅的时候他拉第一根，水深的时候他拉第二根。\n"
)
BOOKS = {"Russian": RUSSIAN * 30, "Hindi": HINDI * 30, "Chinese": CHINESE * 30, "English": STORY[:20_000]}

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=sorted(BOOKS))
def book(request):
    """(text, tokenizer) of a book in some language."""
    return BOOKS[request.param], vocabulary.learn_tokens(BOOKS[request.param])


def test_a_book_comes_back_in_few_tokens(book):
    text, learned = book
    ids = learned.encode(text)
    assert learned.decode(ids) == text and max(ids) < learned.end_of_text == learned.vocab_size - 1 < 2**16
    assert len(ids) / len(text) < 0.5


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_comes_back(book, text):
    learned = book[1]
    ids = learned.encode(text)
    assert learned.decode(ids) == text and learned.decode_bytes(ids) == text.encode()


def test_a_description_makes_the_same_tokenizer(book):
    text, learned = book
    again = tokenizer.from_description(json.loads(json.dumps(learned.description)), "meta.json")
    assert type(again) is tokenizer.BookTokens and again.encode(text) == learned.encode(text)
    assert (again.vocab_size, again.by_characters) == (again.table_size, False)


def test_learning_is_repeatable(book):
    text, learned = book
    assert vocabulary.learn_tokens(text).description == learned.description


@pytest.fixture(scope="module")
def exported(book, tmp_path_factory):
    """Hugging Face's tokenizer, read from our export of the book's."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("export")
    huggingface.save_tokenizer(book[1], folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


@settings(max_examples=100, deadline=None, derandomize=True)  # letters newer than a library's Unicode may differ
@given(data=st.data())
def test_ids_equal_hugging_faces(book, exported, data):
    text, learned = book
    pieces = st.integers(0, len(text) - 60).flatmap(lambda n: st.integers(1, 60).map(lambda m: text[n : n + m]))
    mixed = "".join(data.draw(st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=5)))
    if "<|endoftext|>" not in mixed:
        assert learned.encode(mixed) == exported(mixed)["input_ids"]
        assert exported.decode(learned.encode(mixed)) == mixed


def test_the_end_of_text_is_one_id_for_hugging_face(book, exported):
    assert exported.eos_token_id == exported.bos_token_id == book[1].end_of_text
    assert exported("<|endoftext|>")["input_ids"] == [book[1].end_of_text]


def byte_of() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: those that Latin-1 prints stand for themselves, the others follow 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def test_a_gguf_file_holds_the_books_own_tokens(book, tiny_model, tmp_path):
    gguf_py = pytest.importorskip("gguf")
    learned, stand_in = book[1], byte_of()
    model = tiny_model(vocab_size=learned.vocab_size + 3, n_layer=1)
    gguf.save(model, learned, tmp_path / "model.gguf", name="x")
    fields = gguf_py.GGUFReader(tmp_path / "model.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    end = fields["tokenizer.ggml.eos_token_id"].contents()
    assert (end, tokens[end], tokens[-1]) == (learned.end_of_text, "<|endoftext|>", f"[PAD{len(tokens) - 1}]")
    pre = {"gpt2": "gpt-2", "marks": "qwen35"}[learned.pattern]
    assert len(tokens) == learned.vocab_size + 3 and fields["tokenizer.ggml.pre"].contents() == pre
    spelled = [bytes(stand_in[c] for c in token) for token in tokens[:end]]
    assert spelled == [learned.decode_bytes([i]) for i in range(end)]
    merges = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"].contents()]
    assert {left + right for left, right in merges} == set(tokens[256:end])


def test_auto_takes_gpt2s_for_english_and_the_books_own_where_gpt2s_is_long():
    assert vocabulary.choose_tokenizer(STORY) is tokenizer.gpt2()
    for text in (RUSSIAN, HINDI, CHINESE):
        assert type(vocabulary.choose_tokenizer(text * 10)) is tokenizer.BookTokens
        assert vocabulary.choose_tokenizer(text, "gpt2") is tokenizer.gpt2()
    assert type(vocabulary.choose_tokenizer(STORY, "book")) is tokenizer.BookTokens
    assert vocabulary.choose_tokenizer("abba", "characters").characters == "ab"


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="--tokenizer=bpe: expected one of auto, gpt2, book, characters"):
        vocabulary.choose_tokenizer("text", "bpe")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="needs the extra books"):
        vocabulary.choose_tokenizer(CHINESE)


@pytest.mark.parametrize(
    "change",
    [
        {"merges": "a b"},
        {"merges": ["a"]},
        {"merges": ["ab c"]},  # ab is made by no earlier merge
        {"merges": ["a b", "a b"]},
        {"merges": [["a", "b"]]},
        {"pattern": "other"},
        {"pattern": None},
        {"merges": ["a b"] * 70_000},
    ],
)
def test_a_damaged_description_is_refused(change):
    with pytest.raises(UserError, match="is encoded by 'book'"):
        tokenizer.from_description({"kind": "book", "pattern": "gpt2", "merges": ["a b"]} | change, "ckpt.pt")


@pytest.mark.parametrize("text", ["", "a", "\n\n\n", "a" + " " * 1_100_000 + "b", "ab" * 200_000, "字" * 300_000])
def test_short_and_absurd_texts_have_an_encoding(text):
    learned = vocabulary.learn_tokens(text)
    assert learned.decode(learned.encode(text)) == text
