"""Fetch a text over HTTP: all of it or nothing, within a time limit, and only if it is a plain text."""

import queue
import re
import threading
from pathlib import Path

from llm.configurator import UserError
from llm.files import write_atomic

PROBLEMS = {  # of a download, by the exception's name; what requests itself says is long and full of object names
    "Timeout": "no answer in time",
    "SSLError": "the secure connection failed",
    "ProxyError": "the proxy let nothing through",
    "ChunkedEncodingError": "the connection broke off midway",
    "ConnectionError": "no connection (offline, or the server is down)",
    "ValueError": "this is no usable address",
    "ImportError": "the package requests is missing: pip install requests",
}


def obtain(folder: Path, url: str, given: str | None, *, instead: str, **checks) -> tuple[Path, str | None]:
    """(file to read, its url if it was downloaded now): the given file, else folder/input.txt, else a download to it.

    `instead` is the command that a user without a network can type, `checks` are those of `download`.
    """
    kept = folder / "input.txt"
    if given is not None or kept.exists():
        return (kept if given is None else Path(given)), None
    download(url, kept, by_hand=f"put the text into {kept} by hand, or do without a download: {instead}", **checks)
    return kept, url


def download(
    url: str, path: Path, *, min_bytes: int, max_bytes: int, must_contain: str, by_hand: str, timeout: float = 12
) -> None:
    """Writes the text at `url` to `path`, all of it or nothing. UserError, which ends with `by_hand`, if it cannot.

    `timeout` is for the whole of it, in seconds. `must_contain` is compared without regard to case.
    """
    # The timeouts of requests hold for one packet each, and not at all for looking up a host's name, so a server that
    # drips would keep us for hours: a daemon thread does the waiting, and is left behind at the deadline.
    answers: queue.SimpleQueue[bytes | UserError] = queue.SimpleQueue()

    def work() -> None:
        try:
            import requests

            with requests.get(url, stream=True, timeout=timeout) as response:
                answers.put(checked_body(response, min_bytes, max_bytes, must_contain))
        except UserError as e:
            answers.put(e)
        except Exception as e:
            kinds = [kind.__name__ for kind in type(e).__mro__]
            answers.put(UserError(next((words for kind, words in PROBLEMS.items() if kind in kinds), kinds[0])))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = UserError(f"no complete answer within {timeout:g} seconds")
    if isinstance(answer, UserError):
        raise UserError(f"could not download {url}: {answer}; {by_hand}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, answer)


def checked_body(response, min_bytes: int, max_bytes: int, must_contain: str) -> bytes:
    """Body of a response, in memory until all of it is checked. UserError, the bare reason, if it is not the text."""
    if response.status_code != 200:
        raise UserError(f"the server answered {response.status_code} {response.reason}")
    kind = response.headers.get("Content-Type", "text/plain").split(";")[0].strip().lower()
    body = bytearray()
    if kind.startswith("text/") or kind.endswith("octet-stream"):
        for chunk in response.iter_content(65_536):
            body += chunk
            if len(body) > max_bytes:
                raise UserError(f"the server sends more than {max_bytes:,} bytes")
    if not body or "html" in kind or re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html)", body, re.I):
        raise UserError(f"the server sent a page or file of type {kind}, not a plain text")
    if len(body) < min_bytes:
        raise UserError(f"the server sent {len(body):,} bytes, expected at least {min_bytes:,}")
    if must_contain.lower().encode() not in body.lower():
        raise UserError(f"the words {must_contain!r} do not occur in what the server sent")
    return bytes(body)
