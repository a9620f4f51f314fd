import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from harness.datasets.docstrings import Docstrings
from harness.metrics.bm25 import K1, B, bm25_ranking
from harness.metrics.labels import ndcg_at_k

WORDS = ["apple", "berry", "cedar", "delta", "ember", "fjord"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def scores_by_hand(documents, query):
    """The formula of the module's docstring, term by term, on words that no stemmer or stop list changes."""
    split = [re.findall(r"\w\w+", text) for text in documents]
    mean = sum(map(len, split)) / len(split)
    result = []
    for words in split:
        total = 0.0
        for word in re.findall(r"\w\w+", query):
            holders = sum(word in other for other in split)
            f = words.count(word)
            if f:
                idf = math.log(1 + (len(split) - holders + 0.5) / (holders + 0.5))
                total += idf * f / (f + K1 * (1 - B + B * len(words) / mean))
        result.append(total)
    return np.array(result)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.lists(texts, min_size=1, max_size=4), st.integers(1, 15))
def test_the_ranking_is_that_of_the_formula(documents, queries, depth):
    ranking = bm25_ranking(documents, queries, depth=depth)
    assert (ranking.shape, ranking.dtype) == ((len(queries), depth), np.int64)
    for found, query in zip(ranking, queries, strict=True):
        expected = scores_by_hand(documents, query) if any(documents) else np.zeros(len(documents))
        returned = found[found >= 0]
        assert len(returned) == len(set(returned)) == min(depth, int((expected > 0).sum()))
        assert (found[len(returned) :] == -1).all()
        best = np.sort(expected)[::-1][: len(returned)]
        np.testing.assert_allclose(expected[returned], best, rtol=1e-5)  # near ties may swap in float32, nothing else


def test_equal_scores_are_returned_in_the_order_of_the_numbers():
    assert bm25_ranking(["cedar", "ember ember", "cedar", "cedar"], ["cedar"], depth=2).tolist() == [[0, 2]]


def test_a_rare_word_weighs_more_than_a_common_one_and_a_short_document_more_than_a_long_one():
    documents = ["apple berry", "apple cedar", "apple delta", "berry delta ember fjord fjord ember"]
    assert bm25_ranking(documents, ["apple cedar"], depth=1).tolist() == [[1]]
    assert bm25_ranking(documents, ["berry"], depth=2).tolist() == [[0, 3]]


def test_words_are_stemmed_and_stop_words_dropped():
    documents = ["The runner was running", "Of the and to", "She runs"]
    assert sorted(bm25_ranking(documents, ["run the"], depth=3)[0].tolist()) == [-1, 0, 2]


@pytest.mark.parametrize(("documents", "queries"), [(["", "the"], ["cedar"]), (["cedar"], ["", "the", "?"]), (["", "cedar"], [""])])
def test_a_text_without_words_finds_nothing_and_is_not_found(documents, queries):
    assert (bm25_ranking(documents, queries, depth=2) == -1).all()


def test_no_queries_give_no_rows():
    assert bm25_ranking(["cedar"], [], depth=3).shape == (0, 3)


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth"):
        bm25_ranking(["cedar"], ["cedar"], depth=0)


def test_on_real_text_it_scores_like_an_independent_bm25(tmp_path):
    """Scikit-learn's counts, no stemming, its own stop words: another implementation of every step, so near and not equal."""
    data = Docstrings(corpus=300, queries=60, packages=("numpy", "scipy", "sklearn", "torch")).materialise(tmp_path)
    vectorizer = CountVectorizer(stop_words="english")
    counts = vectorizer.fit_transform(data.corpus).toarray().astype(float)
    asked = vectorizer.transform(data.queries).toarray()
    holders = (counts > 0).sum(axis=0)
    idf = np.log(1 + (len(counts) - holders + 0.5) / (holders + 0.5))
    lengths = counts.sum(axis=1, keepdims=True)
    weights = idf * counts / (counts + K1 * (1 - B + B * lengths / lengths.mean()))
    other = np.argsort(-(asked @ weights.T), axis=1, kind="stable")[:, :10]
    ours = ndcg_at_k(bm25_ranking(data.corpus, data.queries, depth=10), data.qrels).scores.mean()
    assert ours > 0.4
    assert ours == pytest.approx(ndcg_at_k(other, data.qrels).scores.mean(), abs=0.08)
