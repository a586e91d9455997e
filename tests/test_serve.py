"""serve.py answers OpenAI's client and concurrent requests, and refuses other web sites."""

import base64
import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import re
import signal
import socket
import sys
import time
from typing import get_type_hints

import openai
import pytest
import torch
from conftest import STORY
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase as completion_params

from llm import serve
from llm.configurator import UserError
from llm.reading.generate import Sampling, allowed_ids, generate
from llm.reading.prompt import encode_prompt
from llm.reading.reader import MAX_BATCH, Reader
from llm.serving.parameters import MAX_STOPS, Refused, parse_chat, parse_completion
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
    """alone(prompt, n_tokens, seed, number) is the text that the model draws in this process, by itself."""
    model, tokenizer, info = pretrained.load_model(str(served / "out"))
    assert tokenizer.end_of_text not in info.corpus_ids  # never drawn, so that each text has n_tokens
    reader = Reader(model, allowed_ids(info.corpus_ids, tokenizer.vocab_size), torch.float32)

    def alone(prompt, n_tokens, seed, number=0, **sampling):
        options = dict(max_new_tokens=n_tokens, sampling=Sampling(**sampling), seed=seed, numbers=[number])
        tokens = generate(reader, encode_prompt(tokenizer, prompt, STORY[:6000]), **options)
        return tokenizer.decode([token for _, token in tokens])

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
    """OpenAI's client's answer to a request for 30 tokens with seed 1."""
    return client.completions.create(**dict(model="out", prompt=prompt, max_tokens=30, seed=1) | options)


def test_a_completion_is_what_generate_draws_with_that_seed(client, alone):
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


def test_max_tokens_0_draws_nothing(client):
    answer = complete(client, max_tokens=0, echo=True)
    assert answer.choices[0].text == PROMPT and answer.usage.completion_tokens == 0


def test_models(client):
    assert [model.id for model in client.models.list()] == ["out"] and client.models.retrieve("out").id == "out"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here, only 'out'"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    "parameters, param, status",
    [
        ({"logprobs": 6}, "logprobs", 400),
        ({"logprobs": 5, "max_tokens": 4000, "n": 64}, "logprobs", 400),
        ({"frequency_penalty": 0.5}, "frequency_penalty", 400),
        ({"logit_bias": {"50256": -100}}, "logit_bias", 400),
        ({"suffix": "x"}, "suffix", 400),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "include_usage", 400),
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
        ({"top_p": -0.1}, "top_p", 400),
        ({"n": 65}, "n", 400),
        ({"n": 40, "prompt": ["a", "b"]}, "n", 400),
        ({"stop": ["a"] * (MAX_STOPS + 1)}, "stop", 400),
        ({"stop": ""}, "stop", 400),
        ({"stop": [1]}, "stop", 400),
        ({"stream": 1}, "stream", 400),
        ({"seed": 2**64}, "seed", 400),
        ({"echo": "yes"}, "echo", 400),
    ],
)
def test_an_unsupported_or_wrong_parameter_is_refused_by_name(port, parameters, param, status):
    got, answer = ask(port, "POST", "/v1/completions", json.dumps({"prompt": PROMPT} | parameters))
    assert got == status and answer["error"]["param"] == param and answer["error"]["type"] == "invalid_request_error"
    assert param in answer["error"]["message"] or param == "n"


def test_openais_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="temperature is 3: expected a number from 0 to 2"):
        complete(client, temperature=3)
    with pytest.raises(openai.BadRequestError, match="presence_penalty is not supported, except as 0 or null"):
        complete(client, presence_penalty=1)


