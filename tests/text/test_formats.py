"""Every format is recognised by its content, and gives the right text, title, author and chapters."""

import bz2
import gzip
import lzma
import re
import textwrap
import zipfile

import pytest
from books import PARAGRAPHS, VERSE, W, docx, epub, escaped, page, pdf, word_paragraph, zipped

from llm.configurator import UserError
from llm.data.book.prepare import cleaned
from llm.text import packed
from llm.text.formats import read_book, read_text, source_of

BOOK = "\n\n".join(PARAGRAPHS) + "\n"
BODY = "".join(f"<p>{escaped(p)}</p>" for p in PARAGRAPHS)


def read(data, **options):
    return read_book(data.encode() if isinstance(data, str) else data, name="mine.xyz", **options)


def titles(book) -> list[tuple[str, str]]:
    """(title of a chapter, the line of the text where it begins)."""
    return [(chapter.title, book.text[chapter.start :].partition("\n")[0]) for chapter in book.chapters]


# --- plain text and Markdown ---


def test_plain_text_is_unchanged():
    book = read(BOOK)
    assert (book.text, book.title, book.chapters, book.notes, book.plain) == (BOOK, "", [], [], True)


def test_markdown_stays_as_it_is_and_its_headings_are_its_title_and_chapters():
    text = f"# The *Ferry*\n\n## One\n\n{BOOK}\n```\n# no heading\n```\n\nTwo\n---\n\n{BOOK}"
    book = read(text)
    assert book.text == text and book.title == "The Ferry"
    assert titles(book) == [("One", "## One"), ("Two", "Two")]


def test_front_matter_of_markdown_is_no_prose():
    book = read(f"---\ntitle: 'The Ferry'\nauthor: A. Nobody\n---\n\n{BOOK}")
    assert (book.text, book.title, book.author) == (BOOK, "The Ferry", "A. Nobody")


@pytest.mark.parametrize(
    "front",
    [
        "---\ntitle: The Ferry\nauthor:\n  - A. Nobody\n  - name: B. Else\nkeywords: [a, b]\n---\n\n",
        "---\nauthors: [A. Nobody, 'B. Else']\ntitle: \"The Ferry\"\n...\n\n",
        '+++\ntitle = "The Ferry"\nauthors = ["A. Nobody", "B. Else"]\n+++\n\n',
        "% The Ferry\n% A. Nobody; B. Else\n% 3 March 1871\n\n",
    ],
)
def test_front_matter_comes_in_several_forms(front):
    book = read(front + BOOK)
    assert (book.text, book.title, book.author) == (BOOK, "The Ferry", "A. Nobody, B. Else")


def test_two_spaces_at_a_line_end_of_markdown_keep_it():
    """In other texts they are left over from an editor."""
    lines = textwrap.wrap(" ".join(PARAGRAPHS), 66)
    broken = [*lines[:2], f"{lines[2]}  ", *lines[3:]]
    wrapped = "\n\n".join(["# One", *["\n".join(lines)] * 3, "# Two", "\n".join(broken)]) + "\n"
    whole, halves = " ".join(lines), f"{' '.join(lines[:3])}  \n{' '.join(lines[3:])}"
    assert cleaned(read(wrapped), unwrap=True).text == "\n\n".join(["# One", *[whole] * 3, "# Two", halves]) + "\n"
    plain = wrapped.replace("# ", "")
    assert cleaned(read(plain), unwrap=True).text == "\n\n".join(["One", *[whole] * 3, "Two", whole]) + "\n"


@pytest.mark.parametrize("text", [f"{BOOK}#hashtag\n", f"---\n{BOOK}---\n", f"{BOOK}\n#1 of three\n# 2\n"])
def test_a_number_sign_alone_makes_no_markdown(text):
    assert (read(text).text, read(text).chapters) == (text, [])


# --- HTML ---


def test_html_gives_paragraphs_and_no_furniture():
    furniture = "<nav><a href='/'>Home</a></nav><header>Site</header><script>if (a < b) x()</script><style>p{}</style>"
    book = read(f"<!DOCTYPE html><html><head><title>The Ferry</title></head><body>{furniture}{BODY}<footer>©</footer>")
    assert (book.text, book.title) == (BOOK, "The Ferry")


