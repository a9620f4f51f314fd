"""The rules that make the numbers true, each by what the harness really does when somebody gives it reason to break them.

The models and stores here write down every call and wait where they are told to; times are compared with the waits that were
put in, never with a clock on the wall. Intervals are tested by simulation in `test_interval_coverage`, whole runs in
`test_real_run` and `test_session`.
"""

import json
import random
import sys
import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from harness import embed_cell, summary
from harness.data import open_data
from harness.errors import AuditError, StoreError
from harness.frame import bottleneck
from harness.groundtruth import exact_neighbours
from harness.interfaces import STAGES, Data
from harness.metrics.similarity import Neighbours
from harness.replicate import Replicate
from harness.search_summary import of_search
from harness.statistics import over_processes
from tests import cells
from tests.plugins.probes import EVENTS

LITE = "stores.milvus_lite.MilvusLite"
NULL = "tests.plugins.parts.NullStore"
HNSW = {"_target_": "stores.index.HNSW", "M": 4, "ef_construction": 20, "ef": [10, 20, 50, 200]}
MEMORY = {"peak_rss_bytes": 1e9, "device_peak_bytes": None, "device_reserved_bytes": None}


@pytest.fixture
def data(tmp_path):
    return cells.lay_out(tmp_path / "data")


@pytest.fixture
def vectors(tmp_path):
    return cells.vectors(tmp_path / "vectors")


def searched(outcomes, vectors, *, index="HNSW", random_weights=False):
    """Return the figures of a search cell, its ground truth made by the harness, its labels: the third neighbour is what was wanted."""
    corpus, queries = np.load(vectors / "corpus.npy"), np.load(vectors / "queries.npy")
    truth = exact_neighbours(queries, corpus, k=100, metric="cosine")
    labels = {i: {int(ids[2]): 1} for i, ids in enumerate(truth.ids)}
    return of_search(
        outcomes,
        MEMORY,
        vectors=vectors,
        truth={None: truth},
        data=Data("text", "made", [f"number {i}" for i in range(len(corpus))], [f"number {ids[2]}" for ids in truth.ids], labels, ""),
        random_weights=random_weights,
        exact=index == "FLAT",
    )


def figures(found):
    """Every figure of a summary with its name."""
    return [*found.metrics.items(), *(pair for point in found.points for pair in point.metrics.items())]


def of(collection, what):
    return [event for event in EVENTS if event[:2] == (collection, what)]


# ---------------------------------------------------------------------------------------- 1: audit before timing


def test_rule_01_a_model_whose_rows_depend_on_their_neighbours_gets_no_number(data, tmp_path):
    with pytest.raises(AuditError, match="in a batch of 8 than alone"):
        cells.measured("embed", cells.embed_spec(data, settings={"leaks": True}), tmp_path / "cell")
    assert not list((tmp_path / "cell").iterdir())
    assert sum(event[0] == "forward" for event in EVENTS) <= 2 + 1 + 8, "nothing but the cold start and the audit has run"


def test_rule_01_a_dimension_other_than_declared_gets_no_number(data, tmp_path):
    with pytest.raises(AuditError, match="33"):
        cells.measured("embed", cells.embed_spec(data, settings={"trouble": "wrong_dim"}), tmp_path / "cell")
    assert not list((tmp_path / "cell").iterdir())


# --------------------------------------------------------------------- 2: where weights came from is part of the result


def test_rule_02_random_vectors_keep_speed_and_recall_and_have_no_quality(vectors, tmp_path):
    outcome = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    found, real = (searched([outcome], vectors, random_weights=random_weights) for random_weights in (True, False))
    for name, figure in figures(found):
        if name.startswith(("ndcg", "label_recall")) and not name.endswith("bm25"):  # which knows no weights
            assert figure.value is None
            assert "random weights" in figure.reason
        else:
            assert figure == dict(figures(real))[name]
    assert real.points[0].metrics["ndcg_at_10"].value is not None


# ------------------------------------------------------------ 3: warm up per shape, both minima, the cold start apart


