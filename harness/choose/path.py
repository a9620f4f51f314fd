"""What a user waits for: a query embedded and then searched for, from samples of two cells that were measured apart.

Embedding one query and searching with its vector follow one another and know nothing of each other's speed, so the time of both is
the sum of two independent draws: its distribution is the convolution of the two that were measured. With samples no density has to be
assumed: every embedding time is added to every search time, and the percentile is that of all these sums. Process i of the one cell is
paired with process i of the other, so that there are as many independent values as there were processes and the interval has its unit
of replication; all pairs of processes would be more numbers and no more information.

What it cannot see is what the two do to each other when they share a machine (caches, clock frequency, memory bandwidth): the real
loop, `harness.serve_cell`, measures that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Measured
from harness.statistics import over_processes, samples_for_percentile

Samples = Sequence[NDArray[np.float64]]
"""Seconds, one array a process."""

_MORE = {"embed": "min_duration_s", "search": "workload.min_requests"}
"""What brings more samples: an embed cell takes as many single queries as fit into its time."""
_CLOSE = 1e-9
"""The percentile of the sums is found to this share of itself: a nanosecond in a second, which is the clock's own step."""


def quantile_of_sums(a: NDArray[Any], b: NDArray[Any], q: float) -> float:
    """Return the smallest time that a share `q` of all sums a_i + b_j does not exceed.

    The n·m sums are never made: how many of them are at most t follows from the sorted b by one binary search for each a_i, and t is
    found by bisection.

    Parameters
    ----------
    a, b : ndarray of shape (n,) and (m,)
        Independent samples, in seconds.
    q : float
        The percentile as a share, in (0, 1].
    """
    a, b = np.sort(np.asarray(a, dtype=np.float64)), np.sort(np.asarray(b, dtype=np.float64))
    wanted = math.ceil(q * a.size * b.size * (1 - 1e-12))  # 0.99 × 100 is a little more than 99 in floating point
    low, high = float(a[0] + b[0]), float(a[-1] + b[-1])
    if wanted <= 1:
        return low
    while high - low > _CLOSE * high:
        middle = low + (high - low) / 2
        if int(np.searchsorted(b, middle - a, side="right").sum()) >= wanted:
            high = middle
        else:
            low = middle
    return high


def percentile(embed: Samples | None, search: Samples, q: float) -> tuple[Measured, tuple[float, ...]]:
    """Return a percentile of embedding a query and searching, and each pair of processes' own.

    Parameters
    ----------
    embed : sequence of ndarray or None
        Times of single queries through the model, by process; None where the vectors were given.
    search : sequence of ndarray
        Times of single searches at one operating point, by process.
    q : float
        The percentile as a share, strictly between 0 and 1.

    Returns
    -------
    Measured
        Seconds; null with the reason where a process has too few samples (see `harness.statistics.samples_for_percentile`).
    tuple of float
        Empty where the figure is null.
    """
    needed = samples_for_percentile(q)
    for what, samples in (("embed", embed), ("search", search)):
        if samples is None:
            continue
        if not len(samples):
            return Measured(None, "s", "lower", reason=f"the samples of the {what} cell are not there"), ()
        fewest = min(map(len, samples))
        if fewest < needed:
            reason = f"p{100 * q:g} needs {needed} samples in each process, the {what} cell has {fewest}; raise {_MORE[what]}="
            return Measured(None, "s", "lower", reason=reason), ()
    if embed is None:
        values = tuple(float(np.quantile(one, q)) for one in search)
    else:
        values = tuple(quantile_of_sums(a, b, q) for a, b in zip(embed, search, strict=False))  # one may have more processes
    return _over(values, "s", "lower"), values


def throughput(embed: Samples | None, rates: Sequence[float]) -> tuple[Measured, tuple[float, ...]]:
    """Return queries a second of one machine that embeds and searches in turns, and each pair of processes' own.

    Parameters
    ----------
    embed : sequence of ndarray or None
        Times of single queries through the model, by process; None where the vectors were given.
    rates : sequence of float
        Searches a second of all clients together, by process.
    """
    if not len(rates) or (embed is not None and not all(len(one) for one in embed)):
        return Measured(None, "1/s", "higher", reason="the samples of this cell are not there"), ()
    before = [0.0] * len(rates) if embed is None else [float(one.mean()) for one in embed]
    values = tuple(1 / (first + 1 / float(rate)) for first, rate in zip(before, rates, strict=False))
    return _over(values, "1/s", "higher"), values


def _over(values: Sequence[float], unit: str, better: Any) -> Measured:
    found = over_processes(values)
    return Measured(found.value, unit, better, found.lo, found.hi, found.n, "process", found.reason)
