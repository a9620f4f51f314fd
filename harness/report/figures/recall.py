"""What stands against recall: latency, rate, memory, and the quality that an index costs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.axis import RecallAxis, log_layout
from harness.report.figures.parts import (
    BANDS,
    LATENCIES,
    Figure,
    Named,
    aside,
    cloud,
    errors,
    escape,
    hover_of,
    line,
    lines_of,
    range_of,
    trace,
)
from harness.report.rows import CELL, COMPARED, INDEX, SEARCH, SETTING, Row, Section, compared, front, is_random, label, varying
from harness.report.units import SHOWN, scaled

_RATES = (("qps", "queries a second"), ("max_rate_at_p99_per_s", "highest rate within the p99 target"))
_SIZES = (
    ("index_bytes", "size of the index"),
    ("server_rss_bytes", "server process"),
    ("peak_rss_bytes", "measuring process, store included"),
)
_FRONT = "The wide line is the Pareto front: no other point is better in both."
_NO_FRONT = "These are vectors of random weights, so no front is drawn."
_KNOB = "Each point is one setting of an index's search parameter."
_QUALITY = ("recall", "ndcg_at_10", "ndcg_at_10_exact")
_WAYS = 4
"""Ways of asking that the quality lost is drawn for at most: it hangs on the index and its knob alone."""


def recall_latency(section: Section) -> list[Figure]:
    """Return recall against median latency and its 99th percentile, for each way of asking."""
    return _against_recall(section, LATENCIES, "down", settings=_settings(section, "search_latency_p50_s"))


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
            groups.setdefault(tuple(part.of(row) for part in SETTING), []).append(row)
    return sorted(groups.values(), key=len, reverse=True)


def _asked(row: Row) -> list[str]:
    return [part.prefix + part.of(row) for part in SETTING if part.of(row)]


def _against_recall(
    section: Section, figures: Sequence[tuple[str, str]], better: str, *, settings: Sequence[Sequence[Row]]
) -> list[Figure]:
    named = Named(section.search, CELL, INDEX)
    drawn = []
    for rows in settings:
        for figure, title in figures:
            known = [row for row in rows if row[figure] is not None and row[figure] > 0]
            if known and (figure != "max_rate_at_p99_per_s" or known[0]["p99_target_s"] is not None):
                drawn.append(_recall_figure(section, named, known, figure, title, better))
    return drawn


def _recall_figure(section: Section, named: Named, rows: Sequence[Row], figure: str, title: str, better: str) -> Figure:
    axis = RecallAxis.over(row["recall"] for row in rows)
    fronts = _fronts(rows, figure, axis)
    shown = tuple(dict.fromkeys(("recall", figure, "search_latency_p50_s", "qps", "ndcg_at_10")))

    def at(row: Row) -> float:
        return axis.at(row["recall"])

    def hover(row: Row) -> str:
        return hover_of(row, named.of[row["key"]], SEARCH, shown)

    lines = lines_of(rows, section)
    traces = list(fronts)
    for key in lines.own:
        own = [row for row in rows if row["key"] == key]
        traces += line(
            named.place(key),
            named.of[key],
            own,
            x=at,
            figure=figure,
            hover=hover,
            error_x=errors([at(row) for row in own], [_placed(axis, row) for row in own]),
            band=sorted(own, key=lambda row: (row["recall"], row[figure])),
        )
    traces += cloud(lines, x=at, y=lambda row: scaled(figure, row[figure]), hover=hover)
    words = [
        _KNOB,
        BANDS if any(row[f"{figure}_lo"] is not None for row in rows) else "",
        f"Better is to the right and {better}; the recall axis is logit, so that 0.99 and 0.999 stand apart.",
        _FRONT if fronts else _NO_FRONT if all(map(is_random, rows)) else "",
        aside(lines),
    ]
    return {
        "setting": " · ".join([title, *_asked(rows[0])]),
        "caption": " ".join(filter(None, words)),
        "data": traces,
        "layout": {
            "xaxis": axis.layout(f"recall@{rows[0]['k']}"),
            "yaxis": log_layout(f"{title} ({SHOWN[figure].unit})", *range_of(rows, figure)),
        },
    }


def _fronts(rows: Sequence[Row], figure: str, axis: RecallAxis) -> list[Figure]:
    """Return the front of each group of points that may be ranked."""
    groups = [group for group in compared(rows) if len(group) > 1]
    of = [part for part in varying([group[0] for group in groups], COMPARED) if part in COMPARED]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(" · ".join(["Pareto front", *([label(group[0], of)] if of else [])])),
            "x": [axis.at(row["recall"]) for row in best],
            "y": [scaled(figure, row[figure]) for row in best],
            "line": {"shape": "vh", "width": 7},
            "hoverinfo": "skip",
            "meta": {"colour": "front"},
        }
        for group in groups
        if len(best := front(group, figure)) > 1
    ]


def _placed(axis: RecallAxis, row: Row) -> tuple[float, float] | None:
    return None if row["recall_lo"] is None or row["recall_hi"] is None else (axis.at(row["recall_lo"]), axis.at(row["recall_hi"]))


def quality_lost(section: Section) -> list[Figure]:
    """Return what an index costs in quality, nDCG@10 with exact search less nDCG@10 through the index, against its recall.

    No interval is drawn: both are means over the same queries, so that the interval of their difference follows from neither of theirs.
    """
    named = Named(section.search, CELL, INDEX)
    ways = [[row for row in rows if row["ndcg_at_10_exact"] is not None] for rows in _settings(section, "ndcg_at_10")[:_WAYS]]
    return [_quality_figure(section, named, rows) for rows in ways if rows]


def _quality_figure(section: Section, named: Named, rows: Sequence[Row]) -> Figure:
    axis = RecallAxis.over(row["recall"] for row in rows)

    def at(row: Row) -> float:
        return axis.at(row["recall"])

    def hover(row: Row) -> str:
        return hover_of(row, named.of[row["key"]], SEARCH, _QUALITY)

    lines = lines_of(rows, section)
    traces = []
    for key in lines.own:
        own = [row for row in rows if row["key"] == key]
        traces.append(trace(named.place(key), named.of[key], own, x=list(map(at, own)), y=list(map(_lost, own)), hover=map(hover, own)))
    return {
        "setting": " · ".join(_asked(rows[0])),
        "caption": "nDCG@10 with exact search less nDCG@10 through the index: what is lost by not searching exactly. Differences "
        f"below zero are chance. No interval: the two are means over the same queries. {aside(lines)}".rstrip(),
        "data": [*traces, *cloud(lines, x=at, y=_lost, hover=hover)],
        "layout": {
            "xaxis": axis.layout(f"recall@{rows[0]['k']}"),
            "yaxis": {"title": {"text": "nDCG@10 lost"}, "tickformat": ".3~f", "range": _with_margin(list(map(_lost, rows)))},
        },
    }


def _with_margin(values: Sequence[float]) -> list[float]:
    """Return the ends of a linear axis that has zero and all values well inside."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.06 * (high - low) or 0.01
    return [low - margin, high + margin]


def _lost(row: Row) -> float:
    return float(row["ndcg_at_10_exact"]) - float(row["ndcg_at_10"])
