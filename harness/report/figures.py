"""The pictures, as the figure dictionaries that plotly.js draws.

Colours are left to the page, which knows whether it is light or dark: a trace names the position of its colour in
``meta.colour``, and each position has a marker and a dash, or a pattern, of its own, so that nothing hangs on colour alone. A picture
shows one way of asking (k, clients, filter) at a time; a reader chooses among them, since numbers of different ones do not compare. What
nobody measured has no picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape as html_escape
from typing import Any

from harness.report.axis import RecallAxis, log_layout
from harness.report.rows import (
    BATCH,
    BUILD,
    CHURN,
    CONCURRENCY,
    DEVICE,
    DTYPE,
    FILTER,
    INDEX,
    MACHINE,
    METRIC,
    MODEL,
    NQ,
    P99_TARGET,
    RATE,
    SEARCH,
    SETTING,
    STORE,
    TARGET,
    VECTORS,
    K,
    Part,
    Row,
    Section,
    anchor,
    compared,
    front,
    is_random,
    label,
    varying,
)
from harness.report.tables import is_within
from harness.report.units import SHOWN, WITHIN, interval, number, plural, scaled, share

Figure = dict[str, Any]
"""``setting`` (what was asked, for a choice among several), ``caption``, ``data`` and ``layout`` as plotly takes them, and the ``height``
in pixels where it follows from the number of bars."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
PATTERNS = ("", "/", "x", "-", ".")
LINES = 14
"""Lines a picture has at most: two rounds of the colours, each with another dash. The rest is one grey cloud, or left to the table."""
BARS = 20
_CUT = 2.5
"""An interval that reaches further than this factor from the outermost value leaves the picture; the table has its ends."""
STAGES = ("decode_s", "preprocess_s", "transfer_s", "forward_s", "finish_s")

LINE = (INDEX, MODEL, BUILD, STORE, VECTORS, METRIC, DTYPE, MACHINE)
"""What tells search cells apart, the most telling first."""
OF_FRONT = (MODEL, METRIC, DTYPE, MACHINE)


@dataclass(frozen=True)
class Picture:
    """One picture, drawn for each way of asking."""

    title: str
    figures: tuple[Figure, ...]


def pictures(section: Section) -> list[Picture]:
    """Return the pictures of a section, those with something to show."""
    made = (
        ("Recall and latency", recall_latency(section)),
        ("Recall and throughput", recall_rate(section)),
        ("Latency and load", latency_load(section)),
        ("Where a search's time goes", search_parts(section)),
        ("Quality lost to the index", quality_lost(section)),
        ("Recall and memory", recall_memory(section)),
        ("Building the index", build_time(section)),
        ("Throughput and batch size", throughput_batch(section)),
        ("Where a batch's time goes", batch_parts(section)),
    )
    return [Picture(title, tuple(figures)) for title, figures in made if figures]


def escape(words: str) -> str:
    """Return words as plotly.js has to be given them to show just those: ``%{`` begins a template, and ``&quot;`` it does not know."""
    return html_escape(words, quote=False).replace("%{", "&#37;{")


# ------------------------------------------------------------------------------------------------ against recall

_LATENCIES = (("search_latency_p50_s", "median latency"), ("search_latency_p99_s", "99th percentile"))
_RATES = (("qps", "queries a second"), ("max_rate_at_p99_per_s", "highest rate within the p99 target"))
_SIZES = (
    ("index_bytes", "size of the index"),
    ("server_rss_bytes", "server process"),
    ("peak_rss_bytes", "measuring process, store included"),
)
_FRONT = "The wide line is the Pareto front: no other point is better in both."
_NO_FRONT = "These are vectors of random weights, so no front is drawn."
_BANDS = "Bands and bars are 95 % intervals."
_KNOB = "Each point is one setting of an index's search parameter."
_ASIDE = "Grey: the cells away from the front, whose numbers are in the table."


def recall_latency(section: Section) -> list[Figure]:
    """Return recall against median latency and its 99th percentile, for each way of asking."""
    return _against_recall(section, _LATENCIES, "down", settings=_settings(section, "search_latency_p50_s"))


def recall_rate(section: Section) -> list[Figure]:
    """Return recall against queries a second, and against the highest rate that keeps a latency target."""
    return _against_recall(section, _RATES, "up", settings=_settings(section, "qps"))


