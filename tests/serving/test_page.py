"""The page in a real browser: a reader looks around, lets it recite, follows the map, makes a mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import STORY, save_trained

from llm.text import dataset, tokenizer
from llm.text.book import Book, Chapter

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# axe-core is a tool of developers: npm install axe-core, in the folder of the repository or elsewhere
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core")) / "axe.min.js"
DESKTOP, PHONE = (1280, 900), (390, 844)
LEARNED = STORY[: STORY.index("\n\n", 2600)]  # of the tale, so much that learning it takes a few seconds
ARABIC = "كان يا ما كان في قديم الزمان ملك عظيم يحب الكتب والحكايات، وكان يقرأ كل ليلة كتابا جديدا.\n\n" * 30


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
def learned(package, tmp_path_factory):
    """A folder with out/, in which a model has learned the beginning of the tale by heart."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", package / "data")
        chapters = [Chapter(m[0], m.start()) for m in re.finditer(r"^Chapter \d.*", LEARNED, re.MULTILINE)]
        book = Book("The Echo Of The Kettle", "Nobody", LEARNED, chapters)
        options = dict(val_fraction=0, source={}, train_command=None)
        dataset.write_dataset(package / "data" / "learned", [book], tokenizer.gpt2(), **options)
    shape = ["--n_layer=3", "--n_head=4", "--n_embd=128"]
    words = ["config/train_tale.py", "--dataset=learned", f"--out_dir={folder / 'out'}", "--dtype=float32", *shape]
    environment = os.environ | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "train.py", *words], cwd=package, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def port(start_server, learned):
    """One server for the pages of most tests here."""
    return start_server(cwd=learned)[1]


@pytest.fixture
def visit(browser, port):
    """visit(size, port=..., hash=..., **context) opens the page; afterwards no script may have failed in it."""
    contexts, errors = [], []

    def visit(size=DESKTOP, port=port, hash="", **options):
        context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/{hash}")
        until(page, "document.title !== 'Read it back'")
        return page

    yield visit
    for context in contexts:
        for page in context.pages:
            width = page.viewport_size["width"]
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing overflows at the side
        context.close()
    assert errors == []


def until(page, condition, seconds=30):
    """Wait for a condition in JavaScript. Playwright's wait_for_function needs eval, which the page's CSP forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"{condition}: {page.inner_text('[role=alert]')}"
        page.wait_for_timeout(20)


def wait_for_map(page):
    until(page, "levels.length > 0 && levels.every((level) => level >= 0)")


def text_of(page):
    """The text of the first column, as it is copied."""
    return page.evaluate("recital.prompt + recital.columns[0].text")


def wait_until_done(page):
    until(page, "recital !== null && going === null")


def serious_problems(page):
    """What axe-core finds that keeps somebody from using the page: (rule, elements)."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm install axe-core; AXE_CORE names its folder)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


RECORD_SHIFTS = """() => new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts = (window.shifts || 0) + entry.value;
}).observe({type: "layout-shift", buffered: true})"""


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_book_is_there(visit, size):
    page = visit(size)
    page.evaluate(RECORD_SHIFTS)
    wait_for_map(page)
    assert page.inner_text("h1") == "The Echo Of The Kettle"
    byline = page.inner_text("#byline")
    assert byline.startswith(f"by Nobody · {len(LEARNED.split()):,} words") and "% known by heart" in byline
    if size == PHONE:
        page.click("#view-book")
    options = page.locator("#part option").all_inner_texts()
    assert "Chapter 1. The Invalid" in options
    assert page.inner_text("#text").split()[:5] == LEARNED.split()[:5]
    page.select_option("#part", label="Chapter 1. The Invalid")
    until(page, "document.querySelector('#part-title').textContent === 'Chapter 1. The Invalid'")
    assert page.inner_text("#text").startswith("Chapter 1. The Invalid")
    assert page.evaluate("window.shifts || 0") < 0.05  # beyond 0.1, people notice


