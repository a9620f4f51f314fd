"""What can happen to a server, done to a real one: each ends soon, in a StoreError that says what; nothing of a user's is touched."""

import dataclasses
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from harness.errors import StoreError
from stores.index import AUTOINDEX, DISKANN, FLAT, HNSW
from stores.milvus import Milvus
from stores.milvus_local import MilvusLocal
from stores.milvus_server import package_version, unpacked
from stores.zilliz import Zilliz
from tests.stores.oracle import hard_rows, recall

ROWS, DIM, K = 1_500, 32, 10
CORPUS, QUERIES = hard_rows(ROWS, DIM, 1), hard_rows(20, DIM, 2)


@contextmanager
def within(seconds):
    """The deadline of a failure: generous for a busy machine, far below what retries would take."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def server_of(store):
    return store._shared.server


def milvus_at(uri, **options):
    store = Milvus(uri=uri, **options)
    return store


@pytest.fixture
def doomed(local, monkeypatch, tmp_path):
    """A store on a server that nobody else uses, to be killed."""
    monkeypatch.setattr("stores.milvus_local._SHARED", [])
    store = MilvusLocal(timeout_s=20)
    store.open(tmp_path)
    assert server_of(store) is not server_of(local)
    yield store
    store.close()
    assert not list(tmp_path.iterdir()), "what a dead server leaves behind is cleared up all the same"


def keep_inserting(store):
    for first in range(0, 10**9, ROWS):
        store.insert(CORPUS, first)


def keep_searching(store):
    while True:
        store.search(QUERIES[:1], K, {})


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# ------------------------------------------------------------------------------------ at the start


def test_a_server_that_is_down_is_told_at_once_with_what_to_do(tmp_path):
    port = free_port()
    with within(5), pytest.raises(StoreError, match=rf"nobody answers at localhost:{port} .*start the server or set store\.uri"):
        milvus_at(f"http://localhost:{port}").open(tmp_path)


def test_a_host_without_a_name_is_told(tmp_path):
    with within(20), pytest.raises(StoreError, match=r"nobody answers at no-such-host.invalid:19530"):
        milvus_at("http://no-such-host.invalid:19530").open(tmp_path)


def test_a_server_that_is_none_of_milvus_is_told(tmp_path):
    import http.server

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with within(30), pytest.raises(StoreError, match=r"not as a Milvus server .*check store.uri"):
            milvus_at(f"http://127.0.0.1:{other.server_address[1]}").open(tmp_path)
        other.shutdown()


@pytest.mark.parametrize("token", ["", "root:wrong", "user-without-password"])
def test_a_wrong_token_is_told_and_not_shown(guarded, tmp_path, monkeypatch, token):
    monkeypatch.setenv("MILVUS_TOKEN", token)
    with within(20), pytest.raises(StoreError, match=r"refused the login .*\$MILVUS_TOKEN") as told:
        milvus_at(guarded.uri).open(tmp_path)
    assert token == "" or token not in str(told.value)


def test_user_and_password_and_token_are_let_in(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
    store = milvus_at(guarded.uri)
    store.open(tmp_path)
    assert "Milvus" not in store.endpoint()
    store.close()
    monkeypatch.delenv("MILVUS_TOKEN")
    monkeypatch.setenv("MILVUS_USER", "root")
    monkeypatch.setenv("MILVUS_PASSWORD", "Milvus")
    store.open(tmp_path)
    assert store.version() == "milvus 2.3.5-lite"
    store.close()


def test_a_database_that_is_not_there_is_told(local, tmp_path):
    with within(20), pytest.raises(StoreError, match=r"has no database nowhere; create it or set store.database"):
        milvus_at(server_of(local).uri, database="nowhere").open(tmp_path)


def test_tls_towards_a_server_without_it_is_told(local, tmp_path):
    uri = server_of(local).uri.replace("http:", "https:")
    with within(30), pytest.raises(StoreError, match=r"does not speak TLS as wanted .*check store\.uri"):
        milvus_at(uri).open(tmp_path)


def test_a_certificate_that_nobody_vouches_for_is_told(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not there to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-nodes", "-subj", "/CN=localhost", "-days", "1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                plain, _ = listening.accept()
                with plain, context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(1)
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    with within(30), pytest.raises(StoreError, match=r"self-signed certificate.*store.ca_file"):
        milvus_at(f"https://localhost:{listening.getsockname()[1]}").open(tmp_path)
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_a_file_that_is_not_there_is_told(local, tmp_path):
    uri = server_of(local).uri.replace("http:", "https:")
    with within(20), pytest.raises(StoreError, match=r"none.pem.*check store\.ca_file"):
        milvus_at(uri, ca_file=str(tmp_path / "none.pem")).open(tmp_path)


# ------------------------------------------------------------------------------- killed in the midst


def test_killed_while_inserting(doomed):
    doomed.create("killed", dim=DIM, metric="l2", index=FLAT())
    threading.Timer(0.3, os.kill, (server_of(doomed).pid, signal.SIGKILL)).start()
    with within(30), pytest.raises(StoreError, match=r"could not insert \d+ rows .*the server ended \(killed by SIGKILL\)"):
        keep_inserting(doomed)


def test_killed_while_building(doomed):
    doomed.create("killed", dim=DIM, metric="l2", index=HNSW())
    doomed.insert(CORPUS, 0)
    doomed.build()
    os.kill(server_of(doomed).pid, signal.SIGKILL)
    with within(30), pytest.raises(StoreError, match=r"could not become ready: the server ended \(killed by SIGKILL\)"):
        doomed.wait_ready(rows=ROWS, deadline_s=60)
    with within(30), pytest.raises(StoreError, match=r"could not build|could not flush"):
        doomed.build()


def test_killed_and_hung_while_searching(doomed):
    doomed.create("killed", dim=DIM, metric="l2", index=FLAT())
    doomed.insert(CORPUS, 0)
    doomed.build()
    doomed.wait_ready(rows=ROWS, deadline_s=60)
    hasty = MilvusLocal(timeout_s=1)
    hasty.attach(doomed.endpoint(), "killed", dim=DIM, metric="l2", index=FLAT())
    os.kill(server_of(doomed).pid, signal.SIGSTOP)
    with within(10), pytest.raises(StoreError, match=r"did not answer within store\.timeout_s=1 s"):
        hasty.search(QUERIES[:1], K, {})
    os.kill(server_of(doomed).pid, signal.SIGCONT)
    assert doomed.search(QUERIES[:1], K, {}).shape == (1, K)
    threading.Timer(0.3, os.kill, (server_of(doomed).pid, signal.SIGKILL)).start()
    with within(30), pytest.raises(StoreError, match=r"could not search: the server ended \(killed by SIGKILL\)"):
        keep_searching(doomed)
    with within(30), pytest.raises(StoreError, match="could not search: the server is gone"):
        hasty.search(QUERIES[:1], K, {})
    hasty.close()


def test_a_server_that_cannot_write_says_so_and_leaves_nothing(local, monkeypatch, tmp_path):
    """A disk that is full, as a process without leave to write large files sees it."""
    monkeypatch.setattr("stores.milvus_local._SHARED", [])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with within(90), pytest.raises(StoreError, match=r"the server ended while it started .* its log: "):
            MilvusLocal().open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_no_room_to_unpack_the_server_is_told_with_what_to_do(local, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with within(60), pytest.raises(StoreError, match=r"cannot be unpacked .*make room or set HARNESS_CACHE"):
            unpacked(tmp_path, package_version())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


# ------------------------------------------------------------------------------------ never ready


def test_an_index_that_is_never_built_ends_at_the_deadline_with_what_is_pending(local, tmp_path):
    store = milvus_at(server_of(local).uri)
    store.open(tmp_path)
    store.create("never", dim=DIM, metric="l2", index=DISKANN())
    store.insert(CORPUS, 0)
    store.build()
    with within(30), pytest.raises(StoreError, match=rf"not ready after 3 s: its index is InProgress, {ROWS} of {ROWS} rows are pending"):
        store.wait_ready(rows=ROWS, deadline_s=3)
    with pytest.raises(StoreError, match="before"):
        store.search(QUERIES, K, {})
    store.close()


@dataclasses.dataclass(frozen=True)
class Misspelt(HNSW):
    """An index that the server accepts and cannot build."""

    def build_params(self):
        return {"nlist": 16, "with_raw_data": "True"}

    family = "SCANN"


def test_why_an_index_is_never_built_is_read_from_the_servers_log(local, tmp_path):
    store = MilvusLocal()
    store.open(tmp_path)
    store.create("misspelt", dim=DIM, metric="l2", index=Misspelt())
    store.insert(CORPUS, 0)
    store.build()
    with within(60), pytest.raises(StoreError, match="type conflict in json"):
        store.wait_ready(rows=ROWS, deadline_s=12)
    store.close()


def test_what_this_version_lacks_is_refused_before_any_work(local, tmp_path):
    store = milvus_at(server_of(local).uri)
    index = HNSW()
    assert store.violations(index=index, metric="l2", dim=DIM, rows=ROWS, k=[K], vector_type="int8") == []
    store.open(tmp_path)
    with pytest.raises(StoreError, match=r"has no vector_type int8; it has fp32, binary .*\(milvus 2\.3\.5"):
        store.create("lacking", dim=DIM, metric="l2", index=index, vector_type="int8")
    assert not any("lacking" in name for name in store._connection._client.list_collections())
    store.close()


# ------------------------------------------------------------------------------- other people's things


@pytest.fixture(scope="module")
def theirs(local):
    """A user's own collection with two rows."""
    client = MilvusClient(server_of(local).uri, dedicated=True)
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    yield lambda name: (client.create_collection(name, schema=schema), client)[1]
    for name in client.list_collections():
        if "theirs" in name:
            client.drop_collection(name)
    client.close()


