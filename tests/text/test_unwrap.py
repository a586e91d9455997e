"""Wrapped prose becomes one line a paragraph in any script; everything that only looks wrapped stays as it is."""

import textwrap
import time

import pytest

from llm.text.unwrap import join_wrapped, unwrap

ENGLISH = [
    "The ferryman at Orlow kept three ropes, and he named each of them after a river that he had never seen. When the "
    "water was low he pulled with the first one, and when it was high he pulled with the second, but nobody in the "
    "village could say what the third was for.",
    "One evening in the wet part of autumn a woman came down the path with a lantern and a sack of onions. She asked "
    "to be taken over at once, because her sister on the other bank had fallen from a ladder and could not light the "
    "stove herself.",
    "Half way over the rope began to sing. It was a thin note, like a wet finger on a glass, and it went on and on "
    "until the woman put down the sack and covered her ears. The ferryman only smiled and counted under his breath.",
    "At forty he let go of the second rope and took the third out of his coat. It was no longer than a bootlace. He "
    "tied it round the lantern's handle with a knot that she could not follow, and the singing stopped as if somebody "
    "had shut a door.",
]
GERMAN = [
    "Unter den Gästen waren der Müller Anton Berger aus Sankt Ägid, die Witwe Helene Stark, der alte Schmied Georg "
    "Winter mit seinen drei Söhnen, Herr Doktor Ferdinand Lang, den niemand leiden konnte, und Pfarrer Johann Weber.",
    "Der Müller von Sankt Ägid hatte einen Kater, der die Mäuse nicht fing, sondern zählte, und jeden Abend, wenn "
    "die Räder stillstanden, legte er für jede Maus ein Korn auf die Schwelle, so dass der Müller die Summe kannte.",
    "Die Witwe war seit dem 12. Mai im Haus, und man könne, z. B. am Sonntag, mit ihr reden; sie wohnte, wie man im "
    "Dorf sagte, auf S. 4 der Chronik, denn dort stand ihr Name.",
]
FRENCH = [
    "Le jardinier ne répondit pas tout de suite, il regarda les poiriers — il y en avait trois — puis la rivière, qui "
    "avait monté d'une main depuis le matin, et enfin la fille du meunier avec son panier de serrures.",
    "« Pourquoi la gardez-vous ? » demanda un jour la fille du meunier. « Parce qu'elle est à moi », répondit-il, et "
    "il se remit à tailler ses poiriers sans la regarder ; c'était l'année où les abeilles avaient quitté la vallée.",
]
SPANISH = [
    "—No sé qué guarda el barquero en ese cajón —respondió Inés, que había bajado al río con la cesta vacía y el pelo "
    "todavía mojado—, pero mi abuela decía que allí estaba la tercera cuerda, y mi abuela —que Dios la tenga en su "
    "gloria— no mentía más que los domingos.",
    "El barquero los oyó desde la orilla —tenía el oído fino de los que trabajan de noche— y sonrió sin volverse. "
    "—Mañana —dijo al fin— os la enseñaré, si todavía hay mañana y si el agua no sube más de un palmo.",
]
RUSSIAN = [
    "- Не знаю, что он хранит в этом сундуке, - ответила Инна, которая спустилась к реке с пустой корзиной и с мокрыми "
    "волосами, - но бабушка говорила, что там лежит третья верёвка, а бабушка - царствие ей небесное - никогда не "
    "врала, кроме как по воскресеньям.",
    "Старый часовщик из Заречья чинил только те часы, которые спешили, а про отстающие говорил, что они ещё могут "
    "одуматься сами, и складывал их в большой сундук под окном, где они тихо тикали всю зиму, каждые по-своему.",
]
HEBREW = [
    "הזקן מן המעבורת החזיק שלושה חבלים, ולכל אחד מהם קרא בשם של נהר שמעולם לא ראה. כאשר היו המים נמוכים משך בראשון, "
    "וכאשר היו גבוהים משך בשני, אבל איש בכפר לא ידע למה נועד השלישי.",
    "ערב אחד בסתיו ירדה אישה בשביל ובידה פנס ושק של בצלים. היא ביקשה לעבור מיד, מפני שאחותה בגדה השנייה נפלה מן הסולם "
    "ולא יכלה להדליק את התנור בעצמה, והזקן הביט במים ולא אמר דבר.",
]
KOREAN = [
    "나루터의 늙은 사공은 밧줄을 세 가닥 가지고 있었고, 그 하나하나에 한 번도 본 적이 없는 "
    "강의 이름을 붙여 주었다. 물이 얕을 때에는 첫째 밧줄을 당기고 물이 깊을 때에는 둘째 밧줄을 "
    "당겼지만, 셋째가 무엇에 쓰이는 것인지 마을에서 아는 사람은 없었다.",
    "어느 가을 저녁 한 여자가 등불을 들고 양파 한 자루를 지고 오솔길을 내려와 곧바로 강을 건너게 "
    "해 달라고 했다. 건너편에 사는 언니가 사다리에서 떨어져 혼자서는 난로에 불을 피울 수 없다는 것이었다.",
]
CHINESE = [
    "老渡船夫有三根绳子，他给每根绳子都起了一个名字，都是他从来没有见过的河流的名字。水浅的时候他拉第一根，水深的时候他拉第二根，"
    "可是村里没有一个人说得出第三根绳子是做什么用的。",
    "有一年秋天的傍晚，一个提着灯笼的女人沿着小路走下来，背上还背着一袋洋葱。她说要马上过河，因为住在对岸的姐姐从梯子上摔了下来，"
    "自己点不着炉子。船夫看了看天，又看了看水，什么也没有说，只是把船推了出去。",
    "船到河心，绳子忽然唱起歌来，声音又细又长，好像湿手指划过玻璃杯。女人放下袋子，捂住了耳朵。船夫只是笑，嘴里轻轻地数着数，"
    "数到四十，他从怀里掏出第三根绳子，还没有一根鞋带长。",
]
JAPANESE = [
    "渡し守の老人は三本の綱を持っていて、それぞれに見たことのない川の名前をつけていた。水の少ない時は一本目を引き、水の多い時は"
    "二本目を引いたが、三本目が何のためにあるのか、村の者は誰も知らなかった。",
    "ある秋の夕暮れ、提灯を下げた女が坂道を下りてきて、すぐに向こう岸へ渡してほしいと頼んだ。妹が梯子から落ちて、ひとりでは竈に"
    "火を入れることができないのだという。老人は空を見て、水を見て、黙って舟を出した。",
]
THAI = [
    "คนพายเรือเฒ่ามีเชือกอยู่สามเส้นและเขาตั้งชื่อเชือกแต่ละเส้นตามแม่น้ำที่เขาไม่เคยเห็นเลยสักครั้งเมื่อน้ำน้อยเขาดึงเส้นแรก"
    "เมื่อน้ำมากเขาดึงเส้นที่สองแต่ไม่มีใครในหมู่บ้านรู้ว่าเส้นที่สามมีไว้ทำอะไร",
]
SPACED = {"English": ENGLISH, "German": GERMAN, "French": FRENCH, "Spanish": SPANISH, "Russian": RUSSIAN}
SPACELESS = {"Chinese": CHINESE, "Japanese": JAPANESE, "Thai": THAI}


