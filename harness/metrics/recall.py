"""Recall@k, index fidelity: the share of the exact k nearest neighbours that the index returned.

Against exact search on the same vectors, not against labels: NOTE some call recall@k the share of a query's *relevant* documents
among the first k; that is `harness.metrics.labels.recall_at_k` here, a different column under a different heading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Ids, Vectors, part_of
from harness.metrics.similarity import Neighbours, Scores, norms, rounding_error, scale, scores_of


def recall_at_k(returned: Ids, truth: Neighbours, *, k: int, queries: Vectors, corpus: Vectors) -> Scores:
    """Share of the k nearest neighbours found, a tie with the k-th counting as found.

    An id is a hit if it is among the true first k, or if its score, recomputed in float64 from the source vectors, is below the
    k-th true score by no more than what a correct float32 engine cannot tell apart: ε (s_j + s_K), where ε is
    `harness.metrics.similarity.rounding_error`, s_j the `scale` of the row and s_K the largest among the true first k. An exact float32
    engine returns j in place of a true neighbour i only if their two errors together, at most ε (s_i + s_j), close the gap; so
    it gets exactly 1.0, whatever the order it sums in. The tolerance is relative: scaling all vectors changes nothing. (A fixed
    amount added to the k-th distance, as some harnesses do, lets truly worse neighbours pass wherever vectors lie close together.)

    Distinct ids only: [5, 5, 5] is one hit. Ids of −1 and columns that are not there are misses. Only the first k columns count.
    Where k exceeds the corpus, or what a filter leaves of it, every such row is a neighbour and the share is of min(k, those rows).

    Parameters
    ----------
    returned : ndarray of shape (n, m), int64
        What the index returned, best first.
    truth : Neighbours
        Exact neighbours of the same queries, at least min(k, rows) each.
    k : int
        Number of neighbours asked for.
    queries : ndarray of shape (n, dim), float32
        Source vectors.
    corpus : ndarray of shape (rows, dim), float32
        Source vectors, may be memory-mapped.

    Returns
    -------
    ndarray of shape (n,), float64
        One score a query, in [0, 1].

    Raises
    ------
    StoreError
        If an id is neither −1 nor the number of a row that the filter, if there is one, lets pass.
    ValueError
        If shapes do not fit together.
    """
    returned, nearest = _checked(returned, truth, k)
    if len(queries) != len(returned) or len(corpus) != truth.rows:
        raise ValueError(
            f"recall needs the vectors searched: got {len(queries)} queries, {len(corpus)} rows for {truth.ids.shape}, {truth.rows}"
        )
    hit = _found(returned, nearest)
    error = rounding_error(corpus.shape[1])
    candidate = _first_occurrence(returned) & (returned >= 0) & ~hit
    for i in np.flatnonzero(candidate.any(axis=1)):  # only queries with an id that is not simply right
        others = returned[i, candidate[i]]
        query_norm = norms(queries[i : i + 1])
        scale_of_nearest = scale(query_norm, norms(corpus[nearest[i]]), truth.metric).max()
        scale_of_others = scale(query_norm, norms(corpus[others]), truth.metric)
        gap = truth.scores[i, nearest.shape[1] - 1] - scores_of(queries[i], corpus[others], truth.metric)
        hit[i, candidate[i]] = gap <= error * (scale_of_others + scale_of_nearest)
    return np.asarray(hit.sum(axis=1) / nearest.shape[1], dtype=np.float64)


def strict_recall_at_k(returned: Ids, truth: Neighbours, *, k: int) -> Scores:
    """Share of the k nearest neighbours' ids found, ties decided by the lower id and not forgiven.

    As `recall_at_k` otherwise. An exact engine can score below 1.0 where rows are duplicates or nearly so; the distance between
    the two figures shows how often.

    Parameters
    ----------
    returned : ndarray of shape (n, m), int64
        What the index returned, best first.
    truth : Neighbours
        Exact neighbours of the same queries, at least min(k, rows) each.
    k : int
        Number of neighbours asked for.

    Returns
    -------
    ndarray of shape (n,), float64
        One score a query, in [0, 1].

    Raises
    ------
    StoreError
        If an id is neither −1 nor the number of a row that the filter, if there is one, lets pass.
    ValueError
        If shapes do not fit together.
    """
    returned, nearest = _checked(returned, truth, k)
    return np.asarray(_found(returned, nearest).sum(axis=1) / nearest.shape[1], dtype=np.float64)


def _checked(returned: Ids, truth: Neighbours, k: int) -> tuple[Ids, Ids]:
    """Cut both to the first k columns after checking that they can be compared."""
    returned = np.asarray(returned)
    if returned.ndim != 2 or len(returned) != len(truth.ids):
        raise ValueError(f"returned ids must have shape ({len(truth.ids)}, k), got {returned.shape}")
    if not np.issubdtype(returned.dtype, np.integer):
        raise ValueError(f"returned ids must be integers, got {returned.dtype}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = min(k, truth.eligible)
    if truth.ids.shape[1] < wanted or wanted == 0:
        raise ValueError(f"recall@{k} needs {wanted} true neighbours a query, there are {truth.ids.shape[1]} of {truth.eligible} rows")
    outside = (returned < -1) | (returned >= truth.rows)
    if outside.any():
        wrong = int(returned[outside][0])
        raise StoreError(f"a search returned id {wrong}, but the corpus has rows 0 to {truth.rows - 1}: the ids are not row numbers")
    if truth.below is not None:
        kept_out = (returned >= 0) & (part_of(returned.astype(np.int64)) >= truth.below)
        if kept_out.any():
            raise StoreError(f"a search returned id {int(returned[kept_out][0])}, which its filter keeps out: the filter is not applied")
    return np.asarray(returned[:, :k], dtype=np.int64), truth.ids[:, :wanted]


def _first_occurrence(ids: Ids) -> NDArray[np.bool_]:
    """Mark each id's first place in its row, shape (n, m)."""
    order = np.argsort(ids, axis=1, kind="stable")
    in_order = np.take_along_axis(ids, order, axis=1)
    first = np.ones(ids.shape, dtype=np.bool_)
    first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    marks = np.empty_like(first)
    np.put_along_axis(marks, order, first, axis=1)
    return marks


def _found(returned: Ids, nearest: Ids) -> NDArray[np.bool_]:
    """Mark the places in `returned` that hold a true neighbour for the first time, shape (n, m)."""
    found = np.zeros(returned.shape, dtype=np.bool_)
    for i, (row, true) in enumerate(zip(returned, nearest, strict=True)):
        found[i] = np.isin(row, true)
    return found & _first_occurrence(returned)
