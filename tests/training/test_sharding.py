"""FSDP: a training whose weights are spread over processes is the same training, and its checkpoints anybody's.

Two gloo processes make all runs once, in one process group (`runs`); the tests look at what they have left.
"""

import dataclasses
import multiprocessing
import os
import re
import socket

import pytest
import torch

from llm import export, train
from llm.configurator import UserError
from llm.model import uninitialised
from llm.network import sharding
from llm.runtime import Runtime
from llm.storage import checkpoint, pretrained, shards
from llm.text import dataset, tokenizer
from llm.training import optim
from llm.training.metrics import read_metrics
from tests.conftest import STORY, TINY, losses, timeless

pytestmark = pytest.mark.slow  # processes that train

CPU = torch.device("cpu")
BASE = dict(optimizer="muon", gradient_accumulation_steps=4, dropout=0.2, n_embd=36, bias=True, eval_interval=3)
BASE |= dict(max_iters=6, lr_decay_iters=6, grad_clip=0.5, batch_size=2, eval_iters=5)
RUNS = {  # name of the folder -> what differs from BASE
    "ddp": dict(),
    "fsdp": dict(shard=True),
    "recomputed": dict(shard=True, gradient_checkpointing=True),
    "ddp-adamw": dict(optimizer="adamw", corpus_softmax=False, dtype="bfloat16", n_layer=1),
    "fsdp-adamw": dict(optimizer="adamw", corpus_softmax=False, dtype="bfloat16", n_layer=1, shard=True),
    "best": dict(shard=True, always_save_checkpoint=False, patience=1, learning_rate=1.0, eval_interval=1),
    "halves": dict(shard=True, max_iters=3),
    "half-of-two": dict(shard=True, max_iters=3),
}


def settings(name, **changes):
    return dataclasses.replace(TINY, **BASE | dict(out_dir=name) | changes)


def rank(number, world_size, port, folder, runs):
    """One rank of several: makes the runs, one after the other."""
    os.environ |= dict(RANK=str(number), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.chdir(folder)
    dataset.DATA = folder / "data"
    torch.set_num_threads(1)
    for cfg in runs:
        train.train(cfg)
    train.runtime.wait_for_all()
    train.runtime.stop()


def make_runs(folder, runs, world_size=2):
    """Make these runs (settings of train.py) in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank, args=(n, world_size, port, folder, runs)) for n in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * world_size


def prepare(folder):
    """A dataset with a held-out part, in `folder`/data, also for this process."""
    (folder / "data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "DATA", folder / "data")
        text = dict(val_fraction=0.15, source={}, train_command=("x",))
        dataset.write_dataset(folder / "data" / "story", STORY[:6000], tokenizer.gpt2(), **text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder with the output of RUNS, of "one" process, and of two that are resumed: "halves", "half-of-one"."""
    folder = tmp_path_factory.mktemp("sharded")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(dataset, "DATA", folder / "data")
        torch.set_num_threads(1)
        train.train(settings("one"))
        train.train(settings("half-of-one", max_iters=3))
    resumed = [settings(name, shard=True, init_from="resume") for name in ("halves", "half-of-one")]
    make_runs(folder, [*(settings(name, **changes) for name, changes in RUNS.items()), *resumed])
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    """This process works in the folder of the runs."""
    monkeypatch.chdir(runs)
    monkeypatch.setattr(dataset, "DATA", runs / "data")
    return runs


def content(name, file="ckpt.pt"):
    return checkpoint.read(checkpoint.find(name, file), checkpoint.PARTS)


def tensors(part):
    """The tensors in nested data, complete."""
    if isinstance(part, torch.Tensor | shards.Pieces):
        return [shards.complete(part)]
    values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [tensor for value in values for tensor in tensors(value)]


def test_losses_are_those_of_data_parallel_training_and_of_one_process(here):
    one, ddp, fsdp, recomputed = (read_metrics(name) for name in ("one", "ddp", "fsdp", "recomputed"))
    assert len(losses(one)) == 6
    for name in ("loss", "val_loss", "grad_norm"):
        expected = [line[name] for line in one if name in line]
        for lines in (ddp, fsdp, recomputed):
            assert [line[name] for line in lines if name in line] == pytest.approx(expected, rel=1e-4)
    for a, b in zip(tensors(content("one")), tensors(content("fsdp")), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_products_in_bfloat16_are_those_of_autocast(here):
    ddp, fsdp = read_metrics("ddp-adamw"), read_metrics("fsdp-adamw")
    assert losses(fsdp) == pytest.approx(losses(ddp), rel=2e-3) and len(losses(fsdp)) == 6


def test_a_run_resumed_on_as_many_processes_is_bit_exact(here):
    assert timeless(read_metrics("halves"), "updates") == timeless(read_metrics("fsdp"), "updates")
    for part in checkpoint.PARTS:
        assert all(map(torch.equal, tensors(content("halves")[part]), tensors(content("fsdp")[part])))


def test_a_sharded_run_goes_on_in_one_process_and_one_in_two(here):
    """Resharding: the losses after it are those of the run that was not interrupted."""
    train.train(settings("half-of-two", init_from="resume"))
    for name in ("half-of-two", "half-of-one"):
        assert losses(read_metrics(name)) == pytest.approx(losses(read_metrics("fsdp")), rel=1e-4)
    assert "shards" not in content("half-of-two") and "shards" in content("half-of-one")
    assert sorted(os.listdir("half-of-two/shards")) == ["1.0of2.pt", "1.1of2.pt"]  # those of ckpt_init.pt
    assert losses(read_metrics("half-of-one"))[:3] == losses(read_metrics("one"))[:3]


def test_a_process_holds_its_rows_alone_and_only_files_in_use_stay(here):
    init, last = content("fsdp", "ckpt_init.pt")["shards"]["files"], content("fsdp")["shards"]["files"]
    assert sorted(os.listdir("fsdp/shards")) == sorted(os.path.basename(name) for name in (*init, *last))
    files = [torch.load(f"fsdp/{name}", weights_only=True) for name in last]
    for name, weight in content("fsdp")["model"].items():
        rows = [file["model"][name] for file in files]
        assert len(rows[0]) == -(-len(weight) // 2) and torch.equal(torch.cat(rows), weight)
    momentum = [file["optimizers"][0]["state"][0]["momentum_buffer"] for file in files]
    assert len(momentum[0]) == len(momentum[1]) == 3 * 36 / 2


def test_the_best_state_is_kept_apart_and_training_stops_by_it(here):
    assert content("best", "ckpt_last.pt")["progress"].stop_reason.startswith("val_loss has not improved")
    assert content("best")["iter_num"] < content("best", "ckpt_last.pt")["iter_num"]
    both = content("best")["shards"]["files"] + content("best", "ckpt_last.pt")["shards"]["files"]
    assert len(set(both)) == 4


def test_sampling_reads_a_sharded_checkpoint(here):
    model, _, info = pretrained.load_model("fsdp")
    assert info.iter_num == 6
    idx = torch.arange(20)[None]
    weights = content("fsdp")["model"]
    plain = uninitialised(model.config)
    plain.load_state_dict(weights, assign=True)
    assert torch.equal(model(idx)[0], plain.eval()(idx)[0])


def test_export_makes_one_file_of_it_from_which_training_goes_on(here, capsys):
    export.main(export.Settings(out_dir="half-of-one", to="one-file", format="checkpoint"))
    assert re.search(r"wrote to \S*one-file: ckpt.pt \(\d", capsys.readouterr().out)
    assert os.listdir("one-file") == ["ckpt.pt"] and "shards" not in content("one-file")
    assert all(map(torch.equal, tensors(content("one-file")), tensors(content("half-of-one"))))
    train.train(settings("one-file", init_from="resume", max_iters=7))
    assert content("one-file")["iter_num"] == 7
    with pytest.raises(UserError, match="is one file already: copy it"):
        export.main(export.Settings(out_dir="one-file", to="two-files", format="checkpoint"))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), r"needs fsdp/shards/\d+.1of2.pt, which is missing: keep the folder shards"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "1of2.pt is damaged or no checkpoint"),
        (lambda path: path.write_bytes(path.with_name("1.1of2.pt").read_bytes()), "checksum of its part 'model' is wr"),
    ],
)
def test_a_damaged_or_missing_file_is_told_in_one_line(here, damage, message):
    path = here / "fsdp" / content("fsdp")["shards"]["files"][1]
    whole = path.read_bytes()
    damage(path)
    try:
        with pytest.raises(UserError, match=message):
            pretrained.load_model("fsdp")
    finally:
        path.write_bytes(whole)


