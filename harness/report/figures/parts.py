"""What pictures are made of: names and places of lines, lines with their bands, clouds, axes, and what hovering shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape as html_escape
from typing import Any

from harness.report.rows import (
    BUILD,
    CONCURRENCY,
    P99_TARGET,
    RATE,
    Part,
    Row,
    Section,
    anchor,
    index_in_two_builds,
    is_random,
    label,
    varying,
)
from harness.report.tables import is_within
from harness.report.units import SHOWN, WITHIN, count, interval, number, plural, scaled

Figure = dict[str, Any]
"""``setting`` (what was asked, for a choice among several), ``caption``, ``data`` and ``layout`` as plotly takes them, and the ``height``
in pixels where it follows from the number of bars."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
LINES = 14
"""Lines a picture has at most: two rounds of the colours, each with another dash. The rest is one grey cloud, or left to the table."""
CLOUD = 500
"""Points of the cells without a line that a picture shows at most."""
_CUT = 2.5
"""An interval that reaches further than this factor from the outermost value leaves the picture; the table has its ends."""

LATENCIES = (("search_latency_p50_s", "median latency"), ("search_latency_p99_s", "99th percentile"))
BANDS = "Bands and bars are 95 % intervals."


def escape(words: str) -> str:
    """Return words as plotly.js has to be given them to show just those: ``%{`` begins a template, and ``&quot;`` it does not know."""
    return html_escape(words, quote=False).replace("%{", "&#37;{")


class Named:
    """Names of lines, each with what is needed to tell it from the others, and the same place (colour, marker) in every picture."""

    def __init__(self, rows: Sequence[Row], parts: Sequence[Part], *always: Part) -> None:
        told = [part for part in varying(rows, parts) if part in parts and (part is not BUILD or index_in_two_builds(rows))]
        self._parts = [*always, *(part for part in told if part not in always)]
        self.of = {row["key"]: self.name(row) for row in {row["key"]: row for row in rows}.values()}
        self._places = {key: place for place, key in enumerate(self.of)}

    def name(self, row: Row) -> str:
        """Return what a row's line is called."""
        return label(row, self._parts)

    def place(self, key: str) -> int:
        """Return the position of a cell's colour and marker."""
        return self._places[key]


@dataclass(frozen=True)
class Lines:
    """Which cells have a line of their own."""

    own: tuple[str, ...]
    """Keys of the cells that have a line."""
    others: tuple[Row, ...]
    """The points of all others."""
    cloud: tuple[Row, ...]
    """Those of them that a picture shows: of thousands each so-manyth, since a browser draws every point by itself."""


def lines_of(rows: Sequence[Row], section: Section) -> Lines:
    """Return which cells get a line of their own, where there are too many those on a front and then those near one."""
    keys = list(dict.fromkeys(row["key"] for row in rows))
    if len(keys) > LINES:
        on = {row["key"] for row in rows if id(row) in section.fronts}
        near = {row["key"] for row in rows if id(row) in section.near}
        first = set(sorted(keys, key=lambda key: (key not in on, key not in near))[:LINES])
        keys = [key for key in keys if key in first]
    own = set(keys)
    others = [row for row in rows if row["key"] not in own]
    return Lines(tuple(keys), tuple(others), tuple(others[:: max(1, math.ceil(len(others) / CLOUD))]))


def aside(lines: Lines) -> str:
    """Return what the cloud is, as a sentence of a caption; empty where there is none."""
    if not lines.cloud:
        return ""
    some = f"{count(len(lines.cloud))} of {plural(len(lines.others), 'point')} of " if len(lines.cloud) < len(lines.others) else ""
    return f"Grey: {some}the cells away from the front, whose numbers are in the table."


def line(
    place: int,
    name: str,
    rows: Sequence[Row],
    *,
    x: Callable[[Row], float],
    figure: str,
    hover: Callable[[Row], str],
    error_x: Figure | None = None,
    band: Sequence[Row] | None = None,
) -> list[Figure]:
    """Return a line of one figure, its band of intervals before it; points without neighbours have bars instead.

    Parameters
    ----------
    place, name
        Of the line, see `Named`.
    rows
        Its points, in the order in which they are joined.
    x
        Where a point stands.
    figure
        What the line is of.
    hover
        What pointing at a point shows.
    error_x
        Bars along x, as `errors` makes them.
    band
        The points in the order of the band's edge, where that is another.
    """
    bounded = [(x(row), ends) for row in band or rows if (ends := ends_of(figure, row)) is not None]
    wide = len({at for at, _ in bounded}) > 1
    y = [scaled(figure, row[figure]) for row in rows]
    bars = None if wide else errors(y, [ends_of(figure, row) for row in rows])
    drawn = trace(place, name, rows, x=[x(row) for row in rows], y=y, hover=map(hover, rows), error_x=error_x, error_y=bars)
    if not wide:
        return [drawn]
    places = [at for at, _ in bounded]
    edge = {
        "type": "scatter",
        "mode": "lines",
        "name": drawn["name"],
        "x": [*places, *reversed(places)],
        "y": [*(high for _, (_, high) in bounded), *(low for _, (low, _) in reversed(bounded))],
        "fill": "toself",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": drawn["name"],
        "meta": {"colour": place, "band": True},
    }
    return [edge, drawn]


