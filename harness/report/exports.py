"""Exports for other programs: one row a line as JSON, and the format of pytest-benchmark.

``pytest-benchmark compare`` and the CI trackers that read its files understand the second. It knows timings of one call only: a
benchmark is the searches of one operating point, or the batches or the queries of one embed cell, with the statistics of all samples
of all processes as pytest-benchmark defines them. Recall, rates and memory stand under ``extra_info``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.frame import FIGURES
from harness.records import Record
from harness.report.distribution import Distribution, Kind
from harness.report.rows import EMBED_PARTS, MEASURED, SEARCH_PARTS, Part, Row, anchor

_FORMAT = "5.1.0"
"""The version of pytest-benchmark whose layout this is; readers ask for it to know the layout."""
_FUNCTIONS: Mapping[Kind, str] = {"search": "search", "query": "embed_query", "batch": "embed_batch"}
_COLUMNS = ("key", "model", "weights", "device", "dtype", "batch_size", "dataset", "store", "index", "build_params", "search_params", "k",
            "nq", "selectivity", "concurrency", "rate_per_s", "churn_per_s", "metric")  # fmt: skip


def json_lines(rows: Sequence[Row]) -> str:
    """Return the frame's rows, one JSON object a line, without what is null; objects inside (parameters, caveats, reasons) are objects."""
    return "".join(json.dumps(_told(row), allow_nan=False) + "\n" for row in rows)


def _told(row: Row) -> dict[str, Any]:
    inside = ("build_params", "search_params", "caveat_texts", "reasons")
    return {name: json.loads(value) if name in inside else value for name, value in row.items() if value is not None}


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
            if taken[name] > 1:  # measured again after the program changed
                name = f"{name[:-1]}-{MEASURED.of(row)}]"
            benchmarks.append(_benchmark(row, kind, name, one.pooled))
    about = {
        "machine_info": _machine(latest),
        "commit_info": _commit(latest),
        "datetime": latest.started_at.replace("Z", "+00:00"),
        "version": _FORMAT,
    }
    lines = ",\n".join(
        json.dumps(one, ensure_ascii=False, allow_nan=False) for one in benchmarks
    )  # with indent=, json takes ten times as long
    return f'{json.dumps(about, ensure_ascii=False)[:-1]}, "benchmarks": [\n{lines}\n]}}\n'


def _name(row: Row, kind: Kind) -> str:
    parts: Sequence[Part] = SEARCH_PARTS if kind == "search" else EMBED_PARTS
    told = [part.prefix + part.of(row) for part in parts if part.of(row) and part.title != "machine"]
    if row["dataset"]:
        told.append(str(row["dataset"]))
    return f"{_FUNCTIONS[kind]}[{'-'.join(word.replace(' ', '_') for word in told)}]"


def _benchmark(row: Row, kind: Kind, name: str, samples: NDArray[np.float64]) -> dict[str, Any]:
    extra = {figure: row[figure] for figure in FIGURES if row[figure] is not None}
    return {
        "group": f"{row['dataset'] or 'no dataset'}: {_FUNCTIONS[kind].replace('_', ' ')}",
        "name": name,
        "fullname": f"harness::{name}",
        "params": {column: row[column] for column in _COLUMNS if row[column] is not None},
        "param": name[name.index("[") + 1 : -1],
        "extra_info": {**extra, "machine": row["machine"], "started_at": row["started_at"], "caveats": row["caveats"]},
        "options": {"timer": "perf_counter_ns", "disable_gc": False, "warmup": True},
        "stats": statistics(samples),
    }


def statistics(samples: NDArray[np.float64]) -> dict[str, Any]:
    """Return what pytest-benchmark calls the stats of some timings in seconds, each by its definition there."""
    data = np.sort(samples)
    q1, q3 = _quartiles(data)
    reach = 1.5 * (q3 - q1)
    mean, spread = float(data.mean()), float(data.std(ddof=1)) if data.size > 1 else 0.0
    total = float(data.sum())
    beyond = int(np.count_nonzero((data < mean - spread) | (data > mean + spread)))
    outside = int(np.count_nonzero((data < q1 - reach) | (data > q3 + reach)))
    return {
        "min": float(data[0]),
        "max": float(data[-1]),
        "mean": mean,
        "stddev": spread,
        "rounds": int(data.size),
        "median": float(np.median(data)),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outside}",
        "ld15iqr": float(data[np.searchsorted(data, q1 - reach, side="left")]),
        "hd15iqr": float(data[np.searchsorted(data, q3 + reach, side="right") - 1]),
        "ops": data.size / total if total else 0.0,
        "total": total,
        "iterations": 1,
    }


def _quartiles(data: NDArray[np.float64]) -> tuple[float, float]:
    """Return the quartiles as pytest-benchmark takes them.

    Of an even number of samples they are the halves' medians, of an odd one method 3 of Wikipedia's *Quartile*.
    """
    n, rest = divmod(data.size, 4)
    if data.size == 1:
        return float(data[0]), float(data[0])
    if data.size % 2 == 0:
        return float(np.median(data[: data.size // 2])), float(np.median(data[data.size // 2 :]))
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