@pytest.mark.parametrize(
    "markup, text",
    [
        ("<p>one<p>two <b>bo</b>ld\n text", "one\n\ntwo bold text\n"),
        (f"<p>{'<br>'.join(VERSE)}</p>", "\n".join(VERSE) + "\n"),
        ("<p>one<br><br>two</p>", "one\n\ntwo\n"),
        ("<pre>\n a  b\n  c\n</pre><p>d</p>", " a  b\n  c\n\nd\n"),
        ("<ul><li>a<li>b</ul><ol start=3><li><p>c</p></li><li>d</ol>", "- a\n- b\n\n3. c\n4. d\n"),
        ("<ol type=a><li>a<li>b</ol><ol type=I start=9><li>c<li type=i>d</ol>", "a. a\nb. b\n\nIX. c\nx. d\n"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c<td>d</table>", "a\tb\nc\td\n"),
        ("<p>a</p><hr><p>b</p><hr><h2>c</h2><p>d</p><hr>", "a\n\n* * *\n\nb\n\nc\n\nd\n"),
        ("<p><ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</rt></ruby>です</p>", "漢字です\n"),
        ("<p>a&nbsp;b &amp; c&shy;d &#8212; e</p>", "a\xa0b & cd — e\n"),
        ("<p>He said <q>no</q>.</p>", "He said “no”.\n"),
        ("<p><img alt='T'>he ferry <img alt='a boat'>left</p>", "The ferry left\n"),
        ("<p>a</p><p hidden>b</p><p style='display: none'>c</p><span class='pagenum'>12</span><p>d", "a\n\nd\n"),
        ("<p>a<p>b</div></p></b><div>c</div>d", "a\n\nb\n\nc\n\nd\n"),
        ("<div>Lines\nof one</div><main><p>kept</p></main>", "kept\n"),
        ("<p>one line\n\nof many</p>" + "<p>x</p>" * 3, "one line of many\n\nx\n\nx\n\nx\n"),
    ],
)
def test_html_keeps_what_a_reader_sees(markup, text):
    assert read(f"<html><body>{markup}").text == text


def test_a_page_whose_paragraphs_are_empty_lines_keeps_them():
    assert read(f"<html><body><p>{escaped(BOOK)}</p></body></html>").text == BOOK


def test_headings_of_html_are_chapters():
    book = read(f"<html><title>T</title><h1>The Ferry</h1><h2>One</h2>{BODY}<h2>Two <i>or</i> so</h2>{BODY}")
    assert [title for title, _ in titles(book)] == ["The Ferry", "One", "Two or so"]
    assert all(title == line for title, line in titles(book))


@pytest.mark.parametrize("encoding, declared", [("cp1252", "iso-8859-1"), ("koi8_r", "koi8-r"), ("utf-8", "latin-1")])
def test_html_is_decoded_as_it_declares_but_utf8_stays_utf8(encoding, declared):
    text = "Père – Noël" if encoding != "koi8_r" else "Дед Мороз"
    assert read(f"<html><meta charset='{declared}'><p>{text}</p>".encode(encoding)).text == f"{text}\n"


@pytest.mark.parametrize(
    "declared, encoding, text",
    [
        ("gb2312", "gbk", "钟楼的钥匙不见了，朱镕知道它在哪里。"),
        ("x-sjis", "cp932", "①番の鐘は鳴らなかった。髙い塔だ。"),
        ("ks_c_5601-1987", "cp949", "종은 울리지 않았다. 똠방각하."),
        ("ISO-8859-9", "cp1254", "“Çan” çalmadı…"),
    ],
)
def test_a_declared_encoding_is_the_one_that_browsers_read(declared, encoding, text):
    """Pages name an older encoding than the one that they are in."""
    assert read(f"<html><meta charset='{declared}'><p>{text}</p>".encode(encoding)).text == f"{text}\n"


@pytest.mark.slow
def test_deep_nesting_and_a_large_page_take_linear_time():
    assert read("<html>" + "<i>" * 100_000 + "<p>x").text == "x\n"
    assert read("<html>" + "<div>" * 20_000 + "x").text == "x\n"
    assert len(read("<html>" + "<p>word" * 50_000).text) == 6 * 50_000 - 1


# --- EPUB ---

ONE, TWO = (page(f"<h1>{title}</h1>{BODY}") for title in ("One", "Two"))


def test_epub_is_read_in_the_order_of_its_spine():
    book = read(epub({"b.xhtml": TWO, "a.xhtml": ONE}, spine=["a.xhtml", "b.xhtml"]))
    assert book.text == f"One\n\n{BOOK}\nTwo\n\n{BOOK}"
    assert (book.title, book.author) == ("The Ferry", "A. Nobody")
    assert titles(book) == [("One", "One"), ("Two", "Two")]


def test_navigation_cover_and_contents_of_an_epub_are_no_prose():
    links = "".join(
        f'<li><a href="{name}">{title}</a></li>' for name, title in [("a.xhtml", "One"), ("b.xhtml", "Two")]
    )
    pages = {
        "cover.xhtml": page("<img src='cover.jpg'/><p>The Ferry</p>"),
        "contents.xhtml": page("<h1>Contents</h1><p><a href='a.xhtml'>1. One, in which a ferry leaves</a></p>"),
        "nav.xhtml": page(f'<nav epub:type="toc"><ol>{links}</ol></nav>'),
        "a.xhtml": ONE,
        "b.xhtml": TWO,
    }
    nav = '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
    book = read(epub(pages, opf=nav))
    assert book.text == f"One\n\n{BOOK}\nTwo\n\n{BOOK}"


def test_chapters_are_those_of_epub_2s_ncx_and_its_anchors():
    """As Calibre writes it: several chapters on a page, without headings, named in toc.ncx alone."""
    body = f'<p id="x1" class="calibre1">I</p>{BODY}<p id="x2">The Rope</p>{BODY}'
    points = "".join(
        f'<navPoint><navLabel><text>{title}</text></navLabel><content src="a.xhtml#{anchor}"/></navPoint>'
        for title, anchor in [("Chapter I", "x1"), ("II. The Rope", "x2")]
    )
    doctype = '<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "x.dtd">'
    ncx = f'<?xml version="1.0"?>{doctype}<ncx><navMap>{points}</navMap></ncx>'
    item = '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    book = read(epub({"a.xhtml": page(body)}, opf=item, extra={"OEBPS/toc.ncx": ncx}))
    assert titles(book) == [("Chapter I", "I"), ("II. The Rope", "The Rope")]


NOTED = '<h1>One</h1><p>Text<a epub:type="noteref" href="{}#n1">1</a> more.</p><p>End.</p>'
NOTE = '<aside epub:type="footnote" id="n1"><p><a href="a.xhtml" role="doc-backlink">↩</a>A note.</p></aside>'
WITH_NOTE = "One\n\nText[1] more.\n\nEnd.\n\n[1] A note.\n\nTwo\n\n" + BOOK


@pytest.mark.parametrize("where", ["", "notes.xhtml"])
def test_footnotes_stand_at_the_end_of_the_chapter_that_names_them(where):
    pages = {"a.xhtml": page(NOTED.format(where) + ("" if where else NOTE)), "b.xhtml": TWO}
    pages |= {"notes.xhtml": page(f"<h1>Notes</h1>{NOTE}")} if where else {}
    assert read(epub(pages)).text == WITH_NOTE


def test_footnotes_may_have_signs_as_marks():
    one = '<p>a<a epub:type="noteref" href="#n">*</a> b<a epub:type="noteref" href="#n">*</a></p>'
    pages = {"a.xhtml": page(f'{one}<aside epub:type="footnote" id="n"><p>A note.</p></aside>')}
    assert read(epub(pages)).text == "a[*] b[*]\n\n[*] A note.\n"


@pytest.mark.parametrize("version", [2, 3])
def test_translators_and_illustrators_are_no_authors(version):
    names = [("B. Trans", "trl"), ("C. Draw", "ill"), ("D. Else", "aut")]
    creators = "".join(
        f'<dc:creator opf:role="{role}">{name}</dc:creator>'
        if version == 2
        else f'<dc:creator id="{role}">{name}</dc:creator><meta refines="#{role}" property="role">{role}</meta>'
        for name, role in names
    )
    data = epub({"a.xhtml": ONE}, opf=f'<x xmlns:dc="d" xmlns:opf="o">{creators}</x>')
    assert read(data).author == "A. Nobody, D. Else"


def test_footnotes_can_be_dropped():
    book = read(epub({"a.xhtml": page(NOTED.format("") + NOTE), "b.xhtml": TWO}), footnotes=False)
    assert book.text == f"One\n\nText more.\n\nEnd.\n\nTwo\n\n{BOOK}"


def test_one_damaged_chapter_is_named_and_does_not_lose_the_book():
    data = bytearray(epub({"a.xhtml": ONE, "b.xhtml": TWO}))
    at = data.rindex(b"<h1>Two")  # stored without compression, so this changes the chapter and not its checksum
    data[at : at + 4] = b"<xx>"
    book = read(bytes(data))
    assert book.text == f"One\n\n{BOOK}"
    assert book.notes == ["WARNING: the chapter OEBPS/b.xhtml is left out: its data are damaged"]


def test_a_chapter_that_is_no_well_formed_xml_is_read():
    assert read(epub({"a.xhtml": "<html><body><p>one<p>two &nbsp; <b>three</body>"})).text == "one\n\ntwo \xa0 three\n"


@pytest.mark.parametrize(
    "algorithm, refused", [("http://www.idpf.org/2008/embedding", False), ("urn:aes128-cbc", True)]
)
def test_an_encrypted_epub_is_refused_but_encrypted_fonts_do_not_matter(algorithm, refused):
    encryption = f'<encryption><EncryptedData><EncryptionMethod Algorithm="{algorithm}"/></EncryptedData></encryption>'
    data = epub({"a.xhtml": ONE}, extra={"META-INF/encryption.xml": encryption})
    if not refused:
        assert read(data).text == f"One\n\n{BOOK}"
        return
    with pytest.raises(UserError, match=r"is encrypted \(DRM\)"):
        read(data)


def test_xml_that_declares_entities_is_refused():
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    data = zipped({"META-INF/container.xml": bomb + "<container>&b;</container>", "mimetype": "application/epub+zip"})
    with pytest.raises(UserError, match="declares entities"):
        read(data)


# --- DOCX, ODT, FB2 ---

STYLES = (
    '<w:style w:styleId="H1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="Mine"><w:name w:val="My heading"/><w:basedOn w:val="H1"/></w:style>'
    '<w:style w:styleId="T"><w:name w:val="Title"/></w:style>'
    '<w:style w:styleId="TOC1"><w:name w:val="toc 1"/></w:style>'
)


def test_docx_gives_paragraphs_headings_and_title():
    body = word_paragraph("The Ferry", "T") + word_paragraph("One 3", "TOC1") + word_paragraph("One", "H1")
    body += "".join(map(word_paragraph, PARAGRAPHS)) + "<w:p/>" + word_paragraph("Two", "Mine")
    book = read(docx(body, styles=STYLES))
    assert book.text == f"The Ferry\n\nOne\n\n{BOOK}\nTwo\n"
    assert book.title == "The Ferry" and titles(book) == [("One", "One"), ("Two", "Two")]


def test_docx_keeps_line_breaks_and_tabs_and_leaves_out_what_is_not_shown():
    runs = "<w:r><w:t>one</w:t><w:br/><w:t>two</w:t><w:tab/><w:t>three</w:t></w:r>"
    runs += "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins><w:r><w:t> new</w:t></w:r></w:ins>"
    runs += "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:instrText>PAGE</w:instrText></w:r>"
    assert read(docx(f"<w:p>{runs}</w:p>")).text == "one\ntwo\tthree new\n"


def test_docx_joins_paragraphs_whose_end_was_deleted_and_leaves_out_ruby():
    deleted = "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>The ferry </w:t></w:r></w:p>"
    above, base = (
        f"<w:{name}><w:r><w:t>{text}</w:t></w:r></w:{name}>" for name, text in [("rt", "とう"), ("rubyBase", "東")]
    )
    ruby = f"<w:r><w:ruby>{above}{base}</w:ruby></w:r>"
    book = read(docx(f"{deleted}{word_paragraph('left.')}<w:p>{ruby}<w:r><w:t>へ</w:t></w:r></w:p>{deleted}"))
    assert book.text == "The ferry left.\n\n東へ\n\nThe ferry\n"


def test_docx_numbers_lists_and_puts_footnotes_at_the_end_of_their_chapter():
    def item(text: str, number: int) -> str:
        properties = f'<w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="{number}"/></w:numPr></w:pPr>'
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"

    level = (
        '<w:abstractNum w:abstractNumId="{0}"><w:lvl w:ilvl="0"><w:numFmt w:val="{1}"/><w:lvlText w:val="{2}"/></w:lvl>'
        "</w:abstractNum>"
    )
    numbering = (
        level.format(0, "decimal", "%1.") + level.format(1, "bullet", "•") + level.format(2, "lowerRoman", "(%1)")
    )
    numbering += "".join(f'<w:num w:numId="{n + 1}"><w:abstractNumId w:val="{n}"/></w:num>' for n in range(3))
    note = f'<w:footnotes {W}><w:footnote w:id="2">{word_paragraph(" A note.")}</w:footnote></w:footnotes>'
    mark = '<w:p><w:r><w:t>Text</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r><w:r><w:t>.</w:t></w:r></w:p>'
    body = item("a", 1) + item("b", 1) + item("c", 2) + item("d", 3) + item("e", 3) + mark + word_paragraph("Two", "H1")
    extra = {"word/numbering.xml": f"<w:numbering {W}>{numbering}</w:numbering>", "word/footnotes.xml": note}
    data = docx(body, styles=STYLES, extra=extra)
    assert read(data).text == "1. a\n2. b\n\n- c\n\n(i) d\n(ii) e\n\nText[1].\n\n[1] A note.\n\nTwo\n"
    assert "note" not in read(data, footnotes=False).text


def test_odt_gives_paragraphs_headings_spaces_and_notes():
    names = ("office", "text")
    spaces = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in names)
    note = (
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>A note.</text:p></text:note-body>"
        "</text:note>"
    )
    body = '<text:h text:outline-level="1">One</text:h>'
    body += "<text:table-of-content><text:p>One 1</text:p></text:table-of-content>"
    body += "".join(f"<text:p>{escaped(p)}</text:p>" for p in PARAGRAPHS)
    body += f'<text:p>a<text:s text:c="2"/>b<text:tab/>c<text:line-break/>d{note}\n e</text:p>'
    content = f"<office:document-content {spaces}><office:text>{body}</office:text></office:document-content>"
    meta = '<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Ferry</dc:title></m>'
    mimetype = "application/vnd.oasis.opendocument.text"
    book = read(zipped({"mimetype": mimetype, "content.xml": content, "meta.xml": meta}))
    assert book.text == f"One\n\n{BOOK}\na  b\tc\nd[1] e\n\n[1] A note.\n"
    assert book.title == "The Ferry" and titles(book) == [("One", "One")]


