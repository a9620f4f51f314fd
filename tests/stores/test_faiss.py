"""FAISS as a store, against FAISS called directly and brute force; what every store keeps is in `test_contract`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from harness.errors import StoreError
from harness.interfaces import part_of
from stores.faiss import Faiss
from stores.index import FLAT, HNSW, HNSW_PQ, HNSW_SQ, IVF_FLAT, IVF_PQ, IVF_RABITQ, IVF_SQ8, SCANN
from stores.milvus_lite import MilvusLite
from tests.stores.oracle import ROOT, hard_rows, recall

DATA = Path(os.environ.get("HARNESS_DATA", ROOT.parent / "shared/data"))
ROWS, DIM, K = 2_000, 32, 10
CORPUS, QUERIES = hard_rows(ROWS, DIM, 11), hard_rows(50, DIM, 12)


def filled(index, *, metric="l2", vector_type="fp32", rows=CORPUS):
    store = Faiss()
    store.open(Path())
    dim = rows.shape[1] * (8 if vector_type == "binary" else 1)
    store.create("c", dim=dim, metric=metric, index=index, vector_type=vector_type)
    store.insert(rows, 0)
    store.build()
    store.wait_ready(rows=len(rows), deadline_s=1)
    return store


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On several threads a graph's links differ from build to build."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("ef", [10, 40, 200])
def test_hnsw_answers_as_the_library_called_directly(ef):
    graph = faiss.IndexHNSWFlat(DIM, 12)
    graph.hnsw.efConstruction = 50
    graph.add(CORPUS)
    graph.hnsw.efSearch = ef
    store = filled(HNSW(M=12, ef_construction=50, ef=[ef]))
    assert (store.search(QUERIES, K, {"ef": ef}) == graph.search(QUERIES, K)[1]).all()


@pytest.mark.parametrize("nprobe", [1, 5, 20])
def test_ivf_answers_as_the_library_called_directly(nprobe):
    cells = faiss.IndexFlatL2(DIM)
    direct = faiss.IndexIVFFlat(cells, DIM, 20)
    direct.train(CORPUS)
    direct.add(CORPUS)
    direct.nprobe = nprobe
    assert (filled(IVF_FLAT(nlist=20, nprobe=[nprobe])).search(QUERIES, K, {"nprobe": nprobe}) == direct.search(QUERIES, K)[1]).all()


@pytest.mark.parametrize("index", [HNSW(M=8, ef_construction=40), IVF_PQ(nlist=16, nprobe=[4], m=8), SCANN(nlist=16, nprobe=[4])])
def test_built_again_or_in_other_batches_an_index_is_the_same(index):
    whole = filled(index)
    store = Faiss()
    store.open(Path())
    store.create("c", dim=DIM, metric="l2", index=index)
    for first in range(0, ROWS, 300):
        store.insert(CORPUS[first : first + 300], first)
    store.build()
    params = index.search_params()[0]
    assert (store.search(QUERIES, K, params) == whole.search(QUERIES, K, params)).all()
    assert store.index_bytes() == whole.index_bytes()


@pytest.mark.parametrize("index", [HNSW(), HNSW_SQ(refine=True), IVF_FLAT(), SCANN(), IVF_RABITQ()], ids=lambda index: index.family)
def test_searches_side_by_side_keep_their_own_parameters(index):
    """Milvus Lite, for one, sets the knob on the index that all searches share."""
    store = filled(index)
    points = [(params, below) for params in index.search_params() for below in (None, 300)]
    alone = [store.search(QUERIES, K, params, below=below) for params, below in points]
    assert len({ids.tobytes() for ids in alone}) > 2, "the points differ"
    start = threading.Barrier(4)

    def client(number):
        start.wait()
        return all((store.search(QUERIES, K, *points[i][:1], below=points[i][1]) == alone[i]).all() for i in [number % len(points)] * 30)

    with ThreadPoolExecutor(4) as clients:
        assert all(clients.map(client, (0, 3, 4, 7)))


def test_a_search_leaves_pythons_lock_to_other_threads():
    """While FAISS computes in one call, another thread looks at the clock again and again."""
    rows = hard_rows(4_000, 256, 13)
    store, done, span = filled(FLAT(), rows=rows), threading.Event(), []

    def search():
        began = time.perf_counter()
        store.search(rows, K, {})
        span.append((began, time.perf_counter()))
        done.set()

    thread, looks = threading.Thread(target=search), []
    thread.start()
    while not done.is_set():
        looks.append(time.perf_counter())
        time.sleep(0)
    thread.join()
    ((began, ended),) = span
    inside = [began, *(look for look in looks if began < look < ended), ended]
    assert np.diff(inside).max() < 0.5 * (ended - began)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_product_quantised_rows_are_linked_so_that_they_are_found(metric):
    """With FAISS's inner product these recalls are 0.3; its links follow L2 whatever the metric."""
    index = HNSW_PQ(m=16, ef=[200])
    scanned = IVF_PQ(m=16, nlist=1, nprobe=[1])
    graph, codes = (
        recall(filled(each, metric=metric).search(QUERIES, K, each.search_params()[0]), QUERIES, CORPUS, metric)
        for each in (index, scanned)
    )
    assert graph > codes - 0.05


