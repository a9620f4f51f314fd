from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import psutil
import pytest

from harness.errors import StoreError
from harness.interfaces import part_of
from stores.index import FLAT, HNSW, HNSW_SQ, IVF_FLAT, IVF_SQ8
from stores.milvus_lite import MilvusLite
from tests.stores.oracle import ROOT, hard_rows, recall

DIM = 24
ROWS, QUERIES = hard_rows(600, DIM, 1), hard_rows(30, DIM, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lite")


@pytest.fixture(scope="module")
def engine(folder):
    engine = MilvusLite()
    engine.open(folder)
    yield engine
    engine.close()


@pytest.fixture
def store(engine):
    yield engine
    if engine._index is not None:
        engine.drop()


def filled(store, index, metric="l2", rows=ROWS):
    store.create("c", dim=rows.shape[1], metric=metric, index=index)
    store.insert(rows, 0)
    store.build()
    return store.wait_ready(rows=len(rows), deadline_s=60)


def index_file(folder):
    (path,) = folder.rglob("*.idx")
    return faiss.read_index(str(path))


@pytest.mark.parametrize("family", [HNSW, HNSW_SQ])
@pytest.mark.parametrize(("M", "ef_construction"), [(5, 33), (24, 77)])
def test_the_graph_is_built_with_the_parameters_asked_for(store, folder, family, M, ef_construction):
    filled(store, family(M=M, ef_construction=ef_construction))
    built = index_file(folder)
    assert built.hnsw.efConstruction == ef_construction
    assert [built.hnsw.nb_neighbors(layer) for layer in (0, 1)] == [2 * M, M]


@pytest.mark.parametrize("family", [IVF_FLAT, IVF_SQ8])
def test_the_cells_are_as_many_as_asked_for(store, folder, family):
    filled(store, family(nlist=7, nprobe=[1, 7]))
    assert index_file(folder).nlist == 7


@pytest.mark.parametrize(
    ("metric", "code"), [("l2", faiss.METRIC_L2), ("ip", faiss.METRIC_INNER_PRODUCT), ("cosine", faiss.METRIC_INNER_PRODUCT)]
)
def test_the_metric_reaches_the_index(store, folder, metric, code):
    filled(store, HNSW(), metric)
    assert index_file(folder).metric_type == code


def test_the_engine_answers_as_faiss_does_with_the_same_cells(store, folder):
    filled(store, IVF_FLAT(nlist=20, nprobe=[3]))
    index = index_file(folder)
    index.nprobe = 3
    assert (store.search(QUERIES, 5, {"nprobe": 3}) == index.search(QUERIES, 5)[1]).all()


def test_the_engine_answers_as_faiss_does_with_the_same_graph(store, folder):
    filled(store, HNSW(M=4, ef_construction=10, ef=[5]))
    index = index_file(folder)
    for ef in (5, 40):
        index.hnsw.efSearch = ef
        assert (store.search(QUERIES, 5, {"ef": ef}) == index.search(QUERIES, 5)[1]).all()
    assert recall(store.search(QUERIES, 5, {"ef": 5}), QUERIES, ROWS, "l2") < 0.9


def test_parameters_that_the_engine_lost_are_not_ready(store, monkeypatch):
    """pymilvus 3.0 alone sends them where Lite 3.2 does not look; a later pair of versions might again."""
    from pymilvus.milvus_client.index import IndexParams

    add = IndexParams.add_index

    def without_the_nested_ones(self, *args, params, **kwargs):
        add(self, *args, params={name: value for name, value in params.items() if name != "params"}, **kwargs)

    monkeypatch.setattr(IndexParams, "add_index", without_the_nested_ones)
    store.create("c", dim=DIM, metric="l2", index=IVF_FLAT(nlist=7, nprobe=[7]))
    store.insert(ROWS, 0)
    store.build()
    with pytest.raises(StoreError, match=r"its index is .*'params': \{\}.*, not .*'nlist': 7"):
        store.wait_ready(rows=len(ROWS), deadline_s=0.05)


def test_rows_inserted_after_ready_have_to_be_proven_again(store):
    filled(store, HNSW())
    store.insert(ROWS[:10], len(ROWS))
    with pytest.raises(StoreError, match="before wait_ready"):
        store.search(QUERIES, 5, {"ef": 10})
    with pytest.raises(StoreError, match="10 rows are not in a segment yet"):
        store.wait_ready(rows=len(ROWS) + 10, deadline_s=0.05)


def test_building_does_not_wait_for_the_clients_half_second(store, monkeypatch):
    store.create("c", dim=DIM, metric="l2", index=HNSW())
    store.insert(ROWS, 0)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    store.build()
    assert slept == []


def test_queries_side_by_side_get_the_answers_that_they_get_in_turn(store):
    filled(store, HNSW())
    expected = [store.search(query[None], 5, {"ef": 20}) for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda query: store.search(query[None], 5, {"ef": 20}), QUERIES))
            assert (np.array(found) == np.array(expected)).all()