def test_rule_03_every_shape_is_warmed_up_before_the_first_measured_pass(data, tmp_path):
    marks = []
    spec = cells.embed_spec(data)
    found = cells.measured("embed", spec, tmp_path / "cell", report=lambda name, *_: marks.append((name, len(EVENTS))))
    at = dict(marks)["audit"]  # by then every batch is ready
    batches = list(embed_cell.sample(open_data(data), items=16, batch_size=4, seed=0))
    expected = [tuple(open_data(data).corpus[i] for i in batch) for batch in batches]
    ready = [event[1] for event in EVENTS[:at] if event[0] == "prepare"][2:]  # after the first batch and the first query
    assert ready[: len(batches)] == expected
    audited = at + 2 * (1 + 8)  # prepare and forward, of eight items together and of each alone
    counted = audited + ("torch" in sys.modules)  # torch is asked for the arithmetic of the first batch, and sees none
    warm_up = EVENTS[counted : counted + len(batches)]
    assert [event[0] for event in warm_up] == ["forward"] * len(batches)
    assert len({event[1] for event in warm_up}) == len(batches)
    passes = len(found.samples["forward_s"]) // len(batches)
    for event in warm_up:  # each of these batches went through the model once more than it was measured
        assert EVENTS[counted:].count(event) == passes + 1


def test_rule_03_measuring_goes_on_until_both_the_time_and_the_count_are_reached(data, vectors, tmp_path):
    slow = cells.embed_spec(data, settings={"slow_s": 0.005}, share_s=0.01, min_requests=40)
    found = cells.measured("embed", slow, tmp_path / "slow").samples  # the time is up long before the count
    assert len(found["query_s"]) >= 40
    assert len(found["batch_s"]) >= 11
    found = cells.measured("embed", cells.embed_spec(data, share_s=0.2), tmp_path / "quick").samples  # and the other way round
    assert found["query_s"].sum() > 0.15
    assert found["forward_s"].sum() > 0.15
    found = cells.measured("search", cells.search_spec(vectors, store=NULL, share_s=0.1), tmp_path / "search")
    assert found.result["points"][0]["wall_s"] >= 0.1
    assert found.result["points"][0]["count"] > 1000


def test_rule_03_the_cold_start_is_a_figure_of_its_own_and_in_no_other(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings={"first_s": 0.3}), tmp_path / "cell")
    assert found.result["first_batch_s"] >= 0.3
    for name in ("forward_s", "batch_s", "query_s"):
        assert found.samples[name].max() < 0.3
    assert found.result["first_query_s"] < 0.3
    assert found.result["load_s"] < 0.3


def test_rule_03_compiling_is_a_figure_of_its_own_and_in_no_other(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings={"first_s": 0.3}, compile=True), tmp_path / "cell")
    assert 0.25 < found.result["compile_s"] < 0.5
    assert found.result["first_batch_s"] is found.result["first_query_s"] is None
    for name in ("forward_s", "batch_s", "query_s"):
        assert found.samples[name].max() < 0.3