def test_a_collection_that_is_there_is_left_as_it_is(local, tmp_path, theirs, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "theirs")
    client = theirs("harness_rows_theirs")
    client.insert("harness_rows_theirs", [{"id": i, "vector": [1.0, 2.0, 3.0, float(i)]} for i in range(2)])
    store = milvus_at(server_of(local).uri)
    store.open(tmp_path)
    with pytest.raises(StoreError, match="has a collection harness_rows_theirs already, which is left as it is"):
        store.create("rows", dim=DIM, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match="create one first"):
        store.drop()
    store.close()
    client.flush("harness_rows_theirs")
    assert client.get_collection_stats("harness_rows_theirs") == {"row_count": 2}
    assert client.describe_collection("harness_rows_theirs")["fields"][1]["params"]["dim"] == 4


def test_two_harnesses_on_one_server_do_not_meet(local, tmp_path, theirs):
    client = theirs("of_a_user_theirs")
    before = set(client.list_collections())
    stores = [milvus_at(server_of(local).uri) for _ in range(2)]
    halves = [CORPUS[:700], CORPUS[700:]]
    for store, rows in zip(stores, halves, strict=True):
        store.open(tmp_path)
        store.create("bench", dim=DIM, metric="l2", index=FLAT())
        store.insert(rows, 0)
    assert len(set(client.list_collections()) - before) == 2
    for store in stores:
        store.build()
    for store, rows in zip(stores, halves, strict=True):
        store.wait_ready(rows=len(rows), deadline_s=60)
        assert recall(store.search(QUERIES, K, {}), QUERIES, rows, "l2") == 1.0
    stores[0].drop()
    stores[0].close()
    assert recall(stores[1].search(QUERIES, K, {}), QUERIES, halves[1], "l2") == 1.0
    stores[1].close()  # drops what is left of its own
    assert set(client.list_collections()) == before


