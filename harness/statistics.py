"""Intervals that mean what they say: measured again, a 95 % interval covers the long-run value about 95 % of the time.

Every number has a *unit of replication*: the thing that is drawn anew when somebody repeats the measurement. Timings replicate
over **processes** (each settles at a speed of its own, so ten thousand samples of one process are one replicate), recall and
quality over **queries**, insert, build and bytes over **builds**. An interval is computed over those units and over nothing
smaller; where that is impossible the bounds are None and `Estimate.reason` says why.

================================  ======================================================================================
what                              how
================================  ======================================================================================
timings, rates, one a process     Student's t on logarithms; geometric mean (`over_processes`)
percentiles of a timing           each process's own percentile, then as above (`percentile_over_processes`)
one process only                  order statistics, marked "within one process" (`within_process_percentile`)
mean score in [0, 1] over queries Gaffke's bounds, which are Clopper–Pearson's for 0/1 scores (`mean_over_queries`)
two models on the same queries    Student's t on per-query differences, Gaffke's bounds if few differ (`paired_difference`)
================================  ======================================================================================

What it refuses: to treat samples of one process as independent replicates of the machine, to print a percentile of too few
samples, and to print an interval of width zero that only says that nothing was seen to vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Unit = Literal["process", "query", "build", "sample"]

CONFIDENCE = 0.95
"""Of every interval in this module, two-sided."""

PERCENTILE_CONFIDENCE = 0.99
"""With which at least two samples must lie beyond a percentile before it may be printed."""

FEWEST_DIFFERING = 10
"""Queries that must differ between two models before Student's t is trusted with the mean difference.

In simulations with 300 queries t covered 79–93 % where three to six queries were expected to differ, all in one direction, and
92–95 % from fifteen on; `paired_difference` uses Gaffke's bounds below.
"""

_DRAWS = 10_000
"""Dirichlet draws behind Gaffke's bounds: the tail probability 0.025 is then met to ±0.0016 (one standard error)."""

_ROUNDING = 1e-12
"""Scores closer than this are the same score, computed in another order."""

_SEED = 20261
"""Fixed, so that the same scores always give the same bounds."""


@dataclass(frozen=True)
class Estimate:
    """A number with what is known about its uncertainty."""

    value: float | None
    """None where too little was measured to state it."""
    lo: float | None
    """Lower end of the 95 % interval, None where none can be stated."""
    hi: float | None
    """Upper end of the 95 % interval, None where none can be stated."""
    n: int
    """How many units of replication the number rests on."""
    unit_of_replication: Unit
    reason: str | None = None
    """Why the value or the interval is None, or what limits it (``within one process``, ``exact by construction``)."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean of per-query differences a − b, and how surprising it would be if there were none."""

    difference: Estimate
    p_value: float | None
    """Two-sided, for the hypothesis that the mean difference is zero."""
    differing: int
    """How many queries differ at all."""


# ------------------------------------------------------------------------------------ percentiles


def samples_for_percentile(q: float) -> int:
    """Smallest number of samples that supports the percentile `q`.

    The rule: with 99 % confidence at least two of the n samples lie beyond the quantile, on its rarer side, so that the
    estimate is not made of the extreme alone. With p = max(q, 1 − q) the number on that side is binomial(n, 1 − p), hence the
    smallest n with ::

        1 − pⁿ − n (1 − p) pⁿ⁻¹ ≥ 0.99

    which is also the sample size at which [min, max] is a two-sided 99 % tolerance interval for a share p (S. S. Wilks,
    "Determination of sample sizes for setting tolerance limits", Annals of Mathematical Statistics 12, 1941). It gives 11 for
    p50, 64 for p90, 130 for p95, 662 for p99 and 6,636 for p99.9.

    Parameters
    ----------
    q : float
        The percentile as a share, strictly between 0 and 1 (0.99 for p99).

    Returns
    -------
    int
        Number of samples.

    Raises
    ------
    ValueError
        If `q` is not strictly between 0 and 1.
    """
    _check_share(q)
    low, high = 1, 2  # invariant once the first loop ends: `low` is too few, `high` is enough
    while not supports_percentile(high, q):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if supports_percentile(middle, q) else (middle, high)
    return high


