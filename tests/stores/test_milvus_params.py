from __future__ import annotations

from stores.index import HNSW, HNSW_SQ, IVF_FLAT
from stores.milvus_params import METRIC_TYPES, milvus_params
from stores.vectors import METRICS


def test_build_parameters_are_spelled_as_milvus_does():
    assert milvus_params(HNSW(M=8, ef_construction=9).build_params()) == {"M": 8, "efConstruction": 9}
    assert milvus_params(HNSW_SQ().build_params())["sq_type"] == "SQ8"
    assert milvus_params(IVF_FLAT(nlist=70).build_params()) == {"nlist": 70}


def test_search_parameters_are_spelled_as_milvus_does():
    assert milvus_params({"ef": 10, "nprobe": 4}) == {"ef": 10, "nprobe": 4}


def test_every_metric_has_a_milvus_name():
    assert set(METRIC_TYPES) == set(METRICS)
