"""The pictures, as the figure dictionaries that plotly.js draws.

Colours are left to the page, which knows whether it is light or dark: a trace names the position of its colour in
``meta.colour``, and each position has a marker and a dash of its own, so that nothing hangs on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape as html_escape
from typing import Any

from harness.report.rows import (
    BATCH,
    BUILD,
    CONCURRENCY,
    DEVICE,
    DTYPE,
    INDEX,
    MACHINE,
    METRIC,
    MODEL,
    SEARCH,
    STORE,
    Part,
    Row,
    Section,
    compared,
    front,
    is_random,
    label,
    varying,
)
from harness.report.tables import is_within
from harness.report.units import SHOWN, WITHIN, interval, number, scaled

Figure = dict[str, Any]

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_CUT = 2.5
"""An interval that reaches further than this factor from the outermost value leaves the picture; the table has its ends."""
DASHES = ("solid", "dash", "dot", "dashdot")


def escape(words: str) -> str:
    """Return words as plotly.js has to be given them to show just those: ``%{`` begins a template, and ``&quot;`` it does not know."""
    return html_escape(words, quote=False).replace("%{", "&#37;{")


def recall_latency(section: Section) -> list[Figure]:
    """Return a picture of recall against median latency for each k and concurrency; numbers of different ones do not compare."""
    known = [row for row in section.search if row["recall"] is not None and row["search_latency_p50_s"] is not None]
    return [
        _recall_latency([row for row in known if (row["k"], row["concurrency"]) == setting], *setting)
        for setting in dict.fromkeys((row["k"], row["concurrency"]) for row in known)
    ]


def _recall_latency(rows: Sequence[Row], k: int, concurrency: int) -> Figure:
    parts = _told(rows, (INDEX, MODEL, BUILD, STORE, METRIC, DTYPE, MACHINE), INDEX)
    names = {row["key"]: label(row, parts) for row in rows}
    traces = []
    groups = [group for group in compared(rows) if len(group) > 1]
    of = [
        part for part in (MODEL, METRIC, DTYPE, MACHINE) if part in varying([group[0] for group in groups], (MODEL, METRIC, DTYPE, MACHINE))
    ]
    for group in groups:
        best = front(group)
        name = " · ".join(["Pareto front", *([label(group[0], of)] if of else [])])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escape(name),
                "x": [row["recall"] for row in best],
                "y": [_ms(row) for row in best],
                "line": {"shape": "vh", "width": 7},
                "hoverinfo": "skip",
                "meta": {"colour": "front"},
            }
        )
    for place, (key, name) in enumerate(names.items()):
        line = [row for row in rows if row["key"] == key]
        traces.append(
            _trace(
                place,
                name,
                line,
                x=[row["recall"] for row in line],
                y=[_ms(row) for row in line],
                error_x=_errors(line, "recall"),
                error_y=_errors(line, "search_latency_p50_s", above_zero=True),
                hover=[_hover(row, name, SEARCH, ("recall", "search_latency_p50_s", "qps", "ndcg_at_10")) for row in line],
            )
        )
    low, high = _range(rows, "search_latency_p50_s")
    ticks = log_ticks(low, high)
    left = min((row[column] for row in rows for column in _columns("recall") if row[column] is not None), default=0.0)
    left = min(left, 0.99)  # wide enough for a tick where everything is 1
    margin = 0.04 * (1 - left) + 0.002
    return {
        "id": "",
        "title": f"Recall and latency, k = {k}, concurrency {concurrency}",
        "caption": f"{_POINTS} {_FRONT if groups else _NO_FRONT if all(map(is_random, rows)) else ''}".strip(),
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": f"recall@{k}"}, "range": [left - margin, 1 + margin], "tickformat": ".3~f"},
            "yaxis": {
                "title": {"text": "median latency (ms)"},
                "type": "log",
                "range": [math.log10(low), math.log10(high)],
                "tickvals": ticks,
                "ticktext": [f"{tick:,.10g}" for tick in ticks],
            },
        },
    }


_POINTS = "Each point is one setting of an index's search parameter; bars are 95 % intervals. Better is to the right and down."
_NO_FRONT = "These are vectors of random weights, so no front is drawn."
_FRONT = "The wide line is the Pareto front: no other point there has both a higher recall and a lower latency."


def throughput_batch(section: Section) -> list[Figure]:
    """Return the picture of throughput against batch size, the forward pass alone and the whole pipeline."""
    rows = [row for row in section.embed if row["batch_size"] is not None]
    rows = [row for row in rows if row["throughput_per_s"] is not None or row["pipeline_per_s"] is not None]
    if not rows:
        return []
    parts = _told(rows, (MODEL, DEVICE, DTYPE, MACHINE), MODEL)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(label(row, parts), []).append(row)
    traces = []
    for place, (name, line) in enumerate(lines.items()):
        for figure, title, dash, symbol in (
            ("throughput_per_s", "forward alone", "dot", "-open"),
            ("pipeline_per_s", "pipeline", "solid", ""),
        ):
            known = sorted((row for row in line if row[figure] is not None), key=lambda row: int(row["batch_size"]))
            if known:
                trace = _trace(
                    place,
                    f"{name}, {title}",
                    known,
                    x=[row["batch_size"] for row in known],
                    y=[row[figure] for row in known],
                    error_x=None,
                    error_y=_errors(known, figure),
                    hover=[_hover(row, f"{name}, {title}", BATCH, (figure, "batch_latency_p50_s", "peak_rss_bytes")) for row in known],
                )
                trace["line"]["dash"] = dash
                trace["marker"]["symbol"] = SYMBOLS[place % len(SYMBOLS)] + symbol
                traces.append(trace)
    highest = max(_range(rows, name)[1] for name in ("throughput_per_s", "pipeline_per_s"))
    sizes = sorted({int(row["batch_size"]) for row in rows})
    return [
        {
            "id": "",
            "title": "Throughput and batch size",
            "caption": "Items a second; bars are 95 % intervals. A corpus pass reaches the pipeline's rate; the forward pass is its limit.",
            "data": traces,
            "layout": {
                "xaxis": {
                    "title": {"text": "batch size"},
                    "type": "log",
                    "tickvals": sizes,
                    "ticktext": [str(size) for size in sizes],
                    "range": [math.log10(sizes[0] / 1.4), math.log10(sizes[-1] * 1.4)],
                },
                "yaxis": {"title": {"text": "items/s"}, "range": [0, highest]},
            },
        }
    ]


def _range(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the ends of an axis: all values with their intervals, but an interval far wider than its value is cut by the frame."""
    values = [scaled(name, row[name]) for row in rows if row[name] is not None]
    lows = [scaled(name, row[f"{name}_lo"]) for row in rows if row[f"{name}_lo"] is not None]
    highs = [scaled(name, row[f"{name}_hi"]) for row in rows if row[f"{name}_hi"] is not None]
    if not values:
        return 1.0, 1.0
    smallest, largest = min(values), max(values)
    return max(min([smallest, *lows]), smallest / _CUT) / 1.15, min(max([largest, *highs]), largest * _CUT) * 1.15


def log_ticks(low: float, high: float) -> list[float]:
    """Return tick positions on a logarithmic axis: 1, 2, 5 of each decade, and finer round steps on a short one.

    >>> log_ticks(0.8, 30), log_ticks(9, 17)
    ([1.0, 2.0, 5.0, 10.0, 20.0], [10.0, 12.0, 14.0, 16.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) >= 3:
        return ticks
    power = math.floor(math.log10(high - low))
    step = next(
        size
        for size in (float(f"{digit}e{exponent}") for exponent in (power - 1, power) for digit in (1, 2, 5))
        if (high - low) / size <= 6
    )
    return [float(f"{place * step:.6g}") for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _told(rows: Sequence[Row], parts: Sequence[Part], always: Part) -> list[Part]:
    """Return the parts a legend needs, the one that it always has first; a build is named only where one index has several."""
    builds = {(row["index"], row["build_params"]) for row in rows}
    told = [
        part for part in varying(rows, parts) if part in parts and (part is not BUILD or len(builds) > len({index for index, _ in builds}))
    ]
    return [always, *(part for part in told if part is not always)]


def _trace(
    place: int,
    name: str,
    rows: Sequence[Row],
    *,
    x: Sequence[float],
    y: Sequence[float],
    error_x: Figure | None,
    error_y: Figure | None,
    hover: Iterable[str],
) -> Figure:
    unreal = any(is_random(row) for row in rows)
    trace: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": list(x),
        "y": list(y),
        "text": list(hover),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)] + ("-open" if unreal else "")},
        "line": {"width": 2, "dash": "dot" if unreal else DASHES[place // len(SYMBOLS) % len(DASHES)]},
        "meta": {"colour": place},
    }
    return trace | {axis: errors for axis, errors in (("error_x", error_x), ("error_y", error_y)) if errors}


def _columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}_lo", f"{name}_hi"


def _ms(row: Row) -> float:
    return scaled("search_latency_p50_s", row["search_latency_p50_s"])


def _errors(rows: Sequence[Row], name: str, *, above_zero: bool = False) -> Figure:
    """Return plotly's error bars from the interval's ends; a point without an interval has none."""
    up, down = [], []
    for row in rows:
        value, lo, hi = (None if row[column] is None else scaled(name, row[column]) for column in _columns(name))
        if value is None or lo is None or hi is None:
            up.append(0.0)
            down.append(0.0)
            continue
        up.append(max(hi - value, 0.0))
        down.append(max(min(value - lo, 0.999 * value) if above_zero else value - lo, 0.0))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def _hover(row: Row, name: str, part: Part, figures: Sequence[str]) -> str:
    lines = [f"<b>{escape(name)}</b>", escape(f"{part.prefix}{part.of(row)}")]
    for figure in figures:
        if row[figure] is not None:
            shown = SHOWN[figure]
            between = interval(figure, *(row[column] for column in _columns(figure)))
            title = shown.title if not shown.title.startswith("p") or shown.title == "pipeline" else f"{shown.group.lower()}, {shown.title}"
            words = (number(figure, row[figure]), shown.unit, f"{between}{WITHIN if is_within(row, figure) else ''}")
            lines.append(escape(f"{title}: {' '.join(word for word in words if word)}"))
    if row["concurrency"] is not None:
        lines.append(escape(CONCURRENCY.prefix + CONCURRENCY.of(row)))
    return "<br>".join(line for line in lines if line)
