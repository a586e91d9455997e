"""Is a text wrapped, and where? The evidence of its line ends.

A line was wrapped where the next word no longer fitted: its length, and its length with that word, lie on either side
of one limit. In verse, in lists and in paragraphs of one line they do so by chance only. Each pair of lines is
evidence, in nats (the logarithm of a ratio of two probabilities). So are capitals at line starts and punctuation at
line ends, which verse has more often than prose, and the last line of a group, which is shorter in prose.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

from llm.text import scripts
from llm.text.layout import SENTENCE_END, LineGroup

PUNCTUATED = re.compile(r"[.,;:!?…。，、；：！？؟،؛۔।॥—–-][\"'”’»«“)\]）」』】_*]*$")
SENTENCE_INSIDE = re.compile(r"\w[.!?؟।]['\"”’»]* +\S")  # a sentence ends and another begins within a line
DIVIDED = re.compile(r"\w[-\u2010\u00ad¬–/]$")
DASH_LOWERCASE = re.compile(r"[—–-] ?[^\W\d_A-ZА-Я]")
MIN_WIDTH, MAX_WIDTH = 40, 130  # of wrapped lines, in letters
MIN_WIDE_WIDTH = 15  # the same in Chinese and Japanese characters
MIN_FULL = 3  # full lines that a wrapped text has
MIN_EVIDENCE = 1.5  # nats for a whole text
MAX_PRIOR = 3.5  # nats that a wrapped text lends to each of its groups
OVERLONG = 1.08  # times the longest wrapped line: an editor changed it
TAB = 4  # letters; editors differ
USUAL_WIDTH = 58  # letters: verse has shorter lines than most wrapped prose, which costs 0.1 nats a letter and group
MAX_CHANCE = 0.55  # that lines which end anywhere nearly reach the longest of them
CJK_CHANCE = 0.3  # that a Chinese or Japanese line looks full by chance
MAX_DOUBT = 3.0  # nats against "wrapped" from one group: a poem in a novel
MAX_LINES = 2_000  # that the limit is found from
N_CANDIDATES = 6  # limits that are tried
SHORT = 0.92  # times the shortest full line: a last line below that is one of prose
RAGGED = 0.06  # share of the width by which lines of a printed page differ


@dataclass(frozen=True)
class Pair:
    """A line and the one after it, measured."""

    length: float  # of the first line
    reach: float  # the same with the first word of the second one
    chance: float | None = None  # probability that it looks full in a text that is not wrapped; None = see Wrap.chance
    divided: bool = False  # whether the line ends within a word
    ends_sentence: bool = False


@dataclass(frozen=True)
class Wrap:
    """How a text is wrapped: a line is full if it is not beyond `longest`, but with the next word beyond `limit`."""

    measure: Callable[[str], float]
    longest: float
    limit: float
    units: tuple[float, ...]  # sorted widths of the words that begin lines
    evidence: float = 0.0  # nats for the whole text
    prior: float = 0.0  # nats for each of its groups
    full_share: float = 0.0  # of the lines that do not end a sentence

    def is_full(self, pair: Pair) -> bool:
        return pair.length <= self.longest and (
            pair.reach > self.limit or pair.divided and pair.length > 0.6 * self.limit
        )

    def is_nearly_full(self, pair: Pair) -> bool:
        """Whether a line was perhaps wrapped by hand, a little before or beyond the limit."""
        return pair.reach > 0.95 * self.limit and pair.length <= OVERLONG * self.longest

    def joins(self, pair: Pair, following: str) -> bool:
        """Whether a line of a wrapped paragraph is joined with the next: it is full, or ends in mid-sentence."""
        if self.is_full(pair) or pair.divided:
            return True
        if pair.length > OVERLONG * self.longest:
            return False
        long = pair.length > 0.8 * self.limit
        if pair.ends_sentence:  # "Can it be mended?" / - she asked
            return long and bool(DASH_LOWERCASE.match(following))
        return long or following[0].islower()

    def fills(self, line: str, following: str) -> bool:
        """Whether the following line may continue a line of a wrapped paragraph."""
        return self.joins(measure_pair(self.measure, line, following), following)

    def chance(self, pair: Pair) -> float:
        """Probability that a line of this length looks full in a text whose lines end before just any word."""
        if pair.chance is not None:
            return pair.chance
        return min(MAX_CHANCE, max(0.05, 1 - bisect_right(self.units, self.limit - pair.length) / len(self.units)))

    def evidence_of(self, pairs: list[Pair], last_line: str) -> float:
        """Nats for "wrapped" from the lengths of a group's lines."""
        total = min(0.0, 0.1 * (self.limit - USUAL_WIDTH)) if all(pair.chance is None for pair in pairs) else 0.0
        for pair in pairs:
            if self.is_full(pair):
                total += log(0.97 / self.chance(pair))
            elif pair.length > self.longest:
                total -= 3.4 if pair.length > OVERLONG * self.longest else 0.7
            elif pair.divided:
                pass
            elif pair.ends_sentence:
                total -= 0.4
            else:
                total += log((0.2 if self.is_nearly_full(pair) else 0.03) / (1 - self.chance(pair)))
        if len(pairs) > 1 and all(pair.ends_sentence for pair in pairs):  # a sentence a line: a play, a psalm
            total -= MAX_PRIOR
        shortest = min((pair.length for pair in pairs if self.is_full(pair)), default=0)
        length, before = self.measure(last_line), pairs[-1]
        if length >= SHORT * shortest:
            return total - (1.6 if length >= 0.97 * shortest else 0.3)
        return total + (1.2 if self.is_nearly_full(before) or before.divided or before.ends_sentence else 0.0)