def supports_percentile(n: int, q: float) -> bool:
    """Tell whether `n` samples support the percentile `q` by the rule in `samples_for_percentile`.

    Parameters
    ----------
    n : int
        Number of samples.
    q : float
        The percentile as a share, strictly between 0 and 1.

    Returns
    -------
    bool
        Whether it may be printed.

    Raises
    ------
    ValueError
        If `q` is not strictly between 0 and 1.
    """
    _check_share(q)
    if n < 2:
        return False
    p = max(q, 1.0 - q)
    at_most_one_beyond = p**n + n * (1.0 - p) * p ** (n - 1)
    return 1.0 - at_most_one_beyond >= PERCENTILE_CONFIDENCE


# ---------------------------------------------------------------------------------------- timings


def over_processes(values: ArrayLike, *, unit: Unit = "process") -> Estimate:
    """Combine positive timings, rates or sizes, one number a replicate: geometric mean with Student's t on the logarithms.

    Logarithms, because what makes one process slower than another (memory layout, frequency, neighbours) multiplies: the spread
    is then alike at every speed, the interval cannot reach below zero, and a rate's estimate is exactly the reciprocal of the
    time's. For rates hand over items / seconds of each process. With few replicates the interval is wide because it must
    be: the factor on the standard error is 4.3 for three processes, 12.7 for two.

    Parameters
    ----------
    values : array_like of shape (n,)
        For example each process's median latency in seconds, or each process's items per second.
    unit : {"process", "build"}, optional
        What was replicated.

    Returns
    -------
    Estimate
        Without an interval for a single value ("within one process"), or when all values are identical (a size in bytes, say).

    Raises
    ------
    ValueError
        If a value is not finite or not positive.
    """
    x = _finite(values)
    if x.size == 0:
        return Estimate(None, None, None, 0, unit, "nothing was measured")
    if np.any(x <= 0):
        raise ValueError(f"values must be positive to be combined on a logarithmic scale, got {float(x.min())!r}")
    logs = np.log(x)
    if x.size == 1:
        return Estimate(float(x[0]), None, None, 1, unit, f"within one {unit}")
    if np.ptp(logs) == 0:
        return Estimate(float(x[0]), None, None, x.size, unit, f"all {x.size} values are identical, so their spread is not known")
    lo, hi = _student(logs)
    return Estimate(math.exp(float(logs.mean())), math.exp(lo), math.exp(hi), x.size, unit)


def percentile_over_processes(samples: Sequence[ArrayLike], q: float, *, unit: Unit = "process") -> Estimate:
    """Combine a percentile of a timing over processes: each process's own percentile, then `over_processes` on those.

    The percentile inside a process is the linearly interpolated one, NumPy's and SciPy's default. In simulations (3 and 5
    processes, autocorrelated log-normal samples) the Harrell–Davis estimator was no narrower, and with 0.3 % of outliers of 3 to
    10 times the usual latency it put p99 of 700 samples 9 % too high and tripled the interval, because its weights reach
    the outliers that p99 is meant not to see. The value and its interval come from the same numbers, so the value always
    lies inside.

    Parameters
    ----------
    samples : sequence of array_like of shape (n_i,)
        The raw samples of each process, positive.
    q : float
        The percentile as a share, strictly between 0 and 1.
    unit : {"process", "build"}, optional
        What was replicated.

    Returns
    -------
    Estimate
        Without a value when any process has fewer samples than `samples_for_percentile` asks for.

    Raises
    ------
    ValueError
        If a sample is not finite or not positive, or `q` is not strictly between 0 and 1.
    """
    needed = samples_for_percentile(q)
    arrays = [_finite(one) for one in samples]
    if not arrays:
        return Estimate(None, None, None, 0, unit, "nothing was measured")
    fewest = min(one.size for one in arrays)
    if fewest < needed:
        reason = f"p{100 * q:g} needs {needed} samples in each {unit}, the smallest has {fewest}"
        return Estimate(None, None, None, len(arrays), unit, reason)
    if any(bool(np.any(one <= 0)) for one in arrays):
        raise ValueError("samples must be positive to be combined on a logarithmic scale")
    return over_processes([float(np.quantile(one, q)) for one in arrays], unit=unit)


