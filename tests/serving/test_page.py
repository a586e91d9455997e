"""The page in a real browser: a person types, watches, stops, changes a setting, makes a mistake."""

import shutil

import pytest
from conftest import STORY

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


@pytest.fixture(params=[(1200, 850), (390, 844)], ids=["desktop", "phone"])
def page(browser, start_server, request):
    """The page as it opens, at a desktop's and at a phone's width; afterwards: nothing went wrong in it."""
    width, height = request.param
    context, wrong = browser.new_context(viewport={"width": width, "height": height}), []
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"http://127.0.0.1:{server(start_server)}")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing hangs out at the side
    assert wrong == []
    context.close()


def server(start_server, started=[]):  # noqa: B006 (one for all tests of this file)
    if not started:
        started.append(start_server()[1])
    return started[0]


def test_a_person_reads_the_book_with_the_keyboard_alone(page):
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#max_tokens", "1500")
    page.focus("#prompt")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Enter")
    page.wait_for_selector("article.going")
    lengths = {len(page.inner_text("article")) for _ in range(200)}
    assert len(lengths) > 3  # it comes in pieces
    page.wait_for_selector("#go:not([disabled])")
    text = page.inner_text("article")
    assert text.startswith(PROMPT) and len(text) > 300
    page.wait_for_selector("#about:not(:empty)")
    assert "words stand in the book, in spans of 8 or more" in page.inner_text("#about")
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id"))
    assert names == ["go", "max_tokens", "temperature", "top_p", "seed", "end"]


def test_what_stands_in_the_book_is_underlined_and_what_was_typed_is_grey(page):
    words = " ".join(STORY[:6000].split()[100:120])
    page.fill("#prompt", f"He said: {words} but")
    page.fill("#max_tokens", "3")
    page.click("#go")
    cited = page.wait_for_selector("article .cited")
    assert cited.inner_text() == words and "line" in cited.get_attribute("title")
    assert "typed" in cited.get_attribute("class")
    assert "underline" in cited.evaluate("node => getComputedStyle(node).textDecorationLine")


@pytest.mark.parametrize("how", ["click", "Escape"])
def test_it_stops_when_it_is_told_to(page, how):
    page.fill("#prompt", PROMPT)
    page.fill("#max_tokens", "4000")
    page.click("#go")
    page.wait_for_selector("article.going .typed + span")
    page.click("#stop") if how == "click" else page.keyboard.press("Escape")
    page.wait_for_selector("#go:not([disabled])")
    said = page.inner_text("article")
    page.wait_for_timeout(300)
    assert page.inner_text("article") == said and PROMPT in said and len(said) < 10_000
    assert page.inner_text("[role=alert]") == ""
    page.wait_for_selector("#about:not(:empty)")


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


def test_a_mistake_is_said_and_can_be_mended(page):
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


def test_an_empty_beginning_is_a_mistake(page):
    page.click("#go")
    page.wait_for_selector("[role=alert]:not(:empty)")
    assert page.inner_text("[role=alert]").startswith("prompt: expected a text that is not empty")


def test_where_there_is_a_key_the_page_asks_for_it(browser, start_server):
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
