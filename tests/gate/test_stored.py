"""The gate on stored results: a verdict where ten runs a side allow one, and never a PASS where nothing may be compared."""

import json

import numpy as np
import pytest

from harness.errors import DataError
from harness.gate.artefacts import write_artefacts
from harness.gate.decide import quality
from harness.gate.kinds import KINDS
from harness.gate.outcome import EXIT_CRASHED, EXIT_NOT_COMPARABLE, EXIT_OK, EXIT_REGRESSION
from harness.gate.stored import ALL, stored_outcome
from tests.compare import made


def gate(tmp_path, base, head, **more):
    return stored_outcome(made.folder_of(tmp_path / "base", *base), made.folder_of(tmp_path / "head", *head), **more)


def verdicts(outcome):
    return {case.metric: case.decision.verdict for case in outcome.cases}


def test_ten_runs_a_side_find_a_slowdown(tmp_path):
    found = gate(tmp_path, made.runs(14, made.embed), made.runs(14, made.embed, seed=20, scale=1.1))
    said = verdicts(found)
    assert {said[metric] for metric in ("forward_s", "pipeline_s", "query_embed_s")} == {"REGRESSION"}
    assert found.exit_code == EXIT_REGRESSION
    [case] = [case for case in found.cases if case.metric == "forward_s"]
    assert (case.base, case.head) == pytest.approx((0.1, 0.11), rel=0.02)
    assert case.decision.change == pytest.approx(0.1, abs=0.02)
    assert case.decision.lo < 0.1 < case.decision.hi
    assert case.decision.rounds == 14


def test_the_same_code_passes(tmp_path):
    found = gate(
        tmp_path,
        [*made.runs(20, made.embed), *made.runs(20, made.search)],
        [*made.runs(20, made.embed, seed=30), *made.runs(20, made.search, seed=30)],
    )
    said = verdicts(found)
    assert {"forward_s", "load_s", "peak_rss_bytes"} <= set(said)
    assert set(said.values()) == {"PASS"}
    assert {
        "forward_s",
        "load_s",
        "search_s",
        "search_p95_s",
        "insert_s",
        "build_s",
        "index_bytes",
        "recall_of_builds",
        "ndcg_at_10",
    } <= set(said)
    assert found.exit_code == EXIT_OK


def test_below_ten_runs_timings_are_advisory_and_the_rest_is_decided(tmp_path):
    worse = np.maximum(made.queries(1) - 0.2, 0)
    found = gate(tmp_path, [made.search(seed=1, recalls=[made.queries(1)])], [made.search(seed=2, scale=3.0, recalls=[worse], size=40e6)])
    for case in found.cases:
        if case.kind in ("duration", "tail", "memory"):
            assert (case.decision.verdict, case.decision.advisory) == ("INCONCLUSIVE", True), case.metric
            assert "10 a side" in case.decision.reason
    assert verdicts(found)["recall_of_builds"] == verdicts(found)["index_bytes"] == "REGRESSION"
    assert not found.advisory
    assert found.exit_code == EXIT_REGRESSION


def test_many_processes_of_one_run_are_one_run(tmp_path):
    """They see the same minutes of the machine, so that a slow minute would look like a slow version."""
    found = gate(tmp_path, [made.embed(processes=30, seed=1)], [made.embed(processes=30, seed=2, scale=1.2)])
    [case] = [case for case in found.cases if case.metric == "forward_s"]
    assert (case.decision.verdict, case.decision.advisory) == ("INCONCLUSIVE", True)
    assert "1 and 1 independent runs" in case.decision.reason
    assert found.exit_code == EXIT_OK


def test_a_regression_must_hold_at_the_level_of_the_whole_gate(tmp_path):
    """Of many timings one looks bad by chance: of 30 cells with nothing changed none is blamed, though alone some would be."""
    base, head = (
        [one for number in range(1, 31) for one in made.runs(10, made.embed, seed=side + 20 * number, batch_size=number, key=f"e{number}")]
        for side in (0, 1000)
    )
    found = gate(tmp_path, base, head)
    assert found.counts.get("REGRESSION", 0) == 0
    assert found.exit_code == EXIT_OK


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"fingerprint": "f" * 64}}, "other data"),
        ({"weights": {"weights_fingerprint": "0" * 64}}, "other weights"),
        ({"machine": {"cores": 4}}, "other machine: cores 2 / 4"),
        ({"source": {"harness.timing": "x" * 64}}, "another definition"),
    ],
)
def test_other_circumstances_never_pass(tmp_path, change, reason):
    found = gate(tmp_path, made.runs(12, made.embed), made.runs(12, made.embed, seed=20, **change))
    timed = [case for case in found.cases if case.kind != "memory"]
    assert {case.decision.verdict for case in timed} == {"NOT COMPARABLE"}
    assert reason in timed[0].decision.reason
    assert found.exit_code == EXIT_NOT_COMPARABLE


def test_recall_and_bytes_are_gated_on_another_machine(tmp_path):
    base = made.runs(2, made.search, recalls=[made.queries(1)])
    head = made.runs(2, made.search, recalls=[made.queries(1)], size=34e6, machine={"cores": 4})
    found = gate(tmp_path / "no", base, head)
    said = verdicts(found)
    assert (said["recall_of_builds"], said["index_bytes"], said["search_s"]) == ("PASS", "REGRESSION", "NOT COMPARABLE")
    across = gate(tmp_path / "yes", base, head, across_machines=True)
    [search] = [case for case in across.cases if case.metric == "search_s"]
    assert (search.decision.verdict, search.decision.advisory) == ("INCONCLUSIVE", True)
    assert "cores 2 / 4" in search.decision.reason
    assert "across machines" in across.notes[0]


