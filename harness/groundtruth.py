"""Exact nearest neighbours, block by block: what recall is measured against.

The bulk is one float32 matrix product; it only proposes candidates. Its scores are off by at most ε·scale
(`harness.metrics.similarity`), so every row that could belong to the first k is kept: those within twice that of the k-th best,
and as far again for safety. They are scored again in float64 from the source vectors, which decides order, ties (lower id first)
and the k-th score even where float32 cannot tell rows apart.

The corpus is read once, in blocks, and may be a memory-mapped ``.npy`` larger than memory; what was read of it is given back to
the system after each block. Beyond the queries and a few times the result, the memory used is a few times `block_bytes`, whatever
the data: where very many rows tie, candidates are settled early, which costs time and not memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.interfaces import Ids, Metric, Vectors, part_of
from harness.metrics.similarity import Neighbours, Scores, norms, rounding_error, scale, scores_of_pairs

BLOCK_BYTES = 16 * 2**20
"""Memory for one block of float32 scores; large enough for the product's full speed, small enough to stay near the caches."""

BLOCKS_IN_MEMORY = 8
"""How many times a block's size is in use at once: scores, rows, both while they are compared, candidates, pages of the file."""

_QUERIES_A_BLOCK = 2048
_LARGEST_NORM = 1e15
"""Beyond this, float32 products overflow; below its reciprocal they vanish. No embedding model comes near."""

_PAIRS_AT_ONCE = 256
"""Pairs of vectors scored in float64 at a time; few enough to stay in a core's own cache."""

_FAULT_BYTES = 2**16
"""What Linux maps at once around a page of a file that is touched."""


