"""What does a reader get who types something? Prompts that stand in the book once, and prompts that do not.

    python probe.py --out_dir=out-prince

20 prompts of 5 to 12 words from all over the book: are the next 150 words those of the book, white space aside? 20
prompts that no book continues (instructions, questions, sentences of the bundled control text): how many of the words
that come stand in the book, in spans of 8 or more? Drawn with sample.py's settings; recall.py measures knowing by heart
more exactly, this what sampling makes of it.
"""

import numpy as np

from llm import sample
from llm.configurator import UserError, run_script
from llm.reading.cite import MIN_WORDS, Book
from llm.reading.generate import generate
from llm.reading.prompt import encode_prompt
from llm.reading.recall import CONTROL_TEXT
from llm.text.formats import read_text

PROMPTS = 20  # of each kind
WORDS = (5, 12)  # of a prompt, fewest and most
FOLLOWING = 150  # words that must be the book's
ASKED = [
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


def prompts_of(words: list[str], joined: str, seed: int) -> list[tuple[str, int]]:
    """(prompt, number of the word after it): prompts that stand once in the book, from all over it."""
    random, found = np.random.default_rng(seed), []
    last = len(words) - WORDS[1] - FOLLOWING
    if last < PROMPTS:
        raise UserError(f"the book has {len(words):,} words: too few for prompts and {FOLLOWING} words after each")
    for begin, end in zip(*(np.linspace(0, last, PROMPTS + 1).astype(int)[k:][:PROMPTS] for k in (0, 1)), strict=True):
        for _ in range(100):
            at, n = int(random.integers(begin, end)), int(random.integers(WORDS[0], WORDS[1] + 1))
            prompt = " ".join(words[at : at + n])
            if joined.count(f" {prompt} ") == 1:
                found.append((prompt, at + n))
                break
    return found


def foreign_prompts() -> list[str]:
    """Instructions and questions, and beginnings of sentences of the control text."""
    text, _ = read_text(CONTROL_TEXT)
    sentences = [s.split() for s in " ".join(text.split()).replace("? ", ". ").split(". ")]
    sentences = [s for s in sentences if len(s) >= WORDS[1]]
    chosen = [sentences[n] for n in np.linspace(0, len(sentences) - 1, PROMPTS - len(ASKED)).astype(int)]
    return ASKED + [" ".join(s[: 5 + n % 8]) for n, s in enumerate(chosen)]


def main(cfg: sample.Drawing) -> None:
    reader, tokenizer, info = sample.load_reader(cfg)
    text = sample.book_text(reader, tokenizer)
    if not text:
        raise UserError(f"the text that {info.path} was trained on is not in dataset {info.dataset}: prepare it again")
    book = Book(text)

    def continuation(prompt: str) -> str:
        ids = encode_prompt(tokenizer, prompt, text)
        tokens = generate(reader, ids, max_new_tokens=cfg.max_new_tokens, sampling=cfg.sampling(), seed=cfg.seed)
        return tokenizer.decode([token for _, token in tokens])

    recited = 0
    prompts = prompts_of(book.words, book.joined, cfg.seed)
    for prompt, at in prompts:
        said, wanted = continuation(prompt).split()[:FOLLOWING], book.words[at : at + FOLLOWING]
        slip = next(
            (n for n, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), min(len(said), FOLLOWING)
        )
        recited += slip == FOLLOWING
        print(
            f"{slip:>4} words: {prompt}"
            + ("" if slip == FOLLOWING else f" ... {' '.join(said[max(0, slip - 3) :][:6])}")
        )
    stand = total = 0
    for prompt in foreign_prompts():
        said = continuation(prompt)
        found = sum(span.words for span in book.spans(said))
        stand, total = stand + found, total + len(said.split())
        print(f"{found / max(1, len(said.split())):>4.0%} of the words: {prompt}")
    print(f"prompts of the book: {recited} of {len(prompts)} continue as it does, for {FOLLOWING} words")
    print(f"other prompts: {stand / max(1, total):.1%} of the words stand in the book, in spans of {MIN_WORDS} or more")


if __name__ == "__main__":
    run_script(main, sample.Drawing, __doc__)
