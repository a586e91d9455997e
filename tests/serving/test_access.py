"""Requests from foreign web pages are refused, and those without the key."""

import pytest

from llm import serve
from llm.configurator import UserError
from llm.serving import access
from llm.serving.access import SECONDS_PER_KEY, WRONG_KEYS, Access
from llm.serving.parameters import Refused

HEADERS = {"host": "book.example:80", "authorization": "Bearer secret"}


def test_with_the_key_requests_are_accepted():
    assert Access("0.0.0.0", "secret").check(HEADERS, "/v1/models") is None


@pytest.mark.parametrize("path", ["/", "/healthz"])
def test_the_page_itself_needs_no_key(path):
    """It holds nothing of the book, and asks for the key."""
    assert Access("0.0.0.0", "secret").check({"host": "book.example"}, path) is None


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer geheim"}, {"authorization": "Bearer sécret"}])
def test_without_the_key_requests_are_refused(headers):
    with pytest.raises(Refused, match="expected the server's key") as refused:
        Access("0.0.0.0", "secret").check({"host": "book.example"} | headers, "/v1/completions")
    assert refused.value.status == 401 and refused.value.body()["error"]["code"] == "invalid_api_key"


def test_another_web_site_is_refused_even_with_the_key():
    with pytest.raises(Refused, match="another site"):
        Access("0.0.0.0", "secret").check(HEADERS | {"origin": "http://evil.example"}, "/")


def status(check, headers, path="/v1/models", address="1.2.3.4"):
    """How a request is answered."""
    try:
        check.check(headers, path, address)
    except Refused as refused:
        return refused.status
    return 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "localhost."])
def test_the_names_of_this_machine_are_compared_without_regard_to_case(host):
    assert status(Access("127.0.0.1", None), {"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "localhost:80:80", "[::1]evil", "[[localhost]]", "a@localhost", ""],
)
def test_any_other_name_may_be_a_rebinding(host):
    assert status(Access("127.0.0.1", None), {"host": host}) == 403


def test_a_request_of_http_1_0_needs_no_host():
    """Browsers always send one."""
    assert status(Access("127.0.0.1", None), {}) == 200
    assert status(Access("127.0.0.1", None), {"origin": "http://evil.example"}) == 403


@pytest.mark.parametrize("host", ["book.example", "Book.Example:443", "127.0.0.1:8000", "localhost"])
def test_behind_a_proxy_its_name_is_allowed(host):
    """With the Host that the browser sent, or with one that the proxy wrote in its place."""
    check = Access("127.0.0.1", None, "book.example, www.book.example")
    assert status(check, {"host": host, "origin": "https://book.example"}) == 200
    assert status(check, {"host": host}) == 200
    assert status(check, {"host": host, "origin": "https://evil.example"}) == 403
    assert status(check, {"host": host, "origin": "https://book.example.evil.example"}) == 403
    assert status(check, {"host": "evil.example"}) == 403


def test_a_server_that_is_open_to_others_has_any_name_unless_some_are_given():
    assert status(Access("0.0.0.0", "k"), {"host": "any.example"}, "/") == 200
    check = Access("0.0.0.0", "k", "book.example:8443")
    assert status(check, {"host": "any.example"}, "/") == 403
    assert status(check, {"host": "book.example:8443", "origin": "https://book.example:8443"}, "/") == 200


@pytest.mark.parametrize("settings", [{"allow_host": "a b"}, {"allow_host": "https://book.example"}])
def test_a_name_that_is_no_host_gets_one_line(settings):
    with pytest.raises(UserError, match="is no host; type --allow_host=book.example"):
        serve.make_access(serve.Settings(**settings), None)


@pytest.mark.parametrize(
    "authorization, expected",
    [
        ("Bearer k", 200),
        ("bearer k", 200),
        ("BEARER  k ", 200),
        ("k", 401),
        ("Basic k", 401),
        ("Bearer", 401),
        ("", 401),
    ],
)
def test_the_scheme_has_no_case_and_is_needed(authorization, expected):
    assert status(Access("0.0.0.0", "k"), {"authorization": authorization}) == expected


def test_keys_are_compared_as_bytes():
    """Headers arrive as Latin-1; a byte that is no UTF-8 was an exception."""
    as_sent = "sécret".encode().decode("latin-1")
    assert status(Access("0.0.0.0", "sécret"), {"authorization": f"Bearer {as_sent}"}) == 200
    assert status(Access("0.0.0.0", "sécret"), {"authorization": "Bearer sécret"}) == 401
    assert status(Access("0.0.0.0", "k\udcff\n"), {"authorization": "Bearer k\xff"}) == 200


def test_wrong_keys_of_an_address_are_slowed_down_and_no_one_elses(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(access.time, "monotonic", lambda: now[0])
    check, wrong, right = Access("0.0.0.0", "k"), {"authorization": "Bearer x"}, {"authorization": "Bearer k"}
    assert [status(check, wrong) for _ in range(WRONG_KEYS)] == [401] * WRONG_KEYS
    assert status(check, wrong) == 429 and status(check, right) == 429  # neither says whether it is the key
    assert status(check, right, address="5.6.7.8") == 200
    now[0] += SECONDS_PER_KEY
    assert status(check, wrong) == 401 and status(check, wrong) == 429
    now[0] += 2 * SECONDS_PER_KEY
    assert status(check, right) == 200


def test_few_addresses_are_remembered(monkeypatch):
    monkeypatch.setattr(access, "MAX_ADDRESSES", 3)
    check = Access("0.0.0.0", "k")
    for n in range(10):
        status(check, {"authorization": "Bearer x"}, address=str(n))
    assert list(check.wrong_keys.free_at) == ["7", "8", "9"]
