"""FAISS on a GPU without a GPU: what is refused, how requests are translated, and what is said where the build or the card is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

import stores.faiss_gpu
from harness.errors import StoreError
from stores.faiss_gpu import FaissGpu, constructor, search_parameters
from stores.index import FLAT, GPU_BRUTE_FORCE, GPU_CAGRA, GPU_IVF_FLAT, GPU_IVF_PQ

COMMON = {"metric": "l2", "dim": 384, "rows": 10_000}


@pytest.mark.parametrize(
    ("index", "metric", "expected"),
    [
        (GPU_BRUTE_FORCE(), "l2", ("GpuIndexFlat", (384, "METRIC_L2"), {})),
        (GPU_IVF_FLAT(nlist=100), "ip", ("GpuIndexIVFFlat", (384, 100, "METRIC_INNER_PRODUCT"), {})),
        (GPU_IVF_PQ(nlist=100, m=48), "cosine", ("GpuIndexIVFPQ", (384, 100, 48, 8, "METRIC_INNER_PRODUCT"), {})),
        (
            GPU_CAGRA(intermediate_graph_degree=128, graph_degree=64),
            "l2",
            ("GpuIndexCagra", (384, "METRIC_L2"), {"intermediate_graph_degree": 128, "graph_degree": 64}),
        ),
    ],
    ids=lambda value: getattr(value, "family", None),
)
def test_a_family_becomes_the_librarys_class_and_arguments(index, metric, expected):
    assert constructor(index, 384, metric) == expected


def test_operating_points_become_the_librarys_search_parameters():
    assert search_parameters({}) == ("", {})
    assert search_parameters(GPU_IVF_FLAT().at(4)) == ("SearchParametersIVF", {"nprobe": 4})
    assert search_parameters(GPU_CAGRA(search_width=2).at(64)) == ("SearchParametersCagra", {"itopk_size": 64, "search_width": 2})


@pytest.mark.parametrize(
    ("index", "k", "message"),
    [
        (GPU_IVF_PQ(m=96, nlist=64), 10, None),
        (GPU_IVF_PQ(m=192), 10, "index.m must be one of 1, 2, 3"),
        (GPU_IVF_PQ(nbits=6), 10, "index.nbits must be 8, got 6"),
        (GPU_IVF_FLAT(nlist=4096, nprobe=[1, 4096]), 10, "index.nprobe must be <= 2048, got 4096"),
        (GPU_BRUTE_FORCE(), 2049, "k must be <= 2048, got 2049"),
        (FLAT(), 10, "has no index FLAT; it has GPU_BRUTE_FORCE"),
    ],
)
def test_what_has_no_gpu_code_is_refused_before_any_work(index, k, message):
    found = FaissGpu().violations(index=index, k=[k], **COMMON)
    assert (found == []) if message is None else (len(found) == 1 and message in found[0])


def test_the_build_for_the_cpu_is_told_from_one_for_a_gpu():
    with pytest.raises(StoreError, match=r"faiss-cpu \S+ is for the CPU; it needs a GPU build in an environment of its own"):
        FaissGpu().open(Path())


def test_builds_that_overwrote_each_other_are_named(monkeypatch):
    monkeypatch.setattr(stores.faiss_gpu, "_builds", lambda: ["faiss-cpu 1.15.1", "faiss-gpu 1.15.1"])
    with pytest.raises(StoreError, match=r"faiss-cpu 1\.15\.1 and faiss-gpu 1\.15\.1 overwrite each other's files"):
        FaissGpu().open(Path())


def test_a_store_that_is_not_open_says_so():
    store = FaissGpu()
    with pytest.raises(StoreError, match="not open"):
        store.create("c", dim=8, metric="l2", index=GPU_BRUTE_FORCE())
    assert store.index_bytes() is None
    store.close()
