"""The tables, before anyone decides whether they go to a terminal, to Markdown or to a web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from harness.report.rows import (
    ALWAYS,
    BATCH,
    BUILD,
    MODEL,
    PARTS,
    WORKERS,
    CellKind,
    Part,
    Row,
    by_name,
    constant,
    index_in_two_builds,
    is_random,
    label,
    varying,
)
from harness.report.units import NULL, SHOWN, WITHIN, interval, number, plural

TITLES: Mapping[CellKind, str] = {"search": "Search", "embed": "Embedding", "corpus": "Workers"}
_EMBED_FIGURES = (
    "pipeline_per_s", "overlap_bound_per_s", "device_bound_per_s", "throughput_per_s", "units_per_s", "batch_latency_p50_s",
    "batch_latency_p95_s", "query_embed_p50_s", "query_embed_p99_s", "load_s", "first_batch_s", "first_query_s", "compile_s",
    "peak_rss_bytes", "device_peak_bytes", "device_reserved_bytes", "flop_per_s", "mfu", "energy_j_per_1000_items", "requests_per_s",
    "retries", "rate_limited", "truncated_share",
)  # fmt: skip
_SEARCH_FIGURES = (
    "recall", "recall_strict", "search_latency_p50_s", "search_latency_p95_s", "search_latency_p99_s", "qps", "max_rate_at_p99_per_s",
    "errors", "timeouts", "client_cpu", "send_lag_p99_s", "ndcg_at_10",
    "ndcg_at_10_exact", "ndcg_at_10_bm25", "label_recall_at_10", "label_recall_at_10_exact",
    "round_trip_p50_s", "floor_p50_s", "distance_computations", "insert_s", "build_s", "ready_s", "store_files_s", "store_import_s",
    "store_flush_s", "store_build_s", "store_compact_s", "store_load_s", "store_wait_s", "index_bytes", "server_rss_before_bytes",
    "server_rss_bytes", "first_query_s",
    "peak_rss_bytes",
)  # fmt: skip
FIGURES: Mapping[CellKind, tuple[str, ...]] = {
    "search": _SEARCH_FIGURES,
    "embed": _EMBED_FIGURES,
    "corpus": ("corpus_per_s", "scaling_efficiency"),
}
OF_SOME = frozenset((
    "max_rate_at_p99_per_s", "errors", "timeouts", "client_cpu", "send_lag_p99_s", "distance_computations", "store_files_s",
    "store_import_s", "store_flush_s",
    "store_build_s", "store_compact_s", "store_load_s", "store_wait_s", "server_rss_before_bytes", "server_rss_bytes",
))  # fmt: skip
"""Figures that only some loads and stores have; where no row has one, its column would say nothing."""
_EMBED_MAIN = frozenset((
    "pipeline_per_s", "throughput_per_s", "batch_latency_p50_s", "query_embed_p50_s", "query_embed_p99_s", "load_s", "peak_rss_bytes",
    "device_peak_bytes",
))  # fmt: skip
_SEARCH_MAIN = frozenset((
    "recall", "search_latency_p50_s", "search_latency_p99_s", "qps", "max_rate_at_p99_per_s", "errors", "ndcg_at_10", "ndcg_at_10_exact",
    "floor_p50_s", "build_s", "index_bytes",
))  # fmt: skip
MAIN: Mapping[CellKind, frozenset[str]] = {"search": _SEARCH_MAIN, "embed": _EMBED_MAIN, "corpus": frozenset(FIGURES["corpus"])}
"""What a page shows at first; a reader chooses among all."""
BRIEF: Mapping[CellKind, tuple[str, ...]] = {
    "search": ("recall", "search_latency_p50_s", "qps", "ndcg_at_10"),
    "embed": ("pipeline_per_s", "throughput_per_s", "query_embed_p50_s", "peak_rss_bytes"),
    "corpus": FIGURES["corpus"],
}
"""The few that fit a terminal of 80 columns."""

WITHIN_REASON = "within one process"
"""The reason under which records state an interval that rests on the samples of one process."""

ABSENT = "not part of this cell's measurement"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    interval: str = ""
    """What stands beside or under the text: ``[low, high]``, marked where it rests on one process; empty where there is none."""
    note: str = ""
    """What a reader who wonders should be told: why it is null, or what it rests on."""
    sort: float | str | None = None
    lo: float | None = None
    hi: float | None = None
    n: int | None = None
    """The interval's ends and what it rests on, as numbers."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    unit: str = ""
    group: str = ""
    meaning: str = ""
    number: bool = False
    name: str = ""
    """The frame's column."""
    scale: float = 1.0
    """What the frame's value is multiplied by."""
    shown: bool = True
    """Whether a page shows it before a reader has chosen."""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Table:
    """A table and what all of its rows have in common."""

    common: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    absent: tuple[str, ...] = ()
    """Why figures that no row has are missing, each heading and reason once; they have no column."""

    @property
    def within(self) -> bool:
        """Whether an interval in it rests on one process."""
        return any(WITHIN in cell.interval for row in self.rows for cell in row)

    def nulls(self) -> list[str]:
        """Return why figures are missing, each heading and reason once."""
        pairs = (zip(self.columns, row, strict=True) for row in self.rows)
        found = {
            f"{column.group} {column.title}: {cell.note}": None
            for row in pairs
            for column, cell in row
            if column.number and column.group and cell.text == NULL
        }
        return [*found, *self.absent]


