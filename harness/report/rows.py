"""The frame as plain rows, what a row is called, and which rows may be compared with which.

Names are made here and nowhere else, so that a model with random weights is called so wherever a number of its
stands. Rankings never cross datasets: rows are split into one section for each dataset's contents.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from harness.report.pareto import pareto
from harness.report.units import NULL, count

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""One row of the frame; None for what is null."""

CellKind = Literal["search", "embed", "corpus"]
"""Of a cell, in the order in which a report shows them."""

RANDOM = "random weights"


class _Sparse(Row):
    """One row of the frame, of whose hundreds of columns most are null: those are not stored, and None when asked for."""

    __slots__ = ("_columns",)

    def __init__(self, columns: frozenset[str]) -> None:
        self._columns = columns

    def __missing__(self, name: str) -> None:
        if name not in self._columns:
            raise KeyError(name)


def plain(frame: pd.DataFrame) -> list[Row]:
    """Return the frame's rows as dictionaries of plain Python values; what is null is None when asked for, and not among the items."""
    import numpy as np

    columns = frozenset(map(str, frame.columns))
    rows: list[Row] = [_Sparse(columns) for _ in range(len(frame))]
    for name in map(str, frame.columns):
        column = frame[name]
        there = column.notna().to_numpy()
        for number, value in zip(np.flatnonzero(there).tolist(), column[there].tolist(), strict=True):
            rows[number][name] = value
    return rows


def is_random(row: Row) -> bool:
    """Whether a row's numbers come from random weights."""
    return bool(row["weights"] == "random")


def model_name(row: Row) -> str:
    """Return what a row's model is called, random weights said."""
    name = row["model"] or NULL
    return f"{name} ({RANDOM})" if is_random(row) else str(name)


@lru_cache(maxsize=4096)
def parameters(text: str | None) -> str:
    """Return parameters, stored as a JSON object, for reading.

    >>> parameters('{"M": 16, "ef_construction": 200}'), parameters(None)
    ('M=16 ef_construction=200', '')
    """
    return " ".join(f"{name}={value}" for name, value in json.loads(text).items()) if text else ""


@lru_cache(maxsize=4096)
def by_name(text: str | None) -> Mapping[str, str]:
    """Return a JSON object of words, as in the columns ``reasons`` and ``caveat_texts``."""
    return {str(name): str(words) for name, words in json.loads(text).items()} if text else {}


@dataclass(frozen=True)
class Part:
    """One part of what a row is."""

    title: str
    of: Callable[[Row], str]
    column: str
    number: bool = False
    prefix: str = ""
    """Written before the value where no heading says what it is."""


def _text(column: str) -> Callable[[Row], str]:
    return lambda row: "" if row[column] is None else str(row[column])


def _parameters(column: str) -> Callable[[Row], str]:
    return lambda row: parameters(row[column])


def _machine(row: Row) -> str:
    return "" if row["machine"] is None else str(row["machine"])[:8]


def _weights(row: Row) -> str:
    return "" if row["weights_fingerprint"] is None else str(row["weights_fingerprint"])[:8]


@lru_cache(maxsize=4096)
def _settings(text: str | None, *, of_vectors: bool = False) -> str:
    """Return settings, stored as a JSON object, as one writes them on the command line; all, or those that keep rows from being ranked."""
    told = json.loads(text) if text else {}
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in told.items()
        if not of_vectors or name.startswith("model.") or name in ("attention", "compile", "backend", "exclusive")
    )


def _made(row: Row) -> str:
    return _settings(row["other_settings"], of_vectors=True)


def _measured(row: Row) -> str:
    return str(row["started_at"] or "")[:19].replace("T", " ")


