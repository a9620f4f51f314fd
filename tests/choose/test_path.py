"""Latency end to end, against all sums made one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.choose.path import percentile, quantile_of_sums, throughput
from harness.statistics import over_processes
from tests.choose.cells import times

TIMES = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40)


@given(TIMES, TIMES, st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_percentile_is_that_of_all_sums(a, b, q):
    sums = np.sort(np.add.outer(np.array(a), np.array(b)).ravel())
    found = quantile_of_sums(np.array(a), np.array(b), q)
    wanted = sums[max(math.ceil(q * sums.size * (1 - 1e-12)) - 1, 0)]
    assert found == pytest.approx(wanted, rel=1e-8)


def test_the_percentile_of_two_normal_times_is_that_of_their_sum():
    """3 ± 0.3 and 4 ± 0.4 ms add up to 7 ± 0.5 ms, whose p99 lies 2.326 deviations above."""
    rng = np.random.default_rng(0)
    found = quantile_of_sums(rng.normal(3e-3, 3e-4, 20_000), rng.normal(4e-3, 4e-4, 20_000), 0.99)
    assert found == pytest.approx(7e-3 + 2.3263 * 5e-4, rel=2e-3)


def test_percentiles_do_not_simply_add():
    a, b = times(0.01)[0], times(0.01, seed=9)[0]
    assert quantile_of_sums(a, b, 0.99) < np.quantile(a, 0.99) + np.quantile(b, 0.99)


def test_process_is_paired_with_process_so_that_the_interval_is_over_processes():
    embed, search = times(0.01, seed=1), times(0.002, seed=2)
    figure, values = percentile(embed, search, 0.99)
    by_hand = [np.quantile(np.add.outer(a, b), 0.99, method="inverted_cdf") for a, b in zip(embed, search, strict=True)]
    assert values == pytest.approx(by_hand, rel=1e-8)
    wanted = over_processes(by_hand)
    assert (figure.value, figure.lo, figure.hi) == pytest.approx((wanted.value, wanted.lo, wanted.hi), rel=1e-7)
    assert (figure.n, figure.replication) == (3, "process")


def test_processes_without_a_partner_are_not_used():
    figure, values = percentile(times(0.01, processes=5), times(0.002, processes=3), 0.5)
    assert figure.n == len(values) == 3


@pytest.mark.parametrize(
    ("embedded", "searched", "cell", "more"), [(661, 700, "embed", "min_duration_s"), (700, 661, "search", "workload.min_requests")]
)
def test_a_p99_needs_662_samples_in_each_process_of_both_cells(embedded, searched, cell, more):
    figure, values = percentile(times(0.01, count=embedded), times(0.002, count=searched), 0.99)
    assert figure.value is None
    assert values == ()
    assert figure.reason == f"p99 needs 662 samples in each process, the {cell} cell has 661; raise {more}="


def test_given_vectors_take_as_long_as_the_search_alone():
    search = times(0.002)
    assert percentile(None, search, 0.5)[1] == pytest.approx([np.quantile(one, 0.5) for one in search])


def test_one_process_has_no_interval_over_processes():
    figure, _ = percentile(times(0.01, processes=1), times(0.002, processes=1), 0.5)
    assert figure.value is not None
    assert figure.lo is figure.hi is None
    assert figure.reason == "within one process"


def test_embedding_and_searching_take_turns():
    """8 ms and 1 / 500 s are 10 ms."""
    figure, values = throughput([np.full(20, 0.008)] * 2, [500.0, 500.0])
    assert values == pytest.approx([100.0, 100.0])
    assert figure.value == pytest.approx(100.0)


def test_given_vectors_are_searched_as_fast_as_was_measured():
    assert throughput(None, [40.0, 40.0])[0].value == pytest.approx(40.0)


def test_a_rate_that_was_not_kept_is_not_known():
    assert throughput([np.full(20, 0.008)], [])[0].value is None


@pytest.mark.parametrize(("embed", "search", "cell"), [([], times(0.002), "embed"), (times(0.01), [], "search"), (None, [], "search")])
def test_samples_that_are_not_there_are_not_called_too_few(embed, search, cell):
    assert percentile(embed, search, 0.5)[0].reason == f"the samples of the {cell} cell are not there"