def test_a_passage_is_recited_with_the_keyboard_alone(visit, port):
    page = visit()
    wait_for_map(page)
    words = LEARNED.split()
    page.focus("#prompt")
    page.keyboard.type(" ".join(words[40:52]))
    page.keyboard.press("Enter")
    wait_until_done(page)
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert text_of(page).split()[:50] == words[40:90]
    assert re.match(r"All \d+ words stand in the book\.", page.inner_text("#about"))
    assert page.locator("mark.invented").count() == 0
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "surprise"
    focused = []
    while "more" not in focused:
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert focused == ["temperature", "SUMMARY", "more"]
    length = len(text_of(page))
    page.keyboard.press("Enter")  # go on
    wait_until_done(page)
    assert len(text_of(page)) > length and page.evaluate("document.activeElement.id") == "more"
    page.locator("article button.place").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#text mark")
    assert page.evaluate("document.activeElement.tagName") == "MARK"
    assert page.inner_text("#text mark").split()[:8] == words[40:48]


def test_a_link_reproduces_what_is_shown(visit, port):
    page = visit()
    page.click("summary")
    page.fill("#max_tokens", "60")
    page.fill("#prompt", "The echo had been ill")
    page.locator("#temperature").fill("1.2")
    page.click("#go")
    wait_until_done(page)
    length = len(text_of(page))
    page.click("#more")
    until(page, f"recital.columns[0].text.length > {length - 20} || going === null")
    page.keyboard.press("Escape")
    wait_until_done(page)
    text, address = text_of(page), page.evaluate("location.hash")
    other = visit(hash=address)
    until(other, "recital !== null")
    wait_until_done(other)
    assert text_of(other) == text and other.input_value("#temperature") == "1.2"


def test_it_stops_when_it_is_told_to_and_the_focus_stays(visit, port):
    page = visit()
    page.click("summary")
    page.fill("#prompt", "The echo had been ill")
    page.fill("#max_tokens", "4000")
    page.locator("#temperature").fill("1")
    page.click("#go")
    until(page, "recital?.columns[0].text.length > 20")
    assert page.inner_text("#go") == "Stop"
    page.click("#go")
    wait_until_done(page)
    length = len(text_of(page))
    while running_samples(port) > 0:  # until the server has noticed, too
        page.wait_for_timeout(20)
    assert len(text_of(page)) == length < 10_000 and page.inner_text("[role=alert]") == ""
    assert page.inner_text("#go") == "Recite" and page.evaluate("document.activeElement.id") == "go"


