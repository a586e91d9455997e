"""Decoding in fixed shapes draws what the reader draws, with shapes that never change and no wait within a step."""

import gc
import weakref

import numpy as np
import pytest
import torch

from llm.reading import decoding_graph
from llm.reading.decoding_graph import MAX_SLOTS, SPARE, WIDTHS, FixedDecoder
from llm.reading.generate import Sampling, generate
from llm.reading.reader import MAX_BATCH, MAX_DRAFT, KVCache, Product, Reader

ALL_IDS = torch.arange(61)
CLOSE = dict(rtol=1e-4, atol=1e-4)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")),
]


def ids_of(seed, n):
    return torch.randint(61, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def readers(tiny_model):
    """readers(device, ...): one with fixed shapes and one without, of the same weights."""

    def readers(device="cpu", block_size=16, **options):
        found, model = [], tiny_model(block_size=block_size)
        for fixed in (True, False):
            found.append(Reader(model.to(device), ALL_IDS, torch.float32, graphs=fixed, **options))
        found[0].fixed = FixedDecoder(found[0])
        return found

    return readers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("longest", [1, 2, 5, 9])
def test_logits_are_those_of_the_reader(readers, device, n, longest):
    """Samples with contexts and drafts of different lengths, in caches that others have used before."""
    logits, lengths = [], []
    for reader in readers(device, block_size=32):
        used = [KVCache(reader) for _ in range(n)]
        for k, cache in enumerate(used):
            reader.prefill(ids_of(90 + k, 32), cache)
        del used, cache
        caches = [KVCache(reader) for _ in range(n)]
        for k, cache in enumerate(caches):
            reader.prefill(ids_of(k, 3 + k % 4), cache)
        tokens = [[ids_of(10 * step + k, 1 + k % longest) for k in range(n)] for step in range(2)]
        logits.append([reader.decode(ids, caches) for ids in tokens])
        lengths.append([cache.length for cache in caches])
    for fixed, plain in zip(*logits, strict=True):
        assert [rows.shape for rows in fixed] == [rows.shape for rows in plain]
        for rows, others in zip(fixed, plain, strict=True):
            np.testing.assert_allclose(rows, others, **CLOSE)
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_samples", [1, 3, MAX_SLOTS + 2])
def test_samples_are_those_of_the_reader_beyond_the_context(readers, device, n_samples):
    """With drafts from a book; of more samples than there are slots, some decode as before."""
    book = np.array(ids_of(5, 60))
    options = dict(max_new_tokens=40, sampling=Sampling(temperature=0.7), numbers=range(n_samples))
    fixed, plain = (list(generate(r, book[:7].tolist(), **options)) for r in readers(device, book_ids=book))
    assert fixed == plain and len(fixed) == 40 * n_samples


def test_a_slot_is_free_again_when_its_cache_is_deleted(readers):
    reader, _ = readers()
    caches = [KVCache(reader) for _ in range(MAX_SLOTS)]
    assert sorted(cache.slot for cache in caches) == list(range(MAX_SLOTS)) and KVCache(reader).slot is None
    freed = caches.pop(3).slot
    gc.collect()
    assert KVCache(reader).slot == freed


def test_the_decoder_is_freed_with_its_reader(readers):
    """At once, without a garbage collection: it may hold gigabytes of a GPU's memory."""
    reader, _ = readers()
    cache = KVCache(reader)
    reader.prefill(ids_of(0, 5), cache)
    reader.decode([[1]], [cache])
    decoder = weakref.ref(reader.fixed)
    assert cache.layers[0].untyped_storage().data_ptr() == reader.fixed.pool.untyped_storage().data_ptr()
    del reader
    assert decoder() is None


def test_only_where_graphs_are_used_are_shapes_fixed(tiny_model):
    reader = Reader(tiny_model(), ALL_IDS, torch.float32)
    assert not reader.graphs and KVCache(reader).slot is None and reader.fixed is None
    reader.graphs = True  # as on CUDA devices
    assert KVCache(reader).slot is not None and reader.fixed is not None


def test_all_that_a_reader_may_be_given_fits_a_shape():
    assert MAX_SLOTS == MAX_BATCH == decoding_graph.SAMPLES[-1] and WIDTHS[-1] == 1 + MAX_DRAFT and WIDTHS[0] > 1


def test_a_step_has_one_graph_whatever_it_reads(readers, monkeypatch):
    """torch.compile takes the whole step as one graph, and never again: no shape depends on what is read."""
    from torch._dynamo.testing import CompileCounter

    monkeypatch.setattr(
        "llm.reading.reader.ONEDNN", False
    )  # GPUs have no such weights, and the compiler no size of them
    reader, plain = readers()
    counter = CompileCounter()
    torch._dynamo.reset()
    options = dict(fullgraph=True, backend=counter, dynamic=False)
    reader.fixed.graphs[2, 4] = torch.compile(lambda inputs: reader.fixed.step(reader, inputs), **options)
    outputs = []
    for one in (reader, plain):
        caches = [KVCache(one), KVCache(one)]
        for k, cache in enumerate(caches):
            one.prefill(ids_of(k, 2 + k), cache)
        outputs.append([one.decode([ids_of(3, t), ids_of(4, 3)], caches) for t in (1, 2, 4)])  # always in shape (2, 4)
    for rows, others in zip(outputs[0], outputs[1], strict=True):
        np.testing.assert_allclose(np.concatenate(rows), np.concatenate(others), **CLOSE)
    assert counter.frame_count == 1


def on_meta(value):
    """The same with its tensors on the meta device, which holds no values."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, Product):
        value.weight = on_meta(value.weight)
    return type(value)(map(on_meta, value)) if isinstance(value, tuple | list) else value


def test_nothing_within_a_step_waits_for_the_device(readers, monkeypatch):
    """On the meta device, whatever needs a value is an error; the shapes follow from those of the inputs alone."""
    monkeypatch.setattr("llm.reading.reader.ONEDNN", False)
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros(1, device="meta").item()  # such as this
    reader, _ = readers()
    for name in ("wte", "wpe", "ln_f", "blocks", "head"):
        setattr(reader, name, on_meta(getattr(reader, name)))
    reader.fixed.pool = reader.fixed.pool.to("meta")
    for n, w in ((1, 2), (8, 16)):
        logits = reader.fixed.step(reader, torch.zeros(3, n, w, dtype=torch.int64, device="meta"))
        assert logits.shape == (n * w, 61) and logits.device.type == "meta"


def test_where_a_graph_cannot_be_captured_the_step_itself_is_used(monkeypatch, capsys):
    def refuse(step, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(decoding_graph, "captured", refuse)

    class OnCuda:
        device = torch.device("cuda")

    assert decoding_graph.graph_of(None, OnCuda()) is None
    told = "a CUDA graph does not work here, going on without it (operation not permitted when stream is capturing)\n"
    assert capsys.readouterr().err == told
    assert decoding_graph.graph_of(None, torch.zeros(1)) is None and capsys.readouterr().err == ""


def test_padding_is_stored_after_the_context(readers):
    reader, _ = readers()
    cache = KVCache(reader)
    reader.prefill(ids_of(0, 14), cache)
    reader.decode([[5]], [cache])  # one token and one of padding
    pool = reader.fixed.pool
    assert pool.size(4) == reader.config.block_size + SPARE
    kept = pool[cache.slot, :, :, :, : reader.config.block_size].flatten(0, 2).abs().sum((0, 2)) > 0
    assert kept.tolist() == [True] * 15 + [False]
