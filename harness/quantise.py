"""Vectors as a store is to keep them.

``int8`` spreads each dimension over 256 steps between its smallest and largest value in the corpus; queries beyond are cut
there. ``binary`` keeps the sign of each dimension, eight to a byte, and is searched by
Hamming distance. ``fp16`` and ``bf16`` are conversions that a store makes itself. Recall is always against the exact
neighbours of the vectors that the model made, so it shows what quantising loses.

Both are as in ``sentence_transformers.util.quantize_embeddings``, with which the tests compare them. That one would bring torch along:
seconds before the first search, and half a gigabyte that would hide what an index takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Vectors, VectorType
from harness.memory import give_back

_ROWS_AT_ONCE = 8_192


def _blocks(vectors: Vectors) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(vectors), _ROWS_AT_ONCE))


@dataclass(frozen=True)
class Quantiser:
    """Turns vectors of shape (n, dim), float32, into what `harness.interfaces.Store.insert` takes for a vector type."""

    vector_type: VectorType
    ranges: Vectors | None = None
    """Smallest and largest value of each dimension, shape (2, dim), where the vector type needs them."""

    @classmethod
    def of(cls, corpus: Vectors, vector_type: VectorType) -> Quantiser:
        """Return the quantiser for a corpus, which may be memory-mapped; read once, and only where ranges are needed."""
        if vector_type != "int8":
            return cls(vector_type)
        found = []
        for block in _blocks(corpus):
            found.append((corpus[block].min(axis=0), corpus[block].max(axis=0)))
            give_back(corpus)
        low, high = zip(*found, strict=True)
        return cls(vector_type, np.stack([np.min(low, axis=0), np.max(high, axis=0)]))

    def __call__(self, vectors: Vectors) -> NDArray[Any]:
        """Return the vectors as the store takes them, contiguous; of a memory-mapped file a block at a time is in memory."""
        if self.vector_type not in ("int8", "binary"):
            return np.ascontiguousarray(vectors, dtype=np.float32)
        rows, dim = vectors.shape
        made = np.empty((rows, dim), np.int8) if self.vector_type == "int8" else np.empty((rows, -(-dim // 8)), np.uint8)
        for block in _blocks(vectors):
            made[block] = self._steps(vectors[block]) if self.vector_type == "int8" else np.packbits(vectors[block] > 0, axis=-1)
            give_back(vectors)
        return made

    def _steps(self, vectors: Vectors) -> NDArray[Any]:
        """Return in which of its dimension's 256 steps each value lies, from -128 on."""
        assert self.ranges is not None
        low, high = self.ranges
        step = (high - low) / 255
        step[step == 0] = 1  # a dimension that is the same everywhere
        steps: NDArray[Any] = np.clip(np.floor((vectors - low) / step), 0, 255) - 128
        return steps
