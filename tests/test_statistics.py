"""Estimates against scipy used directly, textbook examples and properties; coverage is in test_interval_coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import (
    FEWEST_DIFFERING,
    mean_over_queries,
    over_processes,
    paired_difference,
    percentile_over_processes,
    samples_for_percentile,
    supports_percentile,
    within_process_percentile,
)

TIMES = st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=8).filter(lambda x: max(x) > min(x) * (1 + 1e-9))
SCORES = st.lists(st.integers(0, 10).map(lambda hits: hits / 10), min_size=2, max_size=60)


# ------------------------------------------------------------------------------------ percentiles


@pytest.mark.parametrize(("q", "n"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_samples_as_published(q, n):
    assert samples_for_percentile(q) == n
    assert not supports_percentile(n - 1, q)
    assert supports_percentile(n, q)


@pytest.mark.parametrize("q", [0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
def test_the_sample_size_is_that_of_wilks_tolerance_interval(q):
    """The share of a distribution between the smallest and largest of n samples is Beta(n − 1, 2)."""
    n = samples_for_percentile(q)
    assert stats.beta.sf(q, n - 1, 2) >= 0.99
    assert stats.beta.sf(q, n - 2, 2) < 0.99


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_the_sample_size_leaves_two_samples_beyond_the_percentile(q):
    n = samples_for_percentile(q)
    assert stats.binom.sf(1, n, 1 - q) >= 0.99 > stats.binom.sf(1, n - 1, 1 - q)


def test_a_low_percentile_needs_as_many_as_its_mirror_image():
    assert samples_for_percentile(0.01) == samples_for_percentile(0.99)


@pytest.mark.parametrize("q", [0.0, 1.0, 95.0, -0.1, float("nan")])
def test_a_percentile_that_is_no_share_is_refused(q):
    for call in (lambda: samples_for_percentile(q), lambda: within_process_percentile([1.0] * 20, q)):
        with pytest.raises(ValueError, match="given as a share"):
            call()


# ---------------------------------------------------------------------------------------- timings


def test_processes_are_combined_by_student_t_on_logarithms():
    """By hand: three medians, t(2) = 4.3027."""
    values = [0.010, 0.011, 0.013]
    logs = np.log(values)
    half = 4.302652729911275 * logs.std(ddof=1) / math.sqrt(3)
    found = over_processes(values)
    assert found.value == pytest.approx(stats.gmean(values))
    assert (found.lo, found.hi) == (pytest.approx(math.exp(logs.mean() - half)), pytest.approx(math.exp(logs.mean() + half)))
    assert (found.n, found.unit_of_replication, found.reason) == (3, "process", None)


@given(TIMES)
def test_the_value_lies_inside_its_interval_and_the_interval_above_zero(values):
    found = over_processes(values)
    assert 0 < found.lo <= found.value <= found.hi


@given(TIMES, st.floats(1e-3, 1e3))
def test_units_do_not_matter_and_rates_are_reciprocal_times(values, factor):
    found, scaled, inverse = over_processes(values), over_processes(np.array(values) * factor), over_processes(1 / np.array(values))
    assert (scaled.value, scaled.lo, scaled.hi) == pytest.approx((found.value * factor, found.lo * factor, found.hi * factor), rel=1e-6)
    assert (inverse.value, inverse.lo, inverse.hi) == pytest.approx((1 / found.value, 1 / found.hi, 1 / found.lo), rel=1e-6)


def test_values_that_differ_in_the_last_place_only_are_no_trouble():
    found = over_processes([1.0, 1.0 + 2**-52, 1.0])
    assert found.lo <= found.value <= found.hi
    assert "identical" in over_processes([1000.0, np.nextafter(1000.0, 2000.0)]).reason


def test_one_process_has_a_value_and_no_interval():
    found = over_processes([0.25])
    assert (found.value, found.lo, found.hi, found.n, found.reason) == (0.25, None, None, 1, "within one process")
    assert over_processes([3.0], unit="build").reason == "within one build"


def test_identical_values_have_no_interval_of_width_zero():
    found = over_processes([4096, 4096, 4096], unit="build")
    assert (found.value, found.lo, found.hi, found.unit_of_replication) == (4096, None, None, "build")
    assert "identical" in found.reason


def test_nothing_measured_is_not_a_zero():
    for found in (over_processes([]), percentile_over_processes([], 0.5), mean_over_queries([])):
        assert (found.value, found.lo, found.hi, found.n) == (None, None, None, 0)
        assert found.reason


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_times_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match=r"positive|finite"):
        over_processes(values)
    with pytest.raises(ValueError, match=r"positive|finite"):
        percentile_over_processes([values * 10, values * 10], 0.5)


def test_a_percentile_over_processes_is_that_of_each_process_combined():
    samples = [np.random.default_rng(i).lognormal(size=200) for i in range(3)]
    found = percentile_over_processes(samples, 0.95)
    assert found == over_processes([np.percentile(one, 95) for one in samples])
    assert found.lo < found.value < found.hi


def test_too_few_samples_in_one_process_give_no_percentile():
    rng = np.random.default_rng(0)
    found = percentile_over_processes([rng.random(1000) + 1, rng.random(661) + 1], 0.99)
    assert (found.value, found.lo, found.hi, found.n) == (None, None, None, 2)
    assert found.reason == "p99 needs 662 samples in each process, the smallest has 661"
    assert percentile_over_processes([rng.random(1000) + 1, rng.random(662) + 1], 0.99).value is not None


def test_the_median_within_one_process_is_bounded_by_order_statistics():
    """By hand for n = 20: the 6th and the 15th value, the innermost pair that covers at least 95 % by the binomial(20, ½)."""
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    found = within_process_percentile(samples)
    assert (found.value, found.lo, found.hi) == (10.5, 6.0, 15.0)
    assert 1 - 2 * stats.binom.cdf(5, 20, 0.5) > 0.95 > 1 - 2 * stats.binom.cdf(6, 20, 0.5)
    assert (found.n, found.unit_of_replication, found.reason) == (20, "sample", "within one process")


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.95, 0.99])
def test_the_smallest_supported_sample_has_an_interval_around_its_value(q):
    n = samples_for_percentile(q)
    found = within_process_percentile(np.random.default_rng(1).lognormal(size=n), q)
    assert found.lo <= found.value <= found.hi
    few = within_process_percentile(np.ones(n - 1), q)
    assert (few.value, few.lo, few.hi) == (None, None, None)
    assert f"needs {n} samples" in few.reason


# ------------------------------------------------------------------------------- scores over queries


@pytest.mark.parametrize(("hits", "n"), [(300, 300), (299, 300), (30, 30), (12, 30), (0, 50), (1990, 2000)])
def test_scores_of_zero_and_one_have_the_clopper_pearson_interval(hits, n):
    found = mean_over_queries([1.0] * hits + [0.0] * (n - hits))
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    width = expected.high - expected.low
    assert found.value == hits / n
    assert found.lo == pytest.approx(expected.low, abs=0.03 * width)
    assert found.hi == pytest.approx(expected.high, abs=0.03 * width)
    assert (found.n, found.unit_of_replication, found.reason) == (n, "query", None)


def test_identical_scores_do_not_have_an_interval_of_width_zero():
    """300 perfect queries leave room for about one failure in a hundred."""
    perfect = mean_over_queries([1.0] * 300)
    assert (perfect.value, perfect.hi) == (1.0, 1.0)
    assert perfect.lo == pytest.approx(0.025 ** (1 / 300), abs=5e-4)
    same = mean_over_queries([0.7] * 300)
    assert same.lo < 0.7 < same.hi
    assert same.value == pytest.approx(0.7)


def test_a_store_that_is_exact_by_construction_can_say_so():
    found = mean_over_queries([1.0] * 30, exact=True)
    assert (found.value, found.lo, found.hi, found.reason) == (1.0, 1.0, 1.0, "exact by construction")


def test_a_claim_of_exactness_that_the_scores_contradict_counts_for_nothing():
    found = mean_over_queries([1.0] * 29 + [0.9], exact=True)
    ordinary = mean_over_queries([1.0] * 29 + [0.9])
    assert (found.value, found.lo, found.hi) == (ordinary.value, ordinary.lo, ordinary.hi)
    assert "not every score is 1" in found.reason


@settings(deadline=None, max_examples=60)
@given(SCORES)
def test_a_mean_lies_inside_its_interval_inside_the_range(scores):
    found = mean_over_queries(scores)
    assert found.value == pytest.approx(np.mean(scores))
    assert 0 <= found.lo <= found.value <= found.hi <= 1
    assert found.lo < found.hi


@settings(deadline=None, max_examples=30)
@given(SCORES, st.randoms())
def test_the_order_of_queries_does_not_matter_and_losses_mirror_gains(scores, random):
    found, shuffled = mean_over_queries(scores), mean_over_queries(random.sample(scores, len(scores)))
    assert shuffled == found
    mirrored = mean_over_queries(1 - np.array(scores))
    width = found.hi - found.lo
    assert (1 - mirrored.hi, 1 - mirrored.lo) == pytest.approx((found.lo, found.hi), abs=0.05 * width)


@settings(deadline=None, max_examples=30)
@given(SCORES)
def test_a_lower_score_cannot_raise_the_lower_bound(scores):
    worse = [max(0.0, score - 0.3) for score in scores]
    assert mean_over_queries(worse).lo <= mean_over_queries(scores).lo + 0.01


def test_scores_that_vary_have_an_interval_close_to_student_t():
    rng = np.random.default_rng(0)
    for n, most in [(300, 1.12), (2000, 1.06)]:
        scores = rng.beta(2, 2, n).round(2)
        found = mean_over_queries(scores)
        t = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
        assert 0.97 < (found.hi - found.lo) / (t.high - t.low) < most


def test_one_query_has_no_interval():
    found = mean_over_queries([0.5])
    assert (found.value, found.lo, found.hi) == (0.5, None, None)
    assert found.reason


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_scores_outside_zero_to_one_are_refused(score):
    for call in (lambda: mean_over_queries([0.5, score]), lambda: paired_difference([0.5, score], [0.5, 0.5])):
        with pytest.raises(ValueError, match="must"):
            call()


# -------------------------------------------------------------------------------- paired differences


def test_a_paired_difference_is_that_of_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(100), rng.random(100)
    found = paired_difference(a, b)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.difference.value == pytest.approx(a.mean() - b.mean())
    assert (found.difference.lo, found.difference.hi, found.p_value) == pytest.approx((interval.low, interval.high, expected.pvalue))
    assert found.differing == 100


def test_a_small_steady_difference_is_found_that_the_two_means_would_hide():
    rng = np.random.default_rng(0)
    easy = rng.random(200) * 0.9
    a, b = easy + 0.02 + 0.01 * rng.random(200), easy
    found = paired_difference(a, b)
    assert found.difference.lo > 0.02
    assert found.p_value < 1e-6
    assert mean_over_queries(a).lo < mean_over_queries(b).hi


def test_models_that_agree_on_every_query_differ_by_less_than_the_queries_can_tell():
    found = paired_difference([0.5] * 300, [0.5] * 300)
    assert found.difference.value == 0
    assert found.difference.lo < -0.005 < 0.005 < found.difference.hi
    assert (found.p_value, found.differing) == (1.0, 0)


def test_a_difference_of_rounding_alone_is_none():
    rng = np.random.default_rng(0)
    a = rng.random(100)
    found = paired_difference(a, a * (1 + 1e-15))
    assert found.differing == 0
    assert found.p_value == pytest.approx(1.0, abs=0.05)
    steady = paired_difference(a * 0.5 + 0.1, a * 0.5)
    assert steady.difference.lo < 0.0999 < 0.1001 < steady.difference.hi
    assert steady.p_value < 0.01


def test_one_query_that_differs_is_no_evidence():
    found = paired_difference([1.0] * 300, [0.0] + [1.0] * 299)
    assert found.difference.lo < 0 < found.difference.hi
    assert found.p_value > 0.3


def test_interval_and_p_value_agree_on_zero():
    rng = np.random.default_rng(3)
    seen = set()
    for differing in range(FEWEST_DIFFERING + 8):
        for lift in (0.2, 1.0):
            a, b = np.full(40, 1.0), np.full(40, 1.0)
            b[:differing] -= lift * rng.random(differing)
            found = paired_difference(a, b)
            significant = found.p_value < 0.05
            seen.add(significant)
            assert significant == (found.difference.lo > 0 or found.difference.hi < 0)
    assert seen == {True, False}


def test_exchanging_the_two_models_changes_the_sign_only():
    for n in (3, 60):
        rng = np.random.default_rng(n)
        a, b = rng.random(n), rng.random(n)
        one, other = paired_difference(a, b), paired_difference(b, a)
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert (one.difference.lo, one.difference.hi) == pytest.approx((-other.difference.hi, -other.difference.lo), abs=0.02)
        assert one.p_value == pytest.approx(other.p_value, abs=0.02)


def test_scores_of_different_queries_cannot_be_paired():
    with pytest.raises(ValueError, match="same queries"):
        paired_difference([0.1, 0.2], [0.1])


def test_fewer_than_two_queries_have_no_interval():
    found = paired_difference([0.5], [0.2])
    assert (found.difference.lo, found.difference.hi, found.p_value) == (None, None, None)
