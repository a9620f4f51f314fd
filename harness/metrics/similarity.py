"""The score of a query and a row, one convention for ground truth and recall: bigger is nearer.

========  =====================================================
metric    score
========  =====================================================
cosine    q·x / (‖q‖ ‖x‖)
ip        q·x
l2        −‖q − x‖², squared as FAISS and Milvus report it
========  =====================================================

Also how far a correct float32 engine may be off, which decides when two scores are a tie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.interfaces import Ids, Metric, part_of

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """The exact nearest neighbours of each query, nearest first, ties by the lower id."""

    ids: Ids
    """Shape (n, k), k = min(the k asked for, rows)."""
    scores: Scores
    """Shape (n, k), float64, computed in float64 from the source vectors; bigger is nearer, never rising along a row."""
    metric: Metric
    rows: int
    """Size of the corpus searched."""
    below: int | None = None
    """Where a filter restricted the search, the part (`harness.interfaces.part_of`) below which rows counted."""

    @property
    def eligible(self) -> int:
        """How many rows there were to choose from."""
        return self.rows if self.below is None else int((part_of(np.arange(self.rows, dtype=np.int64)) < self.below).sum())


def rounding_error(dim: int) -> float:
    """Bound the error of a score computed in float32, relative to `scale`.

    (2 √d + 4) u with unit roundoff u = 2⁻²⁴. Rounding errors of a running sum of d products are of mean zero and nearly independent,
    so they grow like √d, not like d (N. Higham, T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
    Comput. 41, 2019). Their standard deviation is at most about 0.26 √d u, normalising the vectors in float32 included: each
    rounding is off by 0.4 u of the partial sum (root mean square), the partial sums grow to at most 1, and √(d/3) such errors add
    up. So 2 √d u is more than 7 of them. The largest of 20,000 errors of a plain loop over signed, positive and half-precision
    vectors of 64 to 2,048 dimensions was 0.6 to 1.1 √d u (up to 2.9 where all components are 0 or one constant, whose errors are not
    independent); with 8 running sums, as vectorised engines have, 0.1 to 0.5. The 4 u are for few dimensions, where the worst case
    is 1.5 d + 3.

    2.6e-6 for 384 dimensions; the worst-case bound d·u would be 2.3e-5 and would let truly worse neighbours pass where vectors lie
    close together.

    Parameters
    ----------
    dim : int
        Number of dimensions, d.

    Returns
    -------
    float
        The bound, to be multiplied by `scale`.
    """
    return (2.0 * math.sqrt(dim) + 4.0) * 2.0**-24


def scale(query_norms: Scores, row_norms: Scores, metric: Metric) -> Scores:
    """Give the size that rounding errors of a score are relative to.

    1 for cosine, ‖q‖ ‖x‖ for the inner product (Cauchy–Schwarz bounds the summed magnitudes), and (‖q‖ + ‖x‖)² for L2, because
    engines compute it as ‖q‖² + ‖x‖² − 2 q·x.

    Parameters
    ----------
    query_norms, row_norms : ndarray of float64
        Euclidean norms, of shapes that broadcast.
    metric : {"cosine", "ip", "l2"}
        The metric.

    Returns
    -------
    ndarray of float64
        Of the broadcast shape.
    """
    if metric == "cosine":
        return np.ones(np.broadcast_shapes(np.shape(query_norms), np.shape(row_norms)))
    if metric == "ip":
        return query_norms * row_norms
    return (query_norms + row_norms) ** 2


def norms(vectors: NDArray[np.floating]) -> Scores:
    """Compute Euclidean norms in float64.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim)
        Rows.

    Returns
    -------
    ndarray of shape (n,), float64
        Norms.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    lengths: Scores = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return lengths


def scores_of(query: NDArray[np.floating], rows: NDArray[np.floating], metric: Metric) -> Scores:
    """Score rows against one query in float64; identical rows get identical scores.

    Parameters
    ----------
    query : ndarray of shape (dim,)
        The query.
    rows : ndarray of shape (m, dim)
        Rows of the corpus.
    metric : {"cosine", "ip", "l2"}
        The metric.

    Returns
    -------
    ndarray of shape (m,), float64
        Bigger is nearer.

    Raises
    ------
    DataError
        For a zero vector under cosine, which has no direction.
    """
    return scores_of_pairs(np.asarray(query)[None, :], rows, metric, which=np.zeros(len(rows), dtype=np.int64))


def scores_of_pairs(
    queries: NDArray[np.floating],
    rows: NDArray[np.floating],
    metric: Metric,
    *,
    which: NDArray[np.int64],
    query_norms: Scores | None = None,
) -> Scores:
    """Score each row against one of the queries in float64; identical pairs get identical scores, wherever they stand.

    Parameters
    ----------
    queries : ndarray of shape (n, dim)
        Queries.
    rows : ndarray of shape (m, dim)
        Rows of the corpus.
    metric : {"cosine", "ip", "l2"}
        The metric.
    which : ndarray of shape (m,), int64
        The number of each row's query.
    query_norms : ndarray of shape (n,), float64, optional
        `norms` of the queries, for a caller that scores against them often.

    Returns
    -------
    ndarray of shape (m,), float64
        Bigger is nearer.

    Raises
    ------
    DataError
        For a zero vector under cosine, which has no direction.
    """
    q = np.asarray(queries, dtype=np.float64)
    x = np.asarray(rows, dtype=np.float64)
    beside = q[which]
    if metric == "l2":
        difference = np.subtract(x, beside, out=beside)
        squared: Scores = np.einsum("ij,ij->i", difference, difference)
        return -squared
    # einsum and not a BLAS product, whose kernels treat rows differently by position: equal rows must tie exactly.
    product: Scores = np.einsum("ij,ij->i", x, beside)
    if metric == "ip":
        return product
    length = (norms(q) if query_norms is None else query_norms)[which] * norms(x)
    if not np.all(length > 0):
        raise DataError("metric=cosine: a vector of norm 0 has no direction; remove such items or use metric=ip or l2")
    cosine: Scores = product / length
    return cosine
