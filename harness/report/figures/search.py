"""Where a search's time goes, and what building the index takes."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.figures.bars import BARS, Stack, bars, left_out, stacks_of
from harness.report.figures.parts import Figure, Named, columns
from harness.report.rows import CELL, FILTER, INDEX, SEARCH, TARGET, K, Row, Section
from harness.report.units import interval, number, share

_BUILDING = ("insert_s", "build_s")


def search_parts(section: Section) -> list[Figure]:
    """Return what of a median search by one client is the asking, what the number of rows costs anyway, and what the index adds."""
    stores: dict[str, list[Row]] = {}  # a network away from each other: one axis would show only the slower
    for row in section.search:
        known = None not in (row["search_latency_p50_s"], row["round_trip_p50_s"], row["floor_p50_s"])
        if known and row["concurrency"] == 1 and row["nq"] in (None, 1) and row["churn_per_s"] is None:
            stores.setdefault(str(row["store"]), []).append(row)
    return [_search_bars(store if len(stores) > 1 else "", found, section) for store, found in stores.items()]


def _search_bars(setting: str, rows: Sequence[Row], section: Section) -> Figure:
    chosen = section.foremost(rows, BARS)
    named = Named(chosen, (*CELL, SEARCH, TARGET, K, FILTER), INDEX, SEARCH)
    parts = [_search_shares(row) for row in chosen]
    stacks = [
        Stack(
            title,
            place,
            tuple(1e3 * took[place] for took in parts),
            tuple(
                f"{number('search_latency_p50_s', took[place])} ms, {share(took[place] / sum(took))}<br>"
                f"recall: {number('recall', row['recall'])}"
                for row, took in zip(chosen, parts, strict=True)
            ),
        )
        for place, title in enumerate(("round trip", "floor", "above the floor"))
    ]
    return bars(
        chosen,
        named,
        [f"{number('search_latency_p50_s', row['search_latency_p50_s'])} ms" for row in chosen],
        stacks,
        setting=setting,
        title="median latency (ms)",
        caption="Round trip: a search in a near-empty collection. Floor: what as many rows cost beyond that under the cheapest index "
        "in two dimensions. Only what lies above can the choice of index change." + left_out(chosen, rows),
    )


def _search_shares(row: Row) -> tuple[float, float, float]:
    """Return round trip, the rest of the floor and the rest of the latency; where a median lies below its part, the part ends with it."""
    whole = float(row["search_latency_p50_s"])
    trip = min(float(row["round_trip_p50_s"]), whole)
    floor = min(max(float(row["floor_p50_s"]), trip), whole)
    return trip, floor - trip, whole - floor


def build_time(section: Section) -> list[Figure]:
    """Return how long each index takes to fill, and to build until it is ready."""
    cells = list({row["key"]: row for row in section.search if any(row[name] is not None for name in _BUILDING)}.values())
    best = {row["key"] for row in section.search if id(row) in section.near}
    rows = sorted(cells, key=lambda row: row["key"] not in best)[:BARS] if len(cells) > BARS else cells
    if not rows:
        return []
    stacks = stacks_of(
        _BUILDING,
        rows,
        size=lambda row, name: row[name] or 0.0,
        told=lambda row, name: f"{number(name, row[name])} s {interval(name, *(row[column] for column in columns(name)))}",
    )
    totals = [f"{sum(row[name] or 0.0 for name in _BUILDING):,.3g} s" for row in rows]
    caption = "The whole corpus inserted, and the index built until the store itself says that it is ready."
    return [bars(rows, Named(rows, CELL, INDEX), totals, stacks, setting="", title="time (s)", caption=caption + left_out(rows, cells))]
