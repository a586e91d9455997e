"""One of several books is chosen by its title, and a prompt that more than one of them has is continued as that one."""

import dataclasses
import io

import pytest
import torch
from conftest import save_checkpoint

from llm import sample
from llm.configurator import UserError
from llm.reading.load import book_sections
from llm.reading.shelf import OPENING, choose_book, encode_in_book, shelved
from llm.storage.progress import Progress
from llm.text import dataset, tokenizer
from llm.text.book import Book
from llm.text.documents import Document, book_names
from llm.text.vocabulary import learn_tokens

SHARED = "“It only sings when the moon pulls at it,” said the ferryman, and he"
FERRY = f"The Ferry\n\nOne evening six people came to the north bank.\n\n{SHARED} sang of rope and rain. Nobody paid.\n"
PUMP = f"The Pump\n\nA child heard iron knock under the yard.\n\n{SHARED} left his boat to drip. No one drank.\n"
KETTLE = f"A Kettle\n\nOn the stove stood copper.\n\n{SHARED} boiled his egg at noon. It was hard.\n"
TEXTS = {"The Ferry": FERRY, "The Pump": PUMP, "A Kettle": KETTLE}


def books_of(text_of, encoder):
    """(shelved books, all ids, documents) of texts by their titles, as a dataset holds them."""
    ids, documents = [], []
    for title, text in text_of.items():
        inside = encoder.encode(text) + ([] if encoder.end_of_text is None else [encoder.end_of_text])
        documents.append(Document(title, "", len(ids), len(ids) + len(inside)))
        ids += inside
    return shelved(torch.tensor(ids).numpy(), documents, encoder), ids, documents


@pytest.fixture(params=["gpt2", "book", "characters"])
def encoder(request):
    text = "".join(TEXTS.values())
    choices = {
        "gpt2": tokenizer.gpt2,
        "book": lambda: learn_tokens(text),
        "characters": lambda: tokenizer.characters(text),
    }
    return choices[request.param]()


def test_the_books_are_those_of_the_dataset(encoder):
    books, ids, documents = books_of(TEXTS, encoder)
    assert [(book.title, book.text) for book in books] == list(TEXTS.items())
    assert [s.start for s in book_sections(books, documents)] == [0, len(FERRY), len(FERRY) + len(PUMP)]


@pytest.mark.parametrize("prompt", [SHARED, "when the moon", "the ferryman, and he", '"It only sings', "moon pu"])
@pytest.mark.parametrize("title", TEXTS)
def test_what_stands_before_a_prompt_in_its_book_is_given_too(encoder, title, prompt):
    """Its ids are a stretch of the dataset's, and what they hold after the prompt is in the text that is shown."""
    books, ids, _ = books_of(TEXTS, encoder)
    book = choose_book(books, title)
    given = encode_in_book(encoder, prompt, book, length=60)
    places = [n for n in range(len(ids)) if ids[n : n + len(given)] == given]
    inside = [n for n in places if book.start <= n + len(given) - 1 < book.start + book.n_tokens]
    assert len(given) >= min(60, OPENING) and len(inside) == 1
    held = encoder.decode(given)
    typed = prompt.replace('"', "“")
    assert held.endswith(typed + given.rest) or encoder.by_characters and prompt.startswith('"')
    assert not (prompt == SHARED and given.rest)


@pytest.mark.parametrize("title", TEXTS)
def test_without_a_prompt_it_begins_with_the_books_first_words(encoder, title):
    books, ids, _ = books_of(TEXTS, encoder)
    book = choose_book(books, title)
    given = encode_in_book(encoder, "", book, length=60)
    n_before = min(60, book.start)
    assert given.rest and TEXTS[title].startswith(given.rest)
    assert given == ids[book.start - n_before :][: len(given)]
    assert OPENING <= len(given) - n_before <= OPENING + 1  # one more if a character would be divided


def test_a_prompt_at_the_very_beginning_is_continued_by_the_book_up_to_16_tokens():
    encoder = tokenizer.gpt2()
    books, ids, _ = books_of(TEXTS, encoder)
    given = encode_in_book(encoder, "The ", books[0], length=60)
    assert given == ids[:OPENING] and given.ends_in_space and FERRY.startswith("The" + given.rest)
    given = encode_in_book(encoder, "The Pump", books[1], length=20)
    assert given == ids[books[1].start - 18 : books[1].start + 2] and not given.rest


def test_a_prompt_that_is_not_in_the_book_is_not_found(encoder):
    books, _, _ = books_of(TEXTS, encoder)
    assert encode_in_book(encoder, "sang of rope", books[1], length=60) is None
    assert encode_in_book(encoder, "sang of rope", books[0], length=60) is not None


def test_the_last_token_given_is_never_a_part_of_a_character():
    text = "".join(f"第{n}章 渡船在六点以后离开北岸。" for n in "一二三四五六七八九")
    books, _, _ = books_of({"渡": text, "船": text[::-1]}, tokenizer.gpt2())
    for book in books:
        assert book.text.startswith(encode_in_book(tokenizer.gpt2(), "", book, length=60).rest)