def test_odt_leaves_out_what_was_deleted_and_indexes_and_puts_boxes_after_their_paragraph():
    names = ("office", "text", "draw")
    spaces = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in names)
    changes = "<text:tracked-changes><text:deletion><text:p>gone</text:p></text:deletion></text:tracked-changes>"
    box = "<draw:frame><draw:text-box><text:p>In a box.</text:p></draw:text-box></draw:frame>"
    index = "<text:alphabetical-index><text:p>ferry 1, 2</text:p></text:alphabetical-index>"
    inner = "<text:list><text:list-item><text:p>b</text:p></text:list-item></text:list>"
    items = (
        f"<text:list-item><text:p>a</text:p>{inner}</text:list-item><text:list-item><text:p>c</text:p></text:list-item>"
    )
    body = f"{changes}<text:p>Before{box}.</text:p><text:list>{items}</text:list><text:p>After.</text:p>{index}"
    content = f"<office:document-content {spaces}><office:text>{body}</office:text></office:document-content>"
    book = read(zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content}))
    assert book.text == "Before.\n\nIn a box.\n\n- a\n- b\n- c\n\nAfter.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1251"])
def test_fb2_gives_sections_poems_and_notes(encoding):
    note = "<body name='notes'><section id='n1'><title><p>1</p></title><p>A note.</p></section></body>"
    verses = "".join(f"<v>{v}</v>" for v in VERSE)
    text = (
        f"<?xml version='1.0' encoding='{encoding}'?><FictionBook xmlns='http://www.gribuser.ru/xml/fictionbook/2.0' "
        "xmlns:l='http://www.w3.org/1999/xlink'><description><title-info><author><first-name>Анна</first-name><last-name>"
        "Никто</last-name></author><book-title>Паром</book-title></title-info></description><body><section><title><p>Глава"
        " 1</p></title><p>Паром отошёл<a l:href='#n1' type='note'>[1]</a> в шесть.</p><poem><stanza>"
        f"{verses}</stanza></poem></section><section><title><p>Глава 2</p></title><p>Конец.</p></section></body>{note}"
        "<binary id='c'>aGVsbG8=</binary></FictionBook>"
    )
    book = read(text.encode(encoding))
    assert book.text == (
        f"Глава 1\n\nПаром отошёл[1] в шесть.\n\n{VERSE[0]}\n{VERSE[1]}\n\n[1] A note.\n\nГлава 2\n\nКонец.\n"
    )
    assert (book.title, book.author) == ("Паром", "Анна Никто")
    assert [title for title, _ in titles(book)] == ["Глава 1", "Глава 2"]


