"""Downloading a text, from a web server on this machine."""

import contextlib
import http.server
import threading
from types import SimpleNamespace

import pytest

from llm.configurator import UserError
from llm.text.download import download, obtain

BOOK = "The ferry left the north bank a little after six, and nobody on it spoke; the ferryman sang.\n" * 10


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, kind, length, body = {
            "/book.txt": (200, "text/plain; charset=utf-8", len(BOOK), BOOK.encode()),
            "/bytes": (200, "application/octet-stream", len(BOOK), BOOK.encode()),
            "/html": (200, "text/html", 30, b"<html>Please log in</html>    "),
            "/disguised": (200, "text/plain", 30, b"<!DOCTYPE html>Please log in   "[:30]),
            "/pdf": (200, "application/pdf", len(BOOK), BOOK.encode()),
            "/broken": (200, "text/plain", 10 * len(BOOK), BOOK.encode()),
        }.get(self.path, (404, "text/plain", 4, b"gone"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have closed the connection
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def get(url, **changes) -> bytes:
    checks = {"min_bytes": 10, "max_bytes": 5000, "by_hand": "Type THIS.", "timeout": 5.0, "text_only": True}
    return download(url, **checks | changes)


def test_downloads_a_text(server):
    assert get(f"{server}/book.txt", must_contain="FERRYMAN") == BOOK.encode()


def test_downloads_a_text_without_a_specific_content_type(server):
    assert get(f"{server}/bytes") == BOOK.encode()


@pytest.mark.parametrize("page", ["html", "pdf"])
def test_downloads_a_document_if_it_need_not_be_plain_text(server, page):
    assert get(f"{server}/{page}", text_only=False)


def test_an_error_shows_neither_password_nor_query_of_an_address(server):
    with pytest.raises(UserError) as error:
        get(server.replace("//", "//ada:secret@") + "/missing?token=secret#secret")
    assert "secret" not in str(error.value) and f"{server}/missing" in str(error.value)


@pytest.mark.parametrize(
    "page, changes, words",
    [
        ("html", {}, "text/html, not a plain text"),
        ("disguised", {}, "not a plain text"),
        ("pdf", {}, "application/pdf, not a plain text"),
        ("missing", {}, "the server answered 404"),
        ("book.txt", {"min_bytes": 4000}, "expected at least 4,000"),
        ("book.txt", {"max_bytes": 500}, "more than 500 bytes"),
        ("book.txt", {"must_contain": "little prince"}, "'little prince' do not occur"),
        ("broken", {}, "broke off midway"),
    ],
)
def test_a_wrong_answer_is_one_line(server, page, changes, words):
    with pytest.raises(UserError, match=words) as error:
        get(f"{server}/{page}", **changes)
    assert str(error.value).endswith("; Type THIS.") and len(str(error.value)) < 200


def test_a_download_that_never_ends_is_abandoned_after_the_timeout(monkeypatch):
    """requests' own timeout never ends this download, because bytes keep arriving."""
    abandoned = threading.Event()

    def arriving(chunk_size):
        while not abandoned.wait(0.01):
            yield b"x"

    response = SimpleNamespace(status_code=200, headers={}, iter_content=arriving)
    monkeypatch.setattr("requests.get", lambda url, **options: contextlib.nullcontext(response))
    with pytest.raises(UserError, match="no complete answer within 0.1 seconds"):
        get("http://slow", timeout=0.1)
    abandoned.set()


def test_a_refused_connection_is_reported_in_words():
    with pytest.raises(UserError, match="no connection"):
        get("http://127.0.0.1:1/book.txt")


def test_an_unusable_address_is_reported_in_words():
    with pytest.raises(UserError, match="no usable address"):
        get("http:///book.txt")


@pytest.mark.parametrize("stop, seen", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space"), UserError)])
def test_nothing_half_written_stays_after_ctrl_c_or_on_a_full_disk(server, tmp_path, monkeypatch, stop, seen):
    def stopped(descriptor):
        raise stop

    monkeypatch.setattr("os.fsync", stopped)
    with pytest.raises(seen):
        obtain(tmp_path / "new", f"{server}/book.txt", None, instead="", max_bytes=5000)
    assert not list((tmp_path / "new").iterdir())


def test_obtain_prefers_a_given_file_then_input_txt_then_the_download(server, tmp_path):
    checks = {"min_bytes": 10, "max_bytes": 5000, "must_contain": "ferry", "instead": "THAT"}
    url = f"{server}/book.txt"
    assert obtain(tmp_path, url, "given.txt", **checks)[0].name == "given.txt"
    assert obtain(tmp_path, url, None, **checks) == (tmp_path / "input.txt", url)
    (tmp_path / "input.txt").write_text("by hand", encoding="utf-8")
    assert obtain(tmp_path, url, None, **checks) == (tmp_path / "input.txt", None)
    assert (tmp_path / "input.txt").read_text(encoding="utf-8") == "by hand"


def test_obtain_names_the_file_to_create_and_a_command_that_needs_no_download(server, tmp_path):
    checks = {"min_bytes": 10, "max_bytes": 5000, "must_contain": "", "instead": "python tale.py"}
    with pytest.raises(UserError) as error:
        obtain(tmp_path, f"{server}/missing", None, **checks)
    assert str(tmp_path / "input.txt") in str(error.value) and str(error.value).endswith(": python tale.py")


@pytest.mark.parametrize("folder, reason", [("file", "File exists"), ("file/prince", "Not a directory")])
def test_a_file_in_the_way_of_the_folder_is_one_line(server, tmp_path, folder, reason):
    """The text was downloaded, and then there was a traceback."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"cannot write to .*file.*: {reason}"):
        obtain(tmp_path / folder, f"{server}/book.txt", None, instead="", max_bytes=5000)
