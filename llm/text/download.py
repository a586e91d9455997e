"""Download a text or a book: completely or not at all, and within a time limit."""

import queue
import re
import threading
from pathlib import Path

from llm.configurator import UserError
from llm.files import write_atomic

PROBLEMS = {  # by an exception's class name; the messages of requests are long and contain names of objects
    "Timeout": "no answer in time",
    "SSLError": "the secure connection failed",
    "ProxyError": "the proxy let nothing through",
    "ChunkedEncodingError": "the connection broke off midway",
    "ConnectionError": "no connection (offline, or the server is down)",
    "ValueError": "this is no usable address",
    "ImportError": "the package requests is missing: pip install requests",
}


def is_address(word: str) -> bool:
    """Whether a word is an address that can be downloaded from."""
    return re.match(r"https?://", word, re.I) is not None


def public_address(url: str) -> str:
    """An address without user name, password, query and fragment, any of which may be secret."""
    return re.sub(r"[?#].*", "", re.sub(r"(?<=//)[^/?#]*@", "", url), flags=re.S)


def obtain(folder: Path, url: str, given: str | None, *, instead: str, **checks) -> tuple[Path, str | None]:
    """(path, url) of the text to read; url is None unless it was downloaded now.

    It is the given file, else folder/input.txt, which is downloaded if it is missing. instead: a command that needs no
    network, for the error message. checks: keyword arguments of `download`.
    """
    if given is not None:
        return Path(given).expanduser(), None
    path = folder / "input.txt"
    if path.exists():
        return path, None
    by_hand = f"put the text into {path} by hand, or do without a download: {instead}"
    data = download(url, by_hand=by_hand, text_only=True, **checks)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {path.parent}: {e.strerror}") from None
    write_atomic(path, data)
    return path, url


def download(
    url: str,
    *,
    max_bytes: int,
    by_hand: str,
    min_bytes: int = 1,
    must_contain: str = "",
    text_only: bool = False,
    timeout: float = 12,
) -> bytes:
    """The bytes at `url`. UserError if they cannot be had completely; it ends with `by_hand`.

    timeout: seconds for the whole download. must_contain: words that the text has, ignoring case. text_only: whether a
    web page, which may be one that asks for a password, and any other document are refused.
    """
    # requests limits the time of each packet but not of the whole download, and not of the host name's look-up, so a
    # slow server could block for hours. A daemon thread downloads, and is abandoned after the timeout.
    answers: queue.SimpleQueue[bytes | UserError] = queue.SimpleQueue()

    def fetch() -> None:
        try:
            import requests

            with requests.get(url, stream=True, timeout=timeout) as response:
                answers.put(checked_body(response, min_bytes, max_bytes, must_contain, text_only=text_only))
        except UserError as e:
            answers.put(e)
        except Exception as e:
            classes = [cls.__name__ for cls in type(e).__mro__]
            answers.put(UserError(next((words for name, words in PROBLEMS.items() if name in classes), classes[0])))

    threading.Thread(target=fetch, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = UserError(f"no complete answer within {timeout:g} seconds")
    if isinstance(answer, UserError):
        raise UserError(f"could not download {public_address(url)}: {answer}; {by_hand}")
    return answer


def checked_body(response, min_bytes: int, max_bytes: int, must_contain: str, *, text_only: bool) -> bytes:
    """The body of a response. UserError with the reason alone if it is not what was expected."""
    if response.status_code != 200:
        raise UserError(f"the server answered {response.status_code} {response.reason}")
    kind = response.headers.get("Content-Type", "text/plain").split(";")[0].strip().lower()
    body = bytearray()
    if kind.startswith("text/") or kind.endswith("octet-stream") or not text_only:
        for chunk in response.iter_content(65_536):
            body += chunk
            if len(body) > max_bytes:
                raise UserError(f"the server sends more than {max_bytes:,} bytes")
    is_page = "html" in kind or re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html)", body, re.I)
    if text_only and (not body or is_page):
        raise UserError(f"the server sent a page or file of type {kind}, not a plain text")
    if len(body) < min_bytes:
        raise UserError(f"the server sent {len(body):,} bytes, expected at least {min_bytes:,}")
    if must_contain.lower().encode() not in body.lower():
        raise UserError(f"the words {must_contain!r} do not occur in what the server sent")
    return bytes(body)
