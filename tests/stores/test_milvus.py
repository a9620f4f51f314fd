"""What needs no server: settings, what each version has, and what of a server's words is read how."""

import math

import pytest
from pymilvus.grpc_gen import common_pb2

from harness.errors import SettingsError
from stores.index import AUTOINDEX, DISKANN, FLAT, GPU_CAGRA, HNSW, HNSW_PQ, IVF_FLAT, IVF_PQ, IVF_RABITQ
from stores.milvus import Milvus, _described, _named, _same
from stores.milvus_local import MilvusLocal


def of_version(version):
    """A store whose server has told its version."""
    store = Milvus()
    store._version = version
    return store


def refused(store, index, *, vector_type="fp32", dim=16, k=(10,)):
    return store.violations(index=index, metric="l2", dim=dim, rows=5_000, k=list(k), vector_type=vector_type)


def test_all_settings_that_are_wrong_are_named_at_once():
    with pytest.raises(SettingsError) as told:
        Milvus(
            uri="localhost:19530", consistency="strong", shards=0, replicas=True, timeout_s=math.nan, database=3, client_cert_file="a.pem"
        )
    keys = (
        "store.uri",
        "store.consistency",
        "store.shards",
        "store.replicas",
        "store.timeout_s",
        "store.database",
        "store.client_cert_file",
    )
    assert len(told.value.violations) == len(keys)
    assert all(any(text.startswith(key) for text in told.value.violations) for key in keys)


@pytest.mark.parametrize("uri", ["http://root:Milvus@host:19530", "http://key@host", "https://root:Milvus@host/path", "root:Milvus@host"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri):
    with pytest.raises(SettingsError, match=r"store\.uri") as told:
        Milvus(uri=uri)
    assert "Milvus@" not in str(told.value)
    assert "key" not in str(told.value)


def test_settings_of_a_local_server_are_checked_alike():
    with pytest.raises(SettingsError, match=r"store\.consistency must be one of Strong, Bounded"):
        MilvusLocal(consistency="none")


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("v2.3.5-lite", [FLAT(), DISKANN()], [GPU_CAGRA(), HNSW_PQ(m=8), IVF_RABITQ()]),
        ("v2.4.0", [GPU_CAGRA()], [HNSW_PQ(m=8), IVF_RABITQ()]),
        ("2.5.14", [GPU_CAGRA(), HNSW_PQ(m=8)], [IVF_RABITQ()]),
        ("v2.6.0-rc1", [HNSW_PQ(m=8), IVF_RABITQ()], [AUTOINDEX()]),
        ("3.1", [IVF_RABITQ()], [AUTOINDEX()]),
        ("a build of one's own", [IVF_RABITQ()], [AUTOINDEX()]),
    ],
)
def test_families_are_those_of_the_servers_version(version, has, lacks):
    store = of_version(version)
    assert [refused(store, index) for index in has] == [[]] * len(has)
    for index in lacks:
        (message,) = refused(store, index)
        assert message == f"store=milvus has no index {index.family}; it has {', '.join(store.families)}"


def test_before_the_version_is_known_all_that_any_has_may_be_asked_for():
    assert refused(Milvus(), IVF_RABITQ()) == []
    assert Milvus().vector_types == ("fp32", "binary", "fp16", "bf16", "int8")


@pytest.mark.parametrize(("version", "types"), [("2.3", 2), ("2.4", 4), ("2.5", 4), ("2.6", 5)])
def test_vector_types_are_those_of_the_servers_version(version, types):
    assert len(of_version(version).vector_types) == types


def test_some_families_take_some_vector_types_only():
    store = Milvus()
    assert refused(store, HNSW(), vector_type="int8") == []
    assert refused(store, FLAT(), vector_type="binary") == refused(store, IVF_FLAT(nlist=8, nprobe=(1,)), vector_type="binary") == []
    assert refused(store, FLAT(), vector_type="int8") == ["store=milvus has no index FLAT for vector_type=int8; it has HNSW"]
    assert refused(store, HNSW(), vector_type="binary") == ["store=milvus has no index HNSW for vector_type=binary; it has FLAT, IVF_FLAT"]
    assert refused(store, GPU_CAGRA(), vector_type="fp16") == ["store=milvus has GPU_CAGRA for vector_type=fp32 only, got fp16"]


def test_limits_of_every_server_are_refused_before_it_is_asked():
    assert refused(Milvus(), FLAT(), dim=1) == ["store=milvus: dim must be in [2, 32768], got 1"]
    assert refused(Milvus(), FLAT(), dim=32_769) == ["store=milvus: dim must be in [2, 32768], got 32769"]
    assert refused(Milvus(), FLAT(), k=(10, 16_385)) == ["store=milvus: k must be <= 16384, got 16385"]
    assert refused(Milvus(), FLAT(), k=(16_384,), dim=32_768) == []


def test_names_on_the_server_are_the_harnesss_own():
    assert _named("bench", "a1") == _named("harness_bench", "a1") == "harness_bench_a1"


def pairs(**params):
    return [common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()]


def test_an_index_is_read_from_either_form_in_which_servers_describe_it():
    flat = _described(pairs(index_type="HNSW", metric_type="L2", M="8", efConstruction="60"))
    nested = _described(pairs(index_type="HNSW", metric_type="L2", params='{"M": 8, "efConstruction": 60}'))
    assert flat == nested == {"index_type": "HNSW", "metric_type": "L2", "M": "8", "efConstruction": "60"}


@pytest.mark.parametrize(
    ("has", "asked", "same"),
    [
        ("8", 8, True),
        ("8.0", 8, True),
        ("9", 8, False),
        ("true", "true", True),
        ("True", "true", True),
        (None, 8, False),
        ("SQ8", "SQ6", False),
    ],
)
def test_values_are_compared_by_what_they_mean(has, asked, same):
    assert _same(has, asked) is same


def test_who_a_server_is_is_asked_quickly_and_is_nothing_where_nobody_answers():
    assert Milvus(uri="http://127.0.0.1:9").identity() is None


def test_a_filtered_search_that_old_servers_answer_wrongly_is_refused_once_the_version_is_known():
    about = {"index": IVF_PQ(m=8), "metric": "l2", "dim": 16, "rows": 5_000, "k": [10]}
    for version, refuses in (("v2.3.5", True), ("2.3.21", True), ("v2.4.0", False), ("2.6.1", False), ("", False)):
        assert bool(of_version(version).violations(**about, filtered=True)) is refuses, version
        assert of_version(version).violations(**about) == []
