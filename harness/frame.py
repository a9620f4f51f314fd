"""Results as one pandas frame: a row for each embed cell and for each operating point of a search cell.

Everything that is shown or exported comes from this frame, so that a page, a CSV and a notebook cannot disagree.
A figure that was not measured is null; a figure with an interval has ``_lo`` and ``_hi`` columns beside it and an
``_n`` column with what it rests on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import knee
from harness.errors import DataError
from harness.fingerprint import digest
from harness.interfaces import STAGES
from harness.records import Measured, Record, current, read_all, uncollected

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = (
    "kind", "key", "status", "error", "model", "weights", "device", "dtype", "batch_size", "dataset", "modality", "corpus", "queries",
    "dim", "store", "engine", "index", "vector_type", "metric", "build_params", "search_params", "target_recall", "k", "nq", "selectivity",
    "concurrency", "rate_per_s", "p99_target_s", "churn_per_s", "workers",
)  # fmt: skip
"""What a row is, in the order of the columns."""

FIGURES = (
    "recall", "recall_strict", "search_latency_p50_s", "search_latency_p95_s", "search_latency_p99_s", "round_trip_p50_s", "floor_p50_s",
    "qps", "max_rate_at_p99_per_s", "errors", "timeouts", "client_cpu", "send_lag_p99_s", "distance_computations",
    "changes_per_s", "change_p50_s", "freshness_p50_s", "freshness_p95_s", "deletion_p50_s", "deletion_p95_s", "deleted_share",
    "insert_s", "build_s", "ready_s", "store_files_s", "store_import_s", "store_flush_s", "store_build_s", "store_compact_s",
    "store_load_s", "store_wait_s", "index_bytes", "server_rss_before_bytes", "server_rss_bytes", "throughput_per_s",
    "units_per_s", "pipeline_per_s", "overlap_bound_per_s",
    "device_bound_per_s", "pipeline_workers", "corpus_per_s", "scaling_efficiency", "batch_latency_p50_s",
    "batch_latency_p95_s", "query_embed_p50_s", "query_embed_p99_s", "load_s", "first_batch_s", "first_query_s",
    "compile_s", "export_s", "decode_s", "preprocess_s", "transfer_s",
    "forward_s", "finish_s", "truncated_share", "peak_rss_bytes", "device_peak_bytes", "device_reserved_bytes",
    "counted_gflop_per_item", "flop_per_s", "mfu", "energy_j_per_1000_items", "requests", "requests_per_s", "retries", "rate_limited",
    "ndcg_at_10", "ndcg_at_10_exact", "ndcg_at_10_bm25",
    "label_recall_at_10", "label_recall_at_10_exact",
)  # fmt: skip
"""What is measured, in the order of the columns; each has ``_lo``, ``_hi`` and ``_n`` beside it."""

LAST = (
    "other_settings", "bottleneck", "knee_batch_size", "unit", "caveats", "caveat_texts", "reasons", "data_fingerprint",
    "weights_fingerprint", "source", "machine", "started_at", "duration_s", "schema_version",
)  # fmt: skip
"""What explains the rest: ``other_settings`` are those without a column of their own in which cells of the same names differ, a JSON
object; ``bottleneck`` is the stage that takes most of a batch, ``unit`` is what `units_per_s` counts;
``knee_batch_size`` is the batch size beyond which little is gained, see `harness.knee`, of all batch sizes of the row's model;
``caveat_texts`` and ``reasons`` are JSON objects, words by code or by metric."""

COUNTS = ("batch_size", "knee_batch_size", "corpus", "queries", "dim", "k", "nq", "concurrency", "workers", "schema_version")
"""Columns of whole numbers."""

SHARES = ("target_recall", "selectivity", "rate_per_s", "p99_target_s", "churn_per_s", "duration_s")
"""Columns of numbers that are settings or facts, not figures."""


_ORDER = ("kind", "dataset", "model", "store", "index", "batch_size", "k", "selectivity", "concurrency", "rate_per_s", "churn_per_s",
          "workers", "started_at")  # fmt: skip


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return the results below a folder such as ``results/default``, the newest record of each cell.

    Raises
    ------
    harness.errors.DataError
        When the folder holds no record.
    """
    with uncollected():
        records = current(read_all(Path(folder)))
        if not records:
            lacking = f"{folder} holds no records (it has no readable {Path(folder) / 'records'}/*.json)"
            raise DataError(f"{lacking}; run `python -m harness` first")
        return to_frame(records)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the frame of some records; the columns are the same whatever was measured."""
    import pandas as pd

    records = list(records)
    knees = knee.batch_sizes(records)
    numbers = [column for names in _OF_FIGURE.values() for column in names]
    types = dict.fromkeys([*numbers, *SHARES], "Float64") | dict.fromkeys(COUNTS, "Int64")
    found: dict[str, dict[int, Any]] = {name: {} for name in (*IDENTITY, *numbers, *LAST)}  # a row has a third of the columns
    rows = 0
    for record, others in zip(records, _other_settings(records), strict=True):
        common = _common(record) | {"knee_batch_size": knees.get(record.key), "other_settings": others}
        for row in _rows(record, common):
            for name, value in row.items():
                if value is not None:
                    found[name][rows] = value
            rows += 1
    frame = pd.DataFrame({name: _array(values, rows, types.get(name, "string")) for name, values in found.items()})
    return frame.sort_values(list(_ORDER), kind="stable", ignore_index=True)


def _array(values: Mapping[int, Any], rows: int, dtype: str) -> Any:
    """Return a column of so many rows, of one type whatever is in it; pandas' own conversions take ten times as long."""
    import numpy as np
    import pandas as pd

    if dtype == "string":
        column: list[str | None] = [None] * rows
        writable = {value: _writable(value) for value in set(values.values())}
        for place, value in values.items():
            column[place] = writable[value]
        return pd.array(column, dtype="string")
    there = np.fromiter(values.keys(), np.intp, len(values))
    missing = np.ones(rows, dtype=bool)
    missing[there] = False
    if dtype == "Float64":
        numbers = np.zeros(rows, dtype=np.float64)
        numbers[there] = np.fromiter(values.values(), np.float64, len(values))
        return pd.arrays.FloatingArray(numbers, missing)
    counts = np.zeros(rows, dtype=np.int64)
    counts[there] = np.fromiter(values.values(), np.int64, len(values))
    return pd.arrays.IntegerArray(counts, missing)


