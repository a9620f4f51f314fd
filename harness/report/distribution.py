"""A row's distribution of latencies, small enough for a page: what a record's raw samples say at fifty levels.

A quantile is combined over processes as the table's percentiles are, by the geometric mean of each process's own, so that the curve
passes through the row's p50, p95 and p99; and it is stated only where every process has samples enough for it.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Point, Record, samples
from harness.report.rows import Row, anchor
from harness.statistics import supports_percentile

log = logging.getLogger(__name__)

Kind = str
"""``search``, ``query`` (embedding one) or ``batch`` (embedding one)."""
KINDS: Mapping[Kind, str] = {"search": "One search", "query": "Embedding one query", "batch": "Embedding one batch"}

LEVELS: tuple[float, ...] = tuple(
    sorted(
        {
            *(round(float(level), 4) for level in 1 / (1 + np.exp(-np.linspace(np.log(0.01 / 0.99), np.log(0.999 / 0.001), 46)))),
            0.5,
            0.9,
            0.95,
            0.99,
        }
    )
)
"""Shares of the samples: evenly spaced on a logit scale from 1 % to 99.9 %, so that both tails are drawn, and those that people quote."""


@dataclass(frozen=True)
class Distribution:
    """What is known of one kind of a row's latencies."""

    processes: tuple[NDArray[np.float64], ...]
    """Each process's samples in seconds, sorted."""

    @property
    def n(self) -> int:
        """Samples of all processes."""
        return sum(one.size for one in self.processes)

    @property
    def stated(self) -> tuple[bool, ...]:
        """Whether every process has samples enough, for each of `LEVELS`."""
        return _stated(min(one.size for one in self.processes))

    @property
    def quantiles(self) -> tuple[float | None, ...]:
        """In seconds, one for each of `LEVELS`; null where a process has too few samples for it."""
        values = np.exp(sum(np.log(_quantiles(one)) for one in self.processes) / len(self.processes))
        return tuple(value if known else None for value, known in zip(values.tolist(), self.stated, strict=True))

    @property
    def pooled(self) -> NDArray[np.float64]:
        """The samples of all processes, in no order that means anything."""
        return np.concatenate(self.processes)


def distribution(processes: Sequence[NDArray[Any]]) -> Distribution | None:
    """Return the distribution of the samples of some processes; None where no level can be stated."""
    arrays = [np.sort(np.asarray(one, dtype=np.float64)) for one in processes]
    arrays = [one if one.size and one[0] > 0 and one[-1] < np.inf else one[np.isfinite(one) & (one > 0)] for one in arrays]
    found = Distribution(tuple(arrays))
    return found if arrays and any(found.stated) else None


def _quantiles(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the linearly interpolated quantiles at `LEVELS`, as `numpy.quantile` does with a hundred times the overhead."""
    below, above, weight = _places(ordered.size)
    low: NDArray[np.float64] = ordered[below]
    return low + weight * (ordered[above] - low)


@lru_cache(maxsize=4096)
def _places(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    at = np.asarray(LEVELS) * (n - 1)
    below = np.floor(at).astype(np.intp)
    return below, np.minimum(below + 1, n - 1), at - below


@lru_cache(maxsize=4096)
def _stated(n: int) -> tuple[bool, ...]:
    return tuple(n > 0 and supports_percentile(n, level) for level in LEVELS)


def distributions(rows: Iterable[Row], records: Iterable[Record], folder: Path) -> dict[str, dict[Kind, Distribution]]:
    """Return the distributions of each row that has samples, by the row's `harness.report.rows.anchor`.

    Parameters
    ----------
    rows : iterable of Row
        Rows of the frame.
    records : iterable of Record
        Those the frame was made of.
    folder : Path
        One ``results/<name>``, where the samples lie beside the records.
    """
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            by_key.setdefault(row["key"], []).append(row)
    found: dict[str, dict[Kind, Distribution]] = {}
    for record in records:
        if record.key not in by_key:
            continue
        try:
            arrays = samples(record, folder, beginning=("query_s_", "batch_s_", "latency_s_"))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("the raw samples of %s cannot be read (%s): its distributions are left out", record.key, error)
            continue
        points = {_identity_of_point(point): number for number, point in enumerate(record.points)}
        for row in by_key[record.key]:
            if record.kind == "embed":
                made = {"query": _processes(arrays, "query_s"), "batch": _processes(arrays, "batch_s")}
            else:
                number = points.get(_identity_of_row(row)) if row["search_latency_p50_s"] is not None else None
                made = {"search": _processes(arrays, f"latency_s_{number}")}
            known = {kind: made_of for kind, parts in made.items() if (made_of := distribution(parts)) is not None}
            if known:
                found[anchor(row)] = known
    return found


def _processes(arrays: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    parts: list[NDArray[Any]] = []
    while (one := arrays.get(f"{name}_{len(parts)}")) is not None:
        parts.append(one)
    return parts


def _identity_of_point(point: Point) -> tuple[Any, ...]:
    params = json.dumps(point.search_params, sort_keys=True, ensure_ascii=False)
    return (params, point.k, point.concurrency, point.rate_per_s, point.churn_per_s, point.nq, point.selectivity, point.target_recall)


def _identity_of_row(row: Row) -> tuple[Any, ...]:
    names = ("search_params", "k", "concurrency", "rate_per_s", "churn_per_s", "nq", "selectivity", "target_recall")
    return tuple(row[name] for name in names)
