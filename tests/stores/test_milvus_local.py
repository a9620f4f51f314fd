"""The real server: what it answers, what it proves, and that nothing of it is left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import psutil
import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.churn_cell import Churn
from harness.errors import StoreError
from harness.groundtruth import exact_neighbours
from harness.interfaces import LocalServer, Verified, part_of
from harness.load import Asked
from harness.quantise import Quantiser
from harness.timing import Until
from stores.index import FLAT, HNSW, IVF_FLAT, IVF_PQ
from stores.milvus import Milvus
from stores.milvus_local import MilvusLocal
from stores.milvus_server import COMPONENTS
from tests.stores import test_contract
from tests.stores.oracle import ROOT, hard_rows, recall

ROWS, DIM, K = 3_000, 32, 10
CORPUS, QUERIES = hard_rows(ROWS, DIM, 1), hard_rows(100, DIM, 2)
GRAPH = HNSW(M=8, ef_construction=60, ef=(10, 100))
START = """
import sys, time
from pathlib import Path
from stores.milvus import Milvus
from stores.milvus_local import MilvusLocal
store = MilvusLocal()
store.open(Path(sys.argv[1]))
print(store._shared.server.pid, store._shared.server._watcher.pid, store._shared.server.port, flush=True)
"""


def filled(tmp_path, rows=CORPUS, index=GRAPH, metric="l2", consistency="Bounded", **options):
    store = MilvusLocal(consistency=consistency)
    store.open(tmp_path)
    store.create("rows", dim=rows.shape[1], metric=metric, index=index, **options)
    store.insert(rows, 0)
    store.build()
    return store, store.wait_ready(rows=len(rows), deadline_s=120)


@pytest.fixture(scope="module")
def graph(local, tmp_path_factory):
    store, ready = filled(tmp_path_factory.mktemp("graph"), filtered=True)
    yield store, ready
    store.close()


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(pids, folder, within_s=15.0):
    deadline = time.monotonic() + within_s
    while (any(map(alive, pids)) or list(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids)) and not list(folder.iterdir())


def test_what_is_called_verified_is_what_the_contract_runs_on_this_version(local):
    assert isinstance(local, Verified)
    (version,) = local.verified
    assert local.version() == f"milvus {version}"
    assert local._connection._client.get_server_version().startswith(f"v{version}")
    run = {
        instantiate(OmegaConf.load(ROOT / f"conf/index/{param.values[0][1]}.yaml")).family
        for param in test_contract.supported()
        if param.values[0][0] == "milvus_local"
    }
    assert run == set(local.verified[version]) == set(local.families)


def test_readiness_says_how_many_segments_and_how_long_each_part_took(graph):
    _, ready = graph
    assert (ready.rows, ready.segments, ready.index_state) == (ROWS, 1, "Finished")
    assert f"rows by segment: {ROWS}" in ready.detail
    assert "Bounded" in ready.detail
    assert set(ready.times) == {"flush", "build", "load"}
    assert all(seconds >= 0 for seconds in ready.times.values())


def test_segments_are_merged_before_anything_is_measured(local, tmp_path):
    store = MilvusLocal()
    store.open(tmp_path)
    store.create("merged", dim=DIM, metric="l2", index=FLAT())
    for first in range(0, ROWS, 1_000):
        store.insert(CORPUS[first : first + 1_000], first)
        store.build()  # which flushes: a segment each
    assert len(store._stored()) == 3
    ready = store.wait_ready(rows=ROWS, deadline_s=120)
    assert ready.segments == 1
    assert "compact" in ready.times
    assert recall(store.search(QUERIES, K, {}), QUERIES, CORPUS, "l2") == 1.0
    store.close()


def test_recall_of_hnsw_is_that_of_faiss_with_the_same_parameters(graph):
    store, _ = graph
    peer = faiss.IndexHNSWFlat(DIM, 8)
    peer.hnsw.efConstruction = 60
    peer.add(CORPUS)
    for params in GRAPH.search_params():
        there = recall(store.search(QUERIES, K, params), QUERIES, CORPUS, "l2")
        here = recall(peer.search(QUERIES, K, params=faiss.SearchParametersHNSW(efSearch=params["ef"]))[1], QUERIES, CORPUS, "l2")
        assert there == pytest.approx(here, abs=0.04)  # 1,000 neighbours: their spread is 0.01 each


def test_a_filter_passes_the_share_of_rows_that_it_states(graph):
    store, _ = graph
    for below in (1, 10, 100, 500):
        allowed = np.flatnonzero(part_of(np.arange(ROWS)) < below)
        answer = store.search(QUERIES, len(allowed), {"ef": ROWS}, below=below)
        assert len(allowed) == pytest.approx(ROWS * below / 1000, abs=2)
        assert (np.sort(answer, axis=1) == allowed).all()


def test_a_filtered_search_that_the_server_answers_wrongly_is_refused(local):
    about = {"index": IVF_PQ(m=8), "metric": "l2", "dim": DIM, "rows": ROWS, "k": [K]}
    assert local.violations(**about) == []
    assert "wrongly" in local.violations(**about, filtered=True)[0]


def test_a_filter_needs_a_collection_with_the_field(local, tmp_path):
    store, _ = filled(tmp_path, CORPUS[:20], FLAT())
    with pytest.raises(StoreError, match="without the field"):
        store.search(QUERIES[:1], 1, {}, below=5)
    store.close()


def test_very_many_queries_are_asked_for_in_parts_and_answered_in_order(graph, monkeypatch):
    store, _ = graph
    whole = store.search(QUERIES, K, {"ef": 100})
    monkeypatch.setattr("stores.milvus.ANSWERS_AT_ONCE", 7 * K)
    assert (store.search(QUERIES, K, {"ef": 100}) == whole).all()


def test_index_parameters_that_the_server_holds_are_those_that_were_asked_for(graph):
    store, _ = graph
    described = store._connection._client.describe_index(store._collection, "vector")
    assert (described["index_type"], described["metric_type"], described["M"], described["efConstruction"]) == ("HNSW", "L2", "8", "60")
    store._index, asked = HNSW(M=9, ef_construction=60), store._index
    try:
        assert any("'M': '8'" in text for text in store._index_pending(ROWS))
    finally:
        store._index = asked


def test_another_store_attaches_to_the_collection_and_cannot_change_it(graph):
    store, _ = graph
    client = MilvusLocal()
    client.attach(store.endpoint(), "rows", dim=DIM, metric="l2", index=GRAPH, filtered=True)
    assert (client.search(QUERIES, K, {"ef": 100}) == store.search(QUERIES, K, {"ef": 100})).all()
    assert client.server_rss_bytes() is None
    for change in (lambda: client.insert(CORPUS[:1], ROWS), client.drop):
        with pytest.raises(StoreError, match="attached"):
            change()
    client.close()
    assert store.search(QUERIES[:1], K, {"ef": 100}).shape == (1, K)
    with pytest.raises(StoreError, match="missing"):
        MilvusLocal().attach(store.endpoint(), "others", dim=DIM, metric="l2", index=GRAPH)


def test_another_process_attaches_to_the_collection(graph):
    store, _ = graph
    code = (
        "import sys, numpy as np; from stores.milvus_local import MilvusLocal; from stores.index import HNSW; s = MilvusLocal();"
        f"s.attach(sys.argv[1], 'rows', dim={DIM}, metric='l2', index=HNSW(), filtered=True);"
        f"print(*s.search(np.frombuffer(bytes.fromhex(sys.argv[2]), np.float32)[None], {K}, {{'ef': 100}})[0]); s.close()"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, store.endpoint(), QUERIES[0].tobytes().hex()], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.split() == [str(number) for number in store.search(QUERIES[:1], K, {"ef": 100})[0]]


def test_stores_of_one_process_share_a_server_that_ends_with_the_last(local, tmp_path):
    server = local._shared.server
    first, second = MilvusLocal(), MilvusLocal()
    users = local._shared.users
    for store in (first, second):
        store.open(tmp_path)
        assert store._shared.server is server
    assert local._shared.users == users + 2
    first.close()
    second.close()
    assert local._shared.users == users
    assert server.exit_code is None


def test_memory_of_the_server_is_seen_to_grow_with_what_it_holds(local, tmp_path):
    assert isinstance(local, LocalServer)
    before = local.server_rss_bytes()
    rows = hard_rows(20_000, 256, 3)
    store, _ = filled(tmp_path, rows, FLAT())
    assert local.server_rss_bytes() - before > rows.nbytes / 2
    store.close()


def test_the_bytes_of_a_graph_are_its_vectors_links_and_labels(graph):
    store, _ = graph
    # hnswlib keeps of each row the vector, 2 M links of the lowest layer with their number, and a label; few rows have upper layers.
    assert store.index_bytes() == pytest.approx(ROWS * (DIM * 4 + (2 * GRAPH.M + 1) * 4 + 8), rel=0.05)
    assert store.index_bytes() > sum(file.stat().st_size for file in _files_of(store)), "files are compressed"


def _files_of(store):
    folder = store._shared.server.folder / "data" / "index_files"
    return [file for segment in store._stored() for file in folder.glob(f"*/*/*/{segment.segmentID}/*")]


def test_etcd_keeps_to_loopback_and_all_else_listens_on_every_interface_whatever_its_configuration_says(local):
    server = local._shared.server
    settings = yaml.safe_load((server.folder / "configs" / "milvus.yaml").read_text())
    assert {settings[component]["ip"] for component in COMPONENTS} == {"127.0.0.1"}
    listening = {c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    open_to_all = {address.port for address in listening if address.ip != "127.0.0.1"}
    told = {settings[component]["port"] for component in COMPONENTS} | {settings["proxy"]["internalPort"], server.web_port}
    assert open_to_all == told, "what the doctor, the option and this store's docstring warn of"
    assert len(listening) == len(told) + 2
    assert not {address.port for address in listening} & {19530, 9091, 2379, 2380}


def running(tmp_path, then):
    """Start a server in a process of its own and return that, and the numbers of the server and its watcher, once it is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + then, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    server, watcher, port = map(int, process.stdout.readline().split())
    return process, server, watcher, port


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_however_the_parent_ends_nothing_is_left_behind(local, tmp_path, how):
    process, server, watcher, port = running(tmp_path, "time.sleep(600)")
    assert alive(server)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert gone([server, watcher], tmp_path)
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_ends_with_the_one_who_watches_it(local, tmp_path):
    process, server, watcher, _ = running(tmp_path, "time.sleep(600)")
    os.kill(watcher, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while alive(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(server)
    process.kill()
    process.communicate(timeout=30)


def test_two_processes_have_servers_that_do_not_meet_and_a_forked_child_leaves_its_parents_alone(local, tmp_path):
    then = """
import os
child = os.fork()
if not child:
    store.close()
    os._exit(0)
os.waitpid(child, 0)
store.create("mine", dim=2, metric="l2", index=__import__("stores.index").index.FLAT())
print(len(store._connection._client.list_collections()), store._shared.server.exit_code, flush=True)
store.close()
print(store._shared, flush=True)
"""
    process, server, watcher, port = running(tmp_path, then)
    assert port != local._shared.server.port
    out, err = process.communicate(timeout=60)
    assert out.split() == ["1", "None", "None"], err
    assert gone([server, watcher], tmp_path)
    noted = Path("/run/milvus" if os.geteuid() == 0 else "/tmp/milvus").glob("standalone-harness-*.pid")
    assert all(psutil.pid_exists(int(path.read_text())) for path in noted), "process numbers of servers that run no more"


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("stores.milvus_server.version", absent)
    monkeypatch.setattr("stores.milvus_local._SHARED", [])
    with pytest.raises(StoreError, match=r"pip install 'embedding-search-harness\[milvus-server\]'"):
        MilvusLocal().open(tmp_path)


def test_a_cell_index_probed_whole_finds_all_under_a_filter(local, tmp_path):
    store, _ = filled(tmp_path, CORPUS, IVF_FLAT(nlist=16, nprobe=(16,)), metric="ip", filtered=True)
    allowed = np.flatnonzero(part_of(np.arange(ROWS)) < 300)
    answer = store.search(QUERIES, K, {"nprobe": 16}, below=300)
    rank = np.full(ROWS, -1)
    rank[allowed] = np.arange(len(allowed))
    assert recall(rank[answer], QUERIES, CORPUS[allowed], "ip") == 1.0
    peer = faiss.index_factory(DIM, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    peer.train(CORPUS)
    peer.add(CORPUS)
    assert store.index_bytes() == pytest.approx(faiss.serialize_index(peer).nbytes, rel=0.02)
    store.close()


def test_which_server_answers_is_told_with_its_version_and_leaves_no_connection(local):
    asked = Milvus(uri=local.uri)
    found = asked.identity()
    assert found["server"] == local.uri
    assert found["version"].startswith("milvus 2.3.5")
    assert asked.endpoint() is None
    assert MilvusLocal().identity() == {"version": "2.3.5"}


@pytest.mark.parametrize("consistency", ["Bounded", "Strong"])
def test_rows_that_come_and_go_show_in_searches_and_at_once_where_consistency_is_strong(local, tmp_path, consistency):
    store, _ = filled(tmp_path, consistency=consistency)
    truth = exact_neighbours(QUERIES, CORPUS, k=40, metric="l2")
    churn = Churn(store, CORPUS, Quantiser("fp32"), truth, upserts=0.2, seed="0")
    asked = Asked(K, {"ef": 100})
    still = recall(store.search(QUERIES, K, asked.params), QUERIES, CORPUS, "l2")
    churn.take_out(asked)
    found = churn.run(asked, 40.0, QUERIES, QUERIES, [np.arange(n, n + 10) for n in range(0, 100, 10)], Until(min_s=1.0, min_count=20))
    assert found.unseen == 0
    assert np.nanmean(found.recall) > still - 0.05
    if consistency == "Strong":
        assert found.gone == 0
    store.close()