_OF_FIGURE = {name: (name, f"{name}_lo", f"{name}_hi", f"{name}_n") for name in FIGURES}


def _common(record: Record) -> dict[str, Any]:
    """Return what all rows of a record have in common, but for its figures."""
    return {
        "kind": record.kind,
        "key": record.key,
        "status": record.status,
        "error": record.error,
        "model": record.labels.get("model"),
        "weights": record.model.get("weights"),
        "device": record.labels.get("device"),
        "dtype": record.model.get("dtype"),
        "batch_size": record.settings.get("batch_size"),
        "dataset": record.labels.get("dataset"),
        "modality": record.data.get("modality"),
        "corpus": record.data.get("corpus"),
        "queries": record.data.get("queries"),
        "dim": record.data.get("dim"),
        "store": record.labels.get("store"),
        "engine": (record.environment.get("engine") or {}).get("version"),
        "index": record.labels.get("index"),
        "vector_type": record.settings.get("vector_type"),
        "metric": record.settings.get("metric"),
        "build_params": _compact(record.labels.get("build_params")),
        "bottleneck": bottleneck(record.metrics),
        "unit": record.metrics["units_per_s"].unit.removesuffix("/s") if "units_per_s" in record.metrics else None,
        "caveats": "; ".join(dict.fromkeys(code for code, _ in record.caveats)) or None,
        "caveat_texts": _compact(_joined(record.caveats)) if record.caveats else None,
        "data_fingerprint": record.data.get("fingerprint"),
        "weights_fingerprint": record.model.get("weights_fingerprint"),
        "source": record.model.get("source"),
        "workers": record.settings.get("workers"),
        "machine": _machine(record.environment),
        "started_at": record.started_at,
        "duration_s": record.duration_s,
        "schema_version": record.schema_version,
    }


