"""Ask for a prompt, continue it, ask again: sample.py --interactive=True.

A line that begins with a colon is a command. What a writer is: sample.Writer.
"""

import itertools
import random
import sys
import unicodedata

from llm.configurator import UserError
from llm.reading.cite import WORD
from llm.reading.terminal import is_terminal, read_line
from llm.runtime import notice

HELP = """\
Type how a passage begins: a few words are enough, eight or more are best. Ctrl-C ends a continuation.
  :more               go on with the last text
  :random             recite from somewhere in the book
  :where              where the last text stands in the book
  :temperature 0.5    0 recites (always the likeliest word), 1 dreams; alone, it shows the present one
  :cite on, :cite off  mark what was invented, and name the place of what stands in the book
  :help               this list
  :quit               end; so do Ctrl-D, and Ctrl-C here"""
RANDOM_WORDS = 12  # of a prompt from the book


def without_control_characters(prompt: str) -> str:
    """The prompt without carriage returns, escape sequences' first bytes and the like, which a terminal would obey."""
    cleaned = "".join(c for c in prompt if c in "\n\t" or unicodedata.category(c) != "Cc")
    if cleaned != prompt.removesuffix("\r"):
        notice("control characters left out of the prompt")
    return cleaned


def interact(writer, seed: int) -> None:
    """Ask for prompts and commands until the input ends. seed: of :random's choices."""
    notice("type the beginning of a sentence, or :help; Ctrl-C ends a continuation, and here the program")
    chance, numbers = random.Random(seed), itertools.count()  # a repeated prompt gets another sample
    while True:
        try:
            line = read_line("> ")
        except KeyboardInterrupt:
            line = None
        if line is None:
            print(file=sys.stderr)
            return
        prompt = without_control_characters(line)
        if "\ufffd" in prompt:
            notice("the line is not UTF-8; type it again")
        if not prompt.strip() or "\ufffd" in prompt:
            continue
        try:
            if prompt.strip() in (":quit", ":q"):
                return
            if prompt.startswith(":"):
                prompt = obey(prompt.strip(), writer, chance)
            if prompt:
                printed = "…" if prompt is writer.last_text else None
                writer.write(prompt, writer.encode(prompt), [next(numbers)], printed=printed)
        except UserError as e:  # as of a character that the model does not have: ask again
            notice(str(e))
        except KeyboardInterrupt:
            pass


def obey(command: str, writer, chance: random.Random) -> str:
    """Do what a command says; returns a prompt that is to be continued, "" = none. UserError if it is none."""
    name, _, value = command.partition(" ")
    value = value.strip()
    if name == ":help":
        notice_lines(HELP)
    elif name == ":more":
        if not writer.last_text:
            raise UserError("there is no text yet: type how a passage begins")
        return writer.last_text
    elif name == ":random":
        return random_prompt(writer.book_text(), chance)
    elif name == ":where":
        notice_lines(writer.places(writer.last_text) or "no passage of eight words of it stands in the book")
    elif name == ":temperature":
        if value:
            writer.set_temperature(number(value))
        notice(f"temperature {writer.sampling.temperature:g}")
    elif name == ":cite" and value in ("on", "off"):
        writer.set_cite(value == "on")
        notice(f"cite {value}")
    else:
        raise UserError(f"{command[:40]}: no such command; type :help")
    return ""


def number(text: str) -> float:
    """The number that a person typed. UserError if it cannot be a temperature."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise UserError(f"temperature {text[:40]}: expected a number from 0 on; type :temperature 0.5")
    return value


def random_prompt(book_text: str, chance: random.Random) -> str:
    """The first words of a sentence somewhere in a book."""
    words = list(WORD.finditer(book_text))
    if len(words) < RANDOM_WORDS:
        return book_text.strip()
    first = chance.randrange(len(words) - RANDOM_WORDS + 1)
    sentences = [n for n in range(first, max(first - 60, 0), -1) if words[n - 1][0].rstrip("\"'”’)")[-1:] in ".!?"]
    first = sentences[0] if sentences else first
    return book_text[words[first].start() : words[min(first + RANDOM_WORDS, len(words)) - 1].end()]


def notice_lines(text: str) -> None:
    """Print lines for a person, none of them to standard output if that is a file."""
    print(text, file=sys.stdout if is_terminal(sys.stdout) else sys.stderr, flush=True)