def within_process_percentile(samples: ArrayLike, q: float = 0.5) -> Estimate:
    """Estimate a percentile from the samples of one process, marked "within one process".

    The interval is that of the order statistics (`scipy.stats.quantile_test`) and says nothing about another process: measured
    again in a fresh one, the value will be outside it far more often than 5 % of the time.

    Parameters
    ----------
    samples : array_like of shape (n,)
        Raw samples of one process.
    q : float, optional
        The percentile as a share, strictly between 0 and 1.

    Returns
    -------
    Estimate
        Its n is the number of samples. Without a value when there are fewer than `samples_for_percentile` asks for.

    Raises
    ------
    ValueError
        If a sample is not finite, or `q` is not strictly between 0 and 1.
    """
    from scipy import stats

    needed = samples_for_percentile(q)
    x = _finite(samples)
    if x.size < needed:
        return Estimate(None, None, None, x.size, "sample", f"p{100 * q:g} needs {needed} samples, there are {x.size}")
    value = float(np.quantile(x, q))
    test: Any = stats.quantile_test(x, q=value, p=q)  # its stubs do not say what the interval is
    interval = test.confidence_interval(CONFIDENCE)
    return Estimate(value, float(interval.low), float(interval.high), x.size, "sample", "within one process")


# ------------------------------------------------------------------------------- scores over queries


def mean_over_queries(scores: ArrayLike, *, exact: bool = False) -> Estimate:
    """Mean of per-query scores in [0, 1] (recall, nDCG) with an interval that holds near 0 and 1 too.

    Student's t and the bootstrap see only the losses that occurred. When 1 query in 300 fails altogether, 300 queries show no
    loss in one run of three; those intervals are then [1, 1], and over repeated runs t covers the truth 63 % of the time, not 95 %.
    Gaffke's bounds add the one thing the sample cannot exclude, a score at the end of the range: with Dirichlet(1, …, 1) weights
    on the n scores and one 0, the lower bound is the 2.5 % quantile of the weighted mean; with a 1 in place of the 0,
    the upper one is the 97.5 % quantile. For 0/1 scores these are exactly Clopper–Pearson's bounds (300 perfect scores give
    [0.9878, 1]); for scores that vary, or many of them, they approach t's. Nothing is assumed about the scores' distribution but
    its range. In simulations over rare small losses, rare zeros, U-shaped, broad and skewed scores with n = 30, 300 and 2,000 they
    covered 95–99 %. Their width at n = 300 is 1.02–1.15 of t's where scores spread, 1.7 where all are near 1, and 3 where the only
    losses seen are a few scores of 0.9, because nothing there excludes a rare 0.

    Sources: N. Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable",
    Mathematical Methods of Statistics 14, 2005; E. Learned-Miller, P. Thomas, "A new confidence interval for the mean of a bounded
    random variable", 2019, arXiv:1905.06208. That they cover is proven for 0/1 scores and so far only observed for others.

    Parameters
    ----------
    scores : array_like of shape (n,)
        One score a query, each in [0, 1].
    exact : bool, optional
        The caller knows that the store is exact by construction, so that 1.0 on every query is a fact and not a sample. Scores that
        contradict it get the ordinary interval and a reason that says so.

    Returns
    -------
    Estimate
        The arithmetic mean; its interval needs at least 2 queries.

    Raises
    ------
    ValueError
        If a score is not in [0, 1].
    """
    x = _finite(scores)
    if x.size == 0:
        return Estimate(None, None, None, 0, "query", "no query was scored")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"scores must lie in [0, 1], got {float(x.min())!r} to {float(x.max())!r}")
    if exact and np.all(x == 1):
        return Estimate(1.0, 1.0, 1.0, x.size, "query", "exact by construction")
    reason = "said to be exact by construction, but not every score is 1" if exact else None
    value = min(1.0, math.fsum(x) / x.size)
    if x.size == 1:
        return Estimate(value, None, None, 1, "query", "one query only")
    lower, upper = _gaffke_draws(x, 0.0, 1.0)
    lo, hi = _bounds(lower, upper, value)
    return Estimate(value, max(0.0, lo), min(1.0, hi), x.size, "query", reason)


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = CONFIDENCE) -> PairedDifference:
    """Compare two models, or two indexes, by the mean of their per-query differences a − b.

    Pairing removes what the queries have in common, so a difference far smaller than either mean's interval can be real. Student's
    t on the differences (the paired t test, the usual choice for rankings: J. Urbano, H. Lima, A. Hanjalic, "Statistical
    significance testing in information retrieval", SIGIR 2019) gives interval and p value, which therefore agree. When fewer
    than `FEWEST_DIFFERING` queries differ, both come from Gaffke's bounds on [−1, 1] (see `mean_over_queries`), because t does not
    cover there.

    Parameters
    ----------
    a : array_like of shape (n,)
        Scores of the one, each in [0, 1].
    b : array_like of shape (n,)
        Scores of the other for the same queries in the same order.
    confidence : float, optional
        Level of the two-sided interval.

    Returns
    -------
    PairedDifference
        Without interval and p value for fewer than 2 queries.

    Raises
    ------
    ValueError
        If the shapes differ or a score is not in [0, 1].
    """
    x, y = _finite(a), _finite(b)
    if x.shape != y.shape:
        raise ValueError(f"paired scores must be of the same queries, got {x.size} and {y.size}")
    if x.size and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > 1):
        raise ValueError("scores must lie in [0, 1]")
    d = x - y
    differing = int(np.count_nonzero(np.abs(d) > _ROUNDING))
    if d.size < 2:
        few = Estimate(float(d[0]) if d.size else None, None, None, d.size, "query", "fewer than two queries")
        return PairedDifference(few, None, differing)
    value = math.fsum(d) / d.size
    if differing >= FEWEST_DIFFERING and np.ptp(d) > _ROUNDING:
        from scipy import stats

        lo, hi = _student(d, confidence)
        p_value = float(2 * stats.t.sf(abs(value) / stats.sem(d), d.size - 1))
        return PairedDifference(Estimate(value, lo, hi, d.size, "query"), p_value, differing)
    lower, upper = _gaffke_draws(d, -1.0, 1.0)
    lo, hi = _bounds(lower, upper, value, confidence)
    tail = min(int(np.count_nonzero(lower <= 0)), int(np.count_nonzero(upper >= 0)))
    p_value = min(1.0, 2 * (tail + 1) / (_DRAWS + 1))
    return PairedDifference(Estimate(value, max(-1.0, lo), min(1.0, hi), d.size, "query"), p_value, differing)


