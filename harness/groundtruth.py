"""Exact nearest neighbours, block by block: what recall is measured against.

The bulk is one float32 matrix product; it only proposes candidates. Its scores are off by at most ε·scale
(`harness.metrics.similarity`), so every row that could belong to the first k is kept: those within twice that of the k-th best,
and as far again for safety. They are scored again in float64 from the source vectors, which decides order, ties (lower id first)
and the k-th score even where float32 cannot tell rows apart. So the answer does not depend on where the product was computed, on a
processor or on a GPU, nor on how the corpus was cut: the neighbours found in its parts, `merged`, are those of one search, bit for bit.

The corpus is read once, in blocks, and may be a memory-mapped ``.npy`` larger than memory; what was read of it is given back to
the system after each block. Beyond the queries and a few times the result, the memory used is a few times `block_bytes`, whatever
the data: where very many rows tie, candidates are settled early, which costs time and not memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, UnsupportedError
from harness.interfaces import Ids, Metric, Vectors, part_of
from harness.memory import give_back
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
    rows: range | None = None,
    memory_bytes: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    device: str = "cpu",
    report: Callable[[float], None] | None = None,
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
    rows : range, optional
        Only these rows of the corpus are searched, for `merged`; there may then be none among them that counts.
    memory_bytes : int, optional
        Most memory to take beyond the queries and a few times the result; blocks are made small enough.
    block_bytes : int, optional
        Size of one block of scores, where `memory_bytes` does not ask for less.
    device : str, optional
        Where the product is computed: in NumPy on ``cpu``, by torch on any other, ``cuda:0``.
    report : callable, optional
        Told after each block how much of the rows is done, 0 … 1.

    Returns
    -------
    Neighbours
        Ids and float64 scores of shape (n, min(k, rows that count)), nearest first, ties by the lower id.

    Raises
    ------
    DataError
        If there are no vectors or none that counts, dimensions differ, a value is not finite or out of float32's range for products, or
        a vector is zero under cosine.
    UnsupportedError
        If the device does not compute float32 products in float32.
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
    n, dim = len(queries), corpus.shape[1]
    searched = range(len(corpus)) if rows is None else rows
    k = min(k, len(searched) if below is None else int((part_of(np.arange(searched.start, searched.stop)) < below).sum()))
    if not k:
        if rows is None:
            raise none_counts(below, len(corpus))
        return Neighbours(np.empty((n, 0), dtype=np.int64), np.empty((n, 0)), metric, len(corpus), below)
    query_block = min(n, _QUERIES_A_BLOCK, max(1, block_bytes // (4 * max(dim, k))))
    row_block = max(1, block_bytes // (4 * max(query_block, dim)))
    starts = range(0, n, query_block)
    space = _Space(query_block * row_block) if device == "cpu" else _Accelerator(device)
    searches = [_Search(queries[start : start + query_block], start, corpus, k, metric, block_bytes, space) for start in starts]
    for ids, block, block_norms in _blocks(corpus, searched, row_block, metric, below):
        there = space.put(block)
        for search in searches:
            search.add(ids, there, block_norms, space)
        if report is not None:
            report((int(ids[-1]) + 1 - searched.start) / len(searched))
    del space
    results = [search.result() for search in searches]
    found, scores = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    return Neighbours(found, scores, metric, len(corpus), below)


def merged(parts: Iterable[Neighbours], *, k: int) -> Neighbours:
    """Return the k nearest of each query over several parts of one corpus.

    Parameters
    ----------
    parts : iterable of Neighbours
        Of the same queries among disjoint `rows`, in the order of the rows; one is held at a time.
    k : int
        Number of neighbours.

    Raises
    ------
    DataError
        If no row of any part counts.
    """
    best: Neighbours | None = None
    for part in parts:
        if best is None:
            ids, scores = part.ids, part.scores
        else:
            ids, scores = np.concatenate([best.ids, part.ids], axis=1), np.concatenate([best.scores, part.scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equals the earlier part's, whose ids are lower
        best = Neighbours(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1), part.metric, part.rows, part.below
        )
    if best is None or not best.ids.shape[1]:
        raise none_counts(None if best is None else best.below, 0 if best is None else best.rows)
    return best


def none_counts(below: int | None, rows: int) -> DataError:
    """Return the error that there is nothing to find."""
    return DataError(f"a filter that lets the first {below} parts pass leaves none of {rows} rows; take a larger share or corpus")


def _blocks(
    corpus: Vectors, rows: range, size: int, metric: Metric, below: int | None
) -> Iterator[tuple[Ids, NDArray[np.float32], Scores]]:
    """Yield each block's ids, its rows as the product needs them, and the source rows' norms; only rows that count."""
    for start in range(rows.start, rows.stop, size):
        ids = np.arange(start, min(start + size, rows.stop), dtype=np.int64)
        source = corpus[start : int(ids[-1]) + 1]
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

    def put(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows where products are computed."""
        return rows

    def product(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return every row of one against every row of the other; holds until the next one is asked for."""
        found = self._scores[: len(left) * len(right)].reshape(len(left), len(right))
        np.matmul(left, right.T, out=found)
        return found

    def kth(self, products: NDArray[np.float32], k: int) -> Scores:
        """Return the k-th largest of each line."""
        at = products.shape[1] - k
        return np.asarray(np.partition(products, at, axis=1)[:, at], dtype=np.float64)

    def promising(self, products: NDArray[np.float32], lowest: NDArray[np.float32], most: int) -> _Listed | None:
        """List what is not below each line's `lowest`, line by line; None where that is more than `most` and there are halves to take."""
        lines, columns = products.shape
        marks = np.greater_equal(products, lowest[:, None], out=self._marks[: lines * columns].reshape(lines, columns))
        if columns > 1 and np.count_nonzero(marks) > most:
            return None
        line, column = np.divmod(np.flatnonzero(marks), columns)
        return line, column, products[line, column]


class _Accelerator:
    """What `_Space` does, by torch on a GPU: only what is promising comes back.

    Raises
    ------
    UnsupportedError
        If products are rounded to fewer bits than float32 has, for which the margin would be too small.
    """

    def __init__(self, device: str) -> None:
        import torch

        torch.set_float32_matmul_precision("highest")  # no TF32
        self._torch, self._device = torch, device
        probe = torch.full((64, 64), 1 + 2**-12, device=device)  # which TF32 takes for 1
        if float((probe @ probe)[0, 0]) < 64 * (1 + 2**-12):
            raise UnsupportedError(
                f"device={device} rounds float32 products, as NVIDIA_TF32_OVERRIDE=1 makes it; unset that or use device=cpu"
            )

    def put(self, rows: NDArray[np.float32]) -> Any:
        return self._torch.tensor(rows, device=self._device)

    def product(self, left: Any, right: Any) -> Any:
        return left @ right.T

    def kth(self, products: Any, k: int) -> Scores:
        return np.asarray(self._torch.topk(products, k, dim=1).values[:, -1].cpu(), dtype=np.float64)

    def promising(self, products: Any, lowest: NDArray[np.float32], most: int) -> _Listed | None:
        marks = products >= self.put(lowest)[:, None]
        if products.shape[1] > 1 and int(marks.sum()) > most:
            return None
        line, column = marks.nonzero(as_tuple=True)
        return line.cpu().numpy(), column.cpu().numpy(), products[line, column].cpu().numpy()


_Listed = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Queries, columns of the block and scores."""


class _Search:
    """One block of queries on its way through the corpus.

    Candidates are kept as flat arrays (query, id, float32 score). `best` holds each query's k best float32 scores so far and `kth`
    the least of them; a row that stays more than `_margin` below it cannot be among the first k.
    """

    def __init__(
        self, queries: Vectors, first_query: int, corpus: Vectors, k: int, metric: Metric, block_bytes: int, space: _Space | _Accelerator
    ) -> None:
        self.source = queries
        self.corpus = corpus
        self.k = k
        self.metric: Metric = metric
        self.most_candidates = max(4 * k * len(queries), block_bytes // 64)
        self.block_bytes = block_bytes
        wide = np.asarray(queries, dtype=np.float32)
        self.norms = _checked_norms(wide, "query", np.arange(first_query, first_query + len(queries)), metric)
        left: NDArray[np.float32] = wide
        if metric == "cosine":
            left = np.asarray(wide / self.norms[:, None].astype(np.float32), dtype=np.float32)
        elif metric == "l2":
            left = np.concatenate([wide, np.ones((len(wide), 1), dtype=np.float32)], axis=1)
        self.left = space.put(left)
        self.longest_row = 0.0
        self.parts: list[tuple[NDArray[np.int64], Ids, NDArray[np.float32]]] = []
        self.held = 0
        self.best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        self.kth = np.full(len(queries), -np.inf)

    def add(self, ids: Ids, block: Any, block_norms: Scores, space: _Space | _Accelerator) -> None:
        """Take in the rows of one block, put where products are computed."""
        products = space.product(self.left, block)
        self.longest_row = max(self.longest_row, float(block_norms.max()))
        some = products[:, : max(self.k, products.shape[1] // 2)]
        if not self.held and some.shape[1] >= self.k:  # nothing to compare with yet: the k-th best of a part of the block
            self.kth = space.kth(some, self.k)
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

    def _take(self, ids: Ids, products: Any, space: _Space | _Accelerator) -> None:
        """Add the block's promising rows; in halves where they are so many that listing them would take too much memory."""
        lowest = np.nextafter((self.kth - self._margin()).astype(np.float32), np.float32(-np.inf))
        promising = space.promising(products, lowest, self.most_candidates)
        if promising is None:
            half = products.shape[1] // 2
            self._take(ids[:half], products[:, :half], space)
            self._take(ids[half:], products[:, half:], space)
            return
        query, column, score = promising
        if not query.size:
            return
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