def whole_table(kind: CellKind, rows: Sequence[Row]) -> Table:
    """Return everything known about some rows of one kind, a page's default columns marked."""
    parts, always, figures, main = PARTS[kind], ALWAYS[kind], FIGURES[kind], MAIN[kind]
    told = varying(rows, parts)
    named = [*always, *(part for part in parts if part not in always and any(part.of(row) for row in rows))]
    named += [part for part in told if part not in parts]
    unreal = any(is_random(row) for row in rows)
    needed = [part for part in told if part is not BUILD or index_in_two_builds(rows)]
    identity = [
        Column(part.title, number=part.number, name=part.column, shown=part in needed or part in always or (part is MODEL and unreal))
        for part in named
    ]
    units = {str(row["unit"]) for row in rows if row["unit"] is not None}
    reasons = {name for text in {row["reasons"] for row in rows} for name in by_name(text)}
    measured = {name for name in SHOWN if any(row[name] is not None for row in rows)}
    kept = [name for name in (*figures, *(name for name in SHOWN if name not in figures)) if name in measured or name in reasons]
    columns = [
        *identity,
        *(replace(_column(name, units), shown=name in main and name in measured) for name in kept),
        Column("caveats", name="caveats", shown=any(row["caveats"] for row in rows)),
    ]
    cells = [(*(_part(row, part) for part in named), *_cells(row, kept), _caveats(row)) for row in rows]
    return Table(tuple(constant(rows, [part for part in parts if part not in told and part not in always])), tuple(columns), tuple(cells))


def table_of(kind: CellKind, rows: Sequence[Row], figures: Sequence[str] | None = None, *, merged: bool = False) -> Table:
    """Return the table of some rows of one kind, with all of its figures or some; `merged` puts what a row is into one column."""
    parts, always = PARTS[kind], ALWAYS[kind]
    figures = FIGURES[kind] if figures is None else figures
    told = varying(rows, parts)
    shown = [part for part in parts if part in told or part in always or (part is MODEL and any(is_random(row) for row in rows))]
    shown += [part for part in told if part not in parts]
    kept = [name for name in figures if any(row[name] is not None for row in rows)]
    nowhere = [name for name in figures if name not in kept and name not in OF_SOME]
    absent = dict.fromkeys(
        f"{SHOWN[name].group} {SHOWN[name].title}: {reason}"
        for name in nowhere
        for row in rows
        if (reason := by_name(row["reasons"]).get(name))
    )
    units = {str(row["unit"]) for row in rows if row["unit"] is not None}
    caveats = not merged and any(row["caveats"] for row in rows)
    if merged:
        more = [part for part in shown if part not in always and (part is not BUILD or index_in_two_builds(rows))]
        identity = [Column(always[0].title)]
        names = [[_name(row, always, more)] for row in rows]
    else:
        identity = [Column(part.title, number=part.number) for part in shown]
        names = [[_part(row, part) for part in shown] for row in rows]
    columns = [*identity, *(_column(name, units) for name in kept), *([Column("caveats")] if caveats else [])]
    cells = [(*name, *_cells(row, kept), *([_caveats(row)] if caveats else [])) for name, row in zip(names, rows, strict=True)]
    common = constant(rows, [part for part in parts if part not in shown])
    return Table(tuple(common), tuple(columns), tuple(cells), tuple(absent))


