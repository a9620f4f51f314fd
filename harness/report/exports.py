"""Exports for other programs: one row a line as JSON, and the format of pytest-benchmark.

``pytest-benchmark compare`` and the CI trackers that read its files understand the second. It knows timings of one call only: a
benchmark is the searches of one operating point, or the batches or the queries of one embed cell, with the statistics of all samples
of all processes as pytest-benchmark defines them. Recall, rates and memory stand under ``extra_info``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from harness.frame import FIGURES
from harness.records import Record
from harness.report.distribution import Distribution, Kind
from harness.report.rows import EMBED_PARTS, MACHINE, MEASURED, OTHER, SEARCH_PARTS, Part, Row, anchor

_FORMAT = "5.1.0"
"""The version of pytest-benchmark whose layout this is; readers ask for it to know the layout."""
_FUNCTIONS: Mapping[Kind, str] = {"search": "search", "query": "embed_query", "batch": "embed_batch"}
_COLUMNS = ("key", "model", "weights", "device", "dtype", "batch_size", "dataset", "store", "index", "build_params", "search_params", "k",
            "nq", "selectivity", "concurrency", "rate_per_s", "churn_per_s", "metric")  # fmt: skip


_OBJECTS = ("build_params", "search_params", "other_settings", "caveat_texts", "reasons")
"""Columns that hold JSON objects."""
_LINE_BREAKS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""What some readers take for the end of a line, as JSON escapes it inside a string, where alone it can stand."""


def json_lines(rows: Sequence[Row]) -> str:
    """Return the frame's rows, one JSON object a line, without what is null; objects inside (parameters, caveats, reasons) are objects."""
    text = "".join(f"{orjson.dumps(_told(row)).decode()}\n" for row in rows)
    for character, escaped in _LINE_BREAKS.items():
        text = text.replace(character, escaped)
    return text


def _told(row: Row) -> dict[str, Any]:
    told = {name: value for name, value in row.items() if value is not None}
    return told | {name: orjson.Fragment(told[name]) for name in _OBJECTS if name in told}


def benchmark_json(rows: Sequence[Row], records: Sequence[Record], found: Mapping[str, Mapping[Kind, Distribution]]) -> str:
    """Return the rows that have raw samples, as pytest-benchmark writes its results.

    Parameters
    ----------
    rows : sequence of Row
        The frame's rows.
    records : sequence of Record
        Those the frame was made of; machine and commit are read from the latest.
    found : mapping
        What `harness.report.distribution.distributions` found.
    """
    latest = max(records, key=lambda record: record.started_at)
    taken: dict[str, int] = {}
    benchmarks = []
    for row in rows:
        for kind, one in found.get(anchor(row), {}).items():
            name = _name(row, kind)
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:  # under other settings, or again after the program changed
                name = f"{name[:-1]}-{OTHER.of(row).replace(' ', '_') or MEASURED.of(row)}]"
            benchmarks.append(_benchmark(row, kind, name, one.pooled))
    about = {
        "machine_info": _machine(latest),
        "commit_info": _commit(latest),
        "datetime": latest.started_at.replace("Z", "+00:00"),
        "version": _FORMAT,
    }
    lines = ",\n".join(orjson.dumps(one).decode() for one in benchmarks)
    return f'{json.dumps(about, ensure_ascii=False)[:-1]}, "benchmarks": [\n{lines}\n]}}\n'


def _name(row: Row, kind: Kind) -> str:
    parts: Sequence[Part] = SEARCH_PARTS if kind == "search" else EMBED_PARTS
    told = [part.prefix + part.of(row) for part in parts if part.of(row) and part not in (MACHINE, OTHER)]
    if row["dataset"]:
        told.append(str(row["dataset"]))
    return f"{_FUNCTIONS[kind]}[{'-'.join(word.replace(' ', '_') for word in told)}]"