def test_rule_03_the_first_query_of_a_store_is_not_among_the_measured_ones(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    first = of("index", "search")[0]
    assert found.result["first_query_s"] > 0
    assert len(of("index", "search")) == 1 + 32 + found.result["points"][0]["count"]
    assert first[2] == np.load(vectors / "queries.npy")[0].tobytes()


# --------------------------------------------------------------------------- 4: the clock is around the call only


def test_rule_04_the_clock_is_around_the_call_only(vectors, tmp_path):
    """Bookkeeping of 50 ms after every block of 20 requests would hold the rate below 400 a second."""
    spec = cells.search_spec(vectors, store=NULL, share_s=1e-6, min_requests=200)
    found = cells.measured("search", spec, tmp_path / "cell", report=lambda *_: time.sleep(0.05))
    point = found.result["points"][0]
    assert point["count"] / point["wall_s"] > 2 * 20 / 0.05
    assert np.median(found.samples["latency_s_0"]) < 0.05 / 20


def test_rule_04_an_accelerator_that_still_computes_is_waited_for(data, tmp_path, monkeypatch):
    """On such a device `forward` returns at once and the work is done later; only waiting inside the clock sees it."""
    pending = []

    def forward(self, prepared):
        pending.append(0.01)
        return original(self, prepared)

    def finish_work(device):
        assert device == "cpu"
        while pending:
            time.sleep(pending.pop())

    from tests.plugins.probes import WatchedModel

    original = WatchedModel.forward
    monkeypatch.setattr(WatchedModel, "forward", forward)
    monkeypatch.setattr(embed_cell, "synchronize", finish_work)
    found = cells.measured("embed", cells.embed_spec(data), tmp_path / "cell")
    assert found.samples["forward_s"].min() >= 0.01
    assert found.result["stages"]["forward"] >= 0.01
    assert found.result["stages"]["finish"] < 0.01, "what forward left to do is not blamed on the next stage"


def test_rule_04_a_rate_that_no_device_can_reach_is_no_rate(data, tmp_path, monkeypatch):
    """Tensors without storage do as a device that nobody waits for: 8.8 TFLOP are started and the call returns at once."""
    import torch

    from tests.plugins.probes import WatchedModel

    original, large = WatchedModel.forward, torch.empty(16384, 16384, device="meta")

    def forward(self, prepared):
        torch.mm(large, large)
        return original(self, prepared)

    monkeypatch.setattr(WatchedModel, "forward", forward)
    with pytest.raises(AuditError, match=r"GFLOP counted .* TFLOP/s; device=cpu needs at least .* The clock stopped before"):
        cells.measured("embed", cells.embed_spec(data), tmp_path / "cell")
    assert not (tmp_path / "cell/result.json").exists()
    small = torch.empty(16, 16, device="meta")
    monkeypatch.setattr(WatchedModel, "forward", lambda self, prepared: (torch.mm(small, small), original(self, prepared))[1])
    found = cells.measured("embed", cells.embed_spec(data), tmp_path / "plausible").result
    assert found["arithmetic"]["flop_per_item"] == 2 * 16**3 / 4


def test_rule_04_what_an_endpoint_lets_wait_is_in_no_figure_and_said(data, tmp_path, monkeypatch):
    """Every third request waits 100 ms for its turn before it is answered in 4 ms."""
    from tests.plugins import probes

    class Limited(probes.WatchedModel):
        sent = waited = 0

        def counters(self):
            times = type(self).sent // 3
            return {"requests": type(self).sent, "retries": times, "rate_limited": times, "waited_s": type(self).waited,
                    "billed_tokens": 7 * type(self).sent}  # fmt: skip

        def forward(self, prepared):
            type(self).sent += 1
            if type(self).sent % 3 == 0:
                began = time.perf_counter()
                time.sleep(0.1)
                type(self).waited += time.perf_counter() - began
            time.sleep(0.004)
            return super().forward(prepared)

    monkeypatch.setattr(probes, "Limited", Limited, raising=False)
    found = cells.measured("embed", cells.embed_spec(data, target="tests.plugins.probes.Limited", min_requests=30), tmp_path / "cell")
    seconds = np.concatenate([found.samples[name] for name in ("forward_s", "batch_s", "query_s")])
    assert seconds.min() >= 0.004
    assert np.mean(seconds >= 0.1) < 0.15, "a third of them would, with the waiting in them"
    assert found.result["requests"]["per_s"] < 1 / 0.004
    assert found.result["throughput_per_s"] == pytest.approx(4 * found.result["requests"]["per_s"])
    assert found.result["units_per_s"] == pytest.approx(7 * found.result["requests"]["per_s"]), "tokens as the endpoint bills them"
    told = summary.of_embed([found], MEMORY, device="cpu", unit="tokens")
    assert told.metrics["truncated_share"].value is None
    assert told.metrics["retries"].value > 0
    assert "requests_repeated" in dict(told.caveats)


def test_rule_04_requests_rotate_over_distinct_queries(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    asked = [event[2] for event in of("index", "search")][-found.result["points"][0]["count"] :]
    for start in range(0, len(asked) - 16, 16):
        assert len(set(asked[start : start + 16])) == 16


def test_rule_04_the_parent_is_not_kept_busy_with_progress_while_a_child_measures(tmp_path):
    heard = []
    server = Replicate()
    try:
        server.run("tests.tasks:chatter", {"seconds": 1.0}, tmp_path, timeout_s=60, report=lambda *stage: heard.append(stage))
    finally:
        server.close()
    assert int((tmp_path / "answer").read_text()) > 1000
    assert 1 < len(heard) < 10
    assert heard[-1][:2] == ("done", 1.0), "the first word of a stage always comes through"


def test_rule_04_nothing_is_retried(vectors, tmp_path):
    with pytest.raises(StoreError, match="the store has gone"):
        cells.measured("search", cells.search_spec(vectors, settings={"fails_at": 150}), tmp_path / "cell")
    assert sum(event[1] == "search" for event in EVENTS) == 150


# ------------------------------------------------------------------------------------------------ 5: stages apart

WAITS = {"prepare_s": 0.004, "transfer_s": 0.002, "slow_s": 0.008, "finish_s": 0.006}


def test_rule_05_every_stage_is_timed_by_itself(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings=WAITS), tmp_path / "cell")
    stages = found.result["stages"]
    assert list(stages) == list(STAGES)
    for stage, wait in zip(STAGES, (0.0, 0.004, 0.002, 0.008, 0.006), strict=True):
        assert stages[stage] >= wait
    assert stages["decode"] < stages["transfer"] < stages["preprocess"] < stages["finish"] < stages["forward"]
    assert found.samples["batch_s"].min() >= sum(WAITS.values())
    assert found.samples["batch_s"].mean() == pytest.approx(sum(stages.values()), rel=0.2), "one after the other, nothing overlaps"


@pytest.mark.parametrize(("slowest", "stage"), [("prepare_s", "preprocess"), ("slow_s", "forward"), ("finish_s", "finish")])
def test_rule_05_the_bottleneck_is_the_stage_that_takes_longest(data, tmp_path, slowest, stage):
    spec = cells.embed_spec(data, settings={**WAITS, slowest: 0.02}, min_requests=1, embed_items=8)
    outcome = cells.measured("embed", spec, tmp_path / "cell")
    assert bottleneck(summary.of_embed([outcome], MEMORY, device="cpu", unit="tokens").metrics) == stage


def test_rule_05_batches_are_prepared_side_by_side_in_the_pipeline(data, tmp_path, monkeypatch):
    """Eight batches of 15 ms + 15 ms: 240 ms one after the other, 180 ms when two are prepared at a time."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settings = {"prepare_s": 0.015, "slow_s": 0.015}
    found = cells.measured("embed", cells.embed_spec(data, settings=settings, embed_items=32), tmp_path / "cell")
    a_pass = 32 / found.result["pipeline_per_s"]
    one_after_the_other = 8 * sum(found.result["stages"].values())
    assert one_after_the_other >= 0.24
    assert 0.18 <= a_pass < 0.9 * one_after_the_other


def test_rule_05_throughput_is_items_by_wall_time(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings={"slow_s": 0.01}), tmp_path / "cell")
    assert found.result["throughput_per_s"] <= 4 / 0.01
    assert found.result["throughput_per_s"] <= 4 / found.samples["forward_s"].mean()
    assert found.result["pipeline_per_s"] <= 4 / 0.01


def test_rule_05_insert_build_and_search_are_timed_apart(vectors, tmp_path, monkeypatch):
    from tests.plugins.probes import WatchedStore

    waits = {"insert": 0.02, "build": 0.03, "wait_ready": 0.04}

    def slowed_down(original, wait):
        def slowly(*args, **more):
            time.sleep(wait)
            return original(*args, **more)

        return slowly

    for name, wait in waits.items():
        monkeypatch.setattr(WatchedStore, name, slowed_down(getattr(WatchedStore, name), wait))
    result = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell").result
    assert 0.02 <= result["insert_s"] < result["ready_s"] < result["build_s"]
    assert result["ready_s"] >= 0.04
    assert result["build_s"] >= 0.07, "a store that builds after the call has returned has not built at once"


# ------------------------------------------------------------------------------------- 6: percentiles need samples


@pytest.mark.parametrize(("name", "needed"), [("search_latency_p50_s", 11), ("search_latency_p95_s", 130), ("search_latency_p99_s", 662)])
def test_rule_06_a_percentile_needs_its_samples_in_every_process(vectors, tmp_path, name, needed):
    outcome = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")

    def with_samples(*counts):
        outcomes = [summary.Outcome(outcome.result, {**outcome.samples, "latency_s_0": np.linspace(1e-3, 2e-3, count)}) for count in counts]
        return searched(outcomes, vectors).points[0].metrics[name]

    enough, too_few = with_samples(needed, needed), with_samples(needed, needed - 1)
    assert enough.value is not None
    assert too_few.value is None
    assert too_few.lo is None
    assert str(needed) in too_few.reason


def test_rule_06_raw_samples_are_kept_and_the_unit_of_replication_is_stated(data, vectors, tmp_path):
    search = [cells.measured("search", cells.search_spec(vectors, replicate=i), tmp_path / f"s{i}") for i in range(3)]
    embed = [cells.measured("embed", cells.embed_spec(data, replicate=i), tmp_path / f"e{i}") for i in range(3)]
    found = searched(search, vectors)
    point = found.points[0].metrics
    assert (point["qps"].n, point["qps"].replication) == (3, "process")
    assert (point["recall"].n, point["recall"].replication) == (16, "query")
    assert (point["ndcg_at_10"].n, point["ndcg_at_10"].replication) == (16, "query")
    assert (found.metrics["build_s"].n, found.metrics["build_s"].replication) == (3, "build")
    for i in range(3):
        assert np.array_equal(found.samples[f"latency_s_0_{i}"], search[i].samples["latency_s_0"])
    assert len(found.samples["recall_0"]) == 16
    embedded = summary.of_embed(embed, MEMORY, device="cpu", unit="tokens")
    throughput = embedded.metrics["throughput_per_s"]
    assert (throughput.n, throughput.replication) == (3, "process")
    assert throughput.lo < throughput.value < throughput.hi
    assert np.array_equal(embedded.samples["query_s_2"], embed[2].samples["query_s"])


def test_rule_06_with_one_process_no_interval_pretends_to_cover_others(data, tmp_path):
    found = summary.of_embed([cells.measured("embed", cells.embed_spec(data), tmp_path / "cell")], MEMORY, device="cpu", unit="tokens")
    for name, figure in found.metrics.items():
        if figure.lo is not None:
            assert figure.reason == "within one process", name
        elif figure.value is not None:
            assert figure.reason, name


# ---------------------------------------------------------------------- 7: one operating point, one set of numbers


def test_rule_07_recall_rate_and_latencies_come_from_the_same_requests(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, index=HNSW, settings={"delay_s": 0.001}), tmp_path / "cell")
    asked = of("index", "search")
    assert len(asked) == 1 + 4 * 32 + sum(point["count"] for point in found.result["points"]), "no pass of its own for recall"
    for number, point in enumerate(found.result["points"]):
        latencies = found.samples[f"latency_s_{number}"]
        assert point["count"] == len(latencies)
        assert latencies.sum() <= point["wall_s"] <= 1.1 * latencies.sum(), "one client: its rate is 1 / mean latency"
    points = searched([found], vectors).points
    assert [point.search_params for point in points] == [{"ef": 10}, {"ef": 20}, {"ef": 50}, {"ef": 200}]
    for number, point in enumerate(points):
        assert point.metrics["qps"].value == found.result["points"][number]["count"] / found.result["points"][number]["wall_s"]
        assert point.metrics["search_latency_p50_s"].value == np.median(found.samples[f"latency_s_{number}"])


def test_rule_07_recall_is_of_the_answers_given_inside_the_clock(vectors, tmp_path, monkeypatch):
    """A store that answers rightly only in warm-up must not be credited with it."""
    from tests.plugins.probes import WatchedStore

    original = WatchedStore.search

    def worse_later(self, queries, k, params):
        right = original(self, queries, k, params)
        return right if len(of("index", "search")) <= 1 + 32 else right[:, ::-1] * 0 + np.arange(k)

    monkeypatch.setattr(WatchedStore, "search", worse_later)
    found = searched([cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")], vectors)
    assert found.points[0].metrics["recall"].value < 0.3


# ------------------------------------------------------------------------------------- 8: repeats are interleaved


def blocks():
    """The operating points in the order in which their blocks of 20 measured requests came; also floor and round trip."""
    measured = [event for event in EVENTS if event[1] == "search"][2 + 6 * 32 :]  # after the first ones and the warm-up
    names = [(event[0], event[4].get("ef")) for event in measured]
    assert all(len(set(names[start : start + 20])) == 1 for start in range(0, len(names), 20))
    return names[::20]


def test_rule_08_operating_points_are_interleaved_in_a_shuffled_order(vectors, tmp_path):
    cells.measured("search", cells.search_spec(vectors, index=HNSW, min_requests=200, share_s=1e-6), tmp_path / "cell")
    everything = {("index", ef) for ef in (10, 20, 50, 200)} | {("floor", None), ("round trip", None)}
    order = blocks()
    rounds = [order[start : start + 6] for start in range(0, 60, 6)]
    assert all(set(one) == everything for one in rounds), "each round has every point once"
    assert len({tuple(one) for one in rounds}) > 5, "in an order of its own"


def test_rule_08_the_order_is_the_seeds_and_differs_between_processes(vectors, tmp_path):
    orders = []
    for number, (seed, replicate) in enumerate([(0, 0), (0, 0), (0, 1), (1, 0)]):
        spec = cells.search_spec(vectors, index=HNSW, min_requests=100, share_s=1e-6, seed=seed, replicate=replicate)
        cells.measured("search", spec, tmp_path / str(number))
        orders.append(blocks())
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_rule_08_kinds_of_passes_are_interleaved_too(data, tmp_path, monkeypatch):
    order = []

    def noted(original):
        def call(*args, **more):
            order.append(original.__name__)
            return original(*args, **more)

        return call

    for original in (embed_cell.forward_pass, embed_cell._stage_by_stage, embed_cell.pipeline_pass):
        monkeypatch.setattr(embed_cell, original.__name__, noted(original))
    cells.measured("embed", cells.embed_spec(data, settings={"slow_s": 0.001}, share_s=0.1), tmp_path / "cell")
    a_round = 1 + 4 + 1  # one pass forward, four batches stage by stage, one pass through the pipeline
    for start in range(0, 3 * a_round, a_round):
        assert sorted(order[start : start + a_round]) == ["_stage_by_stage"] * 4 + ["forward_pass", "pipeline_pass"]


# -------------------------------------------------------------------------------------------------- 9: recall


def test_rule_09_recall_is_against_exact_search_on_the_same_vectors(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, store=LITE, index=HNSW), tmp_path / "cell")
    nearest = np.argsort(cdist(np.load(vectors / "queries.npy"), np.load(vectors / "corpus.npy"), "cosine"), axis=1)[:, :10]
    for number, point in enumerate(searched([found], vectors).points):
        expected = [len(set(ids) & set(true)) / 10 for ids, true in zip(found.samples[f"ids_{number}"], nearest, strict=True)]
        assert point.metrics["recall"].value == pytest.approx(np.mean(expected), abs=1e-12)


def test_rule_09_repeated_and_missing_ids_are_misses_and_ties_are_hits():
    corpus = np.zeros((6, 2), np.float32)
    corpus[:, 0] = 1
    corpus[2:, 1] = [1, 2, 3, 4]  # rows 0 and 1 are the same vector
    queries = np.array([[1, 0]], np.float32)
    truth = Neighbours(ids=np.array([[0, 1, 2]]), scores=np.array([[1.0, 1.0, 0.5**0.5]]), metric="cosine", rows=6)
    from harness.metrics.recall import recall_at_k, strict_recall_at_k

    def of(*ids, k=2):
        answer = np.array([ids], np.int64)
        return recall_at_k(answer, truth, k=k, queries=queries, corpus=corpus)[0], strict_recall_at_k(answer, truth, k=k)[0]

    assert of(0, 1) == (1, 1)
    assert of(0, 0) == (0.5, 0.5)
    assert of(0, -1) == (0.5, 0.5)
    assert of(1, k=1) == (1, 0), "the same distance is as good; the strict figure beside it says that the id is another"


# ---------------------------------------------------------------------------------- 10: ready is proven, not slept for


def test_rule_10_readiness_is_asked_for_before_the_first_search(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    for collection, rows in (("index", 200), ("floor", 200), ("round trip", 10)):
        order = [event[1] for event in EVENTS if event[0] == collection]
        assert order[: order.index("search")] == ["open", "create", "insert", "build", "wait_ready"]
        assert of(collection, "wait_ready") == [(collection, "wait_ready", rows)]
    assert found.result["ready"]["rows"] == 200
    assert found.result["ready"]["segments"] == 1


def test_rule_10_a_store_that_is_not_ready_is_not_searched(vectors, tmp_path):
    with pytest.raises(StoreError, match="7 rows pending"):
        cells.measured("search", cells.search_spec(vectors, settings={"never_ready": True}), tmp_path / "cell")
    assert not [event for event in EVENTS if event[1] == "search"]


def test_rule_10_milvus_lite_states_rows_and_segments_and_the_index(vectors, tmp_path):
    result = cells.measured("search", cells.search_spec(vectors, store=LITE, index=HNSW), tmp_path / "cell").result
    assert result["ready"]["rows"] == 200
    assert result["ready"]["segments"] >= 1
    assert result["ready"]["index_state"] == "Finished"


def test_rule_10_warm_up_queries_are_not_among_the_measured_ones(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    asked = [event[2] for event in of("index", "search")]
    warm_up, measured = set(asked[1:33]), set(asked[33:])
    documents = {row.tobytes() for row in np.load(vectors / "corpus.npy")}
    assert warm_up <= documents
    assert not warm_up & measured
    assert measured == {row.tobytes() for row in np.load(vectors / "queries.npy")}
    assert found.result["points"][0]["count"] == len(asked) - 33


# ----------------------------------- 11: load and the whole path (one client in a closed loop; several clients and open loop come later)


def test_rule_11_one_query_alone_is_embedded_and_timed_in_every_embed_cell(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data), tmp_path / "cell")
    asked = [event[1] for event in EVENTS if event[0] == "prepare" and event[2] == "query"]
    assert len(asked) == 2 + 8 + len(found.samples["query_s"])  # the first one, the one kept ready and the warm-up are not among them
    assert {len(items) for items in asked} == {1}
    assert {items[0] for items in asked} == set(open_data(data).queries)


def test_rule_11_the_latency_of_a_query_holds_the_whole_path(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings=WAITS), tmp_path / "cell")
    assert found.samples["query_s"].min() >= sum(WAITS.values())


@pytest.mark.parametrize("fails_at", [1, 20, 120, 150])
def test_rule_11_an_error_is_an_error_and_never_a_latency(vectors, tmp_path, fails_at):
    with pytest.raises(StoreError, match="the store has gone"):
        cells.measured("search", cells.search_spec(vectors, settings={"fails_at": fails_at}), tmp_path / "cell")
    assert not (tmp_path / "cell/result.json").exists()


# --------------------------------------------------------------------------------------------- 12: attribution


def test_rule_12_round_trip_and_floor_are_measured_beside_every_index(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, index=HNSW), tmp_path / "cell")
    assert of("floor", "create") == [("floor", "create", 2, "FLAT")]
    assert sum(event[3] for event in of("floor", "insert")) == 200, "as many rows, in the smallest dimension"
    assert sum(event[3] for event in of("round trip", "insert")) == 10
    assert of("round trip", "create")[0][2] == 8, "the same vectors"
    metrics = searched([found], vectors).points[0].metrics
    for name, sample in (("floor_p50_s", "floor_s_10"), ("round_trip_p50_s", "round_trip_s_10")):
        assert len(found.samples[sample]) >= 20
        assert metrics[name].value == np.median(found.samples[sample])


def test_rule_12_what_every_request_costs_is_in_the_floor_and_in_the_round_trip(vectors, tmp_path):
    """A millisecond that the store spends whatever the index: what lies above the floor does not hold it."""
    spec = cells.search_spec(vectors, settings={"delay_s": 0.002}, index=HNSW)
    found = searched([cells.measured("search", spec, tmp_path / "cell")], vectors)
    assert found.points[0].metrics["round_trip_p50_s"].value >= 0.002
    assert found.points[0].metrics["floor_p50_s"].value >= 0.002
    for point in found.points:
        assert point.metrics["search_latency_p50_s"].value - point.metrics["floor_p50_s"].value < 0.002


def test_rule_12_every_k_has_a_floor_and_a_round_trip_of_its_own(vectors, tmp_path, monkeypatch):
    """Returning twenty times as many rows costs more whatever the index; a floor at another k would blame the index for it."""
    from tests.plugins.probes import WatchedStore

    original = WatchedStore.search

    def dearer(self, queries, k, params):
        time.sleep(k * 1e-4)
        return original(self, queries, k, params)

    monkeypatch.setattr(WatchedStore, "search", dearer)
    small, large = searched([cells.measured("search", cells.search_spec(vectors, k=[2, 40]), tmp_path / "cell")], vectors).points
    assert large.metrics["floor_p50_s"].value >= 0.004
    assert small.metrics["floor_p50_s"].value < large.metrics["floor_p50_s"].value - 0.002
    assert large.metrics["round_trip_p50_s"].value < large.metrics["floor_p50_s"].value, "a near-empty collection has ten rows to return"


# ------------------------------------------------------------ 13: memory in its own pass (the engine's part: test_engine)


def test_rule_13_the_memory_of_a_model_is_in_the_figure(data, tmp_path):
    peaks = {}
    for hog in (0, 300_000_000):
        folder = tmp_path / str(hog)
        folder.mkdir()
        server = Replicate()  # nothing imported before, as the engine does it
        try:
            spec = cells.embed_spec(data, settings={"hog_bytes": hog})
            server.run("harness.embed_cell:measure_memory", spec, folder, timeout_s=120)
        finally:
            server.close()
        peaks[hog] = json.loads((folder / "result.json").read_text())["peak_rss_bytes"]
    assert peaks[300_000_000] - peaks[0] == pytest.approx(300_000_000, rel=0.1)


# -------------------------------------------------------------------------- 14: nothing is a zero that was not measured


def test_rule_14_what_was_not_measured_is_null_with_the_reason(data, vectors, tmp_path):
    search = [cells.measured("search", cells.search_spec(vectors, k=[5]), tmp_path / "search")]
    embed = [cells.measured("embed", cells.embed_spec(data), tmp_path / "embed")]
    found = [
        *figures(searched(search, vectors)),
        *figures(summary.of_embed(embed, MEMORY, device="cpu", unit="images")),
    ]
    null = {name: figure for name, figure in found if figure.value is None}
    assert all(figure.reason and figure.lo is None and figure.hi is None for figure in null.values())
    for name in (
        "index_bytes",
        "transfer_s",
        "device_peak_bytes",
        "device_reserved_bytes",
        "mfu",
        "energy_j_per_1000_items",
        "truncated_share",
        "ndcg_at_10",
    ):
        assert name in null, f"{name} cannot have been measured here"
    assert [name for name, figure in found if figure.value == 0] == []


# ------------------------------------------------------------------------------------ 15: the instrument is tested


@pytest.fixture(scope="module")
def harder(tmp_path_factory):
    """Vectors in which a graph loses neighbours."""
    return cells.vectors(tmp_path_factory.mktemp("harder") / "vectors", rows=800, queries=40, dim=24)


def recalls(vectors, folder, *, store=LITE, **index):
    spec = cells.search_spec(vectors, store=store, index=index, min_requests=40)
    return [point.metrics["recall"].value for point in searched([cells.measured("search", spec, folder)], vectors).points]


@pytest.mark.parametrize("store", [LITE, "stores.exact.Exact"])
def test_rule_15_flat_finds_everything(harder, tmp_path, store):
    assert recalls(harder, tmp_path / "cell", store=store, _target_="stores.index.FLAT") == [1.0]


def test_rule_15_ivf_finds_everything_when_all_cells_are_searched_and_less_otherwise(harder, tmp_path):
    found = recalls(harder, tmp_path / "cell", _target_="stores.index.IVF_FLAT", nlist=16, nprobe=[1, 4, 16])
    assert found == sorted(found)
    assert found[0] < 0.9
    assert found[-1] == 1.0


def test_rule_15_hnsw_finds_more_with_a_larger_ef(harder, tmp_path):
    found = recalls(harder, tmp_path / "cell", _target_="stores.index.HNSW", M=4, ef_construction=20, ef=[10, 20, 50, 400])
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.05


def slowed_down(measure, *, pairs=6, attempts=3):
    """Figures of the slower variant relative to the other, from pairs measured in turn and in changing order, each with its interval.

    Another program may disturb one series so much that its interval, rightly, says nothing; hence up to three series.
    """
    for attempt in range(attempts):
        logs = []
        for pair in range(pairs):
            order = [False, True]
            random.Random(pair).shuffle(order)
            found = {slower: measure(slower, f"{attempt} {pair} {slower}") for slower in order}
            logs.append({name: found[True][name] / found[False][name] for name in found[True]})
        ratios = {name: over_processes([one[name] for one in logs]) for name in logs[0]}
        if all(not ratio.lo <= 1 <= ratio.hi for ratio in ratios.values()):
            break
    return ratios


def test_rule_15_a_store_slowed_down_by_a_fifth_is_found(vectors, tmp_path):
    def measure(slower, name):
        spec = cells.search_spec(vectors, store=NULL, settings={"delay_s": 0.0012 if slower else 0.0010}, min_requests=60)
        found = searched([cells.measured("search", spec, tmp_path / name)], vectors).points[0].metrics
        return {figure: found[figure].value for figure in ("search_latency_p50_s", "qps")}

    found = slowed_down(measure)
    assert found["search_latency_p50_s"].lo > 1
    assert found["search_latency_p50_s"].value == pytest.approx(1.2, rel=0.1)
    assert found["qps"].hi < 1


def test_rule_15_a_model_slowed_down_by_a_fifth_is_found(data, tmp_path):
    def measure(slower, name):
        settings = {"slow_s": 0.012 if slower else 0.010}
        spec = cells.embed_spec(data, settings=settings, min_requests=1, embed_items=8, share_s=0.1, max_s=0.1)
        outcome = cells.measured("embed", spec, tmp_path / name)
        found = summary.of_embed([outcome], MEMORY, device="cpu", unit="tokens").metrics
        return {figure: found[figure].value for figure in ("throughput_per_s", "forward_s")}

    found = slowed_down(measure)
    assert found["throughput_per_s"].hi < 1
    assert found["throughput_per_s"].value == pytest.approx(1 / 1.2, rel=0.1)
    assert found["forward_s"].lo > 1


def test_rule_15_a_null_store_shows_the_harness_itself(vectors, tmp_path):
    """What remains when the store does nothing is less than a tenth of a store's quickest answer (a millisecond)."""
    found = {}
    for delay_s in (0.0, 0.001):
        spec = cells.search_spec(vectors, store=NULL, settings={"delay_s": delay_s}, min_requests=200)
        found[delay_s] = np.median(cells.measured("search", spec, tmp_path / str(delay_s)).samples["latency_s_0"])
    assert found[0.0] < 0.1 * found[0.001]
    assert found[0.001] >= 0.001
