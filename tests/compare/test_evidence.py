"""Values a process, scores a query, and the ratio of two figures against scipy and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.compare.evidence import ratio, replicates, scores
from harness.compare.rows import read_side
from harness.records import Measured
from harness.statistics import over_processes
from harness.summary import measured
from tests.compare import made


def figure(values):
    return measured(over_processes(values), "s", "lower")


positive = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(positive, positive)
def test_the_interval_is_welchs_on_the_logarithms(base, head):
    found = ratio(figure(base), figure(head))
    x, y = np.log(head), np.log(base)
    if np.ptp(x) < 1e-6 or np.ptp(y) < 1e-6:
        return
    welch = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert (np.log(found.lo), np.log(found.value), np.log(found.hi)) == pytest.approx(
        (welch.low, x.mean() - y.mean(), welch.high), rel=1e-6, abs=1e-6 * (1 + abs(welch.high))
    )


def test_nothing_changed_lies_in_the_interval_nineteen_times_of_twenty():
    rng = np.random.default_rng(7)
    sides = np.exp(0.05 * rng.standard_normal((2, 2000, 3)))
    found = [ratio(figure(base), figure(head)) for base, head in zip(*sides, strict=True)]
    assert 0.94 <= np.mean([one.lo <= 1 <= one.hi for one in found]) <= 0.985


def test_one_process_gives_a_ratio_without_an_interval():
    found = ratio(figure([1.0]), figure([2.0, 2.1]))
    assert (found.value, found.lo, found.hi) == (pytest.approx(2.049, abs=1e-3), None, None)


def test_sizes_that_are_all_the_same_have_an_exact_ratio():
    found = ratio(figure([100.0, 100.0]), figure([110.0, 110.0, 110.0]))
    assert found.lo == found.hi == found.value == pytest.approx(1.1)


@pytest.mark.parametrize("value", [None, 0.0, -1.0])
def test_what_has_no_ratio_has_none(value):
    assert ratio(Measured(value, "s", "lower"), figure([1.0, 2.0])) is None


def test_a_process_is_one_value_whatever_it_sampled(tmp_path):
    record = made.search(processes=4)
    [row] = [row for row in read_side(made.folder_of(tmp_path, record)).rows if row.part == "point"]
    expected = [np.median(record.samples[f"latency_s_0_{i}"]) for i in range(4)]
    assert replicates(row, "search_latency_p50_s") == pytest.approx(expected)
    assert over_processes(replicates(row, "search_latency_p99_s")).value == pytest.approx(row.measured["search_latency_p99_s"].value)
    assert over_processes(replicates(row, "qps")).value == pytest.approx(row.measured["qps"].value)


def test_a_percentile_of_too_few_samples_has_no_values(tmp_path):
    record = made.embed()
    record = made.replace(record, samples={**record.samples, "query_s_1": np.ones(5)})
    [row] = read_side(made.folder_of(tmp_path, record)).rows
    assert replicates(row, "query_embed_p50_s") == []


def test_records_without_each_processs_value_bring_none(tmp_path):
    record = made.embed()
    record = made.replace(record, samples={name: values for name, values in record.samples.items() if not name.startswith("each_")})
    [row] = read_side(made.folder_of(tmp_path, record)).rows
    assert replicates(row, "load_s") == []
    assert len(replicates(row, "query_embed_p50_s")) == 3


def test_memory_is_one_value_a_record(tmp_path):
    made.folder_of(tmp_path, made.embed(seed=1), made.embed(seed=2, scale=1.1))
    [row] = read_side(tmp_path).rows
    assert replicates(row, "peak_rss_bytes") == pytest.approx([600e6, 660e6])


def test_scores_are_those_of_the_point(tmp_path):
    recalls = [made.queries(5), made.queries(6)]
    rows = read_side(made.folder_of(tmp_path, made.search(knobs=({"ef": 16}, {"ef": 64}), recalls=recalls))).rows
    for row in rows:
        if row.part == "point":
            assert scores(row, "recall") == pytest.approx(recalls[row.number])
            assert scores(row, "ndcg_at_10") == pytest.approx(recalls[row.number] / 2)
    assert scores(rows[0], "qps") is None
