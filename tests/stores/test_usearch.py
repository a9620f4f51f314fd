"""USearch as a store, against the library called directly; what every store keeps is in `test_contract`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from harness.errors import StoreError
from stores.index import FLAT, HNSW
from stores.usearch import USearch
from tests.stores.oracle import hard_rows

usearch = pytest.importorskip("usearch.index")
CORPUS, QUERIES = hard_rows(800, 24, 21), hard_rows(30, 24, 22)


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def filled(index, metric="l2"):
    store = USearch()
    store.open(Path())
    store.create("c", dim=24, metric=metric, index=index)
    store.insert(CORPUS, 0)
    store.build()
    return store


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("ef", [10, 100])
def test_hnsw_answers_as_the_library_called_directly(ef):
    direct = usearch.Index(ndim=24, metric="l2sq", dtype="f32", connectivity=12, expansion_add=50, expansion_search=ef)
    direct.add(np.arange(800), CORPUS, threads=1)
    expected = direct.search(QUERIES, 10, threads=1).keys
    assert (filled(HNSW(M=12, ef_construction=50)).search(QUERIES, 10, {"ef": ef}) == expected).all()


@pytest.mark.usefixtures("one_thread")
def test_distances_are_counted_by_the_library():
    graph = filled(HNSW())
    few, many = (graph.distance_computations(QUERIES, 10, {"ef": ef}) for ef in (10, 200))
    assert 10 < few < many < 800


def test_a_filter_is_refused_before_any_work():
    (found,) = USearch().violations(index=FLAT(), metric="l2", dim=24, rows=800, k=[10], filtered=True)
    assert "no search with a filter" in found


def test_without_the_package_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(StoreError, match="pip install"):
        USearch().open(Path())
