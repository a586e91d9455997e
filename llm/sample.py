"""Continue a prompt from a trained model.

    python sample.py --out_dir=out-tale --start="The echo had been ill"
    python sample.py --out_dir=out-tale --start=FILE:prompt.txt --num_samples=3
    python sample.py --out_dir=out-tale --interactive=True
    python sample.py --out_dir=out-shelf --book="The Ferry"

The text goes to standard output as it is drawn, everything else to standard error. Only tokens that occur in the
trained text are ever drawn; a prompt may hold any. What happens beyond the model's context: see reading/generate.py.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
from llm import runtime
from llm.configurator import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    UserError,
    run_script,
)
from llm.reading.cite import MIN_WORDS, BookIndex, split_words
from llm.reading.contents import Contents
from llm.reading.continuation import Continuation, step
from llm.reading.corpus_index import CorpusIndex
from llm.reading.generate import Sampling
from llm.reading.interactive import interact, without_control_characters
from llm.reading.load import LoadedModel, load_base_reader, load_reader
from llm.reading.prompt import encode_prompt, prompt_notice
from llm.reading.reader import MAX_BATCH
from llm.reading.shelf import encode_in_book
from llm.reading.terminal import INVENTED, PLACE, PLAIN, LineWriter, has_colours
from llm.runtime import notice
from llm.terminal import displayed
from llm.text.formats import read_text

SEPARATOR = "---------------"  # between samples


@dataclass(frozen=True)
class SamplingSettings(runtime.Settings):
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints; ckpt_init.pt is the model before training
    # how to draw
    max_new_tokens: NonNegativeInt = 500  # length of each sample, in tokens
    temperature: NonNegativeFloat = 0.3  # below 1 safer, above 1 wilder; 0 = always the likeliest token (nanoGPT: 0.8)
    top_k: NonNegativeInt | None = 200  # draw only among this many likeliest tokens; 0 or None = all
    top_p: Share = 1.0  # draw only among the likeliest tokens with this total probability
    min_p: Fraction = 0.0  # draw only tokens at least this probable, relative to the likeliest
    repetition_penalty: PositiveFloat = 1.0  # above 1, tokens that occurred become less likely

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


@dataclass(frozen=True)
class Settings(SamplingSettings):
    # the prompt, and how to show what follows
    init_from: str = "resume"  # resume = a checkpoint in out_dir; else a model as in train.py: gpt2, a folder, a file
    start: str = "\n"  # the prompt; FILE:prompt.txt reads it from a file
    num_samples: PositiveInt = 1  # continuations of the prompt
    book: str | None = None  # of several: continue as the book with this title; without a prompt, from its first words
    stop: str | None = None  # end before this text
    interactive: bool = False  # ask for a prompt, continue it, ask again; :help lists its commands
    cite: bool = False  # mark what occurs word for word in the book, and where: title, chapter, percent


def read_prompt(start: str) -> str:
    """The prompt that a `start` setting means."""
    if not start.startswith("FILE:"):
        return start
    path = Path(start.removeprefix("FILE:"))
    if path.is_file() and not path.stat().st_size:
        return ""
    text, notes = read_text(path)
    if notes:
        notice(f"{path}: {'; '.join(notes)}")
    return text.removesuffix("\n")  # which editors put at the end of every file


class Writer:
    """Continues prompts and prints the text."""

    def __init__(self, cfg: Settings, model: LoadedModel):
        """UserError if citations or one of several books are wanted, and missing."""
        self.model, self.sampling, self.seed = model, cfg.sampling(), cfg.seed
        self.max_new_tokens, self.stop = cfg.max_new_tokens, [cfg.stop] if cfg.stop else []
        self.book = None if cfg.book is None else model.book(cfg.book)
        self.book_index: BookIndex | CorpusIndex | None = None
        self.contents: Contents | CorpusIndex | None = None
        self.cite, self.last_text = False, ""  # last_text: prompt and continuation that were written last
        self.set_cite(cfg.cite)

    def set_cite(self, cite: bool) -> None:
        """Whether to mark what stands in the book. UserError if that is not at hand."""
        if cite:
            self._index("cite=True")
        self.cite = cite

    def set_temperature(self, temperature: float) -> None:
        self.sampling = dataclasses.replace(self.sampling, temperature=temperature)

    def book_text(self) -> str:
        """The text of the book that is continued, or of all. UserError if it is not at hand."""
        if not self.model.book_text:
            raise UserError(f"the text that {self.model.name} was trained on is missing: {self.model.missing_book}")
        return self.book.text if self.book else self.model.book_text

    def _index(self, wanted: str) -> BookIndex | CorpusIndex:
        """The book prepared for looking up passages. UserError, about what is wanted, if it is not at hand."""
        model = self.model
        if model.index is not None and self.book_index is None:
            self.book_index = self.contents = CorpusIndex(model.index, model.tokenizer)
        if model.split is None and model.index is None:
            reason = f"{wanted} needs the text that {model.name} was trained on: {model.missing_book}"
            raise UserError(reason + ("; or leave out --cite" if wanted == "cite=True" else ""))
        if self.book_index is None:
            self.book_index = BookIndex(model.book_text, model.sections)
            self.contents = Contents(model.split, model.tokenizer, model.books)
        return self.book_index

    def places(self, text: str) -> str:
        """Where the passages of a text stand in the book, one a line; "" if there are none."""
        spans = self._index(":where").spans(text)
        return "\n".join(f"{self.contents.where(span.at)}: {span.words:,} words" for span in spans)

    def encode(self, prompt: str) -> list[int]:
        """The prompt's token ids; prints a notice if it is read otherwise than typed. UserError for an empty prompt."""
        tokenizer, book_text = self.model.tokenizer, self.book.text if self.book else self.model.book_text
        block_size = self.model.reader.config.block_size
        if prompt == "<|endoftext|>" and tokenizer.end_of_text is not None:
            # nanoGPT's way to ask for the beginning of a document; within a prompt these characters are plain text
            ids = [tokenizer.end_of_text]
        elif self.book and (found := encode_in_book(tokenizer, prompt, self.book, length=block_size // 2)):
            ids = found
        else:
            if self.book:
                notice(f"the prompt does not occur in {self.book.title}, and is read as typed")
            ids = encode_prompt(tokenizer, prompt, book_text)
        if not ids:
            raise UserError('start is empty: the model needs at least one token; type --start="Once upon a time"')
        if message := prompt_notice(prompt, book_text, by_characters=tokenizer.by_characters):
            notice(message)
        if len(ids) > block_size:
            notice(f"the prompt has {len(ids):,} tokens, the model sees the last {block_size:,} of them")
        return ids

    def write(self, prompt: str, prompt_ids: list[int], numbers: Sequence[int], *, printed: str | None = None) -> None:
        """Draw samples with these numbers together and print them, the first one as it is drawn.

        printed: in place of the prompt, which is on the screen already; None = the prompt.
        With citations, each is printed when all are finished. After Ctrl-C, what is there is printed. The last notice
        is the speed.
        """
        began = time.perf_counter()
        continuations = [self._continuation(prompt_ids, number) for number in numbers]
        first, *others = continuations
        live, lines = not self.cite, LineWriter(sys.stdout)  # live: whether the first is printed as it is drawn
        if live:
            lines.write(displayed(prompt if printed is None else printed))
        try:
            while any(continuation.finish_reason is None for continuation in continuations):
                new_text = step(self.model.reader, continuations)[0]
                if live and new_text:
                    lines.write(displayed(new_text))
        finally:
            seconds = time.perf_counter() - began
            rest = first.flush()
            lines.write(displayed(rest) if live else self.with_citations(displayed(prompt + first.text)))
            for continuation in others:
                continuation.flush()
                lines.write(f"\n{SEPARATOR}\n{self.with_citations(displayed(prompt + continuation.text))}")
            lines.end()
            print(flush=True)
            self.last_text = prompt + first.text
            n_tokens = sum(len(continuation.tokens) for continuation in continuations)
            notice(f"{n_tokens:,} tokens in {seconds:.1f} s, {n_tokens / seconds:,.0f} tokens/s")

    def _continuation(self, prompt_ids: list[int], number: int) -> Continuation:
        """Sample `number` of a prompt: the same whichever others are drawn beside it."""
        return Continuation(
            self.model.reader,
            self.model.tokenizer,
            prompt_ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            seed=[self.seed, number],
            stop=self.stop,
        )

    def with_citations(self, text: str) -> str:
        """A sample with its spans of the book marked, if citations are wanted; prints how many words they have.

        In brackets with their places; where there are colours, what is invented has one, and the places are faint.
        """
        if not self.cite:
            return text
        pieces = self._index("cite=True").pieces(text)
        words = sum(span.words for _, span in pieces if span)
        notice(
            f"{words:,} of {len(split_words(text)):,} words stand in the book, in spans of {MIN_WORDS} words or more: "
            "marked, with the place in the text as it was learned"
        )
        places = [(piece, self.contents.where(span.at) if span else "") for piece, span in pieces]
        if has_colours(sys.stdout):
            return "".join(
                f"{piece}{PLACE} ({where}){PLAIN}" if where else f"{INVENTED}{piece}{PLAIN}" for piece, where in places
            )
        return "".join(f"⟦{piece}⟧ ({where})" if where else piece for piece, where in places)


def main(cfg: Settings) -> None:
    prompt = without_control_characters(read_prompt(cfg.start))
    rt = runtime.start(cfg, use="sample")
    if cfg.init_from == "resume":
        model = load_reader(cfg.out_dir, cfg.checkpoint_name, rt=rt, seed=cfg.seed)
    else:
        model = load_base_reader(cfg.init_from, rt=rt, seed=cfg.seed)
    writer = Writer(cfg, model)
    if writer.book and prompt == Settings.start:
        prompt = ""  # which is the book's beginning
    if cfg.interactive:
        interact(writer, cfg.seed)
        return
    prompt_ids = writer.encode(prompt)
    for first in range(0, cfg.num_samples, MAX_BATCH):
        if first > 0:
            print(SEPARATOR)
        writer.write(prompt, prompt_ids, range(first, min(first + MAX_BATCH, cfg.num_samples)))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
