"""Generated vectors, as many as are asked for, to see what an index does at a size that no file at hand has; with ``model=none``.

They stand for no model, which every record of them says. White noise would not do: in hundreds of dimensions all its rows are about as far
from a query as the nearest, and no index finds that one. A model's vectors vary in far fewer directions than they have dimensions, and lie
in clusters. So a row here is a point of one of many Gaussian clusters in a few dimensions, spread over all of them, with a little noise.

Rows are written block by block, each from a seed of its own: memory does not depend on how many there are, a smaller corpus is the
beginning of a larger one, and no matrix product is taken, whose last bits depend on the library and on how many threads it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.datasets.checks import whole_number
from harness.datasets.vectors import describe, write_rows
from harness.errors import SettingsError
from harness.interfaces import Caveat, Data

_CLUSTERS = 1000
_DIRECTIONS = 32
"""In which the rows vary."""
_WITHIN = 1.0
"""Spread of the rows of a cluster in each direction, beside that of the clusters, which is 1."""
_NOISE = 0.3
"""Of each component, whose own spread is 1.4. With these three, 20,000 rows of 384 dimensions are about as hard to search as MiniLM's
vectors of 20,000 texts: local intrinsic dimension 20 (23), recall of HNSW at ef 16 and 64 0.86 and 0.99 (0.90 and 0.99), of IVF at 1, 4 and
16 of 128 cells 0.25, 0.48 and 0.82 (0.41, 0.69 and 0.88)."""
_BLOCK = 4096
"""Rows made from one seed."""
_AT_ONCE = 256
"""Rows worked on at a time, which stay in a core's own cache."""


@dataclass(frozen=True, kw_only=True)
class SyntheticVectors:
    """A corpus of generated vectors and queries of the same kind.

    Parameters
    ----------
    corpus, queries : int
        How many.
    dim : int
        Dimensions.
    seed : int
        Other seeds give other vectors.
    """

    corpus: int = 100_000
    queries: int = 1000
    dim: int = 384
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            *whole_number("corpus", self.corpus, least=1),
            *whole_number("queries", self.queries, least=1),
            *whole_number("dim", self.dim, least=2, most=65_536),
            *whole_number("seed", self.seed, least=0),
        ]
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Literal["vectors"]:
        return "vectors"

    @property
    def query_modality(self) -> Literal["vectors"]:
        return "vectors"

    def identity(self) -> None:
        """Settings and code say it all."""

    def materialise(self, folder: Path) -> Data:
        """Write ``corpus.npy`` and ``queries.npy``, as a canonical pass leaves vectors."""
        contents = hashlib.sha256(f"vectors {self.corpus} {self.queries}\n".encode())
        write_rows(folder / "corpus.npy", (self.corpus, self.dim), self._rows(0, self.corpus), contents)
        write_rows(folder / "queries.npy", (self.queries, self.dim), self._rows(1, self.queries), contents)
        describe(folder, dim=self.dim, fingerprint=contents.hexdigest())
        return Data(
            modality="vectors",
            name=f"{self.corpus:,} synthetic vectors",
            corpus=range(self.corpus),  # type: ignore[arg-type]
            queries=range(self.queries),  # type: ignore[arg-type]
            qrels=None,
            fingerprint=contents.hexdigest(),
            caveats=(
                Caveat(
                    "synthetic_vectors",
                    "The vectors were generated and stand for no model: memory, build times and how figures grow with the rows are an "
                    "index's own, but recall and latency on a model's vectors are others.",
                ),
            ),
            labels={"source": "generated", "dim": self.dim, "synthetic": True},
        )

    def _rows(self, stream: int, rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of one stream, some at a time."""
        shared = np.random.default_rng([self.seed, 0])
        centres = shared.standard_normal((_CLUSTERS, _DIRECTIONS), dtype=np.float32)
        spread = shared.standard_normal((_DIRECTIONS, self.dim), dtype=np.float32) / np.float32(_DIRECTIONS**0.5)
        for start in range(0, rows, _BLOCK):
            own = np.random.default_rng([self.seed, 1, stream, start])
            cluster = own.integers(_CLUSTERS, size=_BLOCK)
            inner = centres[cluster] + np.float32(_WITHIN) * own.standard_normal((_BLOCK, _DIRECTIONS), dtype=np.float32)
            for first in range(0, min(_BLOCK, rows - start), _AT_ONCE):
                some = inner[first : first + _AT_ONCE]
                found = np.float32(_NOISE) * own.standard_normal((_AT_ONCE, self.dim), dtype=np.float32)
                for direction in range(_DIRECTIONS):
                    found += some[:, direction, None] * spread[direction]
                yield found[: rows - start - first]
