"""One picture of several measurements of a text: what was known before, half way, at the end, after something else.

    python tests/maps.py PICTURE.svg "before training=out/windows_ckpt_init.jsonl" "at the end=out/windows.jsonl"

A strip for each windows.jsonl (recall.py writes it), from the text's beginning to its end, in the colours of
report.svg: white for p_z below 1e-20, dark blue for p_z = 1. Not collected by pytest.
"""

import sys
from pathlib import Path

import numpy as np

from llm.files import write_atomic
from llm.measuring.drawing import MARGIN, WIDTH, colour, decades, label
from llm.measuring.measures import column
from llm.reading.windows import read_windows

HEIGHT, GAP = 26, 22  # of a strip, and above it for its name


def strip(name: str, path: Path, top: float) -> list[str]:
    """The elements of a strip, and its name with the share of windows that are recited."""
    _, rows = read_windows(path)
    values = decades(column(rows, "log_p"))
    groups = np.array_split(values, min(len(values), WIDTH - 2 * MARGIN))
    width = (WIDTH - 2 * MARGIN) / len(groups)
    recited = sum(row["greedy"] for row in rows) / len(rows)
    found = [label(MARGIN, top - 6, f"{name}: recall {recited:.4f}")]
    for n, group in enumerate(groups):
        left, fill = MARGIN + n * width, colour(float(group.mean()))
        found.append(f'<rect x="{left:.2f}" y="{top}" width="{width + 0.1:.2f}" height="{HEIGHT}" fill="{fill}"/>')
    frame = f'x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{HEIGHT}"'
    return [*found, f'<rect {frame} fill="none" stroke="#888" stroke-width="0.6"/>']


def main(picture: str, *named: str) -> None:
    elements, height = [], 0
    for words in named:
        name, _, path = words.rpartition("=")
        elements += strip(name, Path(path), height + GAP)
        height += GAP + HEIGHT + 4
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 6}" width="{WIDTH}" role="img">'
    white = f'<rect width="{WIDTH}" height="{height + 6}" fill="white"/>'
    write_atomic(Path(picture), "\n".join([head, white, *elements, "</svg>\n"]).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
