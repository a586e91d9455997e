"""The console command of an installed package: each subcommand is one of the scripts.

byheart learn my_book.epub
byheart sample --out_dir=out-my_book --interactive=True
"""

import ast
import difflib
import importlib
import os
import sys
from typing import get_type_hints

from llm.configurator import HELP, PACKAGE, SUBCOMMANDS, quoted, run_script
from llm.help import entry


def overview() -> str:
    """What `byheart --help` prints: the subcommands, each with the first line of its script's docstring."""
    lines = ["usage: byheart SUBCOMMAND [--key=value ...]", "byheart SUBCOMMAND --help lists its settings.", ""]
    for name, script in SUBCOMMANDS.items():
        doc = ast.get_docstring(ast.parse((PACKAGE / script).read_text(encoding="utf-8")))
        lines.append(entry(name, doc.splitlines()[0]))
    return "\n".join(lines)


def unknown_subcommand(word: str) -> str:
    """The error for a first word that is no subcommand; a book was probably meant to be learned."""
    if os.path.exists(word) or "://" in word:
        return f"{word} is no subcommand; type byheart learn {quoted(word)}"
    near = difflib.get_close_matches(word, SUBCOMMANDS, 1)
    return f"{word or repr('')}: expected {', '.join(SUBCOMMANDS)}; type byheart {(near or ['--help'])[0]}"


def main() -> None:
    """Run the subcommand that the first word of the command line names, with the words after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else HELP[0]
    if name in HELP:
        print(overview())
        return
    if name not in SUBCOMMANDS:
        sys.exit(f"byheart: error: {unknown_subcommand(name)}")
    module = importlib.import_module("llm." + SUBCOMMANDS[name].removesuffix(".py").replace("/", "."))
    sys.argv = [module.__file__, *sys.argv[2:]]
    settings_class = next(iter(get_type_hints(module.main, include_extras=True).values()))
    run_script(module.main, settings_class, module.__doc__, program=f"byheart {name}")
