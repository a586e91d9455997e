"""Checkpoints of a stranger who can compute our checksums: each loads, or is refused by one line.

A flipped byte ends at a checksum. Here the checksums are right, so that the mutations reach what is behind them. More
of them, with the slowest and the largest: MUTATIONS=10000 pytest -s tests/storage/test_mutations.py
"""

import copy
import os
import re
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import STORY, save_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_archive import archive_of

from llm.configurator import UserError
from llm.reading.generate import allowed_ids, generate
from llm.reading.reader import Reader
from llm.storage import checkpoint, pretrained
from llm.storage.archive import read_archive
from llm.storage.progress import Progress
from llm.text import tokenizer

TIMES = int(os.environ.get("MUTATIONS", 100))
MEASURED = "MUTATIONS" in os.environ and Path("/proc/self/clear_refs").exists()
EDGES = [
    0,
    -1,
    1,
    7,
    True,
    2**31,
    2**62,
    2**63,
    -(2**63),
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
]
EDGES += ["../x", "\x1b[2J", "0", [], {}, None, [[]], {"a": {}}, (), "a" * 10_000]
TENSORS = [torch.zeros(1), torch.tensor(0), torch.zeros(0), torch.zeros(3, 5), torch.full((7, 8), float("nan"))]
TENSORS += [torch.zeros(7, 8, dtype=dtype) for dtype in (torch.bool, torch.int64, torch.float16, torch.float64)]
JUNK = st.one_of(
    st.sampled_from([*EDGES, *TENSORS]),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 9), max_size=9),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
MAX_NOISE = 0.3  # MB by which a peak may differ from the same reading's before: pages that the allocator keeps
worst = {"files": 0, "seconds": 0.0, "megabytes": 0.0, "intact": 0.0, "times": 0.0}


@pytest.fixture(scope="module")
def good(tiny_model, tmp_path_factory):
    """(a folder, the content of a checkpoint without its checksums, the pickle in its file)."""
    folder = tmp_path_factory.mktemp("mutations")
    save_checkpoint(
        folder / "good.pt",
        model=tiny_model(vocab_size=7, n_embd=8, n_layer=1),
        progress=Progress(iter_num=3, position=[0, 1], text_sha256="0", scaler={"scale": 1.0}, baseline={"loss": 1.0}),
        config={"dataset": "x"},
        tokenizer_description={"kind": "characters", "characters": "abcdefg"},
        corpus_ids=[1, 2],
    )
    with zipfile.ZipFile(folder / "good.pt") as archive:
        pickled = archive.read(archive.infolist()[0])
    content = torch.load(folder / "good.pt", weights_only=True)
    del content["checksums"]
    if MEASURED:
        (folder / "ckpt.pt").write_bytes((folder / "good.pt").read_bytes())
        first = megabytes_of(lambda: use(folder / "ckpt.pt"))
        worst["intact"] = max(megabytes_of(lambda: use(folder / "ckpt.pt")) for _ in range(9))
        print(
            f"\nthe intact file takes {first:.1f} MB the first time, and at most {worst['intact']:.2f} MB from then on"
        )
    yield folder, content, pickled
    print(
        f"\n{worst['files']:,} files: slowest {worst['seconds']:.3f} s; most memory beyond an intact file's "
        f"{worst['megabytes']:.2f} MB, at most {worst['times']:.2f} times the file"
    )


def megabytes_of(read) -> float:
    """Most memory that this process takes for a call beyond what it has before, in MB."""

    def resident(field: str) -> int:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak, begins anew
    before = resident("VmRSS")
    read()
    return (resident("VmHWM") - before) / 1024


def one_line_or_nothing(read, path: Path) -> None:
    """Nothing but a UserError of one line may come out of a file, within a second of CPU time and twice its memory.

    What an intact file takes is subtracted. A file that takes more is read again: what is imported late is imported
    once, and only what is taken each time is the file's.
    """

    def attempt() -> None:
        try:
            read()
        except UserError as e:
            assert "\n" not in str(e) and len(str(e)) < 1000

    began = time.process_time()
    megabytes = megabytes_of(attempt) if MEASURED else attempt() or 0.0
    seconds, size = time.process_time() - began, path.stat().st_size / 2**20
    if megabytes - worst["intact"] > 2 * size:
        megabytes = min(megabytes_of(attempt) for _ in range(3))
    more = max(0.0, megabytes - worst["intact"])
    worst["files"], worst["seconds"] = worst["files"] + 1, max(worst["seconds"], seconds)
    worst["megabytes"], worst["times"] = max(worst["megabytes"], more), max(worst["times"], more / size)
    assert seconds < 1 and more < 2 * size + MAX_NOISE  # CPU time


def places(content, above=()) -> list[tuple]:
    """The path of keys to each part of nested dicts, lists and tuples."""
    found = []
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else []
    for key, part in pairs:
        found += [(*above, key), *places(part, (*above, key))]
    return found


def use(path: Path) -> None:
    """What sample.py does with a checkpoint."""
    model, encoder, info = pretrained.load_model(str(path.parent), path.name)
    reader = Reader(model, allowed_ids(info.corpus_ids, encoder.vocab_size), torch.float32)
    encoder.decode([token for _, token in generate(reader, [1], max_new_tokens=3)])
    checkpoint.read(path, checkpoint.PARTS, mmap=False)