def recall_memory(section: Section) -> list[Figure]:
    """Return recall against what the index takes, for the way of asking with the most points: memory does not depend on it."""
    return _against_recall(section, _SIZES, "down", settings=_settings(section, "recall")[:1])


def _settings(section: Section, figure: str) -> list[list[Row]]:
    """Return the operating points with a recall and a figure by how they were asked, those with the most points first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in section.search:
        if row["recall"] is not None and row[figure] is not None:
            groups.setdefault(_asked(row), []).append(row)
    return sorted(groups.values(), key=len, reverse=True)


def _asked(row: Row) -> tuple[str, ...]:
    return tuple(part.of(row) for part in SETTING)


def _against_recall(
    section: Section, figures: Sequence[tuple[str, str]], better: str, *, settings: Sequence[Sequence[Row]]
) -> list[Figure]:
    named = _Named(section.search, LINE, INDEX)
    drawn = []
    for rows in settings:
        for figure, title in figures:
            known = [row for row in rows if row[figure] is not None and row[figure] > 0]
            if known and (figure != "max_rate_at_p99_per_s" or known[0]["p99_target_s"] is not None):
                drawn.append(_recall_figure(section, named, known, figure, title, better))
    return drawn


def _recall_figure(section: Section, named: _Named, rows: Sequence[Row], figure: str, title: str, better: str) -> Figure:
    axis = RecallAxis.over(row["recall"] for row in rows)
    groups = [group for group in compared(rows) if len(group) > 1]
    of = [part for part in OF_FRONT if part in varying([group[0] for group in groups], OF_FRONT)]
    traces: list[Figure] = []
    fronts = [(group, best) for group in groups if len(best := front(group, figure)) > 1]
    for group, best in fronts:
        name = " · ".join(["Pareto front", *([label(group[0], of)] if of else [])])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escape(name),
                "x": [axis.at(row["recall"]) for row in best],
                "y": [scaled(figure, row[figure]) for row in best],
                "line": {"shape": "vh", "width": 7},
                "hoverinfo": "skip",
                "meta": {"colour": "front"},
            }
        )
    lines = _lines(rows, section)
    for key in lines.own:
        line = [row for row in rows if row["key"] == key]
        ordered = sorted(line, key=lambda row: (row["recall"], row[figure]))
        traces += _line(
            named.place(key),
            named.of[key],
            line,
            x=[axis.at(row["recall"]) for row in line],
            figure=figure,
            error_x=_errors([axis.at(row["recall"]) for row in line], [_placed(axis, row) for row in line]),
            band=[(axis.at(row["recall"]), row) for row in ordered],
            hover=[_hover(row, named.of[key], SEARCH, _told_of(figure)) for row in line],
        )
    if lines.rest:
        traces.append(
            _cloud(
                f"{plural(len({row['key'] for row in lines.rest}), 'more cell')}",
                x=[axis.at(row["recall"]) for row in lines.rest],
                y=[scaled(figure, row[figure]) for row in lines.rest],
                rows=lines.rest,
                hover=[_hover(row, named.of[row["key"]], SEARCH, _told_of(figure)) for row in lines.rest],
            )
        )
    unit = SHOWN[figure].unit
    words = [
        _KNOB,
        _BANDS if any(row[f"{figure}_lo"] is not None for row in rows) else "",
        f"Better is to the right and {better}; the recall axis is logit, so that 0.99 and 0.999 stand apart.",
        _FRONT if fronts else _NO_FRONT if all(map(is_random, rows)) else "",
        _ASIDE if lines.rest else "",
    ]
    return {
        "setting": " · ".join([title, *(part.prefix + part.of(rows[0]) for part in SETTING if part.of(rows[0]))]),
        "caption": " ".join(filter(None, words)),
        "data": traces,
        "layout": {
            "xaxis": axis.layout(f"recall@{rows[0]['k']}"),
            "yaxis": log_layout(f"{title} ({unit})", *_range(rows, figure)),
        },
    }


def _placed(axis: RecallAxis, row: Row) -> tuple[float, float] | None:
    return None if row["recall_lo"] is None or row["recall_hi"] is None else (axis.at(row["recall_lo"]), axis.at(row["recall_hi"]))


def _told_of(figure: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("recall", figure, "search_latency_p50_s", "qps", "ndcg_at_10")))


def quality_lost(section: Section) -> list[Figure]:
    """Return what an index costs in quality, nDCG@10 with exact search less nDCG@10 through the index, against its recall.

    No interval is drawn: both are means over the same queries, so that the interval of their difference follows from neither of theirs.
    """
    named = _Named(section.search, LINE, INDEX)
    drawn = []
    for rows in _settings(section, "ndcg_at_10")[:4]:
        known = [row for row in rows if row["ndcg_at_10_exact"] is not None]
        if not known:
            continue
        axis = RecallAxis.over(row["recall"] for row in known)
        lines = _lines(known, section)
        traces = []
        for key in lines.own:
            line = [row for row in known if row["key"] == key]
            hover = [_hover(row, named.of[key], SEARCH, ("recall", "ndcg_at_10", "ndcg_at_10_exact")) for row in line]
            traces.append(
                _trace(
                    named.place(key),
                    named.of[key],
                    line,
                    x=[axis.at(row["recall"]) for row in line],
                    y=[_lost(row) for row in line],
                    hover=hover,
                )
            )
        if lines.rest:
            hover = [_hover(row, named.of[row["key"]], SEARCH, ("recall", "ndcg_at_10", "ndcg_at_10_exact")) for row in lines.rest]
            more = f"{plural(len({row['key'] for row in lines.rest}), 'more cell')}"
            x, y = [axis.at(row["recall"]) for row in lines.rest], [_lost(row) for row in lines.rest]
            traces.append(_cloud(more, x=x, y=y, rows=lines.rest, hover=hover))
        drawn.append(
            {
                "setting": " · ".join(part.prefix + part.of(known[0]) for part in SETTING if part.of(known[0])),
                "caption": "nDCG@10 with exact search less nDCG@10 through the index: what is lost by not searching exactly. Differences "
                "below zero are chance. No interval: the two are means over the same queries.",
                "data": traces,
                "layout": {
                    "xaxis": axis.layout(f"recall@{known[0]['k']}"),
                    "yaxis": {
                        "title": {"text": "nDCG@10 lost"},
                        "tickformat": ".3~f",
                        "range": _with_margin([_lost(row) for row in known]),
                    },
                },
            }
        )
    return drawn


def _with_margin(values: Sequence[float]) -> list[float]:
    """Return the ends of a linear axis that has zero and all values well inside."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low) or 0.01
    return [low - margin, high + margin]