@pytest.mark.parametrize(
    ("index", "settings", "message"),
    [
        (HNSW_PQ(), {"metric": "ip"}, "has no HNSW_PQ for metric=ip"),
        (FLAT(), {"vector_type": "int8"}, "no cosine of int8 rows"),
        (IVF_SQ8(), {"vector_type": "bf16"}, "IVF_SQ8 compresses by itself"),
        (IVF_FLAT(), {"vector_type": "binary", "filtered": True}, "no filter for binary rows in IVF_FLAT"),
        (FLAT(), {"vector_type": "binary", "dim": 12}, "dim=12 is no multiple of 8"),
    ],
)
def test_what_faiss_would_do_wrong_is_refused_before_any_work(index, settings, message):
    (found,) = Faiss().violations(index=index, rows=ROWS, k=[K], **{"metric": "cosine", "dim": 32, **settings})
    assert message in found


def test_more_candidates_than_rows_take_no_memory_for_them():
    """FAISS reserves room for each candidate, and ends the process where there is none."""
    store = filled(HNSW(), rows=CORPUS[:300])
    every = store.search(QUERIES, K, {"ef": 300})
    assert (store.search(QUERIES, K, {"ef": 2**31 - 1}) == every).all()


def test_a_failure_of_the_library_is_a_store_error():
    store = filled(FLAT())
    with pytest.raises(StoreError, match="could not search"):
        store.search(QUERIES, 0, {})
    store.create("c", dim=DIM, metric="l2", index=IVF_FLAT(nlist=64))
    store.insert(CORPUS[:10], 0)
    with pytest.raises(StoreError, match="could not build IVF_FLAT"):
        store.build()


@pytest.mark.parametrize(
    "index", [FLAT(), HNSW(), HNSW_SQ(refine=True), IVF_FLAT(), IVF_PQ(m=8), IVF_RABITQ(), SCANN()], ids=lambda index: index.family
)
def test_index_bytes_are_those_of_the_file_that_faiss_writes(index, tmp_path):
    store = filled(index)
    faiss.write_index(store._built.whole, str(tmp_path / "index"))
    assert store.index_bytes() == (tmp_path / "index").stat().st_size


def test_distances_of_an_exhaustive_search_are_known_without_one(monkeypatch):
    store = filled(FLAT())
    monkeypatch.setattr(Faiss, "search", lambda *_, **__: pytest.fail("searched"))
    assert store.distance_computations(QUERIES, K, {}) == ROWS


