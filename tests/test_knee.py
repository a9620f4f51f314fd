"""The curve of batch sizes: when it ends, and where its knee is; curves are made up, their rates known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.frame import to_frame
from harness.knee import SHARE, batch_sizes, curves, ended, knee, rise
from harness.records import Measured, Record
from harness.statistics import over_processes


def rate(value, spread=None):
    """A rate whose interval reaches a share `spread` up and down on the logarithmic scale; without one, no interval."""
    if spread is None:
        return Measured(value, "items/s", "higher", n=1, reason="within one process")
    return Measured(value, "items/s", "higher", value / (1 + spread), value * (1 + spread), 3)


def cell(batch_size, value=None, spread=None, *, status="ok", **more):
    labels = {"model": "m", "device": "cpu"}
    settings = {"batch_size": batch_size, "dtype": "fp32", **more}
    metrics = {} if value is None else {"throughput_per_s": rate(value, spread)}
    return Record("embed", f"{batch_size}-{more}", status, None, settings, labels, {"fingerprint": "d"}, {}, {"fingerprint": "e"}, metrics)


def curve(*values, spread=None):
    return [cell(2**power, value, spread) for power, value in enumerate(values)]


def where_it_ends(*values, spread=None):
    """The batch size after which no larger one is asked for, None where all are."""
    whole = curve(*values, spread=spread)
    return next((one.settings["batch_size"] for i, one in enumerate(whole) if ended(whole[: i + 1])), None)


def test_nothing_measured_has_not_ended_and_has_no_knee():
    assert not ended([])
    assert knee([]) is None


def test_a_curve_that_rises_goes_on_and_has_no_knee():
    rising = (10, 20, 40, 80, 160)
    assert where_it_ends(*rising, spread=0.01) is None
    assert knee(curve(*rising)) is None


def test_a_doubling_shown_to_gain_little_ends_the_curve_and_the_batch_before_it_is_the_knee():
    assert where_it_ends(10, 20, 30, 30.3, 30.5, spread=0.01) == 8
    assert knee(curve(10, 20, 30, 30.3)).batch_size == 4


def test_one_flat_doubling_with_a_wide_interval_does_not_end_the_curve_by_chance():
    assert where_it_ends(10, 10.2, 20, 40, spread=0.2) is None


def test_two_flat_doublings_end_it_whatever_their_intervals():
    assert where_it_ends(10, 20, 20.5, 20.7, 90, spread=0.3) == 8
    assert where_it_ends(10, 20, 20.5, 20.7, 90) == 8  # one process: no intervals at all


def test_a_rate_that_falls_ends_the_curve():
    assert where_it_ends(10, 20, 12, spread=0.02) == 4
    assert knee(curve(10, 20, 12)).batch_size == 2


@pytest.mark.parametrize("status", ["oom", "failed", "invalid", "skipped"])
def test_a_batch_without_a_result_ends_the_curve(status):
    assert ended([*curve(10, 20), cell(4, status=status)])


def test_where_memory_ends_a_rising_curve_the_largest_batch_that_fits_is_the_knee():
    found = knee([*curve(10, 20, 40), cell(8, status="oom")])
    assert found.batch_size == 4
    assert found.next is None
    assert "memory ran out" in found.words


def test_a_failure_is_no_knee():
    assert knee([*curve(10, 20, 40), cell(8, status="failed")]) is None


def test_the_knee_of_a_list_of_batch_sizes_needs_no_doubling():
    assert knee([cell(32, 41), cell(1, 10), cell(8, 40)]).batch_size == 8


def test_the_knee_says_what_the_next_batch_gains_and_how_surely():
    found = knee(curve(10, 20, 20.4, spread=0.03))
    assert found.words == "m on cpu, fp32: throughput knee at batch 2 (20 items/s; batch 4 changes that by +2% (-2% … +6%))"


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12))
def test_no_larger_batch_is_more_than_the_share_faster_than_the_knee_and_every_smaller_one_is_slower_by_more(values):
    found = knee(curve(*values))
    best = max(values)
    if found is None:
        assert all(value * (1 + SHARE) < best for value in values[:-1])
        return
    number = int(math.log2(found.batch_size))
    assert best <= values[number] * (1 + SHARE)
    assert all(value * (1 + SHARE) < best for value in values[:number])


def test_the_interval_of_a_ratio_covers_it_19_times_out_of_20():
    rng = np.random.default_rng(0)

    def measured(true):
        found = over_processes(true * np.exp(rng.normal(0, 0.03, size=3)))
        return Measured(found.value, "items/s", "higher", found.lo, found.hi, 3)

    ratios = [rise(measured(50.0), measured(70.0)) for _ in range(2000)]
    covered = np.mean([one.lo <= 1.4 <= one.hi for one in ratios])
    assert 0.94 <= covered <= 0.995
    assert rise(rate(2.0), rate(3.0)).value == 1.5
    assert rise(rate(2.0), rate(3.0, 0.1)).lo is None


def test_cells_that_differ_in_anything_else_are_other_curves():
    records = [
        *curve(10, 20),
        cell(4, 5, dtype="bf16"),
        replace(cell(8, 7), data={"fingerprint": "other"}),
        replace(cell(1), kind="search"),
    ]
    found = [[record.settings["batch_size"] for record in one] for one in curves(records)]
    assert sorted(found) == [[1, 2], [4], [8]]


def test_every_batch_size_of_a_curve_is_told_its_knee():
    records = [*curve(10, 20, 20.4), cell(4, 5, dtype="bf16")]
    assert batch_sizes(records) == {record.key: 2 for record in records[:3]}
    column = to_frame(records).set_index("key").knee_batch_size
    assert [column[record.key] for record in records[:3]] == [2, 2, 2]
    assert pd.isna(column[records[3].key])
