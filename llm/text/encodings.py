r"""Decode a file of any encoding; control_characters.py evens out its line ends.

    >>> decode("\ufefft\u00e9\r\r\n\x1a".encode())
    ('t\u00e9\n', ['UTF-8 BOM removed', 'CR CR LF line ends converted', 'Ctrl-Z at the end removed'])

UTF-8 with a few bad bytes stays UTF-8. Of other encodings, charset-normalizer and the tables of languages.py propose
some; one is taken only if it alone makes words of a language. Nothing is repaired silently.
"""

import codecs
import re

from llm.configurator import UserError
from llm.text.control_characters import MAX_CONTROL, is_blank, without_control_characters
from llm.text.languages import encodings_to_try, fits_a_language, likely_language, misfits

BOMS = (  # the longer ones first: UTF-32's little-endian mark begins with UTF-16's
    ("utf_32_le", codecs.BOM_UTF32_LE),
    ("utf_32_be", codecs.BOM_UTF32_BE),
    ("utf_8", codecs.BOM_UTF8),
    ("utf_16_le", codecs.BOM_UTF16_LE),
    ("utf_16_be", codecs.BOM_UTF16_BE),
)
SAMPLE = 100_000  # characters that are looked at to tell encodings apart
MAX_PLACES = 3  # named in one note
MIN_UNKNOWN = 2_000  # bytes of a text whose language the tables lack, to trust charset-normalizer alone
MIN_VALID = 3  # times as many valid characters beyond ASCII as damaged places, to be UTF-8 with damage
FEW = 2  # bytes beyond ASCII that tell no encoding but Windows' and ISO's
SURE = 1.5  # a language must have this many times as many common words as the next reading's
UTF7_RUN = re.compile(rb"\+([A-Za-z0-9+/]*)-?")
WESTERN_LETTERS = set("’àâäáãåæçéèêëíìîïñóòôöõøœúùûüßÿš")
# sequences of characters that are UTF-8's bytes read as windows-1252: Ã© (é), â€™ (’)
MOJIBAKE = re.compile("(?:[ÂÃÄÅÐÑ][\x80-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â[€‚„][\x80-¿™œ˜¦“”\u009d¢])")


def decode(data: bytes, *, encoding: str | None = None, name: str = "this file") -> tuple[str, list[str]]:
    r"""The text of a file with \n as line end, and notes. UserError if it is not text, or its encoding is in doubt."""
    text, notes = decode_bytes(data, checked_encoding(encoding), name)
    text, more = without_control_characters(text, name)
    if is_blank(text):
        raise UserError(f"{name} is empty: expected a text file with at least a few pages of text")
    return text, [*notes, *more, *mojibake(text, name)]


def checked_encoding(encoding: str | None) -> str | None:
    """Python's name of a text encoding. UserError if there is none of this name."""
    if encoding is None:
        return None
    try:
        info = codecs.lookup(encoding)
        "".encode(info.name)  # rot13 and base64 are codecs, but no text encodings
        return info.name
    except (LookupError, TypeError, ValueError, AssertionError):
        raise UserError(
            f"--encoding={encoding}: no encoding of this name; expected for example --encoding=windows-1252, "
            "--encoding=gb18030 or --encoding=shift_jis"
        ) from None