def fill(paragraph: str, width: int) -> str:
    return textwrap.fill(paragraph, width, break_on_hyphens=False)


def prose(*paragraphs: str, width: int = 66) -> str:
    return "\n\n".join(fill(p, width) for p in paragraphs)


@pytest.mark.parametrize("width", [50, 60, 66, 72, 78])
@pytest.mark.parametrize("language", SPACED)
def test_prose_is_joined_with_spaces(language, width):
    book = "\n\n".join(SPACED[language] * 2)
    assert unwrap(prose(*SPACED[language] * 2, width=width))[0] == book


def test_korean_is_joined_with_spaces():
    assert unwrap(prose(*KOREAN, width=40))[0] == "\n\n".join(KOREAN)


def cut(paragraph: str, width: int, hanging: bool) -> str:
    """Lines of `width` characters; hanging: punctuation does not begin a line."""
    lines = [""]
    for c in paragraph:
        if len(lines[-1]) >= width and not (hanging and c in "，。、："):
            lines.append("")
        lines[-1] += c
    return "\n".join(lines)


@pytest.mark.parametrize("hanging", [True, False])
@pytest.mark.parametrize("width", [20, 30, 35, 40])
@pytest.mark.parametrize("language", SPACELESS)
def test_scripts_without_spaces_are_joined_without_them(language, width, hanging):
    paragraphs = SPACELESS[language]
    assert unwrap("\n\n".join(cut(p, width, hanging) for p in paragraphs))[0] == "\n\n".join(paragraphs)
    indented = [f"\u3000\u3000{p}" for p in paragraphs]
    assert unwrap("\n".join(cut(p, width, hanging) for p in indented))[0] == "\n".join(indented)


