"""The page: one document, put together from the files in page/, and the headers that bind it to them.

The Content-Security-Policy allows the style and the script by their hashes, requests to this server, and nothing else.
"""

import base64
import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).with_name("page")
SCRIPTS = ("requests.js", "book.js", "map.js", "recite.js", "watch.js", "start.js")  # in the order in which they run


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


PAGE = (
    read("page.html").replace("/* style */", read("style.css")).replace("/* script */", "\n".join(map(read, SCRIPTS)))
)


def hash_of(element: str) -> str:
    """What a Content-Security-Policy calls the only element of this name on the page."""
    content = re.search(rf"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)[1]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE_HEADERS = {  # the page may load nothing from elsewhere, and no other site may frame it
    "Content-Security-Policy": f"default-src 'none'; style-src {hash_of('style')}; script-src {hash_of('script')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
