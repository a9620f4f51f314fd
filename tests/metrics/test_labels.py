"""nDCG and recall against labels: by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness.metrics.labels import ndcg_at_k, recall_at_k


def test_ndcg_by_hand():
    """Grades 3, 0, 2 at ranks 1 to 3; a document of grade 1 was missed."""
    scores = ndcg_at_k(np.array([[7, 8, 9]]), {0: {7: 3, 9: 2, 5: 1}}, k=10)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert scores.scores.tolist() == pytest.approx([(3 + 2 / math.log2(4)) / ideal])
    assert scores.queries.tolist() == [0]
    assert scores.scores.dtype == np.float64


def test_label_recall_by_hand():
    qrels = {0: {7: 1, 9: 2, 5: 1, 8: 0}}
    assert recall_at_k(np.array([[7, 8, 9]]), qrels, k=3).scores.tolist() == pytest.approx([2 / 3])
    assert recall_at_k(np.array([[7, 8, 9]]), qrels, k=2).scores.tolist() == pytest.approx([1 / 3])


def test_label_recall_is_not_success():
    """More relevant documents than k: the share is of all of them."""
    assert recall_at_k(np.array([[0, 1]]), {0: dict.fromkeys(range(8), 1)}, k=2).scores.tolist() == [0.25]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12))
def test_ndcg_agrees_with_scikit_learn(seed, k):
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 4, size=(5, 12)) * (rng.random((5, 12)) < 0.5)
    grades[:, 0] = np.maximum(grades[:, 0], 1)  # scikit-learn has no notion of a query without relevant documents
    order = np.array([rng.permutation(12) for _ in range(5)])
    places = np.argsort(order, axis=1)
    expected = [ndcg_score(grades[i : i + 1], -places[i : i + 1].astype(float), k=k, ignore_ties=True) for i in range(5)]
    qrels = {i: {doc: int(grade) for doc, grade in enumerate(grades[i])} for i in range(5)}
    np.testing.assert_allclose(ndcg_at_k(order, qrels, k=k).scores, expected)


def test_a_query_without_relevant_documents_is_excluded_and_counted():
    rankings = np.array([[0, 1], [0, 1], [0, 1], [0, 1]])
    for scores in (
        ndcg_at_k(rankings, {0: {0: 1}, 2: {5: 0, 0: -1}, 3: {1: 1}}),
        recall_at_k(rankings, {0: {0: 1}, 2: {}, 3: {1: 1}}, k=2),
    ):
        assert scores.queries.tolist() == [0, 3]
        assert scores.excluded == 2
        assert scores.scores.min() > 0


def test_a_query_that_returned_nothing_scores_zero_and_is_not_dropped():
    qrels = {0: {4: 1}, 1: {5: 1}}
    for rankings in (np.array([[4, 2], [-1, -1]]), np.empty((2, 0), dtype=np.int64)):
        scores = ndcg_at_k(rankings, qrels)
        assert scores.queries.tolist() == [0, 1]
        assert scores.scores.tolist() == [float(rankings.size > 0), 0.0]
        assert recall_at_k(rankings, qrels, k=2).scores[1] == 0.0


def test_a_repeated_or_missing_document_keeps_its_place():
    """Nothing moves up: the relevant document stays at rank 3, counted once."""
    expected = pytest.approx([1 / math.log2(4)])
    for ranking in ([8, 8, 5, 5], [-1, 8, 5, 5], [8, -1, 5, -1], [-1, -1, 5, 8]):
        assert ndcg_at_k(np.array([ranking]), {0: {5: 1}}).scores.tolist() == expected
    assert recall_at_k(np.array([[8, 8, 5]]), {0: {5: 1}}, k=2).scores.tolist() == [0.0]
    assert recall_at_k(np.array([[5, 5, 5]]), {0: {5: 1, 6: 1}}, k=3).scores.tolist() == [0.5]


def test_rank_decides_among_a_hundred_and_not_the_documents_names():
    """trec_eval breaks ties of scores by document name; ranks must never be ties."""
    for doc in range(100):
        ranking = np.arange(100)[None, :]
        expected = 1 / math.log2(doc + 2) if doc < 10 else 0.0
        assert ndcg_at_k(ranking, {0: {doc: 1}}).scores.tolist() == pytest.approx([expected])


def test_queries_are_reported_in_the_order_of_their_numbers():
    rankings = np.arange(12)[:, None]
    qrels = {i: {i: 1} if i % 2 else {99: 1} for i in reversed(range(12))}
    scores = ndcg_at_k(rankings, qrels)
    assert scores.queries.tolist() == list(range(12))
    assert scores.scores.tolist() == [0.0, 1.0] * 6


def test_labels_of_a_query_that_was_not_ranked_are_an_error():
    with pytest.raises(DataError, match="query 3"):
        ndcg_at_k(np.zeros((3, 2), dtype=np.int64), {3: {0: 1}})


def test_no_labels_at_all_score_nothing():
    scores = ndcg_at_k(np.zeros((3, 2), dtype=np.int64), {})
    assert scores.scores.shape == (0,)
    assert scores.excluded == 3


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        recall_at_k(np.zeros((3, 2), dtype=np.int64), {}, k=0)