def test_fb2_that_is_no_well_formed_xml_is_read_with_a_warning():
    text = "<FictionBook><description>x</description><body><section><title><p>One</p></title><p>Text & more.</section>"
    book = read(text)
    assert (book.text, titles(book)) == ("One\n\nText & more.\n", [("One", "One")])
    assert book.notes == ["WARNING: it is not well-formed XML, and read as well as it can be"]


# --- PDF ---


def pdf_pages() -> list[list[tuple[float, float, float, str]]]:
    """Four pages of a printed book: indented paragraphs, running heads, page numbers, divided words."""
    pages = []
    for number, name in enumerate(("Ada", "Berta", "Clara", "Dora")):
        head = (150, 570, 9, f"THE FERRY   {number + 11}" if number % 2 else f"{number + 11}   A. NOBODY")
        lines = [head]
        if number == 0:
            lines.append((60, 540, 18, "Chapter One"))
        lines += [
            (72, 500, 11, f"Here {name} begins a paragraph of this short book, which goes on to the end of its"),
            (60, 486, 11, "second line, where a long word is divi-"),
            (60, 472, 11, "ded by a hyphen, which is not a part of it at all; the word is not divided else-"),
            (60, 458, 11, "where, and the last of its lines is a short one."),
            (
                72,
                444,
                11,
                f"A second paragraph, {name}'s, follows it without a gap, and is interrupted by the end of the",
            ),
        ]
        if number < 3:
            lines.append(
                (
                    60,
                    430,
                    11,
                    f"page in the very middle of a long sentence of {name}'s that the next page does not end,",
                )
            )
        pages.append(lines)
    return pages


