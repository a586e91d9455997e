"""Books in all formats, built by hand as other programs write them."""

import io
import zipfile

PARAGRAPHS = [
    "The ferry left the north bank a little after six, and nobody on it spoke.",
    "“It only sings when the moon pulls at it,” said the ferryman & sang.",
    "On the south bank a boy was waiting — with a list.",
]
VERSE = ["The ferry comes, the ferry goes,", "The rope hums in the rain;"]
XHTML = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">'
CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
)
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def page(body: str) -> str:
    return f"{XHTML}<head><title>x</title><style>p {{}}</style></head><body>{body}</body></html>"


def epub(pages: dict[str, str], *, spine: list[str] | None = None, extra: dict | None = None, opf: str = "") -> bytes:
    """An EPUB of pages (name -> XHTML); opf: more elements of its package; extra: more files."""
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(pages)
    )
    order = [list(pages).index(name) for name in spine or pages]
    refs = "".join(f'<itemref idref="i{n}"/>' for n in order)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>The Ferry</dc:title><dc:creator>A. Nobody</dc:creator></metadata><manifest>{items}{opf}</manifest>"
        f'<spine toc="ncx">{refs}</spine></package>'
    )
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "OEBPS/content.opf": package}
    return zipped(files | {f"OEBPS/{name}": content for name, content in pages.items()} | (extra or {}))


def docx(body: str, *, styles: str = "", extra: dict | None = None) -> bytes:
    """A Word document with this body."""
    files = {
        "[Content_Types].xml": "<Types/>",
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {W}>{styles}</w:styles>",
    }
    return zipped(files | (extra or {}))


def word_paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{escaped(text)}</w:t></w:r></w:p>'


def pdf(pages: list[list[tuple[float, float, float, str]]], *, title: str = "", encrypt: bool = False) -> bytes:
    """A PDF; pages: (x, y, size, text) of each line in points, in Latin-1."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman >>"]
    kids = []
    for lines in pages:
        stream = "BT\n"
        for x, y, size, text in lines:
            text = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            stream += f"/F1 {size} Tf 1 0 0 1 {x} {y} Tm ({text}) Tj\n"
        stream += "ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 600] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {len(objects)} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>"
    objects.append(f"<< /Title ({title}) >>")
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    locked = " /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (" + "x" * 32 + ") /U (" + "y" * 32 + ") >>"
    trailer = (
        f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R{locked if encrypt else ''} /ID [(a) (a)] >>"
    )
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{len(out)}\n%%EOF\n"
    return out + end.encode("latin-1")