MODEL = Part("model", model_name, "model")
INDEX = Part("index", _text("index"), "index")
SEARCH = Part("search", _parameters("search_params"), "search_params")
BATCH = Part("batch size", _text("batch_size"), "batch_size", number=True, prefix="batch ")
WORKERS = Part("workers", _text("workers"), "workers", number=True, prefix="workers ")
DEVICE = Part("device", _text("device"), "device")
DTYPE = Part("dtype", _text("dtype"), "dtype")
METRIC = Part("metric", _text("metric"), "metric")
STORE = Part("store", _text("store"), "store")
K = Part("k", _text("k"), "k", number=True, prefix="k=")
CONCURRENCY = Part("concurrency", _text("concurrency"), "concurrency", number=True, prefix="concurrency ")
RATE = Part("rate", lambda row: "" if row["rate_per_s"] is None else f"{row['rate_per_s']:g}/s", "rate_per_s", prefix="rate ")
CHURN = Part(
    "rows changed", lambda row: "" if row["churn_per_s"] is None else f"{row['churn_per_s']:g}/s", "churn_per_s", prefix="changing rows "
)
P99_TARGET = Part(
    "p99 target",
    lambda row: "" if row["p99_target_s"] is None else f"{row['p99_target_s'] * 1e3:g} ms",
    "p99_target_s",
    prefix="highest rate with p99 ≤ ",
)
NQ = Part("queries a request", lambda row: "" if row["nq"] in (None, 1) else str(row["nq"]), "nq", prefix="nq=")
FILTER = Part(
    "filter", lambda row: "" if row["selectivity"] is None else f"{row['selectivity'] * 100:g} %", "selectivity", prefix="filter "
)
TARGET = Part(
    "target recall", lambda row: "" if row["target_recall"] is None else f"{row['target_recall']:g}", "target_recall", prefix="target "
)
VECTORS = Part(
    "stored as", lambda row: "" if row["vector_type"] in (None, "fp32") else str(row["vector_type"]), "vector_type", prefix="stored as "
)
BUILD = Part("build", _parameters("build_params"), "build_params")
MACHINE = Part("machine", _machine, "machine", prefix="machine ")
OTHER = Part("settings", lambda row: _settings(row["other_settings"]), "other_settings")
"""Settings without a column of their own, where cells of the same names differ in them."""
MADE = Part("settings of the vectors", _made, "other_settings")
"""Those of them that make other vectors, or say that others ran beside."""
WEIGHTS = Part("weights", _weights, "weights_fingerprint", prefix="weights ")
"""Told only where one model's name stands for several."""
MEASURED = Part("measured (UTC)", _measured, "started_at")
"""Told only where two rows would otherwise bear the same name."""

EMBED_PARTS = (MODEL, DEVICE, DTYPE, OTHER, BATCH, MACHINE)
SEARCH_PARTS = (
    MODEL, INDEX, SEARCH, TARGET, BUILD, STORE, VECTORS, METRIC, K, FILTER, CONCURRENCY, RATE, P99_TARGET, NQ, CHURN, DTYPE, OTHER,
    MACHINE,
)  # fmt: skip
CORPUS_PARTS = (MODEL, DEVICE, DTYPE, OTHER, WORKERS, MACHINE)
PARTS: Mapping[CellKind, tuple[Part, ...]] = {"search": SEARCH_PARTS, "embed": EMBED_PARTS, "corpus": CORPUS_PARTS}
"""What tells the rows of a kind apart."""
ALWAYS: Mapping[CellKind, tuple[Part, ...]] = {"search": (INDEX, SEARCH), "embed": (MODEL, BATCH), "corpus": (MODEL, WORKERS)}
"""What a row of a kind is called by, even where all are alike in it."""
CELL = (INDEX, MODEL, WEIGHTS, BUILD, STORE, VECTORS, METRIC, DTYPE, OTHER, MACHINE)
"""What tells search cells apart, the most telling first."""
CURVE = (MODEL, WEIGHTS, DEVICE, DTYPE, OTHER, MACHINE)
"""What tells curves over batch sizes apart."""
COMPARED = (MODEL, WEIGHTS, DTYPE, METRIC, MADE, K, FILTER, CONCURRENCY, RATE, NQ, CHURN, MACHINE)
"""What tells groups of operating points apart that may be ranked, see `compared`."""
SETTING = (K, FILTER, CONCURRENCY, RATE, P99_TARGET, NQ, CHURN)
"""How an operating point was asked: numbers of different ones do not compare."""


def varying(rows: Sequence[Row], parts: Sequence[Part]) -> list[Part]:
    """Return the parts in which some rows differ, and when each was measured if those parts do not tell them apart."""
    words = [[part.of(row) for row in rows] for part in parts]
    found = [part for part, told in zip(parts, words, strict=True) if len(set(told)) > 1 and (part is not WEIGHTS or _of_one_name(rows))]
    if len(set(zip(*words, strict=True))) < len(rows):
        found.append(MEASURED)
    return found


def _of_one_name(rows: Sequence[Row]) -> bool:
    """Whether a model's name alone leaves open which weights are meant."""
    return len({(row["model"], row["weights_fingerprint"]) for row in rows}) > len({row["model"] for row in rows})


def index_in_two_builds(rows: Sequence[Row]) -> bool:
    """Whether an index's name alone leaves open how it was built."""
    return len({(row["index"], row["build_params"]) for row in rows}) > len({row["index"] for row in rows})