def test_pdf_gives_paragraphs_without_running_heads_page_numbers_and_hyphens():
    pages = pdf_pages()
    pages[1][0] = (60, 570, 9, "THE FERRY   12")
    book = read(pdf(pages, title="The Ferry"))
    assert "FERRY" not in book.text and "NOBODY" not in book.text and not re.search(r"\b1[1-4]\b", book.text)
    first = (
        "Here Berta begins a paragraph of this short book, which goes on to the end of its second line, where a long "
        "word is divided by a hyphen, which is not a part of it at all; the word is not divided elsewhere, and the "
        "last of its lines is a short one."
    )
    assert first in book.text.split("\n\n")
    assert book.title == "The Ferry" and titles(book) == [("Chapter One", "Chapter One")]


def set_lines(paragraphs: list[list[str]], *, left: float = 60, size: float = 11) -> list[tuple]:
    """The lines of paragraphs on one page, the first of each indented; as `pdf` takes them."""
    lines = [(left + 12 * (n == 0), line) for paragraph in paragraphs for n, line in enumerate(paragraph)]
    return [(x, 560 - 14 * n, size, line) for n, (x, line) in enumerate(lines)]


SET = [
    [
        "The clock in Aldermoor had stopped at a quarter to four",
        "on the night of the great flood, and since then the town",
        "had lived by the oven.",
    ],
    [
        "Nobody had the key to the tower, and the schoolmaster said",
        "that there had never been a lock at all, only a door that",
        "nobody had tried to open.",
    ],
]
SPOKEN = [["“Who is there?” asked the bell."], ["“It is I,” said Ann."], ["“And what do you want?”"]]


