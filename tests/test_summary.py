"""From what replicates left behind to a cell's figures, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from harness import summary
from harness.frame import bottleneck
from harness.interfaces import Data
from harness.metrics.similarity import Neighbours
from harness.summary import Outcome, of_embed, of_search

STAGES = {"decode": 0.001, "preprocess": 0.004, "transfer": 1e-7, "forward": 0.02, "finish": 0.002}
MEMORY = {"peak_rss_bytes": 5e8, "device_peak_bytes": None}


def embedded(factor=1.0, *, samples=20, **more):
    """One replicate of an embed cell, `factor` times as slow as usual."""
    result = {
        "info": {"dim": 3},
        "caveats": [["truncated", "a third of the texts were cut"]],
        "load_s": 2.0 * factor,
        "first_batch_s": 0.5 * factor,
        "first_query_s": 0.1 * factor,
        "throughput_per_s": 100 / factor,
        "units_per_s": 1000 / factor,
        "pipeline_per_s": 80 / factor,
        "truncated_share": 0.25,
        "items": 16,
        "stages": {name: seconds * factor for name, seconds in STAGES.items()},
    }
    arrays = {name: factor * np.linspace(0.01, 0.03, samples) for name in ("forward_s", "batch_s", "query_s")}
    return Outcome(result | more, arrays)


# Four documents on a quarter circle; query 0 lies at document 0, query 1 at document 3.
ANGLES = np.array([0.0, 0.2, 0.5, 1.0])
CORPUS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
QUERIES = CORPUS[[0, 3]]
EXACT = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])


@pytest.fixture
def vectors(tmp_path):
    np.save(tmp_path / "corpus.npy", CORPUS)
    np.save(tmp_path / "queries.npy", QUERIES)
    return tmp_path


def searched(ids, *, factor=1.0, k=2, index_bytes=64, samples=20, count=40, wall_s=0.1):
    """One replicate of a search cell that returned `ids`."""
    result = {
        "insert_s": 0.3 * factor,
        "build_s": 0.2 * factor,
        "ready_s": 0.01 * factor,
        "index_bytes": index_bytes,
        "first_query_s": 0.05 * factor,
        "version": "made up 1",
        "ready": {"rows": 4},
        "floor_index": "FLAT",
        "points": [{"k": k, "search_params": {"ef": 8}, "wall_s": wall_s * factor, "count": count}],
    }
    latencies = {name: factor * np.linspace(0.001, 0.003, samples) for name in ("latency_s_0", f"floor_s_{k}", f"round_trip_s_{k}")}
    return Outcome(result, {**latencies, "ids_0": np.array(ids, dtype=np.int64)})


def figures(outcomes, vectors, *, qrels=None, random_weights=False, exact=False, memory=MEMORY):
    scores = np.take_along_axis(QUERIES.astype(np.float64) @ CORPUS.T.astype(np.float64), EXACT, axis=1)
    return of_search(
        outcomes,
        memory,
        vectors=vectors,
        truth=Neighbours(ids=EXACT, scores=scores, metric="cosine", rows=4),
        data=Data("text", "made", ["a"] * 4, ["q"] * 2, qrels, ""),
        random_weights=random_weights,
        exact=exact,
    )


# ------------------------------------------------------------------------------------------ embed cells


def test_timings_are_geometric_means_over_processes_with_students_t():
    found = of_embed([embedded(1.0), embedded(1.1), embedded(1.21)], MEMORY, device="cpu", unit="tokens").metrics
    throughput = found["throughput_per_s"]
    assert throughput.value == pytest.approx(100 / 1.1)
    half = stats.t.ppf(0.975, 2) * math.log(1.1) / math.sqrt(3)  # logarithms 0, ln 1.1, 2 ln 1.1: their standard deviation is ln 1.1
    assert throughput.lo == pytest.approx(100 / 1.1 * math.exp(-half))
    assert throughput.hi == pytest.approx(100 / 1.1 * math.exp(half))
    assert (throughput.n, throughput.unit, throughput.better) == (3, "items/s", "higher")
    assert found["load_s"].value == pytest.approx(2.2)
    assert found["preprocess_s"].value == pytest.approx(0.0044)


def test_a_percentile_is_each_processs_own_combined():
    found = of_embed([embedded(1.0), embedded(1.21)], MEMORY, device="cpu", unit="tokens").metrics
    assert found["batch_latency_p50_s"].value == pytest.approx(0.02 * 1.1)
    assert found["batch_latency_p95_s"].value is None
    assert "130" in found["batch_latency_p95_s"].reason
    many = of_embed([embedded(1.0, samples=700), embedded(1.21, samples=700)], MEMORY, device="cpu", unit="tokens").metrics
    assert many["query_embed_p99_s"].value == pytest.approx((0.01 + 0.99 * 0.02) * 1.1)


def test_a_units_rate_carries_the_modalitys_own_unit():
    assert of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["units_per_s"].unit == "tokens/s"
    assert of_embed([embedded()], MEMORY, device="cpu", unit="images").metrics["units_per_s"].unit == "images/s"


def test_truncation_is_told_for_text_only():
    text = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["truncated_share"]
    assert (text.value, text.n) == (0.25, 16)
    image = of_embed([embedded()], MEMORY, device="cpu", unit="images").metrics["truncated_share"]
    assert image.value is None
    assert image.reason


def test_moving_to_the_device_is_null_on_a_cpu_and_a_figure_elsewhere():
    assert of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["transfer_s"].value is None
    on_a_gpu = of_embed([embedded()], {**MEMORY, "device_peak_bytes": 7e8}, device="cuda:0", unit="tokens").metrics
    assert on_a_gpu["transfer_s"].value == pytest.approx(1e-7)
    assert on_a_gpu["device_peak_bytes"].value == 7e8


def test_caveats_of_all_processes_are_told_once():
    assert of_embed([embedded(), embedded(1.1)], MEMORY, device="cpu", unit="tokens").caveats == (
        ("truncated", "a third of the texts were cut"),
    )


def test_raw_samples_of_every_process_are_handed_on():
    found = of_embed([embedded(), embedded(2.0)], MEMORY, device="cpu", unit="tokens").samples
    assert set(found) == {f"{name}_{i}" for name in ("forward_s", "batch_s", "query_s") for i in range(2)}
    assert found["query_s_1"].max() == pytest.approx(0.06)


def test_the_bottleneck_is_the_longest_stage_that_was_measured():
    found = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics
    assert bottleneck(found) == "forward"
    slow = embedded(stages={**STAGES, "transfer": 1.0})
    assert bottleneck(of_embed([slow], MEMORY, device="cuda:0", unit="tokens").metrics) == "transfer"
    assert bottleneck(of_embed([slow], MEMORY, device="cpu", unit="tokens").metrics) == "forward"
    assert bottleneck({}) is None


# ----------------------------------------------------------------------------------------- search cells


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
    monkeypatch.setattr(summary, "LABEL_DEPTH", 2)
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
    monkeypatch.setattr(summary, "LABEL_DEPTH", 2)
    found = figures([searched([[0, 1], [3, 2]]), searched([[0, 2], [2, 1]])], vectors, qrels={0: {0: 1}, 1: {3: 1}})
    assert found.points[0].metrics["ndcg_at_2"].value == pytest.approx((1 + 0.5) / 2)
    assert found.points[0].metrics["ndcg_at_2"].n == 2


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
    assert figures([searched(EXACT[:, :2])], vectors).info == {"version": "made up 1", "ready": {"rows": 4}, "floor_index": "FLAT"}