def _lost(row: Row) -> float:
    return float(row["ndcg_at_10_exact"]) - float(row["ndcg_at_10"])


# ------------------------------------------------------------------------------------------------ load


def latency_load(section: Section) -> list[Figure]:
    """Return latency against the clients of a closed loop, and against the rate of an open one, where several were asked for."""
    drawn = []
    for column, title, unit in (
        ("concurrency", "clients, each with one request under way", ""),
        ("rate_per_s", "requests offered a second", "1/s"),
    ):
        lines: dict[tuple[Any, ...], list[Row]] = {}
        for row in section.search:
            if row[column] is not None and row["search_latency_p50_s"] is not None:
                lines.setdefault(
                    tuple(row[name] for name in ("key", "search_params", "k", "nq", "selectivity", "churn_per_s", "target_recall")), []
                ).append(row)
        rising = [sorted(line, key=lambda row: float(row[column])) for line in lines.values() if len({row[column] for row in line}) > 1]
        if not rising:
            continue
        rising.sort(key=lambda line: (not any(id(row) in section.fronts for row in line), not any(id(row) in section.near for row in line)))
        shown = rising[:LINES]
        named = _Named([row for line in shown for row in line], (*LINE, SEARCH, TARGET, K, FILTER, NQ, CHURN), INDEX, SEARCH)
        for figure, what in _LATENCIES:
            known = [line for line in ([row for row in line if row[figure] is not None] for line in shown) if line]
            if not known:
                continue
            rows = [row for line in known for row in line]
            traces = []
            for place, line in enumerate(known):
                name = named.name(line[0])
                traces += _line(
                    place,
                    name,
                    line,
                    x=[float(row[column]) for row in line],
                    figure=figure,
                    error_x=None,
                    band=[(float(row[column]), row) for row in line],
                    hover=[_hover(row, name, RATE if column == "rate_per_s" else SEARCH, (figure, "qps", "recall")) for row in line],
                )
            low, high = min(float(row[column]) for row in rows), max(float(row[column]) for row in rows)
            left = f" The {len(rising) - len(shown)} lines away from the fronts are left out." if len(rising) > len(shown) else ""
            drawn.append(
                {
                    "setting": f"{what} · {'closed loop' if column == 'concurrency' else 'open loop, latency from when a request was due'}",
                    "caption": f"Where a line turns up as load rises, the store or its client is at its limit. {_BANDS}{left}",
                    "data": traces,
                    "layout": {
                        "xaxis": _sizes_axis(f"{title} ({unit})" if unit else title, sorted({row[column] for row in rows}), low, high),
                        "yaxis": log_layout(f"{what} (ms)", *_range(rows, figure)),
                    },
                }
            )
    return drawn


