"""The tables of docs/audit.md and docs/texts.md: each row names a test that is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = {"audit.md": 35, "texts.md": 95}
WITHOUT_A_TEST = {"documented", "chaos.py"}


@pytest.mark.parametrize("name", ROWS)
def test_each_row_names_a_test_that_is_there(name):
    table = (TESTS.parent / "docs" / name).read_text(encoding="utf-8")
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]
    assert len(rows) == ROWS[name] and len({row[0] for row in rows}) == len(rows)
    assert len({len(row) for row in rows}) == 1
    for row in rows:
        if row[-1] in WITHOUT_A_TEST:
            continue
        path, function = row[-1].split("::")
        assert f"\ndef {function}(" in (TESTS / path).read_text(encoding="utf-8"), row[-1]