def test_a_title_is_matched_without_regard_to_case_and_by_a_part_of_it():
    books, _, _ = books_of(TEXTS | {"The Pump House’s Tale": PUMP}, tokenizer.gpt2())
    for typed, title in [
        ("the ferry", "The Ferry"),
        ("KETTLE", "A Kettle"),
        ("The Pump", "The Pump"),  # all of a title
        ("  pump  house's ", "The Pump House’s Tale"),
    ]:
        assert choose_book(books, typed).title == title
    with pytest.raises(UserError) as unknown:
        choose_book(books, "Moby Dick")
    assert str(unknown.value) == (
        "book=Moby Dick: no book of this model has that title; type one of these titles: "
        '"The Ferry", "The Pump", "A Kettle", "The Pump House’s Tale"'
    )
    with pytest.raises(UserError) as ambiguous:
        choose_book(books, "pum")
    assert str(ambiguous.value) == (
        'book=pum: 2 books of this model have that in their titles; type one of these titles: "The Pump", '
        '"The Pump House’s Tale"'
    )
    many, _, _ = books_of({f"Volume {n}": "a b" for n in range(30)}, tokenizer.gpt2())
    with pytest.raises(UserError, match='"Volume 19", and 10 more$'):
        choose_book(many, "x")


def test_books_without_a_title_or_with_the_same_one_have_names():
    documents = [Document(title, "", 0, 0) for title in ("Poems", "", "Poems", " Two\nlines ")]
    assert book_names(documents) == ["Poems", "book 2", "Poems (3)", "Two lines"]


@pytest.fixture(scope="module")
def shelf(tiny_model, tmp_path_factory):
    """A folder with data/shelf and out/ckpt.pt, a small model that knows the three books by heart."""
    folder = tmp_path_factory.mktemp("shelf")
    # the last tokens of a text are trained at a window's last positions alone, so another text stands there
    texts = TEXTS | {"Numbers": " ".join(map(str, range(10, 60)))}
    encoder, books = learn_tokens("".join(texts.values())), [Book(title, "", text) for title, text in texts.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", folder / "data")
        path = dataset.DATA / "shelf"
        dataset.write_dataset(path, books, encoder, val_fraction=0, source={}, train_command=None)
        data = dataset.Dataset("shelf")
    text = torch.from_numpy(data.train.tokens(0, len(data.train)))
    model = tiny_model(vocab_size=data.vocab_size, block_size=64, n_embd=64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1) if p.dim() > 1 else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, 2 - 2 * step / 250)
        starts = [*range(step * 7 % 25, len(text) - 65, 25), len(text) - 65]
        x = torch.stack([text[s : s + 65] for s in starts])
        model(x[:, :-1], x[:, 1:])[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    (folder / "out").mkdir()
    save_checkpoint(
        folder / "out" / "ckpt.pt",
        model=model,
        progress=Progress(text_sha256=data.train.sha256),
        config={"dataset": "shelf"},
        tokenizer_description=encoder.description,
        corpus_ids=data.corpus_ids,
    )
    return folder


@pytest.fixture
def run_sample(shelf, monkeypatch, capsys):
    """run_sample(**settings) is (standard output, standard error) of sample.py with the model of three books."""
    monkeypatch.setattr(dataset, "DATA", shelf / "data")
    monkeypatch.chdir(shelf)
    cfg = sample.Settings(max_new_tokens=200, temperature=0.0, device="cpu", dtype="float32")

    def run_sample(**settings):
        capsys.readouterr()
        sample.main(dataclasses.replace(cfg, **settings))
        return capsys.readouterr()

    return run_sample


@pytest.mark.parametrize("title", TEXTS)
def test_a_prompt_that_all_books_have_is_continued_as_the_named_one(run_sample, title):
    out, err = run_sample(start=SHARED, book=title.lower())
    assert out == SHARED + TEXTS[title].partition(SHARED)[2] + "\n" and "typed" not in err


@pytest.mark.parametrize("title", TEXTS)
def test_a_book_is_recited_from_its_first_words_to_its_end(run_sample, title):
    assert run_sample(book=title).out == run_sample(book=title, start="").out == TEXTS[title] + "\n"


def test_interactive_prompts_are_those_of_the_named_book(run_sample, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SHARED}\nsang of rope\n"))
    out, err = run_sample(book="pump", interactive=True)
    assert out.startswith(SHARED + PUMP.partition(SHARED)[2])
    assert "the prompt does not occur in The Pump, and is read as typed" in err


def test_citations_name_the_book(run_sample):
    out, _ = run_sample(book="pump", start="A child heard iron", cite=True)
    assert "⟦A child heard iron" in out and "(The Pump, 28 %)" in out


def test_a_title_needs_the_book_and_has_to_be_known(run_sample, shelf, monkeypatch):
    with pytest.raises(UserError, match='book=x: no book of this model has that title; .*"A Kettle", "Numbers"$'):
        run_sample(book="x")
    monkeypatch.setattr(dataset, "DATA", shelf / "nowhere")
    with pytest.raises(
        UserError, match="book=Pump needs the text that out/ckpt.pt was trained on: .*; or leave out --b"
    ):
        run_sample(book="Pump")
