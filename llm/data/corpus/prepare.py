"""Write data/NAME/: a corpus of many documents as GPT-2 tokens, larger than memory if need be.

    python data/corpus/prepare.py texts/ --dataset=my_corpus
    python data/corpus/prepare.py part-*.jsonl.zst --dataset=web
    python data/corpus/prepare.py --list=files.txt --dataset=web --index=True

Texts are read as they are, in UTF-8: .jsonl or .ndjson (a JSON object on each line), .parquet, .txt and .md (a document
each), all but parquet also as .gz or .zst. Typed again after a kill, the same command goes on.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import Fraction, PositiveInt, UserError, Words, command, from_here, run_script
from llm.files import locked_folder
from llm.runtime import notice
from llm.text.corpus_files import CorpusFile, Position, batches, find_files
from llm.text.corpus_writer import Choices, CorpusWriter, is_prepared
from llm.text.dataset import Dataset, data_folder, read_meta
from llm.text.names import checked_name
from llm.text.token_index import build_index, has_index
from llm.text.tokenizing import Tokenizers
from llm.training.metrics import clock

# isort: split
from tqdm import tqdm

SCRIPT = "data/corpus/prepare.py"
LINE_SECONDS = 10  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class Settings:
    # the documents
    input: Words = ()  # files, folders and patterns
    list: str | None = None  # a file that names more of them, one a line
    text_column: str = "text"  # of JSON lines and parquet: where the text of a document is
    drop_duplicates: bool = False  # keep the first of documents that are equal; takes 0.1 kB of memory a document
    # the dataset
    dataset: str | None = None  # its name, a folder in data/
    val_fraction: Fraction = 0.005  # fraction of the documents that go to the val part, chosen by their hash
    shard_tokens: PositiveInt = 100_000_000  # for a shard of train and val, which ends with the batch that fills it
    index: bool = False  # also make the index that sample.py drafts and cites from: 4 bytes a token on the disk
    # this machine
    processes: PositiveInt | None = None  # that tokenise; None = one for each core


class ProgressLine:
    """Shows how much of the files is read, and the time left: a bar on a terminal, else a line now and then."""

    def __init__(self, files: list[CorpusFile], start: Position):
        self.before = [0]  # bytes of the files before each file
        for file in files:
            self.before.append(self.before[-1] + file.size)
        self.total = max(1, self.before[-1])
        self.done: int | None = None  # bytes read so far
        self.first, self.began, self.shown = start, time.monotonic(), time.monotonic()
        self.bar = tqdm(total=self.total, unit="B", unit_scale=True, leave=False) if sys.stderr.isatty() else None

    def update(self, file: int, n_bytes: int, tokens: int) -> None:
        """Show that so many bytes of file number `file` are read, and how many tokens there are."""
        done = self.before[file] + n_bytes
        if self.done is None:  # what an earlier call has done says nothing about the speed
            self.started_at = done if self.first != Position(0) else 0
        self.done, now = done, time.monotonic()
        if self.bar is not None:
            self.bar.initial = self.started_at
            self.bar.set_postfix_str(f"{tokens:,} tokens", refresh=False)
            self.bar.update(done - self.bar.n)
        elif now - self.shown >= LINE_SECONDS and done > self.started_at:
            self.shown = now
            left = (self.total - done) * (now - self.began) / (done - self.started_at)
            read = f"{done / 1e9:.2f} of {self.total / 1e9:.2f} GB read"
            notice(f"{read}, {tokens:,} tokens, {clock(left)} left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def write_corpus(folder: Path, files: list[CorpusFile], choices: Choices, n_processes: int) -> None:
    """Write the shards of a corpus and its meta.json, going on where an earlier call was killed."""
    with CorpusWriter(folder, files, choices) as writer:
        if writer.notice:
            notice(writer.notice)
        start = writer.state.position
        progress = ProgressLine(files, start)
        try:
            with Tokenizers(n_processes) as tokenizers:
                read = batches(files, choices.text_column, start)
                jobs = ((batch, batch, after, n_bytes) for batch, after, n_bytes in read)
                for tokens, batch, after, n_bytes in tokenizers.tokenise(jobs):
                    writer.add(tokens, begins=batch.begins, ends=batch.ends, after=after)
                    last = after.file if after.offset or after.row else after.file - 1
                    progress.update(last, n_bytes, writer.tokens("train"))
        finally:
            progress.close()
        writer.finish()


def describe(folder: Path) -> None:
    """Print what a prepared corpus holds."""
    meta = read_meta(folder)
    source = meta["source"]
    dropped = [
        f"{source[key]:,} {words} dropped"
        for key, words in (("duplicates_dropped", "duplicates"), ("empty_dropped", "empty ones"))
        if source[key]
    ]
    print("; ".join([f"{source['documents']:,} documents of {source['files']:,} files", *dropped]))
    for part in ("train", "val"):
        shards = [shard for shard in meta["shards"] if shard["file"].startswith(part)]
        n_tokens, n_characters = (sum(shard[key] for shard in shards) for key in ("tokens", "characters"))
        if shards:
            per_token = n_characters / n_tokens
            print(f"{part}: {n_tokens:,} tokens in {len(shards):,} shards, {per_token:.1f} characters each")
        else:
            print("val: no document; train.py measures no val_loss (a larger --val_fraction holds some out)")
    print(f"wrote {len(meta['shards']):,} shards and meta.json to {from_here(folder)}")


def prepare(settings: Settings, name: str, folder: Path) -> None:
    """Write the dataset, unless it is there already, and print what it holds."""
    files = find_files(settings.input, settings.list)
    choices = Choices(settings.text_column, settings.val_fraction, settings.drop_duplicates, settings.shard_tokens)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {from_here(folder)}: {e.strerror}; type another --dataset") from None
    with locked_folder(folder, setting="dataset", work="preparation"):
        if is_prepared(folder, files, choices):
            notice(f"{from_here(folder)} holds this corpus already")
        else:
            write_corpus(folder, files, choices, settings.processes or n_cores())
        describe(folder)
    print(f"next: {command('train.py', f'--dataset={name}', f'--out_dir=out-{name}')}")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(settings: Settings) -> None:
    words = settings.input + ((f"--list={settings.list}",) if settings.list else ())
    name = checked_name(settings.dataset, f"type {command(SCRIPT, *words[:3], '--dataset=my_corpus')}")
    folder = data_folder(name)
    if words:
        prepare(settings, name, folder)
    elif not (settings.index and (folder / "meta.json").exists()):
        raise UserError(f"there is no text to prepare; type {command(SCRIPT, 'texts/', f'--dataset={name}')}")
    if settings.index:
        split = Dataset(name).train
        if has_index(folder, split):
            notice("its index is made already")
        else:
            build_index(folder, split, notice)


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
