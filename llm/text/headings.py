"""Find the chapters of a plain text by lines that look like headings, in many languages.

A heading stands alone between empty lines (or form feeds). It is a word such as "chapter" with its number, before or
after it: CHAPTER IV, Part the Second, Zweites Kapitel, Глава вторая, 第二章. Numbers alone count if they go on from 1,
one by one. Lines in capitals or in title case count where a text has no other headings. A sentence is none.
"""

import re

from llm.text.book import Chapter

MAX_HEADING = 80  # characters
MIN_HEADINGS = 3  # of lines without a number, so that one short line is no chapter
ROMAN = r"[IVXLC]{1,8}"
ENGLISH_NUMBER = (
    r"(?:the )?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|last|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|one|two|three|four|five|six|seven|eight|nine|ten|eleven|"
    r"twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twenty|thirty|forty|fifty|sixty)(?:[- ]\w+)?)"
)
NUMBER = rf"(?:\d{{1,3}}|{ROMAN})"  # the patterns below ignore case
TITLE = (  # what may follow the number
    r"(?:,\s*(?:scene|szene|scène|scena|сцена)\s+\w+\.?|\s*[.:—–-]\s*(?-i:[^\sa-zа-яα-ω]).{0,60}|[.:]?"
    r"|\s+(?-i:[^\W\d_a-zа-яα-ω]).{0,60}(?<![.!?,;]))"
)
KEYWORDS = re.sub(
    r"\s+",
    "|",
    """chapter chap book part volume vol canto letter act scene section stave chapitre livre partie tome acte scène
    lettre kapitel buch teil theil band akt aufzug szene auftritt brief gesang capítulo capitulo libro parte tomo acto
    escena capitolo atto canto livro hoofdstuk deel boek kapitlet del bok bog luku osa kirja rozdział część księga tom
    kapitola díl část kniha fejezet rész könyv capitolul cartea partea poglavlje bölüm kısım kitap chương bab
    ch kap cap гл kapittel jornada časť čast поглавље phần hồi
    skyrius nodaļa peatükk capítol глава часть книга том раздел розділ частина письмо действие κεφάλαιο κεφαλαιο μέρος
    βιβλίο الفصل الباب الجزء פרק חלק अध्याय भाग खण्ड
    """.strip(),
)
GERMANIC = r"\w+(?:ste|te|tes|ter|tem)|"  # zweites Kapitel, Tweede hoofdstuk; never after the word for chapter
ORDINAL = (  # in other languages than English, by their endings
    r"(?:premier|1er|\w+(?:ième|ère|ero|era|esimo|esima|ndo|nda|rto|rta|nto|nta|imo|ima|avo|ava)"
    r"|\w+(?:szy|gi|ci|ty|my|wy|sza|ga|cia|ta|ma|wa)|ال\w+"  # Polish, Arabic
    r"|[а-яё]+(?:ая|ья|ое|ье|ый|ий|ой)|[α-ωά-ώ]+(?:ος|ο|η|ή|όν|ον))"
)
NUMBERED = re.compile(rf"(?:{KEYWORDS})\.?\s+(?:{NUMBER}|{ENGLISH_NUMBER})\b{TITLE}", re.I)
ORDINAL_AFTER = re.compile(rf"(?:{KEYWORDS})\s+{ORDINAL}{TITLE}", re.I)
ORDINAL_BEFORE = re.compile(
    rf"(?:\d{{1,3}}\.|{GERMANIC}{ORDINAL}|{ENGLISH_NUMBER})\s+(?:{KEYWORDS})"
    r"(?:[.:]|\s*[.:—–-]\s*(?-i:[^\sa-zа-яα-ω]).{0,60})?",
    re.I,
)
ALONE = re.compile(
    r"(?:prologue|epilogue|preface|foreword|afterword|introduction|conclusion|prolog|epilog|vorwort|nachwort|einleitung|"
    r"prologue|épilogue|préface|avant-propos|prólogo|epílogo|prologo|epilogo|prefacio|prefazione|пролог|эпилог|"
    r"предисловие|послесловие|πρόλογος|επίλογος|مقدمة|序章|序言|前言|楔子|终章|終章|尾声|尾聲|后记|後記|序|跋|あとがき|プロローグ|"
    r"エピローグ|프롤로그|에필로그)\.?",
    re.I,
)
EAST_ASIAN = re.compile(
    r"[\s　]*(?:第[\s　]*[一二三四五六七八九十百千零〇两兩壹贰貳叁參肆伍陆陸柒捌玖拾\d０-９]{1,7}[\s　]*"
    r"[章回节節卷部篇话話幕編集場场]"
    r"(?:[\s　:：・].{0,30}|[^。！？，、]{0,20})"
    r"|제\s*(?:\d{1,3}|[일이삼사오육칠팔구십]{1,4})\s*[장부편화권](?:[\s:.].{0,40})?|\d{1,3}\s?[장부편화권](?:[:.].{0,40})?"
    r"|その[一二三四五六七八九十\d０-９]{1,3}|(?:บท|ตอน)ที่\s*[\d๑-๙]{1,3}.{0,40})[\s　]*"
)
CHINESE_DIGITS = "〇一二三四五六七八九"
LONE_NUMBER = re.compile(
    rf"({ROMAN}|\d{{1,3}}|[{CHINESE_DIGITS}十]{{1,3}})"
    r"(?:\.?|[.:]\s+\S.{0,60}|\s+[—–-]\s+\S.{0,60}|、[^。！？，]{1,30})"
)
WITH_KEYWORD = re.compile(rf"({KEYWORDS})(?: \S+){{1,3}}|(?:\S+ ){{1,3}}({KEYWORDS})", re.I)
FIGURE = re.compile(rf"\d|\b{ROMAN}\b")
SENTENCE_END = re.compile(r"[.!?…,;:。！？，、]['\"”’»)]*$")
SMALL_WORDS = {
    *("a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "into", "nor", "of", "on", "or", "the", "to"),
    *("upon", "with", "de", "la", "le", "du", "des", "und", "der", "die", "das"),
}


def find_chapters(text: str) -> list[Chapter]:
    """The chapters of a text, in its order; empty if there are none."""
    lines = lone_lines(text)
    numbered = [(start, line) for start, line in lines if is_numbered(line)]
    numbered += with_one_keyword(lines)
    in_order = in_sequence([(start, line) for start, line in lines if LONE_NUMBER.fullmatch(line)])
    found = dict([*numbered, *in_order])
    if not found:
        for is_title in (is_capitals, is_title_case):
            titles = [(start, line) for start, line in lines if is_title(line)]
            if len(titles) >= MIN_HEADINGS:
                found = dict(titles)
                break
    else:
        found |= {start: line for start, line in lines if ALONE.fullmatch(line)}
    return [Chapter(" ".join(line.split()), start) for start, line in sorted(found.items())]


def lone_lines(text: str) -> list[tuple[int, str]]:
    """(character offset, line) of short lines between empty lines, without white space around them."""
    found = []
    for match in re.finditer(
        rf"(?:\A|(?<=\n\n)|(?<=\f))[ \t　]*(\S[^\n\f]{{0,{MAX_HEADING}}})(?=\n\s*\n|\n?\f|\n*\Z)", text
    ):
        found.append((match.start(1), match[1].rstrip()))
    return found


def is_numbered(line: str) -> bool:
    """Whether a line is the number of a chapter in words, perhaps with its title."""
    if EAST_ASIAN.fullmatch(line):
        return True
    if any(pattern.fullmatch(line) for pattern in (NUMBERED, ORDINAL_AFTER, ORDINAL_BEFORE)):
        return not line[0].islower()
    return False


def with_one_keyword(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines of a keyword and one to three words, whatever they are: two at least that differ, "Kapitel eins".

    One is enough beside a number in as many words: "Capitolo terzo" beside "Capitolo primo", but no "Глава семьи
    молчал" beside "Глава 1".
    """
    found: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    n_words: dict[tuple[str, bool], set[int]] = {}  # of the keyword's numbers in words
    for start, line in lines:
        if (match := WITH_KEYWORD.fullmatch(line)) and not line[0].islower() and not SENTENCE_END.search(line):
            keyword = (match[1] or match[2]).lower(), bool(match[1])
            if not is_numbered(line):
                found.setdefault(keyword, []).append((start, line))
            elif not FIGURE.search(line):
                n_words.setdefault(keyword, set()).add(len(line.split()))
    return [
        (start, line)
        for keyword, places in found.items()
        for start, line in places
        if len({line for _, line in places}) > 1 or len(line.split()) in n_words.get(keyword, ())
    ]


def in_sequence(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those lines that are numbers which go on from 1, one by one; empty if they do not reach 2."""
    found, expected = [], 1
    for start, line in lines:
        number = LONE_NUMBER.fullmatch(line)[1]
        value = value_of(number)
        if value == expected or value == 1:
            if value == 1 and expected <= 2:
                found = found[: -1 if expected == 2 else None]  # an earlier 1 began nothing
            found.append((start, line))
            expected = value + 1
    return found if len(found) >= 2 else []


def value_of(number: str) -> int:
    """The value of a number below 1,000 in digits, Chinese or Roman numerals."""
    if number.isdecimal():
        return int(number)
    if number[0] not in "IVXLC":  # 十二 = 12, 二十 = 20
        tens, ten, ones = number.rpartition("十")
        digits = [CHINESE_DIGITS.find(d) for d in (tens or "一", ones or "〇")]
        return (10 * digits[0] if ten else 0) + digits[1]
    digits = [dict(I=1, V=5, X=10, L=50, C=100)[c] for c in number]
    return sum(-d if d < after else d for d, after in zip(digits, [*digits[1:], 0], strict=True))


def is_capitals(line: str) -> bool:
    """Whether a line is in capitals, as titles of chapters are."""
    letters = [c for c in line if c.isalpha()]
    return len(letters) >= 3 and all(c.isupper() for c in letters) and not line.endswith((",", ";", "!", "?", '"', "”"))


def is_title_case(line: str) -> bool:
    """Whether a line is a title: at least two words, the important ones capitalised, no end of a sentence."""
    words = re.findall(r"[^\W\d_][\w'’-]*", line)
    important = [word for word in words if word.lower() not in SMALL_WORDS]
    return (
        2 <= len(words) <= 9
        and not SENTENCE_END.search(line)
        and line[0].isalnum()
        and len(important) >= 2
        and all(word[0].isupper() for word in important)
    )
