"""Vectors as a store is to keep them: sentence-transformers' own quantisation of what the model made.

``int8`` spreads each dimension over 256 steps between its smallest and largest value in the corpus; queries beyond are cut
there. ``binary`` keeps the sign of each dimension, eight to a byte, and is searched by
Hamming distance. ``fp16`` and ``bf16`` are conversions that a store makes itself. Recall is always against the exact
neighbours of the vectors that the model made, so it shows what quantising loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Vectors, VectorType

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Quantiser:
    """Turns vectors of shape (n, dim), float32, into what `harness.interfaces.Store.insert` takes for a vector type."""

    vector_type: VectorType
    ranges: Vectors | None = None
    """Smallest and largest value of each dimension, shape (2, dim)."""

    @classmethod
    def of(cls, corpus: Vectors, vector_type: VectorType) -> Quantiser:
        """Return the quantiser for a corpus, which may be memory-mapped; read once, and only where ranges are needed."""
        if vector_type != "int8":
            return cls(vector_type)
        parts = [corpus[start : start + _ROWS_AT_ONCE] for start in range(0, len(corpus), _ROWS_AT_ONCE)]
        return cls(vector_type, np.stack([np.min([p.min(axis=0) for p in parts], axis=0), np.max([p.max(axis=0) for p in parts], axis=0)]))

    def __call__(self, vectors: Vectors) -> NDArray[Any]:
        """Return the vectors as the store takes them, contiguous."""
        if self.vector_type not in ("int8", "binary"):
            return np.ascontiguousarray(vectors, dtype=np.float32)
        from sentence_transformers.util import quantize_embeddings

        if self.vector_type == "binary":
            return np.ascontiguousarray(quantize_embeddings(np.asarray(vectors), precision="ubinary"))
        return np.ascontiguousarray(quantize_embeddings(np.asarray(vectors), precision="int8", ranges=self.ranges))
