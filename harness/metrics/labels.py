"""Quality against relevance labels, by `ir_measures`: nDCG@k and recall@k, one score a query.

A different question from index fidelity (`harness.metrics.recall`): not "did the index find what exact search finds" but "did the
reader get what was wanted". Rankings are ids in rank order; a place holds nothing if its id is −1 or was already ranked higher,
and nothing moves up to fill it, so an index cannot gain by answering less or twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.interfaces import Ids

if TYPE_CHECKING:
    from ir_measures import Measure

Qrels = Mapping[int, Mapping[int, int]]


@dataclass(frozen=True)
class LabelScores:
    """Scores of the queries that have at least one relevant document."""

    queries: NDArray[np.int64]
    """Numbers of those queries, ascending, shape (m,)."""
    scores: NDArray[np.float64]
    """Shape (m,), in [0, 1]; 0 for a query that returned nothing."""
    excluded: int
    """How many ranked queries have no relevant document: no ranking of them could be better than another."""


def ndcg_at_k(rankings: Ids, qrels: Qrels, *, k: int = 10) -> LabelScores:
    """Discounted cumulative gain of the first k, relative to the best possible one.

    Gain is the grade itself and the discount log₂(rank + 1), as in trec_eval and scikit-learn (K. Järvelin, J. Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", ACM TOIS 20, 2002). NOTE: others use the gain 2^grade − 1 (C. Burges et al., ICML 2005);
    the two agree for grades 0 and 1 only.

    Parameters
    ----------
    rankings : ndarray of shape (n, depth), int64
        Document numbers in rank order; row i belongs to query i.
    qrels : mapping of int to mapping of int to int
        For each query its documents' grades; a grade of 0 or less is "not relevant".
    k : int, optional
        Depth of the measure. A ranking that is shorter is scored as it is.

    Returns
    -------
    LabelScores
        One score a query that has a relevant document.

    Raises
    ------
    DataError
        If `qrels` names a query that was not ranked.
    """
    from ir_measures import nDCG

    return _per_query(nDCG @ _depth(k), rankings, qrels, k)


def recall_at_k(rankings: Ids, qrels: Qrels, *, k: int) -> LabelScores:
    """Share of a query's relevant documents that are among the first k.

    NOTE: some call recall@k whether *any* relevant document is among them; that is success@k. And with more than k relevant documents
    this cannot reach 1. Every grade above 0 is relevant.

    Parameters
    ----------
    rankings : ndarray of shape (n, depth), int64
        Document numbers in rank order; row i belongs to query i.
    qrels : mapping of int to mapping of int to int
        For each query its documents' grades; a grade of 0 or less is "not relevant".
    k : int
        Depth of the measure.

    Returns
    -------
    LabelScores
        One score a query that has a relevant document.

    Raises
    ------
    DataError
        If `qrels` names a query that was not ranked.
    """
    from ir_measures import R

    return _per_query(R @ _depth(k), rankings, qrels, k)


def _depth(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return k


def _per_query(measure: Measure, rankings: Ids, qrels: Qrels, k: int) -> LabelScores:
    import ir_measures

    ranked = np.asarray(rankings)
    if ranked.ndim != 2:
        raise ValueError(f"rankings must have shape (n, depth), got {ranked.shape}")
    unknown = [query for query in qrels if not 0 <= query < len(ranked)]
    if unknown:
        raise DataError(f"the relevance labels name query {unknown[0]}, but the queries ranked are 0 to {len(ranked) - 1}")
    relevant = {query: {doc: grade for doc, grade in docs.items() if grade > 0} for query, docs in qrels.items()}
    scored = sorted(query for query, docs in relevant.items() if docs)
    wanted = {str(query): {str(doc): int(grade) for doc, grade in relevant[query].items()} for query in scored}
    run = {str(query): _as_run(ranked[query, :k]) for query in scored}
    # Measures' providers differ in whether they report a query whose ranking is empty; here it is a zero, never left out.
    found = dict.fromkeys(wanted, 0.0)
    if scored:
        found.update({metric.query_id: float(metric.value) for metric in ir_measures.iter_calc([measure], wanted, run)})
    scores = np.array([found[str(query)] for query in scored], dtype=np.float64)
    return LabelScores(np.array(scored, dtype=np.int64), scores, len(ranked) - len(scored))


def _as_run(ranking: Ids) -> dict[str, float]:
    """Turn ids in rank order into falling scores, so that no tie is left for the library to break.

    A place that holds nothing new is taken by a document that no label can name.
    """
    run: dict[str, float] = {}
    for rank, doc in enumerate(ranking.tolist()):
        name = str(doc)
        run[f"nothing at {rank}" if doc < 0 or name in run else name] = float(len(ranking) - rank)
    return run
