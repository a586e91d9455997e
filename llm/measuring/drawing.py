"""The picture of a measurement as SVG: a map of the text, a histogram of p_z, coverage against its threshold.

Written by hand: readable in a paper, and no library is needed. Colours run from white (p_z below 1e-20) to dark blue
(p_z = 1); they differ in lightness alone, so they print in grey.
"""

import math
from html import escape

import numpy as np

from llm.measuring.measures import coverage
from llm.measuring.texts import Windows

WIDTH = 720
MARGIN = 46
MAP_COLUMNS, CELL = 60, 10.5  # of the map of the text
MAX_CELLS = 3000
LOWEST = -20.0  # log10 of the p_z that is drawn as 0
BINS = 20
TEXT = 'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#222"'


def decades(log_p: np.ndarray) -> np.ndarray:
    """log10 of p_z, not below LOWEST."""
    return np.maximum(np.asarray(log_p, dtype=np.float64) / math.log(10), LOWEST)


def colour(decade: float) -> str:
    """White for LOWEST, dark blue for 0."""
    share = 1 - decade / LOWEST
    return "#" + "".join(f"{round(255 + (end - 255) * share):02x}" for end in (16, 50, 110))


def label(x: float, y: float, words: str, anchor: str = "start", *, bold: bool = False) -> str:
    """A line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {TEXT}{weight}>{escape(words)}</text>'


def text_map(windows: Windows, log_p: np.ndarray, top: float) -> tuple[list[str], float]:
    """(elements, height): a cell for each window in the order of the text; of many, the mean of neighbours."""
    order = np.argsort(windows.suffix_chars[:, 0], kind="stable")
    values = decades(log_p)[order]
    groups = np.array_split(values, min(len(values), MAX_CELLS))
    starts = [windows.suffix_chars[order][part[0], 0] for part in np.array_split(np.arange(len(values)), len(groups))]
    found = [label(MARGIN, top + 10, f"Map of the text: {len(values):,} suffixes, from left to right", bold=True)]
    for number, (group, start) in enumerate(zip(groups, starts, strict=True)):
        fill = colour(float(group.mean()))
        x, y = MARGIN + number % MAP_COLUMNS * CELL, top + 18 + number // MAP_COLUMNS * CELL
        found.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{CELL - 1}" height="{CELL - 1}" fill="{fill}" '
            f'stroke="#ccc" stroke-width="0.3"><title>character {start:,}</title></rect>'
        )
    height = 18 + math.ceil(len(groups) / MAP_COLUMNS) * CELL + 8
    y = top + height
    found += [
        f'<rect x="{MARGIN + 12 * n:.1f}" y="{y:.1f}" width="12" height="8" fill="{colour(LOWEST + n)}" stroke="#ccc" '
        'stroke-width="0.3"/>'
        for n in range(int(-LOWEST) + 1)
    ]
    found.append(label(MARGIN, y + 20, "p_z < 1e-20"))
    found.append(label(MARGIN + 12 * (1 - LOWEST), y + 20, "p_z = 1", "end"))
    return found, height + 34


def axes(left: float, top: float, width: float, height: float, title: str, x_label: str, y_label: str) -> list[str]:
    """The frame and the words of a panel."""
    return [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#555" stroke-width="0.8"/>',
        label(left, top - 8, title, bold=True),
        label(left + width / 2, top + height + 30, x_label, "middle"),
        label(left - 4, top + 9, y_label, "end"),
        label(left - 4, top + height, "0", "end"),
    ]


def ticks(left: float, top: float, width: float, height: float) -> list[str]:
    """The decades of p_z below a panel."""
    decades_at = [round(LOWEST * (1 - n / 4)) for n in range(5)]
    return [
        label(left + width * n / 4, top + height + 14, f"1e{decade}" if decade else "1", "middle")
        for n, decade in enumerate(decades_at)
    ]


def histogram(log_p: np.ndarray, control: np.ndarray, box: tuple[float, float, float, float]) -> list[str]:
    """How p_z is distributed over the text's windows (bars) and over the controls' (line)."""
    left, top, width, height = box
    edges = np.linspace(LOWEST, 0, BINS + 1)

    def shares(values: np.ndarray) -> np.ndarray:
        return np.histogram(np.minimum(decades(values), 0.0), edges)[0] / max(len(values), 1)

    bars, line = shares(log_p), shares(control)
    highest = max(bars.max(), line.max(), 1e-9)
    found = axes(left, top, width, height, "Histogram: bars text, line controls", "p_z", f"{highest:.0%}")
    step = width / BINS
    for n, share in enumerate(bars):
        h = height * share / highest
        found.append(
            f'<rect x="{left + n * step + 0.5:.1f}" y="{top + height - h:.1f}" width="{step - 1:.1f}" '
            f'height="{h:.1f}" fill="{colour(-6)}"/>'
        )
    if len(control):
        points = [
            f"{left + (n + side) * step:.1f},{top + height * (1 - s / highest):.1f}"
            for n, s in enumerate(line)
            for side in (0, 1)
        ]
        found.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#c2410c" stroke-width="1.5"/>')
    return found + ticks(*box)


def coverage_curve(
    spans: np.ndarray, log_p: np.ndarray, n_characters: int, box: tuple[float, float, float, float]
) -> list[str]:
    """Extraction coverage against the threshold of p_z."""
    left, top, width, height = box
    found = axes(left, top, width, height, "Extraction coverage", "threshold of p_z", "100%")
    points = []
    for n in range(81):
        share = coverage(spans, log_p, n_characters, 10 ** (LOWEST * (1 - n / 80)))
        points.append(f"{left + width * n / 80:.1f},{top + height * (1 - share):.1f}")
    found.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour(0)}" stroke-width="1.5"/>')
    x = left + width * (1 - -3 / LOWEST)
    found.append(
        f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" stroke="#888" stroke-dasharray="3 3"/>'
        + label(x - 3, top + height - 5, "0.1%", "end")
    )
    return found + ticks(*box)


def draw(
    title: str, windows: Windows, log_p: np.ndarray, control: np.ndarray, covered: tuple[np.ndarray, np.ndarray, int]
) -> str:
    """The whole picture. control: log p_z of the controls; covered: suffix spans, their log p_z, n_characters."""
    elements, height = text_map(windows, log_p, 34)
    top, width = 34 + height + 26, (WIDTH - 3 * MARGIN) / 2
    elements = [label(MARGIN, 18, title, bold=True), *elements]
    elements += histogram(log_p, control, (MARGIN, top, width, 150))
    elements += coverage_curve(*covered, (2 * MARGIN + width, top, width, 150))
    total = top + 150 + 40
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total:.0f}" width="{WIDTH}" role="img">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{total:.0f}" fill="white"/>', *elements, "</svg>\n"])
