"""Who may send requests to the server: this machine's own programs and pages, or whoever brings the key."""

import collections
import hmac
import os
import re
import time
from collections.abc import Mapping

from llm.serving.parameters import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/", "/healthz")  # need no key
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\\\s]+?)\.?(:\d{1,5})?")
WRONG_KEYS = 10  # wrong keys that an address may try at once
SECONDS_PER_KEY = 1.0  # until it may try another one
MAX_ADDRESSES = 10_000  # whose wrong keys are counted


def host_name(host: str) -> str | None:
    """The name in a Host header, without its port, in lower case; None if it is no host."""
    found = HOST.fullmatch(host.lower())
    return found[1].strip("[]") if found else None


class WrongKeys:
    """Counts wrong keys by address: WRONG_KEYS at once, then one every SECONDS_PER_KEY."""

    def __init__(self):
        self.free_at: collections.OrderedDict[str, float] = collections.OrderedDict()  # when all are forgotten

    def may_try(self, address: str) -> bool:
        """Whether this address may try a key now."""
        return self.free_at.get(address, 0.0) - time.monotonic() < WRONG_KEYS * SECONDS_PER_KEY

    def add(self, address: str) -> None:
        """Count a wrong key from this address."""
        self.free_at[address] = max(self.free_at.pop(address, 0.0), time.monotonic()) + SECONDS_PER_KEY
        if len(self.free_at) > MAX_ADDRESSES:
            self.free_at.popitem(last=False)


class Access:
    """Checks requests: from where, and with which key.

    A page in a browser can send requests to this machine. They carry its Origin, or a foreign Host if that host's name
    was made to resolve to this machine (DNS rebinding). A browser always sends a Host.
    """

    def __init__(self, host: str, key: str | None, allow_host: str = ""):
        """host: that the server listens on; key: that requests must bring along, None or "" = none.

        allow_host: further names of this server, separated by commas: those under which a proxy is reached.
        """
        self.allowed = [name.strip().lower() for name in allow_host.split(",") if name.strip()]
        own_names = {host.lower(), *LOOPBACK, *map(host_name, self.allowed)}
        # None: open to others, who may use any name
        self.own_names = own_names if host.lower() in LOOPBACK or self.allowed else None
        self.key = os.fsencode(key.strip()) if key else b""  # the bytes of the environment variable
        self.wrong_keys = WrongKeys()

    def check(self, headers: Mapping[str, str], path: str, address: str = "") -> None:
        """Raise Refused for a request from a foreign web page or without the key. address: the client's."""
        self._check_host(headers)
        if self.key and path not in OPEN_PATHS:
            self._check_key(headers.get("authorization", ""), address)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Refused if the request is for another host or comes from another site's page."""
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and (host_name(host) is None or (self.own_names and host_name(host) not in self.own_names)):
            raise Refused(403, f"Host {shortened(host)} is not this server; --allow_host names others")
        if origin is not None:
            scheme, _, netloc = origin.lower().partition("://")
            if scheme not in ("http", "https") or netloc not in {(host or "").lower(), *self.allowed} - {""}:
                raise Refused(403, f"Origin {shortened(origin)} is another site")

    def _check_key(self, authorization: str, address: str) -> None:
        """Refused unless the header has the key. Too many wrong keys from an address: no more are compared."""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() != "bearer" or not credentials:
            raise Refused(401, "expected the server's key: Authorization: Bearer KEY", code="invalid_api_key")
        if not self.wrong_keys.may_try(address):
            raise Refused(429, "too many wrong keys from this address; try again in a few seconds", code="wrong_keys")
        # servers decode headers as Latin-1, in which each byte is a character
        if not hmac.compare_digest(credentials.strip(" ").encode("latin-1", "replace"), self.key):
            self.wrong_keys.add(address)
            raise Refused(401, "expected the server's key: Authorization: Bearer KEY", code="invalid_api_key")


def shortened(text: str) -> str:
    """A header's value for a message."""
    return repr(text[:100])
