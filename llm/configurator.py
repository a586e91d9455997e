"""Settings of a script: defaults, then config files and --key=value; the last one wins.

A script declares its settings once, as a frozen dataclass: a type, a default, and a comment with the reason. A comment
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

A type consists of str, int, float, bool, None, Literal and the bounded numbers of settings.py, joined by "|"; or it is
Words, for one setting that takes several values: each --name=value adds one, and so does each argument that is neither
an option nor a config file (*.py). There are no other lists, no nested settings, no environment variables. A config
file is a program, and it is executed.
"""

import ast
import difflib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from llm.help import help_text
from llm.installation import (  # noqa: F401  (part of this module's interface, as the types are)
    DISTRIBUTION,
    IN_CLONE,
    PACKAGE,
    SUBCOMMANDS,
    as_subcommand,
    command,
    from_here,
    install_command,
)
from llm.settings import (  # noqa: F401  (the types are part of this module's interface)
    MAX_INT,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Setting,
    Share,
    Words,
    in_words,
    is_a,
    is_too_large,
    option,
    quoted,
    readings,
    settings_of,
    words_setting,
)
from llm.terminal import visible

DASHES = "-–—"  # some editors replace two hyphens by a dash
HELP = ("--help", "-h")


class UserError(Exception):
    """A mistake that the user can correct; the message is one line, even if it quotes several."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def value_of(given: Any, setting: Setting, where: str, *, typed: bool) -> Any:
    """The valid value of a setting; `given` is text of the command line (typed) or a config file's value.

    UserError, beginning with `where`, if it is not valid.
    """
    found = readings(given, setting.kind, typed=typed)
    if found:
        return found[0]
    default = ("my_book.txt",) if setting.default == () else setting.default  # Words are files everywhere here
    example = option(setting.name, default) if typed else f"{setting.name} = {default!r}"
    if not typed:
        try:
            where += f": {setting.name} = {repr(given):.60}"
        except Exception:  # repr fails for an int of thousands of digits, and may fail for a class of the file's own
            where += f": {setting.name}"
    limit = f" and at most {MAX_INT}" if is_too_large(given, setting.kind) else ""
    raise UserError(f"{where}: expected {in_words(setting.kind)}{limit}, for example {example}")


def closest_name(name: str, settings: dict[str, Setting]) -> str:
    """The setting that was most likely meant by `name`, "" if none is similar."""
    name = name.replace("-", "_")
    return name if name in settings else "".join(difflib.get_close_matches(name.lower(), settings, 1))


def argument_error(argument: str, following: str, settings: dict[str, Setting]) -> UserError:
    """The error for an argument that is not --key=value with a known key; `following` is the next argument."""
    key, equals, text = argument.lstrip(DASHES).partition("=")
    known = not key or key.replace("-", "_") in settings
    problem = f"{argument}: " + ("expected --key=value" if known else f"no setting {key}")
    meant = settings.get(closest_name(key, settings))
    if meant is None:
        return UserError(f"{problem}; --help lists the settings")
    # The suggestion keeps the user's value: after "=", or the next argument as in "--key 3".
    value = text if equals else following
    if (not equals and following.startswith("--")) or not readings(value, meant.kind, typed=True):
        value = True if readings(True, meant.kind, typed=False) else meant.default
    return UserError(f"{problem}; type {option(meant.name, value)}")


def find_config(argument: str, script_folder: str | Path) -> str:
    """The path of a config file in the current folder, else in the script's folder."""
    beside = os.path.join(script_folder, argument)
    for path in (argument, beside):  # os.path, because pathlib raises an exception for an invalid file name
        if os.path.exists(path) and not os.path.isdir(path):
            return argument if path == argument else from_here(path)
    folders = [os.path.abspath("."), os.path.abspath(script_folder)]
    names = sorted({f"config/{file.name}" for folder in folders for file in Path(folder, "config").glob("*.py")})
    near = "; nearest: " + ", ".join(difflib.get_close_matches(argument, names, 3, 0)) if names else ""
    is_folder = argument and (os.path.isdir(argument) or os.path.isdir(beside))
    problem = "a folder, expected a config file" if is_folder else "no such config file"
    raise UserError(f"{argument or repr('')}: {problem}; looked in {' and '.join(dict.fromkeys(folders))}{near}")


