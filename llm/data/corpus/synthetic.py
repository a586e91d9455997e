"""Write files of invented text of any size, the same for the same seed: to try and to time corpora with.

    python data/corpus/synthetic.py --to=synthetic --megabytes=100
    python data/corpus/prepare.py synthetic --dataset=synthetic

Words are those of the bundled tale and others made of syllables; the n-th most frequent one is drawn as often as 1 / n
says (Zipf 1935). Sentences, paragraphs and documents have the usual lengths. The text says nothing.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # this clone's package, installed or not
from llm.configurator import NonNegativeInt, PositiveInt, UserError, command, run_script
from llm.files import atomic_file
from llm.text.names import BUNDLED

# isort: split
import numpy as np

N_WORDS = 50_000
STARTS, ENDS = (*"bcdfghlmnprstv", "st", "tr", "br", "sh", "th"), (*"aeiou", "ai", "ea", "on", "er", "an")
SYLLABLES = [start + end for start in STARTS for end in ENDS]
SENTENCE_WORDS = (4, 28)
PARAGRAPH_SENTENCES = (2, 8)
DOCUMENT_WORDS = 600  # in the mean


@dataclass(frozen=True)
class Settings:
    to: str = "synthetic"  # the folder that is written to
    megabytes: PositiveInt = 10  # of text, a million bytes each
    file_megabytes: PositiveInt = 100  # of a file
    seed: NonNegativeInt = 1337  # another one, another text


def vocabulary(random: np.random.Generator) -> np.ndarray:
    """(N_WORDS,) words, the most frequent first: those of the tale, then invented ones."""
    tale = (BUNDLED / "tale" / "tale.txt").read_text(encoding="utf-8").lower().split()
    counts: dict[str, int] = {}
    for word in (word.strip(".,;:!?\"'()-“”‘’—") for word in tale):
        if word.isalpha():
            counts[word] = counts.get(word, 0) + 1
    words = dict.fromkeys(sorted(counts, key=lambda word: (-counts[word], word)))
    while len(words) < N_WORDS:
        for drawn in random.integers(len(SYLLABLES), size=(N_WORDS, 4)).tolist():
            words["".join(SYLLABLES[n] for n in drawn[: 2 + drawn[0] % 3])] = None
    return np.array(list(words)[:N_WORDS], dtype=object)


def documents(seed: int) -> Iterator[str]:
    """Endless documents."""
    random = np.random.default_rng(seed)
    words = vocabulary(random)
    shares = np.cumsum(1 / np.arange(1, len(words) + 1))
    while True:
        n_words = int(random.lognormal(np.log(DOCUMENT_WORDS) - 0.5, 1.0)) + 20
        drawn = words[np.searchsorted(shares, random.random(n_words) * shares[-1])].tolist()
        lengths = random.integers(*SENTENCE_WORDS, size=n_words // SENTENCE_WORDS[0] + 1)
        breaks = random.random(len(lengths)) < 1 / np.mean(PARAGRAPH_SENTENCES)
        pieces, at = [], 0
        for length, ends in zip(lengths.tolist(), breaks.tolist(), strict=True):
            sentence = " ".join(drawn[at : at + length])
            pieces.append(sentence[:1].upper() + sentence[1:] + (".\n\n" if ends else ". "))
            at += length
            if at >= n_words:
                break
        yield "".join(pieces).rstrip() + "\n"


def main(settings: Settings) -> None:
    folder, texts = Path(settings.to), documents(settings.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {folder}: {e.strerror}; type another --to") from None
    left, number, n_documents = settings.megabytes * 1_000_000, 0, 0
    while left > 0:
        size, written = min(left, settings.file_megabytes * 1_000_000), 0
        with atomic_file(folder / f"part_{number:05}.jsonl", needed=size) as f:
            while written < size:
                text = next(texts)
                f.write(json.dumps({"text": text}).encode() + b"\n")
                written += len(text.encode())
                n_documents += 1
        left, number = left - size, number + 1
    print(f"wrote {n_documents:,} documents to {number:,} files in {folder}")
    print(f"next: {command('data/corpus/prepare.py', str(folder), '--dataset=synthetic')}")


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