# ----------------------------------------------------------------------------------- bad data


def test_rows_that_cannot_be_stored_are_refused_and_the_collection_goes_on(local, tmp_path):
    store = milvus_at(server_of(local).uri)
    store.open(tmp_path)
    store.create("bad", dim=DIM, metric="cosine", index=FLAT())
    nan, zero = CORPUS[:5].copy(), CORPUS[:5].copy()
    nan[2, 1], zero[3] = np.nan, 0
    for rows, said in ((nan, "row 2 holds NaN"), (zero, "row 3 is all zeros"), (CORPUS[:5, :-1].copy(), "must be float32 of shape")):
        with pytest.raises(StoreError, match=said):
            store.insert(rows, 0)
    duplicates = np.repeat(CORPUS[:20], 3, axis=0)
    store.insert(duplicates, 0)
    store.build()
    store.wait_ready(rows=60, deadline_s=60)
    found = store.search(CORPUS[:20], 100, {})  # k beyond the rows there are
    assert (np.sort(found[:, :3], axis=1) == np.arange(60).reshape(20, 3)).all()
    assert (np.sort(found[:, :60], axis=1) == np.arange(60)).all()
    assert (found[:, 60:] == -1).all()
    store.close()


def test_a_message_that_is_too_large_is_refused_here_and_not_by_a_broken_connection(local, tmp_path):
    store = milvus_at(server_of(local).uri)
    store.open(tmp_path)
    store.create("large", dim=1024, metric="l2", index=FLAT())
    with within(30), pytest.raises(StoreError, match="a server takes 64; insert fewer"):
        store.insert(np.ones((17_000, 1024), np.float32), 0)
    store.insert(np.ones((store.largest_insert, 1024), np.float32), 0)
    store.close()


# ------------------------------------------------------------------------------ the cloud's protocol


def test_zilliz_by_its_protocol(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv("ZILLIZ_ENDPOINT", guarded.uri)
    monkeypatch.setenv("ZILLIZ_API_KEY", "root:wrong")
    with within(20), pytest.raises(StoreError, match=r"refused the login .*\$ZILLIZ_API_KEY"):
        Zilliz().open(tmp_path)
    monkeypatch.setenv("ZILLIZ_API_KEY", "root:Milvus")
    store = Zilliz()
    store.open(tmp_path)
    store.create("cloud", dim=DIM, metric="cosine", index=AUTOINDEX(), filtered=True)
    store.insert(CORPUS, 0)
    store.build()
    assert store.wait_ready(rows=ROWS, deadline_s=60).rows == ROWS
    for params in AUTOINDEX().search_params():  # a server of one's own takes the level and does nothing with it
        assert recall(store.search(QUERIES, K, params), QUERIES, CORPUS, "cosine") > 0.8
    client = Zilliz()
    client.attach(store.endpoint(), "cloud", dim=DIM, metric="cosine", index=AUTOINDEX(), filtered=True)
    assert (client.search(QUERIES, K, {"level": 1}) >= 0).all()
    client.close()
    store.close()