def _sizes_axis(title: str, values: Sequence[float], low: float, high: float) -> Figure:
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


# ------------------------------------------------------------------------------------------------ embedding


def throughput_batch(section: Section) -> list[Figure]:
    """Return throughput against batch size, the forward pass alone and the whole pipeline, with the knee where one was found."""
    rows = [row for row in section.embed if row["batch_size"] is not None]
    rows = [row for row in rows if row["throughput_per_s"] is not None or row["pipeline_per_s"] is not None]
    if not rows:
        return []
    named = _Named(rows, (MODEL, DEVICE, DTYPE, MACHINE), MODEL)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(named.name(row), []).append(row)
    traces: list[Figure] = []
    knees: list[tuple[str, Row]] = []
    for place, (name, line) in enumerate(list(lines.items())[:LINES]):
        for figure, title, dash, symbol in (
            ("throughput_per_s", "forward alone", "dot", "-open"),
            ("pipeline_per_s", "pipeline", "solid", ""),
        ):
            known = sorted((row for row in line if row[figure] is not None), key=lambda row: int(row["batch_size"]))
            if known:
                drawn = _line(
                    place,
                    f"{name}, {title}",
                    known,
                    x=[row["batch_size"] for row in known],
                    figure=figure,
                    error_x=None,
                    band=[(row["batch_size"], row) for row in known],
                    hover=[_hover(row, f"{name}, {title}", BATCH, (figure, "batch_latency_p50_s", "peak_rss_bytes")) for row in known],
                )
                drawn[-1]["line"]["dash"] = dash
                drawn[-1]["marker"]["symbol"] = SYMBOLS[place % len(SYMBOLS)] + symbol
                traces += drawn
        knees += [(name, row) for row in line if row["batch_size"] == row["knee_batch_size"] and row["throughput_per_s"] is not None]
    if knees:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "knee",
                "x": [row["batch_size"] for _, row in knees],
                "y": [row["throughput_per_s"] for _, row in knees],
                "text": [
                    f"<b>{escape(name)}</b><br>knee: no larger batch is more than 5 % faster than {row['batch_size']}"
                    for name, row in knees
                ],
                "hovertemplate": "%{text}<extra></extra>",
                "customdata": [anchor(row) for _, row in knees],
                "marker": {"size": 19, "symbol": "circle-open"},
                "meta": {"colour": "knee"},
            }
        )
    highest = max(_range(rows, name)[1] for name in ("throughput_per_s", "pipeline_per_s"))
    sizes = sorted({int(row["batch_size"]) for row in rows})
    words = [
        "Items a second. A corpus pass reaches the pipeline's rate; the forward pass is its limit.",
        "The ring is the knee: the smallest batch from which no larger one is more than 5 % faster." if knees else "",
        _BANDS,
        f"The first {LINES} of {len(lines)} lines; the table has all." if len(lines) > LINES else "",
    ]
    return [
        {
            "setting": "",
            "caption": " ".join(filter(None, words)),
            "data": traces,
            "layout": {
                "xaxis": _sizes_axis("batch size", sizes, sizes[0] / 1.2, sizes[-1] * 1.2),
                "yaxis": {"title": {"text": "items/s"}, "range": [0, highest]},
            },
        }
    ]


