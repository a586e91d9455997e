"""What tells languages apart in a text of unknown encoding: their letters beyond ASCII, and their commonest words.

Read by encodings.py alone. A language's words are among the commonest of any text in it; a text is in a language if
they are at least MIN_COMMON of its words (of its characters in Chinese, Japanese, Korean and Thai).
"""

import re
import unicodedata
from typing import NamedTuple

MIN_COMMON = 0.04
MIN_COMMON_WORDS = 3
MAX_MISFITS = 0.02  # of the characters beyond ASCII
TYPOGRAPHY = set("‘’‚“”„…–—«»‹›·•§°£€©®™½¼¾¡¿ªº†‡\u00a0\u00ad№×÷¶¢¥¹²³´`¨˝µ±¦¬¤ˆ˜‰")
BETWEEN_LETTERS = set("–—·\u00ad…\u00a0")  # typography that may stand between two letters: l·l, yes–no
ELIDED, SHORTENED = set("cdjlmnstuvCDJLMNST"), set("stdmrlv")  # letters before and after ’: l’été, qu’il, don’t, it’s


class Language(NamedTuple):
    """letters: lower-case ones beyond ASCII, and ’ if it stands inside words; words: the commonest."""

    letters: str
    words: str
    encodings: tuple[str, ...]  # that its texts are found in, besides Unicode's


