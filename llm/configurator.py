"""Settings of a script: its defaults, then config files and --key=value, the last one wins.

A script writes its settings once, as a frozen dataclass: a type, a default, and a comment that is the reason. A comment
on a line of its own is a heading.

    @dataclass(frozen=True)
    class Settings:
        # input and output
        out_dir: str = "out"  # where checkpoints go
        eval_interval: PositiveInt = 2000  # steps between evaluations

    def main(settings: Settings) -> None:
        print(settings.eval_interval)

    if __name__ == "__main__":
        run_script(main, Settings, __doc__)

    $ python train.py config/small.py --out_dir=mine    # config/small.py is Python: eval_interval = 5 * 40
    200
    $ python train.py --eval_interval=0
    train.py: error: --eval_interval=0: expected int >= 1, for example --eval_interval=2000

A type is made of str, int, float, bool, None, Literal and the bounded numbers below, joined by "|". There are no lists,
no nested settings, no environment variables, and no guard against a hostile config file: it is a program, and it runs.
"""

import ast
import difflib
import importlib
import inspect
import io
import os
import shlex
import stat
import sys
import textwrap
import tokenize
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

PACKAGE = Path(__file__).resolve().parent
DASHES = "-–—"  # some editors turn two dashes into a long one


class UserError(Exception):
    """A mistake that the user can mend; its message is one line, whatever the text it quotes."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Bound(NamedTuple):
    """The numbers that a field takes, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


PositiveInt = Annotated[int, Bound(">= 1", lambda number: number >= 1)]
NonNegativeInt = Annotated[int, Bound(">= 0", lambda number: number >= 0)]
PositiveFloat = Annotated[float, Bound("> 0", lambda number: number > 0)]
NonNegativeFloat = Annotated[float, Bound(">= 0", lambda number: number >= 0)]
Share = Annotated[float, Bound("> 0 and <= 1", lambda number: 0 < number <= 1)]
Fraction = Annotated[float, Bound(">= 0 and < 1", lambda number: 0 <= number < 1)]


class Setting(NamedTuple):
    """One field of a settings class."""

    name: str
    kind: Any
    default: Any


def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a dataclass by name."""
    kinds = get_type_hints(cls, include_extras=True)
    return {field.name: Setting(field.name, kinds[field.name], field.default) for field in fields(cls)}


def alternatives(kind: Any) -> list[tuple[Any, Bound | None]]:
    """The single types in a field's type, each with its bound; a Literal counts as its choices."""
    if get_origin(kind) in (Union, UnionType):
        return [single for part in get_args(kind) for single in alternatives(part)]
    if get_origin(kind) is Literal:
        return [(choice, None) for choice in get_args(kind)]
    return [get_args(kind)] if get_origin(kind) is Annotated else [(kind, None)]


def in_words(kind: Any) -> str:
    """A field's type for people: "int >= 1 or None", "true, false or auto"."""
    names = {str: "text", int: "int", float: "float", bool: "true, false", NoneType: "None"}
    singles = [names.get(base, str(base)) + (f" {bound.words}" if bound else "") for base, bound in alternatives(kind)]
    return " or ".join(", ".join(singles).rsplit(", ", 1))


def from_text(text: str, base: Any) -> Any:
    """The Python value that `text` writes as a `base`, or the text itself when it writes none."""
    if base is NoneType:
        return None if text in ("None", "none") else text
    if base is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for read in (int, float) if base in (int, float) else ():  # int first: a float would round a long int
        try:
            return read(text)
        except ValueError:
            continue
    return text


def is_a(value: Any, base: Any) -> bool:
    """Whether a Python value may stand where the single type, or the choice, `base` is wanted."""
    if base in (int, float):
        # The limits also refuse nan and inf. An int beyond 64 bits would crash later, where no message names it.
        limit = 2**63 - 1 if base is int else sys.float_info.max
        number = isinstance(value, int | float) and not isinstance(value, bool)  # to Python, True is an int
        return number and abs(value) <= limit and (base is float or value == int(value))
    if base in (str, bool, NoneType):
        return isinstance(value, base)
    return type(value) is type(base) and value == base


def readings(given: Any, kind: Any, *, typed: bool) -> list:
    """The values that `given` can mean in a field of this type, best first; empty when it is a mistake.

    typed: it is text of the command line, whose type is the field's and is never guessed from how it looks.
    """
    found = []
    for base, bound in sorted(alternatives(kind), key=lambda single: single[0] is str):  # any text is a str: last
        value = from_text(given, base) if typed else given
        if is_a(value, base) and (bound is None or bound.holds(value)):
            found.append(base(value) if base in (int, float, str) else value)
    return found