def constant(rows: Sequence[Row], parts: Sequence[Part]) -> list[str]:
    """Return what all rows have in common, as words; the machine is told elsewhere."""
    differing = varying(rows, parts)
    return [part.prefix + part.of(rows[0]) for part in parts if rows and part not in (*differing, MACHINE, WEIGHTS) and part.of(rows[0])]


def label(row: Row, parts: Iterable[Part]) -> str:
    """Return what a row is called by some of its parts; random weights are always named."""
    parts = tuple(parts)
    named = parts if MODEL in parts or not is_random(row) else (*parts, MODEL)
    return " · ".join(part.prefix + part.of(row) for part in named if part.of(row))


def anchor(row: Row) -> str:
    """Return the name under which a row can be found again, also in a later report of the same records."""
    if row["k"] is None:
        return f"row-{row['key'][:16]}"
    asked = repr(
        [row[name] for name in ("search_params", "k", "nq", "selectivity", "concurrency", "rate_per_s", "churn_per_s", "target_recall")]
    )
    return f"row-{row['key'][:16]}-{zlib.crc32(asked.encode('utf-8', 'replace')):08x}"


WORK = (
    "data_fingerprint", "model", "weights_fingerprint", "dtype", "dim", "metric", "k", "nq", "selectivity", "concurrency", "rate_per_s",
    "churn_per_s", "machine",
)  # fmt: skip
"""What operating points must have in common to be compared."""


def same_work(row: Row) -> tuple[Any, ...]:
    """Return what must be equal for two operating points to be compared: the same vectors, asked the same way on the same machine."""
    return (*(row[name] for name in WORK), _made(row))