def exact_neighbours(
    queries: Vectors,
    corpus: Vectors,
    *,
    k: int,
    metric: Metric,
    below: int | None = None,
    memory_bytes: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
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
    below : int, optional
        Only rows whose part (`harness.interfaces.part_of`) is smaller count.
    memory_bytes : int, optional
        Most memory to take beyond the queries and a few times the result; blocks are made small enough.
    block_bytes : int, optional
        Size of one block of scores, where `memory_bytes` does not ask for less.

    Returns
    -------
    Neighbours
        Ids and float64 scores of shape (n, min(k, rows that count)), nearest first, ties by the lower id.

    Raises
    ------
    DataError
        If there are no vectors or none that counts, dimensions differ, a value is not finite or out of float32's range for products, or
        a vector is zero under cosine.
    ValueError
        If `k`, `memory_bytes` or `block_bytes` is too small.
    """
    if memory_bytes is not None:
        block_bytes = min(block_bytes, memory_bytes // BLOCKS_IN_MEMORY)
    if k < 1 or block_bytes < 2**12:
        raise ValueError(
            f"k must be at least 1, block_bytes at least 4096 and memory_bytes {BLOCKS_IN_MEMORY} times that,"
            f" got {k}, {block_bytes} and {memory_bytes}"
        )
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1] or not queries.size or not corpus.size:
        raise DataError(
            f"exact search needs queries and corpus of one dimension and at least one row each, got {queries.shape}, {corpus.shape}"
        )
    n, rows, dim = len(queries), len(corpus), corpus.shape[1]
    found = Neighbours(np.empty((n, 0), dtype=np.int64), np.empty((n, 0)), metric, rows, below)
    k = min(k, found.eligible)
    if not k:
        raise DataError(f"a filter that lets the first {below} parts pass leaves none of {rows} rows; take a larger share or corpus")
    query_block = min(n, _QUERIES_A_BLOCK, max(1, block_bytes // (4 * max(dim, k))))
    row_block = max(1, block_bytes // (4 * max(query_block, dim)))
    starts = range(0, n, query_block)
    searches = [_Search(queries[start : start + query_block], start, corpus, k, metric, block_bytes) for start in starts]
    space = _Space(query_block * row_block)
    for ids, block, block_norms in _blocks(corpus, row_block, metric, below):
        for search in searches:
            search.add(ids, block, block_norms, space)
    del space
    results = [search.result() for search in searches]
    return Neighbours(np.concatenate([ids for ids, _ in results]), np.concatenate([scores for _, scores in results]), metric, rows, below)


def _blocks(corpus: Vectors, size: int, metric: Metric, below: int | None) -> Iterator[tuple[Ids, NDArray[np.float32], Scores]]:
    """Yield each block's ids, its rows as the product needs them, and the source rows' norms; only rows that count."""
    for start in range(0, len(corpus), size):
        ids = np.arange(start, min(start + size, len(corpus)), dtype=np.int64)
        source = corpus[start : start + size]
        if below is not None:
            ids = ids[part_of(ids) < below]
            source = source[ids - start]
        if not len(ids):
            continue
        block = np.asarray(source, dtype=np.float32)
        lengths = _checked_norms(block, "corpus", ids, metric)
        if metric == "cosine":
            block = np.divide(block, lengths[:, None], dtype=np.float32, casting="same_kind")
        elif metric == "l2":  # −‖q − x‖² + ‖q‖², the query's own part left out, as one product: (q, 1) · (2x, −‖x‖²)
            block = np.concatenate([2 * block, -np.square(lengths)[:, None].astype(np.float32)], axis=1)
        yield ids, block, lengths
        del block, source
        give_back(corpus)


def give_back(corpus: Vectors) -> None:
    """Tell the system that the pages of a memory-mapped file are not needed for now, so that they do not pile up in this process."""
    base: object = corpus
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not corpus.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # only where nothing can have been changed: a private copy's changes would be lost


def _checked_norms(vectors: NDArray[np.float32], what: str, ids: Ids, metric: Metric) -> Scores:
    """Compute the rows' norms, a few thousand rows at a time so that their float64 copy stays small."""
    lengths = np.concatenate([norms(vectors[i : i + 2048]) for i in range(0, len(vectors), 2048)])
    wrong = np.flatnonzero(~(lengths <= _LARGEST_NORM))  # also true for NaN
    if wrong.size:
        raise DataError(
            f"{what} vector {int(ids[wrong[0]])} is not finite or longer than {_LARGEST_NORM:g}: exact search would not be exact"
        )
    if metric == "cosine" and not lengths.all():
        zero = int(ids[np.flatnonzero(lengths == 0)[0]])
        raise DataError(f"metric=cosine: {what} vector {zero} is zero and has no direction; remove such items or use metric=ip or l2")
    if 0 < lengths.max() < 1 / _LARGEST_NORM:
        raise DataError(f"{what} vectors are shorter than {1 / _LARGEST_NORM:g}: their products vanish in float32; scale them up")
    return lengths


class _Space:
    """Memory for one block's scores and for what comparing them says, the same for all blocks: fresh memory costs more than comparing."""

    def __init__(self, size: int) -> None:
        self._scores = np.empty(size, dtype=np.float32)
        self._marks = np.empty(size, dtype=np.bool_)

    def scores(self, rows: int, columns: int) -> NDArray[np.float32]:
        return self._scores[: rows * columns].reshape(rows, columns)

    def marks(self, rows: int, columns: int) -> NDArray[np.bool_]:
        return self._marks[: rows * columns].reshape(rows, columns)


class _Search:
    """One block of queries on its way through the corpus.

    Candidates are kept as flat arrays (query, id, float32 score). `best` holds each query's k best float32 scores so far and `kth`
    the least of them; a row that stays more than `_margin` below it cannot be among the first k.
    """

    def __init__(self, queries: Vectors, first_query: int, corpus: Vectors, k: int, metric: Metric, block_bytes: int) -> None:
        self.source = queries
        self.corpus = corpus
        self.k = k
        self.metric: Metric = metric
        self.most_candidates = max(4 * k * len(queries), block_bytes // 64)
        self.block_bytes = block_bytes
        wide = np.asarray(queries, dtype=np.float32)
        self.norms = _checked_norms(wide, "query", np.arange(first_query, first_query + len(queries)), metric)
        self.left: NDArray[np.float32] = wide
        if metric == "cosine":
            self.left = np.asarray(wide / self.norms[:, None].astype(np.float32), dtype=np.float32)
        elif metric == "l2":
            self.left = np.concatenate([wide, np.ones((len(wide), 1), dtype=np.float32)], axis=1)
        self.longest_row = 0.0
        self.parts: list[tuple[NDArray[np.int64], Ids, NDArray[np.float32]]] = []
        self.held = 0
        self.best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        self.kth = np.full(len(queries), -np.inf)

    def add(self, ids: Ids, block: NDArray[np.float32], block_norms: Scores, space: _Space) -> None:
        """Take in the rows of one block."""
        products = space.scores(len(self.left), len(block))
        np.matmul(self.left, block.T, out=products)
        self.longest_row = max(self.longest_row, float(block_norms.max()))
        some = products[:, : max(self.k, products.shape[1] // 2)]
        if not self.held and some.shape[1] >= self.k:  # nothing to compare with yet: the k-th best of a part of the block
            at = some.shape[1] - self.k
            self.kth = np.partition(some, at, axis=1)[:, at].astype(np.float64)
        self._take(ids, products, space)

    def result(self) -> tuple[Ids, Scores]:
        """Settle what is left and return ids and scores, each of shape (n, k)."""
        self._drop_hopeless()
        scores = self._settle()
        shape = (len(self.source), self.k)
        return self.parts[0][1].reshape(shape), scores.reshape(shape)

    def _margin(self) -> Scores:
        """How far below the k-th best a row may score in float32 and still be kept, for each query."""
        longest = np.full(len(self.source), self.longest_row)
        return 4 * rounding_error(self.corpus.shape[1]) * scale(self.norms, longest, self.metric)

    def _take(self, ids: Ids, products: NDArray[np.float32], space: _Space) -> None:
        """Add the block's promising rows; in halves where they are so many that listing them would take too much memory."""
        lowest = np.nextafter((self.kth - self._margin()).astype(np.float32), np.float32(-np.inf))
        promising = np.greater_equal(products, lowest[:, None], out=space.marks(*products.shape))
        columns = products.shape[1]
        if columns > 1 and np.count_nonzero(promising) > self.most_candidates:
            self._take(ids[: columns // 2], products[:, : columns // 2], space)
            self._take(ids[columns // 2 :], products[:, columns // 2 :], space)
            return
        query, column = np.divmod(np.flatnonzero(promising), columns)
        if not query.size:
            return
        score = products[query, column]
        self.parts.append((query, ids[column], score))
        self.held += query.size
        self._raise_kth(query, score)
        if self.held > self.most_candidates:
            self._drop_hopeless()
            if self.held > self.most_candidates // 2:
                self._settle()

    def _raise_kth(self, query: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        """Take new scores, sorted by query, into each query's k best."""
        count = np.bincount(query, minlength=len(self.source))
        which = np.flatnonzero(count)
        width = int(count.max())
        line = np.repeat(np.arange(len(which)), count[which])
        place = np.arange(query.size) - np.repeat(np.cumsum(count[which]) - count[which], count[which])
        both = np.full((len(which), self.k + width), -np.inf, dtype=np.float32)
        both[:, : self.k] = self.best[which]
        both[line, self.k + place] = score
        both.partition(width, axis=1)
        self.best[which] = both[:, width:]
        self.kth[which] = np.maximum(self.kth[which], both[:, width])

    def _candidates(self) -> tuple[NDArray[np.int64], Ids, NDArray[np.float32]]:
        query, ids, score = (np.concatenate(arrays) for arrays in zip(*self.parts, strict=True))
        return query, ids, score

    def _hold(self, query: NDArray[np.int64], ids: Ids, score: NDArray[np.float32]) -> None:
        self.parts = [(query, ids, score)]
        self.held = query.size

    def _drop_hopeless(self) -> None:
        """Drop the candidates that have since fallen too far below the k-th best."""
        query, ids, score = self._candidates()
        kept = score >= (self.kth - self._margin())[query]
        self._hold(query[kept], ids[kept], score[kept])

    def _settle(self) -> Scores:
        """Score all candidates in float64 and keep each query's first k; returns their scores."""
        query, ids, score = self._candidates()
        order = np.argsort(ids)  # rows in the order of the file
        query, ids, score = query[order], ids[order], score[order]
        exact = np.empty(query.size, dtype=np.float64)
        wide = np.asarray(self.source, dtype=np.float64)
        chunk = max(1, min(_PAIRS_AT_ONCE, self.block_bytes // max(32 * self.corpus.shape[1], _FAULT_BYTES)))
        for start in range(0, query.size, chunk):
            part = slice(start, start + chunk)
            rows = self.corpus[ids[part]]
            exact[part] = scores_of_pairs(wide, rows, self.metric, which=query[part], query_norms=self.norms)
            give_back(self.corpus)
        order = np.lexsort((ids, -exact, query))
        query, ids, score, exact = query[order], ids[order], score[order], exact[order]
        count = np.bincount(query, minlength=len(self.source))
        within = np.arange(query.size) - (np.cumsum(count) - count)[query] < self.k
        self._hold(query[within], ids[within], score[within])
        return np.asarray(exact[within])