def test_distances_are_counted_as_the_library_counts_them():
    assert filled(FLAT()).distance_computations(QUERIES, K, {}) == ROWS
    passing = int((part_of(np.arange(ROWS)) < 100).sum())
    assert filled(FLAT()).distance_computations(QUERIES, K, {}, below=100) == passing
    every_cell = filled(IVF_FLAT(nlist=16, nprobe=[16]))
    assert every_cell.distance_computations(QUERIES, K, {"nprobe": 16}) == ROWS + 16
    one_cell = every_cell.distance_computations(QUERIES, K, {"nprobe": 1})
    assert 16 < one_cell < ROWS / 2
    graph = filled(HNSW())
    few, many = (graph.distance_computations(QUERIES, K, {"ef": ef}) for ef in (10, 100))
    assert 10 < few < many < ROWS
    assert many == pytest.approx(np.mean([graph.distance_computations(QUERIES[i : i + 1], K, {"ef": 100}) for i in range(50)]))
    assert filled(SCANN(nlist=16, nprobe=[16])).distance_computations(QUERIES, K, {"nprobe": 16, "reorder_k": 50}) == ROWS + 16 + 50


def test_bits_are_ranked_by_hamming_distance_whatever_the_metric():
    rows, queries = np.packbits(CORPUS > 0, axis=1), np.packbits(QUERIES > 0, axis=1)
    hamming = (np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(rows, axis=1)[None]).sum(axis=2)
    nearest = np.sort(hamming, axis=1)[:, :K]
    for metric in ("cosine", "ip", "l2"):
        found = filled(FLAT(), metric=metric, vector_type="binary", rows=rows).search(queries, K, {})
        assert (np.take_along_axis(hamming, found, axis=1) == nearest).all()


def test_the_version_names_the_build_and_its_instructions():
    store = Faiss()
    store.open(Path())
    assert store.version().startswith(f"faiss-cpu {faiss.__version__} (")


def test_ready_states_the_number_of_threads():
    code = (
        "import numpy as np; from pathlib import Path; from stores.faiss import Faiss; from stores.index import FLAT\n"
        "s = Faiss(); s.open(Path()); s.create('c', dim=4, metric='l2', index=FLAT()); s.insert(np.ones((3, 4), np.float32), 0)\n"
        "s.build(); print(s.wait_ready(rows=3, deadline_s=1).detail)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "OpenMP threads: 3\n"


def test_no_advice_is_printed_while_few_rows_are_trained_on(capfd):
    for index in (IVF_FLAT(), IVF_PQ(m=8), HNSW_PQ(m=8), SCANN(), IVF_SQ8(), IVF_RABITQ()):
        filled(index, rows=CORPUS[:300])
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not (DATA / "minilm-100k.npy").exists(), reason=f"no minilm-100k.npy in {DATA}; name its folder in HARNESS_DATA")
def test_hnsw_of_faiss_and_of_milvus_find_as_much_at_the_same_settings(tmp_path):
    corpus = np.load(DATA / "minilm-100k.npy", mmap_mode="r")[:5_000].astype(np.float32)
    queries = np.load(DATA / "minilm-2k-queries.npy", mmap_mode="r")[:300].astype(np.float32)
    index = HNSW(M=8, ef_construction=40, ef=(10, 20, 50))
    found = []
    for store in (Faiss(), MilvusLite()):
        store.open(tmp_path)
        store.create("text", dim=corpus.shape[1], metric="cosine", index=index)
        for first in range(0, len(corpus), store.largest_insert):
            store.insert(corpus[first : first + store.largest_insert], first)
        store.build()
        store.wait_ready(rows=len(corpus), deadline_s=120)
        found.append([recall(store.search(queries, K, params), queries, corpus, "cosine", rtol=1e-6) for params in index.search_params()])
        store.drop()
        store.close()
    assert found[0][0] < 0.95, "settings at which the graph shows"
    assert np.abs(np.subtract(*found)).max() < 0.02, found