def _benchmark(row: Row, kind: Kind, name: str, samples: NDArray[np.float64]) -> dict[str, Any]:
    extra = {figure: value for figure in FIGURES if (value := row.get(figure)) is not None}
    return {
        "group": f"{row['dataset'] or 'no dataset'}: {_FUNCTIONS[kind].replace('_', ' ')}",
        "name": name,
        "fullname": f"harness::{name}",
        "params": {column: value for column in _COLUMNS if (value := row.get(column)) is not None},
        "param": name[name.index("[") + 1 : -1],
        "extra_info": {**extra, "machine": row["machine"], "started_at": row["started_at"], "caveats": row["caveats"]},
        "options": {"timer": "perf_counter_ns", "disable_gc": False, "warmup": True},
        "stats": statistics(samples),
    }


def statistics(samples: NDArray[np.float64]) -> dict[str, Any]:
    """Return what pytest-benchmark calls the stats of some timings in seconds, each by its definition there."""
    data = np.sort(samples)
    n = int(data.size)
    q1, q3 = _quartiles(data)
    reach = 1.5 * (q3 - q1)
    total = float(data.sum())
    mean = total / n
    off = data - mean
    spread = math.sqrt(float(off @ off) / (n - 1)) if n > 1 else 0.0
    beyond = _outside(data, mean - spread, mean + spread)
    outside = _outside(data, q1 - reach, q3 + reach)
    return {
        "min": float(data[0]),
        "max": float(data[-1]),
        "mean": mean,
        "stddev": spread,
        "rounds": n,
        "median": _median(data, 0, n),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outside}",
        "ld15iqr": float(data[data.searchsorted(q1 - reach, side="left")]),
        "hd15iqr": float(data[data.searchsorted(q3 + reach, side="right") - 1]),
        "ops": n / total if total else 0.0,
        "total": total,
        "iterations": 1,
    }


def _outside(data: NDArray[np.float64], low: float, high: float) -> int:
    """Return how many of some sorted samples are below one bound or above another."""
    return int(data.searchsorted(low, side="left") + data.size - data.searchsorted(high, side="right"))


def _median(data: NDArray[np.float64], first: int, end: int) -> float:
    """Return the median of a part of some sorted samples."""
    middle = (first + end) // 2
    return float(data[middle]) if (end - first) % 2 else (float(data[middle - 1]) + float(data[middle])) / 2


def _quartiles(data: NDArray[np.float64]) -> tuple[float, float]:
    """Return the quartiles of some sorted samples as pytest-benchmark takes them.

    Of an even number of samples they are the halves' medians, of an odd one method 3 of Wikipedia's *Quartile*.
    """
    n, rest = divmod(data.size, 4)
    if data.size == 1:
        return float(data[0]), float(data[0])
    if data.size % 2 == 0:
        half = data.size // 2
        return _median(data, 0, half), _median(data, half, data.size)
    if rest == 1:
        return float(0.25 * data[n - 1] + 0.75 * data[n]), float(0.75 * data[3 * n] + 0.25 * data[3 * n + 1])
    return float(0.75 * data[n] + 0.25 * data[n + 1]), float(0.25 * data[3 * n + 1] + 0.75 * data[3 * n + 2])


def _machine(record: Record) -> dict[str, Any]:
    """Return the machine under pytest-benchmark's names; the host is not named, for two machines of one kind are the same instrument."""
    known = record.environment.get("machine") or {}
    return {
        "node": record.environment.get("fingerprint") or "",
        "processor": known.get("cpu") or "",
        "machine": known.get("architecture") or "",
        "python_implementation": "CPython",
        "python_version": known.get("python") or "",
        "system": known.get("system") or "",
        "release": known.get("kernel") or "",
        "cpu": {"brand_raw": known.get("cpu") or "", "count": known.get("cores"), "arch": known.get("architecture") or ""},
    }


def _commit(record: Record) -> dict[str, Any]:
    commit, _, changes = str(record.environment.get("commit") or "").partition("+")
    return {
        "id": commit or "unknown",
        "time": None,
        "author_time": None,
        "dirty": bool(changes),
        "project": "embedding-search-harness",
        "branch": "(unknown)",
    }