def value_of(given: Any, setting: Setting, where: str, *, typed: bool) -> Any:
    """The value of a setting from the text of the command line (typed) or from a config file's value."""
    found = readings(given, setting.kind, typed=typed)
    if found:
        return found[0]
    example = option(setting.name, setting.default) if typed else f"{setting.name} = {setting.default!r}"
    if not typed:
        try:
            where += f": {setting.name} = {repr(given):.60}"
        except Exception:  # the repr of an int of thousands of digits, or one that the file itself wrote
            where += f": {setting.name}"
    raise UserError(f"{where}: expected {in_words(setting.kind)}, for example {example}")


def quoted(text: str) -> str:
    """`text` as one word of a command; in double quotes where they are enough, as cmd.exe knows no others."""
    safe = shlex.quote(text)
    return safe if safe == text or any(special in text for special in '"$`\\!') else f'"{text}"'


def option(name: str, value: Any) -> str:
    """The word that gives a setting this value on the command line."""
    return quoted(f"--{name}={value}") if str(value).isprintable() else f"--{name}={value!r}"


def from_here(path: str | Path) -> str:
    """`path` as seen from the current folder, in full when it is on another drive."""
    try:
        return Path(os.path.relpath(path)).as_posix()
    except ValueError:
        return Path(path).as_posix()


def command(script: str, *args: str) -> str:
    """The command that runs a script of this package from the current folder, ready to be typed."""
    return " ".join(["python", *map(quoted, [from_here(PACKAGE / script), *args])])


def nearest(name: str, settings: dict[str, Setting]) -> str:
    """The setting that a user most likely meant by `name`, "" when none is near."""
    name = name.replace("-", "_")
    return name if name in settings else "".join(difflib.get_close_matches(name.lower(), settings, 1))


def option_slip(argument: str, following: str, settings: dict[str, Setting]) -> UserError:
    """The error for an option that is not --key=value with a known key; `following` is the next argument."""
    key, equals, text = argument.lstrip(DASHES).partition("=")
    known = not key or key.replace("-", "_") in settings
    problem = f"{argument}: " + ("expected --key=value" if known else f"no setting {key}")
    meant = settings.get(nearest(key, settings))
    if meant is None:
        return UserError(f"{problem}; --help lists the settings")
    # The advice keeps the user's own value: after "=", or the next argument as in "--key 3".
    value = text if equals else following
    if (not equals and following.startswith("--")) or not readings(value, meant.kind, typed=True):
        value = True if readings(True, meant.kind, typed=False) else meant.default
    return UserError(f"{problem}; type {option(meant.name, value)}")


def find_config(argument: str, script_folder: str | Path) -> str:
    """The path of a config file: as typed in the current folder, else beside the script."""
    beside = os.path.join(script_folder, argument)
    for path in (argument, beside):  # os.path, because pathlib raises for a name that no file can have
        if os.path.exists(path) and not os.path.isdir(path):
            return argument if path == argument else from_here(path)
    folders = [os.path.abspath("."), os.path.abspath(script_folder)]
    names = sorted({f"config/{file.name}" for folder in folders for file in Path(folder, "config").glob("*.py")})
    near = "; nearest: " + ", ".join(difflib.get_close_matches(argument, names, 3, 0)) if names else ""
    folder = argument and (os.path.isdir(argument) or os.path.isdir(beside))
    problem = "a folder, expected a config file" if folder else "no such config file"
    raise UserError(f"{argument or repr('')}: {problem}; looked in {' and '.join(dict.fromkeys(folders))}{near}")


