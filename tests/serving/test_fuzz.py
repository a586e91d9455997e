"""Random requests: never a status of 5xx, never a broken answer, never long.

tests/attack_server.py runs the same for minutes.
"""

import collections
import contextlib
import json
import time

import pytest
from attack_server import COMPLETIONS, Server
from conftest import STORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = [
    "model",
    "prompt",
    "messages",
    "text",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
]
NAMES += [
    "stream",
    "stream_options",
    "seed",
    "echo",
    "logprobs",
    "top_logprobs",
    "best_of",
    "user",
    "suffix",
    "logit_bias",
]
NAMES += ["presence_penalty", "frequency_penalty", "tools", "response_format"]
PATHS = (COMPLETIONS, "/v1/chat/completions", "/cite", "/compare")
SLOWEST = 1.0  # seconds of CPU that a refusal may take; how long that is depends on who else is busy

characters = st.characters(codec=None)  # lone surrogates, too
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(characters, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
text = st.text(min_size=1, max_size=60)
ids = st.lists(st.integers(0, 50256), min_size=1, max_size=60)
length = {"max_tokens": st.integers(0, 20)}
sampling = {
    "temperature": st.floats(0, 2) | st.sampled_from([0, 5e-324, 1e-300, 1e-10]),
    "top_p": st.floats(0, 1) | st.sampled_from([0, 5e-324, 1]),
    "n": st.integers(1, 3),
    "stop": text | st.lists(text, max_size=4),
    "stream": st.booleans(),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "user": text,
}
prompt = text | st.lists(text, min_size=1, max_size=3) | ids | st.lists(ids, min_size=1, max_size=3)
more = {"echo": st.booleans(), "logprobs": st.none() | st.integers(0, 5)}
content = text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), min_size=1, max_size=2)
messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "user", "system"]), "content": content}))
last = messages.map(lambda before: [*before, {"role": "user", "content": "a"}])
valid = {
    COMPLETIONS: st.fixed_dictionaries({"prompt": prompt}, optional=length | sampling | more),
    PATHS[1]: st.fixed_dictionaries({"messages": last} | length, optional=sampling),
    PATHS[2]: st.fixed_dictionaries({"text": st.text(max_size=200)}),
    PATHS[3]: st.fixed_dictionaries({"text": st.lists(text | st.sampled_from(STORY.split(".")[:40])).map(".".join)}),
}
mixed = st.dictionaries(st.sampled_from(NAMES) | st.text(characters, max_size=6), anything, max_size=5)
large = st.tuples(st.sampled_from(NAMES), anything, st.integers(1, 200_000)).map(
    lambda parts: {parts[0]: [parts[1]] * parts[2]}
)
requests = st.sampled_from(PATHS).flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.one_of(
            valid[path].map(lambda body: (True, body)),
            mixed.map(lambda body: (False, body)),
            st.tuples(valid[path], mixed).map(lambda bodies: (False, bodies[0] | bodies[1])),
            large.map(lambda body: (False, body)),
        ),
    )
)


def check(server: Server, path: str, is_valid: bool, body: dict, counts: collections.Counter) -> None:
    """Send a request and check what comes."""
    data = json.dumps(body, ensure_ascii=True).encode()[:1_000_000]  # cut: no JSON any longer
    began, cpu_began = time.perf_counter(), server.cpu_seconds()
    status, answer = server.ask("POST", path, data, timeout=60)
    seconds, cpu_seconds = time.perf_counter() - began, server.cpu_seconds() - cpu_began
    counts[status] += 1
    if status != 200:
        counts["slowest refusal, ms"] = max(counts["slowest refusal, ms"], round(1000 * seconds))
        counts["most CPU of a refusal, ms"] = max(counts["most CPU of a refusal, ms"], round(1000 * cpu_seconds))
        assert status in (400, 404, 413, 429) and json.loads(answer)["error"]["message"], (status, answer)
        assert not is_valid or (status == 400 and "logprobs of a prompt" in answer), (status, answer)
        return
    assert "server_error" not in answer
    if path in ("/cite", "/compare"):
        assert "".join(piece["text"] for piece in json.loads(answer)["pieces"]) == body["text"]
    elif body.get("stream") is True:
        assert answer.endswith("data: [DONE]\n\n")
    else:
        check_choices(json.loads(answer), body)


def check_choices(answer: dict, body: dict) -> None:
    """All choices are there and finished, none has a stop string, logprobs are of one length."""
    stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        drawn = choice["message"]["content"] if "message" in choice else choice["text"]
        assert body.get("echo") or not any(stop in drawn for stop in stops)
        if choice["logprobs"]:
            assert len({len(values) for values in choice["logprobs"].values()}) == 1
            assert all(0 <= offset <= len(drawn) for offset in choice["logprobs"]["text_offset"])


def fuzz(server: Server, n: int, counts: collections.Counter, *, until: float = float("inf")) -> None:
    """Send n random requests, or fewer if the time until then is over."""

    @settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(requests)
    def send(request):
        if time.monotonic() < until:
            path, (is_valid, body) = request
            check(server, path, is_valid, body, counts)

    send()


def fuzz_for(server: Server, seconds: float) -> dict:
    """Send random requests for so long; returns what came, and the slowest refusal."""
    counts, end = collections.Counter(), time.monotonic() + seconds
    while time.monotonic() < end:
        fuzz(server, 500, counts, until=end)
        print(f"{dict(counts)}; memory {server.memory()} MB", flush=True)
    return dict(counts)


@pytest.fixture(scope="module")
def server(start_server):
    return Server(*start_server())


def test_random_requests_are_answered_or_refused_by_name(server):
    counts = collections.Counter()
    fuzz(server, 150, counts)
    assert counts[200] > 10 and counts[400] > 10
    assert counts["most CPU of a refusal, ms"] < 1000 * SLOWEST
    assert server.stderr == []


def test_random_bytes_are_no_errors(server):
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.binary(max_size=300) | st.text(alphabet="GETPOS/ :\r\nHosta1.0,", max_size=100).map(str.encode))
    def send(data):
        with server.connect(data) as client:
            client.settimeout(0.001)
            with contextlib.suppress(TimeoutError, ConnectionError):
                answer = client.recv(100)
                assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2"))

    send()
    assert server.health() < 5 and server.stderr == []