def bindings(tree: ast.AST) -> tuple[dict[str, int], dict[str, int]]:
    """Top-level name -> line of its last assignment, and -> line of its import ("*": a star import)."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.comprehension)
    assigned, imported, todo = {}, {}, [tree]
    while todo:  # no recursion: a long sum is a deep tree
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assigned[node.id] = max(node.lineno, assigned.get(node.id, 0))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name.split(".")[0]: node.lineno for alias in node.names}
        todo += [] if isinstance(node, inner) else ast.iter_child_nodes(node)
    return assigned, imported


def run_config(path: str, values: dict[str, Any], settings: dict[str, Setting]) -> dict[str, Any]:
    """The settings that a config file assigns; it is executed with `values`, those of all settings so far."""
    full = os.path.abspath(path)
    namespace = {"__file__": full, **values}
    try:
        source = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        source = "\0"
    if "\0" in source:  # for Python itself a ValueError or a SyntaxError, depending on its version
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8")
    try:
        tree = ast.parse(source, full)
        exec(compile(tree, full, "exec", dont_inherit=True), namespace)
    except (Exception, SystemExit) as error:
        crash = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == full]
        line = crash[-1] if crash else getattr(error, "lineno", None)  # a SyntaxError has a line and no frame
        where = f"{path} line {line}" if line else path
        raise UserError(f"{where}: {traceback.format_exception_only(error)[-1].strip()}") from None

    found = {}
    assigned, imported = bindings(tree)
    lines = imported | assigned
    for name, value in namespace.items():
        where = f"{path} line {lines[name]}" if name in lines else path
        helper = name.startswith("_") or callable(value) or isinstance(value, ModuleType)
        if name in settings:  # however the file bound it, even by an import: no setting is lost silently
            if name in lines or value is not values[name]:
                found[name] = value_of(value, settings[name], where, typed=False)
        elif not helper and (name in assigned or not imported.keys() & {name, "*"}):
            meant = closest_name(name, settings) or "a name that --help lists"
            raise UserError(f"{where}: no setting {name}; type {meant}, or _{name} for a name of your own")
    return found


def assigned_settings(settings: dict[str, Setting], argv: list[str], script_folder: str | Path) -> dict[str, Any]:
    """The settings that config files and --key=value assign, in the order of `argv`."""
    found, words = {}, words_setting(settings)
    for argument, following in zip(argv, [*argv, "--"][1:], strict=True):
        key, equals, text = argument.partition("=")
        name = key.removeprefix("--")
        if equals and key.startswith("--") and name in settings:
            value = value_of(text, settings[name], argument, typed=True)
            found[name] = found.get(name, ()) + value if name == words else value
            continue
        bare = name in settings or (equals and name.replace("-", "_").isidentifier())  # key=value without the dashes
        option_like = argument.startswith(tuple(DASHES)) and not (words and argument == "-")  # "-": standard input
        if option_like or (bare and not os.path.exists(argument)):
            raise argument_error(argument, following, settings)
        if words and not argument.lower().endswith(".py"):
            value = value_of(argument, settings[words], argument or repr(""), typed=True)
            found[words] = found.get(words, ()) + value
            continue
        values = {name: setting.default for name, setting in settings.items()} | found
        found |= run_config(find_config(argument, script_folder), values, settings)
    return found


def load_settings(cls: type, argv: list[str], *, script_folder: str | Path) -> Any:
    """An instance of `cls` with the settings that `argv` assigns, and defaults for the others."""
    return cls(**assigned_settings(settings_of(cls), argv, script_folder))


def help_for(cls: type, doc: str | None, script: str, argv: list[str], program: str = "") -> str:
    """The text of --help, with the values that the other arguments assign; program: see `run_script`."""
    settings, arguments = settings_of(cls), [argument for argument in argv if argument not in HELP]
    try:
        assigned = assigned_settings(settings, arguments, PACKAGE if program else Path(script).resolve().parent)
        note = " ".join(arguments)
    except UserError as error:  # the help is printed all the same
        assigned, note = {}, f"The other arguments are ignored because of a mistake: {error}."
    if program:
        doc = re.sub(r"\bpython (\S+\.py)\b", lambda found: as_subcommand(found[1]) or found[0], doc or "")
    return help_text(cls, doc, program or f"python {quoted(from_here(script))}", assigned, note)


def exit_status(main: Callable, cls: type, doc: str | None, program: str = "") -> int:
    """Run main and return the exit status: main's own or 0, 1 for a UserError, 130 for Ctrl-C."""
    script, *argv = sys.argv
    try:
        if not set(HELP).isdisjoint(argv):
            print(help_for(cls, doc, script, argv, program))
            return 0
        script_folder = PACKAGE if program else Path(script).resolve().parent
        result = main(load_settings(cls, argv, script_folder=script_folder))
        return result if type(result) is int else 0
    except (UserError, PermissionError) as error:  # whatever it was that may not even be looked for
        if isinstance(error, PermissionError):
            error = f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}"
        # all of torchrun's processes make the same mistake, or lose the same one: print it once on each host
        if os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0":
            print(f"{program or Path(script).name}: error: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal shows ^C: the shell's prompt then begins on a line of its own
        return 130


def require(module: str, extra: str) -> ModuleType:
    """The imported module of an optional extra. UserError that names the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        hint = install_command(extra)
        raise UserError(f"this needs the extra {extra}, which is not installed; type: {hint}") from None


def run_script(main: Callable, cls: type, doc: str | None, *, program: str = "") -> None:
    """Call main with the settings of the command line, then exit the program.

    program: the words that started it, such as "byheart train"; "" = sys.argv[0] is the script.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test or a notebook may have replaced it by a simpler object
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = exit_status(main, cls, doc, program)
        print(end="", flush=True)  # not at exit, where Python would print a warning about a closed pipe
    except BrokenPipeError:  # nobody reads the output any more, as in "train.py | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141  # what a shell reports for a program that a closed pipe ended (128 + SIGPIPE)
    sys.exit(status)
