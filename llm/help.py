"""The text of --help: the script's docstring, its usage, and each setting with its value, type and reason.

Reasons and headings are the comments in the source of the settings class. Lines have at most 80 columns, except those
that cannot be wrapped: the commands of the docstring, and values with many characters.
"""

import ast
import inspect
import io
import textwrap
import tokenize
from typing import Any

from llm.settings import as_text, in_words, option, settings_of, words_setting

WIDTH = 80  # columns
INDENT = " " * 30  # of types and reasons


def comments_of(cls: type) -> dict[str, tuple[str, str]]:
    """(heading, reason) of each field that `cls` itself declares; empty if its source cannot be read."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = ast.parse(source).body[0].body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return {}
    comments = [(*token.start, token.string.lstrip("# ")) for token in tokens if token.type == tokenize.COMMENT]
    found, heading, end = {}, "", 0
    for node in body:
        above = [text for line, column, text in comments if end < line < node.lineno and column == node.col_offset]
        heading = " ".join(above) or heading
        end = node.end_lineno
        if isinstance(node, ast.AnnAssign):
            reason = " ".join(text for line, _, text in comments if node.lineno <= line <= end)
            found[node.target.id] = heading, reason
    return found


def headings_and_reasons(cls: type) -> dict[str, tuple[str, str]]:
    """(heading, reason) of every field of a dataclass by name; its own fields first, then those of its base classes."""
    found, names = {}, settings_of(cls)
    for owner in cls.__mro__:
        comments = comments_of(owner)
        for name in inspect.get_annotations(owner):
            if name in names and name not in found:
                found[name] = comments.get(name, ("", ""))
    return found


def is_elsewhere(cls: type, name: str) -> bool:
    """Whether a field is declared by one of the base classes in NOT_IN_HELP: another script's --help has it."""
    owner = next(owner for owner in cls.__mro__ if name in inspect.get_annotations(owner))
    return owner in getattr(cls, "NOT_IN_HELP", ())


def fill(text: str) -> str:
    """`text` wrapped at 80 columns; paragraphs with an indented line, such as commands, are unchanged."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(p if "\n " in f"\n{p}" else textwrap.fill(p, WIDTH) for p in paragraphs)


def entry(argument: str, description: str) -> str:
    """An argument and its description, wrapped with a hanging indent; a long argument has a line of its own."""
    first = f"  {argument}"
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    wrap.initial_indent = f"{first}  ".ljust(len(INDENT))
    if len(wrap.initial_indent) == len(INDENT):
        return wrap.fill(description)
    wrap.initial_indent = INDENT
    return f"{first}\n{wrap.fill(description)}"


def help_text(cls: type, doc: str | None, program: str, assigned: dict[str, Any], note: str = "") -> str:
    """The text of --help: the `assigned` settings first, then all others with their defaults.

    program: the words that start it, as a shell reads them.

    note: the arguments that assign them; if none is assigned, a sentence to print, "" = none.
    """
    settings = settings_of(cls)
    first, groups = [], {}  # entries; heading -> entries
    for name, (heading, reason) in headings_and_reasons(cls).items():
        _, kind, default = settings[name]
        if name not in assigned and is_elsewhere(cls, name):
            continue
        description = in_words(kind)
        description += f", default {as_text(default)}" if name in assigned else ""
        description += f"; {reason}" if reason else ""
        group = first if name in assigned else groups.setdefault(heading, [])
        group.append(entry(option(name, assigned.get(name, default)), description))
    words = words_setting(settings)
    usage = f"usage: {program} {f'[{words} ...] ' if words else ''}[config/file.py ...] [--key=value ...]"
    order = "Config files and --key=value apply in the order given; the last one wins."
    if words:
        order += "\n" + fill(f"Words that are neither config files (*.py) nor --key=value are values of {words}.")
    parts = [fill(doc or ""), f"{textwrap.fill(usage, WIDTH, subsequent_indent=' ' * 4)}\n{order}"]
    if assigned:
        parts += ["\n".join([fill(f"Set by {note}:"), *first]), "The defaults of all other settings:"]
    else:
        parts += [fill(f"{note} The defaults of all settings:")]
    parts += ["\n".join([fill(heading), *group] if heading else group) for heading, group in groups.items()]
    return "\n\n".join(part for part in parts if part)
