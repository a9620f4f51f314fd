"""Latency under load: against the clients of a closed loop, and against the rate of an open one."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness.report.axis import log_layout
from harness.report.figures.parts import BANDS, LATENCIES, LINES, Figure, Named, hover_of, line, range_of, values_axis
from harness.report.rows import CELL, CHURN, FILTER, INDEX, NQ, RATE, SEARCH, TARGET, K, Row, Section

_LOADS = (
    ("concurrency", "clients, each with one request under way", "closed loop", SEARCH),
    ("rate_per_s", "requests offered a second (1/s)", "open loop, latency from when a request was due", RATE),
)
_SAME = ("key", "search_params", "k", "nq", "selectivity", "churn_per_s", "target_recall")
"""What the points of one line have in common: all but the load."""


def latency_load(section: Section) -> list[Figure]:
    """Return latency against the clients of a closed loop, and against the rate of an open one, where several were asked for."""
    drawn = []
    for column, title, loop, part in _LOADS:
        rising = _rising(section, column)
        shown = rising[:LINES]
        named = Named([row for rows in shown for row in rows], (*CELL, SEARCH, TARGET, K, FILTER, NQ, CHURN), INDEX, SEARCH)
        left = f" The {len(rising) - len(shown)} lines away from the fronts are left out." if len(rising) > len(shown) else ""
        for figure, what in LATENCIES:
            known = [rows for rows in ([row for row in rows if row[figure] is not None] for rows in shown) if rows]
            if not known:
                continue
            rows = [row for own in known for row in own]
            loads = sorted({float(row[column]) for row in rows})
            drawn.append(
                {
                    "setting": f"{what} · {loop}",
                    "caption": f"Where a line turns up as load rises, the store or its client is at its limit. {BANDS}{left}",
                    "data": [
                        one
                        for place, own in enumerate(known)
                        for one in line(
                            place,
                            named.name(own[0]),
                            own,
                            x=partial(_load, column),
                            figure=figure,
                            hover=partial(hover_of, name=named.name(own[0]), part=part, figures=(figure, "qps", "recall")),
                        )
                    ],
                    "layout": {
                        "xaxis": values_axis(title, loads, loads[0], loads[-1]),
                        "yaxis": log_layout(f"{what} (ms)", *range_of(rows, figure)),
                    },
                }
            )
    return drawn


def _load(column: str, row: Row) -> float:
    return float(row[column])


def _rising(section: Section, column: str) -> list[list[Row]]:
    """Return the lines that have several loads, by rising load; those with a point on a front come first, then those near one."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in section.search:
        if row[column] is not None and row["search_latency_p50_s"] is not None:
            lines.setdefault(tuple(row[name] for name in _SAME), []).append(row)
    rising = [sorted(rows, key=lambda row: float(row[column])) for rows in lines.values() if len({row[column] for row in rows}) > 1]
    return sorted(
        rising, key=lambda rows: (not any(id(row) in section.fronts for row in rows), not any(id(row) in section.near for row in rows))
    )