def batch_parts(section: Section) -> list[Figure]:
    """Return how an item's time is shared among the stages of a batch, in time and as shares."""
    rows = [row for row in section.embed if row["batch_size"] and sum(row[stage] or 0.0 for stage in STAGES) > 0]
    rows = section.foremost(rows, BARS)
    if not rows:
        return []
    named = _Named(rows, (MODEL, DEVICE, DTYPE, BATCH, MACHINE), MODEL, BATCH)
    caption = "Stages timed one after the other; in the pipeline, preparation overlaps with the forward pass." + _left_out(
        rows, section.embed
    )
    drawn = []
    for shares in (False, True):
        stacks = []
        for place, stage in enumerate(STAGES):
            if any(row[stage] is not None for row in rows):
                title = SHOWN[stage].title
                texts = [
                    f"<b>{escape(named.name(row))}</b><br>{title}: {number(stage, row[stage])} ms a batch, "
                    f"{share((row[stage] or 0.0) / _total(row))}"
                    for row in rows
                ]
                sizes = [(row[stage] or 0.0) / (_total(row) / 100 if shares else row["batch_size"] / 1e3) for row in rows]
                stacks.append((title, place, sizes, texts))
        totals = [f"{1e3 * _total(row) / row['batch_size']:,.3g} ms" for row in rows]
        drawn.append(
            _bars(
                rows,
                [named.name(row) for row in rows],
                totals,
                stacks,
                setting="share" if shares else "time an item",
                title="share of the time (%)" if shares else "time an item (ms)",
                caption=caption,
            )
        )
    return drawn


def _total(row: Row) -> float:
    return float(sum(row[stage] or 0.0 for stage in STAGES))


# ------------------------------------------------------------------------------------------------ bars of searching


def search_parts(section: Section) -> list[Figure]:
    """Return what of a median search by one client is the asking, what the number of rows costs anyway, and what the index adds."""
    rows = [
        row
        for row in section.search
        if row["concurrency"] == 1
        and row["nq"] in (None, 1)
        and row["churn_per_s"] is None
        and None not in (row["search_latency_p50_s"], row["round_trip_p50_s"], row["floor_p50_s"])
    ]
    stores: dict[str, list[Row]] = {}
    for row in rows:
        stores.setdefault(str(row["store"]), []).append(row)  # a network away from each other: one axis would show only the slower
    return [_search_bars(store if len(stores) > 1 else "", found, section) for store, found in stores.items()]


def _search_bars(setting: str, rows: Sequence[Row], section: Section) -> Figure:
    chosen = section.foremost(rows, BARS)
    named = _Named(chosen, (*LINE, SEARCH, TARGET, K, FILTER), INDEX, SEARCH)
    parts = [_search_shares(row) for row in chosen]
    stacks = []
    for place, title in enumerate(("round trip", "floor", "above the floor")):
        texts = [
            f"<b>{escape(named.name(row))}</b><br>{title}: {number('search_latency_p50_s', took[place])} ms, "
            f"{share(took[place] / sum(took))}<br>recall: {number('recall', row['recall'])}"
            for row, took in zip(chosen, parts, strict=True)
        ]
        stacks.append((title, place, [1e3 * took[place] for took in parts], texts))
    return _bars(
        chosen,
        [named.name(row) for row in chosen],
        [f"{number('search_latency_p50_s', row['search_latency_p50_s'])} ms" for row in chosen],
        stacks,
        setting=setting,
        title="median latency (ms)",
        caption="Round trip: a search in a near-empty collection. Floor: what as many rows cost beyond that under the cheapest index "
        "in two dimensions. Only what lies above can the choice of index change." + _left_out(chosen, rows),
    )


def _search_shares(row: Row) -> tuple[float, float, float]:
    """Return round trip, the rest of the floor and the rest of the latency; where a median lies below its part, the part ends with it."""
    whole = float(row["search_latency_p50_s"])
    trip = min(float(row["round_trip_p50_s"]), whole)
    floor = min(max(float(row["floor_p50_s"]), trip), whole)
    return trip, floor - trip, whole - floor


