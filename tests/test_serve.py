"""serve.py answers OpenAI's client, all who come at once, and nobody from elsewhere."""

import concurrent.futures
import dataclasses
import http.client
import json
import re
import signal
import socket
import sys
import time

import openai
import pytest
import torch
from conftest import STORY

from llm import serve
from llm.configurator import UserError
from llm.reading.generate import Sampling, allowed_ids, generate
from llm.reading.prompt import encode_prompt
from llm.reading.reader import MAX_BATCH, Reader
from llm.serving.completions import Refused, checked
from llm.serving.engine import Engine, Full, Job
from llm.storage import pretrained
from llm.text import tokenizer

PROMPT = "The echo had been ill"


@pytest.fixture(scope="module")
def port(start_server):
    return start_server()[1]


@pytest.fixture(scope="module")
def client(port):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone(served):
    """alone(prompt, n_tokens, seed, number) is what the model says to it, drawn in this process by itself."""
    model, encoder, info = pretrained.load_model(str(served / "out"))
    reader = Reader(model, allowed_ids(info.corpus_ids, encoder.vocab_size), torch.float32)

    def alone(prompt, n_tokens, seed, number=0, **sampling):
        tokens = generate(
            reader,
            encode_prompt(encoder, prompt, STORY[:6000]),
            max_new_tokens=n_tokens,
            sampling=Sampling(**sampling),
            seed=seed,
            numbers=[number],
            end_of_text=encoder.end_of_text,
        )
        return encoder.decode([token for _, token in tokens])

    return alone


