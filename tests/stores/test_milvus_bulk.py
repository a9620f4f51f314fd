"""Bulk imports into the real server: the same rows as by requests, found by the same searches, and no file left behind."""

import faiss
import numpy as np
import pytest

from harness.errors import SettingsError, StoreError
from harness.interfaces import part_of
from stores.index import FLAT, HNSW
from stores.milvus import Milvus
from stores.milvus_bulk import ROWS
from stores.milvus_local import MilvusLocal
from tests.stores.oracle import distances, hard_rows, recall

COUNT, DIM, K = 3_000, 32, 10
CORPUS, QUERIES = hard_rows(COUNT, DIM, 1), hard_rows(60, DIM, 2)
GRAPH = HNSW(M=8, ef_construction=60, ef=(10, 100))


def filled(tmp_path, index, *, batches=1, rows=CORPUS, **options):
    store = MilvusLocal(insert_by="bulk_import")
    store.open(tmp_path)
    store.create("rows", dim=DIM, metric="l2", index=index, **options)
    first = 0
    for batch in np.array_split(rows, batches):
        store.insert(batch, first)
        first += len(batch)
    store.build()
    return store, store.wait_ready(rows=len(rows), deadline_s=120)


def files(store):
    return list(store._import_folder().rglob("*.npy"))


@pytest.fixture(scope="module")
def imported(local, tmp_path_factory):
    store, ready = filled(tmp_path_factory.mktemp("bulk"), FLAT(), batches=2, filtered=True)
    yield store, ready
    store.close()


def test_imported_rows_are_all_there_and_are_those_that_were_given(imported):
    store, ready = imported
    assert (ready.rows, ready.segments, ready.index_state) == (COUNT, 1, "Finished")
    answer = store.search(QUERIES, K, {})
    assert recall(answer, QUERIES, CORPUS, "l2") == 1.0
    assert (np.diff(np.take_along_axis(distances(QUERIES, CORPUS, "l2"), answer, axis=1), axis=1) >= -1e-5).all()
    everyone = store.search(QUERIES[:1], COUNT, {})[0]
    assert sorted(everyone.tolist()) == list(range(COUNT))


@pytest.mark.parametrize("below", [10, 500])
def test_imported_rows_are_filtered_by_their_parts(imported, below):
    store, _ = imported
    allowed = np.flatnonzero(part_of(np.arange(COUNT)) < below)
    assert (np.sort(store.search(QUERIES[:1], len(allowed), {}, below=below)[0]) == allowed).all()


def test_writing_files_and_importing_them_are_told_apart_and_no_file_stays(imported):
    store, ready = imported
    assert {"files", "import", "flush", "load"} <= set(ready.times)
    assert ready.times["files"] > 0
    assert ready.times["import"] > ready.times["files"], "the server has more to do than to be written for"
    assert files(store) == []


def test_recall_of_a_graph_over_imported_rows_is_that_of_faiss_with_the_same_parameters(local, tmp_path):
    store, _ = filled(tmp_path, GRAPH)
    peer = faiss.IndexHNSWFlat(DIM, 8)
    peer.hnsw.efConstruction = 60
    peer.add(CORPUS)
    for params in GRAPH.search_params():
        there = recall(store.search(QUERIES, K, params), QUERIES, CORPUS, "l2")
        here = recall(peer.search(QUERIES, K, params=faiss.SearchParametersHNSW(efSearch=params["ef"]))[1], QUERIES, CORPUS, "l2")
        assert there == pytest.approx(here, abs=0.08)  # 600 neighbours: their spread is 0.02 each, and so is that of two builds
    store.close()


@pytest.mark.slow
def test_binary_vectors_are_imported_too(local, tmp_path):
    bits = np.packbits(CORPUS > 0, axis=1)
    store, _ = filled(tmp_path, FLAT(), rows=bits, vector_type="binary")
    answer = store.search(bits[:20], 1, {})
    assert (bits[answer[:, 0]] == bits[:20]).all(), "each finds itself, or one like it"
    store.close()


def test_what_the_server_cannot_import_is_said_in_its_words_and_leaves_no_file(local, tmp_path):
    store = MilvusLocal(insert_by="bulk_import")
    store.open(tmp_path)
    store.create("wrong", dim=DIM, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match=r"import into harness_wrong_\w+ failed: .*(dimension|row count|field)"):
        store._bulk.take(store._collection, {"id": np.arange(5), "vector": CORPUS[:5, :8].copy()})
    assert files(store) == []
    store.close()


def test_a_server_by_its_address_imports_from_a_folder_that_both_see(local, tmp_path):
    folder = local._shared.server.folder / "data" / "shared"
    store = Milvus(uri=local.uri, insert_by="bulk_import", bulk_folder=str(folder))
    store.open(tmp_path)
    store.create("far", dim=DIM, metric="l2", index=FLAT())
    assert store.largest_insert == ROWS
    store.insert(CORPUS, 0)
    store.build()
    assert store.wait_ready(rows=COUNT, deadline_s=120).rows == COUNT
    assert recall(store.search(QUERIES, K, {}), QUERIES, CORPUS, "l2") == 1.0
    store.close()


def test_a_folder_that_the_server_does_not_see_is_an_error(local, tmp_path):
    store = Milvus(uri=local.uri, insert_by="bulk_import", bulk_folder="/proc/none/of/ours")
    store.open(tmp_path)
    store.create("nowhere", dim=DIM, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match="cannot write the files"):
        store.insert(CORPUS, 0)
    store.close()


def test_wrong_rows_are_refused_before_any_file_is_written(local, tmp_path):
    store = MilvusLocal(insert_by="bulk_import")
    store.open(tmp_path)
    store.create("rows", dim=DIM, metric="l2", index=FLAT())
    bad = CORPUS[:5].copy()
    bad[2, 3] = np.nan
    with pytest.raises(StoreError, match="row"):
        store.insert(bad, 0)
    assert files(store) == []
    store.close()


def test_an_import_needs_its_folder_and_a_folder_an_import():
    for settings in ({"insert_by": "bulk_import"}, {"bulk_folder": "/data"}):
        with pytest.raises(SettingsError, match="go together"):
            Milvus(**settings)
    with pytest.raises(SettingsError, match=r"store\.insert_by must be one of requests, bulk_import, got 'bulk'"):
        MilvusLocal(insert_by="bulk")
    assert MilvusLocal().largest_insert == 1_000


@pytest.mark.parametrize(("vector_type", "index"), [("fp16", FLAT()), ("bf16", FLAT()), ("fp32", FLAT())])
def test_vector_types_that_no_import_was_seen_with_are_refused_beforehand(vector_type, index):
    found = MilvusLocal(insert_by="bulk_import").violations(index=index, metric="l2", dim=DIM, rows=COUNT, k=[K], vector_type=vector_type)
    assert any("insert_by=bulk_import" in one and vector_type in one for one in found) == (vector_type != "fp32")
    by_requests = MilvusLocal().violations(index=index, metric="l2", dim=DIM, rows=COUNT, k=[K], vector_type=vector_type)
    assert not any("bulk_import" in one for one in by_requests)
