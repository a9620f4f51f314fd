"""Vectors as a store is to keep them.

``int8`` spreads each dimension over 256 steps between its smallest and largest value in the corpus; queries beyond are cut
there. ``binary`` keeps the sign of each dimension, eight to a byte, and is searched by
Hamming distance. ``fp16`` and ``bf16`` are conversions that a store makes itself. Recall is always against the exact
neighbours of the vectors that the model made, so it shows what quantising loses.

Both are as in ``sentence_transformers.util.quantize_embeddings``, with which the tests compare them. That one would bring torch along:
seconds before the first search, and half a gigabyte that would hide what an index takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Vectors, VectorType

_ROWS_AT_ONCE = 8_192


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
        parts = [corpus[start : start + _ROWS_AT_ONCE] for start in range(0, len(corpus), _ROWS_AT_ONCE)]
        return cls(vector_type, np.stack([np.min([p.min(axis=0) for p in parts], axis=0), np.max([p.max(axis=0) for p in parts], axis=0)]))

    def __call__(self, vectors: Vectors) -> NDArray[Any]:
        """Return the vectors as the store takes them, contiguous."""
        if self.vector_type == "binary":
            return np.packbits(np.asarray(vectors) > 0, axis=-1)
        if self.ranges is None:
            return np.ascontiguousarray(vectors, dtype=np.float32)
        low, high = self.ranges
        step = (high - low) / 255
        step[step == 0] = 1  # a dimension that is the same everywhere
        made = np.empty(vectors.shape, np.int8)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            made[block] = np.clip(np.floor((vectors[block] - low) / step), 0, 255) - 128
        return made
