"""Reading with a cache and packed weights gives the logits of the network as it is written in model.py."""

import numpy as np
import pytest
import torch
from conftest import hugging_face_gpt2, with_nanogpts_names

from llm.model import GPT, GPTConfig
from llm.reading.generate import Sample, Sampling, context_start, next_tokens
from llm.reading.reader import BATCH_SIZES, MAX_BATCH, MAX_DRAFT, KVCache, Product, Reader

ALL_IDS = torch.arange(61)
CLOSE = dict(rtol=1e-4, atol=1e-4)


class RecordingSample(Sample):
    """A sample that keeps the logits from which each of its tokens was drawn."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.logits = []

    def draw(self, reader, logits):
        self.logits.append(logits)
        return super().draw(reader, logits)


@pytest.fixture
def reader(tiny_model):
    return Reader(tiny_model(), ALL_IDS, torch.float32)


def ids_of(seed, n):
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("bias, gelu", [(False, "tanh"), (True, "tanh"), (True, "none")])
@pytest.mark.parametrize("length", [1, 7, 8, 15, 16, 17, 40])
def test_cached_logits_equal_uncached_ones_for_every_length_beyond_the_context(tiny_model, length, bias, gelu):
    """60 tokens from a context of 16: the older half is dropped several times, at every alignment to the prompt."""
    model = tiny_model(bias=bias, gelu=gelu)
    reader = Reader(model, ALL_IDS, torch.float32)
    sample = RecordingSample(reader, ids_of(length, length), Sampling(), seed=0)
    for _ in range(60):
        next_tokens(reader, [sample])
    for n, logits in enumerate(sample.logits, start=length):
        context = sample.ids[context_start(length, n, 16) : n]
        torch.testing.assert_close(torch.from_numpy(logits), model(torch.tensor([context]))[0][0, -1], **CLOSE)
    assert len(set(sample.ids)) > 5  # not a stuck model, which would hide a wrong context


def test_logits_equal_those_of_hugging_faces_gpt2():
    reference = hugging_face_gpt2()
    shape = dict(n_layer=3, n_head=4, n_embd=32, block_size=24, bias=True, vocab_size=97)
    model = GPT(GPTConfig(**shape, dropout=0.0, gelu="tanh")).eval()
    model.load_state_dict(with_nanogpts_names(reference))
    reader, ids = Reader(model, torch.arange(97), torch.float32), torch.randint(97, (24,)).tolist()
    cache = KVCache(reader)
    logits = [reader.prefill(ids[:5], cache), *(reader.decode([[token]], [cache])[0][0] for token in ids[5:])]
    expected = reference(torch.tensor([ids])).logits[0, 4:]
    torch.testing.assert_close(torch.from_numpy(np.stack(logits)), expected, **CLOSE)


@pytest.mark.parametrize("max_draft", [0, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", range(1, MAX_BATCH + 1))
def test_a_samples_logits_do_not_depend_on_the_others_in_the_batch(tiny_model, n, dtype, max_draft):
    """Bit for bit, whatever is read beside it and in whichever row it stands."""
    reader = Reader(tiny_model(), ALL_IDS, dtype)

    def logits_of(samples):
        """The logits of some samples in one batch; sample k has a prompt and a draft of its own."""
        caches = [KVCache(reader) for _ in samples]
        for cache, k in zip(caches, samples, strict=True):
            reader.prefill(ids_of(k, 3 + k), cache)
        return reader.decode([ids_of(k, 1 + k % (max_draft + 1)) for k in samples], caches)

    in_order = logits_of(range(n))
    reversed_order = logits_of(range(n - 1, -1, -1))[::-1]
    for k in range(n):
        assert (logits_of([k])[0] == in_order[k]).all()
        assert (reversed_order[k] == in_order[k]).all()


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_several_tokens_read_at_once_give_the_logits_of_one_after_the_other(reader, n):
    ids = ids_of(n, 4 + n)
    cache_at_once, cache_singly = KVCache(reader), KVCache(reader)
    for cache in (cache_at_once, cache_singly):
        reader.prefill(ids[:4], cache)
    at_once = reader.decode([ids[4:]], [cache_at_once])[0]
    singly = np.stack([reader.decode([[token]], [cache_singly])[0][0] for token in ids[4:]])
    np.testing.assert_allclose(at_once, singly, **CLOSE)
    assert cache_at_once.length == cache_singly.length == 4 + n
    cache_at_once.length = cache_singly.length = 6  # drops what came after
    after = [reader.decode([[5]], [cache])[0][0] for cache in (cache_at_once, cache_singly)]
    np.testing.assert_allclose(*after, **CLOSE)


def test_only_allowed_ids_have_logits(tiny_model):
    allowed = torch.tensor([2, 30, 59])
    reader, full_reader = Reader(tiny_model(), allowed, torch.float32), Reader(tiny_model(), ALL_IDS, torch.float32)
    logits = reader.prefill([1, 2, 3], KVCache(reader))
    full_logits = full_reader.prefill([1, 2, 3], KVCache(full_reader))
    np.testing.assert_allclose(logits, full_logits[allowed.numpy()], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_the_error_is_that_of_autocast(tiny_model, dtype):
    model, ids = tiny_model(), ids_of(0, 12)
    with torch.autocast("cpu", dtype):
        expected = model.hidden(torch.tensor([ids]))[0, -1].float() @ model.lm_head.weight.T
    reader = Reader(model, ALL_IDS, dtype)
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
    for onednn in (True, False):  # some builds of torch lack oneDNN
        monkeypatch.setattr("llm.reading.reader.ONEDNN", onednn and torch.backends.mkldnn.is_available())
        torch.testing.assert_close(Product(weight, bias, torch.float32, gelu)(x), expected, rtol=1e-4, atol=1e-5)


def test_reading_beyond_the_context_is_an_error(reader):
    cache = KVCache(reader)
    reader.prefill(ids_of(0, 16), cache)
    with pytest.raises(AssertionError, match="17 tokens, but block_size is 16"):
        reader.decode([[1]], [cache])


def test_a_copied_cache_continues_as_the_original(reader):
    original, copy = KVCache(reader), KVCache(reader)
    reader.prefill(ids_of(0, 9), original)
    copy.copy_from(original)
    assert (reader.decode([[5]], [original])[0] == reader.decode([[5]], [copy])[0]).all()
    assert original.length == copy.length == 10


def test_the_largest_batch_with_the_longest_drafts_has_a_batch_size():
    assert BATCH_SIZES[-1] == MAX_BATCH * (1 + MAX_DRAFT) and BATCH_SIZES[0] > 1