@pytest.mark.parametrize("paragraphs", [*SPACED.values(), *SPACELESS.values(), KOREAN, CHINESE * 40, ENGLISH * 20])
@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_one_paragraph_a_line_is_unchanged(paragraphs, separator):
    text = separator.join(paragraphs)
    assert unwrap(text) == (text, [])


def test_a_chinese_novel_of_short_paragraphs_is_unchanged():
    """Its lines have all lengths, and the "next word" of a script without spaces is the whole next line."""
    text = "\n".join(CHINESE[n % 3][n % 17 : n % 17 + 12 + n * 7 % 61] + "。" for n in range(300))
    assert unwrap(text) == (text, [])


TERCETS = """Along the river in the failing light
I met a man who carried on his back
The door that he had taken from his house.

He set it down before me on the bank
And opened it and bade me to go through
And said that nobody had gone before.

I saw the other side was like the side
On which I stood and yet the water ran
The other way and uphill to the snow.
"""
COUPLETS = """The miller's daughter kept a silver key beneath the stair,
And every night at ten she went to see if it was there.

The miller never knew of it, the miller's wife was blind,
And what the key would open no one ever hoped to find.

One night the stair was empty and the silver key was gone,
And someone at the water's edge was putting slippers on.
"""
LOWER_CASE = """along the river in the failing light i met a man
who carried on his back the door he had taken from his house
and set it down before me on the bank and opened it and waited
until the water on the other side began to run uphill
and all the reeds leaned over as they do before the snow
and nobody had told me that the door was only painted
on the air and that the man was only what was left of him
when everybody living in the valley had forgotten
the name by which his mother used to call him from the orchard
"""
SONG = """i saw the ferry leaving in the morning rain
and nobody was waving from the shore
i heard the rope was humming that old low refrain
and i don't think they want me any more

so take me over water, take me over stone
and leave the lantern burning by the door
i never meant to travel quite so far alone
and i don't think they want me any more
"""
DANTE = """Nel mezzo del cammin di nostra vita
mi ritrovai per una selva oscura,
ché la diritta via era smarrita.

Ahi quanto a dir qual era è cosa dura
esta selva selvaggia e aspra e forte
che nel pensier rinova la paura!
"""
HEXAMETERS = """Singe den Zorn, o Göttin, des Peleiaden Achilleus,
Ihn, der entbrannt den Achaiern unnennbaren Jammer erregte,
Und viel tapfere Seelen der Heldensöhne zum Ais
Sendete, aber sie selbst zum Raub darstellte den Hunden,
Und dem Gevögel umher. So ward Zeus Wille vollendet:
Seit dem Tag, als erst durch bitteren Zank sich entzweiten
Atreus Sohn, der Herrscher des Volks, und der edle Achilleus.
"""
LI_BAI = "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。\n"
GHAZAL = """الا یا ایها الساقی ادر کاسا و ناولها
که عشق آسان نمود اول ولی افتاد مشکل‌ها
به بوی نافه‌ای کآخر صبا زان طره بگشاید
ز تاب جعد مشکینش چه خون افتاد در دل‌ها
مرا در منزل جانان چه امن عیش چون هر دم
جرس فریاد می‌دارد که بربندید محمل‌ها
"""
ILIAD = """Μῆνιν ἄειδε, θεά, Πηληϊάδεω Ἀχιλῆος
οὐλομένην, ἣ μυρί' Ἀχαιοῖς ἄλγε' ἔθηκε,
πολλὰς δ' ἰφθίμους ψυχὰς Ἄϊδι προΐαψεν
ἡρώων, αὐτοὺς δὲ ἑλώρια τεῦχε κύνεσσιν
οἰωνοῖσί τε πᾶσι· Διὸς δ' ἐτελείετο βουλή·
ἐξ οὗ δὴ τὰ πρῶτα διαστήτην ἐρίσαντε
Ἀτρεΐδης τε ἄναξ ἀνδρῶν καὶ δῖος Ἀχιλλεύς.
"""
HEBREW_VERSE = """ואתה תשב על שפת הנהר הזה כל הלילה ותספור את האבנים
ותזכור את השמות של כל האנשים שהלכו מכאן ולא חזרו
ותחכה עד שיעלה האור על הגבעות ועל הבתים הלבנים
ותלך אל הבית ותסגור את הדלת ותבכה ותשכח ותישן
ובבוקר תקום ותצא אל השדה ותעבוד עד הערב הגדול
ולא תאמר לאיש את מה שראית שם בלילה על שפת הנהר
"""
CHINESE_VERSE = "大江东去，浪淘尽，千古风流人物。\n故垒西边，人道是，三国周郎赤壁。\n乱石穿空，惊涛拍岸，卷起千堆雪。\n"
CHINESE_FREE_VERSE = (
    "我在河边的灯光里遇见一个人\n他背着从自己家里拆下来的门\n他把门放在我面前的河岸上打开\n让我从门里走过去然后对我说\n"
)
COUPLETS_OF_SEVEN = "白日依山尽黄河 入海流欲穷千里\n目更上一层楼春 眠不觉晓处处闻\n啼鸟夜来风雨声 花落知多少床前\n" * 3
GERMAN_SIGNATURE = """Mit herzlichen Grüßen und in der Hoffnung auf ein Wiedersehen,
Ihr ergebener Diener
Tobias Anselm
"""
PLAY = """ORLA: Hold the lantern low.
TOBIT: I am holding it, as low as I can hold it without putting it out.
ORLA: You are holding it like a man who is looking for his hat.
TOBIT: I have lost my hat, and that is the whole truth about the matter.
"""
SIGNATURE = """Yours, as always and in spite of everything that you have said of me,
Your brother Tobit,
who is well and hopes the same of you.
"""
ADDRESS = "Tobit Anselm, Ferryman\nThe Third Rope, South Bank\nOrlow under the Hill\n"
SHOPPING = "- the first rope, which is used when the water\n- the second rope\n- onions\n* a lantern, if there is one\n"
NUMBERED = (
    "1. Take the lantern.\n2. Hold it low, because the light frightens the fish and the\n3. fish turn the boat.\n"
)
CSV = "".join(f"{n},the,{n * n},some value that is rather long {n},and one more column {n}\n" for n in range(40))
LOG = "".join(f"2026-11-25 15:{n:02}:00 INFO ferry crossed with {n} onions and a lantern\n" for n in range(40))
VERSES = "".join(f"1:{n} And the ferryman said unto the woman with the onions, Hold it low.\n" for n in range(1, 12))
BASE64 = (
    "\n".join("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4" for _ in range(9)) + "\n"
)
QUOTED = "\n".join(f"> {line}" for line in fill(ENGLISH[0], 60).split("\n")) + "\n"
CONTENTS = "\n".join(f"{title} ".ljust(50, ".") + f" {n:3}" for n, title in enumerate(["The rope", "A list"])) + "\n"
TABLE = "| rope | length | use            |\n|------|--------|----------------|\n| one  | 30 m   | low water      |\n"
CODE = "```python\ndef ferry(rope):\n    return rope.length if rope.name else None\n```\n"
SUBTITLES = "".join(
    f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\nand he named each of them after\n\n" for n in range(1, 20)
)
KEPT = {
    "tercets": TERCETS,
    "couplets": COUPLETS,
    "lower-case verse": LOWER_CASE,
    "song": SONG,
    "Dante": DANTE,
    "hexameters": HEXAMETERS,
    "Li Bai": LI_BAI,
    "ghazal": GHAZAL,
    "Iliad": ILIAD,
    "Hebrew verse": HEBREW_VERSE,
    "Chinese verse": CHINESE_VERSE,
    "Chinese free verse": CHINESE_FREE_VERSE,
    "Chinese couplets": COUPLETS_OF_SEVEN,
    "play": PLAY,
    "signature": SIGNATURE,
    "address": ADDRESS,
    "list": SHOPPING,
    "numbered list": NUMBERED,
    "CSV": CSV,
    "log": LOG,
    "Bible verses": VERSES,
    "base64": BASE64,
    "block quote": QUOTED,
    "table of contents": CONTENTS,
    "table": TABLE,
    "code": CODE,
    "subtitles": SUBTITLES,
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_no_wrapped_prose_is_unchanged(kind):
    assert unwrap(KEPT[kind]) == (KEPT[kind], [])


@pytest.mark.parametrize("kind", ["ghazal", "Iliad", "Hebrew verse", "Chinese verse", "Chinese free verse", "tercets"])
def test_a_book_of_stanzas_of_equal_lines_is_unchanged(kind):
    """Scripts without capitals show verse by little else than their last lines, which are as long as the others."""
    text = "\n".join([KEPT[kind]] * 4)
    assert unwrap(text) == (text, [])


@pytest.mark.parametrize("width", [60, 66, 72])
def test_a_german_signature_stays_although_nouns_begin_with_capitals(width):
    wrapped = "\n\n".join([prose(*GERMAN * 2, width=width), GERMAN_SIGNATURE])
    assert unwrap(wrapped)[0] == "\n\n".join([*GERMAN * 2, GERMAN_SIGNATURE])


def test_prose_without_capitals_whose_last_lines_are_long_is_joined():
    """Sentences that begin within lines tell it from verse: two paragraphs, all their lines nearly full."""
    assert unwrap(prose(*HEBREW, width=60))[0] == "\n\n".join(HEBREW)


@pytest.mark.parametrize("width", [62, 66, 72, 78])
@pytest.mark.parametrize("kind", KEPT)
def test_inside_wrapped_prose_it_is_unchanged_as_well(kind, width):
    kept = KEPT[kind].rstrip("\n")
    wrapped = "\n\n".join([prose(*ENGLISH, width=width), kept, prose(*ENGLISH, width=width)])
    assert unwrap(wrapped)[0] == "\n\n".join([*ENGLISH, kept, *ENGLISH])


@pytest.mark.parametrize("start", ["12. Mai", "z. B.", "p. 12", "c. 1840", "a. the", "— that is", "- that is", "3) of"])
def test_a_line_that_happens_to_begin_like_a_list_item_is_prose(start):
    first = "The green book that had been in the hall since the flood said on the"
    paragraph = (
        f"{first} {start} certain drawings of the ferry had been made by a man who never saw it, and that was all."
    )
    wrapped = f"{first}\n" + fill(paragraph[len(first) + 1 :], 72)
    assert wrapped.split("\n")[1].startswith(start), "the case is not what it should be"
    assert unwrap(f"{wrapped}\n\n{prose(*ENGLISH, width=72)}")[0] == "\n\n".join([paragraph, *ENGLISH])


@pytest.mark.parametrize(
    "first, second, joined",
    [
        ("ferry\u00ad", "man", "ferryman"),
        ("ferry¬", "man", "ferryman"),
        ("ferry\u2010", "man", "ferryman"),
        ("some-", "thing", "something"),  # the book has "something" elsewhere
        ("lantern-", "light", "lantern-light"),
        ("Ein-", "und Ausgänge", "Ein- und Ausgänge"),
        ("Vor-", "oder Nachteile", "Vor- oder Nachteile"),
        ("1914–", "1918", "1914–1918"),
        ("and/", "or", "and/or"),
        ("rope—", "which", "rope—which"),
        ("rope--", "which", "rope--which"),
        ("rope —", "which", "rope — which"),
    ],
)
def test_halves_of_words_and_dashes_at_a_line_end(first, second, joined):
    start, end = (
        "It was on a wet day that the old man spoke of a",
        "and nobody knew what he meant by it, or whose it was.",
    )
    text = f"{start} {first}\n{fill(f'{second} {end}', 54)}\n\n{prose(*ENGLISH, width=56)}\n\nSomething else."
    assert unwrap(text)[0] == "\n\n".join([f"{start} {joined} {end}", *ENGLISH, "Something else."])


def test_a_text_that_uses_the_unicode_hyphen_keeps_it_at_line_ends():
    start, end = "It was on a wet day that the old man spoke of a", "woman, and nobody knew what he meant by it."
    text = f"{start} red\u2010\n{fill(f'haired {end}', 54)}\n\n{prose(*ENGLISH, width=56)}\n\nA blue\u2010eyed one."
    assert f"{start} red\u2010haired {end}" in unwrap(text)[0]


def test_fully_justified_lines_lose_their_runs_of_spaces():
    def justify(line: str, width: int) -> str:
        words = line.split()
        gaps = [" "] * (len(words) - 1)
        for n in range(width - len(line)):
            gaps[n % len(gaps)] += " "
        return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))

    stretched = []
    for paragraph in ENGLISH:
        *lines, last = fill(paragraph, 60).split("\n")
        stretched.append("\n".join([*(justify(line, 60) for line in lines), last]))
    assert sum("  " in line for p in stretched for line in p.split("\n")) > 5
    assert unwrap("\n\n".join(stretched))[0] == "\n\n".join(ENGLISH)