# ------------------------------------------------------------------------------------------ inside


def _gaffke_draws(x: NDArray[np.float64], low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the weighted means whose quantiles are Gaffke's lower and upper bound, each of shape (_DRAWS,).

    Dirichlet weights are normalised exponential variables. Equal scores share one gamma variable of their summed shape, so the
    cost is that of the distinct scores (at most 11 for recall@10).
    """
    rng = np.random.default_rng(_SEED)
    distinct, counts = np.unique(x, return_counts=True)
    weighted, total = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for value, count in zip(distinct, counts, strict=True):
        weight = rng.standard_gamma(float(count), _DRAWS)
        weighted += value * weight
        total += weight
    unseen = rng.standard_exponential(_DRAWS)
    total += unseen
    return (weighted + low * unseen) / total, (weighted + high * unseen) / total


def _bounds(lower: NDArray[np.float64], upper: NDArray[np.float64], value: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Take the quantiles of the draws; with very few scores they could pass the mean, which is then the bound."""
    tail = (1 - confidence) / 2
    return min(value, float(np.quantile(lower, tail))), max(value, float(np.quantile(upper, 1 - tail)))


def _student(x: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of the mean."""
    from scipy import stats

    # Not ttest_1samp, which gives the same but warns when the values lie close together.
    lo, hi = stats.t.interval(confidence, x.size - 1, loc=x.mean(), scale=stats.sem(x))
    return float(lo), float(hi)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"values must be one-dimensional, got shape {x.shape}")
    if not np.all(np.isfinite(x)):
        raise ValueError("values must be finite")
    return x


def _check_share(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"a percentile is given as a share strictly between 0 and 1 (p99 is 0.99), got {q!r}")