WESTERN = ("cp1252", "iso8859_15", "mac_roman", "cp850", "cp437")
CENTRAL = ("cp1250", "iso8859_2", "cp852", "mac_latin2")
CYRILLIC = ("cp1251", "koi8_u", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic", "cp855")
LANGUAGES = {
    "English": Language("’éèêëàâäçïîñöôüæœ", "the and of to in a that he was it is for his with as i on", WESTERN),
    "French": Language("’àâæçéèêëîïôœùûüÿ", "de la le et les des un une que qui il en du ne pas dans se", WESTERN),
    "German": Language("’äöüßéèàêç", "der die und das den ein er sie nicht zu in es von mit sich dem auf", WESTERN),
    "Spanish": Language("áéíñóúüç", "de la que el en y a los se un no las por con su lo una del", WESTERN),
    "Italian": Language("’àèéìíîòóùú", "di che e la il un a non in per una i si con le lo del da", WESTERN),
    "Portuguese": Language("áàâãçéêíóôõúü", "de a o que e do da em um os no se na não uma as com", WESTERN),
    "Dutch": Language("’éèëêïöüóáäç", "de het een en van ik dat hij niet in is te zijn op die met", WESTERN),
    "Swedish": Language("åäöéàü", "och att det i en som han på är av för med hon den inte var", WESTERN),
    "Danish": Language("æøåéöäòô", "og i at det en den er som han til på de med af for ikke", WESTERN),
    "Finnish": Language("äöåšž", "ja ei on hän se oli että mutta niin kun ole minä sitä kuin", WESTERN),
    "Icelandic": Language("áðéíóúýþæö", "og að í á sem hann var það er ekki til en við um með", WESTERN),
    "Polish": Language("ąćęłńóśźż", "i w nie na się z do to że jest co jak ale po za od tak", CENTRAL),
    "Czech": Language("áčďéěíňóřšťúůýž", "a se na v je to že s z do by ale jsem si tak jeho byl ve", CENTRAL),
    "Slovak": Language("áäčďéíĺľňóôŕšťúýž", "a sa na v je to že s z do by ale som si tak jeho bol vo", CENTRAL),
    "Hungarian": Language("áéíóöőúüű", "a az és hogy nem is egy azt volt csak de mint ez ki el meg", CENTRAL),
    "Romanian": Language("ăâîșțşţ", "și de la în a nu să se cu o un pe din mai ce că este şi", CENTRAL),
    "Croatian": Language("čćđšž", "i je u se na da nije su za od što kao bi sam ali to s koji", CENTRAL),
    "Turkish": Language("’çğıöşüâîûİ", "bir ve bu da de o için ne çok gibi daha ben var mi değil", ("cp1254", "cp857")),
    "Lithuanian": Language(
        "ąčęėįšųūž", "ir kad į iš tai su yra bet o jis ne kaip ant buvo jo", ("cp1257", "iso8859_13")
    ),
    "Latvian": Language("āčēģīķļņšūž", "un ir ka ar no uz viņš bet par tas kā bija es ne to", ("cp1257", "iso8859_13")),
    "Russian": Language(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "и в не на что я он с как а то это все по но к у за", CYRILLIC
    ),
    "Ukrainian": Language(
        "’абвгґдеєжзиіїйклмнопрстуфхцчшщьюя", "і не на що в з як це він та до а за у він але", CYRILLIC
    ),
    "Bulgarian": Language("абвгдежзийклмнопрстуфхцчшщъьюя", "и на да се не в от за с той че е по си като а", CYRILLIC),
    "Serbian": Language("абвгдђежзијклљмнњопрстћуфхцчџш", "и је у се да на не за од су као што то ли али", CYRILLIC),
    "Greek": Language(
        "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ",
        "και το να του η της με που την από για ο τον θα δεν",
        ("cp1253", "iso8859_7"),
    ),
    "Hebrew": Language(
        "אבגדהוזחטיךכלםמןנסעףפץצקרשת", "של את על לא הוא כי אל היה זה עם או גם אני מה", ("cp1255", "iso8859_8")
    ),
    "Arabic": Language(
        "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيًٌٍَُِّْـ،؛؟",
        "في من على إلى أن لا ما هو كان عن هذا التي الذي و",
        ("cp1256", "iso8859_6"),
    ),
}
# common characters of languages without spaces between words, or with more letters than a table holds; their least
# share of a text's characters; encodings
CHARACTERS = {
    "Chinese": (
        "的一是不了在人有我他这這个個們们中来來上大为為和国國地到以说說时時要就出会會，。",
        0.12,
        ("gb18030", "big5", "big5hkscs"),
    ),
    "Japanese": (
        "のにはをたがでてとしれさいるなんまこあもりかすそだっくよえわきょらけせめ、。",
        0.35,
        ("cp932", "euc_jp", "euc_jis_2004"),
    ),
    "Korean": ("이다는을의에가고지은도로하나를한그리기서자어시아인대게으사", 0.15, ("cp949", "euc_kr", "johab")),
    "Thai": ("านรกอเงมยลวดทสตะปบคหแจพชขใไโผถ", 0.65, ("cp874", "tis_620")),
}


# control characters, private ones, and Thai vowels and tone marks without their consonant
IMPOSSIBLE = re.compile(
    r"[\x80-\x9f\ue000-\uf8ff\ufffd]"
    r"|(?<![\u0e01-\u0e2e\u0e31-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|[\u0e40-\u0e44](?![\u0e01-\u0e2e])"
)


def encodings_to_try() -> list[str]:
    """All encodings of the tables above, the commonest first."""
    names = [name for language in LANGUAGES.values() for name in language.encodings]
    return list(dict.fromkeys([*names, *(name for _, _, names in CHARACTERS.values() for name in names)]))


def misfits(text: str, letters: set[str]) -> float:
    """The share of the characters beyond ASCII that no text with these letters would have where they stand."""
    found = wrong = 0
    for match in re.finditer(r"[^\x00-\x7f]", text):
        character, at = match[0], match.start()
        before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
        found += 1
        if character in TYPOGRAPHY:
            inside = before.isalpha() and after.isalpha()
            elided = character in letters and (before in ELIDED or after in SHORTENED)
            wrong += inside and character not in BETWEEN_LETTERS and not elided
        elif character.lower() not in letters and character not in letters:
            wrong += 1
        elif character.isalpha():  # a capital after a small letter, or a Greek letter after a Latin one
            other_case = before.isalpha() and before.islower() and character.isupper()
            other_script = any(a.isalpha() and not same_script(a, character) for a in (before, after))
            wrong += other_case or other_script
    return wrong / found if found else 0.0


def same_script(a: str, b: str) -> bool:
    """Whether two letters belong to one script, by the first words of their Unicode names."""
    return unicodedata.name(a, "?").split()[0] == unicodedata.name(b, "?").split()[0]


def common_share(text: str, language: str) -> float:
    """The share of a language's commonest words among all words of the text; 0.0 if it has hardly any."""
    common = set(LANGUAGES[language].words.split())
    words = re.findall(r"\w+", text.lower())
    n_common = sum(word in common for word in words)
    return n_common / len(words) if n_common >= MIN_COMMON_WORDS else 0.0


def fits_a_language(text: str, encoding: str) -> bool:
    """Whether all characters of a text, as an encoding reads it, belong where they stand in some language."""
    return any(
        encoding in language.encodings and misfits(text, set(language.letters)) <= MAX_MISFITS
        for language in LANGUAGES.values()
    )


def likely_language(text: str, encoding: str) -> tuple[float, str]:
    """(score, language) of a text as one encoding reads it; (0.0, "") if it fits no language.

    The score is the share of common words, less that of characters that do not fit.
    """
    found = [(0.0, "")]
    for name, language in LANGUAGES.items():
        if encoding in language.encodings:
            wrong, share = misfits(text, set(language.letters)), common_share(text, name)
            if wrong <= MAX_MISFITS and share >= MIN_COMMON:
                found.append((share * (1 - wrong / MAX_MISFITS / 2), name))
    for name, (common, least, encodings) in CHARACTERS.items():
        if encoding in encodings and not IMPOSSIBLE.search(text):
            characters = [c for c in text if not c.isspace()]
            share = sum(c in common for c in characters) / max(len(characters), 1)
            if share >= least:
                found.append((share, name))
    return max(found)