@pytest.mark.parametrize("body", ["", "no json", "[1]", "\xff", "[" * 100_000, '{"prompt": "' + "x" * 1_000_001 + '"}'])
def test_a_body_that_is_no_json_object_is_refused(port, body):
    status, answer = ask(port, "POST", "/v1/completions", body.encode("latin-1"))
    assert status == (413 if len(body) > 1_000_000 else 400) and "body" in answer["error"]["message"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"best_of": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "suffix": "", "user": "me"},
        dict.fromkeys(
            ["best_of", "frequency_penalty", "logit_bias", "suffix", "stop", "user", "logprobs", "seed", "n"]
        ),
        {"best_of": 2, "n": 2, "metadata": {"a": "b"}, "stream_options": None, "no_such_parameter": None},
        {"logprobs": False, "stream_options": {"include_usage": True}},
    ],
)
def test_values_that_ask_for_nothing_are_accepted(port, parameters):
    body = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    choices = [json.loads(ask_text(port, b))["choices"][0] for b in (body, body | parameters)]
    assert choices[0] == choices[1]


def ask_text(port, body, path="/v1/completions"):
    """The text of a streamed answer, or of any that is not JSON; else the JSON's text."""
    status, answer = ask(port, "POST", path, json.dumps(body))
    assert status == 200, answer
    return answer if isinstance(answer, str) else json.dumps(answer)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_a_seed_may_be_any_number_of_64_bits(client, seed):
    texts = [complete(client, seed=seed, temperature=2).choices[0].text for _ in range(2)]
    assert texts[0] == texts[1]


def test_top_p_0_is_the_most_likely_token(client):
    assert complete(client, top_p=0, temperature=2).choices[0].text == complete(client, temperature=0).choices[0].text


def test_a_stream_may_end_with_the_usage(client):
    *pieces, last = complete(client, [PROMPT, "A wall"], stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == complete(client, [PROMPT, "A wall"]).usage
    assert all(piece.usage is None and piece.choices for piece in pieces)


def test_an_unknown_path_or_method_gets_openais_form_of_error(port):
    assert ask(port, "GET", "/v1/embeddings")[0] == 404
    status, answer = ask(port, "GET", "/v1/completions")
    assert status == 405 and answer["error"]["message"] == "GET /v1/completions: Method Not Allowed"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Origin": "null"}]
)
def test_requests_from_other_web_sites_are_refused(port, headers):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/")):
        status, answer = ask(port, method, path, **headers)
        assert status == 403 and answer["error"]["type"] == "permission_error"


def test_its_own_page_is_served_and_loads_nothing_from_elsewhere(port):
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert ask(port, "GET", "/healthz", Host=host, Origin=f"http://{host}")[0] == 200
    status, page = ask(port, "GET", "/")
    assert status == 200 and "<title>Read it back</title>" in page
    assert not re.search(r"(src|href)=.(?!data:|#)|https?://|@import", page)


def test_the_page_may_run_its_own_script_and_style_and_nothing_else(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    response = connection.getresponse()
    page, policy = response.read().decode(), response.headers["content-security-policy"]
    connection.close()
    for name in ("script", "style"):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"\sstyle=|\son[a-z]+=", page)  # which the hashes do not allow


