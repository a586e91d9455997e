"""Decode HTML and XML, whose bytes may name their own encoding."""

import re

from llm.configurator import UserError
from llm.text.encodings import BOMS, MIN_VALID, checked_encoding, damaged_utf8, decode_bytes, paired_surrogates

DECLARED = re.compile(
    rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)|<meta[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)""", re.I
)
# what browsers read instead of an encoding that a page names (https://encoding.spec.whatwg.org/#names-and-labels)
SUPERSETS = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874"}
SUPERSETS |= {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}


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
            found = checked_encoding((declared[1] or declared[2]).decode("ascii").lower().removeprefix("x-"))
            return paired_surrogates(data.decode(SUPERSETS.get(found, found)))[0]
        except (UserError, UnicodeDecodeError):
            pass
    return decode_bytes(data, None, name)[0]
