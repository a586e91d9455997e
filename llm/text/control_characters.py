r"""Even out line ends, and remove byte order marks and control characters, as a careful hand would."""

import re

from llm.configurator import UserError

MAX_CONTROL = 0.005  # share of control characters above which a file is no text


def without_control_characters(text: str, name: str) -> tuple[str, list[str]]:
    """The text with \\n as its only line end, without BOMs and control characters (but tabs and form feeds), and notes.

    UserError if there are so many control characters that it is no text.
    """
    notes = []

    def replace(what: str, pattern: str, by: str) -> None:
        nonlocal text
        text, n = re.subn(pattern, by, text)
        if n:
            notes.append(what if n == 1 or what.endswith(("converted", "at the end removed")) else f"{what}: {n:,}")

    replace("UTF-8 BOM removed", "\ufeff", "")
    replace("CR CR LF line ends converted", "\r{2,}\n", "\n")
    replace("CRLF line ends converted", "\r\n", "\n")
    replace("CR line ends converted", "\r", "\n")
    replace("Ctrl-Z at the end removed", "\x1a[\x00\x1a\\s]*\\Z", "")
    if re.search("[\x80-\x84\x86-\x9f]", text):  # windows-1252 that was taken for latin-1
        mapped = {c: bytes([c]).decode("cp1252", "ignore") for c in range(0x80, 0xA0)}
        notes.append("control characters U+0080 to U+009F read as windows-1252")
        text = text.translate(mapped)
    both = "\u2028" in text and "\u2029" in text
    replace("Unicode line ends converted", "\x85|\u2028|\x0b", "\n")
    replace("Unicode paragraph ends converted", "\u2029", "\n\n" if both else "\n")
    replace(
        "escape sequences of a terminal removed",
        "\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])",
        "",
    )
    replace("overstruck characters removed", "[^\n\x08]\x08", "")
    control = [match.start() for match in re.finditer("[\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]", text)]
    if len(control) > max(MAX_CONTROL * len(text), 1):
        kind = "NUL bytes" if "\0" in text else "control characters"
        raise UserError(f"{name} is not text (it contains {kind}): expected a text file, best in UTF-8")
    if control:
        line = text.count("\n", 0, control[0]) + 1
        notes.append(f"control characters removed: {len(control):,}, the first in line {line:,}")
        text = re.sub("[\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]", "", text)
    return text, notes


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space and invisible characters alone."""
    return not re.search(r"[^\s\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff\u3164\u2800]", text)