def measure_pair(measure: Callable[[str], float], line: str, following: str) -> Pair:
    """Two lines measured; each holds more than white space."""
    line, following = line.rstrip().expandtabs(TAB), following.strip()
    length, ends_sentence = measure(line), bool(SENTENCE_END.search(line[-12:]))
    if scripts.CJK_CHARACTER.match(following) or scripts.CJK_CHARACTER.match(line[-1]):
        # punctuation that may not begin a line is drawn to its end, or takes a character with it to the next
        return Pair(length, length + 3 * measure("一"), CJK_CHANCE, ends_sentence=ends_sentence)
    if scripts.SOUTH_EAST_CHARACTER.match(following) or scripts.SOUTH_EAST_CHARACTER.match(line[-1]):
        return Pair(length, length + 12, 0.45, ends_sentence=ends_sentence)
    reach = length + measure(" ") + measure(following.split(maxsplit=1)[0])
    return Pair(length, reach, None, bool(DIVIDED.search(line[-2:])), ends_sentence)


def pairs_of(group: LineGroup, measure: Callable[[str], float]) -> list[Pair]:
    return [measure_pair(measure, line, following) for line, following in pairwise(group.lines)]


@dataclass(frozen=True)
class Habits:
    """How often the words within lines begin with a capital letter, and end with punctuation."""

    capitals: float
    punctuation: float
    punctuates: bool  # whether any of them ends with punctuation: verse without it has none at line ends either

    @classmethod
    def of(cls, groups: list[LineGroup]) -> "Habits":
        n_words = n_cased = n_capitals = n_punctuated = 2
        for group in groups:
            for line in group.lines:
                words = list(line) if scripts.mostly_spaceless(line) else line.split()
                words = words[1:-1]
                inside = [word for before, word in pairwise(words) if not SENTENCE_END.search(before)]
                first_letters = [next(filter(str.isalpha, word), "") for word in inside]
                n_words += len(words)
                n_punctuated += sum(bool(PUNCTUATED.search(word)) for word in words)
                n_capitals += sum(c.isupper() for c in first_letters)
                n_cased += sum(c.isupper() or c.islower() for c in first_letters)
        return cls(min(0.6, n_capitals / (n_cased + 4)), min(0.4, n_punctuated / (n_words + 4)), n_punctuated > 2)

    def evidence_of(self, group: LineGroup, pairs: list[Pair], wrap: Wrap, *, min_capitals: int) -> float:
        """Nats for "wrapped" from the first and last characters of a group's lines.

        min_capitals: lines that begin with a capital, with no exception, count if there are so many.
        """
        total, capitals = 0.0, []
        for pair, (line, following) in zip(pairs, pairwise(group.lines), strict=True):
            if pair.ends_sentence and not wrap.is_full(pair):  # the following line may begin a paragraph
                continue
            if PUNCTUATED.search(line.rstrip()[-12:]):
                total += max(-1.2, log(self.punctuation / 0.6))
            elif self.punctuates:
                total += 0.3
            first = next(filter(str.isalpha, following), "")
            if (first.isupper() or first.islower()) and not pair.ends_sentence:
                capitals.append(first.isupper())
        if len(capitals) >= min_capitals or not all(capitals):
            total += sum(log(self.capitals / 0.95) if upper else 0.4 for upper in capitals)
        if not capitals and not any(pair.ends_sentence for pair in pairs):  # a script without capitals
            total += 0.8 * min(2, sum(bool(SENTENCE_INSIDE.search(line)) for line in group.lines))
        return total


