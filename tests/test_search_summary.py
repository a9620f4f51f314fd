"""From what the replicates of a search cell left behind to its figures, against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness import search_summary
from harness.errors import StoreError
from harness.interfaces import Data, part_of
from harness.metrics.similarity import Neighbours
from harness.search_summary import of_search, overloaded
from harness.summary import Outcome

MEMORY = {"peak_rss_bytes": 5e8}

# Four documents on a quarter circle; query 0 lies at document 0, query 1 at document 3.
ANGLES = np.array([0.0, 0.2, 0.5, 1.0])
CORPUS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
QUERIES = CORPUS[[0, 3]]
EXACT = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])

POINT = {
    "search_params": {"ef": 8},
    "concurrency": 1,
    "rate_per_s": None,
    "churn_per_s": None,
    "churn": None,
    "selectivity": None,
    "target_recall": None,
    "errors": {},
    "timeouts": 0,
    "client_cpu": None,
    "slip": 0.0,
    "send_lag_p99_s": None,
    "highest_rate_per_s": None,
    "distance_computations": None,
}


@pytest.fixture
def vectors(tmp_path):
    np.save(tmp_path / "corpus.npy", CORPUS)
    np.save(tmp_path / "queries.npy", QUERIES)
    return tmp_path


def searched(ids, *, factor=1.0, k=2, index_bytes=64, samples=20, count=40, wall_s=0.1, point=None, **more):
    """One replicate of a search cell that returned `ids`."""
    result = {
        "insert_s": 0.3 * factor,
        "build_s": 0.2 * factor,
        "ready_s": 0.01 * factor,
        "index_bytes": index_bytes,
        "first_query_s": 0.05 * factor,
        "version": "made up 1",
        "ready": {"rows": 4, "times": {}},
        "floor_index": "FLAT",
        "server": None,
        "server_rss_before_bytes": None,
        "server_rss_bytes": None,
        "asked": [0, 1],
        "tuned": None,
        "nq": 1,
        "points": [{**POINT, "k": k, "wall_s": wall_s * factor, "count": count, **(point or {})}],
    }
    latencies = {name: factor * np.linspace(0.001, 0.003, samples) for name in ("latency_s_0", f"floor_s_{k}", f"round_trip_s_{k}")}
    return Outcome(result | more, {**latencies, "ids_0": np.array(ids, dtype=np.int64)})


def figures(outcomes, vectors, *, qrels=None, random_weights=False, exact=False, memory=MEMORY, filtered=None):
    scores = np.take_along_axis(QUERIES.astype(np.float64) @ CORPUS.T.astype(np.float64), EXACT, axis=1)
    return of_search(
        outcomes,
        memory,
        vectors=vectors,
        truth={None: Neighbours(ids=EXACT, scores=scores, metric="cosine", rows=4), **(filtered or {})},
        data=Data("text", "made", ["a"] * 4, ["q"] * 2, qrels, ""),
        random_weights=random_weights,
        exact=exact,
    )


# ------------------------------------------------------------------------------------------ embed cells


def test_recall_is_the_mean_over_queries_of_each_querys_mean_over_builds(vectors):
    right, half, wrong = EXACT[:, :2], [[0, 3], [3, 0]], [[3, 2], [0, 1]]
    found = figures([searched(right), searched(half)], vectors)
    assert found.points[0].metrics["recall"].value == pytest.approx(0.75)
    assert found.samples["recall_0"].tolist() == [0.75, 0.75]
    assert found.points[0].metrics["recall"].n == 2
    assert figures([searched(wrong)], vectors).points[0].metrics["recall"].value == 0


def test_rate_is_requests_by_wall_time_of_each_process_combined(vectors):
    qps = figures([searched(EXACT[:, :2]), searched(EXACT[:, :2], factor=1.21)], vectors).points[0].metrics["qps"]
    assert qps.value == pytest.approx(400 / 1.1)
    assert (qps.n, qps.replication, qps.better) == (2, "process", "higher")


def test_an_exact_index_has_an_exact_recall_and_another_an_interval(vectors):
    exact = figures([searched(EXACT[:, :2])], vectors, exact=True).points[0].metrics["recall"]
    assert (exact.value, exact.lo, exact.hi) == (1, 1, 1)
    other = figures([searched(EXACT[:, :2])], vectors).points[0].metrics["recall"]
    assert other.value == 1
    assert other.lo < 0.5, "two perfect queries prove little"


def test_build_figures_replicate_over_builds(vectors):
    found = figures([searched(EXACT[:, :2]), searched(EXACT[:, :2], factor=4.0)], vectors).metrics
    assert found["insert_s"].value == pytest.approx(0.6)
    assert (found["insert_s"].n, found["insert_s"].replication) == (2, "build")
    assert found["index_bytes"].value == 64


def test_each_builds_own_value_is_kept_beside_the_figure_made_of_them(vectors):
    found = figures([searched(EXACT[:, :2]), searched(EXACT[:, :2], factor=4.0)], vectors)
    assert found.samples["each_insert_s"] == pytest.approx([0.3, 1.2])
    assert found.samples["each_index_bytes"] == [64, 64]
    assert math.prod(found.samples["each_qps_0"]) ** 0.5 == pytest.approx(found.points[0].metrics["qps"].value)
    untold = figures([searched(EXACT[:, :2], index_bytes=None)], vectors)
    assert "each_index_bytes" not in untold.samples


def test_one_build_is_a_caveat_and_two_are_none(vectors):
    assert [code for code, _ in figures([searched(EXACT[:, :2])], vectors).caveats] == ["one_build"]
    assert figures([searched(EXACT[:, :2])] * 2, vectors).caveats == ()


def test_a_store_that_does_not_tell_its_size_gives_null(vectors):
    figure = figures([searched(EXACT[:, :2], index_bytes=None)], vectors).metrics["index_bytes"]
    assert figure.value is None
    assert "does not tell" in figure.reason


def test_memory_of_a_server_elsewhere_is_null(vectors):
    figure = figures([searched(EXACT[:, :2])], vectors, memory={"peak_rss_bytes": None}).metrics["peak_rss_bytes"]
    assert figure.value is None
    assert figure.reason


def test_quality_is_ndcg_by_hand(vectors, monkeypatch):
    monkeypatch.setattr(search_summary, "LABEL_DEPTH", 2)
    qrels = {0: {1: 1}, 1: {3: 1}}  # query 0 finds its document second, query 1 first
    found = figures([searched([[0, 1], [3, 2]])], vectors, qrels=qrels)
    expected = (1 / math.log2(3) + 1) / 2
    assert found.metrics["ndcg_at_2_exact"].value == pytest.approx(expected)
    assert found.points[0].metrics["ndcg_at_2"].value == pytest.approx(expected)
    assert found.metrics["label_recall_at_2_exact"].value == 1
    lost = figures([searched([[0, 2], [3, 2]])], vectors, qrels=qrels)
    assert lost.points[0].metrics["ndcg_at_2"].value == pytest.approx(0.5)
    assert lost.metrics["ndcg_at_2_exact"].value == pytest.approx(expected), "what exact search finds does not change"


def test_quality_over_builds_is_a_querys_mean(vectors, monkeypatch):
    monkeypatch.setattr(search_summary, "LABEL_DEPTH", 2)
    found = figures([searched([[0, 1], [3, 2]]), searched([[0, 2], [2, 1]])], vectors, qrels={0: {0: 1}, 1: {3: 1}})
    assert found.points[0].metrics["ndcg_at_2"].value == pytest.approx((1 + 0.5) / 2)
    assert found.points[0].metrics["ndcg_at_2"].n == 2
    assert found.samples["ndcg_at_2_0"].tolist() == [1.0, 0.5], "a score a query, so that models can be compared by query"
    assert len(found.samples["ndcg_at_2_exact"]) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"qrels": None}, "no relevance labels"),
        ({"qrels": {0: {0: 1}}, "random_weights": True}, "random weights"),
        ({"qrels": {0: {0: 1}}}, "needs k ≥ 10"),
    ],
)
def test_quality_that_cannot_be_told_is_null_with_the_reason(vectors, more, words):
    figure = figures([searched(EXACT[:, :2])], vectors, **more).points[0].metrics["ndcg_at_10"]
    assert figure.value is None
    assert words in figure.reason


def test_what_the_store_proved_is_handed_on(vectors):
    info = figures([searched(EXACT[:, :2])], vectors).info
    assert info == {"version": "made up 1", "server": None, "ready": {"rows": 4, "times": {}}, "floor_index": "FLAT", "tuned": None}


def point(found):
    return found.points[0].metrics


def test_queries_a_request_count_for_the_rate_but_not_for_the_number_of_requests(vectors):
    alone, four = (figures([searched(EXACT[:, :2], nq=nq)], vectors).points[0] for nq in (1, 4))
    assert four.metrics["qps"].value == pytest.approx(4 * alone.metrics["qps"].value)
    assert (alone.nq, four.nq) == (1, 4)


def test_only_the_queries_that_were_measured_count(vectors):
    """Query 0 was for tuning: what is asked is query 1 alone, whose labels and truth are its own."""
    one = searched([[3, 0]], asked=[1])
    found = figures([one], vectors, qrels={0: {0: 1}, 1: {3: 1}})
    assert point(found)["recall"].value == 0.5
    assert point(found)["recall"].n == 1


def test_a_load_has_its_errors_client_and_lag_and_one_client_alone_has_not(vectors):
    load = {
        "concurrency": None, "rate_per_s": 300.0, "errors": {"busy": 3}, "timeouts": 1, "client_cpu": 0.25, "send_lag_p99_s": 1e-4,
        "highest_rate_per_s": None,
    }  # fmt: skip
    found = figures([searched(EXACT[:, :2], point=load), searched(EXACT[:, :2], point=load)], vectors)
    assert (point(found)["errors"].value, point(found)["timeouts"].value) == (6, 2)
    assert point(found)["client_cpu"].value == pytest.approx(0.25)
    assert point(found)["send_lag_p99_s"].value == pytest.approx(1e-4)
    assert (found.points[0].concurrency, found.points[0].rate_per_s) == (None, 300.0)
    assert "3 × busy" not in dict(found.caveats)["request_errors"]
    assert "6 × busy" in dict(found.caveats)["request_errors"]
    alone = point(figures([searched(EXACT[:, :2])], vectors))
    for name in ("errors", "timeouts", "client_cpu", "send_lag_p99_s", "max_rate_at_p99_per_s", "distance_computations"):
        assert alone[name].value is None
        assert alone[name].reason


def test_a_busy_client_is_told_and_is_no_result_of_the_server(vectors):
    busy = {"concurrency": 8, "client_cpu": 0.93}
    assert "93%" in dict(figures([searched(EXACT[:, :2], point=busy)], vectors).caveats)["saturated_client"]
    idle = {"concurrency": 8, "client_cpu": 0.3}
    assert "saturated_client" not in dict(figures([searched(EXACT[:, :2], point=idle)], vectors).caveats)


def test_a_rate_that_is_not_kept_up_with_is_told(vectors):
    behind = {"concurrency": None, "rate_per_s": 500.0, "slip": 0.25, "send_lag_p99_s": 0.02}
    told = dict(figures([searched(EXACT[:, :2], point=behind)], vectors).caveats)
    assert "400/s were answered" in told["overload"]
    assert "late_client" not in told, "requests wait for others, not for the client"
    met = {**behind, "slip": 0.04, "send_lag_p99_s": 1e-4}
    assert not {"overload", "late_client"} & set(dict(figures([searched(EXACT[:, :2], point=met)], vectors).caveats))


def test_requests_that_the_client_sends_late_are_told(vectors):
    late = {"concurrency": None, "rate_per_s": 500.0, "send_lag_p99_s": 0.0031}  # the median latency is 2 ms
    assert "3.1 ms" in dict(figures([searched(EXACT[:, :2], point=late)], vectors).caveats)["late_client"]
    little = {**late, "send_lag_p99_s": 0.0019}
    assert "late_client" not in dict(figures([searched(EXACT[:, :2], point=little)], vectors).caveats)


def test_the_highest_rate_is_a_figure_over_processes(vectors):
    rates = [
        searched(EXACT[:, :2], count=count, point={"concurrency": None, "highest_rate_per_s": rate})
        for rate, count in ((100.0, 670), (121.0, 700))
    ]
    figure = point(figures(rates, vectors))["max_rate_at_p99_per_s"]
    assert figure.value == pytest.approx(110)
    assert figure.n == 2


def test_a_highest_rate_whose_p99_rests_on_too_few_samples_is_null(vectors):
    few = [searched(EXACT[:, :2], count=count, point={"concurrency": None, "highest_rate_per_s": 100.0}) for count in (670, 40)]
    figure = point(figures(few, vectors))["max_rate_at_p99_per_s"]
    assert (figure.value, figure.reason) == (None, "p99 needs 662 samples")


def test_without_a_rate_that_meets_the_target_there_are_no_timings_at_that_rate(vectors):
    none = [searched(EXACT[:, :2], count=670, point={"concurrency": None, "highest_rate_per_s": rate}) for rate in (100.0, None)]
    found = point(figures(none, vectors))
    assert all(found[name].value is None for name in ("search_latency_p50_s", "qps", "max_rate_at_p99_per_s"))
    assert "none met workload.p99_target_s" in found["search_latency_p50_s"].reason
    assert found["recall"].value == 1


def test_recall_under_a_filter_is_against_the_neighbours_that_it_lets_through(vectors):
    allowed = [i for i in range(4) if part_of(np.asarray([i]))[0] < 500]
    assert 2 <= len(allowed) < 4, "the filter excludes some of these rows"
    ids = np.asarray([[i for i in row if i in allowed] for row in EXACT])
    scores = np.take_along_axis(QUERIES.astype(np.float64) @ CORPUS.T.astype(np.float64), ids, axis=1)
    truth = {0.5: Neighbours(ids=ids, scores=scores, metric="cosine", rows=4, below=500)}
    right = searched(ids[:, :2], point={"selectivity": 0.5})
    found = figures([right], vectors, filtered=truth, qrels={0: {0: 1}})
    assert point(found)["recall"].value == 1
    assert found.points[0].selectivity == 0.5
    assert "filter" in point(found)["ndcg_at_10"].reason
    excluded = next(i for i in range(4) if i not in allowed)
    wrong = searched([[excluded, ids[0, 0]], ids[1, :2]], point={"selectivity": 0.5})
    with pytest.raises(StoreError, match=f"returned id {excluded}, which its filter keeps out"):
        figures([wrong], vectors, filtered=truth)


def test_a_filter_that_lets_fewer_rows_than_k_through_counts_those(vectors):
    allowed = [i for i in range(4) if part_of(np.asarray([i]))[0] < 500]
    ids = np.asarray([[i for i in row if i in allowed] for row in EXACT])
    scores = np.take_along_axis(QUERIES.astype(np.float64) @ CORPUS.T.astype(np.float64), ids, axis=1)
    truth = {0.5: Neighbours(ids=ids, scores=scores, metric="cosine", rows=4, below=500)}
    padded = np.pad(ids, ((0, 0), (0, 4 - ids.shape[1])), constant_values=-1)
    found = figures([searched(padded, k=4, point={"selectivity": 0.5})], vectors, filtered=truth)
    assert point(found)["recall"].value == 1


def test_a_target_that_cannot_be_reached_is_a_row_that_says_so(vectors):
    tuned = [
        {"k": 2, "selectivity": None, "target_recall": 0.9, "search_params": {"ef": 8}, "best": 0.97, "queries": 50, "tries": 4},
        {"k": 2, "selectivity": None, "target_recall": 0.99, "search_params": None, "best": 0.97, "queries": 50, "tries": 9},
    ]
    found = figures([searched(EXACT[:, :2], tuned=tuned, point={"target_recall": 0.9})], vectors)
    reached, missed = found.points
    assert (reached.target_recall, missed.target_recall) == (0.9, 0.99)
    assert missed.search_params == {}
    assert all(figure.value is None for figure in missed.metrics.values())
    assert missed.metrics["recall"].reason == "recall 0.99 is not reachable with this index: the best found was 0.9700"
    tuned[1]["best"] = 1.0
    unproven = figures([searched(EXACT[:, :2], tuned=tuned, nq=4)], vectors).points[1]
    assert unproven.metrics["recall"].reason.startswith("50 tuning queries cannot show a recall of 0.99: the best found was 1.0000")
    assert unproven.nq == 4
    tuned[1]["best"] = None
    never = figures([searched(EXACT[:, :2], tuned=tuned)], vectors).points[1]
    assert "even if they were all answered right" in never.metrics["recall"].reason


def test_parts_of_getting_ready_are_figures_where_the_store_tells_them_apart(vectors):
    told = [searched(EXACT[:, :2], ready={"rows": 4, "times": {"flush": 0.5 * factor}}, factor=factor) for factor in (1.0, 4.0)]
    found = figures(told, vectors).metrics
    assert found["store_flush_s"].value == pytest.approx(1.0)
    assert found["store_flush_s"].replication == "build"
    assert found["store_build_s"].value is None
    assert found["store_build_s"].reason


def test_memory_of_a_server_on_this_machine_is_told_before_and_after_loading(vectors):
    told = searched(EXACT[:, :2], server="http://127.0.0.1:19530", server_rss_before_bytes=2e8, server_rss_bytes=3e8)
    found = figures([told, told], vectors)
    assert (found.metrics["server_rss_before_bytes"].value, found.metrics["server_rss_bytes"].value) == (
        pytest.approx(2e8),
        pytest.approx(3e8),
    )
    assert "shared_machine" in dict(found.caveats)
    far = figures([searched(EXACT[:, :2], server="https://milvus.example.org:443")] * 2, vectors)
    assert "shared_machine" not in dict(far.caveats)


@pytest.mark.parametrize(
    ("server", "code"),
    [
        (None, None),
        ("http://127.0.0.1:19530", "shared_machine"),
        ("http://[::1]:19530", "shared_machine"),
        ("http://localhost:19530", "shared_machine"),
        ("http://10.1.2.3:19530", "remote_server"),
        ("https://cluster.example.com", "remote_server"),
    ],
)
def test_a_server_elsewhere_is_told_as_one_whose_machine_is_not_the_one_in_the_record(vectors, server, code):
    found = figures([searched(EXACT[:, :2], server=server)] * 2, vectors)
    told = dict(found.caveats)
    assert set(told) == ({code} if code else set())
    assert found.info["server"] == server
    if code == "remote_server":
        assert server in told[code]
        assert "client's" in told[code]


def churned(vectors, *, recall, gone=0, returned=40, unseen=0, slip=0.0):
    """One replicate of a search cell whose rows changed at 50 a second."""
    churn = {"changes": 5, "changes_slip": slip, "unseen": unseen, "looked_for": 4, "returned": returned, "gone": gone}
    one = searched(EXACT[:, :2], point={"churn_per_s": 50.0, "churn": churn}, wall_s=0.1)
    times = {f"{name}_0": np.linspace(0.01, 0.03, 11) for name in ("change_s", "fresh_s", "deletion_s")}
    samples = {name: values for name, values in one.samples.items() if name != "ids_0"}
    return type(one)(one.result, samples | times | {"recall_0": np.array(recall), "strict_0": np.array(recall)})


def test_recall_of_the_moment_is_each_querys_mean_over_the_builds_that_could_tell_it(vectors):
    found = figures([churned(vectors, recall=[1.0, np.nan]), churned(vectors, recall=[0.5, 0.25])], vectors, exact=True)
    (point,) = found.points
    assert point.metrics["recall"].value == pytest.approx((0.75 + 0.25) / 2)
    assert point.churn_per_s == 50.0
    nothing = figures([churned(vectors, recall=[np.nan, np.nan])], vectors).points[0].metrics["recall"]
    assert nothing.value is None
    assert nothing.reason == "no query was scored"


def test_changes_are_told_with_their_rate_their_times_and_what_was_returned_of_deleted_rows(vectors):
    (point,) = figures([churned(vectors, recall=[1.0, 1.0], gone=3), churned(vectors, recall=[1.0, 1.0], gone=1)], vectors).points
    assert point.metrics["changes_per_s"].value == pytest.approx(50)
    assert point.metrics["freshness_p50_s"].value == pytest.approx(0.02)
    assert point.metrics["freshness_p95_s"].value is None, "11 samples do not support it"
    assert point.metrics["deleted_share"].value == pytest.approx(4 / 80)
    assert not [
        name for name in figures([searched(EXACT[:, :2])], vectors).points[0].metrics if name.startswith(("change", "fresh", "delet"))
    ]


def test_changes_that_fall_behind_or_do_not_show_are_caveats(vectors):
    codes = {code for code, _ in figures([churned(vectors, recall=[1.0, 1.0])] * 2, vectors).caveats}
    assert codes == set()
    found = dict(figures([churned(vectors, recall=[1.0, 1.0], slip=0.2, unseen=1)] * 2, vectors).caveats)
    assert set(found) == {"changes_behind", "unseen_changes"}
    assert "2 of 8 rows" in found["unseen_changes"]


def test_the_overload_of_one_operating_point_is_not_that_of_another_at_the_same_rate(vectors):
    behind = {"concurrency": None, "rate_per_s": 500.0, "slip": 0.25, "send_lag_p99_s": 0.02, "search_params": {"ef": 6}}
    found = figures([searched(EXACT[:, :2], point=behind)], vectors)
    assert overloaded(found.caveats, found.points[0])
    assert dict(found.caveats)["overload"].startswith("Of 500 requests/s offered at k=2 ef=6, 400/s were answered")
    for change in ({"search_params": {"ef": 64}}, {"k": 20}, {"rate_per_s": 50.0}, {"selectivity": 0.1}, {"target_recall": 0.9}):
        assert not overloaded(found.caveats, replace(found.points[0], **change)), change
    assert not overloaded(found.caveats, replace(found.points[0], rate_per_s=None, concurrency=4))


def test_an_overload_that_an_earlier_version_told_of_counts_for_its_whole_rate(vectors):
    told = (("overload", "Of 500 requests/s offered 400/s were answered: the queue grows, and latencies with the length of the run."),)
    steady = {"concurrency": None, "rate_per_s": 500.0, "search_params": {"ef": 6}}
    [point] = figures([searched(EXACT[:, :2], point=steady)], vectors).points
    assert overloaded(told, point)
    assert not overloaded(told, replace(point, rate_per_s=50.0))
    assert not overloaded((("saturated_client", told[0][1]),), point)