@pytest.mark.parametrize("method, path", [("GET", "/"), ("GET", "/healthz"), ("POST", "/cite"), ("PUT", "/nowhere")])
def test_every_answer_has_the_security_headers(port, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for headers in ({}, {"Host": "evil.example"}):
        connection.request(method, path, "{}", headers)
        response = connection.getresponse()
        response.read()
        assert response.headers["x-content-type-options"] == "nosniff" and "server" not in response.headers
        assert response.headers["referrer-policy"] == "no-referrer" and response.headers["x-frame-options"] == "DENY"
    connection.close()


def test_head_has_the_headers_of_get(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = []
    for method in ("GET", "HEAD"):
        connection.request(method, "/")
        response = connection.getresponse()
        answers.append((response.status, response.headers["content-length"], response.headers["content-type"]))
        assert bool(response.read()) == (method == "GET")
    connection.close()
    assert answers[0] == answers[1]


def test_spans_of_the_book_are_cited(port):
    words = " ".join(STORY[:6000].split()[100:120])
    status, answer = ask(port, "POST", "/cite", json.dumps({"text": f"He said: {words} indeed"}))
    assert status == 200 and answer["book"]
    assert [piece["text"] for piece in answer["pieces"]] == ["He said: ", words, " indeed"]
    assert answer["pieces"][1]["words"] == 20 and "line" in answer["pieces"][1]["where"]
    assert ask(port, "POST", "/cite", '{"text": 1}')[0] == 400


def test_32_clients_at_once_get_what_each_would_get_alone(client, alone):
    """Prompts and answers of many lengths, also beyond the context; a third of the answers is streamed."""

    def answer(n):
        """(prompt, options, text) of client n."""
        prompt, options = " ".join(STORY.split()[n : 2 * n + 1]), dict(seed=n, max_tokens=20 + 3 * n)
        if n % 3:
            return prompt, options, complete(client, prompt, **options).choices[0].text
        return prompt, options, "".join(p.choices[0].text for p in complete(client, prompt, stream=True, **options))

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(answer, range(32)))
    for prompt, options, text in answers:
        assert text == alone(prompt, options["max_tokens"], options["seed"])


def eventually(condition, patience=60):
    """Whether a condition becomes true: asks until it does. Only a failure takes the whole patience, in seconds."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("stream", [True, False])
def test_the_samples_of_a_client_that_leaves_are_cancelled(port, stream):
    def running_and_waiting():
        health = ask(port, "GET", "/healthz")[1]
        return health["running"], health["waiting"]

    body = json.dumps({"prompt": [PROMPT] * 20, "max_tokens": 4000, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as client_socket:
        client_socket.sendall(head + body)
        assert eventually(lambda: running_and_waiting() == (MAX_BATCH, 20 - MAX_BATCH))
    assert eventually(lambda: running_and_waiting() == (0, 0))


def test_429_says_that_the_queue_is_full(port):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        body = json.dumps({"prompt": PROMPT, "n": 64, "max_tokens": 100})
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
    with pytest.raises(UserError, match=r"needs the extra serve.*pip install -e .*\[serve\]"):
        serve.main(serve.Settings())


LIMITS = dict(model="m", max_prompt_tokens=100, max_new_tokens=100, max_samples=10)
NEUTRAL = {  # of OpenAI's parameters, values that ask for nothing
    "best_of": 1,
    "frequency_penalty": 0.0,
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "me",
    "seed": 1,
    "service_tier": "auto",
    "stop": [],
    "store": False,
    "stream_options": {"include_usage": False, "include_obfuscation": False},
    "suffix": "",
    "temperature": 1,
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "me",
    "verbosity": "medium",
}


@pytest.mark.parametrize("parameters", [chat_params, completion_params])
def test_all_of_openais_parameters_may_be_null_or_ask_for_nothing(parameters):
    """Those of its package, whatever its version adds: many clients send all of them, most of them as null."""
    names = get_type_hints(parameters).keys() - {"model", "prompt", "messages"}
    assert len(names) > 10
    is_chat = parameters is chat_params
    body = {"messages": [{"role": "user", "content": "a"}]} if is_chat else {"prompt": "a"}
    parse = parse_chat if is_chat else parse_completion
    null = parse(body | dict.fromkeys(names), **LIMITS)
    neutral = parse(body | {name: NEUTRAL[name] for name in names & NEUTRAL.keys()}, **LIMITS)
    same = dict(seed=0, max_tokens=0)
    assert dataclasses.replace(null, **same) == dataclasses.replace(neutral, **same)


def test_unknown_options_of_a_stream_are_refused_by_name():
    with pytest.raises(Refused, match="continuous_usage_stats is not supported; these are: include_usage"):
        parse_completion({"prompt": "a", "stream_options": {"continuous_usage_stats": True}}, **LIMITS)


def test_a_request_is_parsed_without_a_server():
    body = {"prompt": ["a", "b"], "stop": None, "temperature": 0}
    request = parse_completion(body, model="m", max_prompt_tokens=100, max_new_tokens=100, max_samples=10)
    assert request.prompts == ["a", "b"] and request.stop == []
    assert request.temperature == 0 and request.max_tokens == 16
