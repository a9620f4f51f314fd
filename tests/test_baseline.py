"""The baseline of a dataset: BM25's ranking, made once."""

import numpy as np
import pytest

from harness import baseline
from harness.interfaces import Data
from harness.metrics.bm25 import bm25_ranking
from harness.search_summary import _baseline

DOCUMENTS = ["a red apple", "a green apple", "the blue sky", "sky and sea", "red red wine"]
QUERIES = ["red", "apple sky", "nothing of this"]


def data(corpus=DOCUMENTS, queries=QUERIES, modality="text", **more):
    return Data(modality, "made", corpus, queries, None, "the same fingerprint for all", **more)


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """Calls of the ranking, in a cache of the test's own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    calls = []

    def ranking(*args, **more):
        calls.append(args)
        return bm25_ranking(*args, **more)

    monkeypatch.setattr(baseline, "bm25_ranking", ranking)
    return calls


def test_it_is_the_ranking_of_the_datasets_texts():
    assert np.array_equal(baseline.bm25(data(), depth=3), bm25_ranking(DOCUMENTS, QUERIES, depth=3))


def test_it_is_made_once_for_the_same_texts_and_again_for_others(made):
    for _ in range(2):
        baseline.bm25(data(), depth=3)
    assert len(made) == 1
    baseline.bm25(data(queries=["wine"]), depth=3)
    baseline.bm25(data(corpus=DOCUMENTS[::-1]), depth=3)
    baseline.bm25(data(), depth=2)
    assert len(made) == 4


def test_there_is_none_where_documents_or_queries_are_no_texts(made):
    assert baseline.bm25(data(modality="image"), depth=3) is None
    assert baseline.bm25(data(modality="image", asked_in="text"), depth=3) is None
    assert made == []


def test_its_quality_is_ndcg_over_the_queries_that_were_asked():
    """Of queries 1 and 0 in this order: "apple sky" has its document first or not at all, "red" finds "red red wine" first."""
    qrels = {0: {0: 1}, 1: {4: 1}}
    found = _baseline(data(), qrels, np.array([1, 0]))
    assert bm25_ranking(DOCUMENTS, QUERIES, depth=10)[0, 0] == 4
    assert 0 in bm25_ranking(DOCUMENTS, QUERIES, depth=10)[1]
    place = bm25_ranking(DOCUMENTS, QUERIES, depth=10)[1].tolist().index(0)
    assert found.value == pytest.approx((1 / np.log2(place + 2) + 1) / 2)
    assert found.replication == "query"


def test_without_labels_or_texts_its_quality_is_null_with_the_reason():
    assert _baseline(data(), None, np.arange(3)).reason == "the dataset has no relevance labels"
    pictures = _baseline(data(modality="image", asked_in="text"), {0: {0: 1}}, np.arange(3))
    assert (pictures.value, pictures.reason) == (None, "BM25 ranks texts by texts")