@given(data=st.data())
@settings(deadline=None, max_examples=TIMES, suppress_health_check=list(HealthCheck))
def test_a_checkpoint_with_another_value_and_right_checksums(good, data):
    folder, content, _ = good
    changed = copy.deepcopy(content)
    *above, key = data.draw(st.sampled_from(places(content)))
    parent = changed
    for step in above:
        parent = parent[step]
    if data.draw(st.integers(0, 5)) == 0:
        del parent[key]
    else:
        parent[key] = data.draw(JUNK)
    try:
        changed["checksums"] = checkpoint.checksums(changed)
    except UnicodeEncodeError:  # a lone surrogate: whoever made the file has other code
        changed["checksums"] = {}
    torch.save(changed, folder / "ckpt.pt")
    one_line_or_nothing(lambda: use(folder / "ckpt.pt"), folder / "ckpt.pt")


@given(data=st.data())
@settings(deadline=None, max_examples=TIMES, suppress_health_check=list(HealthCheck))
def test_a_pickle_with_other_bytes_in_a_whole_zip_file(good, data):
    folder, _, pickled = good
    changed = bytearray(pickled)
    for _ in range(data.draw(st.integers(1, 3))):
        at, other = data.draw(st.integers(0, len(changed) - 1)), data.draw(st.integers(0, len(changed) - 20))
        kind = data.draw(st.sampled_from(["byte", "insert", "delete", "repeat"]))
        if kind == "byte":
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del changed[at : at + data.draw(st.integers(1, 9))]
        else:
            changed[at:at] = changed[other : other + 20] * data.draw(st.integers(1, 50))
    (folder / "ckpt.pt").write_bytes(archive_of(bytes(changed), {str(n): bytes(4000) for n in range(40)}))
    for mmap in (False, True):
        one_line_or_nothing(lambda mmap=mmap: read_archive(folder / "ckpt.pt", mmap=mmap), folder / "ckpt.pt")


RUN = dict(dataset="letters", n_layer=1, n_embd=16, block_size=16, batch_size=2, optimizer="muon", eval_interval=50)


@pytest.fixture
def resume(learn, prepare):
    """resume(change) resumes a short run for two updates after change(content of its checkpoint)."""
    prepare("letters", STORY[:1200], tokenizer.characters(STORY[:1200]))
    learn(**RUN, max_iters=2)
    original = torch.load("out/ckpt.pt", weights_only=True)
    del original["checksums"]

    def resume(change):
        content = copy.deepcopy(original)
        change(content)
        try:
            content["checksums"] = checkpoint.checksums(content)
        except UnicodeEncodeError:
            content["checksums"] = {}
        torch.save(content, "out/ckpt.pt")
        try:
            learn(**RUN, max_iters=4, init_from="resume")
        except UserError as e:
            assert "\n" not in str(e) and len(str(e)) < 1000
            return str(e)

    resume.original = original
    return resume


def in_optimizer(name, value):
    """A change of one buffer of the first weight."""
    return lambda content: content["optimizer"]["state"][0].update({name: value})


WRONG_STATES = {
    "windows beyond the text": lambda content: content["loop"].update(replay_starts=[10**6]),
    "threads that nothing can start": lambda content: content["loop"].update(threads=2**31),
    "a tensor among the settings": lambda content: content["config"].update(seed=torch.zeros(3)),
    "a text as step": in_optimizer("step", "1"),
    "a step for each weight": in_optimizer("step", torch.ones(3)),
    "a mean of another shape": in_optimizer("exp_avg", torch.zeros(3)),
    "a mean that is missing": lambda content: content["optimizer"]["state"][0].pop("exp_avg"),
    "a buffer too many": in_optimizer("max_exp_avg_sq", torch.zeros(3)),
    "the state of no weight": lambda content: content["optimizer"]["state"].update({999: {"step": torch.ones(())}}),
    "no states": lambda content: content.update(optimizer={"state": 5, "param_groups": 5}),
    "muon's of another shape": lambda content: content["optimizers"][0]["state"][0].update(momentum_buffer=5),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_a_state_that_no_run_can_go_on_from_is_refused(resume, name):
    assert resume(WRONG_STATES[name])


def test_a_state_of_writing_beyond_the_last_round_ends(resume):
    """The rounds were compared with their number, and were made for ever."""
    resume(lambda content: content.update(iter_num=0) or content["loop"].update(n_written=99))


def test_a_run_goes_on_from_any_other_value_or_says_in_one_line_why_not(resume):
    parts = {name: part for name, part in resume.original.items() if name != "model"}

    @given(data=st.data())
    @settings(deadline=None, max_examples=max(25, TIMES // 10), suppress_health_check=list(HealthCheck))
    def change_and_resume(data):
        *above, key = data.draw(st.sampled_from(places(parts)))
        value, remove = data.draw(JUNK), data.draw(st.integers(0, 5)) == 0

        def change(content):
            for step in above:
                content = content[step]
            if remove:
                del content[key]
            else:
                content[key] = value

        resume(change)

    change_and_resume()