def compared(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the operating points that may be ranked, in groups of `same_work`.

    Those of random weights never are, nor those at the highest rate that meets a target: each of them is at a rate of its own.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        load_stated = row["concurrency"] is not None or row["rate_per_s"] is not None
        if load_stated and not is_random(row) and row["recall"] is not None and row["search_latency_p50_s"] is not None:
            groups.setdefault(same_work(row), []).append(row)
    return list(groups.values())


HIGHER_IS_BETTER = frozenset({"qps", "max_rate_at_p99_per_s"})


def front(rows: Sequence[Row], figure: str = "search_latency_p50_s") -> list[Row]:
    """Return one group's operating points that no other beats in both recall and a figure, by rising recall."""
    known = [row for row in rows if row["recall"] is not None and row[figure] is not None]
    return [known[i] for i in pareto([(row["recall"], _cost(row, figure)) for row in known])]


def _cost(row: Row, figure: str) -> float:
    """Return a figure so that less is better."""
    return 1 / max(float(row[figure]), 1e-300) if figure in HIGHER_IS_BETTER else float(row[figure])


def _near(rows: Sequence[Row], figure: str) -> list[Row]:
    """Return the operating points that no other of at least their recall beats by more than `NEAR` in a figure."""
    near: list[Row] = []
    best: float | None = None
    known = [(-float(row["recall"]), _cost(row, figure), row) for row in rows if row[figure] is not None]
    for _, cost, row in sorted(known, key=lambda one: one[:2]):
        best = cost if best is None else min(best, cost)
        if cost <= (1 + NEAR) * best:
            near.append(row)
    return near


_CURVE = ("model", "weights", "weights_fingerprint", "device", "dtype", "other_settings", "machine")
"""What embed cells have in common that differ in nothing but their batch size."""


def batch_curves(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the embed cells that differ in nothing but their batch size, in groups."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _CURVE), []).append(row)
    return list(found.values())


FRONTS = ("search_latency_p50_s", "search_latency_p99_s", "qps")
"""What a front sets against recall."""
NEAR = 0.1
"""A row within a tenth of the best at its recall is near the front: what the intervals of three processes do not tell apart."""


@dataclass(frozen=True)
class Section:
    """One dataset's results."""

    name: str
    facts: str
    """Its size, kind and dimensions, for a reader."""
    fingerprint: str | None
    embed: tuple[Row, ...]
    search: tuple[Row, ...]
    corpus: tuple[Row, ...] = ()

    def of(self, kind: CellKind) -> tuple[Row, ...]:
        """Return the rows of one kind."""
        return {"search": self.search, "embed": self.embed, "corpus": self.corpus}[kind]

    @cached_property
    def fronts(self) -> frozenset[int]:
        """The ``id`` of each row on a front: recall against the latencies and the rate, and the fastest batch size of each model."""
        best = [row for group in compared(self.search) if len(group) > 1 for figure in FRONTS for row in front(group, figure)]
        best += [max(curve, key=lambda row: float(row[figure])) for figure, curve in self._curves()]
        return frozenset(map(id, best))

    @cached_property
    def near(self) -> frozenset[int]:
        """The ``id`` of each row on a front or within `NEAR` of one."""
        good = [row for group in compared(self.search) for figure in FRONTS for row in _near(group, figure)]
        for figure, curve in self._curves():
            fastest = max(float(row[figure]) for row in curve)
            good += [row for row in curve if float(row[figure]) * (1 + NEAR) >= fastest]
        return self.fronts | frozenset(map(id, good))

    def foremost(self, rows: Sequence[Row], most: int) -> list[Row]:
        """Return so many rows at most, in their order: those on a front before those near one before all others."""
        if len(rows) <= most:
            return list(rows)
        kept = {id(row) for row in sorted(rows, key=lambda row: (id(row) not in self.fronts, id(row) not in self.near))[:most]}
        return [row for row in rows if id(row) in kept]

    def reduced(self, most: int) -> Section:
        """Return the section with so many rows of each kind at most, as `foremost` chooses them."""
        embed, search, corpus = (tuple(self.foremost(rows, most)) for rows in (self.embed, self.search, self.corpus))
        return replace(self, embed=embed, search=search, corpus=corpus)

    def _curves(self) -> list[tuple[str, list[Row]]]:
        """Return the embed cells that differ in their batch size, for each rate."""
        rates = ("pipeline_per_s", "throughput_per_s")
        return [(figure, curve) for figure in rates for curve in batch_curves([row for row in self.embed if row[figure] is not None])]


def sections(rows: Iterable[Row]) -> list[Section]:
    """Return the measured rows by dataset: one section for each name and contents, since another size is another task."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault((row["dataset"] or "", row["data_fingerprint"] or ""), []).append(row)
    found = []
    for (name, fingerprint), group in sorted(groups.items()):
        embed = sorted((row for row in group if row["kind"] == "embed"), key=_order(EMBED_PARTS))
        search = sorted(
            (row for row in group if row["kind"] == "search"),
            key=_order((MODEL, K, FILTER, CONCURRENCY, RATE, STORE, INDEX, BUILD, VECTORS)),
        )
        corpus = sorted((row for row in group if row["kind"] == "corpus"), key=_order(CORPUS_PARTS))
        found.append(Section(name or "no dataset", _facts(group), fingerprint or None, tuple(embed), tuple(search), tuple(corpus)))
    return found


def _order(parts: Sequence[Part]) -> Callable[[Row], Any]:
    """Sort by parts, numbers as numbers, then by the search parameters' values, then by time."""

    def key(row: Row) -> Any:
        values = [(row[part.column] is not None, row[part.column] or 0) if part.number else part.of(row) for part in parts]
        knob = _values(row["search_params"])
        return (*values, knob, str(row["started_at"]))

    return key


@lru_cache(maxsize=4096)
def _values(text: str | None) -> list[float]:
    return [float(value) for value in json.loads(text).values()] if text else []


def _facts(rows: Sequence[Row]) -> str:
    """Return a dataset's size in words; several models have several dimensions."""

    def known(column: str) -> list[Any]:
        return sorted({row[column] for row in rows if row[column] is not None})

    facts = known("modality")
    facts += [f"{count(n)} documents" for n in known("corpus")[:1]] + [f"{count(n)} queries" for n in known("queries")[:1]]
    if dims := known("dim"):
        facts.append(f"{' or '.join(map(str, dims))} dimensions")
    return ", ".join(facts)


def unfinished(rows: Iterable[Row]) -> list[Row]:
    """Return the cells that have no result."""
    return [row for row in rows if row["status"] != "ok"]


def cell_name(row: Row) -> str:
    """Return what a cell is called outside its section."""
    parts: tuple[Part, ...] = (MODEL, INDEX, BUILD, STORE, VECTORS, METRIC, OTHER)
    if row["kind"] in ("embed", "corpus"):
        parts = (MODEL, DEVICE, DTYPE, BATCH if row["kind"] == "embed" else WORKERS, OTHER)
    return f"{row['kind']}: {label(row, parts)} · {row['dataset'] or 'no dataset'}"


@dataclass(frozen=True)
class Noted:
    """One caveat and the cells it belongs to."""

    code: str
    text: str
    cells: tuple[str, ...]


def caveats(rows: Iterable[Row]) -> list[Noted]:
    """Return every caveat of some rows once for each wording, with the cells it belongs to."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in {row["key"]: row for row in rows}.values():
        for code, text in by_name(row["caveat_texts"]).items():
            found.setdefault((code, text), {})[cell_name(row)] = None
    return [Noted(code, text, tuple(cells)) for (code, text), cells in sorted(found.items())]
