"""The ranking that needs no model: BM25, what a text model's nDCG@10 has to be seen beside.

By `bm25s`, in Lucene's variant (S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; C. Kamphuis
et al., "Which BM25 Do You Mean?", ECIR 2020). The score of a document d for a query is, summed over the query's words w,

    ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) · f / (f + k1 · (1 - b + b · |d| / mean |d|))

with f the occurrences of w in d, n_w the documents that hold w, and N all documents. Text is lower-cased and cut into words of at
least two letters or digits, English stop words are dropped, and words are stemmed (Snowball's English stemmer). Text of another
language is ranked by its words as they stand, and text without spaces between words hardly at all: no baseline for those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.interfaces import Ids

K1, B = 0.9, 0.4
"""Anserini's values, which the baselines of the BEIR and MS MARCO leaderboards use (its documentation, "BEIR regressions")."""


def bm25_ranking(documents: Sequence[str], queries: Sequence[str], *, depth: int) -> Ids:
    """Rank the documents that share a word with a query.

    Parameters
    ----------
    documents, queries : sequence of str
        The texts; a text without any word is never found, or finds nothing.
    depth : int
        How many documents to return for a query, at least 1.

    Returns
    -------
    ndarray of shape (n_queries, depth), int64
        Numbers of documents, best first, equal scores in the order of the numbers; -1 where fewer documents share a word.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    ranking = np.full((len(queries), depth), -1, dtype=np.int64)
    words = _words(documents)
    if not any(words):  # nothing to be found, which bm25s does not take
        return ranking
    import bm25s

    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(words, show_progress=False)
    vocabulary = index.vocab_dict
    for number, asked in enumerate(_words(queries)):
        known = [word for word in asked if word in vocabulary]
        if known:
            best = _best(index.get_scores(known), depth)
            ranking[number, : len(best)] = best
    return ranking


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s
    import Stemmer

    found = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False, allow_empty=False
    )
    return [[word for word in words if word] for words in found]  # an empty text is one empty word to bm25s


def _best(scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]], depth: int) -> Ids:
    """Return up to `depth` numbers with the highest scores above 0, equal ones in ascending order."""
    found = np.flatnonzero(scores > 0)
    if len(found) > depth:  # whatever ties with the last place stays, so that the order of numbers decides
        last = np.partition(scores[found], len(found) - depth)[len(found) - depth]
        found = found[scores[found] >= last]
    return found[np.lexsort((found, -scores[found]))][:depth].astype(np.int64)