def test_paragraphs_of_one_line_in_a_pdf_are_paragraphs():
    """Dialogue: lines that end early and begin at one indent looked like verse."""
    spoken = [[line.replace("“", '"').replace("”", '"') for line in paragraph] for paragraph in SPOKEN]
    book = read(pdf([set_lines([SET[0], *spoken, SET[1], *spoken])]))
    whole = [" ".join(paragraph) for paragraph in (SET[0], *spoken, SET[1], *spoken)]
    assert book.text == "\n\n".join(whole) + "\n"


def test_columns_of_a_pdf_are_read_one_after_the_other():
    """The right column's edge was an indent of its lines, so all lines of the left one seemed to end early."""
    narrow = [textwrap.wrap(" ".join(paragraph), 30) for paragraph in SET * 2]
    right = [textwrap.wrap(" ".join(paragraph), 30) for paragraph in SET[::-1] * 2]
    book = read(pdf([set_lines(narrow, left=30, size=9) + set_lines(right, left=220, size=9)]))
    assert book.text == "\n\n".join(" ".join(paragraph) for paragraph in [*SET * 2, *SET[::-1] * 2]) + "\n"


@pytest.mark.parametrize(
    "end, begin, whole",
    [
        ("in the schoolmas-", "ter's house of the", "schoolmaster’s"),  # printed as Type 1's quoteright
        ("and the penny-", "whistle of the old", "pennywhistle"),
        ("with a well-", "known man of the old", "well-known"),
        ("the mother-in-", "law of the old man", "mother-in-law"),
        ("a man from Saint-", "Denis was the first", "Saint-Denis"),
    ],
)
def test_a_hyphen_at_a_line_end_of_a_pdf_goes_unless_both_halves_are_words(end, begin, whole):
    """It stayed in each word that the book does not have elsewhere."""
    first = [
        "The man was well, and the old man was",
        f"known to all people of the town {end}",
        f"{begin} of the town, and so on.",
    ]
    assert whole in read(pdf([set_lines([first, *SET])])).text


