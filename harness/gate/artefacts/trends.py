"""``trend.csv``: one line for each cell and metric of every gate, appended, for tools that look for change points over weeks.

The gate answers whether *this* change made something slower; the series answers when, over weeks, something did. The columns are
``time, commit, cell, metric, value, lo, hi``: the head side's typical value in seconds, bytes or as a ratio, and the ends of the
interval of its change, applied to the base side's value. A spreadsheet does not run what stands in it: text that would begin a
formula is quoted.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from harness.gate.artefacts.words import is_absolute
from harness.gate.outcome import Case, Outcome
from harness.records import write_atomically

COLUMNS = ("time", "commit", "cell", "metric", "value", "lo", "hi")


def append(outcome: Outcome, path: Path, at: str) -> None:
    """Append an outcome's head side; the file is replaced whole, so that a crash leaves the old one, and half a last line is dropped."""
    before = path.read_bytes() if path.exists() else b""
    whole = before[: before.rfind(b"\n") + 1]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    if not whole:
        out.writerow(COLUMNS)
    for case in outcome.cases:
        if case.head is not None and math.isfinite(case.head):
            out.writerow([at, _plain(outcome.head), _plain(case.cell), _plain(case.metric), repr(float(case.head)), *_ends(case)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, whole + text.getvalue().encode("utf-8", "backslashreplace"))


def _ends(case: Case) -> list[str]:
    found = []
    for end in (case.decision.lo, case.decision.hi):
        known = end is not None and case.base is not None and math.isfinite(end)
        found.append(repr(float(case.base + end if is_absolute(case) else case.base * (1 + end))) if known else "")  # type: ignore[operator]
    return found


def _plain(words: str) -> str:
    line = " ".join(words.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