def test_a_manifest_names_files_of_its_own_folder_alone(here):
    with pytest.raises(UserError, match="do not fit together"):
        shards.read({"files": ["shards/../../x.0of1.pt"], "checksums": [{}]}, here / "fsdp" / "ckpt.pt", ("model",))


def test_rows_are_cut_as_torch_cuts_them():
    for n in range(9):
        for world_size in range(1, 6):
            sizes = [e - b for b, e in (sharding.row_range(n, r, world_size) for r in range(world_size))]
            chunks = [len(c) for c in torch.zeros(n).chunk(world_size)] if n else []
            assert sizes == chunks + [0] * (world_size - len(chunks))


def test_in_one_process_there_is_nothing_to_share(here, capsys):
    train.train(settings("alone", shard=True, max_iters=1))
    assert "shard=True has no effect in one process" in capsys.readouterr().err
    assert "shards" not in content("alone") and not os.path.exists("alone/shards")


def test_what_needs_all_weights_in_one_process_is_refused_or_left_out():
    two = Runtime(CPU, torch.float32, compile=True, world_size=2)
    with pytest.raises(UserError, match="leave out one"):
        train.start.share_work(two, 2, shard=True, watch=True)
    assert train.start.share_work(two, 2, shard=True, watch=False) == (dataclasses.replace(two, compile=False), True)


def test_muon_without_shards_is_as_it_was(tiny_model):
    """Of plain matrices, change_whole gives all of them to the function, themselves."""
    matrices, seen = [torch.zeros(2, 3), torch.zeros(3, 3)], []
    sharding.change_whole(matrices, seen.extend)
    assert all(a is b for a, b in zip(matrices, seen, strict=True))
    assert optim.n_parts(36, 12) == 3 and optim.n_parts(48, 12) == 1


def test_four_processes_equal_one_also_if_some_hold_no_rows_of_a_weight(tmp_path, monkeypatch):
    """Layer norms of 6 numbers over 4 processes: 2, 2, 2, 0."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "DATA", tmp_path / "data")
    shape = dict(n_embd=6, n_head=1, n_layer=3)
    make_runs(tmp_path, [settings("four", shard=True, **shape)], world_size=4)
    train.train(settings("one", **shape))
    assert losses(read_metrics("four")) == pytest.approx(losses(read_metrics("one")), rel=1e-4)