def ask(port, method, path, body=None, **headers):
    """(status, answer) of a plain HTTP request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, json.loads(answer) if "json" in response.headers["content-type"] else answer


def complete(client, prompt=PROMPT, **options):
    return client.completions.create(**dict(model="out", prompt=prompt, max_tokens=30, seed=1) | options)


def test_a_completion_is_what_generate_says_with_that_seed(client, alone):
    answer = complete(client, temperature=0.7, top_p=0.9)
    assert answer.choices[0].text == alone(PROMPT, 30, 1, temperature=0.7, top_p=0.9)
    assert answer.choices[0].finish_reason == "length" and answer.model == "out"
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    prompt_tokens = len(tokenizer.gpt2().encode(PROMPT))
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt_tokens, 30, prompt_tokens + 30)


def test_the_defaults_are_openais(client, alone):
    answer = client.completions.create(model="out", prompt=PROMPT, seed=3)
    assert answer.choices[0].text == alone(PROMPT, 16, 3, temperature=1.0)
    one, other = (client.completions.create(model="out", prompt=PROMPT).choices[0].text for _ in range(2))
    assert one != other  # without a seed, another each time


def test_a_stream_has_the_same_text_in_pieces(client):
    pieces = list(complete(client, stream=True, max_tokens=80))
    assert len(pieces) > 40
    assert "".join(piece.choices[0].text for piece in pieces) == complete(client, max_tokens=80).choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces[-2:]] == [None, "length"]


def test_n_samples_of_several_prompts_come_in_order(client, alone):
    answer = complete(client, [PROMPT, "A wall"], n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = [prompt + alone(prompt, 30, 1, number) for prompt in (PROMPT, "A wall") for number in (0, 1)]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage.completion_tokens == 120


def test_a_prompt_may_be_ids(client):
    ids, text = tokenizer.gpt2().encode(PROMPT), complete(client, echo=True).choices[0].text
    assert complete(client, ids, echo=True).choices[0].text == text
    assert [choice.text for choice in complete(client, [ids, ids], echo=True).choices] == [text, text]


def test_a_stop_string_ends_a_completion_before_it(client):
    whole = complete(client, max_tokens=60).choices[0].text
    for stop in (whole[20:23], [whole[30:34], "never in there"]):
        first = stop if isinstance(stop, str) else stop[0]
        answer = complete(client, max_tokens=60, stop=stop)
        assert answer.choices[0].text == whole[: whole.find(first)]
        assert answer.choices[0].finish_reason == "stop"
        streamed = complete(client, max_tokens=60, stop=stop, stream=True)
        assert "".join(piece.choices[0].text for piece in streamed) == answer.choices[0].text


def test_nothing_asked_for_is_nothing_drawn(client):
    answer = complete(client, max_tokens=0, echo=True)
    assert answer.choices[0].text == PROMPT and answer.usage.completion_tokens == 0


def test_models(client):
    assert [model.id for model in client.models.list()] == ["out"] and client.models.retrieve("out").id == "out"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here, only 'out'"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    "wrong, param, status",
    [
        ({"logprobs": 3}, "logprobs", 400),
        ({"best_of": 2}, "best_of", 400),
        ({"model": "gpt-4"}, "model", 404),
        ({"prompt": ""}, "prompt", 400),
        ({"prompt": []}, "prompt", 400),
        ({"prompt": ["a", 1]}, "prompt", 400),
        ({"prompt": [50257]}, "prompt", 400),
        ({"prompt": [-1]}, "prompt", 400),
        ({"prompt": "word " * 5000}, "prompt", 400),
        ({"max_tokens": -1}, "max_tokens", 400),
        ({"max_tokens": 5000}, "max_tokens", 400),
        ({"max_tokens": True}, "max_tokens", 400),
        ({"temperature": 2.1}, "temperature", 400),
        ({"temperature": "hot"}, "temperature", 400),
        ({"temperature": float("nan")}, "temperature", 400),
        ({"top_p": 0}, "top_p", 400),
        ({"n": 65}, "n", 400),
        ({"n": 40, "prompt": ["a", "b"]}, "n", 400),
        ({"stop": ["a"] * 5}, "stop", 400),
        ({"stop": ""}, "stop", 400),
        ({"stop": [1]}, "stop", 400),
        ({"stream": 1}, "stream", 400),
        ({"seed": -1}, "seed", 400),
        ({"echo": "yes"}, "echo", 400),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(port, wrong, param, status):
    got, answer = ask(port, "POST", "/v1/completions", json.dumps({"prompt": PROMPT} | wrong))
    assert got == status and answer["error"]["param"] == param and answer["error"]["type"] == "invalid_request_error"
    assert param in answer["error"]["message"] or param == "n"


def test_openais_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="temperature is 3: expected a number from 0 to 2"):
        complete(client, temperature=3)
    with pytest.raises(openai.BadRequestError, match="presence_penalty is not supported"):
        complete(client, presence_penalty=1)


@pytest.mark.parametrize("body", ["", "no json", "[1]", "\xff", "[" * 100_000, '{"prompt": "' + "x" * 1_000_001 + '"}'])
def test_a_body_that_is_no_request_is_refused(port, body):
    status, answer = ask(port, "POST", "/v1/completions", body.encode("latin-1"))
    assert status == 400 and "body" in answer["error"]["message"]


def test_paths_that_are_not_there(port):
    assert ask(port, "GET", "/v1/chat/completions")[0] == 404
    status, answer = ask(port, "GET", "/v1/completions")
    assert status == 405 and answer["error"]["message"] == "GET /v1/completions: Method Not Allowed"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Origin": "null"}]
)
def test_web_pages_elsewhere_do_not_reach_it(port, headers):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/")):
        status, answer = ask(port, method, path, **headers)
        assert status == 403 and answer["error"]["type"] == "permission_error"


def test_its_own_page_does(port):
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert ask(port, "GET", "/healthz", Host=host, Origin=f"http://{host}")[0] == 200
    status, page = ask(port, "GET", "/")
    assert status == 200 and "<title>Read it back</title>" in page
    assert not re.search(r"(src|href)=.(?!data:)|https?://|@import", page)  # nothing from outside


def test_a_key_must_be_brought_along_where_there_is_one():
    refuse = serve.gatekeeper(serve.Settings(host="0.0.0.0"), "secret")
    refuse({"host": "book.example:80", "authorization": "Bearer secret"}, "/v1/models")
    for path in ("/", "/healthz"):  # the page itself says nothing; it asks for the key
        refuse({"host": "book.example"}, path)
    for wrong in ({}, {"authorization": "Bearer geheim"}, {"authorization": "Bearer sécret"}):
        with pytest.raises(Refused, match="expected the server's key") as refused:
            refuse({"host": "book.example"} | wrong, "/v1/completions")
        assert refused.value.status == 401 and refused.value.body()["error"]["code"] == "invalid_api_key"
    with pytest.raises(Refused, match="another site"):
        refuse({"host": "book.example", "origin": "http://evil.example", "authorization": "Bearer secret"}, "/")


def test_what_stands_in_the_book_is_cited(port):
    words = " ".join(STORY[:6000].split()[100:120])
    status, answer = ask(port, "POST", "/cite", json.dumps({"text": f"He said: {words} indeed"}))
    assert status == 200 and answer["book"]
    assert [piece["text"] for piece in answer["pieces"]] == ["He said: ", words, " indeed"]
    assert answer["pieces"][1]["words"] == 20 and "line" in answer["pieces"][1]["where"]
    assert ask(port, "POST", "/cite", '{"text": 1}')[0] == 400


def test_32_clients_at_once_get_what_each_would_get_alone(client, alone):
    """Prompts of all lengths, over the border of the context; a third of them streamed."""

    def one(n):
        prompt, options = " ".join(STORY.split()[n : 2 * n + 1]), dict(seed=n, max_tokens=20 + 3 * n)
        if n % 3:
            return prompt, options, complete(client, prompt, **options).choices[0].text
        return prompt, options, "".join(p.choices[0].text for p in complete(client, prompt, stream=True, **options))

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(one, range(32)))
    for prompt, options, text in answers:
        assert text == alone(prompt, options["max_tokens"], options["seed"])


def test_a_client_that_leaves_frees_its_place(port):
    for stream in (True, False):
        body = json.dumps({"prompt": [PROMPT] * 20, "max_tokens": 4000, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", port)) as gone:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            gone.sendall(head.encode() + body)
            until(
                lambda: (
                    ask(port, "GET", "/healthz")[1] == {"status": "ok", "running": MAX_BATCH, "waiting": 20 - MAX_BATCH}
                )
            )
        until(lambda: ask(port, "GET", "/healthz")[1]["running"] == 0, 20)


def until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def engine(tiny_model):
    engine = Engine(Reader(tiny_model(), torch.arange(61), torch.float32), tokenizer.gpt2(), most_waiting=3)
    yield engine
    engine.close()


def jobs(n, deliver, max_new_tokens=5, prompt=(1,)):
    return [Job(list(prompt), max_new_tokens, Sampling(), [0, 0], [], deliver) for _ in range(n)]


def test_no_more_may_wait_than_the_queue_holds(engine):
    running = jobs(MAX_BATCH, lambda text, reason: None, 100_000)
    engine.submit(running)
    until(lambda: len(engine.running) == MAX_BATCH)
    waiting = jobs(3, lambda text, reason: None)
    engine.submit(waiting)
    with pytest.raises(Full):
        engine.submit(jobs(1, None))
    waiting[0].cancelled = True  # whoever leaves makes room
    engine.submit(jobs(1, lambda text, reason: None))
    for job in running:
        job.cancelled = True


def test_an_error_reaches_those_who_wait_and_the_next_are_served(engine):
    heard, served = [], []
    engine.submit(jobs(2, lambda text, reason: heard.append((text, reason)), prompt=(99,)))  # an id the model lacks
    until(lambda: len(heard) == 2)
    assert {reason for _, reason in heard} == {"error"} and "IndexError" in heard[0][0]
    engine.submit(jobs(1, lambda text, reason: served.append(reason)))
    until(lambda: served and served[-1] == "length")


def test_429_says_that_the_queue_is_full(port):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        body = json.dumps({"prompt": PROMPT, "n": 64, "max_tokens": 300})
        answers = list(pool.map(lambda _: ask(port, "POST", "/v1/completions", body), range(4)))
    refused = [answer for status, answer in answers if status == 429]
    assert refused and refused[0]["error"] | {"message": ""} == {
        "message": "",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }
    assert all(status in (200, 429) for status, _ in answers) and len(refused) < 4


def test_ctrl_c_finishes_what_runs_and_ends(start_server):
    process, port = start_server()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        stream = complete(client, stream=True, max_tokens=400)
        pieces = [next(stream)]
        process.send_signal(signal.SIGINT)
        pieces += stream
    assert pieces[-1].choices[0].finish_reason == "length"
    assert process.wait(20) == 130
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"host": "0.0.0.0"}, "host=0.0.0.0 is open to others: put a key into LLM_API_KEY"),
        ({"port": 70000}, "port=70000: expected a number from 0 to 65535"),
        ({"host": "no.such.host.example"}, "LLM_API_KEY"),
        ({"out_dir": "nowhere", "port": 0}, "out_dir=nowhere does not exist"),
    ],
)
def test_mistakes_get_one_line(settings, message, monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        serve.main(dataclasses.replace(serve.Settings(), **settings))


def test_a_port_that_is_taken_gets_one_line(port):
    with pytest.raises(
        UserError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use; type .*--port=0"
    ):
        serve.main(serve.Settings(port=port))


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match=r'needs the extra serve.*pip install -e "\.\[serve\]"'):
        serve.main(serve.Settings())


def test_a_request_is_checked_without_a_server():
    asked = checked({"prompt": ["a", "b"], "stop": None, "temperature": 0}, serve.Settings(), "m")
    assert asked.prompts == ["a", "b"] and asked.stop == [] and asked.temperature == 0 and asked.max_tokens == 16
