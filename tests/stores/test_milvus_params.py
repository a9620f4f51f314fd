from __future__ import annotations

from stores.index import HNSW, HNSW_SQ, IVF_FLAT, IVF_RABITQ
from stores.milvus_params import METRIC_TYPES, index_type, metric_type, milvus_params
from stores.vectors import METRICS


def test_build_parameters_are_spelled_as_milvus_does():
    assert milvus_params(HNSW(M=8, ef_construction=9).build_params()) == {"M": 8, "efConstruction": 9}
    assert milvus_params(HNSW_SQ().build_params())["sq_type"] == "SQ8"
    assert milvus_params(IVF_FLAT(nlist=70).build_params()) == {"nlist": 70}


def test_truth_values_are_lower_case_for_a_server_accepts_and_never_builds_anything_else():
    assert milvus_params(IVF_RABITQ(refine=True).build_params())["refine"] == "true"


def test_search_parameters_are_spelled_as_milvus_does():
    assert milvus_params({"ef": 10, "nprobe": 4}) == {"ef": 10, "nprobe": 4}


def test_every_metric_has_a_milvus_name():
    assert set(METRIC_TYPES) == set(METRICS)


def test_binary_rows_have_families_and_a_metric_of_their_own():
    assert [index_type(family, "binary") for family in ("FLAT", "IVF_FLAT")] == ["BIN_FLAT", "BIN_IVF_FLAT"]
    assert {metric_type(metric, "binary") for metric in METRICS} == {"HAMMING"}
    assert (index_type("FLAT", "fp16"), metric_type("ip", "int8")) == ("FLAT", "IP")
