"""The page in a real browser: a person types, watches, stops, changes a setting, makes a mistake."""

import json
import shutil
import urllib.request

import pytest
from conftest import STORY, save_trained

from llm.text import dataset, tokenizer
from llm.text.book import Book

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PROMPT = "The echo had been ill"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=OFFLINE.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def port(start_server):
    """One server for the pages of all tests here."""
    return start_server()[1]


@pytest.fixture(params=[(1200, 850), (390, 844)], ids=["desktop", "phone"])
def page(browser, request, port):
    """The page as it opens, at a desktop's and at a phone's width; afterwards no script may have failed in it."""
    width, height = request.param
    context, errors = browser.new_context(viewport={"width": width, "height": height}), []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing overflows at the side
    assert errors == []
    context.close()


def running_samples(port):
    """How many samples the server is drawing."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as response:
        return json.load(response)["running"]


# Collects the lengths of the continuation as it grows in window.lengths
RECORD_LENGTHS = """() => {
  const article = document.querySelector("article");
  window.lengths = [];
  new MutationObserver(() => window.lengths.push(article.innerText.length)).observe(article, {childList: true});
}"""


def test_a_person_reads_the_book_with_the_keyboard_alone(page):
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#max_tokens", "1500")
    page.focus("#prompt")
    page.keyboard.type(PROMPT)
    page.evaluate(RECORD_LENGTHS)
    page.keyboard.press("Enter")
    page.wait_for_selector("#about:not(:empty)")
    page.wait_for_selector("#go:not([disabled])")
    assert len(set(page.evaluate("window.lengths"))) > 3  # it comes in pieces
    text = page.inner_text("article")
    assert text.startswith(PROMPT) and len(text) > 300
    page.wait_for_selector("#about:not(:empty)")
    assert "words stand in the book, in spans of 8 or more" in page.inner_text("#about")
    focused = []
    for _ in range(6):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id"))
    assert focused == ["go", "max_tokens", "temperature", "top_p", "seed", "end"]


def test_spans_of_the_book_are_underlined_and_the_prompt_is_grey(page):
    words = " ".join(STORY[:6000].split()[100:120])
    page.fill("#prompt", f"He said: {words} but")
    page.fill("#max_tokens", "3")
    page.click("#go")
    cited = page.wait_for_selector("article .cited")
    assert cited.inner_text() == words and "line" in cited.get_attribute("title")
    assert "typed" in cited.get_attribute("class")
    assert "underline" in cited.evaluate("node => getComputedStyle(node).textDecorationLine")


@pytest.mark.parametrize("how", ["click", "Escape"])
def test_it_stops_when_it_is_told_to(page, port, how):
    page.fill("#prompt", PROMPT)
    page.fill("#max_tokens", "4000")
    page.click("#go")
    page.wait_for_selector("article.going .typed + span")
    if how == "click":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    page.wait_for_selector("#go:not([disabled])")
    text = page.inner_text("article")
    while running_samples(port) > 0:  # until the server has noticed, too
        page.wait_for_timeout(20)
    page.wait_for_selector("#about:not(:empty)")
    assert page.inner_text("article") == text and text.startswith(PROMPT)
    assert len(text) < 10_000  # characters; all 4000 tokens would have more
    assert page.inner_text("[role=alert]") == ""


def test_a_setting_that_is_changed_changes_the_text(page):
    texts = []
    for seed, temperature in (("1", "1"), ("1", "1"), ("2", "1"), ("2", "0"), ("3", "0")):
        page.fill("#prompt", PROMPT)
        page.fill("#max_tokens", "20")
        page.fill("#seed", seed)
        page.fill("#temperature", temperature)
        page.click("#go")
        page.wait_for_selector("#about:not(:empty)")
        texts.append(page.inner_text("article"))
        page.wait_for_selector("#go:not([disabled])")
    assert texts[0] == texts[1] != texts[2] != texts[3] == texts[4]
    page.fill("#end", texts[4][30:34])
    page.click("#go")
    page.wait_for_selector("#about:not(:empty)")
    assert page.inner_text("article") == texts[4][: texts[4].index(texts[4][30:34], len(PROMPT))].rstrip()


def test_a_mistake_is_shown_and_can_be_corrected(page):
    page.fill("#prompt", PROMPT)
    page.fill("#temperature", "9")
    page.click("#go")
    page.wait_for_selector("[role=alert]:not(:empty)")
    assert page.inner_text("[role=alert]") == "temperature is 9: expected a number from 0 to 2"
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "5")
    page.click("#go")
    page.wait_for_selector("#about:not(:empty)")
    assert page.inner_text("[role=alert]") == "" and page.inner_text("article").startswith(PROMPT)


def test_an_empty_prompt_is_a_mistake(page):
    page.click("#go")
    page.wait_for_selector("[role=alert]:not(:empty)")
    assert page.inner_text("[role=alert]").startswith("prompt: expected a text that is not empty")


def test_the_page_asks_for_the_key_if_there_is_one(browser, start_server):
    port = start_server(LLM_API_KEY="open sesame")[1]
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}")
    page.wait_for_selector("#key", state="visible")
    page.fill("#prompt", PROMPT)
    page.fill("#max_tokens", "5")
    page.click("#go")
    page.wait_for_selector("[role=alert]:not(:empty)")
    assert "expected the server's key" in page.inner_text("[role=alert]")
    page.fill("#key", "open sesame")
    page.click("#go")
    page.wait_for_selector("#about:not(:empty)")
    assert page.inner_text("article").startswith(PROMPT) and page.inner_text("[role=alert]") == ""
    page.close()


def test_one_of_several_books_is_chosen_and_named(browser, start_server, package, tiny_model, tmp_path, monkeypatch):
    books = [Book("The Echo", "", STORY[:3000]), Book("The <b>Wall</b>", "", STORY[3000:6000])]
    monkeypatch.setattr(dataset, "DATA", package / "data")
    encoder, folder = tokenizer.gpt2(), package / "data" / "two_books"
    dataset.write_dataset(folder, books, encoder, val_fraction=0, source={}, train_command=None)
    data = dataset.Dataset("two_books")
    (tmp_path / "out").mkdir()
    model = tiny_model(vocab_size=50304, block_size=64)
    save_trained(tmp_path / "out" / "ckpt.pt", model, data.train, data.corpus_ids, dataset="two_books")
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{start_server(cwd=tmp_path)[1]}")
    page.wait_for_selector("#book-box:not([hidden])")
    assert page.locator("#book option").all_inner_texts() == ["any", "The Echo", "The <b>Wall</b>"]
    page.select_option("#book", "The <b>Wall</b>")
    page.fill("#max_tokens", "3")
    page.click("#go")  # without a prompt: from the book's beginning
    cited = page.wait_for_selector("article .cited")
    assert cited.get_attribute("title").startswith("The <b>Wall</b>, ")
    assert page.inner_text("article").split()[:8] == STORY[3000:].split()[:8]
    assert "The <b>Wall</b>, " in page.inner_text("#about")
    page.context.close()
