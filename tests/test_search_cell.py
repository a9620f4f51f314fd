"""The search cell against a store that writes down every call, and against the engines themselves."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from harness import search_cell
from harness.errors import StoreError
from harness.groundtruth import exact_neighbours
from harness.load import Clients
from stores.exact import Exact
from stores.faiss import Faiss
from tests import cells
from tests.plugins.probes import EVENTS

HNSW = {"_target_": "stores.index.HNSW", "M": 4, "ef_construction": 20, "ef": [10, 50]}


@pytest.fixture
def vectors(tmp_path):
    return cells.vectors(tmp_path / "vectors")


def of(collection, what):
    return [event for event in EVENTS if event[:2] == (collection, what)]


def test_ids_are_those_of_scikit_learn_for_every_query(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, k=[3, 10]), tmp_path / "cell")
    corpus, queries = np.load(vectors / "corpus.npy"), np.load(vectors / "queries.npy")
    expected = NearestNeighbors(n_neighbors=10, metric="cosine").fit(corpus).kneighbors(queries, return_distance=False)
    assert found.samples["ids_0"].tolist() == expected[:, :3].tolist()
    assert found.samples["ids_1"].tolist() == expected.tolist()


def test_every_k_with_every_value_of_the_knob_is_an_operating_point(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, k=[3, 10], index=HNSW), tmp_path / "cell")
    assert [(point["k"], point["search_params"]) for point in found.result["points"]] == [
        (3, {"ef": 10}),
        (3, {"ef": 50}),
        (10, {"ef": 10}),
        (10, {"ef": 50}),
    ]


def test_every_row_is_inserted_once_in_batches_that_the_store_can_take(tmp_path):
    vectors = cells.vectors(tmp_path / "vectors", rows=25_000, dim=1500)
    cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    inserted = [(first, count) for *_, first, count in of("index", "insert")]
    assert inserted == [(first, min(6826, 25_000 - first)) for first in range(0, 25_000, 6826)]  # 10,000 rows of 4 kB are 6,826 of 6 kB


def test_small_vectors_are_not_inserted_in_larger_batches_than_the_store_takes(tmp_path):
    vectors = cells.vectors(tmp_path / "vectors", rows=25_000, dim=2)
    cells.measured("search", cells.search_spec(vectors), tmp_path / "cell")
    assert [count for *_, count in of("index", "insert")] == [10_000, 10_000, 5_000]


def test_every_collection_is_dropped_and_closed_also_when_a_search_fails(vectors, tmp_path):
    for fails_at in (0, 60):
        spec = cells.search_spec(vectors, settings={"fails_at": fails_at})
        if fails_at:
            with pytest.raises(StoreError, match="the store has gone"):
                cells.measured("search", spec, tmp_path / "failing")
        else:
            cells.measured("search", spec, tmp_path / "good")
        for collection in ("index", "floor", "round trip"):
            assert [event[1] for event in EVENTS if event[0] == collection][-2:] == ["drop", "close"]


@pytest.mark.parametrize("measure", [search_cell.measure, search_cell.measure_memory])
def test_what_a_store_failed_with_is_not_hidden_by_what_it_says_when_it_is_closed(vectors, tmp_path, measure, monkeypatch):
    from tests.plugins.probes import WatchedStore

    def broken(message):
        def fail(self, *_, **__):
            raise StoreError(message)

        return fail

    monkeypatch.setattr(WatchedStore, "create", broken("the disk is full"))
    monkeypatch.setattr(WatchedStore, "drop", broken("there is no collection"))
    (tmp_path / "cell").mkdir()
    with pytest.raises(StoreError, match="the disk is full"):
        measure(cells.search_spec(vectors), tmp_path / "cell", lambda *_: None)
    assert EVENTS[-1][1] == "close"


def test_every_query_is_asked_even_when_there_are_more_than_the_minimum(tmp_path):
    vectors = cells.vectors(tmp_path / "vectors", queries=70)
    found = cells.measured("search", cells.search_spec(vectors, min_requests=20, share_s=1e-6, max_s=1e-6), tmp_path / "cell")
    assert found.samples["ids_0"].shape == (70, 10)
    assert found.result["points"][0]["count"] >= 70


def test_k_larger_than_the_near_empty_collection_is_no_obstacle(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, k=[50]), tmp_path / "cell")
    assert found.samples["ids_0"].shape == (16, 50)
    assert {event[3] for event in of("round trip", "search")} == {1, 10}  # the very first search is for the imports


def test_progress_rises_to_one(vectors, tmp_path):
    seen = []
    cells.measured("search", cells.search_spec(vectors), tmp_path / "cell", report=lambda *stage: seen.append(stage))
    shares = [share for name, share, *_ in seen if name == "search"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(0 <= share <= 1 for _, share, *_ in seen)


def test_the_memory_pass_loads_all_rows_and_searches_at_every_point(vectors, tmp_path):
    (tmp_path / "cell").mkdir()
    EVENTS.clear()
    search_cell.measure_memory(cells.search_spec(vectors, index=HNSW), tmp_path / "cell", lambda *_: None)
    assert sum(count for *_, count in of("index", "insert")) == 200
    assert {event[4]["ef"] for event in of("index", "search")} == {10, 50}
    assert json.loads((tmp_path / "cell/result.json").read_text())["peak_rss_bytes"] > 1e7


@pytest.mark.parametrize("vector_type", ["fp32", "binary"])
def test_the_memory_pass_searches_as_the_cell_does(tmp_path, monkeypatch, vector_type):
    searched = []
    search = Faiss.search

    def watched(self, queries, k, params, *, below=None):
        searched.append((queries.dtype.name, len(queries), below))
        return search(self, queries, k, params, below=below)

    monkeypatch.setattr(Faiss, "search", watched)
    (tmp_path / "cell").mkdir()
    vectors = cells.vectors(tmp_path / "vectors", rows=300, dim=16)
    spec = cells.search_spec(vectors, store="stores.faiss.Faiss", filter=[None, 0.5], nq=4, vector_type=vector_type)
    search_cell.measure_memory(spec, tmp_path / "cell", lambda *_: None)
    assert set(searched) == {("float32" if vector_type == "fp32" else "uint8", 4, below) for below in (None, 500)}


@pytest.mark.parametrize("vector_type", ["int8", "binary"])
def test_quantising_is_not_in_the_memory_of_an_index(tmp_path, vector_type):
    """The corpus is 4 or 32 times as large as what is stored. FAISS takes int8 as floats, which is its own affair."""
    code = (
        "import json, sys; from pathlib import Path; from harness.search_cell import measure_memory; "
        "measure_memory(json.loads(sys.argv[1]), Path(sys.argv[2]), lambda *_: None); assert 'torch' not in sys.modules"
    )
    peaks = {}
    for rows in (300, 60_000):
        folder = tmp_path / str(rows)
        (folder / "cell").mkdir(parents=True)
        vectors = cells.vectors(folder / "vectors", rows=rows, dim=512)
        spec = cells.search_spec(vectors, store="stores.faiss.Faiss", vector_type=vector_type, metric="ip")
        subprocess.run([sys.executable, "-c", code, json.dumps(spec), str(folder / "cell")], check=True)
        peaks[rows] = json.loads((folder / "cell/result.json").read_text())["peak_rss_bytes"]
    corpus = 60_000 * 512 * 4
    stored = corpus / (4 if vector_type == "int8" else 32)
    as_floats = corpus if vector_type == "int8" else 0
    assert peaks[60_000] - peaks[300] < 2 * stored + as_floats + 0.3 * corpus


def test_memory_of_a_server_that_cannot_be_seen_is_null(vectors, tmp_path, monkeypatch):
    from tests.plugins.probes import WatchedStore

    monkeypatch.setattr(WatchedStore, "in_process", False)
    (tmp_path / "cell").mkdir()
    search_cell.measure_memory(cells.search_spec(vectors), tmp_path / "cell", lambda *_: None)
    assert json.loads((tmp_path / "cell/result.json").read_text())["peak_rss_bytes"] is None


# ---------------------------------------------------------------------------------------------- loads


EXACT = {"store": "stores.exact.Exact"}


def exact_ids(vectors, k=10):
    corpus, queries = np.load(vectors / "corpus.npy"), np.load(vectors / "queries.npy")
    return NearestNeighbors(n_neighbors=k, metric="cosine").fit(corpus).kneighbors(queries, return_distance=False)


def test_every_load_is_an_operating_point_with_its_own_answers_and_samples(vectors, tmp_path):
    spec = cells.search_spec(vectors, concurrency=[1, 3], rate=[400.0], **EXACT)
    found = cells.measured("search", spec, tmp_path / "cell")
    about = [(point["concurrency"], point["rate_per_s"]) for point in found.result["points"]]
    assert about == [(1, None), (3, None), (None, 400.0)]
    for number, point in enumerate(found.result["points"]):
        assert found.samples[f"ids_{number}"].tolist() == exact_ids(vectors).tolist()
        assert len(found.samples[f"latency_s_{number}"]) == point["count"] >= 20
        assert point["wall_s"] > 0
        assert point["errors"] == {}


def test_the_highest_rate_that_meets_a_target_is_looked_for_and_its_own_run_is_what_is_told(vectors, tmp_path):
    slow = {"store": "tests.plugins.probes.WatchedStore", "settings": {"delay_s": 0.002}}
    spec = cells.search_spec(vectors, concurrency=[], p99_target_s=0.05, min_requests=30, **slow)
    found = cells.measured("search", spec, tmp_path / "cell")
    (point,) = found.result["points"]
    assert point["highest_rate_per_s"] > 50  # one after the other would do 500/s in 2 ms each
    assert np.quantile(found.samples["latency_s_0"], 0.99) <= 0.05
    assert point["count"] >= 30
    hopeless = cells.search_spec(vectors, concurrency=[], p99_target_s=0.0005, min_requests=20, **slow)
    (point,) = cells.measured("search", hopeless, tmp_path / "hopeless").result["points"]
    assert point["highest_rate_per_s"] is None


def test_a_request_of_several_queries_has_one_latency_and_all_their_answers(vectors, tmp_path):
    found = cells.measured("search", cells.search_spec(vectors, nq=5, concurrency=[1, 2], **EXACT), tmp_path / "cell")
    for number in range(2):
        assert found.samples[f"ids_{number}"].tolist() == exact_ids(vectors).tolist()
    asked = cells.measured("search", cells.search_spec(vectors, nq=5), tmp_path / "watched")
    sizes = {len(event[2]) // 4 // 8 for event in of("index", "search")}  # bytes of float32 of 8 dimensions
    assert 5 in sizes
    assert asked.result["nq"] == 5


def test_floor_and_round_trip_ask_as_many_queries_a_request_as_what_they_are_set_beside(vectors, tmp_path):
    EVENTS.clear()
    cells.measured("search", cells.search_spec(vectors, nq=4), tmp_path / "cell")
    for collection, dim in (("floor", 2), ("round trip", 8)):
        timed = of(collection, "search")[33:]  # after the first and the warm-up
        assert {len(event[2]) // 4 // dim for event in timed} == {4}


class RefusesOne(Exact):
    """Exact search that never answers one of the queries; it ends, as a bug, where asking goes on and on."""

    asked = 0

    def search(self, queries, k, params, *, below=None):
        type(self).asked += 1
        if self.asked > 20_000:
            raise KeyError("asked for ever")
        if queries.shape[1] == 8 and np.allclose(queries[0], self.refused):
            raise StoreError("cannot parse the query")
        return super().search(queries, k, params, below=below)


def test_a_query_that_is_always_refused_ends_the_cell_and_does_not_keep_it_going(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(RefusesOne, "refused", np.load(vectors / "queries.npy")[3], raising=False)
    spec = cells.search_spec(vectors, store="tests.test_search_cell.RefusesOne", concurrency=[2])
    with pytest.raises(StoreError, match="cannot parse the query"):
        cells.measured("search", spec, tmp_path / "cell")


def test_a_stretch_of_load_lasts_many_latencies(vectors, tmp_path, monkeypatch):
    lasted = []
    closed = Clients.closed
    monkeypatch.setattr(Clients, "closed", lambda *a: (lasted.append(a[3]), closed(*a)))
    slow = {"store": "tests.plugins.probes.WatchedStore", "settings": {"delay_s": 0.02}}
    cells.measured("search", cells.search_spec(vectors, concurrency=[2], share_s=0.6, min_requests=1, **slow), tmp_path / "cell")
    assert lasted[0] == 0.25
    assert all(stretch >= 40 * 0.02 for stretch in lasted[1:])
    assert len(lasted) > 1


def test_at_equal_recall_half_of_the_queries_tune_and_the_others_are_measured(tmp_path):
    vectors = cells.vectors(tmp_path / "vectors", rows=2000, queries=200, dim=16)
    corpus, queries = np.load(vectors / "corpus.npy"), np.load(vectors / "queries.npy")
    truth = exact_neighbours(queries, corpus, k=10, metric="cosine")
    (tmp_path / "truth").mkdir()
    np.save(tmp_path / "truth/ids.npy", truth.ids)
    np.save(tmp_path / "truth/scores.npy", truth.scores)
    index = {"_target_": "stores.index.IVF_FLAT", "nlist": 64, "nprobe": [1]}
    spec = cells.search_spec(
        vectors, store="stores.milvus_lite.MilvusLite", index=index, target_recall=[0.8, 0.95], truth={"None": str(tmp_path / "truth")}
    )
    found = cells.measured("search", spec, tmp_path / "cell")
    probes = [point["search_params"]["nprobe"] for point in found.result["points"]]
    assert [point["target_recall"] for point in found.result["points"]] == [0.8, 0.95]
    assert 1 < probes[0] < probes[1] <= 64
    assert len(found.result["asked"]) == 100
    asked = found.result["asked"]
    for number, target in enumerate((0.8, 0.95)):
        ids = found.samples[f"ids_{number}"]
        hits = [len(set(row) & set(true)) / 10 for row, true in zip(ids.tolist(), truth.ids[asked].tolist(), strict=True)]
        assert np.mean(hits) > target - 0.05
    again = cells.measured("search", {**spec, "tuned": found.result["tuned"], "replicate": 1}, tmp_path / "again")
    assert [point["search_params"]["nprobe"] for point in again.result["points"]] == probes
    assert again.result["asked"] == asked


def test_all_waits_of_a_cell_share_one_deadline(vectors, tmp_path, monkeypatch):
    from tests.plugins.probes import WatchedStore

    given = []
    ready = WatchedStore.wait_ready

    def waits(self, *, rows, deadline_s):
        given.append(deadline_s)
        time.sleep(0.05)
        return ready(self, rows=rows, deadline_s=deadline_s)

    monkeypatch.setattr(WatchedStore, "wait_ready", waits)
    cells.measured("search", cells.search_spec(vectors, deadline_s=0.12), tmp_path / "cell")
    assert given[0] == 0.12
    assert given[1] <= 0.07
    assert 0.0 <= given[2] <= 0.02


def test_the_source_rows_are_not_in_the_memory_of_a_store(tmp_path):
    """A store that keeps nothing takes no more for 200 MB of rows than for 2 MB."""
    code = (
        "import json, sys; from pathlib import Path; from harness.search_cell import measure_memory; "
        "measure_memory(json.loads(sys.argv[1]), Path(sys.argv[2]), lambda *_: None)"
    )
    peaks = []
    for rows in (1_000, 100_000):
        (folder := tmp_path / str(rows)).mkdir()
        np.save(folder / "corpus.npy", np.ones((rows, 512), dtype=np.float32))
        np.save(folder / "queries.npy", np.ones((4, 512), dtype=np.float32))
        spec = cells.search_spec(folder, store="tests.plugins.parts.NullStore")
        (folder / "cell").mkdir()
        subprocess.run([sys.executable, "-c", code, json.dumps(spec), str(folder / "cell")], check=True)
        peaks.append(json.loads((folder / "cell/result.json").read_text())["peak_rss_bytes"])
    assert peaks[1] - peaks[0] < 50e6  # 10,000 rows at once are 20 MB
