"""EPUBs as Calibre, Sigil (from Word's HTML) and Pandoc write them: the learned text is that of the source."""

import re
import shutil
import subprocess
import textwrap

import pytest
from books import VERSE, escaped, zipped
from conftest import STORY

from llm.text.formats import read_book

CHAPTERS = [  # (heading, paragraphs)
    (heading, body.strip().split("\n\n"))
    for heading, body in re.findall(r"^(Chapter \d\. .*)\n((?:(?!^Chapter \d).*\n)+)", STORY, re.M)
][:3]
NOTE = "A drop of nine hundred feet, as measured & written down by the parish."
SOURCE = "\n\n".join("\n\n".join([heading, *paragraphs]) for heading, paragraphs in CHAPTERS)
SOURCE = f"{SOURCE}\n\n* * *\n\n{chr(10).join(VERSE)}\n"
DOCTYPE = '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">'
XML = "<?xml version='1.0' encoding='utf-8'?>"


def opf(title: str, items: dict[str, tuple[str, str]], spine: list[str], *, version="2.0", more="") -> str:
    """A package; items: id -> (href, media type)."""
    manifest = "".join(f'<item id="{i}" href="{href}" media-type="{kind}"/>' for i, (href, kind) in items.items())
    order = "".join(f'<itemref idref="{i}"/>' for i in spine)
    return (
        f'{XML}<package xmlns="http://www.idpf.org/2007/opf" version="{version}" unique-identifier="uuid_id"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opf="http://www.idpf.org/2007/opf">'
        f'<dc:title>{title}</dc:title><dc:creator opf:role="aut" opf:file-as="Nobody, A.">A. Nobody</dc:creator>'
        f'<meta name="cover" content="cover"/></metadata><manifest>{manifest}</manifest>'
        f'<spine toc="ncx">{order}</spine>{more}</package>'
    )


def ncx(entries: list[tuple[str, str]]) -> str:
    points = "".join(
        f'<navPoint id="u{n}" playOrder="{n}"><navLabel><text>{label}</text></navLabel><content src="{src}"/>'
        "</navPoint>"
        for n, (label, src) in enumerate(entries, 1)
    )
    return f'{XML}<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1"><navMap>{points}</navMap></ncx>'


