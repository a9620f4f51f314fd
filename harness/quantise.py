"""Vectors as a store is to keep them: sentence-transformers' own quantisation of what the model made.

``int8`` spreads each dimension over 256 steps between its smallest and largest value in the corpus; queries beyond are cut
there. ``binary`` keeps the sign of each dimension, eight to a byte, and is searched by
Hamming distance. ``fp16`` and ``bf16`` are conversions that a store makes itself. Recall is always against the exact
neighbours of the vectors that the model made, so it shows what quantising loses.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import CellError
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

    def __call__(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return the vectors as the store takes them, contiguous; what is int8 or bits already comes back as it is."""
        if vectors.dtype in (np.int8, np.uint8):
            return np.ascontiguousarray(vectors)
        if self.vector_type not in ("int8", "binary"):
            return np.ascontiguousarray(vectors, dtype=np.float32)
        from sentence_transformers.util import quantize_embeddings

        if self.vector_type == "binary":
            return np.ascontiguousarray(quantize_embeddings(np.asarray(vectors), precision="ubinary"))
        return np.ascontiguousarray(quantize_embeddings(np.asarray(vectors), precision="int8", ranges=self.ranges))

    def apart(self, matrices: Sequence[Vectors], folder: Path) -> list[NDArray[Any]]:
        """Return some matrices of vectors as the store takes them, memory-mapped, made by a process of its own in `folder`.

        sentence-transformers brings torch along, half a gigabyte that would hide what the index itself takes in the memory figure.

        Raises
        ------
        harness.errors.CellError
            When that process did not end well.
        """
        if self.vector_type not in ("int8", "binary"):
            return list(matrices)
        paths = [folder / f"{self.vector_type}_{number}.npy" for number in range(len(matrices))]
        child = multiprocessing.get_context("fork").Process(target=self._write, args=(matrices, paths))
        child.start()
        child.join()
        if child.exitcode:
            raise CellError(f"quantising the vectors as {self.vector_type} ended with exit code {child.exitcode}")
        return [np.load(path, mmap_mode="r") for path in paths]

    def _write(self, matrices: Sequence[Vectors], paths: Sequence[Path]) -> None:
        for vectors, path in zip(matrices, paths, strict=True):
            first = self(vectors[:1])
            out = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(vectors), first.shape[1]))
            for start in range(0, len(vectors), _ROWS_AT_ONCE):
                out[start : start + _ROWS_AT_ONCE] = self(vectors[start : start + _ROWS_AT_ONCE])
            out.flush()
