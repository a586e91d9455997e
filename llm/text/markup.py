"""Decode HTML and XML, whose bytes may name their own encoding."""

import re

from llm.configurator import UserError
from llm.text.encodings import BOMS, MIN_VALID, checked_encoding, damaged_utf8, decode_bytes, paired_surrogates

DECLARED = re.compile(
    rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)|<meta[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)""", re.I
)


def replaced(pattern: str, by: str, markup: str, *, end: str) -> str:
    """The markup with `by` for each match of a pattern that ends with `end`.

    Looked at is only what stands before the last `end`: behind it, each beginning would be searched in vain to the end
    of the text, which takes the square of its length.
    """
    stop = markup.rfind(end) + len(end) if end in markup else 0
    return re.sub(pattern, by, markup[:stop], flags=re.S) + markup[stop:]


def decode_markup(data: bytes, *, encoding: str | None = None, name: str = "this page") -> str:
    """The text of HTML or XML, whose encoding is the given, marked, declared or likely one."""
    if encoding or any(data.startswith(mark) for _, mark in BOMS) or b"\0" in data[:100]:
        return decode_bytes(data, checked_encoding(encoding), name)[0].lstrip("\ufeff")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    text, _, valid, bad = damaged_utf8(data)
    if valid > MIN_VALID * bad:
        return text
    declared = DECLARED.search(data[:4000])
    if declared:
        try:
            found = checked_encoding((declared[1] or declared[2]).decode("ascii"))
            found = "cp1252" if found in ("iso8859-1", "ascii") else found  # as all browsers do
            return paired_surrogates(data.decode(found))[0]
        except (UserError, UnicodeDecodeError):
            pass
    return decode_bytes(data, None, name)[0]
