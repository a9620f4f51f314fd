"""Searching while rows come and go, on the exact store and on versions of it that lag, lose rows, fail or dawdle."""

import threading
import time

import numpy as np
import pytest

from harness import churn_cell, search_cell
from harness.churn_cell import Churn, rows_taken_out
from harness.errors import StoreError
from harness.groundtruth import exact_neighbours
from harness.interfaces import Data
from harness.load import Asked
from harness.quantise import Quantiser
from harness.search_summary import of_search
from harness.timing import Until
from harness.vectors import open_truth
from stores.exact import Exact
from stores.index import FLAT
from tests import cells

ROWS, DIM, K = 300, 8, 5
RANDOM = np.random.default_rng(0)
CORPUS = RANDOM.standard_normal((ROWS, DIM)).astype(np.float32)
QUERIES = RANDOM.standard_normal((20, DIM)).astype(np.float32)
TRUTH = exact_neighbours(QUERIES, CORPUS, k=50, metric="l2")
REQUESTS = [np.asarray([number]) for number in range(len(QUERIES))]


class Late(Exact):
    """Exact search to which a change shows a while after it was acknowledged."""

    late_s = 0.05

    def __init__(self):
        super().__init__()
        self.pending, self.one_at_a_time = [], threading.Lock()

    def _change(self, *change, **more):
        self.pending.append((time.monotonic() + self.late_s, lambda: Exact._change(self, *change, **more)))

    def search(self, *args, **more):
        with self.one_at_a_time:
            while self.pending and self.pending[0][0] <= time.monotonic():
                self.pending.pop(0)[1]()
        return super().search(*args, **more)


class Loses(Exact):
    """Exact search that acknowledges every insertion and keeps every other one."""

    count = 0

    def add(self, vectors, ids):
        self.count += 1
        if self.count % 2:
            super().add(vectors, ids)


class Fails(Exact):
    """Exact search that refuses the tenth replacement or the hundredth search."""

    fails = "upsert"
    count = 0

    def _counted(self, name, limit):
        if self.fails == name:
            self.count += 1
            if self.count >= limit:
                raise StoreError(f"no more {name}")

    def upsert(self, vectors, ids):
        self._counted("upsert", 10)
        super().upsert(vectors, ids)

    def search(self, *args, **more):
        self._counted("search", 100)
        return super().search(*args, **more)


class Dawdles(Exact):
    """Exact search that takes its time over a change."""

    def _change(self, *change, **more):
        time.sleep(0.02)
        super()._change(*change, **more)


def filled(kind=Exact):
    store = kind()
    store.create("rows", dim=DIM, metric="l2", index=FLAT())
    store.insert(CORPUS, 0)
    store.build()
    store.wait_ready(rows=ROWS, deadline_s=1)
    return store


def churned(store, *, rate=400.0, upserts=0.2, least_s=0.3):
    churn = Churn(store, CORPUS, Quantiser("fp32"), TRUTH, upserts=upserts, seed="0")
    churn.take_out(Asked(K, {}))
    return churn, churn.run(Asked(K, {}), rate, QUERIES, QUERIES, REQUESTS, Until(min_s=least_s, min_count=40))


def test_exact_search_finds_all_that_was_there_at_the_moment_while_rows_come_and_go():
    _, found = churned(filled())
    assert found.recall.shape == (len(QUERIES),)
    assert (found.recall == 1.0).all()
    assert (found.strict == 1.0).all()
    assert (found.gone, found.unseen) == (0, 0)
    assert found.returned > 0
    assert min(len(found.fresh_s), len(found.deletion_s)) >= churn_cell.LEAST_SEEN
    assert len(found.latency_s) >= 40
    assert found.latency_s.sum() <= found.wall_s
    changes = len(found.change_s)
    assert changes > len(found.fresh_s) + len(found.deletion_s), "replacements too"


def test_what_is_in_the_store_at_the_end_is_what_the_history_says():
    store = filled()
    churn, _ = churned(store)
    there = {churn.history.now(source).id: source for source in churn._in}
    assert len(there) + len(churn._out) == ROWS
    assert abs(len(churn._out) - rows_taken_out(ROWS)) <= 1
    assert set(store._held.ids.tolist()) == set(there)
    for number, row in zip(store._held.ids.tolist(), store._held.rows, strict=True):
        assert (row == CORPUS[there[number]]).all()


def test_a_store_that_lags_is_found_out():
    _, found = churned(filled(Late))
    assert found.fresh_s.min() >= Late.late_s
    assert found.deletion_s.min() >= Late.late_s
    assert found.recall.mean() < 1.0
    assert found.gone > 0
    assert found.unseen == 0


def test_rows_that_a_store_loses_are_counted_and_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(churn_cell, "GIVE_UP_S", 0.2)
    _, found = churned(filled(Loses), upserts=0.0)
    assert found.unseen == pytest.approx(len(found.fresh_s) / 2, abs=1)
    assert np.sort(found.fresh_s)[-found.unseen] >= 0.2
    assert found.recall.mean() < 1.0
    assert found.gone == 0


