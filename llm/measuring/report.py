"""What a measurement says, in three forms: a table for the terminal, windows.csv, and one HTML page."""

import csv
import io
import json
from html import escape

from llm.measuring.measures import CHANCES, TRIES
from llm.reading.windows import KEYS

STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { border-bottom: 1px solid #ddd; padding: 2px 12px 2px 0 }
td { font-variant-numeric: tabular-nums } th { text-align: left } svg { max-width: 100%; height: auto }
.verdict { border-left: 4px solid #10326e; padding-left: 1em } pre { white-space: pre-wrap; font-size: 12px }
"""


def number(value: float | None, digits: int = 4) -> str:
    """A figure with fixed decimals; "-" for one that there is not."""
    return "-" if value is None else f"{value:,.{digits}f}"


def tries(log10: float | None) -> str:
    """A number of samples: exactly as far as people count, then as a power of 10."""
    if log10 is None:
        return "no number"
    return f"{10**log10:,.0f}" if log10 < 7 else f"1e{log10:.0f}"


def main_rows(figures: dict) -> list[tuple[str, str]]:
    """(what, figure) of the table, without sections and passages."""
    recall, size = figures["recall"], f"@{figures['settings']['prefix']}/{figures['settings']['suffix']}"
    low, high = recall["interval_95"]
    rows = [
        (f"recall{size}", f"{number(recall['recall'])} ({recall['recited']:,}/{recall['windows']:,} windows)"),
        ("95 % interval", f"{low:.4f} to {high:.4f}"),
        ("token accuracy", number(recall["token_accuracy"])),
        ("extraction strength", number(recall["extraction_strength"])),
    ]
    for name, words in (("full_softmax", "full softmax"), ("top_40", "top-k 40")):
        part = figures["p_z"][name]
        rows.append((f"{words}: median log p_z", number(part["median_log_p"], 1)))
        for n in TRIES:
            shares = ", ".join(f"p = {p}: {part['discoverable'][f'n={n},p={p}']:.4f}" for p in CHANCES)
            rows.append((f"{words}: extractable in {n:,} samples", shares))
        rows.append((f"{words}: median samples for p = 0.9", tries(part["median_log10_tries_for_0.9"])))
    for kind, ladder in figures["coverage"].items():
        if isinstance(ladder, dict):
            steps = ", ".join(f"{float(limit):.1%}: {share:.4f}" for limit, share in ladder.items())
            rows.append((f"coverage, {kind}, p_z from", steps))
        else:
            rows.append((f"coverage, {kind}", number(ladder)))
    for rate, limit in figures["calibration"]["false_positive_rates"].items():
        words = "too few windows of controls"
        if limit["log_p"] is not None:
            words = f"log p_z above {limit['log_p']:,.1f}: {limit['windows_above']:,} windows"
        rows.append((f"false positives at most {float(rate):.1%}", words))
    if near := figures.get("near_verbatim"):
        rows += [
            ("nv-recall", f"{near['nv_recall']:.4f} ({near['tokens']:,} tokens generated)"),
            (
                "longest block, verbatim / nearly",
                "{longest_verbatim_words:,} / {longest_near_verbatim_words:,} words".format(**near),
            ),
            ("edit similarity", number(near["edit_similarity"])),
        ]
    return rows


def lines(figures: dict, *, beside_recall: bool = False) -> list[str]:
    """The table for the terminal; recall is the last line.

    beside_recall: leave out what recall@50/50's own lines say, which follow (reading/recall.py).
    """
    rows = main_rows(figures)
    if beside_recall and rows[0][0] == "recall@50/50":
        rows = rows[3:]  # recall, its interval, token accuracy
    last = [f"{rows[0][0]}: {rows[0][1]}"] if rows[0][0].startswith("recall@") else []
    rows = rows[len(last) :]
    width = max(len(what) for what, _ in rows)
    sections = [
        f"{section_name(s)}: recall {number(s['recall'])} ({s['recited']:,}/{s['windows']:,} windows)"
        for s in figures["sections"]
    ]
    passages = [
        f"{name} known, characters {p['start_char']:,} to {p['end_char']:,}: {p['text']!r}"
        for name in ("best", "worst")
        for p in figures["passages"][name]
        if "text" in p
    ]
    table = [f"{what:<{width}}  {figure}" for what, figure in rows]
    return [*sections, *passages, *table, f"verdict: {figures['calibration']['verdict']}", *last]


def section_name(section: dict) -> str:
    """For example "Poems, CHAPTER II"."""
    return ", ".join(filter(None, [section["book"], section["chapter"]]))


def csv_of(rows: list[dict]) -> bytes:
    """windows.csv: the keys of windows.jsonl; empty where that has null."""
    file = io.StringIO()
    writer = csv.DictWriter(file, KEYS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def table(head: list[str], rows: list[list[str]]) -> str:
    """An HTML table."""
    cells = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    cells += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(cells) + "\n</table>"


def passages_table(passages: list[dict]) -> str:
    """Offsets, log p_z, and the text if it may be shown."""
    rows = [[f"{p['start_char']:,} to {p['end_char']:,}", number(p["log_p"], 2), p.get("text", "")] for p in passages]
    return table(["characters", "log p_z", ""], rows)


def html_of(title: str, figures: dict, svg: str) -> bytes:
    """The report: one page that needs nothing else."""
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="verdict">{escape(figures["calibration"]["verdict"])}</p>', svg]
    parts.append(table(["measure", "figure"], [list(row) for row in main_rows(figures)]))
    if figures["sections"]:
        parts.append("<h2>By book and chapter</h2>")
        rows = [
            [section_name(s), f"{s['windows']:,}", number(s["recall"]), number(s["median_log_p"], 1)]
            for s in figures["sections"]
        ]
        parts.append(table(["", "windows", "recall", "median log p_z"], rows))
    for name, words in (("best", "Best known passages"), ("worst", "Least known passages")):
        parts += [f"<h2>{words}</h2>", passages_table(figures["passages"][name])]
    what = {name: figures[name] for name in ("model", "text", "settings", "controls", "versions", "seconds")}
    parts.append(f"<h2>What was measured</h2><pre>{escape(json.dumps(what, indent=1, ensure_ascii=False))}</pre>")
    head = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return "\n".join([head, *parts, "</html>\n"]).encode("utf-8", "replace")
