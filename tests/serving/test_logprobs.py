"""Log-probabilities are those of the model, token by token, in OpenAI's form."""

import numpy as np
import openai
import pytest
import torch
from conftest import STORY

from llm.reading.generate import allowed_ids
from llm.reading.reader import Reader
from llm.serving.logprobs import UNDRAWABLE, LogprobsObject, Score, score, token_text
from llm.storage import pretrained
from llm.text import tokenizer

GPT2 = tokenizer.gpt2()
IDS = GPT2.encode(STORY[:6000])[100:130]  # as a harness sends them


@pytest.fixture(scope="module")
def client(start_server):
    url = f"http://127.0.0.1:{start_server()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(served):
    """expected(ids): (n, V) float64 log-probabilities of all ids after each of `ids`, by the plain network."""
    model, encoder, info = pretrained.load_model(str(served / "out"))
    allowed = allowed_ids(info.corpus_ids, encoder.vocab_size)

    @torch.no_grad()
    def expected(ids):
        x = model.transformer.wte.weight[ids] + model.transformer.wpe.weight[: len(ids)]
        for block in model.transformer.h:
            x = block(x[None])[0]
        logits = model.lm_head(model.transformer.ln_f(x))
        everything = torch.full(logits.shape, UNDRAWABLE, dtype=torch.float64)
        everything[:, allowed] = logits[:, allowed].double().log_softmax(-1)
        return everything.numpy()

    return expected


def complete(client, prompt=IDS, **options):
    options = dict(model="out", prompt=prompt, max_tokens=0, echo=True, logprobs=2, seed=1) | options
    return client.completions.create(**options)


def test_a_prompt_is_scored_as_a_harness_asks(client, expected):
    """echo, max_tokens=0: what lm-evaluation-harness' loglikelihood sums up."""
    choice = complete(client).choices[0]
    found, right = choice.logprobs, expected(IDS)
    assert choice.text == GPT2.decode(IDS) and "".join(found.tokens) == choice.text
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    np.testing.assert_allclose(found.token_logprobs[1:], [right[n, IDS[n + 1]] for n in range(len(IDS) - 1)], atol=1e-4)
    starts = [
        choice.text[offset:].startswith(token) for token, offset in zip(found.tokens, found.text_offset, strict=True)
    ]
    assert all(starts)
    for n, top in enumerate(found.top_logprobs[1:]):
        best = max(top, key=top.get)
        assert best == GPT2.decode([int(right[n].argmax())]) and top[best] == pytest.approx(right[n].max(), abs=1e-4)
        assert found.tokens[n + 1] in top and len(top) in (2, 3)


def test_the_tokens_that_are_drawn_are_scored_before_temperature_and_top_p(client, expected):
    choice = complete(client, max_tokens=12, temperature=0.7, top_p=0.9).choices[0]
    drawn = [GPT2.encode(token)[0] for token in choice.logprobs.tokens[len(IDS) :]]
    assert len(choice.logprobs.tokens) == len(IDS) + 12
    right = expected(IDS + drawn)
    scores = [right[len(IDS) + n - 1, token] for n, token in enumerate(drawn)]
    np.testing.assert_allclose(choice.logprobs.token_logprobs[len(IDS) :], scores, atol=1e-4)
    alone = complete(client, max_tokens=12, temperature=0.7, top_p=0.9, echo=False).choices[0]
    assert alone.logprobs.token_logprobs == choice.logprobs.token_logprobs[len(IDS) :]
    assert alone.logprobs.text_offset == [
        offset - len(GPT2.decode(IDS)) for offset in choice.logprobs.text_offset[-12:]
    ]
    assert (
        alone.text
        == complete(client, max_tokens=12, temperature=0.7, top_p=0.9, echo=False, logprobs=None).choices[0].text
    )


def test_the_greedy_token_is_the_likeliest_of_the_top(client):
    """By this a harness tells whether a continuation is the greedy one: equal numbers, not nearly equal ones."""
    found = complete(client, max_tokens=20, temperature=0, echo=False, logprobs=1).choices[0].logprobs
    assert [max(top.values()) for top in found.top_logprobs] == found.token_logprobs


@pytest.mark.parametrize("options", [{}, {"stop": [" the", "e k"]}, {"echo": False, "n": 2}])
def test_a_stream_has_the_same_scores(client, options):
    options = dict(max_tokens=40, temperature=1.5) | options
    whole, streamed = complete(client, **options), {}
    for piece in complete(client, stream=True, **options):
        found = piece.choices[0].logprobs
        both = streamed.setdefault(piece.choices[0].index, ([], [], [], []))
        for values, name in zip(both, ("tokens", "token_logprobs", "top_logprobs", "text_offset"), strict=True):
            values += getattr(found, name)
    for choice in whole.choices:
        found = choice.logprobs
        assert streamed[choice.index] == (found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset)
        assert all(offset < max(1, len(choice.text)) for offset in found.text_offset)


def test_several_prompts_of_several_lengths_each_get_their_own(client, expected):
    prompts = [IDS[:5], IDS[3:20], IDS[7:9]]
    for ids, choice in zip(prompts, complete(client, prompts).choices, strict=True):
        right = expected(ids)
        scores = [right[n, ids[n + 1]] for n in range(len(ids) - 1)]
        np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], scores, atol=1e-4)


def test_a_prompt_beyond_the_context_is_refused_not_scored_wrongly(client):
    assert complete(client, (IDS * 3)[:64]).choices[0].logprobs.token_logprobs[63] < 0
    with pytest.raises(openai.BadRequestError, match="logprobs of a prompt of 65 tokens: the model's context has 64"):
        complete(client, (IDS * 3)[:65])


def test_a_text_is_echoed_as_the_tokens_that_are_scored(client):
    printed = STORY[:6000].split("\n\n")[2]
    words = printed.split()[:6]
    choice = complete(client, " ".join(words)).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text and choice.text.split() == words


def test_an_id_that_the_model_never_draws_has_a_number_that_says_so(client):
    unknown = next(token for token in range(50256) if token not in set(GPT2.encode(STORY[:6000])))
    found = complete(client, [IDS[0], unknown]).choices[0].logprobs
    assert found.token_logprobs == [None, UNDRAWABLE]


def test_probabilities_sum_to_one(tiny_model):
    reader = Reader(tiny_model(), torch.arange(5, 61), torch.float32)
    logits = np.random.default_rng(0).normal(0, 20, 56).astype(np.float32)
    found = score(reader, logits, 7, 56)
    assert (
        sum(np.exp(list(found.top.values()))) == pytest.approx(1, abs=1e-5)
        and list(found.top)[0] == 5 + logits.argmax()
    )
    assert score(reader, logits, 7, 0).top == {7: found.logprob}


def test_parts_of_a_character_are_shown_as_bytes():
    ids = GPT2.encode("a 🦊!")
    assert [token_text(GPT2, token) for token in ids][1:3] == ["bytes:\\x20\\xf0\\x9f", "bytes:\\xa6"]
    made = LogprobsObject(GPT2)
    made.add(Score(token, -1.0, {token: -1.0}) for token in ids)
    assert made.take(None)["text_offset"] == [0, 1, 2, 2, 3]
