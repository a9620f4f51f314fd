"""The oracle: brute force in NumPy, exact to float64 at the speed of a float32 matrix product.

Every query is scored against every row by one float32 matrix product. Its rounding error has a known
bound, so the rows that could belong to the answer are those within twice that bound of the k-th best;
only they are scored again, in float64 from the original numbers, and ranked by (distance, id). The
answer is therefore that of a float64 brute force, ties going to the lower id, also where float32 alone
would misrank: near-duplicates, and L2 far from the origin, where ‖x‖² − 2q·x cancels.

The product uses NumPy's BLAS, hence as many threads as OMP_NUM_THREADS allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Ids, Index, Metric, Ready, Vectors, VectorType, part_of
from stores.batches import Batches
from stores.in_process import no_endpoint, refuse_to_attach
from stores.index import FLAT
from stores.vectors import METRICS, check_rows, check_shape, unsupported

SCORES_BYTES = 64 * 2**20
"""Memory for one block of scores; larger blocks gain no speed and disturb the memory figure."""

UNIT_ROUNDOFF = 2.0**-24
"""Of float32 with rounding to nearest."""


@dataclass(frozen=True)
class _Held:
    """The rows that a search looks at, by rising id; replaced as a whole, so that a search sees all of a change or nothing."""

    rows: Vectors
    norms: Vectors
    ids: Ids

    def changed(self, vectors: Vectors, ids: Ids, gone: Ids) -> _Held:
        """Return the rows without some and with others."""
        stays = ~np.isin(self.ids, gone)
        rows = np.concatenate([self.rows[stays], vectors])
        norms = np.concatenate([self.norms[stays], _norms(vectors).astype(np.float32)])
        numbers = np.concatenate([self.ids[stays], ids])
        if len(numbers) > 1 and not (numbers[1:] > numbers[:-1]).all():
            order = np.argsort(numbers, kind="stable")
            rows, norms, numbers = rows[order], norms[order], numbers[order]
        return _Held(rows, norms, numbers)


class Exact:
    """Exact search, one matrix product a block of queries; ids are the rows' numbers."""

    name = "exact"
    in_process = True
    families: tuple[str, ...] = ("FLAT",)
    """Exact search has no other."""
    verified: Mapping[str, tuple[str, ...]] = {"2.4.6": families}
    metrics = METRICS
    vector_types: tuple[VectorType, ...] = ("fp32",)
    """Only what models make."""
    filters = True
    """Rows that do not pass are not looked at."""
    largest_insert = 65_536
    """A batch is only copied; 256 MiB of 4-kB vectors."""
    endpoint = no_endpoint
    attach = refuse_to_attach

    def __init__(self) -> None:
        self._dim = 0
        self._metric: Metric = "cosine"
        self._batches: Batches | None = None
        self._held: _Held | None = None

    def violations(
        self,
        *,
        index: Index,
        metric: Metric,
        dim: int,
        rows: int,  # noqa: ARG002
        k: Sequence[int],
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> list[str]:
        """What of this combination exact search cannot do."""
        return unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)

    def open(self, folder: Path) -> None:
        """Nothing to connect to, nothing to write."""

    def version(self) -> str:
        """NumPy's version: it does the work."""
        return f"numpy {np.__version__}"

    def create(
        self,
        collection: str,  # noqa: ARG002
        *,
        dim: int,
        metric: Metric,
        index: Index,
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> None:
        """Begin with no rows."""
        refused = unsupported(self, index=index, metric=metric, dim=dim, k=(), vector_type=vector_type, filtered=filtered)
        if refused:
            raise StoreError("; ".join(refused))
        self._dim, self._metric, self._batches, self._held = dim, metric, Batches(self.name), None

    def insert(self, vectors: Vectors, first_id: int) -> None:
        """Copy a batch.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, or a row cannot be ranked.
        """
        if self._batches is None:
            raise StoreError(f"store={self.name}: insert before create")
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=first_id)
        self._batches.keep(vectors.copy(), first_id)

    def build(self) -> None:
        """Lay the batches one after the other, by id.

        Raises
        ------
        harness.errors.StoreError
            When ids repeat or leave gaps.
        """
        if self._batches is None:
            raise StoreError(f"store={self.name}: build before create")
        joined = self._batches.joined()
        rows = np.empty((0, self._dim), np.float32) if joined is None else joined
        self._held = _Held(rows, _norms(rows).astype(np.float32), np.arange(len(rows), dtype=np.int64))
        self._batches = Batches(self.name)

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:  # noqa: ARG002
        """Ready as soon as it is built.

        Raises
        ------
        harness.errors.StoreError
            When it is not built, or holds another number of rows.
        """
        held = None if self._held is None else len(self._held.rows)
        if held != rows:
            raise StoreError(f"store={self.name} holds {held or 0} built rows, not {rows}")
        return Ready(rows=rows, segments=1, index_state="Finished")

    def search(self, queries: Vectors, k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:  # noqa: ARG002
        """Ids of the k nearest rows of each query, exact, ties by lower id.

        Parameters
        ----------
        queries : ndarray of shape (n, dim), float32
        k : int
        params : mapping
            Exact search has none.
        below : int, optional
            Only rows whose part is smaller count; they are copied in each search.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where there are fewer than k rows.
        """
        held = self._built()
        check_shape(self.name, queries, dim=self._dim)
        rows, norms, ids = held.rows, held.norms, held.ids
        if below is not None:
            passing = np.flatnonzero(part_of(ids) < below)
            rows, norms, ids = rows[passing], norms[passing], ids[passing]
        answer = np.full((len(queries), k), -1, dtype=np.int64)
        found = min(k, len(rows))
        if found:
            at_once = max(1, SCORES_BYTES // (4 * len(rows)))
            for start in range(0, len(queries), at_once):
                for row, near in enumerate(self._near(queries[start : start + at_once], found, rows, norms), start):
                    first = near[np.lexsort((near, self._distances(queries[row], rows[near])))[:found]]
                    answer[row, :found] = ids[first]
        return answer

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """Insert rows: all are copied, with the new ones among them."""
        self._change(vectors, ids, ids)

    def upsert(self, vectors: Vectors, ids: Ids) -> None:
        """Replace rows, likewise."""
        self._change(vectors, ids, ids)

    def delete(self, ids: Ids) -> None:
        """Take rows out, likewise."""
        self._change(np.empty((0, self._dim), np.float32), np.empty(0, np.int64), ids)

    def _change(self, vectors: Vectors, ids: Ids, gone: Ids) -> None:
        """Take rows out and put others in; searches under way go on with what there was."""
        held = self._built()
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=int(ids[0]) if len(ids) else 0)
        self._held = held.changed(vectors, ids, gone)

    def _built(self) -> _Held:
        if self._held is None:
            raise StoreError(f"store={self.name}: search before the collection is built")
        return self._held

    def _near(self, queries: Vectors, found: int, rows: Vectors, norms: Vectors) -> list[Ids]:
        """Numbers of all `rows` that may be among the `found` nearest of each query, by float32 scores.

        A dot product of d terms errs by at most γ(d)·‖q‖·‖x‖ with γ(d) = d·u / (1 − d·u) (Higham, Accuracy and
        Stability of Numerical Algorithms, 2nd ed., section 3.1); 8 more roundings cover what else is done here.
        """
        lengths, largest = _norms(queries), float(norms.max())
        if not _in_float32_range(norms) or not _in_float32_range(lengths):
            return [np.arange(len(rows))] * len(queries)
        scores = queries @ rows.T
        np.negative(scores, out=scores)
        steps = (self._dim + 8) * UNIT_ROUNDOFF
        errors = steps / (1.0 - steps) * lengths
        if self._metric == "cosine":
            scores /= norms
        elif self._metric == "ip":
            errors *= largest
        else:
            scores *= 2.0
            scores += np.square(norms)
            errors = 2.0 * errors * largest + 8.0 * UNIT_ROUNDOFF * largest * (largest + 2.0 * lengths)
        limits = np.partition(scores, found - 1, axis=1)[:, found - 1] + 2.0 * errors
        return [np.flatnonzero(row <= limit) for row, limit in zip(scores, limits, strict=True)]

    def _distances(self, query: Vectors, rows: Vectors) -> NDArray[np.float64]:
        """Distances in float64 from one query to some rows; equal rows get equal distances, wherever they lie."""
        wide, query64 = rows.astype(np.float64), query.astype(np.float64)
        if self._metric == "l2":
            distances: NDArray[np.float64] = np.square(wide - query64).sum(axis=1)
            return distances
        products: NDArray[np.float64] = (wide * query64).sum(axis=1)
        if self._metric == "cosine":
            products /= _norms(rows)
        return -products

    def index_bytes(self) -> int | None:
        """Bytes of the vectors, which are all there is; None before they are built."""
        return None if self._held is None else self._held.rows.nbytes

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """The only one."""
        return FLAT()

    def drop(self) -> None:
        """Forget the rows."""
        self._batches = self._held = None

    def close(self) -> None:
        """Forget the rows."""
        self.drop()


def _norms(vectors: Vectors) -> NDArray[np.float64]:
    """Euclidean lengths of the rows, in float64."""
    lengths: NDArray[np.float64] = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    return lengths


def _in_float32_range(norms: NDArray[np.floating]) -> bool:
    """Whether products of such vectors stay clear of float32's overflow and underflow, which the error bound leaves out."""
    sizes = norms[norms > 0]
    return bool(sizes.size == 0 or (sizes.min() > 1e-12 and sizes.max() < 1e12))
