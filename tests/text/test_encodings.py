"""A text is decoded as a careful hand would decode it, or refused: no character of a book is changed in silence."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.configurator import UserError
from llm.text.control_characters import is_blank
from llm.text.encodings import checked_encoding, decode

FRENCH = (
    "Le vieux jardinier possédait une clé qui n'ouvrait aucune porte du village.\n\n"
    "« Pourquoi la gardez-vous ? » demanda un jour la fille du meunier. « Elle est à moi », répondit-il.\n\n"
    "C'était l'année où les abeilles avaient quitté la vallée, et l'on n'entendait plus rien de l'été passé.\n"
)
PASSAGES = {  # language -> (a passage, encodings that it is found in)
    "Polish": (
        "Stary młynarz żył nad rzeką i nie chciał się z nikim dzielić. Gdy woda była niska, ciągnął łódkę na brzeg, a "
        "gdy była wysoka, mówił, że to nie jego sprawa. Dzieci przychodziły do niego w niedzielę.\n",
        ("cp1250", "iso8859_2"),
    ),
    "Czech": (
        "Převozník měl tři provazy a žádný z nich nebyl dlouhý. Když byla voda nízká, táhl prvním, ale když byla "
        "vysoká, řekl, že už se nic nedá dělat. Šťastná žena čekala.\n",
        ("cp1250", "iso8859_2"),
    ),
    "Hungarian": (
        "A révésznek három kötele volt, és mindegyiket egy folyóról nevezte el, amelyet soha nem látott. Ősszel egy "
        "asszony jött hűvös időben az ösvényen, és azt mondta, hogy nem fél.\n",
        ("cp1250", "iso8859_2"),
    ),
    "Russian": (
        "Старый часовщик чинил только те часы, которые спешили. Он говорил, что время не любит, когда его торопят, "
        "и что в каждом доме должен быть хотя бы один человек, который опаздывает.\n",
        ("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"),
    ),
    "Ukrainian": (
        "Старий годинникар лагодив лише ті годинники, що поспішали. Він казав, що час не любить, коли його "
        "підганяють, і що в кожній хаті має бути хоч одна людина, яка запізнюється. Її звали Ївга.\n",
        ("cp1251", "koi8_u"),
    ),
    "Greek": (
        "Ο γέρος βαρκάρης είχε τρία σχοινιά και έδινε στο καθένα το όνομα ενός ποταμού που δεν είχε δει ποτέ. Όταν το "
        "νερό ήταν χαμηλό, τραβούσε με το πρώτο.\n",
        ("cp1253", "iso8859_7"),
    ),
    "Turkish": (
        "Yaşlı kayıkçının üç ipi vardı ve her birine hiç görmediği bir nehrin adını vermişti. Su alçakken birincisini "
        "çekerdi, ama su yükselince köyde hiç kimse üçüncüsünün ne için olduğunu söyleyemezdi. O da gülerdi.\n",
        ("cp1254", "iso8859_9"),
    ),
    "Hebrew": (
        "הזקן היה גר על הנהר ולא רצה לדבר עם אף אחד. כאשר המים היו נמוכים הוא משך את הסירה אל החוף, אבל כי היה זה יום "
        "גשם, לא בא איש.\n",
        ("cp1255", "iso8859_8"),
    ),
    "Arabic": (
        "كان الرجل العجوز يعيش على ضفة النهر ولا يريد أن يتحدث إلى أحد. وعندما كان الماء منخفضا كان يسحب القارب إلى "
        "الشاطئ، في كل يوم من أيام الشتاء؛ أما الآن، يا بني، فمن يسحبه، ومتى؟\n",
        ("cp1256", "iso8859_6"),
    ),
    "French": (FRENCH, ("cp1252", "latin_1", "mac_roman", "cp850")),
    "German": (
        "Der Müller hatte eine Katze, die keine Mäuse fing. Sie ist höflich, sagte er, und das genügt mir in diesem "
        "großen Haus. Über den Fluß ging nur ein Steg.\n",
        ("cp1252", "latin_1", "mac_roman", "cp850", "cp437"),
    ),
    "Spanish": (
        "El barquero tenía tres cuerdas, y a cada una le dio el nombre de un río que nunca había visto. ¿Para qué "
        "sirve la tercera? —preguntó la niña—. Mañana te lo diré, ¡no seas impaciente!\n",
        ("cp1252", "mac_roman"),
    ),
    "Italian": (
        "Il barcaiolo aveva tre corde, e a ognuna dava il nome di un fiume che non aveva mai visto. Perché? Non lo so, "
        "disse, ma è così. La città era lontana, più giù, oltre il bosco, e lui non poteva andarci.\n",
        ("cp1252", "latin_1", "mac_roman"),
    ),
    "Swedish": (
        "Färjkarlen hade tre rep, och åt vart och ett gav han namn efter en flod som han aldrig hade sett. När vattnet "
        "var lågt drog han med det första, men ingen visste var det tredje var för.\n",
        ("cp1252", "cp850"),
    ),
    "Chinese": (
        "老渡船夫有三根绳子，他给每根绳子都起了一个名字，都是他从来没有见过的河流的名字。水浅的时候他拉第一根。\n",
        ("gb18030", "gb2312"),
    ),
    "Taiwan": (
        "老渡船夫有三根繩子，他給每根繩子都起了一個名字，都是他從來沒有見過的河流的名字。水淺的時候他拉第一根。\n",
        ("big5", "gb18030"),
    ),
    "Japanese": (
        "渡し守の老人は三本の綱を持っていて、それぞれに見たことのない川の名前をつけていた。水の少ない時は一本目を引いた。\n",
        ("cp932", "euc_jp", "iso2022_jp"),
    ),
    "Korean": (
        "늙은 뱃사공은 밧줄이 세 개 있었는데, 그는 하나하나에 한 번도 본 적이 없는 강의 이름을 붙였다. "
        "물이 낮을 때는 첫 번째 것을 당겼다.\n",
        ("cp949", "euc_kr"),
    ),
    "Thai": (
        "ชายชราคนแจวเรือมีเชือกสามเส้น และเขาตั้งชื่อให้แต่ละเส้นตามแม่น้ำที่เขาไม่เคยเห็น เมื่อน้ำตื้นเขาดึงเส้นแรก\n",
        ("cp874", "tis_620"),
    ),
}


@pytest.mark.parametrize(
    "language, encoding", [(language, e) for language, (_, encodings) in PASSAGES.items() for e in encodings]
)
def test_a_text_in_an_old_encoding_is_read_right_and_its_encoding_is_named(language, encoding):
    text = PASSAGES[language][0] * 3
    found, notes = decode(text.encode(encoding))
    assert found == text and notes[0].startswith("read as ")


@given(st.sampled_from(sorted(PASSAGES)), st.data())
@settings(deadline=None, max_examples=40)
def test_an_old_encoding_is_never_read_wrongly(language, data):
    """A piece of any length: right, or refused with the right encoding to type among others; never another text."""
    text, encodings = PASSAGES[language]
    encoding = data.draw(st.sampled_from(encodings))
    start = data.draw(st.integers(0, len(text) - 20))
    piece = text[start : start + data.draw(st.integers(20, len(text)))].strip()
    try:
        found, _ = decode(piece.encode(encoding))
    except UserError as error:
        assert "--encoding=" in str(error) and "\n" not in str(error)
    else:
        assert found == piece


def test_an_encoding_in_doubt_is_refused_with_candidates_as_they_read():
    with pytest.raises(UserError, match="in doubt; type the one that reads well: --encoding=") as error:
        decode("zażółć gęślą jaźń".encode("cp1250"), name="book.txt")
    assert "book.txt" in str(error.value) and "zażółć" in str(error.value)


def test_a_named_encoding_is_used():
    assert decode("zażółć gęślą jaźń".encode("cp1250"), encoding="windows-1250") == ("zażółć gęślą jaźń", [])


def test_a_named_encoding_that_does_not_fit_is_refused_with_the_place():
    with pytest.raises(UserError, match=r"is not utf-8: byte 0xe9 at position 3"):
        decode(b"caf\xe9 au lait", encoding="utf-8")


@pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "", "utf-8\0"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(UserError, match="no encoding of this name"):
        checked_encoding(name)


def test_utf8_is_unchanged():
    assert decode(FRENCH.encode()) == (FRENCH, [])


def test_one_bad_byte_in_utf8_is_shown_and_named_and_nothing_else_changes():
    """The whole book used to be read as windows-1252 because of it: every accent became two wrong letters."""
    before, after = FRENCH.split("meunier")
    text, notes = decode(before.encode() + b"meuni\xe9er" + after.encode())
    assert text == f"{before}meuni\ufffder{after}"
    assert notes == ["bytes that are not UTF-8 replaced by U+FFFD: 0xe9 in line 3, column 64"]


@pytest.mark.parametrize("n_accents", [1, 2, 5])
def test_one_bad_byte_in_an_english_book_with_few_accents_leaves_it_utf8(n_accents):
    """With fewer than four accents it was refused, with candidates that all showed them as two wrong letters."""
    text = "The ferryman at Orlow kept three ropes.\n" + "She had a rosé.\n" * n_accents
    found, notes = decode(text.encode().replace(b"ferryman", b"ferry\xe9man"))
    assert found == text.replace("ferryman", "ferry\ufffdman")
    assert notes == ["bytes that are not UTF-8 replaced by U+FFFD: 0xe9 in line 1, column 10"]


@pytest.mark.parametrize("byte", [b"\x93", b"\xff", b"\x81", b"\x80", b"\xf0"])
def test_one_byte_beyond_ascii_is_no_evidence_for_an_encoding_of_dos(byte):
    """It was read as cp850 without doubt: a letter, a soft hyphen or a hard space inside an English word."""
    text = "The ferryman at Orlow kept three ropes, and he named each of them after a river that he had seen.\n"
    with pytest.raises(
        UserError, match=rf"not UTF-8 \(byte 0x{byte.hex()} in line 2\), .* type the one that reads well"
    ):
        decode(text.encode() + text.encode().replace(b"ropes", b"ro" + byte + b"pes"))


def test_half_a_character_at_the_end_of_utf8_is_dropped():
    for before, character in ((FRENCH, "—"), (FRENCH, "😀"), ("It was her\n" * 9, "😀"), ("It was her\n" * 9, "—")):
        for cut in range(1, len(character.encode())):
            text, notes = decode((before + character).encode()[:-cut])
            assert (text, notes) == (before, ["half a character at the end dropped"])


def test_a_line_of_windows_1252_pasted_into_utf8_is_read_as_that():
    pasted = "« Trop tard », dit-il – et l’été passa…"
    text, notes = decode(FRENCH.encode() + pasted.encode("cp1252") + b"\n" + FRENCH.encode())
    assert text == f"{FRENCH}{pasted}\n{FRENCH}"
    assert notes == ["read as windows-1252 because it is not UTF-8: line 6"]


@pytest.mark.parametrize(
    "language, pasted",
    [
        ("French", "« Trop tard », dit-il – et l’été passa…"),
        ("German", "„Zu spät“, sagte er – „wie schön“"),
        ("Czech", "“No”"),
    ],
)
def test_a_pasted_line_of_many_bytes_does_not_outweigh_a_short_book(language, pasted):
    lines = PASSAGES[language][0].split("\n")
    for n in range(len(lines)):
        data = b"\n".join(
            [*(line.encode() for line in lines[:n]), pasted.encode("cp1252"), "\n".join(lines[n:]).encode()]
        )
        assert decode(data)[0] == "\n".join([*lines[:n], pasted, *lines[n:]])


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("language", ["French", "Chinese", "Russian"])
def test_utf16_and_utf32_are_read_with_or_without_a_mark(encoding, marked, language):
    text = PASSAGES[language][0]
    assert decode(("\ufeff" * marked + text).encode(encoding))[0] == text


def test_half_a_character_at_the_end_of_utf16_is_dropped():
    text, notes = decode(codecs.BOM_UTF16_LE + FRENCH.encode("utf-16-le") + b"x")
    assert (text, notes) == (FRENCH, ["half a character at the end dropped"])


def test_surrogate_pairs_in_utf8_become_characters_and_lone_ones_are_replaced():
    data = "the moon \ud83d\ude00 rose \ud800 twice".encode("utf-8", "surrogatepass")
    assert decode(data) == (
        "the moon 😀 rose \ufffd twice",
        ["surrogate pairs converted", "lone surrogates replaced by U+FFFD: 1"],
    )


def test_utf7_is_read_and_base64_is_not_taken_for_it():
    for text in ("Café — déjà vu, «là»\n" * 3, PASSAGES["Chinese"][0] * 3, PASSAGES["Russian"][0]):
        assert decode(text.encode("utf-7"))[0] == text
    base64 = "aGVsbG8gd29ybGQh+aGVsbG8/d29y+bGQhaGVsbG8gd29ybGQ+aGVsbG8gd29ybGQh\n" * 5
    assert decode(base64.encode())[0] == base64


@pytest.mark.parametrize(
    "raw, text",
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\rtwo\r", "one\ntwo\n"),
        ("one\r\r\ntwo\r\r\n", "one\ntwo\n"),
        ("one\u2028two\x85three\x0bfour\n", "one\ntwo\nthree\nfour\n"),
        ("one\u2029two\n", "one\ntwo\n"),
        ("one\u2028two\u2029three\n", "one\ntwo\n\nthree\n"),
        ("\ufeffone\n\ufefftwo\n", "one\ntwo\n"),
        ("one\n\x1a", "one\n"),
        ("one\n\x1a\x00\x1a\n", "one\n"),
        ("one\x00 two\n", "one two\n"),
        ("one\x01\x7f two\n", "one two\n"),
        ("\x1b[1mone\x1b[0m two\n", "one two\n"),
        ("o\x08on\x08ne _\x08t\n", "one t\n"),
        ("\x93one\x94 \x96 two\x85\n", "“one” – two…\n"),
        ("page one\n\fpage two\tend\n", "page one\n\fpage two\tend\n"),
    ],
)
def test_line_ends_and_control_characters_are_evened_out(raw, text):
    before = "a longer line of plain text that stands before it, as in a book\n" * 9
    found, notes = decode((before + raw).encode())
    assert found == before + text
    assert bool(notes) == (raw != text)


def test_a_doubly_encoded_text_is_left_as_it_is_with_a_warning():
    broken = FRENCH.replace("«", "").replace("»", "").encode().decode("cp1252", "ignore")
    text, [warning] = decode(broken.encode(), name="broken.txt")
    assert text == broken
    assert warning.startswith("WARNING: 'Ã") and "iconv -f UTF-8 -t WINDOWS-1252 broken.txt" in warning


@pytest.mark.parametrize("text", ["Ângela, Âmbar, Ã", "Ça ira. L’été."])
def test_accents_are_no_doubly_encoded_text(text):
    assert decode(text.encode()) == (text, [])


@pytest.mark.parametrize("text", ["", " \n\t\r\n", "\u00a0\u200b\n" * 9, "\u200b\u2060\ufeff", "\u3000\n"])
def test_a_text_that_shows_nothing_is_empty(text):
    assert is_blank(text)
    with pytest.raises(UserError, match="is empty"):
        decode(text.encode())


@pytest.mark.parametrize("data", [b"MZ\0\0\x90\0\0", bytes(range(256)) * 9, b"\x7fELF\x02\x01\x01\0\0\0" * 20])
def test_what_is_no_text_is_refused(data):
    with pytest.raises(UserError, match="not text"):
        decode(data)


def test_quotation_marks_of_windows_need_no_language():
    assert decode("“so”".encode("cp1252"))[0] == "“so”"


@pytest.mark.slow
def test_a_large_text_takes_linear_time():
    assert decode(("é\n" * 200_000).encode() + b"\xe9\n")[0].endswith("é\n\ufffd\n")
    assert decode(b"a" * 999_999 + b"\r\r\n" + b"\r" * 9)[0].startswith("aaa")
    text = PASSAGES["Russian"][0] * 3000
    assert decode(text.encode("koi8_r"))[0] == text
