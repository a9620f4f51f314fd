"""What is said of a figure: never more than the evidence, never of what must not be compared."""

import numpy as np
import pytest

from harness.compare.judge import FIGURES, judge
from harness.compare.match import match
from harness.compare.rows import read_side
from harness.frame import FIGURES as COLUMNS
from harness.report.units import SHOWN
from harness.statistics import paired_difference
from tests.compare import made


def judged(tmp_path, base, head, **more):
    sides = [read_side(made.folder_of(tmp_path / name, *records)).rows for name, records in (("base", base), ("head", head))]
    found = judge(match(*sides).pairs, **more)
    return {(one.pair.base.part, figure.figure): figure for one in found for figure in one.judgements}


def test_with_ten_runs_a_side_a_slowdown_is_decided_and_named(tmp_path):
    found = judged(tmp_path, made.runs(12, made.embed), made.runs(12, made.embed, seed=20, scale=1.1))
    for figure in ("throughput_per_s", "pipeline_per_s", "query_embed_p50_s", "load_s"):
        one = found["embed", figure]
        assert (one.word, one.advisory) == ("slower", False), figure
        assert one.lo < one.change < one.hi
        assert not one.lo <= 1 <= one.hi
    assert found["embed", "throughput_per_s"].change == pytest.approx(1 / 1.1, rel=0.02)
    assert found["embed", "query_embed_p50_s"].change == pytest.approx(1.1, rel=0.02)


def test_the_values_shown_are_those_that_a_ratio_of_many_runs_is_of(tmp_path):
    """The newest run of the head was twice as slow as the others: it is one of twelve, and not what is shown."""
    base = made.runs(12, made.embed)
    head = [*made.runs(11, made.embed, seed=20, scale=1.1), made.embed(seed=40, scale=2.2)]
    one = judged(tmp_path, base, head)["embed", "query_embed_p50_s"]
    assert one.medians
    assert (one.base.n, one.head.n) == (12, 12)
    assert one.head.value == pytest.approx(0.011, rel=0.02)
    assert one.head.value / one.base.value == pytest.approx(one.change, rel=0.02)
    few = judged(tmp_path / "few", base[:2], head[:2])["embed", "query_embed_p50_s"]
    assert not few.medians
    assert few.head.value / few.base.value == pytest.approx(few.change)


def test_swapped_sides_turn_slower_into_faster(tmp_path):
    found = judged(tmp_path, made.runs(12, made.embed, seed=20, scale=1.1), made.runs(12, made.embed))
    assert found["embed", "query_embed_p50_s"].word == "faster"
    assert found["embed", "throughput_per_s"].word == "faster"


def test_three_processes_are_advisory_however_clear_they_look(tmp_path):
    found = judged(tmp_path, [made.embed(seed=1)], [made.embed(seed=2, scale=2.0)])
    one = found["embed", "query_embed_p50_s"]
    assert (one.word, one.advisory, one.confidence) == ("slower", True, 0.95)


def test_the_same_code_measured_twice_shows_no_difference(tmp_path):
    found = judged(
        tmp_path,
        [*made.runs(12, made.embed), *made.runs(12, made.search)],
        [*made.runs(12, made.embed, seed=20), *made.runs(12, made.search, seed=20)],
    )
    assert {one.word for one in found.values()} == {"no difference shown"}


def test_recall_is_compared_query_by_query(tmp_path):
    base, head = made.queries(1), np.minimum(made.queries(1) + 0.1 * (np.arange(300) % 5 == 0), 1)
    found = judged(tmp_path, [made.search(recalls=[base])], [made.search(recalls=[head])])
    expected = paired_difference(head, base).difference
    one = found["point", "recall"]
    assert (one.change, one.lo, one.hi) == pytest.approx((expected.value, expected.lo, expected.hi))
    assert (one.word, one.absolute, one.advisory) == ("better", True, False)
    assert found["point", "ndcg_at_10"].word == "better"


@pytest.mark.parametrize("change", ["seed", "count", "none"])
def test_scores_of_other_queries_show_nothing(tmp_path, change):
    base, head = (
        made.search(recalls=[made.queries(1, lose=0.3)]),
        made.search(recalls=[made.queries(2, count=200 if change == "count" else 300)]),
    )
    if change == "seed":
        head.settings["seed"] = 0
        base.settings["seed"] = 0
        found = judged(tmp_path, [base], [head])
        assert found["point", "recall"].word == "better"
        return
    if change == "none":
        head = made.replace(head, samples={name: values for name, values in head.samples.items() if not name.startswith("recall")})
    one = judged(tmp_path, [base], [head])["point", "recall"]
    assert (one.word, one.advisory) == ("no difference shown", True)
    assert "not kept" in one.reason


def test_on_another_machine_only_what_does_not_hang_on_it_is_compared(tmp_path):
    base = [made.search(seed=1, recalls=[made.queries(1)])]
    head = [made.search(seed=2, scale=1.5, recalls=[made.queries(1)], size=34e6, machine={"cores": 4})]
    found = judged(tmp_path / "no", base, head)
    assert found["point", "search_latency_p50_s"].word == "not comparable"
    assert "cores 2 / 4" in found["point", "search_latency_p50_s"].reason
    assert found["build", "build_s"].word == found["build", "peak_rss_bytes"].word == "not comparable"
    assert found["point", "recall"].word == "no difference shown"
    assert (found["build", "index_bytes"].word, found["build", "index_bytes"].advisory) == ("larger", False)
    allowed = judged(tmp_path / "yes", base, head, across_machines=True)
    assert (allowed["point", "search_latency_p50_s"].word, allowed["point", "search_latency_p50_s"].advisory) == ("slower", True)


def test_another_definition_is_not_compared(tmp_path):
    found = judged(tmp_path, [made.search()], [made.search(source={"harness.timing": "x"})], across_machines=True)
    assert found["point", "search_latency_p50_s"].word == "not comparable"
    assert "harness.timing" in found["point", "search_latency_p50_s"].reason
    assert found["point", "recall"].word == "no difference shown"


def test_what_one_side_did_not_measure_says_why(tmp_path):
    head = made.search()
    head.metrics["index_bytes"] = made.missing("the store does not tell the size of its index")
    found = judged(tmp_path, [made.search()], [head])
    assert found["build", "index_bytes"].word == "not comparable"
    assert found["build", "index_bytes"].reason == "head has none: the store does not tell the size of its index"


def test_one_client_is_not_told_twice(tmp_path):
    assert ("point", "qps") not in judged(tmp_path, [made.search()], [made.search()])


def test_every_figure_that_is_compared_is_a_figure_of_the_frame():
    names = {name for figures in FIGURES.values() for name, _ in figures}
    assert names <= set(COLUMNS)
    assert names <= set(SHOWN)
