"""What a row's figure rests on: a value for each process or build, a score for each query, and the ratio of two figures.

The unit of replication is the record's own: timings replicate over processes, builds over builds, recall and quality over queries. A cell
that was measured several times brings the processes of all its records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.compare.rows import Stored, arrays
from harness.records import Measured, Record
from harness.statistics import CONFIDENCE, supports_percentile

_QUANTILES = {
    "forward_s": ("forward_s", 0.5),
    "query_embed_p50_s": ("query_s", 0.5),
    "batch_latency_p50_s": ("batch_s", 0.5),
    "search_latency_p50_s": ("latency_s", 0.5),
    "search_latency_p95_s": ("latency_s", 0.95),
    "search_latency_p99_s": ("latency_s", 0.99),
}
"""Figures that are a percentile of raw samples, with the samples' name; of `forward_s` the median here, which is steadier than its mean."""

_SCORES = frozenset({"recall", "ndcg_at_10", "ndcg_at_10_exact"})


@dataclass(frozen=True)
class Ratio:
    """How one figure stands to another."""

    value: float
    """The one divided by the other."""
    lo: float | None
    """Lower end of the 95 % interval; None where too little is known for one."""
    hi: float | None


def replicates(stored: Stored, figure: str) -> list[float]:
    """Return one value a process or build, over all times that the cell was measured; empty where the records do not hold them.

    Memory is measured by one process of its own in each record, so that each record brings one value.
    """
    if figure in _QUANTILES:
        name, q = _QUANTILES[figure]
        several = arrays(stored, name if stored.number is None else f"{name}_{stored.number}")
        return [float(np.quantile(one, q)) for one in several] if all(supports_percentile(one.size, q) for one in several) else []
    if figure.endswith("_bytes") and figure != "index_bytes":
        values = [record.metrics[figure].value for record in stored.repeats if figure in record.metrics]
        return [value for value in values if value is not None]
    name = f"each_{figure}" if stored.number is None else f"each_{figure}_{stored.number}"
    kept = stored.raw(name)
    if not all(name in raw for raw in kept):
        return []
    return [float(value) for raw in kept for value in raw[name]]


def of_runs(stored: Stored, figure: str) -> list[float]:
    """Return one value a run, the geometric mean of its processes; empty where the records do not hold them.

    The processes of one run see the same minutes of the machine, so that for comparing two sides that were measured at different times
    they are no independent evidence, however many; runs at different times are.
    """
    each = [replicates(one_run(stored, run), figure) for run in stored.repeats]
    if not all(each) or any(value <= 0 for values in each for value in values):
        return []
    return [geometric_mean(values) for values in each]


def one_run(stored: Stored, run: Record) -> Stored:
    """Return the row as one of its runs had it."""
    return replace(stored, repeats=(run,))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def scores(stored: Stored, figure: str) -> NDArray[np.float64] | None:
    """Return one score a query, in the queries' order, of the newest record; None where it keeps none."""
    changing = stored.point is not None and stored.point.churn_per_s is not None  # then queries without an answer that counts are left out
    if figure not in _SCORES or changing:
        return None
    found = stored.scores(figure).get(figure if stored.number is None else f"{figure}_{stored.number}")
    return None if found is None else np.asarray(found, dtype=np.float64)


def ratio(base: Measured, head: Measured) -> Ratio | None:
    """Return head / base of two figures that were measured independently, with its interval.

    Records hold the geometric mean over n replicates and Student's interval of it on the logarithms (`harness.statistics.over_processes`),
    from which mean and standard error of the logarithms follow. The interval of the ratio is Welch's: the standard errors add as squares,
    the degrees of freedom are those of Satterthwaite (B. L. Welch, Biometrika 34, 1947). Replicates that are all identical, as sizes
    often are, have the standard error 0.

    Returns
    -------
    Ratio or None
        None where a value is missing or not positive; without an interval where one of the two has none to go by.
    """
    if base.value is None or head.value is None or base.value <= 0 or head.value <= 0:
        return None
    value = head.value / base.value
    known = _error(base), _error(head)
    if known[0] is None or known[1] is None:
        return Ratio(value, None, None)
    (one, one_free), (other, other_free) = known[0], known[1]
    error = math.hypot(one, other)
    if error == 0:
        return Ratio(value, value, value)
    from scipy import stats

    free = error**4 / (one**4 / one_free + other**4 / other_free)
    reach = float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2, free)) * error
    return Ratio(value, value * math.exp(-reach), value * math.exp(reach))


def _error(figure: Measured) -> tuple[float, int] | None:
    """Return the standard error of the mean logarithm and its degrees of freedom; None where nothing is known of it."""
    if figure.n < 2 or figure.replication == "sample":  # samples of one process say nothing of the next
        return None
    if figure.lo is None or figure.hi is None:
        return (0.0, figure.n - 1) if figure.reason and "identical" in figure.reason else None
    if figure.lo <= 0:
        return None
    from scipy import stats

    width = math.log(figure.hi / figure.lo) / 2
    return width / float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2, figure.n - 1)), figure.n - 1