def trace(
    place: int,
    name: str,
    rows: Sequence[Row],
    *,
    x: Sequence[float],
    y: Sequence[float],
    hover: Iterable[str],
    error_x: Figure | None = None,
    error_y: Figure | None = None,
) -> Figure:
    """Return one line through some points."""
    unreal = any(is_random(row) for row in rows)
    drawn: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "legendgroup": escape(name),
        "x": list(x),
        "y": list(y),
        "text": list(hover),
        "customdata": [anchor(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)] + ("-open" if unreal else "")},
        "line": {"width": 2, "dash": "dot" if unreal else DASHES[place // len(SYMBOLS) % len(DASHES)]},
        "meta": {"colour": place},
    }
    return drawn | {axis: bars for axis, bars in (("error_x", error_x), ("error_y", error_y)) if bars}


def cloud(lines: Lines, *, x: Callable[[Row], float], y: Callable[[Row], float], hover: Callable[[Row], str]) -> list[Figure]:
    """Return the points of the cells that have no line of their own; nothing where there are none."""
    if not lines.cloud:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plural(len({row["key"] for row in lines.others}), "more cell"),
            "x": [x(row) for row in lines.cloud],
            "y": [y(row) for row in lines.cloud],
            "text": [hover(row) for row in lines.cloud],
            "customdata": [anchor(row) for row in lines.cloud],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"size": 6, "symbol": "circle-open"},
            "meta": {"colour": "aside"},
        }
    ]


def values_axis(title: str, values: Sequence[float], low: float, high: float) -> Figure:
    """Return a logarithmic axis with a tick at each value that was measured, those left out that would touch another."""
    span = math.log10(high / low) or 1.0
    ticks: list[float] = []
    for value in values:
        if not ticks or math.log10(value / ticks[-1]) >= 0.05 * span:
            ticks.append(value)
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{value:g}" for value in ticks],
        "range": [math.log10(low) - 0.06 * span, math.log10(high) + 0.06 * span],
    }


def range_of(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the ends of an axis: all values with their intervals, but an interval far wider than its value is cut by the frame."""
    values = [scaled(name, row[name]) for row in rows if row[name] is not None]
    lows = [scaled(name, row[f"{name}_lo"]) for row in rows if row[f"{name}_lo"] is not None]
    highs = [scaled(name, row[f"{name}_hi"]) for row in rows if row[f"{name}_hi"] is not None]
    if not values:
        return 1.0, 1.0
    smallest, largest = min(values), max(values)
    return max(min([smallest, *lows]), smallest / _CUT) / 1.15, min(max([largest, *highs]), largest * _CUT) * 1.15


def columns(name: str) -> tuple[str, str, str]:
    """Return the frame's columns of a figure and of its interval's ends."""
    return name, f"{name}_lo", f"{name}_hi"


def ends_of(figure: str, row: Row) -> tuple[float, float] | None:
    """Return an interval's ends as drawn: above zero, which a logarithmic axis does not have."""
    value, lo, hi = (None if row[column] is None else scaled(figure, row[column]) for column in columns(figure))
    return None if value is None or lo is None or hi is None else (max(lo, 0.001 * value), hi)


def errors(values: Sequence[float], ends: Sequence[tuple[float, float] | None]) -> Figure:
    """Return plotly's error bars; a point without an interval has none."""
    up = [0.0 if end is None else max(end[1] - value, 0.0) for value, end in zip(values, ends, strict=True)]
    down = [0.0 if end is None else max(value - end[0], 0.0) for value, end in zip(values, ends, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def hover_of(row: Row, name: str, part: Part, figures: Sequence[str]) -> str:
    """Return what pointing at a row's point shows: its name, what its own line varies, and some figures with their intervals."""
    told = [f"<b>{escape(name)}</b>", escape(f"{part.prefix}{part.of(row)}")]
    for figure in figures:
        if row[figure] is not None:
            shown = SHOWN[figure]
            between = interval(figure, *(row[column] for column in columns(figure)))
            title = (
                shown.title
                if not shown.title.startswith("p") or shown.title in ("pipeline", "process")
                else f"{shown.group.lower()}, {shown.title}"
            )
            words = (number(figure, row[figure]), shown.unit, f"{between}{WITHIN if is_within(row, figure) else ''}")
            told.append(escape(f"{title}: {' '.join(word for word in words if word)}"))
    for load in (CONCURRENCY, RATE, P99_TARGET):
        if load.of(row) and load is not part:
            told.append(escape(load.prefix + load.of(row)))
    return "<br>".join(one for one in told if one)
