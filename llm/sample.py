"""Continue a prompt from a trained model.

    python sample.py --out_dir=out-tale --start="The echo had been ill"
    python sample.py --out_dir=out-tale --start=FILE:prompt.txt --num_samples=3 --temperature=0
    python sample.py --out_dir=out-tale --interactive=True

The text goes to standard output as it is drawn, everything else to standard error. Only tokens that occur in the
trained text are ever drawn; a prompt may hold any. What happens beyond the model's context: see generate.py.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
from llm.reading.cite import MIN_WORDS, Book
from llm.reading.generate import Sampling, generate
from llm.reading.load import book_text, load_reader
from llm.reading.prompt import encode_prompt, prompt_notice
from llm.reading.reader import MAX_BATCH, Reader
from llm.reading.stream import TextStream
from llm.runtime import notice
from llm.storage.pretrained import Info
from llm.text.formats import read_text

SEPARATOR = "---------------"  # between samples


@dataclass(frozen=True)
class Drawing(runtime.Settings):
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints; ckpt_init.pt is the model before training
    # what to draw
    max_new_tokens: NonNegativeInt = 500  # tokens each
    temperature: NonNegativeFloat = 0.3  # below 1 surer, above 1 wilder; 0 = always the likeliest token (nanoGPT: 0.8)
    top_k: NonNegativeInt | None = 200  # draw among so many of the likeliest; 0 or None = among all
    top_p: Share = 1.0  # draw among the likeliest that have this probability together
    min_p: Fraction = 0.0  # draw among those that are at least so likely, the likeliest being 1
    repetition_penalty: PositiveFloat = 1.0  # above 1, what was there already is less likely

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


@dataclass(frozen=True)
class Settings(Drawing):
    # the prompt, and how to show what follows
    init_from: str = "resume"  # resume = a checkpoint in out_dir; else a model as in train.py: gpt2, a folder, a file
    start: str = "\n"  # the prompt; FILE:prompt.txt reads it from a file
    num_samples: PositiveInt = 1  # continuations of the prompt
    stop: str | None = None  # end before this text
    interactive: bool = False  # ask for a prompt, continue it, ask again; Ctrl-C ends the continuation
    cite: bool = False  # mark what stands word for word in the book, and where: chapter and line


def read_prompt(start: str) -> str:
    """The prompt that a `start` setting means."""
    if not start.startswith("FILE:"):
        return start
    text, _ = read_text(Path(start.removeprefix("FILE:")))
    return text.removesuffix("\n")  # which editors put at the end of every file


class Writer:
    """Continues prompts, and prints what it draws."""

    def __init__(self, cfg: Settings, reader: Reader, tokenizer, info: Info):
        self.cfg, self.reader, self.tokenizer = cfg, reader, tokenizer
        self.book = book_text(reader, tokenizer)
        self.cited = Book(self.book) if cfg.cite else None
        if cfg.cite and not self.book:
            raise UserError(
                f"cite=True needs the text that {info.path} was trained on, which dataset {info.dataset} does not hold "
                f"now; prepare it as it was, or leave out --cite"
            )

    def ids(self, prompt: str) -> list[int]:
        """The prompt's tokens; says what is odd about it. UserError for an empty one."""
        # nanoGPT's way to ask for the beginning of a document; anywhere else these characters are plain text
        end_of_text = self.tokenizer.end_of_text
        alone = prompt == "<|endoftext|>" and end_of_text
        ids = [end_of_text] if alone else encode_prompt(self.tokenizer, prompt, self.book)
        if not ids:
            raise UserError('start is empty: the model needs at least one token; type --start="Once upon a time"')
        if message := prompt_notice(prompt, self.book, by_characters=end_of_text is None):
            notice(message)
        if len(ids) > self.reader.config.block_size:
            notice(
                f"the prompt has {len(ids):,} tokens, the model sees the last {self.reader.config.block_size:,} of them"
            )
        return ids

    def write(self, prompt: str, ids: list[int], numbers: range) -> None:
        """Prints samples of these numbers; the first as it is drawn, and the others, drawn at the same time, after it.

        Its last notice is how fast they were drawn, also where Ctrl-C ends it.
        """
        streams = {n: TextStream(self.tokenizer, [self.cfg.stop] if self.cfg.stop else []) for n in numbers}
        texts, enough, n_tokens, began = dict.fromkeys(numbers, prompt), set(), 0, time.perf_counter()
        live = None if self.cited else numbers[0]  # whose text is printed as it comes
        print(prompt if live is not None else "", end="", flush=True)
        try:
            for n, token in generate(
                self.reader,
                ids,
                max_new_tokens=self.cfg.max_new_tokens,
                sampling=self.cfg.sampling(),
                seed=self.cfg.seed,
                numbers=numbers,
                end_of_text=self.tokenizer.end_of_text,
                enough=enough,
            ):
                n_tokens += 1
                piece = streams[n].feed(token)
                texts[n] += piece
                if streams[n].stopped:
                    enough.add(n)
                if n == live and piece:
                    print(piece, end="", flush=True)
        finally:
            seconds = time.perf_counter() - began
            for n in numbers:
                rest = streams[n].finish()
                if n > numbers[0]:
                    print(SEPARATOR)
                print(rest if n == live else self.shown(texts[n] + rest), flush=True)
            notice(f"{n_tokens:,} tokens in {seconds:.1f} s, {n_tokens / seconds:,.0f} tokens/s")

    def shown(self, text: str) -> str:
        """A whole sample, as it is printed."""
        if self.cited is None:
            return text
        cut = self.cited.cut(text)
        words = sum(span.words for _, span in cut if span)
        notice(
            f"{words:,} of {len(text.split()):,} words stand in the book, in spans of {MIN_WORDS} words or more: "
            "marked, with the place in the text as it was learned"
        )
        return "".join(f"⟦{piece}⟧ ({span.where()})" if span else piece for piece, span in cut)


def ask(writer: Writer) -> None:
    """A prompt, a continuation, again, until the input ends or Ctrl-C is typed at the prompt."""
    notice("type the beginning of a sentence; Ctrl-C ends a continuation, and here the program")
    for turn in range(sys.maxsize):
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            prompt = sys.stdin.readline()
        except KeyboardInterrupt:
            prompt = ""
        if not prompt:  # the end of the input
            print(file=sys.stderr)
            return
        prompt = prompt.removesuffix("\n")
        try:
            if prompt:
                writer.write(prompt, writer.ids(prompt), range(turn, turn + 1))
        except UserError as e:  # a character that the model does not have: nothing is lost by it
            notice(str(e))
        except KeyboardInterrupt:
            pass


def main(cfg: Settings) -> None:
    prompt = read_prompt(cfg.start)
    writer = Writer(cfg, *load_reader(cfg, cfg.init_from))
    if cfg.interactive:
        return ask(writer)
    ids = writer.ids(prompt)
    for first in range(0, cfg.num_samples, MAX_BATCH):
        if first > 0:
            print(SEPARATOR)
        writer.write(prompt, ids, range(first, min(first + MAX_BATCH, cfg.num_samples)))


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
