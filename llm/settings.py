"""The fields of a settings class: their types in words, and their values from and to text.

Used by configurator.py and help.py.
"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

MAX_INT = 2**63 - 1  # of a setting: what torch and numpy hold


class Bound(NamedTuple):
    """The range of a number, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


PositiveInt = Annotated[int, Bound(">= 1", lambda number: number >= 1)]
NonNegativeInt = Annotated[int, Bound(">= 0", lambda number: number >= 0)]
PositiveFloat = Annotated[float, Bound("> 0", lambda number: number > 0)]
NonNegativeFloat = Annotated[float, Bound(">= 0", lambda number: number >= 0)]
Share = Annotated[float, Bound("> 0 and <= 1", lambda number: 0 < number <= 1)]
Fraction = Annotated[float, Bound(">= 0 and < 1", lambda number: 0 <= number < 1)]
Words = tuple[str, ...]  # each --name=value adds one; so does an argument that is no option and no config file


class Setting(NamedTuple):
    """One field of a settings class; kind: its type annotation."""

    name: str
    kind: Any
    default: Any


def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a dataclass by name."""
    kinds = get_type_hints(cls, include_extras=True)
    return {field.name: Setting(field.name, kinds[field.name], field.default) for field in fields(cls)}


def words_setting(settings: dict[str, Setting]) -> str | None:
    """The name of the setting that takes several words, None if there is none."""
    return next((name for name, setting in settings.items() if setting.kind == Words), None)


def alternatives(kind: Any) -> list[tuple[Any, Bound | None]]:
    """The members of a union type, each with its bound; a Literal counts as its choices."""
    if get_origin(kind) in (Union, UnionType):
        return [alternative for member in get_args(kind) for alternative in alternatives(member)]
    if get_origin(kind) is Literal:
        return [(choice, None) for choice in get_args(kind)]
    return [get_args(kind)] if get_origin(kind) is Annotated else [(kind, None)]


def in_words(kind: Any) -> str:
    """A type as users read it: "int >= 1 or None", "true, false or auto"."""
    names = {
        str: "text",
        int: "int",
        float: "float",
        bool: "true, false",
        NoneType: "None",
        Words: "text (may be repeated)",
    }
    words = [names.get(base, str(base)) + (f" {bound.words}" if bound else "") for base, bound in alternatives(kind)]
    return " or ".join(", ".join(words).rsplit(", ", 1))


def from_text(text: str, base: Any) -> Any:
    """`text` converted to the type `base`, or returned unchanged if it cannot be converted."""
    if base == Words:
        return (text,)
    if base is NoneType:
        return None if text in ("None", "none") else text
    if base is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for convert in (int, float) if base in (int, float) else ():  # int first: float() would round a long int
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def is_a(value: Any, base: Any) -> bool:
    """Whether a Python value is valid for `base`, a type or a choice of a Literal."""
    if base in (int, float):
        # The limits also reject nan and inf. An int beyond 64 bits would fail later, in an error without its name.
        limit = MAX_INT if base is int else sys.float_info.max
        number = isinstance(value, int | float) and not isinstance(value, bool)  # bool is a subclass of int
        return number and abs(value) <= limit and (base is float or value == int(value))
    if base == Words:
        return isinstance(value, list | tuple) and all(isinstance(word, str) and word for word in value)
    if base in (str, bool, NoneType):
        return isinstance(value, base)
    return type(value) is type(base) and value == base


def is_too_large(given: Any, kind: Any) -> bool:
    """Whether a field takes integers, and `given` is one beyond MAX_INT."""
    digits = isinstance(given, str) and given.isdecimal() and len(given) >= len(str(MAX_INT))
    return (digits or isinstance(given, int) and given > MAX_INT) and any(base is int for base, _ in alternatives(kind))


def readings(given: Any, kind: Any, *, typed: bool) -> list:
    """`given` converted to each type that a field accepts, the best match first; empty if none fits.

    typed: it is text from the command line, which is converted to the field's type; a Python value must have that type.
    """
    found = []
    for base, bound in sorted(alternatives(kind), key=lambda pair: pair[0] is str):  # str last: it accepts any text
        value = from_text(given, base) if typed else given
        if base == Words and isinstance(value, str):  # a config file may give the only one without brackets
            value = (value,)
        if is_a(value, base) and (bound is None or bound.holds(value)):
            found.append(base(value) if base in (int, float, str) else tuple(value) if base == Words else value)
    return found


def as_text(value: Any) -> str:
    """A setting's value as users read it, on one line."""
    if isinstance(value, tuple):
        return ", ".join(map(as_text, value))
    return str(value) if str(value).isprintable() else repr(value)


def quoted(word: str) -> str:
    """A word of a command, as a shell reads it: --start=a b -> --start='a b'."""
    name, equals, value = word.partition("=")
    if equals and name.startswith("--") and name[2:].isidentifier():
        return f"{name}={shlex.quote(value) if value else ''}"
    return shlex.quote(word)


def option(name: str, value: Any) -> str:
    """The argument that gives a setting this value, quoted for the shell; one for each of several words."""
    if isinstance(value, tuple) and value:
        return " ".join(option(name, word) for word in value)
    text = f"--{name}={as_text(value)}"
    return quoted(text) if str(value).isprintable() else text
