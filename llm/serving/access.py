"""Who may send requests to the server: this machine's own programs and pages, or whoever brings the key."""

import hmac
from collections.abc import Callable, Mapping

from llm.serving.completions import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Check = Callable[[Mapping[str, str], str], None]  # (headers, path); raises Refused


def request_check(host: str, key: str | None) -> Check:
    """check(headers, path), which raises Refused for a request from a foreign web page or without the key.

    A page in a browser can send requests to this machine. They carry its Origin, or a foreign Host if that host's name
    was made to resolve to this machine (DNS rebinding).
    """
    own_names = {host, *LOOPBACK} if host in LOOPBACK else None  # None: open to others, who may use any name

    def check(headers: Mapping[str, str], path: str) -> None:
        request_host = headers.get("host", "")
        names = {request_host.rsplit(":", 1)[0].strip("[]"), request_host.strip("[]")}  # without and with a port
        if own_names and not names & own_names:
            raise Refused(403, f"Host {request_host!r} is not this machine")
        if headers.get("origin") not in (None, f"http://{request_host}", f"https://{request_host}"):
            raise Refused(403, f"Origin {headers['origin']!r} is another site")
        if key and path not in ("/", "/healthz"):
            request_key = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(request_key.encode(), key.encode()):
                raise Refused(401, "expected the server's key: Authorization: Bearer KEY", code="invalid_api_key")

    return check
