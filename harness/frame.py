"""Results as one pandas frame: a row for each embed cell and for each operating point of a search cell.

Everything that is shown or exported comes from this frame, so that a page, a CSV and a notebook cannot disagree.
A figure that was not measured is null; a figure with an interval has ``_lo`` and ``_hi`` columns beside it and an
``_n`` column with what it rests on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import knee
from harness.errors import DataError
from harness.fingerprint import digest
from harness.interfaces import STAGES
from harness.records import Measured, Record, current, read_all

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = (
    "kind", "key", "status", "error", "model", "weights", "device", "dtype", "batch_size", "dataset", "modality", "corpus", "queries",
    "dim", "store", "engine", "index", "vector_type", "metric", "build_params", "search_params", "target_recall", "k", "nq", "selectivity",
    "concurrency", "rate_per_s", "p99_target_s", "churn_per_s",
)  # fmt: skip
"""What a row is, in the order of the columns."""

FIGURES = (
    "recall", "recall_strict", "search_latency_p50_s", "search_latency_p95_s", "search_latency_p99_s", "round_trip_p50_s", "floor_p50_s",
    "qps", "max_rate_at_p99_per_s", "errors", "timeouts", "client_cpu", "send_lag_p99_s", "distance_computations",
    "changes_per_s", "change_p50_s", "freshness_p50_s", "freshness_p95_s", "deletion_p50_s", "deletion_p95_s", "deleted_share",
    "insert_s", "build_s", "ready_s", "store_flush_s", "store_build_s", "store_compact_s", "store_load_s", "store_wait_s", "index_bytes",
    "server_rss_before_bytes", "server_rss_bytes", "throughput_per_s", "units_per_s", "pipeline_per_s", "overlap_bound_per_s",
    "device_bound_per_s", "pipeline_workers", "batch_latency_p50_s",
    "batch_latency_p95_s", "query_embed_p50_s", "query_embed_p99_s", "load_s", "first_batch_s", "first_query_s",
    "compile_s", "decode_s", "preprocess_s", "transfer_s",
    "forward_s", "finish_s", "truncated_share", "peak_rss_bytes", "device_peak_bytes", "device_reserved_bytes",
    "counted_gflop_per_item", "flop_per_s", "mfu", "energy_j_per_1000_items", "requests", "requests_per_s", "retries", "rate_limited",
    "ndcg_at_10", "ndcg_at_10_exact", "ndcg_at_10_bm25",
    "label_recall_at_10", "label_recall_at_10_exact",
)  # fmt: skip
"""What is measured, in the order of the columns; each has ``_lo``, ``_hi`` and ``_n`` beside it."""

LAST = (
    "bottleneck", "knee_batch_size", "unit", "caveats", "caveat_texts", "reasons", "data_fingerprint", "weights_fingerprint", "source",
    "machine", "started_at", "duration_s", "schema_version",
)  # fmt: skip
"""What explains the rest: ``bottleneck`` is the stage that takes most of a batch, ``unit`` is what `units_per_s` counts;
``knee_batch_size`` is the batch size beyond which little is gained, see `harness.knee`, of all batch sizes of the row's model;
``caveat_texts`` and ``reasons`` are JSON objects, words by code or by metric."""

COUNTS = ("batch_size", "knee_batch_size", "corpus", "queries", "dim", "k", "nq", "concurrency", "schema_version")
"""Columns of whole numbers."""

SHARES = ("target_recall", "selectivity", "rate_per_s", "p99_target_s", "churn_per_s", "duration_s")
"""Columns of numbers that are settings or facts, not figures."""


_ORDER = ("kind", "dataset", "model", "store", "index", "batch_size", "k", "selectivity", "concurrency", "rate_per_s", "churn_per_s",
          "started_at")  # fmt: skip


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return the results below a folder such as ``results/default``, the newest record of each cell.

    Raises
    ------
    harness.errors.DataError
        When the folder holds no record.
    """
    records = current(read_all(Path(folder)))
    if not records:
        raise DataError(f"{folder} holds no records (it has no readable {Path(folder) / 'records'}/*.json); run `python -m harness` first")
    return to_frame(records)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the frame of some records; the columns are the same whatever was measured."""
    import pandas as pd

    records = list(records)
    knees = knee.batch_sizes(records)
    rows = [row | {"knee_batch_size": knees.get(record.key)} for record in records for row in _rows(record)]
    numbers = [column for names in _OF_FIGURE.values() for column in names]
    columns = [*IDENTITY, *numbers, *LAST]
    types = dict.fromkeys([*numbers, *SHARES], "Float64") | dict.fromkeys(COUNTS, "Int64")
    values: dict[str, list[Any]] = {name: [None] * len(rows) for name in columns}
    for number, row in enumerate(rows):  # a row has a third of the columns
        for name, value in row.items():
            values[name][number] = value
    frame = pd.DataFrame({name: _array(found, types.get(name, "string")) for name, found in values.items()})
    return frame.sort_values(list(_ORDER), kind="stable", ignore_index=True)


def _array(values: list[Any], dtype: str) -> Any:
    """Return a column, of one type whatever is in it, also if nothing is; pandas' own conversions take ten times as long."""
    import numpy as np
    import pandas as pd

    if dtype == "string":
        return pd.array([_writable(value) for value in values], dtype="string")
    numbers = np.array(values, dtype=np.float64)  # None becomes NaN, which no record holds
    missing = np.isnan(numbers)
    if dtype == "Float64":
        return pd.arrays.FloatingArray(numbers, missing)
    return pd.arrays.IntegerArray(np.where(missing, 0, numbers).astype(np.int64), missing)


_OF_FIGURE = {name: (name, f"{name}_lo", f"{name}_hi", f"{name}_n") for name in FIGURES}


def _rows(record: Record) -> list[dict[str, Any]]:
    common = {
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
        "machine": _machine(record.environment),
        "started_at": record.started_at,
        "duration_s": record.duration_s,
        "schema_version": record.schema_version,
    }
    if not record.points:
        return [common | _figures(record.metrics)]
    return [
        common
        | {
            "k": point.k,
            "concurrency": point.concurrency,
            "search_params": _compact(point.search_params),
            "rate_per_s": point.rate_per_s,
            "churn_per_s": point.churn_per_s,
            "p99_target_s": record.settings.get("p99_target_s") if point.concurrency is None and point.rate_per_s is None else None,
            "nq": point.nq,
            "selectivity": point.selectivity,
            "target_recall": point.target_recall,
        }
        | _figures({**record.metrics, **point.metrics})
        for point in record.points
    ]


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
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _compact(mapping: Any) -> str | None:
    return json.dumps(mapping, sort_keys=True, ensure_ascii=False) if mapping is not None else None


def _figures(metrics: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    reasons = {}
    figure: Measured
    for name, figure in metrics.items():
        if name not in _OF_FIGURE:
            continue
        value, low, high, n = _OF_FIGURE[name]
        row[value], row[low], row[high], row[n] = figure.value, figure.lo, figure.hi, figure.n
        if figure.reason is not None:
            reasons[name] = figure.reason
    row["reasons"] = _compact(reasons) if reasons else None
    return row