def bindings(tree: ast.AST) -> tuple[dict[str, int], dict[str, int]]:
    """The last line that assigns each top-level name, and the line that imports it ("*" for a star import)."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.comprehension)
    assigned, imported, todo = {}, {}, [tree]
    while todo:  # a list, not recursion: a long sum is a deep tree
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assigned[node.id] = max(node.lineno, assigned.get(node.id, 0))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name.split(".")[0]: node.lineno for alias in node.names}
        todo += [] if isinstance(node, inner) else ast.iter_child_nodes(node)
    return assigned, imported


def run_config(path: str, values: dict[str, Any], settings: dict[str, Setting]) -> dict[str, Any]:
    """The values of all settings after a config file ran, which sees `values` and assigns some of them."""
    full = os.path.abspath(path)
    namespace = {"__file__": full, **values}
    try:
        foreign = os.name == "posix" and PACKAGE not in Path(full).resolve().parents
        if foreign and os.stat(full).st_mode & stat.S_IWOTH and os.environ.get("RANK", "0") == "0":
            print(f"{path} is a program that everybody on this machine may change, and it is run now", file=sys.stderr)
        source = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    try:
        tree = ast.parse(source, full)
        exec(compile(tree, full, "exec", dont_inherit=True), namespace)
    except (Exception, SystemExit) as error:
        crash = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == full]
        line = crash[-1] if crash else getattr(error, "lineno", None)  # a SyntaxError has a line and no frame
        where = f"{path} line {line}" if line else path
        raise UserError(f"{where}: {traceback.format_exception_only(error)[-1].strip()}") from None

    changed = dict(values)
    assigned, imported = bindings(tree)
    lines = imported | assigned
    for name, value in namespace.items():
        where = f"{path} line {lines[name]}" if name in lines else path
        helper = name.startswith("_") or callable(value) or isinstance(value, ModuleType)
        if name in settings:  # however the file bound it, import included: no setting is lost silently
            changed[name] = value if value is values[name] else value_of(value, settings[name], where, typed=False)
        elif not helper and (name in assigned or not imported.keys() & {name, "*"}):
            meant = nearest(name, settings) or "a name that --help lists"
            raise UserError(f"{where}: no setting {name}; type {meant}, or _{name} for a name of your own")
    return changed


def load_settings(cls: type, argv: list[str], *, script_folder: str | Path) -> Any:
    """An instance of `cls`: its defaults, then config files and --key=value in the order of `argv`."""
    settings = settings_of(cls)
    values = {name: setting.default for name, setting in settings.items()}
    for argument, following in zip(argv, [*argv, "--"][1:], strict=True):
        key, equals, text = argument.partition("=")
        name = key.removeprefix("--")
        if equals and key.startswith("--") and name in settings:
            values[name] = value_of(text, settings[name], argument, typed=True)
            continue
        bare = name in settings or (equals and name.replace("-", "_").isidentifier())  # key=value without the dashes
        if argument.startswith(tuple(DASHES)) or (bare and not os.path.exists(argument)):
            raise option_slip(argument, following, settings)
        values = run_config(find_config(argument, script_folder), values, settings)
    return cls(**values)


def comments_of(cls: type) -> dict[str, tuple[str, str]]:
    """The heading and the reason of each field that `cls` itself writes; empty when its source cannot be read."""
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


def help_text(cls: type, doc: str | None, script: str) -> str:
    """The text of --help: the script's docstring, how to call it, and every setting under its heading."""
    lines = [(doc or "").strip(), "", f"usage: python {quoted(script)} [config/file.py ...] [--key=value ...]"]
    lines += ["Config files and --key=value count in the order given, and the last one wins. The defaults are:"]
    left = settings_of(cls)
    for owner in cls.__mro__:
        own = [left.pop(name) for name in inspect.get_annotations(owner) if name in left]
        comments, group = comments_of(owner) if own else {}, None
        for name, kind, default in own:
            heading, reason = comments.get(name, ("", ""))
            if heading != group:
                lines += ["", heading] if heading else [""]
            lines.append(f"  {option(name, default):<34}  {in_words(kind)}" + (f"; {reason}" if reason else ""))
            group = heading
    return "\n".join(lines).strip()


def exit_status(main: Callable, cls: type, doc: str | None) -> int:
    """The exit status of a script: of main if it returns one, 0 for --help, 1 for a user's mistake, 130 for Ctrl-C."""
    script, *argv = sys.argv
    try:
        if "--help" in argv or "-h" in argv:
            print(help_text(cls, doc, from_here(script)))
            return 0
        result = main(load_settings(cls, argv, script_folder=Path(script).resolve().parent))
        return result if type(result) is int else 0
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # torchrun's processes all make the same mistake: say it once
            print(f"{Path(script).name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal shows ^C: the prompt then goes on a line of its own
        return 130


def require(module: str, extra: str):
    """The imported module of an optional extra. UserError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f'this needs the extra {extra}, which is not installed; type: pip install -e ".[{extra}]"'
        ) from None


def run_script(main: Callable, cls: type, doc: str | None) -> None:
    """Nothing: it calls main with the settings that the command line asks for, and leaves the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not on a stream that a test or a notebook put there
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = exit_status(main, cls, doc)
        print(end="", flush=True)  # here, and not at exit, where Python would complain of a closed pipe
    except BrokenPipeError:  # the reader is gone, as in "train.py | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141  # what a shell reports for any program that a closed pipe stopped
    sys.exit(status)