def build_time(section: Section) -> list[Figure]:
    """Return how long each index takes to fill, to build and to become ready."""
    cells = {row["key"]: row for row in section.search if any(row[name] is not None for name in _BUILDING)}
    best = {row["key"] for row in section.search if id(row) in section.near}
    rows = sorted(cells.values(), key=lambda row: row["key"] not in best)[:BARS] if len(cells) > BARS else list(cells.values())
    if not rows:
        return []
    named = _Named(rows, LINE, INDEX)
    stacks = []
    for place, name in enumerate(_BUILDING):
        if any(row[name] is not None for row in rows):
            title = SHOWN[name].title
            texts = [
                f"<b>{escape(named.name(row))}</b><br>{title}: {number(name, row[name])} s "
                f"{interval(name, *(row[column] for column in _columns(name)))}"
                for row in rows
            ]
            stacks.append((title, place, [row[name] or 0.0 for row in rows], texts))
    totals = [f"{sum(row[name] or 0.0 for name in _BUILDING):,.3g} s" for row in rows]
    caption = "The whole corpus inserted, the index built, and the wait until the store itself says that it is ready."
    caption += _left_out(rows, list(cells.values()))
    return [_bars(rows, [named.name(row) for row in rows], totals, stacks, setting="", title="time (s)", caption=caption)]


_BUILDING = ("insert_s", "build_s", "ready_s")


# ------------------------------------------------------------------------------------------------ parts of pictures


class _Named:
    """Names of lines, each with what is needed to tell it from the others, and the same place (colour, marker) in every picture."""

    def __init__(self, rows: Sequence[Row], parts: Sequence[Part], *always: Part) -> None:
        builds = {(row["index"], row["build_params"]) for row in rows}
        needed = len(builds) > len({index for index, _ in builds})
        told = [part for part in varying(rows, parts) if part in parts and (part is not BUILD or needed)]
        self._parts = [*always, *(part for part in told if part not in always)]
        self.of = {row["key"]: self.name(row) for row in rows}
        self._places = {key: place for place, key in enumerate(self.of)}

    def name(self, row: Row) -> str:
        return label(row, self._parts)

    def place(self, key: str) -> int:
        return self._places[key]


@dataclass(frozen=True)
class _Lines:
    own: tuple[str, ...]
    """Keys of the cells that have a line."""
    rest: tuple[Row, ...]
    """The points of all others."""


def _lines(rows: Sequence[Row], section: Section) -> _Lines:
    """Return which cells get a line of their own, where there are too many those on a front and then those near one."""
    keys = list(dict.fromkeys(row["key"] for row in rows))
    if len(keys) > LINES:
        on = {row["key"] for row in rows if id(row) in section.fronts}
        near = {row["key"] for row in rows if id(row) in section.near}
        first = sorted(keys, key=lambda key: (key not in on, key not in near))[:LINES]
        keys = [key for key in keys if key in set(first)]
    own = set(keys)
    return _Lines(tuple(keys), tuple(row for row in rows if row["key"] not in own))


def _left_out(shown: Sequence[Row], rows: Sequence[Row]) -> str:
    return f" {len(shown)} of {len(rows)}, those nearest the fronts; the table has all." if len(rows) > len(shown) else ""


def _line(
    place: int,
    name: str,
    rows: Sequence[Row],
    *,
    x: Sequence[float],
    figure: str,
    error_x: Figure | None,
    band: Sequence[tuple[float, Row]],
    hover: Iterable[str],
) -> list[Figure]:
    """Return a line of one figure, its band of intervals before it; points without neighbours have bars instead."""
    bounded = [(at, row) for at, row in band if row[f"{figure}_lo"] is not None and row[f"{figure}_hi"] is not None]
    wide = len({at for at, _ in bounded}) > 1
    y = [scaled(figure, row[figure]) for row in rows]
    ends = [_ends(figure, row) for row in rows]
    trace = _trace(place, name, rows, x=x, y=y, hover=hover, error_x=error_x, error_y=None if wide else _errors(y, ends))
    if not wide:
        return [trace]
    highs = [(_ends(figure, row) or (0.0, 0.0))[1] for _, row in bounded]
    lows = [(_ends(figure, row) or (0.0, 0.0))[0] for _, row in bounded]
    places = [at for at, _ in bounded]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": trace["name"],
            "x": [*places, *reversed(places)],
            "y": [*highs, *reversed(lows)],
            "fill": "toself",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": trace["name"],
            "meta": {"colour": place, "band": True},
        },
        trace,
    ]


