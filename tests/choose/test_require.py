"""Constraints hold by the bound of the interval, and what is open is told from what is decided."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.choose.require import Requirement, number_of, requirements, written
from harness.errors import SettingsError
from harness.records import Measured
from harness.statistics import within_process_percentile

RECALL = Requirement("--min-recall", "recall", "recall", 0.95, least=True)
P99 = Requirement("--max-p99", "latency_p99_s", "p99 end to end", 0.020, least=False)
MEMORY = Requirement("--max-memory", "memory_bytes", "memory", 1e9, least=False, once=True)


def seconds(value, lo, hi):
    return Measured(value, "s", "lower", lo, hi, 3)


def share(value, lo, hi):
    return Measured(value, "ratio", "higher", lo, hi, 300, "query")


@pytest.mark.parametrize(
    ("requirement", "figure", "state"),
    [
        (RECALL, share(0.97, 0.951, 0.98), "holds"),
        (RECALL, share(0.97, 0.95, 0.98), "holds"),
        (RECALL, share(0.97, 0.949, 0.98), "undecided"),
        (RECALL, share(0.94, 0.92, 0.96), "undecided"),
        (RECALL, share(0.93, 0.92, 0.949), "violated"),
        (RECALL, share(1.0, 1.0, 1.0), "holds"),
        (P99, seconds(0.015, 0.012, 0.0199), "holds"),
        (P99, seconds(0.015, 0.012, 0.021), "undecided"),
        (P99, seconds(0.025, 0.0201, 0.03), "violated"),
        (P99, Measured(0.015, "s", "lower", n=1, reason="within one process"), "undecided"),
        (P99, Measured(None, "s", "lower", reason="p99 needs 662 samples"), "unknown"),
        (MEMORY, Measured(0.9e9, "bytes", "lower", n=1, reason="measured once"), "holds"),
        (MEMORY, Measured(1.1e9, "bytes", "lower", n=1, reason="measured once"), "violated"),
    ],
)
def test_a_constraint_holds_only_if_its_bound_holds(requirement, figure, state):
    assert requirement.judge(figure).state == state


def test_undecided_says_what_would_decide():
    assert requirements(max_p99="20ms")[0].judge(seconds(0.018, 0.015, 0.022)).words == (
        "p99 end to end 18.0 ms [15.0, 22.0] cannot be told from 20.0 ms; raise processes="
    )
    assert "raise dataset.queries=" in RECALL.judge(share(0.95, 0.93, 0.97)).words


def test_unknown_says_why():
    assert (
        P99.judge(Measured(None, "s", "lower", reason="p99 needs 662 samples")).words
        == "p99 end to end is not known: p99 needs 662 samples"
    )


def test_an_interval_within_one_process_decides_nothing():
    estimate = within_process_percentile([0.01 + 1e-5 * i for i in range(700)], 0.5)
    figure = Measured(estimate.value, "s", "lower", estimate.lo, estimate.hi, estimate.n, "sample", estimate.reason)
    assert P99.judge(figure).state == "undecided"


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_holds_cannot_be_violated_by_a_stricter_reading(value, below, above):
    figure = share(value, value * below, value + (1 - value) * above)
    state = RECALL.judge(figure).state
    assert (state == "holds") == (figure.lo >= 0.95)
    assert (state == "violated") == (figure.hi < 0.95)


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), ("20 ms", 0.02), ("150us", 150e-6), (".25s", 0.25)])
def test_times_are_read_with_their_unit(text, seconds):
    assert requirements(max_p99=text)[0].limit == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("500mb", 5e8), ("1GiB", 2**30), ("1000B", 1000)])
def test_sizes_are_read_with_their_unit(text, size):
    assert requirements(max_memory=text)[0].limit == size


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SettingsError) as error:
        requirements(min_recall=95.0, max_p99="20", min_ndcg=0.0, max_memory="16")
    assert error.value.violations == (
        "--min-recall must be a number in (0, 1], got 95.0",
        "--min-ndcg must be a number in (0, 1], got 0.0",
        "--max-p99 must be a time such as 20ms or 0.5s, got '20'",
        "--max-memory must be a size such as 500MB or 16GB, got '16'",
    )


@pytest.mark.parametrize(("text", "wrong"), [("0ms", "greater than 0"), ("-5ms", "a time"), ("20 m", "a time"), ("nan", "a time")])
def test_a_time_that_is_none_is_refused(text, wrong):
    with pytest.raises(SettingsError, match=f"--max-p99 must be {wrong}"):
        requirements(max_p99=text)


def test_a_score_is_shown_with_all_its_digits():
    (asked,) = requirements(min_recall=0.99999999)
    assert asked.judge(share(0.9999, 0.999, 0.99999)).words.endswith("< 0.99999999")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10M", 10_000_000),
        ("10m", 10_000_000),
        ("1k", 1000),
        ("1B", 10**9),
        ("2.5M", 2_500_000),
        ("0.7M", 700_000),
        ("1,500", 1500),
        ("1_500_000", 1_500_000),
    ],
)
def test_counts_are_read(text, count):
    assert number_of(text, "--corpus") == count


@pytest.mark.parametrize("text", ["", "M", "-1", "1e6", "10 Mio", "0", "0.4", "1.5", "0.0001k", "1,5M", "15,00", "10000000B", "9" * 400])
def test_a_count_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match=re.escape("--corpus must be a whole number in [1, 1e+15] such as 250000, 10M or 1B, got")):
        number_of(text, "--corpus")


def test_figures_are_written_with_their_unit():
    assert [
        written(*pair)
        for pair in (("latency_p50_s", 0.0123), ("memory_bytes", 512e6), ("throughput_per_s", 81.26), ("cost_per_month", 1234.5))
    ] == [
        "12.3 ms",
        "512 MB",
        "81.3/s",
        "1,234",
    ]