def _part(row: Row, part: Part) -> Cell:
    text = part.of(row)
    return _word(text, row[part.column] if part.number else text or None)


@lru_cache(maxsize=4096)
def _word(text: str, sort: float | str | None) -> Cell:
    """Return the cell of what many rows are; the same one for all of them."""
    return Cell(text or NULL, note="" if text else "has none", sort=sort)


def _name(row: Row, first: Sequence[Part], more: Sequence[Part]) -> Cell:
    """Return a row's name as one cell, everything but the first part on lines of its own."""
    lines = [part.prefix * (part in (BATCH, WORKERS)) + part.of(row) for part in first if part.of(row)]
    return Cell(lines[0] if lines else NULL, "\n".join([*lines[1:], *([label(row, more)] if more else [])]))


def _caveats(row: Row) -> Cell:
    return _caveat(row["caveat_texts"])


@lru_cache(maxsize=4096)
def _caveat(found: str | None) -> Cell:
    texts = by_name(found)
    return Cell(", ".join(texts), note=" ".join(texts.values()), sort=", ".join(texts))


def _column(name: str, units: set[str]) -> Column:
    shown = SHOWN[name]
    unit = f"{' or '.join(sorted(units))}/s" if name == "units_per_s" and units else shown.unit
    return Column(shown.title, unit, shown.group, shown.meaning, number=True, name=name, scale=shown.scale)


def _cells(row: Row, names: Sequence[str]) -> list[Cell]:
    """Return a row's figures."""
    reasons = by_name(row["reasons"])
    return [_nothing(reasons.get(name)) if row[name] is None else _cell(row, name, reasons.get(name)) for name in names]


@lru_cache(maxsize=4096)
def _nothing(reason: str | None) -> Cell:
    """Return the cell of what was not measured; the same one for all rows."""
    return Cell(NULL, note=reason or ABSENT)


def _cell(row: Row, name: str, reason: str | None) -> Cell:
    value = row[name]
    lo, hi, n = row[f"{name}_lo"], row[f"{name}_hi"], row[f"{name}_n"]
    within = is_within(row, name)
    between = interval(name, value, lo, hi)
    notes = [_rests_on(name, int(n), reason)] if n else []
    notes += [reason] if reason else []
    return Cell(number(name, value), f"{between}{WITHIN if within else ''}", "; ".join(notes), value, lo, hi, int(n) if n else None)


def is_within(row: Row, name: str) -> bool:
    """Whether a figure has an interval that rests on one process only: a timing of one process, or of the samples within one."""
    one = row[f"{name}_n"] == 1 or by_name(row["reasons"]).get(name) == WITHIN_REASON
    return row[f"{name}_lo"] is not None and replication(name) == "process" and one


def _rests_on(name: str, n: int, reason: str | None) -> str:
    """Return how much a figure rests on; where there was one process, n counts the samples in it."""
    return f"n = {plural(n, 'sample' if reason == WITHIN_REASON and n > 1 else replication(name))}"


def replication(name: str) -> Any:
    """Return what is repeated to know a figure's uncertainty."""
    return {"Index fidelity": "query", "Quality against labels": "query", "Build": "build"}.get(SHOWN[name].group, "process")
