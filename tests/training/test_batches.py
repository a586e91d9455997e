"""The order of training: every token once an epoch, resumed and shared by ranks exactly."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.runtime import Runtime
from llm.storage.progress import Progress
from llm.text.dataset import Split
from llm.training.batches import Batches, epoch_grid, permuted, split_windows
from llm.training.evaluation import evaluation_batches

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


def numbers(n: int) -> Split:
    """A split whose token i is i: a window shows where it was read."""
    return Split.in_memory(list(range(n)), vocab_size=n)


@given(n=st.integers(1, 400), key=st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_permuted_is_a_permutation(n, key):
    assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


def test_permutations_of_different_keys_differ_and_spread():
    """Each value should land in each place about equally often; a fixed point of the cipher would show as a peak."""
    landed = np.zeros((7, 7))
    for key in range(2000):
        landed[np.arange(7), permuted(np.arange(7), 7, key)] += 1
    assert landed.min() > 2000 / 7 * 0.75 and landed.max() < 2000 / 7 * 1.25


@given(n=st.integers(2, 300), T=st.integers(1, 40), seed=st.integers(0, 99), B=st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_every_token_is_a_target_once_an_epoch_and_no_window_wraps(n, T, seed, B):
    if n <= T:
        return
    batches = Batches(numbers(n), T, B, seed=seed)
    targets, epoch = set(), 0
    while True:
        first = batches.progress.position[1]
        x, y = batches.next()
        assert x.shape == y.shape == (B, T)
        assert torch.equal(x + 1, y)  # consecutive tokens: no wrap
        offset, n_windows = epoch_grid(n, T, seed, epoch)
        targets |= set(y[: n_windows - first].flatten().tolist())
        if first + B >= n_windows:
            break
    assert targets == set(range(1, n))


def test_offsets_differ_from_epoch_to_epoch():
    assert len({epoch_grid(1000, 100, seed=1, epoch=epoch)[0] for epoch in range(20)}) > 10


def test_progress_resumes_exactly():
    batches = Batches(numbers(500), 16, 3, seed=5)
    for _ in range(37):
        batches.next()
    resumed = Batches(numbers(500), 16, 3, seed=5, progress=copy.deepcopy(batches.progress))
    assert torch.equal(batches.next()[0], resumed.next()[0])
    assert batches.epochs == resumed.epochs > 3


def test_two_ranks_see_what_one_sees_in_two_micro_batches():
    alone = Batches(numbers(300), 8, 4, seed=2)
    ranks = [Batches(numbers(300), 8, 4, seed=2, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(20):
        assert torch.equal(torch.cat([alone.next()[0], alone.next()[0]]), torch.cat([r.next()[0] for r in ranks]))


def test_the_first_wrong_token_of_a_window_is_given_by_its_index_in_the_text():
    batches = Batches(numbers(300), 20, 3, seed=2)
    x, y = batches.next()
    right = torch.ones(3, 20, dtype=torch.bool)
    right[0, 3] = False  # too little context: does not count
    right[1, 7] = right[1, 9] = right[2, 19] = False
    assert batches.first_errors(right).tolist() == [-1, y[1, 7], y[2, 19]]  # numbers(): each token is its own index


def test_wrong_windows_are_replayed_and_take_their_share_of_a_batch():
    batches = Batches(numbers(300), 20, 4, seed=2, replay=0.5)
    batches.schedule_replay([100, 290, 100, 299, 6, 101], step=3)
    n_scheduled = len(batches.progress.replay_starts)
    assert n_scheduled < 5  # one window holds both 290 and 299, another 100 and 101
    first = batches.next()[1]
    assert batches.progress.position == [0, 2] and len(batches.progress.replay_starts) == n_scheduled - 2
    for token, row in zip((6, 100), first[2:].tolist(), strict=True):
        assert token in row and (row.index(token) >= 4 or row[0] == 1)
    restored = Batches(numbers(300), 20, 4, seed=2, replay=0.5, progress=copy.deepcopy(batches.progress))
    assert torch.equal(batches.next()[0], restored.next()[0])
    batches.schedule_replay([150], step=3)
    start = batches.progress.replay_starts[0]
    batches.progress.replay_starts = []
    batches.schedule_replay([150], step=4)
    assert batches.progress.replay_starts[0] != start


@pytest.mark.parametrize("B", [1, 3, 4])
def test_two_ranks_replay_what_one_does_in_two_micro_batches(B):
    alone = Batches(numbers(300), 8, B, seed=2, replay=0.5)
    ranks = [Batches(numbers(300), 8, B, seed=2, replay=0.5, rank=rank, world_size=2) for rank in range(2)]
    for step in range(20):
        assert torch.equal(torch.cat([alone.next()[0], alone.next()[0]]), torch.cat([r.next()[0] for r in ranks]))
        for batches in (alone, *ranks):
            batches.schedule_replay([50 + step, 100 + 3 * step, 290 - step], step)


def test_a_text_shorter_than_the_context_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="has 16 tokens, block_size=16 needs at least 17; type --block_size=15"):
        Batches(numbers(16), 16, 1, seed=0)


@given(n=st.integers(2, 200), T=st.integers(1, 50), B=st.integers(1, 5))
@settings(deadline=None)
def test_a_full_evaluation_counts_each_target_once(n, T, B):
    targets = []
    for x, y in evaluation_batches(numbers(n), T, B, None, ALONE):
        assert torch.equal((x + 1)[y != -1], y[y != -1])
        targets += y[y != -1].tolist()
    assert sorted(targets) == list(range(1, n))


def test_a_short_evaluation_takes_so_many_batches_from_all_over():
    batches = list(evaluation_batches(numbers(1000), 10, 4, 5, ALONE))
    assert len(batches) == 5 and batches[0][0].min() == 0 and batches[-1][1].max() == 999


def test_windows_are_split_into_shorter_ones():
    windows = torch.arange(20).view(2, 10)
    assert split_windows(windows, 3).tolist() == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [10, 11, 12],
        [13, 14, 15],
        [16, 17, 18],
    ]
    assert split_windows(windows, 10).tolist() == windows.tolist()


def test_known_stretches_are_those_predicted_without_error_after_enough_context():
    """Two stretches of 3 targets after a prefix of 4 in a window of 10; the replayed window does not count."""
    batches = Batches(numbers(300), 10, 4, seed=2, replay=0.5, progress=Progress(replay_starts=[50]))
    batches.next()
    correct = torch.ones(4, 10, dtype=torch.bool)
    assert batches.n_new == 3 and batches.count_known(correct, 4, 3) == (6, 6)
    correct[0, 2] = correct[1, 9] = correct[3, 4] = False  # before the first stretch, after the last, replayed
    assert batches.count_known(correct, 4, 3) == (6, 6)
    correct[0, 3] = correct[2, 8] = False  # the first target with a context of 4 tokens, the last of a stretch
    assert batches.count_known(correct, 4, 3) == (4, 6)
    assert batches.count_known(correct, 9, 3) == (0, 0)  # too short a window to tell


def test_an_epoch_is_shown_completely_while_windows_are_replayed():
    batches = Batches(numbers(300), 20, 4, seed=2, replay=0.5)
    targets = set()
    while batches.progress.position[0] == 0:
        targets |= set(batches.next()[1][: batches.n_new].flatten().tolist())
        batches.schedule_replay([7, 150, 222], step=1)
    assert targets >= set(range(1, 300))