def test_lines_of_verse_in_a_pdf_keep_their_ends():
    prose = [
        (60, 500 - 14 * n, 11, "This line of prose is as long as any other line on this page of a book, so")
        for n in range(6)
    ]
    verse = [(60, 390 - 14 * n, 11, line) for n, line in enumerate(VERSE)]
    assert f"\n\n{VERSE[0]}\n{VERSE[1]}\n" in read(pdf([prose + verse])).text


def test_a_scan_names_ocrmypdf():
    with pytest.raises(UserError, match=r"mine.xyz is a scan: its 3 pages are pictures .*ocrmypdf mine.xyz"):
        read(pdf([[], [], [(10, 10, 8, "x")]]))


def test_an_encrypted_or_damaged_pdf_is_one_line():
    with pytest.raises(UserError, match="is encrypted; type: qpdf --decrypt"):
        read(pdf(pdf_pages(), encrypt=True))
    with pytest.raises(UserError, match="is a damaged PDF"):
        read(b"\n%PDF-1.4\n1 0 obj\n<< /Length 5 >>\nstream\nabc\nendstream\n")


def test_pdf_without_the_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    with pytest.raises(UserError, match=r"needs the extra books"):
        read(pdf(pdf_pages()))


# --- packed files ---


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped({"a/mine.txt": data})]
)
def test_packed_books_are_unpacked(pack):
    assert read(pack(BOOK.encode())).text == BOOK
    assert read(pack(epub({"a.xhtml": ONE}))).text == f"One\n\n{BOOK}"
    assert read(pack(pack(BOOK.encode()))).text == BOOK


def test_a_zip_of_chapters_is_one_book_in_natural_order():
    data = zipped(
        {"c10.txt": "ten", "c2.txt": "two", "__MACOSX/c2.txt": "no", ".DS_Store": b"\0", "cover.jpg": b"\xff\xd8"}
    )
    assert read(data).text == "two\n\nten\n"


