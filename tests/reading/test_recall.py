"""Recall counts what the model would really recite."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.reading import recall
from llm.reading.generate import generate
from llm.reading.reader import Reader
from llm.runtime import Runtime
from llm.text.dataset import Split

ALONE = Runtime(torch.device("cpu"), torch.float32, compile=False)


def said(model, prompt, n):
    """The n tokens that follow, greedily."""
    reader = Reader(model, torch.arange(40), torch.float32)
    return [token for _, token in generate(reader, prompt, max_new_tokens=n)]


@pytest.fixture(scope="module")
def half_learned(tiny_model):
    """(model, text): a small model that knows one part of a random text by heart and has never seen the other."""
    model = tiny_model(block_size=128, n_embd=64, vocab_size=40)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1) if p.dim() > 1 else None
    text = torch.randint(40, (700,), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    starts = torch.arange(0, 301, 50)  # windows of 100 from the first 400 tokens, as recall cuts them
    x = torch.stack([text[s : s + 100] for s in starts])
    for _ in range(150):
        loss = model(x[:, :-1], x[:, 1:])[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), text.tolist()


def test_the_teacher_forced_answer_equals_really_generating(half_learned):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    expected = 0
    for s in starts.tolist():
        continuation = said(model, text[s : s + 50], 50)
        expected += continuation == text[s + 50 : s + 100]
    measured = recall.measure(model, split, starts, allowed=allowed, rt=ALONE)
    assert measured.recited == expected and measured.windows == len(starts) == 13
    assert 3 <= expected <= 10  # some are known and some are not, or the comparison would mean little


def test_one_pass_answers_after_a_long_prompt_and_after_a_short_one(half_learned):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    wrong = recall.greedy_errors(model, split, recall.window_spans(starts), allowed=allowed, rt=ALONE)
    recited = [text[s + 8 : s + 58] == said(model, text[s : s + 8], 50) for s in starts.tolist()]
    assert recall.Recall.after(8, wrong).recited == sum(recited) > 0
    assert not wrong[:, :8].any()


@pytest.mark.parametrize("share, again", [(0.0, "some"), (1 / 16, "some"), (100.0, "all")])
def test_what_bfloat16_leaves_in_doubt_is_asked_in_float32(half_learned, monkeypatch, share, again):
    """The answer is float32's, and it is not asked of all of the text."""
    model, text = half_learned
    split, asked = Split.in_memory(text, 40), recall.window_spans(recall.window_starts(len(text), 100))
    options = dict(allowed=torch.arange(40), rt=ALONE)
    monkeypatch.setattr(recall.runtime, "has_bfloat16", lambda _: False)
    exact = recall.greedy_errors(model, split, asked, **options)
    monkeypatch.setattr(recall.runtime, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(recall, "CLEAR_MARGIN", share)
    answers, counts = recall.answers, {torch.bfloat16: 0, torch.float32: 0}

    def counted(reader, split, asked, mean_row):
        counts[reader.dtype] += len(asked)
        return answers(reader, split, asked, mean_row)

    monkeypatch.setattr(recall, "answers", counted)
    found = recall.greedy_errors(model, split, asked, **options)
    assert counts[torch.bfloat16] == 13 and (counts[torch.float32] == 13) == (again == "all")
    assert (found == exact).all() or share == 0


def test_batches_do_not_change_the_answer(half_learned):
    model, text = half_learned
    split, starts = Split.in_memory(text, 40), recall.window_starts(len(text), 100)
    answers = {
        recall.measure(model, split, starts, allowed=torch.arange(40), rt=ALONE, batch_size=size) for size in (1, 5, 64)
    }
    assert len(answers) == 1


def test_an_id_that_cannot_be_drawn_is_never_right(half_learned):
    model, text = half_learned
    split, starts = Split.in_memory(text, 40), recall.window_starts(len(text), 100)
    all_but_one = torch.tensor([i for i in range(40) if i != text[60]])
    everything = recall.measure(model, split, starts[:1], allowed=torch.arange(40), rt=ALONE)
    without = recall.measure(model, split, starts[:1], allowed=all_but_one, rt=ALONE)
    assert everything.recited == 1 and without.recited == 0
    assert without.right_tokens <= 50 - text[50:100].count(text[60])


@pytest.mark.parametrize("n, starts", [(100, [0]), (149, [0]), (150, [0, 50]), (99, []), (260, [0, 50, 100, 150])])
def test_windows_begin_every_50_tokens_and_fit(n, starts):
    assert recall.window_starts(n, 100).tolist() == starts


def test_a_long_text_is_measured_on_2000_windows_from_all_over():
    starts = recall.window_starts(1_000_000, 100)
    assert len(starts) == len(set(starts.tolist())) == 2000
    assert starts[0] == 0 and starts[-1] == 999_900 and (starts % 50 == 0).all()


@given(tokens=st.lists(st.integers(0, 2), min_size=8, max_size=120), chunk=st.integers(1, 50))
@settings(deadline=None)
def test_standing_once_equals_a_plain_count(tokens, chunk):
    starts = np.arange(0, len(tokens) - 3, 2)
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    expected = [s for s in starts.tolist() if grams.count(grams[s]) == 1]
    found = recall.unique_prefixes(Split.in_memory(tokens, 3), starts, 4, chunk=chunk)
    assert found.tolist() == expected


@pytest.mark.parametrize("successes, trials", [(458, 463), (0, 10), (20, 20), (1, 2)])
def test_the_ends_of_wilsons_interval_are_where_the_score_test_is_at_its_limit(successes, trials):
    share = successes / trials
    for end in recall.wilson(successes, trials):
        if 0 < end < 1:
            assert abs(share - end) / (end * (1 - end) / trials) ** 0.5 == pytest.approx(1.959964)
        else:
            assert end == share
    assert recall.wilson(0, 0) == (0.0, 1.0)


def test_obstacles_are_told_with_both_numbers():
    assert "context of 99 tokens, block_size=64" in recall.recall_obstacle(64, 1000)
    assert "text of 100 tokens, this one has 99" in recall.recall_obstacle(256, 99)
    assert recall.recall_obstacle(99, 100) is None


@pytest.mark.parametrize("size", [1, 4, 64])
def test_an_exam_is_passed_where_the_whole_text_says_so(half_learned, size):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    asked = recall.window_spans(recall.window_starts(len(text), 100))
    wrong = recall.greedy_errors(model, split, asked, allowed=allowed, rt=ALONE)
    share = recall.Recall.after(50, wrong).share
    exam = recall.TargetCheck(share + 0.01, split, 128, allowed=allowed, rt=ALONE, batch_size=size)
    assert exam.passed(model) is exam.passed(model) is None
    exam = recall.TargetCheck(share, split, 128, allowed=allowed, rt=ALONE, batch_size=size)
    assert (exam.passed(model) == wrong).all() and (exam.passed(model) == wrong).all()
    assert sorted(exam.order) == list(range(13))


@pytest.fixture
def asked(monkeypatch):
    """Where the spans begin that are asked, in that order."""
    found, answers = [], recall.answers
    monkeypatch.setattr(recall, "answers", lambda *args: found.extend(args[2][:, 0].tolist()) or answers(*args))
    monkeypatch.setattr(recall.runtime, "has_bfloat16", lambda _: False)
    return found


def test_an_exam_asks_first_what_was_wrong_the_last_time(half_learned, asked):
    model, text = half_learned
    split, allowed = Split.in_memory(text, 40), torch.arange(40)
    starts = recall.window_starts(len(text), 100)
    wrong = recall.greedy_errors(model, split, recall.window_spans(starts), allowed=allowed, rt=ALONE)
    known = ~wrong[:, 50:].any(1)
    exam = recall.TargetCheck(0.99, split, 128, allowed=allowed, rt=ALONE, batch_size=2)
    assert exam.may_miss == 0 and exam.passed(model) is None
    asked.clear()
    assert exam.passed(model) is None
    assert len(asked) == 2 and asked[0] in starts[~known]  # one question is enough


def test_an_exam_asks_first_what_training_got_wrong(half_learned, asked):
    model, text = half_learned
    exam = recall.TargetCheck(0.99, Split.in_memory(text, 40), 128, allowed=torch.arange(40), rt=ALONE, batch_size=1)
    for tokens in ([0, 49, 699], [599, 600], [100, 149, 650]):  # the first 50 are in no window's answer
        exam.suspect(tokens)
    exam.may_miss = 99
    exam.passed(model)
    assert asked[:4] == [50, 600, 500, 550] and sorted(asked) == exam.asked[:, 0].tolist()


def test_what_bfloat16_got_wrong_in_doubt_is_no_reason_to_stop_asking(half_learned, monkeypatch):
    """A quick answer that is all wrong: where it is in doubt, float32 decides; where it is clear, the exam is over."""
    model, text = half_learned
    split, asked = Split.in_memory(text[:400], 40), recall.window_spans(recall.window_starts(400, 100))
    monkeypatch.setattr(recall.runtime, "has_bfloat16", lambda _: True)
    options = dict(allowed=torch.arange(40), rt=ALONE, batch_size=2)
    exact = recall.greedy_errors(model, split, asked, **options)
    answers = recall.answers
    for in_doubt, n_wrong in ((True, exact[:, 50:].any(1).sum()), (False, 2)):

        def broken(reader, split, asked, mean_row, in_doubt=in_doubt):
            wrong, doubt = answers(reader, split, asked, mean_row)
            return (wrong, doubt) if reader.dtype == torch.float32 else (wrong | True, doubt | True & in_doubt)

        monkeypatch.setattr(recall, "answers", broken)
        found = recall.greedy_errors(model, split, asked, **options, may_miss=1)
        assert found[:, 50:].any(1).sum() == n_wrong and len(found) == 7
        assert (found == exact).all() or not in_doubt


@pytest.mark.parametrize("block_size", [100, 101, 700])
def test_a_recitation_is_asked_in_the_contexts_that_generate_has(tiny_model, block_size):
    model, allowed = tiny_model(block_size=block_size, vocab_size=40).eval(), torch.arange(40)
    beginning = torch.randint(40, (50,), generator=torch.Generator().manual_seed(3)).tolist()
    told = beginning + said(model, beginning, 650)
    asked = recall.recitation_spans(700, block_size)
    assert asked[0, 1] == 50 and asked[-1, 2] == 700 and (asked[1:, 1] == asked[:-1, 2]).all()  # each token once
    known = Split.in_memory(told, 40)  # what it says is what it would say again, to the last token
    assert recall.greedy_errors(model, known, asked, allowed=allowed, rt=ALONE).sum() == 0
    told[-1] = (told[-1] + 1) % 40
    wrong = recall.greedy_errors(model, Split.in_memory(told, 40), asked, allowed=allowed, rt=ALONE)
    assert wrong.sum(1).tolist() == [0] * (len(asked) - 1) + [1] and wrong[-1, asked[-1, 2] - asked[-1, 0] - 1]
    for target, spans, goal in ((1.0, 13 + len(asked), "1.0 with all of the text recited"), (0.999, 13, "0.999")):
        exam = recall.TargetCheck(target, known, block_size, allowed=allowed, rt=ALONE)
        assert len(exam.asked) == spans and exam.goal == goal


def test_what_an_exam_may_miss_is_no_victim_of_rounding():
    text = Split.in_memory(list(range(50)) * 11, 50)  # 10 windows, and (1 - 0.9) * 10 is below 1
    assert recall.TargetCheck(0.9, text, 128, allowed=torch.arange(50), rt=ALONE).may_miss == 1


def test_what_is_covered_counts_blocks_of_20_in_order():
    book = np.random.default_rng(0).integers(0, 40, 300)
    assert recall.covered(book, book) == 300
    assert recall.covered(book, book[:19]) == 0 and recall.covered(book, book[30:50]) == 20
    slip = book.copy()
    slip[100] += 50
    assert recall.covered(book, slip) == 299
    slip[112] += 50  # what stands between two slips is shorter than 20
    assert recall.covered(book, slip) == 287
    assert recall.covered(book, np.concatenate([book[200:], book[:200]])) == 200  # the larger part of what is in order
    assert recall.covered(book, np.concatenate([book[:100], book])) == 300


def test_a_recitation_goes_on_as_sampling_does_and_names_its_first_slip(half_learned):
    model, text = half_learned
    reader = Reader(model, torch.arange(40), torch.float32)
    words = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    lines, figures = recall.recite(reader, words, Split.in_memory(text, 40))
    told = text[:50] + said(model, text[:50], 650)
    slip = next(i for i, (a, b) in enumerate(zip(told, text, strict=True)) if a != b)
    assert figures["first_slip"] == slip >= 100 and 0.1 < figures["recited"] < 1
    assert figures["recited"] == recall.covered(np.array(text), np.array(told)) / 700
    assert lines[0].startswith(f"first slip: token {slip:,} of 700: after ")
    assert f"the book has '{' '.join(map(str, text[slip : slip + 8]))}'" in lines[0]
    lines, figures = recall.recite(reader, words, Split.in_memory(text[:slip], 40))
    assert figures == {"first_slip": None, "recited": 1.0, "tokens": slip}