@pytest.mark.parametrize("fails", ["upsert", "search"])
def test_what_a_store_fails_with_ends_the_run_and_its_threads(monkeypatch, fails):
    monkeypatch.setattr(Fails, "fails", fails)
    before = threading.active_count()
    with pytest.raises(StoreError, match=f"no more {fails}"):
        churned(filled(Fails), least_s=5.0)
    assert threading.active_count() == before


def test_changes_that_take_longer_than_their_rate_allows_fall_behind():
    assert churned(filled(Dawdles))[1].slip > 0.5 > churned(filled(), rate=50.0)[1].slip


def test_replacements_alone_bring_no_row_to_look_for():
    _, found = churned(filled(), upserts=1.0)
    assert len(found.fresh_s) == len(found.deletion_s) == 0
    assert len(found.change_s) >= churn_cell.LEAST_SEEN
    assert (found.recall == 1.0).all()


def test_several_queries_a_request_are_judged_each():
    store = filled()
    churn = Churn(store, CORPUS, Quantiser("fp32"), TRUTH, upserts=0.5, seed="1")
    churn.take_out(Asked(K, {}))
    requests = [np.arange(start, start + 4) for start in range(0, 20, 4)]
    found = churn.run(Asked(K, {}), 300.0, QUERIES, QUERIES, requests, Until(min_s=0.1, min_count=5))
    assert (found.recall == 1.0).all()


def with_truth(folder, **size):
    """Lay out vectors and their exact neighbours; returns the folder and where the neighbours are."""
    vectors = cells.vectors(folder / "vectors", **size)
    corpus, queries = np.load(vectors / "corpus.npy"), np.load(vectors / "queries.npy")
    truth = exact_neighbours(queries, corpus, k=min(100, len(corpus)), metric="cosine")
    (folder / "truth").mkdir()
    np.save(folder / "truth/ids.npy", truth.ids)
    np.save(folder / "truth/scores.npy", truth.scores)
    return vectors, {"None": str(folder / "truth")}


def test_rates_of_change_are_operating_points_beside_the_others_which_they_do_not_touch(tmp_path):
    vectors, truth = with_truth(tmp_path, rows=300)
    spec = cells.search_spec(vectors, store="stores.exact.Exact", truth=truth, churn_per_s=[100.0, 300.0], churn_upserts=0.2)
    outcome = cells.measured("search", spec, tmp_path / "cell")
    points = outcome.result["points"]
    assert [(point["concurrency"], point["churn_per_s"]) for point in points] == [(1, None), (1, 100.0), (1, 300.0)]
    nearest = open_truth(tmp_path / "truth", metric="cosine", rows=300)
    assert (outcome.samples["ids_0"] == nearest.ids[:, :10]).all(), "rows that stay as they are come first"
    for number in (1, 2):
        assert (outcome.samples[f"recall_{number}"] == 1.0).all()
        assert points[number]["count"] == len(outcome.samples[f"latency_s_{number}"]) >= 20
        assert points[number]["churn"]["gone"] == points[number]["churn"]["unseen"] == 0

    data = Data("text", "made", ["a"] * 300, ["q"] * 16, {0: {0: 1}}, "")
    found = of_search(
        [outcome], {"peak_rss_bytes": 5e8}, vectors=vectors, truth={None: nearest}, data=data, random_weights=False, exact=True
    )
    still, slow, fast = found.points
    assert "changes_per_s" not in still.metrics
    assert (slow.churn_per_s, fast.churn_per_s) == (100.0, 300.0)
    for point in (slow, fast):
        assert point.metrics["recall"].value == 1.0
        assert point.metrics["recall"].lo < 1.0, "not exact by construction: what was seen is a sample"
        assert point.metrics["changes_per_s"].value == pytest.approx(point.churn_per_s, rel=0.5)
        assert point.metrics["deleted_share"].value == 0.0
        assert point.metrics["freshness_p50_s"].value > 0
        assert "come and go" in point.metrics["ndcg_at_10"].reason
    assert fast.metrics["changes_per_s"].value > slow.metrics["changes_per_s"].value
    assert len(found.samples["fresh_s_2_0"]) > 0


def test_the_memory_pass_changes_nothing(tmp_path):
    vectors, truth = with_truth(tmp_path, rows=200)
    (tmp_path / "cell").mkdir()
    spec = cells.search_spec(vectors, store="stores.exact.Exact", truth=truth, churn_per_s=[100.0], churn_upserts=0.2)
    search_cell.measure_memory(spec, tmp_path / "cell", lambda *_: None)
    assert (tmp_path / "cell/result.json").exists()


@pytest.mark.slow
def test_a_milvus_lite_collection_shows_what_changes(tmp_path):
    vectors, truth = with_truth(tmp_path, rows=1_000, dim=16)
    index = {"_target_": "stores.index.HNSW", "M": 16, "ef_construction": 100, "ef": [100]}
    spec = cells.search_spec(
        vectors, store="stores.milvus_lite.MilvusLite", index=index, truth=truth, churn_per_s=[50.0], churn_upserts=0.2, min_requests=50
    )
    outcome = cells.measured("search", spec, tmp_path / "cell")
    churn = outcome.result["points"][1]["churn"]
    assert outcome.samples["recall_1"].mean() > 0.95
    assert churn["unseen"] == churn["gone"] == 0, "the engine keeps one copy, and acknowledges what it shows"