def container(path: str) -> str:
    return (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        f'<rootfiles><rootfile full-path="{path}" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )


# --- Calibre ---


def calibre_page(body: str) -> str:
    return (
        f'{XML}\n<html xmlns="http://www.w3.org/1999/xhtml">\n  <head>\n    <title>The Echo Of The Kettle</title>\n'
        '    <meta http-equiv="Content-Type" content="text/html; charset=utf-8"/>\n'
        '  <link rel="stylesheet" type="text/css" href="stylesheet.css"/>\n<link rel="stylesheet" type="text/css" '
        f'href="page_styles.css"/>\n</head>\n  <body class="calibre">\n{body}\n</body>\n</html>\n'
    )


def calibre_paragraph(text: str, first: bool = False) -> str:
    """A paragraph with emphasis in its middle; the first one of a chapter with a drop capital."""
    words = [escaped(word) for word in text.split(" ")]
    words[len(words) // 2] = f'<i class="calibre6">{words[len(words) // 2]}</i>'
    text = " ".join(words)
    if first and text[0] not in "<&":
        text = f'<span class="dropcap">{text[0]}</span><span class="calibre8">{text[1:]}</span>'
    return f'<p class="calibre{2 if first else 1}"><span class="calibre4">{text}</span></p>'


def calibre_epub() -> bytes:
    """EPUB 2: a cover in SVG, pages about the book and of contents, files split at page breaks and within chapters."""
    cover = calibre_page(
        '<div><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1" '
        'width="100%" height="100%" viewBox="0 0 600 800" preserveAspectRatio="none"><title>Cover</title>'
        '<image width="600" height="800" xlink:href="cover.jpeg"/></svg></div>'
    )
    pages, entries = {"titlepage.xhtml": cover}, []
    blank = '<p class="calibre1"> </p>\n'
    for number, (heading, paragraphs) in enumerate(CHAPTERS):
        name, second = (f"index_split_{2 * number + n:03}.html" for n in (1, 2))
        half = len(paragraphs) // 2
        entries.append((heading, f"{name}#calibre_toc_{number + 2}" if number else name))
        pages[name] = calibre_page(
            f'<div id="calibre_pb_{number}" class="mbp_pagebreak"></div>\n{blank}'
            f'<h2 class="calibre3" id="calibre_toc_{number + 2}"><span class="bold">{heading}</span></h2>\n'
            + "\n".join(calibre_paragraph(text, not n) for n, text in enumerate(paragraphs[:half]))
        )
        pages[second] = calibre_page("\n".join(map(calibre_paragraph, paragraphs[half:])) + blank)
    verse = '<br class="calibre5"/>\n'.join(f'<span class="calibre4">{line}</span>' for line in VERSE)
    pages["index_split_007.html"] = calibre_page(
        f'<p class="calibre10">* * *</p>{blank}<blockquote class="calibre9"><p class="calibre11">{verse}</p>'
        "</blockquote>"
    )
    links = "".join(f'<p class="calibre1"><a href="{src}" class="calibre7">{label}</a></p>' for label, src in entries)
    contents = calibre_page(f'<h2 class="calibre3">Table of Contents</h2>{links}')
    jacket = calibre_page('<div class="cbj_banner"><h1>The Echo Of The Kettle</h1><p>Rating: 4. A blurb.</p></div>')
    front = {"titlepage.xhtml": pages.pop("titlepage.xhtml"), "jacket.xhtml": jacket}
    pages = front | {"index_split_000.html": contents} | pages
    items = {f"id{n}": (name, "application/xhtml+xml") for n, name in enumerate(pages)}
    spine = list(items)
    items |= {"ncx": ("toc.ncx", "application/x-dtbncx+xml"), "cover": ("cover.jpeg", "image/jpeg")}
    guide = '<guide><reference type="cover" title="Cover" href="titlepage.xhtml"/></guide>'
    return zipped(
        {"mimetype": "application/epub+zip", "META-INF/container.xml": container("content.opf")}
        | {"content.opf": opf("The Echo Of The Kettle", items, spine, more=guide), "toc.ncx": ncx(entries)}
        | {"cover.jpeg": b"\xff\xd8\xff", "stylesheet.css": ".calibre1 { margin: 0 }"}
        | pages
    )


def test_an_epub_by_calibre_is_its_source():
    book = read_book(calibre_epub(), name="kettle.epub")
    assert book.text == SOURCE
    assert (book.title, book.author) == ("The Echo Of The Kettle", "A. Nobody")
    assert [(c.title, book.text[c.start :].partition("\n")[0]) for c in book.chapters] == [(h, h) for h, _ in CHAPTERS]


# --- Sigil, from Word's filtered HTML ---


def filled(text: str) -> str:
    """In lines of at most 75 characters, as Word writes paragraphs, and people do for Pandoc."""
    return textwrap.fill(text, 75, break_long_words=False, break_on_hyphens=False)


def sigil_page(body: str, title: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{DOCTYPE}\n<html xmlns="http://www.w3.org/1999/xhtml" '
        f'xmlns:epub="http://www.idpf.org/2007/ops">\n<head><title>{title}</title><style>p.MsoNormal {{ margin: 0 }}'
        f'</style></head>\n<body lang="EN-US" xml:lang="EN-US"><div class="WordSection1">\n{body}\n</div></body></html>'
    )


def word_html(text: str) -> str:
    return filled(f'<p class="MsoNormal" style="text-indent:.5in"><span lang="EN-GB">{escaped(text)}</span></p>')


def sigil_epub() -> bytes:
    """EPUB 3 with a navigation document, Word's classes, blank paragraphs and a footnote by Word's conventions."""
    pages = {
        "Text/cover.xhtml": sigil_page('<div style="text-align: center"><img alt="Cover" src="../Images/c.jpg"/></div>')
    }
    blank = '<p class="MsoNormal"><span lang="EN-GB">&#160;</span></p>'
    for number, (heading, paragraphs) in enumerate(CHAPTERS, 1):
        body = "\n\n".join(map(word_html, paragraphs))
        note = ""
        if number == 1:
            mark = '<a href="#_ftn1" id="_ftnref1" title=""><span class="MsoFootnoteReference">[1]</span></a>'
            body = body.replace("</span></p>", f"{mark}</span></p>", 1)
            note = (
                '<div><br clear="all"/><hr align="left" size="1" width="33%"/><div id="ftn1">'
                f'<p class="MsoFootnoteText"><a href="#_ftnref1" id="_ftn1"><span>[1]</span></a> '
                f"{filled(escaped(NOTE))}</p></div></div>"
            )
        verse = f'{blank}<p class="MsoNormal" align="center">* * *</p>\n<p class="Verse">{"<br/>".join(VERSE)}</p>'
        pages[f"Text/Section{number:04}.xhtml"] = sigil_page(
            f'<h1 id="sigil_toc_id_{number}"><a id="_Toc{number}"></a><span lang="EN-GB">{heading}</span></h1>\n'
            f"{blank}\n{body}\n{blank}\n{verse if number == len(CHAPTERS) else ''}{note}"
        )
    labels = [(heading, f"Section{n:04}.xhtml#sigil_toc_id_{n}") for n, (heading, _) in enumerate(CHAPTERS, 1)]
    listed = "".join(f'<li><a href="{src}">{label}</a></li>' for label, src in labels)
    pages["Text/nav.xhtml"] = sigil_page(
        f'<nav epub:type="toc" id="toc" role="doc-toc"><h1>Table of Contents</h1><ol>{listed}</ol></nav><nav '
        'epub:type="landmarks" id="landmarks" hidden=""><h1>Landmarks</h1><ol><li><a epub:type="toc" href="#toc">Table '
        "of Contents</a></li></ol></nav>"
    )
    items = {name.rpartition("/")[2]: (name, "application/xhtml+xml") for name in pages}
    spine = list(items)
    package = opf("The Echo Of The Kettle", items, spine, version="3.0")
    package = package.replace('href="Text/nav.xhtml"', 'href="Text/nav.xhtml" properties="nav"')
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": container("OEBPS/content.opf")}
    files |= {"OEBPS/content.opf": package} | {f"OEBPS/{name}": content for name, content in pages.items()}
    return zipped(files)


def test_an_epub_by_sigil_from_word_is_its_source():
    book = read_book(sigil_epub(), name="kettle.epub")
    first = CHAPTERS[0][1][0]
    expected = SOURCE.replace(first, f"{first}[1]", 1).replace(
        f"\n\n{CHAPTERS[1][0]}", f"\n\n[1] {NOTE}\n\n{CHAPTERS[1][0]}", 1
    )
    assert book.text == expected
    assert [c.title for c in book.chapters] == [heading for heading, _ in CHAPTERS]


# --- Pandoc ---


@pytest.mark.parametrize("version", ["epub2", "epub3"])
def test_an_epub_by_pandoc_is_its_source(tmp_path, version):
    if shutil.which("pandoc") is None:
        pytest.skip("no pandoc on this machine (Debian: apt-get install pandoc)")
    parts = [f"# {heading}\n\n" + "\n\n".join(map(filled, paragraphs)) for heading, paragraphs in CHAPTERS]
    verse = "\n".join(f"| {line}" for line in VERSE)
    (tmp_path / "kettle.md").write_text("\n\n".join(parts) + f"\n\n\\* \\* \\*\n\n{verse}\n", encoding="utf-8")
    command = ["pandoc", "kettle.md", "-f", "markdown-smart", "-t", version, "-o", "kettle.epub", "--toc"]
    titled = ["-M", "title=The Echo Of The Kettle", "-M", "author=A. Nobody"]
    subprocess.run([*command, *titled], cwd=tmp_path, check=True)
    book = read_book((tmp_path / "kettle.epub").read_bytes(), name="kettle.epub")
    assert book.text.removeprefix("The Echo Of The Kettle\n\nA. Nobody\n\n") == SOURCE  # after the title page
    assert (book.title, book.author) == ("The Echo Of The Kettle", "A. Nobody")
    assert [c.title for c in book.chapters][-3:] == [heading for heading, _ in CHAPTERS]