def _trace(
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
    unreal = any(is_random(row) for row in rows)
    trace: Figure = {
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
    return trace | {axis: errors for axis, errors in (("error_x", error_x), ("error_y", error_y)) if errors}


def _cloud(name: str, *, x: Sequence[float], y: Sequence[float], rows: Sequence[Row], hover: Sequence[str]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "x": list(x),
        "y": list(y),
        "text": list(hover),
        "customdata": [anchor(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 6, "symbol": "circle-open"},
        "meta": {"colour": "aside"},
    }


def _bars(
    rows: Sequence[Row],
    names: Sequence[str],
    totals: Sequence[str],
    stacks: Sequence[tuple[str, int, Sequence[float], Sequence[str]]],
    *,
    setting: str,
    title: str,
    caption: str,
) -> Figure:
    """Return stacked horizontal bars, each with its name and total above it, so that long names fit a phone."""
    places = list(range(len(rows)))
    return {
        "setting": setting,
        "caption": caption,
        "height": 40 * len(rows) + 110,
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(name),
                "x": list(values),
                "y": places,
                "width": 0.42,
                "text": list(texts),
                "textposition": "none",
                "hovertemplate": "%{text}<extra></extra>",
                "customdata": [anchor(row) for row in rows],
                "marker": {"pattern": {"shape": PATTERNS[colour % len(PATTERNS)], "size": 6, "solidity": 0.25}},
                "meta": {"colour": f"stage-{colour}"},
            }
            for name, colour, values, texts in stacks
        ],
        "layout": {
            "barmode": "stack",
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"range": [len(rows) - 0.5, -0.8], "showticklabels": False, "ticks": "", "showgrid": False, "fixedrange": True},
            "annotations": [
                {
                    "x": 0,
                    "y": place - 0.21,
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "yshift": 1,
                    "showarrow": False,
                    "text": f"{escape(name)}  <b>{escape(total)}</b>",
                    "font": {"size": 12},
                }
                for place, (name, total) in enumerate(zip(names, totals, strict=True))
            ],
        },
    }


def _range(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the ends of an axis: all values with their intervals, but an interval far wider than its value is cut by the frame."""
    values = [scaled(name, row[name]) for row in rows if row[name] is not None]
    lows = [scaled(name, row[f"{name}_lo"]) for row in rows if row[f"{name}_lo"] is not None]
    highs = [scaled(name, row[f"{name}_hi"]) for row in rows if row[f"{name}_hi"] is not None]
    if not values:
        return 1.0, 1.0
    smallest, largest = min(values), max(values)
    return max(min([smallest, *lows]), smallest / _CUT) / 1.15, min(max([largest, *highs]), largest * _CUT) * 1.15


def _columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}_lo", f"{name}_hi"


def _ends(figure: str, row: Row) -> tuple[float, float] | None:
    """Return an interval's ends as drawn: above zero, which a logarithmic axis does not have."""
    value, lo, hi = (None if row[column] is None else scaled(figure, row[column]) for column in _columns(figure))
    return None if value is None or lo is None or hi is None else (max(lo, 0.001 * value), hi)


def _errors(values: Sequence[float], ends: Sequence[tuple[float, float] | None]) -> Figure:
    """Return plotly's error bars; a point without an interval has none."""
    up = [0.0 if end is None else max(end[1] - value, 0.0) for value, end in zip(values, ends, strict=True)]
    down = [0.0 if end is None else max(value - end[0], 0.0) for value, end in zip(values, ends, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3}


def _hover(row: Row, name: str, part: Part, figures: Sequence[str]) -> str:
    lines = [f"<b>{escape(name)}</b>", escape(f"{part.prefix}{part.of(row)}")]
    for figure in figures:
        if row[figure] is not None:
            shown = SHOWN[figure]
            between = interval(figure, *(row[column] for column in _columns(figure)))
            title = (
                shown.title
                if not shown.title.startswith("p") or shown.title in ("pipeline", "process")
                else f"{shown.group.lower()}, {shown.title}"
            )
            words = (number(figure, row[figure]), shown.unit, f"{between}{WITHIN if is_within(row, figure) else ''}")
            lines.append(escape(f"{title}: {' '.join(word for word in words if word)}"))
    for load in (CONCURRENCY, RATE, P99_TARGET):
        if load.of(row) and load is not part:
            lines.append(escape(load.prefix + load.of(row)))
    return "<br>".join(line for line in lines if line)
