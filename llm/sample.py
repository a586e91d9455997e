"""Continue a prompt from a trained model.

    python sample.py --out_dir=out-tale --start="The echo had been ill"
    python sample.py --out_dir=out-tale --start=FILE:prompt.txt --num_samples=3 --temperature=0

The text goes to standard output as it is drawn, everything else to standard error. Only tokens that occur in the
trained text are ever drawn; a prompt may hold any. What happens beyond the model's context: see generate.py.
"""

import codecs
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from llm import checkpoint, dataset, runtime
from llm.configurator import NonNegativeFloat, NonNegativeInt, PositiveInt, UserError, run_script
from llm.generate import drawable_ids, generate
from llm.runtime import notice
from llm.text import read_text

SEPARATOR = "---------------"  # between samples
SEARCHED = 5_000_000  # tokens: in texts up to this size the prompt is looked up, to tell why it may not be recited


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # which model
    init_from: str = "resume"  # resume = a checkpoint in out_dir; pretrained models such as gpt2 are to come
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints; ckpt_init.pt is the model before training
    # what to draw
    start: str = "\n"  # the prompt; FILE:prompt.txt reads it from a file
    num_samples: PositiveInt = 1  # continuations of the prompt
    max_new_tokens: NonNegativeInt = 500  # tokens each
    temperature: NonNegativeFloat = 0.8  # below 1 surer, above 1 wilder; 0 = always the likeliest token
    top_k: NonNegativeInt | None = 200  # draw among so many of the likeliest; 0 or None = among all


def read_prompt(start: str) -> str:
    """The prompt that a `start` setting means."""
    if not start.startswith("FILE:"):
        return start
    text, _ = read_text(Path(start.removeprefix("FILE:")))
    return text.removesuffix("\n")  # which editors put at the end of every file


def straighten(text: str) -> str:
    """The text with typographic quotes replaced by those of a keyboard, character for character."""
    return text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))


def prompt_notice(prompt: str, book: str, *, by_characters: bool) -> str | None:
    """Why the model may not recognise the prompt although the book has it, and what to type; None = nothing to say.

    by_characters: the model's tokens are characters, so that a space at the end is a token like any other.
    """
    wanted = prompt if by_characters else prompt.rstrip(" \t")
    at = straighten(book).find(straighten(wanted)) if wanted.strip() else -1
    found = book[at : at + len(wanted)] if at >= 0 else ""
    if found and wanted not in book:
        return f"the prompt's quotation marks are not those of the book, which has: {found}"
    if wanted.strip() and prompt != wanted:
        what = f"the book has: {wanted}" if found else f"type it without: {wanted}"
        return f"the prompt ends in a space, but GPT-2's tokens begin with theirs; {what}"
    return None


def book_text(info: checkpoint.Info, tokenizer) -> str:
    """The text that the model was trained on, if it is still there and not too long to search; else ""."""
    try:
        split = dataset.Dataset(info.dataset).train
    except UserError:  # sampling needs the checkpoint alone
        return ""
    if len(split) > SEARCHED or split.sha256 != info.text_sha256:
        return ""
    return tokenizer.decode(split.tokens(0, len(split)).tolist())


def main(cfg: Settings) -> None:
    if cfg.init_from != "resume":
        raise UserError(f"init_from={cfg.init_from} is not there yet: expected resume, a checkpoint in out_dir")
    prompt = read_prompt(cfg.start)
    on = runtime.start(cfg, inference=True)
    model, tokenizer, info = checkpoint.load_model(cfg.out_dir, cfg.checkpoint_name, on.device)
    # nanoGPT's way to ask for the beginning of a document; anywhere else these characters are plain text
    ids = [tokenizer.end_of_text] if prompt == "<|endoftext|>" and tokenizer.end_of_text else tokenizer.encode(prompt)
    if not ids:
        raise UserError('start is empty: the model needs at least one token; type --start="Once upon a time"')
    notice(f"{info.path}: step {info.iter_num:,}, dataset {info.dataset}; {on.describe()}; seed {cfg.seed}")
    if message := prompt_notice(prompt, book_text(info, tokenizer), by_characters=tokenizer.end_of_text is None):
        notice(message)
    if len(ids) > model.config.block_size:
        notice(f"the prompt has {len(ids):,} tokens, the model sees the last {model.config.block_size:,} of them")

    n_tokens, began = 0, time.perf_counter()
    for index in range(cfg.num_samples):
        if index > 0:
            print(SEPARATOR)
        print(prompt, end="", flush=True)
        characters = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a token may end within a character
        with on.autocast():
            for token in generate(
                model,
                ids,
                max_new_tokens=cfg.max_new_tokens,
                drawable=drawable_ids(info.corpus_ids, tokenizer.vocab_size),
                temperature=cfg.temperature,
                top_k=cfg.top_k,
                generator=torch.Generator().manual_seed(runtime.seed_for(cfg.seed, index)),
                end_of_text=tokenizer.end_of_text,
            ):
                print(characters.decode(tokenizer.decode_bytes([token])), end="", flush=True)
                n_tokens += 1
        print(characters.decode(b"", final=True))
    seconds = time.perf_counter() - began
    notice(f"{n_tokens:,} tokens in {seconds:.1f} s, {n_tokens / seconds:,.0f} tokens/s")


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
