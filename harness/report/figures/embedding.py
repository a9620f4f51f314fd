"""Embedding: throughput against batch size, and where a batch's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.interfaces import STAGES as STAGE_NAMES
from harness.report.figures.bars import BARS, bars, left_out, stacks_of
from harness.report.figures.parts import BANDS, LINES, SYMBOLS, Figure, Named, escape, hover_of, line, range_of, values_axis
from harness.report.rows import BATCH, CURVE, MODEL, Row, Section, anchor, batch_curves
from harness.report.units import number, share

STAGES = tuple(f"{stage}_s" for stage in STAGE_NAMES)
_RATES = (("throughput_per_s", "forward alone", "dot", "-open"), ("pipeline_per_s", "pipeline", "solid", ""))


def throughput_batch(section: Section) -> list[Figure]:
    """Return throughput against batch size, the forward pass alone and the whole pipeline, with the knee where one was found."""
    rows = [row for row in section.embed if row["batch_size"] is not None]
    rows = [row for row in rows if row["throughput_per_s"] is not None or row["pipeline_per_s"] is not None]
    if not rows:
        return []
    named = Named(rows, CURVE, MODEL)
    curves = batch_curves(rows)
    traces = [one for place, curve in enumerate(curves[:LINES]) for one in _curve(place, named.name(curve[0]), curve)]
    knees = [
        row
        for curve in curves[:LINES]
        for row in curve
        if row["batch_size"] == row["knee_batch_size"] and row["throughput_per_s"] is not None
    ]
    sizes = sorted({int(row["batch_size"]) for row in rows})
    words = [
        "Items a second. A corpus pass reaches the pipeline's rate; the forward pass is its limit.",
        "The ring is the knee: the smallest batch from which no larger one is more than 5 % faster." if knees else "",
        BANDS,
        f"The first {LINES} of {len(curves)} lines; the table has all." if len(curves) > LINES else "",
    ]
    return [
        {
            "setting": "",
            "caption": " ".join(filter(None, words)),
            "data": [*traces, *([_rings(knees, named)] if knees else [])],
            "layout": {
                "xaxis": values_axis("batch size", sizes, sizes[0] / 1.2, sizes[-1] * 1.2),
                "yaxis": {"title": {"text": "items/s"}, "range": [0, max(range_of(rows, name)[1] for name, *_ in _RATES)]},
            },
        }
    ]


def _curve(place: int, name: str, rows: Sequence[Row]) -> list[Figure]:
    traces = []
    for figure, title, dash, symbol in _RATES:
        known = sorted((row for row in rows if row[figure] is not None), key=lambda row: int(row["batch_size"]))
        if known:
            called = f"{name}, {title}"
            drawn = line(
                place,
                called,
                known,
                x=lambda row: row["batch_size"],
                figure=figure,
                hover=partial(hover_of, name=called, part=BATCH, figures=(figure, "batch_latency_p50_s", "peak_rss_bytes")),
            )
            drawn[-1]["line"]["dash"] = dash
            drawn[-1]["marker"]["symbol"] = SYMBOLS[place % len(SYMBOLS)] + symbol
            traces += drawn
    return traces


def _rings(knees: Sequence[Row], named: Named) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "knee",
        "x": [row["batch_size"] for row in knees],
        "y": [row["throughput_per_s"] for row in knees],
        "text": [
            f"<b>{escape(named.name(row))}</b><br>knee: no larger batch is more than 5 % faster than {row['batch_size']}" for row in knees
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "customdata": [anchor(row) for row in knees],
        "marker": {"size": 19, "symbol": "circle-open"},
        "meta": {"colour": "knee"},
    }


def batch_parts(section: Section) -> list[Figure]:
    """Return how an item's time is shared among the stages of a batch, in time and as shares."""
    known = [row for row in section.embed if row["batch_size"] and _total(row) > 0]
    rows = section.foremost(known, BARS)
    if not rows:
        return []
    named = Named(rows, (*CURVE, BATCH), MODEL, BATCH)
    caption = "Stages timed one after the other; in the pipeline, preparation overlaps with the forward pass." + left_out(rows, known)
    totals = [f"{1e3 * _total(row) / row['batch_size']:,.3g} ms" for row in rows]

    def told(row: Row, stage: str) -> str:
        return f"{number(stage, row[stage])} ms a batch, {share((row[stage] or 0.0) / _total(row))}"

    times = stacks_of(STAGES, rows, size=lambda row, stage: 1e3 * (row[stage] or 0.0) / row["batch_size"], told=told)
    shares = stacks_of(STAGES, rows, size=lambda row, stage: 100 * (row[stage] or 0.0) / _total(row), told=told)
    return [
        bars(rows, named, totals, times, setting="time an item", title="time an item (ms)", caption=caption),
        bars(rows, named, totals, shares, setting="share", title="share of the time (%)", caption=caption),
    ]


def _total(row: Row) -> float:
    return float(sum(row[stage] or 0.0 for stage in STAGES))