def test_a_row_number_may_come_from_numpy(store):
    store.create("c", dim=DIM, metric="l2", index=FLAT())
    store.insert(ROWS, np.int64(0))
    store.build()
    assert store.wait_ready(rows=len(ROWS), deadline_s=60).rows == len(ROWS)


def test_only_eight_bits_of_scalar_quantisation_exist(store):
    assert store.violations(index=HNSW_SQ(sq_type="SQ6"), metric="l2", dim=DIM, rows=600, k=[10]) == [
        "store=milvus_lite has no index.sq_type SQ6; it has SQ8"
    ]


def test_a_large_batch_of_l2_queries_is_split_and_answered_the_same(store, monkeypatch):
    monkeypatch.setattr("stores.milvus_lite.DIFFERENCES_BYTES", 4 * DIM * len(ROWS) * 7)
    filled(store, FLAT())
    assert store._queries_at_once == 7
    assert recall(store.search(QUERIES, 5, {}), QUERIES, ROWS, "l2") == 1.0


def test_a_collection_that_exists_is_refused_in_one_message(store, capfd):
    store.create("c", dim=DIM, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match=r"^store=milvus_lite could not create collection c: collection 'c' already exists$"):
        store.create("c", dim=DIM, metric="l2", index=FLAT())
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["", "../x", "a b", "1a", "ä", "a" * 256])
def test_a_name_that_could_leave_the_folder_is_refused(store, name):
    with pytest.raises(StoreError, match="a collection's name"):
        store.create(name, dim=DIM, metric="l2", index=FLAT())


def test_a_request_larger_than_the_engine_takes_is_an_error_of_the_store(store):
    store.create("c", dim=32_768, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match=r"could not insert 2100 rows: .*larger than max"):
        store.insert(np.ones((2_100, 32_768), np.float32), 0)


def test_opening_twice_is_refused(store, folder):
    with pytest.raises(StoreError, match="open already"):
        store.open(folder)


def held():
    """Threads of Python, sockets and open files that this process holds."""
    process = psutil.Process()
    threads = {thread.ident for thread in threading.enumerate()}
    sockets = {(each.laddr, each.status) for each in process.net_connections() if each.status != psutil.CONN_TIME_WAIT}
    return threads, sockets, {each.path for each in process.open_files()}


def test_close_leaves_no_thread_socket_file_or_lock_behind(tmp_path):
    descriptors = []
    for _ in range(4):
        before = held()
        store = MilvusLite()
        store.open(tmp_path)
        filled(store, HNSW())
        assert all(now - then for now, then in zip(held(), before, strict=True))
        store.drop()
        store.close()
        deadline = time.monotonic() + 10
        while any(now - then for now, then in zip(held(), before, strict=True)) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)
        assert [now - then for now, then in zip(held(), before, strict=True)] == [set(), set(), set()]
        descriptors.append(psutil.Process().num_fds())
    assert descriptors[-1] <= descriptors[1]


def run(code, folder, **environment):
    """Run Python in an interpreter of its own, at home and at work in `folder`."""
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=settings, capture_output=True, text=True, timeout=120, check=False)


CYCLE = """
from pathlib import Path
import numpy as np
from stores.index import HNSW
from stores.milvus_lite import MilvusLite
def cycle(folder):
    folder.mkdir(); store = MilvusLite(); store.open(folder)
    rows = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)
    store.create("c", dim=8, metric="l2", index=HNSW()); store.insert(rows, 0); store.build(); store.wait_ready(rows=200, deadline_s=60)
    assert (store.search(rows, 1, {"ef": 50})[:, 0] == range(200)).mean() > 0.95
    store.close()
"""


