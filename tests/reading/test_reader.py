"""Reading with a cache and packed weights gives the logits of the network as it is written in model.py."""

import pytest
import torch
from conftest import hugging_face_gpt2, with_nanogpts_names

from llm.model import GPT, GPTConfig
from llm.reading.generate import Sample, Sampling, context_start, next_tokens
from llm.reading.reader import BATCH_SIZES, MAX_BATCH, MAX_DRAFT, KVCache, Product, Reader

EVERY = torch.arange(61)
NEARLY = dict(rtol=1e-4, atol=1e-4)


@pytest.fixture
def reader(tiny_model):
    return Reader(tiny_model(), EVERY, torch.float32)


def ids_of(seed, n):
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("bias, gelu", [(False, "tanh"), (True, "tanh"), (True, "none")])
@pytest.mark.parametrize("length", [1, 7, 8, 15, 16, 17, 40])
def test_cached_logits_equal_uncached_ones_for_every_length_across_the_context_border(tiny_model, length, bias, gelu):
    """60 tokens from a context of 16: the older half is forgotten several times, at every alignment to the prompt."""
    model = tiny_model(bias=bias, gelu=gelu)
    reader = Reader(model, EVERY, torch.float32)
    sample, seen = Sample(reader, ids_of(length, length), Sampling(), seed=0), []
    sample.append = lambda reader, logits, append=sample.append: seen.append(logits) or append(reader, logits)
    for _ in range(60):
        next_tokens(reader, [sample])
    for n, logits in enumerate(seen, start=length):
        context = sample.ids[context_start(length, n, 16) : n]
        torch.testing.assert_close(torch.from_numpy(logits), model(torch.tensor([context]))[0][0, -1], **NEARLY)
    assert len(set(sample.ids)) > 5  # not a stuck model, which would hide a wrong context


def test_logits_equal_hugging_faces():
    reference = hugging_face_gpt2()
    shape = dict(n_layer=3, n_head=4, n_embd=32, block_size=24, bias=True, vocab_size=97)
    model = GPT(GPTConfig(**shape, dropout=0.0, gelu="tanh")).eval()
    model.load_state_dict(with_nanogpts_names(reference))
    reader, ids = Reader(model, torch.arange(97), torch.float32), torch.randint(97, (24,)).tolist()
    cache = KVCache(reader)
    read = [reader.prefill(ids[:5], cache), *(reader.decode([[token]], [cache])[0][0] for token in ids[5:])]
    expected = reference(torch.tensor([ids])).logits[0, 4:]
    torch.testing.assert_close(torch.stack(list(map(torch.from_numpy, read))), expected, **NEARLY)


@pytest.mark.parametrize("ahead", [0, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", range(1, MAX_BATCH + 1))
def test_a_row_does_not_depend_on_the_others(tiny_model, n, dtype, ahead):
    """Bit for bit, whatever is read beside it and in whichever row it stands."""
    reader = Reader(tiny_model(), EVERY, dtype)

    def logits(rows):
        caches = [KVCache(reader) for _ in rows]
        for cache, row in zip(caches, rows, strict=True):
            reader.prefill(ids_of(row, 3 + row), cache)
        return reader.decode([ids_of(row, 1 + (row + ahead) % (ahead + 1)) for row in rows], caches)

    together = logits(range(n))
    for row in range(n):
        assert (logits([row])[0] == together[row]).all()
    for one, other in zip(logits(range(n - 1, -1, -1))[::-1], together, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_several_tokens_read_at_once_are_read_as_one_after_the_other(reader, n):
    ids = ids_of(n, 4 + n)
    one, other = KVCache(reader), KVCache(reader)
    for cache in (one, other):
        reader.prefill(ids[:4], cache)
    at_once = reader.decode([ids[4:]], [one])[0]
    singly = [reader.decode([[token]], [other])[0][0] for token in ids[4:]]
    torch.testing.assert_close(torch.from_numpy(at_once), torch.stack(list(map(torch.from_numpy, singly))), **NEARLY)
    assert one.length == other.length == 4 + n
    one.length = other.length = 6  # what came after is forgotten
    after = [reader.decode([[5]], [cache])[0][0] for cache in (one, other)]
    torch.testing.assert_close(*map(torch.from_numpy, after), **NEARLY)


def test_only_the_drawable_rows_have_logits(tiny_model):
    some = torch.tensor([2, 30, 59])
    few, all_ = (Reader(tiny_model(), ids, torch.float32) for ids in (some, EVERY))
    few, all_ = (reader.prefill([1, 2, 3], KVCache(reader)) for reader in (few, all_))
    torch.testing.assert_close(torch.from_numpy(few), torch.from_numpy(all_)[some], **NEARLY)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_products_are_those_of_autocast(tiny_model, dtype):
    model, ids = tiny_model(), ids_of(0, 12)
    with torch.autocast("cpu", dtype):
        expected = model.hidden(torch.tensor([ids]))[0, -1].float() @ model.lm_head.weight.T
    reader = Reader(model, EVERY, dtype)
    logits = torch.from_numpy(reader.prefill(ids, KVCache(reader)))
    exact = model(torch.tensor([ids]))[0][0, -1]
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 2.5 * (expected - exact).abs().max()


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [None, torch.randn(7)])
def test_a_product_is_a_linear_layer(monkeypatch, gelu, bias):
    weight, x = torch.randn(7, 5), torch.randn(2, 3, 5)
    expected = torch.nn.functional.linear(x, weight, bias)
    expected = torch.nn.functional.gelu(expected, approximate=gelu) if gelu else expected
    for onednn in (True, False):  # a torch without oneDNN does without
        monkeypatch.setattr("llm.reading.reader.ONEDNN", onednn and torch.backends.mkldnn.is_available())
        torch.testing.assert_close(Product(weight, bias, torch.float32, gelu)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_context_that_is_full_takes_no_more(reader):
    cache = KVCache(reader)
    reader.prefill(ids_of(0, 16), cache)
    with pytest.raises(AssertionError, match="17 tokens in 16 places"):
        reader.decode([[1]], [cache])


def test_a_cache_copied_is_a_cache_read(reader):
    one, other = KVCache(reader), KVCache(reader)
    reader.prefill(ids_of(0, 9), one)
    other.copy_from(one)
    assert (reader.decode([[5]], [one])[0] == reader.decode([[5]], [other])[0]).all()
    assert one.length == other.length == 10


def test_all_that_may_be_read_at_once_has_a_batch_size():
    assert BATCH_SIZES[-1] == MAX_BATCH * (1 + MAX_DRAFT) and BATCH_SIZES[0] > 1