def test_a_cell_that_is_gone_is_missing_and_one_that_came_is_new(tmp_path):
    found = gate(tmp_path, [made.embed(), made.search()], [made.embed(), made.embed(batch_size=32)])
    lone = {case.cell: case.decision.verdict for case in found.cases if case.metric == ALL}
    assert sorted(lone.values()) == ["MISSING", "MISSING", "NEW"]
    assert found.exit_code == EXIT_REGRESSION


def test_a_cell_that_crashed_is_an_error_and_not_missing(tmp_path):
    found = gate(tmp_path, [made.search()], [made.failed(made.search(key="s-broken"), "RuntimeError: no")])
    assert [(case.decision.verdict, case.metric) for case in found.cases] == [("ERROR", ALL)]
    assert "RuntimeError: no" in found.cases[0].decision.reason
    assert found.exit_code == EXIT_CRASHED


def test_what_was_skipped_on_both_sides_is_not_told(tmp_path):
    skipped = made.failed(made.search(), "store=x has no index", "skipped")
    assert (
        gate(tmp_path, [made.embed(), skipped], [made.embed(), skipped]).counts
        == gate(tmp_path / "2", [made.embed()], [made.embed()]).counts
    )


def test_exact_search_is_declared_exact(tmp_path):
    perfect = np.ones(300)
    found = gate(tmp_path / "same", [made.search(index="flat", recalls=[perfect])], [made.search(index="flat", recalls=[perfect])])
    assert verdicts(found)["recall"] == "PASS"


def scored(*runs, seed=0):
    """A search cell measured so many times, with these scores of its queries."""
    return [made.search(seed=seed + number, recalls=[scores]) for number, scores in enumerate(runs)]


def recall_of(outcome):
    [case] = [case for case in outcome.cases if case.metric == "recall_of_builds"]
    return case


def test_equal_scores_of_one_build_a_side_are_no_proof(tmp_path):
    same = made.queries(1)
    case = recall_of(gate(tmp_path, scored(same), scored(same, seed=20)))
    assert (case.kind, case.decision.verdict) == ("quality", "INCONCLUSIVE")
    assert case.decision.reason.startswith("all 300 queries scored alike in 1 run a side; builds may differ, and 2 runs a side")


def test_equal_scores_of_every_run_are_exact_once_there_are_two_a_side(tmp_path):
    same = made.queries(1)
    assert recall_of(gate(tmp_path / "2", scored(same, same), scored(same, same, seed=20))).decision.verdict == "PASS"
    assert recall_of(gate(tmp_path / "1", scored(same, same), scored(same, seed=20))).decision.verdict == "INCONCLUSIVE"


def test_enough_queries_that_score_alike_prove_the_margin_with_one_build_a_side(tmp_path):
    same = made.queries(1, count=2000)
    case = recall_of(gate(tmp_path, scored(same), scored(same, seed=20)))
    assert case.decision.verdict == "PASS"
    assert -0.005 < case.decision.lo <= 0 <= case.decision.hi


def test_scores_of_several_builds_are_averaged_for_each_query(tmp_path):
    base, head = [made.queries(seed, count=2000) for seed in (1, 2)], [made.queries(seed, count=2000) for seed in (3, 4)]
    case = recall_of(gate(tmp_path, scored(*base), scored(*head, seed=20)))
    assert (case.base, case.head) == (pytest.approx(np.mean(base)), pytest.approx(np.mean(head)))
    assert case.decision == quality(np.stack(base), np.stack(head), KINDS["recall_of_builds"])


def test_bytes_that_vary_from_build_to_build_are_no_error(tmp_path):
    found = gate(tmp_path, [made.search(size=[1e6, 1.1e6, 1.2e6])], [made.search(size=[1e6, 1.1e6, 1.3e6])])
    [case] = [case for case in found.cases if case.metric == "index_bytes"]
    assert (case.kind, case.decision.verdict, case.decision.advisory) == ("memory", "INCONCLUSIVE", True)


def test_too_few_requests_leave_a_tail_out(tmp_path):
    found = gate(tmp_path, [made.search()], [made.search()])
    assert "search_p95_s" in verdicts(found)
    assert "search_p99_s" not in verdicts(found)  # 700 requests a process, 2,000 are needed


def test_a_percentile_that_one_side_had_too_few_samples_for_is_not_missing(tmp_path):
    head = made.search()
    metrics = {**head.points[0].metrics, "search_latency_p99_s": made.missing("p99 needs 662 samples, the smallest has 651")}
    head = made.replace(head, points=(made.replace(head.points[0], metrics=metrics),))
    found = gate(tmp_path, [made.search()], [head])
    assert "MISSING" not in found.counts


def test_no_baseline_is_not_a_pass(tmp_path):
    made.folder_of(tmp_path / "head", made.embed())
    found = stored_outcome(tmp_path / "base", tmp_path / "head")
    assert found.exit_code == EXIT_NOT_COMPARABLE
    assert "no baseline" in found.notes[0]
    with pytest.raises(DataError, match="holds no records"):
        stored_outcome(tmp_path / "head", tmp_path / "base")


def test_everything_advisory_is_advisory_as_a_whole(tmp_path):
    found = gate(tmp_path, [made.embed()], [made.embed(seed=1)])
    assert found.advisory
    assert found.exit_code == EXIT_OK


def test_its_artefacts_are_written(tmp_path):
    found = gate(tmp_path, [*made.runs(12, made.embed), made.search()], [*made.runs(12, made.embed, scale=1.3), made.search()])
    written = write_artefacts(found, tmp_path / "gate")
    body = json.loads(written["verdict"].read_text())
    assert body["counts"]["REGRESSION"] >= 3
    assert "regressions" in written["summary"].read_text().splitlines()[0]
