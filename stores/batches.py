"""Rows on their way into an engine that takes them all at once: kept batch by batch, then laid one after the other.

Engines inside this process are handed all rows when the index is built, so that the order and the size of inserts change nothing
and all of the index's own work is build time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError


class Batches:
    """Batches of rows by the id of their first.

    Parameters
    ----------
    store : str
        Name for messages.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._by_first_id: dict[int, NDArray[Any]] = {}

    def keep(self, rows: NDArray[Any], first_id: int) -> None:
        """Keep a batch; the array is the caller's no longer."""
        self._by_first_id[first_id] = rows

    def joined(self) -> NDArray[Any] | None:
        """Return all rows in the order of their ids and forget the batches; None if there were none.

        Raises
        ------
        harness.errors.StoreError
            When ids repeat or leave gaps.
        """
        expected = 0
        for first_id, batch in sorted(self._by_first_id.items()):
            if first_id != expected:
                raise StoreError(f"store={self._store}: ids must run from 0 without gaps or repeats; expected {expected}, got {first_id}")
            expected += len(batch)
        batches = [batch for _, batch in sorted(self._by_first_id.items())]
        self._by_first_id = {}
        if len(batches) < 2:
            return batches[0] if batches else None
        return np.concatenate(batches)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return a copy of the rows at unit length, so that the inner product is the cosine.

    The lengths are computed in float64: neither large nor small numbers are lost on the way. A row of zeros stays as it is.
    """
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return wide.astype(np.float32)