def _rows(record: Record, common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a record: itself, or each of its operating points, whose own figures come before those of the whole cell."""
    whole, reasons = _figures(record.metrics)
    if not record.points:
        yield {**common, **whole, "reasons": _because(tuple(reasons.items()))}
    for point in record.points:
        own, why = _figures(point.metrics)
        why = {name: reason for name, reason in reasons.items() if name not in point.metrics} | why
        yield {
            **common,
            "k": point.k,
            "concurrency": point.concurrency,
            "search_params": _compact(point.search_params),
            "rate_per_s": point.rate_per_s,
            "churn_per_s": point.churn_per_s,
            "p99_target_s": record.settings.get("p99_target_s") if point.concurrency is None and point.rate_per_s is None else None,
            "nq": point.nq,
            "selectivity": point.selectivity,
            "target_recall": point.target_recall,
            **whole,
            **own,
            "reasons": _because(tuple(why.items())),
        }


_TOLD = frozenset({
    "batch_size", "device", "dtype", "data", "weights", "engine", "index", "metric", "vector_type", "k", "filter", "target_recall",
    "concurrency", "rate", "p99_target_s", "churn_per_s", "nq", "workers",
})  # fmt: skip
"""Settings that other columns tell, of the cell or of each operating point."""

_OF_VECTORS = frozenset({"model", "backend", "attention", "compile", "exclusive"})
"""Settings that decide what may be ranked: what makes the vectors, and who ran beside. They are told apart over all stores and indexes."""

_ABSENT: Mapping[str, Any] = {"backend": "torch", "exclusive": True}
"""What a record means that does not state them: it is older, or they stand in no key while they are this."""


def _other_settings(records: Sequence[Record]) -> list[str | None]:
    """Return, for each record, those of its settings that no other column tells, as far as records of the same names differ in them.

    Without them a cell of 128 tokens an item and one of 256 would look like one cell, measured twice.
    """
    told: list[dict[str, str]] = [{} for _ in records]
    for of_vectors, names in ((True, ("model", "dataset")), (False, ("model", "dataset", "device", "store", "index"))):
        alike: dict[tuple[str, ...], list[int]] = {}
        for number, record in enumerate(records):
            kind = "" if of_vectors else record.kind
            alike.setdefault((kind, *(str(record.labels.get(name)) for name in names)), []).append(number)
        for numbers in alike.values():
            stated = [{**_ABSENT, **records[number].settings} for number in numbers]
            settings = [
                {name: value for name, value in one.items() if name not in _TOLD and (name in _OF_VECTORS) == of_vectors} for one in stated
            ]
            some = _differing([{name: repr(value) for name, value in one.items()} for one in settings])
            if not some:
                continue
            leaves = [_leaves({name: value for name, value in one.items() if name in some}) for one in settings]
            differing = _differing(leaves)
            for number, one in zip(numbers, leaves, strict=True):
                told[number] |= {name: text for name, text in one.items() if name in differing}
    return ["{" + ", ".join(f"{_JSON(name)}: {text}" for name, text in sorted(one.items())) + "}" if one else None for one in told]


def _differing(found: Sequence[Mapping[str, str]]) -> set[str]:
    """Return the names under which not all have the same; what some do not state, being older, is no difference."""
    seen: dict[str, set[str]] = {}
    for one in found:
        for name, text in one.items():
            seen.setdefault(name, set()).add(text)
    return {name for name, texts in seen.items() if len(texts) > 1}


def _leaves(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Return settings by the names under which they are given, such as ``model.max_tokens``, as JSON."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= _leaves(value, f"{before}{name}.") if isinstance(value, Mapping) and value else {f"{before}{name}": _JSON(value)}
    return found


def _machine(environment: Mapping[str, Any]) -> str | None:
    """Return a short fingerprint of the machine without the device, which is a column of its own: CPU and GPU of one machine compare."""
    parts = environment.get("machine")
    if not isinstance(parts, Mapping):
        return None
    return digest({name: value for name, value in parts.items() if name not in ("device", "device_name")})[:12]


def bottleneck(metrics: Mapping[str, Measured]) -> str | None:
    """Return the stage that takes the largest part of a batch's time; None where no stage was measured."""
    measured = {stage: metrics[f"{stage}_s"].value or 0.0 for stage in STAGES if f"{stage}_s" in metrics}
    return max(measured, key=lambda stage: measured[stage]) if any(measured.values()) else None


def _joined(caveats: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return caveats by code; where a code comes twice with different words, both stand there."""
    texts: dict[str, str] = {}
    for code, words in caveats:
        texts[code] = words if texts.get(code, words) == words else f"{texts[code]} {words}"
    return texts


def _writable(value: Any) -> Any:
    """Return text that every format can hold: a file name that is not UTF-8 comes with lone surrogates, which no format can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and not value.isascii() else value


_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def _compact(mapping: Any) -> str | None:
    return _JSON(mapping) if mapping is not None else None


@lru_cache(maxsize=4096)
def _because(reasons: tuple[tuple[str, str], ...]) -> str | None:
    """Return reasons as JSON; thousands of rows share a few wordings."""
    return _JSON(dict(reasons)) if reasons else None


def _figures(metrics: Mapping[str, Measured]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the columns of some figures, and why one or its interval is null."""
    row: dict[str, Any] = {}
    reasons = {}
    for name, figure in metrics.items():
        if name not in _OF_FIGURE:
            continue
        value, low, high, n = _OF_FIGURE[name]
        row[value], row[low], row[high], row[n] = figure.value, figure.lo, figure.hi, figure.n
        if figure.reason is not None:
            reasons[name] = figure.reason
    return row, reasons
