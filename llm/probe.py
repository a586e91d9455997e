"""What does a reader get who types something? Tries prompts from the book, and prompts that no book continues.

    python probe.py --out_dir=out-prince

20 prompts of 5 to 12 words from all over the book, each of which occurs there once: are the next 150 words those of the
book, white space aside? 20 other prompts (instructions, questions, sentences of the bundled control text): what share
of the words that follow occurs in the book, in spans of 8 or more? Drawn with sample.py's settings. recall.py measures
knowing by heart more exactly; this measures what sampling makes of it.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this clone's package, installed or not
import llm  # noqa: F401  (checks the installation before numpy is imported)

# isort: split
import numpy as np

from llm import runtime
from llm.configurator import UserError, run_script
from llm.reading.cite import CHARACTERS_PER_WORD, MIN_WORDS, BookIndex, split_words
from llm.reading.generate import generate
from llm.reading.load import load_reader
from llm.reading.prompt import encode_prompt
from llm.reading.recall import CONTROL_TEXT
from llm.sample import SamplingSettings
from llm.terminal import show
from llm.text.formats import read_text
from llm.text.scripts import mostly_spaceless

N_PROMPTS = 20  # of each kind
MIN_PROMPT_WORDS, MAX_PROMPT_WORDS = 5, 12
N_WORDS = 150  # words after a prompt of the book that must be the book's; in scripts without spaces, characters
INSTRUCTIONS = [
    "Summarize the book in one paragraph.",
    "What is the main character's name?",
    "Write a poem about the sea.",
    "Translate the first chapter into French.",
    "Who are you?",
    "List three reasons to learn mathematics.",
    "The capital of Australia is",
    "def fibonacci(n):",
    "How do I bake bread without yeast?",
    "Explain quantum computing to a child.",
]


def book_prompts(book_index: BookIndex, seed: int) -> list[tuple[str, int]]:
    """(prompt, index in the book of the word after it) for prompts from all over the book that occur there once."""
    words, random, found = book_index.words, np.random.default_rng(seed), []
    scale = CHARACTERS_PER_WORD if mostly_spaceless(book_index.text) else 1
    last_start = len(words) - MAX_PROMPT_WORDS * scale - N_WORDS
    if last_start < N_PROMPTS:
        raise UserError(f"the book has {len(words):,} words: too few for prompts and {N_WORDS} words after each")
    boundaries = np.linspace(0, last_start, N_PROMPTS + 1).astype(int)
    for begin, end in pairwise(boundaries.tolist()):
        for _ in range(100):
            start = int(random.integers(begin, end))
            end = start + scale * int(random.integers(MIN_PROMPT_WORDS, MAX_PROMPT_WORDS + 1))
            if book_index.joined.count(f" {' '.join(words[start:end])} ") == 1:
                printed = book_index.text[book_index.word_starts[start] : book_index.word_starts[end]]
                found.append((" ".join(printed.split()), end))
                break
    return found


def other_prompts() -> list[str]:
    """The instructions, and beginnings of sentences from all over the control text."""
    text, _ = read_text(CONTROL_TEXT)
    sentences = [sentence.split() for sentence in " ".join(text.split()).replace("? ", ". ").split(". ")]
    sentences = [words for words in sentences if len(words) >= MAX_PROMPT_WORDS]
    indices = np.linspace(0, len(sentences) - 1, N_PROMPTS - len(INSTRUCTIONS)).astype(int)
    return INSTRUCTIONS + [" ".join(sentences[index][: 5 + n % 8]) for n, index in enumerate(indices)]


def probe_book(continue_prompt: Callable[[str], str], book_index: BookIndex, seed: int) -> str:
    """Try prompts of the book, print one line for each, and return the summary."""
    prompts = book_prompts(book_index, seed)
    n_recited = 0
    for prompt, start in prompts:
        words, expected = split_words(continue_prompt(prompt))[:N_WORDS], book_index.words[start : start + N_WORDS]
        n_right = 0  # words before the first wrong one
        while n_right < len(words) and words[n_right] == expected[n_right]:
            n_right += 1
        n_recited += n_right == N_WORDS
        mistake = "" if n_right == N_WORDS else f" ... {' '.join(words[max(0, n_right - 3) :][:6])}"
        show(f"{n_right:>4} words: {prompt}{mistake}")
    return f"prompts of the book: {n_recited} of {len(prompts)} continue as it does, for {N_WORDS} words"


def probe_others(continue_prompt: Callable[[str], str], book_index: BookIndex) -> str:
    """Try prompts that are not in the book, print one line for each, and return the summary."""
    n_cited = n_total = 0
    for prompt in other_prompts():
        text = continue_prompt(prompt)
        cited, total = sum(span.words for span in book_index.spans(text)), len(split_words(text))
        n_cited, n_total = n_cited + cited, n_total + total
        show(f"{cited / max(1, total):>4.0%} of the words: {prompt}")
    share = n_cited / max(1, n_total)
    return f"other prompts: {share:.1%} of the words stand in the book, in spans of {MIN_WORDS} or more"


def main(cfg: SamplingSettings) -> None:
    model = load_reader(cfg.out_dir, cfg.checkpoint_name, rt=runtime.start(cfg, use="sample"), seed=cfg.seed)
    if not model.book_text:
        raise UserError(f"the text that {model.name} was trained on is needed: {model.missing_book}")
    book_index = BookIndex(model.book_text, model.sections)

    def continue_prompt(prompt: str) -> str:
        ids = encode_prompt(model.tokenizer, prompt, model.book_text)
        options = dict(max_new_tokens=cfg.max_new_tokens, sampling=cfg.sampling(), seed=cfg.seed)
        return ids.rest + model.tokenizer.decode([token for _, token in generate(model.reader, ids, **options)])

    summaries = [probe_book(continue_prompt, book_index, cfg.seed), probe_others(continue_prompt, book_index)]
    print("\n".join(summaries))


if __name__ == "__main__":
    run_script(main, SamplingSettings, __doc__)
