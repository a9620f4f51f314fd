"""Measured again, a 95 % interval covers the long-run value about 95 % of the time: shown by simulation, seeded.

Bounds leave at least four standard errors of the simulation itself, so that a correct interval does not fail by chance. What was
seen when this was written stands beside each case.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal, stats

from harness.statistics import (
    mean_over_queries,
    over_processes,
    paired_difference,
    percentile_over_processes,
    within_process_percentile,
)


def latencies(rng, runs, processes, n, *, between, noise=0.1, memory=0.6, outliers=0.005):
    """Simulated runs of a benchmark, shape (runs, processes, n).

    Each process has a log-normal speed of its own (`between`), samples within it wander (AR(1) on the logarithm with `memory`), and a
    few take three to ten times as long (garbage collection, a neighbour).
    """
    shocks = rng.normal(size=(runs, processes, n + 20))
    wander = signal.lfilter([math.sqrt(1 - memory**2)], [1, -memory], shocks, axis=2)[:, :, 20:]
    speed = between * rng.normal(size=(runs, processes, 1))
    slow = np.where(rng.random((runs, processes, n)) < outliers, rng.uniform(3, 10, (runs, processes, n)), 1.0)
    return 0.01 * np.exp(speed + noise * wander) * slow


def long_run(q, *, noise=0.1, outliers=0.005):
    """The percentile of a typical process: solved from the distribution, not simulated."""
    from scipy.optimize import brentq

    multiples = np.linspace(3, 10, 2001)

    def cdf(x):
        fast = stats.norm.cdf(np.log(x) / noise)
        slow = np.mean(stats.norm.cdf(np.log(x / multiples) / noise))
        return (1 - outliers) * fast + outliers * slow

    return 0.01 * brentq(lambda x: cdf(x) - q, 0.3, 20)


def covers(estimate, truth):
    return estimate.lo <= truth <= estimate.hi


@pytest.mark.parametrize("between", [0.005, 0.05, 0.3])
@pytest.mark.parametrize("processes", [3, 5])
def test_the_median_latency_over_processes_covers(processes, between):
    """Processes that differ less, as much and more than the noise within one. Seen: 94.5–95.3 %."""
    runs = latencies(np.random.default_rng(processes), 1500, processes, 150, between=between)
    truth = long_run(0.5)
    covered = np.mean([covers(percentile_over_processes(list(run), 0.5), truth) for run in runs])
    assert 0.927 <= covered <= 0.973


@pytest.mark.parametrize(("q", "n"), [(0.95, 300), (0.99, 1500)])
@pytest.mark.parametrize("processes", [3, 5])
def test_a_tail_percentile_over_processes_covers(processes, q, n):
    """Outliers are 0.5 %, so p99 has them beyond it. Seen: 94.0–96.2 %."""
    runs = latencies(np.random.default_rng(10 + processes), 500, processes, n, between=0.05)
    covered = np.mean([covers(percentile_over_processes(list(run), q), long_run(q)) for run in runs])
    assert covered >= 0.91


@pytest.mark.parametrize("processes", [3, 5])
def test_throughput_over_processes_covers(processes):
    """Items over the sum of their times, so outliers count in full. Seen: 94.3–95.0 %."""
    runs = latencies(np.random.default_rng(20 + processes), 1500, processes, 150, between=0.05)
    rates = 150 / runs.sum(axis=2)
    truth = np.exp(np.mean(np.log(150 / latencies(np.random.default_rng(0), 4000, 1, 150, between=0).sum(axis=2))))
    covered = np.mean([covers(over_processes(run), truth) for run in rates])
    assert 0.925 <= covered <= 0.975


def test_samples_taken_for_independent_replicates_do_not_cover():
    """The mistake the rule forbids: the same simulation, the same truth, an interval from all samples pooled. Seen: 38 %."""
    runs = latencies(np.random.default_rng(3), 300, 3, 150, between=0.05)
    truth = long_run(0.5)
    pooled = np.mean([covers(within_process_percentile(run.ravel()), truth) for run in runs])
    by_process = np.mean([covers(percentile_over_processes(list(run), 0.5), truth) for run in runs])
    assert pooled < 0.5
    assert by_process > 0.9


def test_an_interval_within_one_process_covers_independent_samples_of_it_and_no_other_process():
    rng = np.random.default_rng(4)
    alike = latencies(rng, 600, 1, 100, between=0, memory=0)[:, 0]
    unlike = latencies(rng, 600, 1, 100, between=0.1, memory=0)[:, 0]
    truth = long_run(0.5)
    assert np.mean([covers(within_process_percentile(run), truth) for run in alike]) > 0.92
    assert np.mean([covers(within_process_percentile(run), truth) for run in unlike]) < 0.5


# ------------------------------------------------------------------------------- scores over queries


def student(scores):
    half = stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores)
    return scores.mean() - half, scores.mean() + half


@pytest.mark.parametrize("loss", [1.0, 0.1])
@pytest.mark.parametrize("n", [30, 300])
def test_perfect_scores_with_rare_losses_cover_at_every_rate_computed_exactly(n, loss):
    """No simulation: the interval for each possible number of losses, weighted by the binomial. Seen: at least 95.7 %.

    Losses of the whole score, and of a tenth (one neighbour in ten missed).
    """
    most = 60 if n == 300 else n
    samples = [np.r_[np.full(m, 1 - loss), np.ones(n - m)] for m in range(most + 1)]
    intervals, students = [mean_over_queries(one) for one in samples], [student(one) for one in samples]
    worst_t = 1.0
    for rate in np.geomspace(1e-4, 0.1, 60):
        chance = stats.binom.pmf(np.arange(most + 1), n, rate)
        truth = 1 - loss * rate
        covered = sum(p for p, found in zip(chance, intervals, strict=True) if covers(found, truth))
        assert covered >= 0.945
        worst_t = min(worst_t, sum(p for p, (lo, hi) in zip(chance, students, strict=True) if lo <= truth <= hi))
    assert worst_t < 0.1, "Student's t fails here, so this test can"


def hnsw(rng, shape):
    """Recall@10 of a graph index: most queries nearly perfect, some hard."""
    return rng.binomial(10, rng.beta(9, 1, shape)) / 10


def mostly_fine(rng, shape):
    """Nine in ten perfect, one in ten at 0.9, one in two hundred nothing at all."""
    return rng.choice([1.0, 0.9, 0.0], size=shape, p=[0.895, 0.1, 0.005])


def u_shaped(rng, shape):
    """NDCG@10 with one relevant document: found at some rank, or not."""
    found = 1 / np.log2(1 + np.arange(1, 11))
    return rng.choice(np.r_[found, 0.0], size=shape, p=[0.45, 0.1, *[0.02] * 8, 0.29])


def broad(rng, shape):
    return rng.beta(2, 2, shape).round(1)


def near_one(rng, shape):
    return np.ceil(rng.beta(20, 1, shape) * 50) / 50


@pytest.mark.parametrize("n", [30, 300, 2000])
@pytest.mark.parametrize("scores", [hnsw, mostly_fine, u_shaped, broad, near_one])
def test_the_mean_over_queries_covers(scores, n):
    """Seen: 95.2–99.5 %; the interval is cautious where few queries could hide a rare failure."""
    truth = scores(np.random.default_rng(0), 4_000_000).mean()
    runs = scores(np.random.default_rng(n), (400, n))
    assert np.mean([covers(mean_over_queries(run), truth) for run in runs]) >= 0.92


def test_student_t_would_not_cover_rare_failures():
    truth = 0.895 + 0.09
    runs = mostly_fine(np.random.default_rng(300), (400, 300))
    assert np.mean([lo <= truth <= hi for lo, hi in map(student, runs)]) < 0.88


# -------------------------------------------------------------------------------- paired differences


@pytest.mark.parametrize("rate", [0.005, 0.03, 0.1, 0.6])
@pytest.mark.parametrize("better", [0.5, 1.0])
def test_a_paired_difference_covers_however_few_queries_differ(rate, better):
    """One model beats the other on a share of the queries, evenly or always. Seen: 94.5–100 %."""
    rng = np.random.default_rng(5)
    n, runs = 300, 400
    differs = rng.random((runs, n)) < rate
    sign = np.where(rng.random((runs, n)) < better, 1, -1)
    a = 0.5 + 0.5 * np.where(differs, sign * rng.choice([0.2, 0.6, 1.0], (runs, n)), 0)
    truth = 0.5 * rate * (2 * better - 1) * 0.6
    b = np.full(n, 0.5)
    found = [paired_difference(one, b) for one in a]
    assert np.mean([covers(one.difference, truth) for one in found]) >= 0.90
    if better == 0.5:
        assert np.mean([one.p_value < 0.05 for one in found]) <= 0.094