def test_an_indent_of_all_lines_is_removed_with_the_line_ends():
    text = textwrap.indent(prose(*ENGLISH) + "\n\nTHE END\n", "    ")
    assert unwrap(text)[0] == "\n\n".join([*ENGLISH, "THE END\n"])
    assert unwrap(textwrap.indent(TERCETS, "    ")) == (textwrap.indent(TERCETS, "    "), [])


def test_a_paragraph_that_begins_with_a_tab_or_spaces_keeps_them():
    for indent in ("\t", "    "):
        text = "\n".join(textwrap.fill(indent + p, 72, expand_tabs=False, replace_whitespace=False) for p in ENGLISH)
        assert unwrap(text)[0] == "\n".join(indent + p for p in ENGLISH)


def test_two_examples_show_what_was_joined():
    unwrapped = join_wrapped(prose(*ENGLISH))
    assert unwrapped.joined == prose(*ENGLISH).count("\n") - 6 and len(unwrapped.examples) == 2
    for before, after in unwrapped.examples:
        assert before.replace("⏎", " ") == after and after in unwrapped.text
    assert join_wrapped("A line.\nAnother.") == type(unwrapped)("A line.\nAnother.")


@pytest.mark.parametrize("text", [*KEPT.values(), *(prose(*p) for p in SPACED.values()), cut(CHINESE[0], 30, True)])
def test_a_second_time_changes_nothing(text):
    once = unwrap(text)[0]
    assert unwrap(once)[0] == once


@pytest.mark.parametrize(
    "text",
    [
        fill("The ferryman kept three ropes and named them, " * 7_000, 72),  # one paragraph of 320 KB
        "word" + " " * 16_000 + "word\n" + prose(*ENGLISH),
        "a" * 2_000_000,
        "The ferryman. " * 100_000,
        "…" * 50_000 + "x\n" + "(" * 50_000,
        "-\n" * 60_000,
        "1. a\n" * 40_000,
        "- and\n" * 30_000,
        "\n" * 300_000,
        "\n".join(" " * n for n in range(2_000)),
    ],
    ids=range(10),
)
def test_large_and_absurd_texts_take_seconds(text):
    began = time.process_time()
    unwrap(text)
    assert time.process_time() - began < 8
