"""Exact nearest neighbours, block by block: what recall is measured against.

The bulk is one float32 matrix product; it only proposes candidates. Its scores are off by at most ε·scale
(`harness.metrics.similarity`), so every row that could belong to the first k is kept: those within twice that of the k-th best,
and as far again for safety. They are scored again in float64 from the source vectors, which decides order, ties (lower id first)
and the k-th score even where float32 cannot tell rows apart.

The corpus is read once, in blocks, and may be a memory-mapped ``.npy`` larger than memory. Beyond the queries and the result, the
memory used is a few times `block_bytes`, whatever the data: where very many rows tie, candidates are settled early, which
costs time and not memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.interfaces import Metric, Vectors
from harness.metrics.similarity import Neighbours, Scores, norms, rounding_error, scale, scores_of

BLOCK_BYTES = 16 * 2**20
"""Memory for one block of float32 scores; large enough for the product's full speed, small enough to stay near the caches."""

_QUERIES_A_BLOCK = 1024
_LARGEST_NORM = 1e15
"""Beyond this, float32 products overflow; below its reciprocal they vanish. No embedding model comes near."""


def exact_neighbours(queries: Vectors, corpus: Vectors, *, k: int, metric: Metric, block_bytes: int = BLOCK_BYTES) -> Neighbours:
    """Find the k nearest rows of each query by exhaustive search.

    Parameters
    ----------
    queries : ndarray of shape (n, dim), float32 or float16
        Source vectors, may be memory-mapped.
    corpus : ndarray of shape (rows, dim), float32 or float16
        Source vectors, may be memory-mapped.
    k : int
        Number of neighbours; at most `rows` of them exist.
    metric : {"cosine", "ip", "l2"}
        The metric; see `harness.metrics.similarity` for the scores. Vectors need not be normalised for cosine.
    block_bytes : int, optional
        Size of one block of scores; peak memory is a few times this.

    Returns
    -------
    Neighbours
        Ids and float64 scores of shape (n, min(k, rows)), nearest first, ties by the lower id.

    Raises
    ------
    DataError
        If there are no vectors, dimensions differ, a value is not finite or out of float32's range for products, or a vector is zero
        under cosine.
    ValueError
        If `k` or `block_bytes` is too small.
    """
    if k < 1 or block_bytes < 2**12:
        raise ValueError(f"k must be at least 1 and block_bytes at least 4096, got {k} and {block_bytes}")
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1] or not queries.size or not corpus.size:
        raise DataError(
            f"exact search needs queries and corpus of one dimension and at least one row each, got {queries.shape}, {corpus.shape}"
        )
    n, rows, dim = len(queries), len(corpus), corpus.shape[1]
    k = min(k, rows)
    query_block = min(n, _QUERIES_A_BLOCK, max(1, block_bytes // (4 * max(dim, k))))
    row_block = max(1, block_bytes // (4 * max(query_block, dim)))
    starts = range(0, n, query_block)
    searches = [_Search(queries[start : start + query_block], start, corpus, k, metric, block_bytes) for start in starts]
    buffer = np.empty(query_block * row_block, dtype=np.float32)  # one for all products: fresh memory costs more than the comparison
    for first_id, block, block_norms in _blocks(corpus, row_block, metric):
        for search in searches:
            search.add(first_id, block, block_norms, buffer)
    results = [search.result() for search in searches]
    ids = np.concatenate([ids for ids, _ in results])
    return Neighbours(ids, np.concatenate([scores for _, scores in results]), metric, rows)


def _blocks(corpus: Vectors, size: int, metric: Metric) -> Iterator[tuple[int, NDArray[np.float32], Scores]]:
    """Yield the number of each block's first row, the block as the product needs it, and the source rows' norms."""
    for start in range(0, len(corpus), size):
        block = np.asarray(corpus[start : start + size], dtype=np.float32)
        lengths = _checked_norms(block, "corpus", start, metric)
        if metric == "cosine":
            block = np.divide(block, lengths[:, None], dtype=np.float32, casting="same_kind")
        yield start, block, lengths


def _checked_norms(vectors: NDArray[np.float32], what: str, start: int, metric: Metric) -> Scores:
    """Compute the rows' norms, a few thousand rows at a time so that their float64 copy stays small."""
    lengths = np.concatenate([norms(vectors[i : i + 2048]) for i in range(0, len(vectors), 2048)])
    wrong = np.flatnonzero(~(lengths <= _LARGEST_NORM))  # also true for NaN
    if wrong.size:
        raise DataError(
            f"{what} vector {start + int(wrong[0])} is not finite or longer than {_LARGEST_NORM:g}: exact search would not be exact"
        )
    if metric == "cosine" and not lengths.all():
        zero = start + int(np.flatnonzero(lengths == 0)[0])
        raise DataError(f"metric=cosine: {what} vector {zero} is zero and has no direction; remove such items or use metric=ip or l2")
    if 0 < lengths.max() < 1 / _LARGEST_NORM:
        raise DataError(f"{what} vectors are shorter than {1 / _LARGEST_NORM:g}: their products vanish in float32; scale them up")
    return lengths


class _Search:
    """One block of queries on its way through the corpus.

    Candidates are kept as flat arrays (query, id, float32 score). `kth` is each query's k-th best float32 score so far; a row that
    stays more than `_margin` below it cannot be among the first k.
    """

    def __init__(self, queries: Vectors, first_query: int, corpus: Vectors, k: int, metric: Metric, block_bytes: int) -> None:
        self.source = queries
        self.corpus = corpus
        self.k = k
        self.metric: Metric = metric
        self.most_candidates = max(4 * k * len(queries), block_bytes // 64)
        self.chunk = max(1, block_bytes // (16 * corpus.shape[1]))
        wide = np.asarray(queries, dtype=np.float32)
        self.norms = _checked_norms(wide, "query", first_query, metric)
        self.left = wide / self.norms[:, None].astype(np.float32) if metric == "cosine" else wide
        self.longest_row = 0.0
        self.query = np.empty(0, dtype=np.int64)
        self.id = np.empty(0, dtype=np.int64)
        self.score = np.empty(0, dtype=np.float64)
        self.kth = np.full(len(queries), -np.inf)
        self.next_drop = 0  # sorting is worth its time only after the candidates have doubled

    def add(self, first_id: int, block: NDArray[np.float32], block_norms: Scores, buffer: NDArray[np.float32]) -> None:
        """Take in the rows of one block."""
        products = buffer[: len(self.left) * len(block)].reshape(len(self.left), len(block))
        np.matmul(self.left, block.T, out=products)
        if self.metric == "l2":  # −‖q − x‖² + ‖q‖², the query's own part left out
            products *= 2
            products -= np.square(block_norms).astype(np.float32)
        self.longest_row = max(self.longest_row, float(block_norms.max()))
        if not self.query.size and products.shape[1] >= self.k:  # nothing to compare with yet: the block's own k-th best
            at = products.shape[1] - self.k
            self.kth = np.partition(products, at, axis=1)[:, at].astype(np.float64)
        self._take(first_id, products)

    def result(self) -> tuple[NDArray[np.int64], Scores]:
        """Settle what is left and return ids and scores, each of shape (n, k)."""
        self._drop_hopeless()
        scores = self._settle()
        shape = (len(self.source), self.k)
        return self.id.reshape(shape), scores.reshape(shape)

    def _margin(self) -> Scores:
        """How far below the k-th best a row may score in float32 and still be kept, for each query."""
        longest = np.full(len(self.source), self.longest_row)
        return 4 * rounding_error(self.corpus.shape[1]) * scale(self.norms, longest, self.metric)

    def _take(self, first_id: int, products: NDArray[np.float32]) -> None:
        """Add the block's promising rows; in halves where they are so many that listing them would take too much memory."""
        lowest = np.nextafter((self.kth - self._margin()).astype(np.float32), np.float32(-np.inf))
        promising = products >= lowest[:, None]
        columns = products.shape[1]
        if columns > 1 and np.count_nonzero(promising) > self.most_candidates:
            self._take(first_id, products[:, : columns // 2])
            self._take(first_id + columns // 2, products[:, columns // 2 :])
            return
        query, column = np.divmod(np.flatnonzero(promising), columns)
        if not query.size:
            return
        self.query = np.concatenate([self.query, query])
        self.id = np.concatenate([self.id, first_id + column])
        self.score = np.concatenate([self.score, products[query, column].astype(np.float64)])
        if self.query.size > min(self.next_drop, self.most_candidates):
            self._drop_hopeless()
        if self.query.size > self.most_candidates:
            self._settle()

    def _drop_hopeless(self) -> None:
        """Find each query's k-th best score anew and drop the candidates too far below it."""
        order = np.lexsort((-self.score, self.query))
        self._keep(order)
        count = np.bincount(self.query, minlength=len(self.source))
        start = np.cumsum(count) - count  # of each query within the sorted arrays
        full = count >= self.k
        self.kth[full] = self.score[start[full] + self.k - 1]
        self._keep(self.score >= (self.kth - self._margin())[self.query])
        self.next_drop = 2 * self.query.size

    def _settle(self) -> Scores:
        """Score all candidates in float64 and keep each query's first k; returns their scores."""
        exact = np.empty(self.query.size, dtype=np.float64)
        order = np.argsort(self.query, kind="stable")
        self._keep(order)
        ends = np.cumsum(np.bincount(self.query, minlength=len(self.source)))
        for i, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
            for at in range(start, end, self.chunk):
                part = slice(at, min(at + self.chunk, end))
                exact[part] = scores_of(self.source[i], self.corpus[self.id[part]], self.metric)
        order = np.lexsort((self.id, -exact, self.query))
        self._keep(order)
        exact = exact[order]
        first = np.concatenate([[0], ends[:-1]])
        within = np.arange(self.query.size) - first[self.query] < self.k
        self._keep(within)
        return np.asarray(exact[within])

    def _keep(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> None:
        self.query, self.id, self.score = self.query[which], self.id[which], self.score[which]
