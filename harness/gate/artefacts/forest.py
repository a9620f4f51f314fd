"""The forest plot: each change with its interval, one under the other, as the figure dictionary that plotly.js draws.

Colours are the page's; a verdict has a marker of its own too, so that nothing hangs on colour alone. Changes that are ratios and those
that are differences (recall, quality) have different axes and so stand in different pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.gate.artefacts.words import Line, is_absolute, lines
from harness.gate.outcome import Outcome, Verdict, worst_first
from harness.report.figures import escape
from harness.report.units import count

Figure = dict[str, Any]

MOST_ROWS = 100
"""Rows of a picture; the table below it has all."""

_ROW = 38
"""Height of a row in pixels."""

_CUT = 3.0
"""An interval that reaches further than this many times the largest change leaves the picture; the table has its ends."""

_MARKS: dict[Verdict, tuple[str, str]] = {
    "REGRESSION": ("diamond", "c1"),
    "INCONCLUSIVE": ("circle-open", "c6"),
    "IMPROVED": ("triangle-up", "c0"),
    "PASS": ("circle", "c2"),
    "NOT COMPARABLE": ("x", "c4"),
    "ERROR": ("x", "c3"),
}
"""Marker and the name of the page's colour."""


def forest(outcome: Outcome) -> list[Figure]:
    """Return the pictures: changes in per cent, then differences; none where nothing has a change."""
    known = [case for case in worst_first(outcome.cases) if case.decision.change is not None and math.isfinite(case.decision.change)]
    figures = []
    for absolute, title in ((False, "Changes"), (True, "Changes of recall and quality")):
        rows = lines(outcome, [case for case in known if is_absolute(case) == absolute])
        if rows:
            figures.append(_figure(rows[:MOST_ROWS], title, absolute, len(rows)))
    return figures


def _figure(rows: Sequence[Line], title: str, absolute: bool, total: int) -> Figure:
    scale, unit = (1.0, "") if absolute else (100.0, " %")
    changes = [scale * (line.case.decision.change or 0.0) for line in rows]
    limits = [scale * (line.case.target or 0.0) for line in rows]
    reach = max([*map(abs, changes), *limits, 1e-6])
    drawn = [_ends(line, scale, _CUT * reach) for line in rows]
    ends = [end for pair in drawn for end in pair if end is not None]
    lo, hi = min([0.0, *changes, *ends]), max([0.0, *changes, *ends, *limits])
    margin = 0.06 * (hi - lo or 1.0)
    traces = [_trace(name, rows, changes, drawn) for name in dict.fromkeys(line.case.decision.verdict for line in rows)]
    bounded = [(limit, place) for place, limit in enumerate(limits) if limit > 0 and not absolute]
    if bounded:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "target: a pass is proved to be below",
                "x": [limit for limit, _ in bounded],
                "y": [place for _, place in bounded],
                "hoverinfo": "skip",
                "marker": {"symbol": "line-ns", "size": 14, "line": {"width": 2}},
                "meta": {"colour": "strong"},
            }
        )
    cut = f" The first {count(len(rows))} of {count(total)} are drawn." if total > len(rows) else ""
    return {
        "id": f"forest-{'differences' if absolute else 'ratios'}",
        "title": title,
        "caption": f"head against base, with the interval of the test that decided; {_DIRECTION}.{cut}",
        "height": 160 + _ROW * len(rows),
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": f"change of the number{unit and ' (%)'}"}, "range": [lo - margin, hi + margin]},
            "yaxis": {"range": [len(rows) - 0.4, -0.75], "showticklabels": False, "showgrid": False, "ticks": ""},
            "annotations": [
                {
                    "xref": "paper", "x": 0, "xanchor": "left", "yref": "y", "y": place, "yshift": 14, "showarrow": False,
                    "text": escape(_short(f"{line.metric} · {line.cell}")),
                }
                for place, line in enumerate(rows)
            ],
        },
    }  # fmt: skip


_DIRECTION = "right of zero the number grew: slower, or larger, or for recall and quality better"


def _trace(name: Verdict, rows: Sequence[Line], changes: Sequence[float], drawn: Sequence[tuple[float | None, float | None]]) -> Figure:
    places = [place for place, line in enumerate(rows) if line.case.decision.verdict == name]
    symbol, colour = _MARKS.get(name, ("circle", "c6"))

    def reach(place: int, end: int) -> float:
        value = drawn[place][end]
        return 0.0 if value is None else abs(value - changes[place])

    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "x": [changes[place] for place in places],
        "y": places,
        "text": [_hover(rows[place]) for place in places],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 10, "symbol": symbol},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [reach(place, 1) for place in places],
            "arrayminus": [reach(place, 0) for place in places],
            "thickness": 1.6,
            "width": 4,
        },
        "meta": {"colour": colour},
    }


def _ends(line: Line, scale: float, most: float) -> tuple[float | None, float | None]:
    lo, hi = line.case.decision.lo, line.case.decision.hi
    if lo is None and hi is None:
        return None, None
    return (
        max(-most, scale * lo) if lo is not None and math.isfinite(lo) else -most,
        min(most, scale * hi) if hi is not None and math.isfinite(hi) else most,
    )


def _hover(line: Line) -> str:
    parts = [f"{line.metric}: {line.base} → {line.head}", f"{line.change} {line.interval}".strip(), line.verdict, line.why]
    return "<br>".join([f"<b>{escape(line.cell)}</b>", *(escape(part) for part in parts if part)])


def _short(words: str) -> str:
    return words if len(words) <= 90 else f"{words[:89]}…"