def test_a_damaged_or_empty_archive_is_one_line():
    with pytest.raises(UserError, match="cannot be unpacked completely"):
        read(gzip.compress(BOOK.encode())[:-20])
    with pytest.raises(UserError, match="damaged zip file"):
        read(b"PK\x03\x04abc")
    with pytest.raises(UserError, match="without a text in it"):
        read(zipped({}))


def test_an_archive_with_a_password_says_what_to_type():
    data = bytearray(zipped({"a.txt": BOOK}))
    data[6] |= 1  # in both headers of its member, the flag that says so
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UserError, match="is encrypted with a password; type: 7z x -oreadable mine.xyz"):
        read(bytes(data))


def test_what_unpacks_to_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(packed, "MAX_UNPACKED", 50_000)
    bomb = zipped({f"{n}.txt": "a" * 20_000 for n in range(4)})
    for data in (gzip.compress(b"a" * 60_000), bz2.compress(b"a" * 60_000), bomb):
        with pytest.raises(UserError, match="unpacks to more than"):
            read(data)
    nested = BOOK.encode()
    for _ in range(5):
        nested = gzip.compress(nested)
    with pytest.raises(UserError, match="packed too often"):
        read(nested)


# --- what is not read ---


@pytest.mark.parametrize(
    "data, words",
    [
        (b"{\\rtf1\\ansi hello}", "is an RTF document.*soffice --headless --convert-to docx mine.xyz"),
        (b"x" * 60 + b"BOOKMOBI" + bytes(90), "MOBI or Kindle.*ebook-convert mine.xyz book.epub"),
        (b"BOOKMOBI" + bytes(90), "MOBI or Kindle"),
        (b"AT&TFORM\0\0\0\0DJVU", "DjVu.*djvutxt mine.xyz"),
        (b"%!PS-Adobe-3.0\n", "PostScript.*ps2pdf mine.xyz"),
        (b'<?xml version="1.0"?>\n<TEI><text><p>One</p></text></TEI>', "is XML, but no HTML or FB2.*pandoc -s -o"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><text>One</text></svg>', "is XML, but no HTML or FB2"),
        (b"From: me\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related;\r\n\tboundary=x\r\n\r\n<p>", "MHTML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture.*ocrmypdf"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "is a picture"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "is a picture"),
        (b"ID3\x03\0" + bytes(99), "is a recording"),
        (b"TPZ0" + bytes(99), "Kindle.*ebook-convert"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Word document.*soffice"),
        (b"Rar!\x1a\x07\0" + bytes(99), "RAR archive.*unar mine.xyz"),
        (b"a.txt" + bytes(252) + b"ustar\0" + bytes(99), "tar archive.*tar xf mine.xyz"),
        (b"", "is empty"),
        (b"<html><body> <p>&nbsp;</p></body></html>", "is empty"),
    ],
)
def test_what_cannot_be_read_says_what_to_type(data, words):
    with pytest.raises(UserError, match=words) as error:
        read(data)
    assert "\n" not in str(error.value)


def test_read_text_reads_plain_text_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffélan\r\n".encode("utf-16-le"))
    assert read_text(path) == ("élan\n", ["CRLF line ends converted"])
    path.write_bytes(epub({"a.xhtml": ONE}))
    with pytest.raises(UserError, match="expected a plain text file"):
        read_text(path)
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read \(No such file"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)


def test_says_that_permission_is_missing(tmp_path, monkeypatch):
    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)  # root, who runs tests in containers, may read anything
    with pytest.raises(UserError, match="Permission denied"):
        read_text(tmp_path / "secret.txt")


def test_the_source_names_the_file_and_hashes_its_raw_bytes_and_hides_secrets():
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert source_of("x/a.txt", b"abc") == {"file": "a.txt", "sha256": sha256}
    url = "https://ada:pass@example.org/b/a.txt?token=secret#top"
    assert source_of("a.txt", b"abc", url)["url"] == "https://example.org/b/a.txt"


def test_zip_members_with_unsafe_names_are_only_read(tmp_path, monkeypatch):
    """Nothing is ever extracted to disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    assert read(zipped({"../../evil.txt": BOOK})).text == BOOK
    assert not list(tmp_path.iterdir())