def decode_bytes(data: bytes, encoding: str | None, name: str) -> tuple[str, list[str]]:
    """The text of a file as its bytes stand for it, and notes."""
    if encoding:
        try:
            return data.decode(encoding), []
        except UnicodeDecodeError as e:
            raise UserError(
                f"{name} is not {encoding}: byte 0x{data[e.start]:02x} at position {e.start:,}; type another --encoding"
            ) from None
    for marked, mark in BOMS:
        if data.startswith(mark):
            return decode_unicode(data[len(mark) :], marked)
    control = len(re.findall(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]", data)) > max(MAX_CONTROL * len(data), 1)
    if (control or b"\0" in data) and (found := unmarked_unicode(data)):
        text, notes = decode_unicode(data, found)
        return text, [f"read as {found.upper().replace('_', '-')}", *notes]
    if seven_bit := seven_bit_encoding(data):
        return data.decode(seven_bit), [f"read as {seven_bit.upper().replace('_', '-')}"]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        if control:
            raise UserError(f"{name} is not text: expected a text file, best in UTF-8") from None
    text, notes, valid, bad = damaged_utf8(data)
    cut = valid == bad == 0 and re.search(rb"[\xc3\xe2\xf0]\Z|[\xe0-\xf4][\x80-\xbf]{1,2}\Z", data)
    few = valid >= bad and encoded_twice(data.decode("cp1252", "replace"))  # an English book: some é, one bad byte
    return (text, notes) if valid > MIN_VALID * bad or cut or few else other_encoding(data, name)


def decode_unicode(data: bytes, encoding: str) -> tuple[str, list[str]]:
    """UTF-8, UTF-16 or UTF-32; half a character at the end is dropped."""
    if encoding == "utf_8":
        return damaged_utf8(data)[:2]
    unit = 4 if "32" in encoding else 2
    rest = len(data) % unit
    text, lone = paired_surrogates(
        data[: len(data) - rest].decode(encoding, "surrogatepass" if unit == 2 else "replace")
    )
    notes = ["half a character at the end dropped"] if rest else []
    return text, notes + lone


def paired_surrogates(text: str) -> tuple[str, list[str]]:
    """The text with pairs of surrogates as the characters that they stand for, and lone ones as U+FFFD."""
    if not re.search("[\ud800-\udfff]", text):
        return text, []
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    lone = paired.count("\ufffd") - text.count("\ufffd")
    notes = ["surrogate pairs converted"] if len(text) - len(paired) else []
    return paired, [*notes, f"lone surrogates replaced by U+FFFD: {lone:,}"] if lone else notes


def unmarked_unicode(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: the encoding in which almost all characters are printable."""
    found = []
    for encoding in ("utf_32_le", "utf_32_be", "utf_16_le", "utf_16_be"):
        unit = 4 if "32" in encoding else 2
        try:
            text = data[: len(data) // unit * unit][: 4 * SAMPLE].decode(encoding)
        except UnicodeDecodeError:
            continue
        good = sum(c.isalnum() or c in " \r\n\t" or c.isprintable() for c in text)
        common = sum(c in " \n,.，。、的の" for c in text)
        if len(text) > 1 and good >= 0.97 * len(text) and common:
            found.append((common, encoding))
    return max(found)[1] if found else None


def seven_bit_encoding(data: bytes) -> str | None:
    """An encoding in 7-bit bytes, by its escape sequences; None if the data are plain ASCII or use the eighth bit."""
    if not data.isascii():
        return None
    candidates = []
    if re.search(rb"\x1b(?:\$[@B]|\([BJI]|\$\()", data):
        candidates += ["iso2022_jp", "iso2022_jp_ext"]
    if b"\x1b$)C" in data:
        candidates.append("iso2022_kr")
    if re.search(rb"~\{[!-~]{2,}~\}", data):
        candidates.append("hz")
    runs = [run for run in UTF7_RUN.findall(data) if run]
    if len(runs) >= 3 and runs == [run for run in runs if len(run) >= 3]:
        candidates.append("utf_7")
    for encoding in candidates:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        beyond = [c for c in text if c > "\x7f"]
        if beyond and "\x1b" not in text and all(c.isprintable() for c in beyond):
            return encoding
    return None


def listed(places: list[str]) -> str:
    """Places in words, at most MAX_PLACES of them."""
    places = list(dict.fromkeys(places))
    return ", ".join(places[:MAX_PLACES]) + (f" and {len(places) - MAX_PLACES:,} more" * (len(places) > MAX_PLACES))


def damaged_utf8(data: bytes) -> tuple[str, list[str], int, int]:
    """(text, notes, characters beyond ASCII that are valid, damaged places) of data as UTF-8.

    A line without any valid character beyond ASCII, whose bad bytes make sense as windows-1252, is read as that, and is
    one damaged place. Half a character at the end is dropped. Any other bad byte becomes U+FFFD.
    """
    try:  # CESU-8, as old databases write it
        text, notes = paired_surrogates(data.decode("utf-8", "surrogatepass"))
        return text, notes, len(data), 0
    except UnicodeDecodeError:
        pass
    notes, valid, bad, windows, replaced = [], 0, 0, [], []
    if tail := re.search(rb"(?:[\xc3-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z", data):
        data = data[: tail.start()]
        notes.append("half a character at the end dropped")
    lines = []
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.decode("utf-8", "surrogateescape")
        wrong = sum("\udc80" <= c <= "\udcff" for c in text)
        good = sum(c > "\x7f" for c in text) - wrong
        valid += good
        if wrong and not good and (as_windows := pasted_windows_1252(line, wrong)):
            bad += 1
            windows.append(f"line {number:,}")
            text = as_windows
        elif wrong:
            bad += wrong
            column = next(i for i, c in enumerate(text, 1) if "\udc80" <= c <= "\udcff")
            byte = ord(text[column - 1]) - 0xDC00
            replaced.append(f"0x{byte:02x} in line {number:,}, column {column:,}")
            text = re.sub("[\udc80-\udcff]", "\ufffd", text)
        lines.append(text)
    if windows:
        notes.append(f"read as windows-1252 because it is not UTF-8: {listed(windows)}")
    if replaced:
        notes.append(f"bytes that are not UTF-8 replaced by U+FFFD: {listed(replaced)}")
    return "\n".join(lines), notes, valid, bad


def pasted_windows_1252(line: bytes, n_bytes: int) -> str | None:
    """A line as windows-1252, None if that makes no sense: one byte alone must be a quotation mark or a dash."""
    try:
        text = line.decode("cp1252")
    except UnicodeDecodeError:
        return None
    if n_bytes == 1 and not re.search("[‘’“”–—…]", text):
        return None
    return text if misfits(text, WESTERN_LETTERS) == 0 else None


def other_encoding(data: bytes, name: str) -> tuple[str, list[str]]:
    """The text of data that are not UTF-8. UserError with the candidates unless one encoding alone makes sense."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(data[: 4 * SAMPLE]))
    texts: dict[str, str] = {}  # text -> the first encoding that reads the data as it
    for encoding in [*encodings_to_try(), *(match.encoding for match in matches)]:
        try:
            texts.setdefault(data.decode(encoding), encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    ranked = []
    for text, encoding in texts.items():
        beyond = "\n".join(line for line in text.split("\n") if not line.isascii())[:SAMPLE]
        share, language = likely_language(beyond, encoding)
        if language:
            ranked.append((share, text, language))
    ranked.sort(reverse=True)
    matches = matches if len(data) >= MIN_UNKNOWN else []
    coherent = {match.encoding for match in matches if match.coherence > 0.3 and match.chaos < 0.02}
    likely = [text for _, text, _ in ranked] or [text for text, encoding in texts.items() if encoding in coherent]
    language = ranked[0][2] if ranked else ""
    if not likely and (windows := windows_punctuation(data)):
        likely, texts = [windows], {windows: "cp1252"}
    if len(likely) != 1 and not (ranked and ranked[0][0] >= ranked[1][0] * SURE):
        fitting = likely or [text for text, encoding in texts.items() if fits_a_language(text[:SAMPLE], encoding)]
        raise UserError(in_doubt({text: texts[text] for text in fitting} or texts, name, data))
    text = likely[0]
    byte = re.search(rb"[\x80-\xff]", data)
    if len(re.findall(rb"[\x80-\xff]", data)) <= FEW and not readable(texts[text]).startswith(("windows", "iso")):
        raise UserError(in_doubt(texts, name, data))
    place = f"byte 0x{byte[0][0]:02x} at position {byte.start():,} is not UTF-8"
    return text, [f"read as {readable(texts[text])}{f' ({language})' if language else ''}: {place}"]


def windows_punctuation(data: bytes) -> str | None:
    """The data as windows-1252, if quotation marks and dashes are all that they have beyond ASCII."""
    text = data.decode("cp1252", "replace")
    plain = re.sub(r"(?<=[A-Za-z])’(?=(?:s|t|d|m|re|ll|ve)\b)", "'", text)  # don’t
    known = all(c in "‘’“”–—…" for c in re.findall(r"[^\x00-\x7f]", text))
    return text if known and misfits(plain, set()) == 0 else None


def readable(encoding: str) -> str:
    """The usual name of one of Python's encodings: cp1252 -> windows-1252."""
    return re.sub(r"^cp(125\d)$", r"windows-\1", encoding).replace("iso8859_", "iso-8859-").replace("_", "-")


def in_doubt(candidates: dict[str, str], name: str, data: bytes) -> str:
    """The message that lists encodings, each with a word as it reads it; candidates: text -> encoding."""
    shown = []
    for text, encoding in list(candidates.items())[:5]:
        piece = re.search(r"[^\n]{0,8}[^\x00-\x7f][^\n]{0,20}", text)
        shown.append(f"--encoding={readable(encoding)} ({piece[0].strip() if piece else ''})")
    if not shown:
        return f"{name} is not text: expected a text file, best in UTF-8"
    byte = re.search(rb"[\x80-\xff]", data)
    line = data.count(b"\n", 0, byte.start()) + 1
    return (
        f"{name} is not UTF-8 (byte 0x{byte[0][0]:02x} in line {line:,}), and its encoding is in doubt; type the one "
        f"that reads well: {', '.join(shown)}"
    )


def encoded_twice(text: str) -> list[str]:
    """The pieces of UTF-8 that was decoded as windows-1252, if they are most of what the text has beyond ASCII."""
    found = MOJIBAKE.findall(text)
    return found if 2 * sum(map(len, found)) >= len(re.findall(r"[^\x00-\x7f]", text)) else []


def mojibake(text: str, name: str) -> list[str]:
    """A warning, if most characters beyond ASCII are UTF-8 that was decoded as windows-1252 and encoded again."""
    found = encoded_twice(text)
    if len(found) < 3:
        return []
    return [
        f"WARNING: {found[0]!r} and {len(found) - 1:,} more look like UTF-8 that was encoded twice; they are left as "
        f"they are; to repair the text, type: iconv -f UTF-8 -t WINDOWS-1252 {name} > repaired.txt"
    ]