def find_wrap(groups: list[LineGroup]) -> tuple[Wrap, Habits] | None:
    """How a text is wrapped, and its habits; None if it is not, or if that is in doubt. groups: of all lines."""
    paired = [group for group in groups if len(group.lines) > 1]
    if not paired:
        return None
    paired = [
        replace(g, lines=g.lines[:MAX_LINES]) for g in paired[:: 1 + sum(len(g.lines) for g in paired) // MAX_LINES]
    ]
    habits = Habits.of(paired)
    is_ascii = all(line.isascii() for group in paired for line in group.lines)
    measures = [len, scripts.printed_width] if is_ascii else [len, scripts.columns, scripts.printed_width]
    found = [best_wrap(measure, paired, habits) for measure in measures]
    best = max(found, key=lambda wrap: wrap.evidence)
    # a program wraps at an exact width: so long as that explains most, it tells the ends of paragraphs better
    best = next(w for w in found if w.evidence >= 0.5 * best.evidence and w.full_share > 0.9 or w is best)
    if best.evidence < MIN_EVIDENCE:
        return None
    # most of the text in lines that are much longer than the wrapped ones: whole paragraphs, beside verse or lists
    lengths = [best.measure(line) for group in groups for line in group.lines]
    n_wrapped = sum(length for length in lengths if 0.6 * best.limit < length <= best.longest)
    if n_wrapped < sum(length for length in lengths if length > 1.3 * best.longest):
        return None
    return replace(best, prior=min(MAX_PRIOR, 1 + 2 * best.evidence / len(paired))), habits


def best_wrap(measure: Callable[[str], float], groups: list[LineGroup], habits: Habits) -> Wrap:
    """The limit that the groups' lines agree with best, in this measure, with its evidence; -inf if there is none."""
    measured = [(group, pairs_of(group, measure)) for group in groups]
    all_pairs = [pair for _, pairs in measured for pair in pairs]
    units = tuple(sorted(p.reach - p.length for p in all_pairs if p.chance is None)) or (1.0,)
    spaceless = sum(p.chance is not None for p in all_pairs) * 2 > len(all_pairs)
    wide = sum(p.chance == CJK_CHANCE for p in all_pairs) * 2 > len(all_pairs)
    lowest = (MIN_WIDE_WIDTH * measure("一")) if spaceless else MIN_WIDTH
    tight: Counter[int] = Counter()
    for pair in all_pairs:
        tight.update(range(max(int(pair.length + 0.999), int(lowest)), min(int(pair.reach), MAX_WIDTH + 1)))
    best = Wrap(measure, 0, 0, units, evidence=-float("inf"))
    ragged = RAGGED if measure is scripts.printed_width else 0
    for width in sorted(tight, key=lambda width: (-tight[width], width))[:N_CANDIDATES]:
        longest = width * (1 + ragged)
        limit = width * (1 - ragged) if ragged else max(p.length for p in all_pairs if p.length <= width)
        wrap = Wrap(measure, longest, limit, units)
        full = [pair for pair in all_pairs if wrap.is_full(pair)]
        n_ended = sum(pair.ends_sentence for pair in full)
        if len(full) < MIN_FULL or 2 * n_ended > len(full) or max(pair.length for pair in full) < lowest and spaceless:
            continue
        evidence = sum(
            max(
                -MAX_DOUBT,
                wrap.evidence_of(pairs, group.lines[-1]) + habits.evidence_of(group, pairs, wrap, min_capitals=1),
            )
            for group, pairs in measured
        )
        ends = [(group.lines[-1], [p.length for p in pairs if wrap.is_full(p)]) for group, pairs in measured]
        ends = [(measure(line), min(lengths)) for line, lengths in ends if lengths]
        if (len(ends) > 2 or wide) and all(length >= SHORT * shortest for length, shortest in ends):  # stanzas
            evidence -= 1_000 if wide else MAX_PRIOR  # Chinese lines of verse have one length
        if evidence > best.evidence:
            inside = [pair for pair in all_pairs if not pair.ends_sentence]
            share = sum(wrap.is_full(pair) for pair in inside) / max(1, len(inside))
            best = replace(wrap, evidence=evidence, full_share=share)
    return best


def is_wrapped(group: LineGroup, pairs: list[Pair], wrap: Wrap, habits: Habits) -> bool:
    """Whether a group of a wrapped text is a wrapped paragraph, or several, and no verse, list or address."""
    evidence = wrap.evidence_of(pairs, group.lines[-1]) + habits.evidence_of(group, pairs, wrap, min_capitals=3)
    return wrap.prior + evidence > 0 and any(wrap.is_nearly_full(pair) for pair in pairs)
