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
from harness.interfaces import Ids, Metric

Scores = NDArray[np.float64]

_DEVIATIONS = 6.0
"""λ in `rounding_error`; one sum then exceeds the bound with a probability below 2·exp(−λ²/2) = 3e-8."""


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


def rounding_error(dim: int) -> float:
    """Bound the error of a score computed in float32, relative to `scale`.

    λ √d u with unit roundoff u = 2⁻²⁴: rounding errors of a sum of d products are of mean zero and nearly independent, so they grow
    like √d, not like d (N. Higham, T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41,
    2019; the failure probability for given λ: M. Connolly, N. Higham, T. Mary, SIAM J. Sci. Comput. 43, 2021). It holds for any
    order of summation, also the plain loop, and at λ = 6 leaves room for normalising the vectors first. 7e-6 for 384
    dimensions; the worst-case bound d·u would be 2.3e-5, and at 2,048 dimensions 8 times this one.

    Parameters
    ----------
    dim : int
        Number of dimensions, d.

    Returns
    -------
    float
        The bound, to be multiplied by `scale`.
    """
    return _DEVIATIONS * math.sqrt(dim) * 2.0**-24


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
    q = np.asarray(query, dtype=np.float64)
    x = np.asarray(rows, dtype=np.float64)
    if metric == "l2":
        difference = x - q
        squared: Scores = np.einsum("ij,ij->i", difference, difference)
        return -squared
    # einsum and not a BLAS product, whose kernels treat rows differently by position: equal rows must tie exactly.
    product: Scores = np.einsum("ij,j->i", x, q)
    if metric == "ip":
        return product
    length = norms(q[None, :])[0] * norms(x)
    if not np.all(length > 0):
        raise DataError("metric=cosine: a vector of norm 0 has no direction; remove such items or use metric=ip or l2")
    cosine: Scores = product / length
    return cosine