def running_samples(port):
    """How many samples the server is drawing."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as response:
        return json.load(response)["running"]


def test_what_was_invented_is_marked_with_the_books_wording_beside_it(visit):
    page = visit()
    words = LEARNED.split()
    page.fill("#prompt", " ".join(words[40:52]))
    page.locator("#temperature").fill("1.2")
    page.click("summary")
    page.fill("#top_p", "1")
    page.fill("#seed", "3")
    page.click("#go")
    wait_until_done(page)
    page.evaluate(
        """([before, after]) => {  // a recitation that is certain to slip once
          recital.prompt = before; recital.columns[0].text = " xylophone" + after;
          return compareColumn(recital, recital.columns[0]);
        }""",
        [" ".join(words[40:60]), " " + " ".join(words[61:80])],
    )
    assert page.inner_text("mark.invented").split() == ["invented:", "xylophone"]
    assert page.inner_text("article .wording") == f"the book: “{words[60]}”"
    page.uncheck("#wording")
    assert not page.is_visible("article .wording")


def test_samples_stand_side_by_side_and_beside_the_model_before_it_learned(visit):
    page = visit()
    page.click("summary")
    page.fill("#samples", "2")
    page.fill("#max_tokens", "30")
    page.locator("#temperature").fill("1.2")
    page.check("#before")
    page.fill("#prompt", "The echo had been ill")
    page.click("#go")
    wait_until_done(page)
    assert page.locator("#columns h3").all_inner_texts() == ["Sample 1", "Sample 2", "Before it learned the book"]
    texts = page.evaluate("recital.columns.map((column) => column.text)")
    assert all(texts) and texts[2] not in texts[:2]


def test_the_map_is_walked_with_arrow_keys_and_opens_the_passage(visit):
    page = visit()
    wait_for_map(page)
    assert "by heart" in page.inner_text("#byline")
    page.focus("#map")
    for key in ("ArrowRight", "ArrowRight", "PageUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.get_attribute("#map", "aria-valuenow") == "2"
    page.keyboard.press("Home")
    assert page.get_attribute("#map", "aria-valuenow") == "0"
    page.keyboard.press("End")
    n = int(page.get_attribute("#map", "aria-valuenow"))
    assert n == page.evaluate("starts.length") - 1
    assert re.search(r"\d+ % · (known by heart|known for|not known)", page.get_attribute("#map", "aria-valuetext"))
    page.wait_for_selector("#spot-text br", state="attached")  # the passage's beginning
    page.keyboard.press("Enter")
    page.wait_for_selector("#text mark")
    start = page.evaluate(f"starts[{n}]")
    assert page.inner_text("#text mark").split()[:5] == LEARNED[start:].split()[:5]
    page.focus("#map")
    page.keyboard.press("Home")
    page.click("#spot-recite")
    wait_until_done(page)
    assert " ".join(LEARNED.split()).startswith(" ".join(text_of(page).split()[:30]))


def test_a_surprise_is_a_passage_that_is_known(visit):
    page = visit(PHONE)
    wait_for_map(page)
    page.click("#surprise")
    wait_until_done(page)
    prompt = page.input_value("#prompt")
    assert len(prompt.split()) >= 8 and " ".join(prompt.split()) in " ".join(LEARNED.split())
    assert len(text_of(page)) > len(prompt) + 100


def test_the_map_has_room_for_twenty_thousand_windows(visit):
    page = visit(PHONE)
    wait_for_map(page)
    many = {"starts": [n // 6 for n in range(20_000)], "levels": [n % 101 for n in range(20_000)]}
    answer = json.dumps(many | {"measuring": False, "obstacle": ""})
    page.route("**/book/windows", lambda route: route.fulfill(body=answer, content_type="application/json"))
    milliseconds = page.evaluate(
        "loadMap().then(() => { const began = performance.now(); drawMap(); return performance.now() - began; })"
    )
    assert milliseconds < 500
    assert page.get_attribute("#map", "aria-valuemax") == "19999"
    box = page.locator("#strip").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)
    assert 9_900 < int(page.get_attribute("#map", "aria-valuenow")) < 10_100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_serious_problem(visit, size, scheme):
    page = visit(size, color_scheme=scheme)
    wait_for_map(page)
    page.click("summary")
    page.fill("#prompt", "The echo had been ill")
    page.locator("#temperature").fill("1.2")
    page.click("#go")
    wait_until_done(page)
    assert serious_problems(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    if size == PHONE:
        page.click("#view-book")
        assert serious_problems(page) == [] and not page.is_visible("#prompt")


NAMED = """\
link "Skip to reciting"
banner
heading "The Echo Of The Kettle" [level=1]
main
region "What it knows, from the first page to the last"
slider "Map of the book: arrow keys move, Enter opens the passage"
button "Read it there"
button "Recite from there"
region "Let it recite"
textbox "How does the passage begin? Eight words or more are best."
button "Recite"
button "Surprise me"
slider "From reciting to dreaming"
button "Go on" [disabled]
button "Copy" [disabled]
button "Link" [disabled]
checkbox "the book's wording" [checked]
combobox "Chapter"
button "Next chapter"
button "Recite from here"
region "The beginning"
"""


def test_a_screen_reader_is_told_the_role_and_the_name_of_everything(visit):
    """The accessibility tree, which is what screen readers read, and what they announce by themselves."""
    page = visit()
    wait_for_map(page)
    page.wait_for_selector("#text p")
    spoken = page.locator("body").aria_snapshot()
    lines = {line.strip().removeprefix("- ").strip("':") for line in spoken.splitlines()}
    missing = [line for line in NAMED.splitlines() if not any(have.startswith(line) for have in lines)]
    assert not missing, f"{missing}\n{spoken}"
    nameless = r"(?m)^\s*- (button|link|textbox|slider|combobox|checkbox|spinbutton|region)( \[[^]]*\])*:?$"
    assert not re.findall(nameless, spoken), spoken
    live = page.evaluate("[...document.querySelectorAll('[role=status], [role=alert], [aria-live]')].map(e => e.id)")
    assert live == ["error", "about"]
    page.get_by_role("textbox", name="How does the passage begin?").fill(" ".join(STORY.split()[20:32]))
    page.get_by_role("button", name="Recite", exact=True).click()
    wait_until_done(page)
    assert "stand in the book" in page.get_by_role("status").filter(has_text="words").inner_text()
    page.get_by_role("slider", name="Map of the book").focus()
    page.keyboard.press("ArrowRight")
    assert "known by heart" in page.locator("#map").get_attribute("aria-valuetext")


def test_at_200_percent_nothing_is_cut_off(visit):
    page = visit((640, 450))  # what 1280 by 900 pixels are at 200 %
    wait_for_map(page)
    for selector in ("#title", "#go", "#surprise", "#temperature", "#map"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 640


def test_a_book_that_is_written_from_right_to_left(visit, start_server, package, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "DATA", package / "data")
    port = serve_books([Book("حكاية الملك", "كاتب", ARABIC)], "arabic", start_server, package, tiny_model, tmp_path)
    page = visit(port=port)
    wait_for_map(page)
    assert page.evaluate("getComputedStyle(document.querySelector('#text p')).direction") == "rtl"
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).direction") == "rtl"
    box = page.locator("#strip").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + 10)
    assert page.get_attribute("#map", "aria-valuenow") == "0"  # the first page is at the right
    page.focus("#map")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#map", "aria-valuenow") == "1"


def serve_books(books, name, start_server, package, tiny_model, folder):
    """The port of a server with a random model of these books."""
    options = dict(val_fraction=0, source={}, train_command=None)
    dataset.write_dataset(package / "data" / name, books, tokenizer.gpt2(), **options)
    data = dataset.Dataset(name)
    (folder / "out").mkdir()
    model = tiny_model(vocab_size=50304, block_size=128)
    save_trained(folder / "out" / "ckpt.pt", model, data.train, data.corpus_ids, dataset=name)
    return start_server(cwd=folder)[1]


def test_one_of_several_books_is_chosen_and_named(visit, start_server, package, tiny_model, tmp_path, monkeypatch):
    books = [Book("The Echo", "", STORY[:3000]), Book("The <b>Wall</b>", "", STORY[3000:6000])]
    monkeypatch.setattr(dataset, "DATA", package / "data")
    page = visit(port=serve_books(books, "two_books", start_server, package, tiny_model, tmp_path))
    assert page.inner_text("h1") == "The Echo, The <b>Wall</b>"
    page.click("summary")
    assert page.locator("#book option").all_inner_texts() == ["any", "The Echo", "The <b>Wall</b>"]
    page.select_option("#book", "The <b>Wall</b>")
    page.fill("#max_tokens", "3")
    page.click("#go")  # without a prompt: from the book's beginning
    wait_until_done(page)
    assert text_of(page).split()[:8] == STORY[3000:].split()[:8]
    assert page.locator("button.place").first.inner_text().startswith("The <b>Wall</b>, ")


def test_a_server_that_has_ended_is_told_in_a_readers_words(visit, start_server, learned):
    process, port = start_server(cwd=learned)
    page = visit(port=port)
    process.send_signal(signal.SIGKILL)
    process.wait()
    page.fill("#prompt", "The echo")
    page.click("#go")
    page.wait_for_selector("[role=alert]:not(:empty)")
    said = page.inner_text("[role=alert]")
    assert said == f"The server has ended. Start it again with: {page.evaluate('book.command')}"
    assert re.fullmatch(r".* python \S*serve\.py --out_dir=out", said)


def test_a_busy_server_is_asked_again(visit):
    page, refused = visit(), []

    def refuse_once(route):
        refused.append(route)
        error = {"error": {"message": "too many", "code": "queue_full"}}
        if len(refused) == 1:
            route.fulfill(status=429, body=json.dumps(error), content_type="application/json")
        else:
            route.continue_()

    page.route("**/v1/completions", refuse_once)
    page.fill("#prompt", "The echo had been ill")
    page.click("#go")
    until(page, "$('about').textContent.startsWith('The server is busy. Trying again')")
    wait_until_done(page)
    assert len(refused) == 2 and page.inner_text("[role=alert]") == "" and len(text_of(page)) > 100


def test_the_page_asks_for_the_key_if_there_is_one(browser, start_server, learned):
    port = start_server(cwd=learned, LLM_API_KEY="open sesame")[1]
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}")
    page.wait_for_selector("#key", state="visible")
    assert "asks for its key" in page.inner_text("[role=alert]") and page.inner_text("h1") == "Read it back"
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    until(page, "document.title !== 'Read it back'")
    page.fill("#prompt", "The echo had been ill")
    page.click("#go")
    wait_until_done(page)
    assert text_of(page).startswith("The echo") and page.inner_text("[role=alert]") == ""
    page.context.close()