def test_a_process_forked_after_the_imports_can_use_it_and_writes_only_below_its_folder(tmp_path):
    code = (
        "import os, pymilvus, faiss, milvus_lite.server_manager\n"
        + CYCLE
        + "child = os.fork()\n"
        + "if not child:\n    cycle(Path('child')); os._exit(0)\n"
        + "assert os.waitpid(child, 0)[1] == 0\n"
        + "cycle(Path('parent'))\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"child", "parent"}


def test_construction_and_the_package_import_nothing_heavy(tmp_path):
    code = """
import sys
import stores.exact, stores.index, stores.milvus_lite, stores.milvus_params
stores.milvus_lite.MilvusLite().violations(index=stores.index.HNSW(), metric="l2", dim=4, rows=9, k=[1])
print([name for name in ("pymilvus", "milvus_lite", "grpc", "faiss", "pandas", "torch", "scipy") if name in sys.modules])
"""
    assert run(code, tmp_path).stdout.strip() == "[]"


def test_many_segments_and_their_merges_are_waited_for(tmp_path):
    """With segments of 200 kB the engine flushes while rows arrive and merges what it flushed in the background."""
    code = """
import json
from pathlib import Path
import numpy as np
from stores.index import FLAT, HNSW, IVF_FLAT
from stores.milvus_lite import MilvusLite
rows = np.random.default_rng(0).standard_normal((4000, 64), dtype=np.float32); queries = rows[:50] + np.float32(0.1)
expected = np.argsort(((queries[:, None] - rows) ** 2).sum(-1), axis=1)[:, :10]
store = MilvusLite(); store.open(Path()); found = {}
for index in (FLAT(), HNSW(ef=(300,)), IVF_FLAT(nlist=16, nprobe=(16,))):
    store.create("c", dim=64, metric="l2", index=index)
    for start in range(0, 4000, 250):
        store.insert(rows[start : start + 250], start)
    store.build(); ready = store.wait_ready(rows=4000, deadline_s=60)
    answer = store.search(queries, 10, index.search_params()[0])
    sizes = [int(size) for size in ready.detail.split(":")[1].split(",")]
    found[index.family] = [ready.segments, sizes, np.mean([len(set(a) & set(b)) for a, b in zip(answer.tolist(), expected.tolist())]) / 10]
    assert store.index_bytes() >= 4000 * 64 * 4
    store.drop()
store.close(); print(json.dumps(found))
"""
    done = run(code, tmp_path, MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES="200000")
    assert done.returncode == 0, done.stderr
    for family, (segments, sizes, share) in json.loads(done.stdout.splitlines()[-1]).items():
        assert segments == len(sizes) >= 2
        assert max(sizes) >= 3_000, "nothing was merged"
        assert sum(sizes) == 4_000
        assert share > 0.95 if family == "HNSW" else share == 1.0


@pytest.mark.parametrize("below", [1, 10, 100, 500])
def test_a_filter_finds_what_brute_force_finds_among_the_rows_that_pass(store, below):
    allowed = np.flatnonzero(part_of(np.arange(len(ROWS))) < below)
    nearest = np.argsort(np.square(QUERIES[:, None] - ROWS[allowed]).sum(axis=2), axis=1)[:, :10]
    for index, params in ((FLAT(), {}), (IVF_FLAT(nlist=8, nprobe=(8,)), {"nprobe": 8})):
        store.create("filtered", dim=ROWS.shape[1], metric="l2", index=index, filtered=True)
        store.insert(ROWS, 0)
        store.build()
        store.wait_ready(rows=len(ROWS), deadline_s=60)
        found = store.search(QUERIES, 10, params, below=below)
        assert (found[:, : nearest.shape[1]] == allowed[nearest]).all()
        assert (found[:, nearest.shape[1] :] == -1).all()
        assert (store.search(QUERIES, 10, params) == store.search(QUERIES, 10, params, below=1000)).all()
        store.drop()


def test_a_filter_needs_a_collection_with_the_field(store):
    filled(store, FLAT())
    with pytest.raises(StoreError, match="without the field"):
        store.search(QUERIES[:1], 1, {}, below=5)


@pytest.mark.slow
def test_a_collection_that_nobody_has_asked_for_a_while_still_answers(tmp_path):
    store = MilvusLite()
    (tmp_path / "idle").mkdir()
    store.open(tmp_path / "idle")
    store.create("idle", dim=4, metric="l2", index=FLAT())
    store.insert(np.eye(4, dtype=np.float32), 0)
    store.build()
    store.wait_ready(rows=4, deadline_s=30)
    time.sleep(60)
    assert store.search(np.eye(4, dtype=np.float32)[:1], 1, {}).tolist() == [[0]]
    store.drop()
    store.close()
