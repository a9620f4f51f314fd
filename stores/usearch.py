"""USearch in this process: another engine for the same graph, https://github.com/unum-cloud/USearch.

`insert` copies rows, `build` links them all, with as many threads as OMP_NUM_THREADS says (all cores without it); on several
threads a graph's links depend on which row came first. A search of one query runs on one thread.

The number of candidates belongs to the index and not to a search: searches side by side must agree on ``ef``. FLAT is the library's
exact search over the same rows. There are no filters: the library takes none from Python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Ids, Index, Metric, Ready, VectorType
from stores.batches import Batches
from stores.in_process import no_endpoint, refuse_to_attach
from stores.index import HNSW
from stores.vectors import METRICS, check_rows, check_shape, unsupported

METRIC_NAMES: Mapping[Metric, str] = {"cosine": "cos", "ip": "ip", "l2": "l2sq"}

DTYPE_NAMES: Mapping[VectorType, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "i8", "binary": "b1"}


class USearch:
    """USearch's graph; ids are the rows' numbers."""

    name = "usearch"
    in_process = True
    families: tuple[str, ...] = ("FLAT", "HNSW")
    """The library has no other."""
    verified: Mapping[str, tuple[str, ...]] = {"2.26.6": families}
    metrics = METRICS
    vector_types: tuple[VectorType, ...] = ("fp32", "fp16", "bf16", "int8", "binary")
    """All of them."""
    filters = False
    largest_insert = 65_536
    """A batch is only copied; 256 MiB of 4-kB vectors."""
    endpoint = no_endpoint
    attach = refuse_to_attach

    def __init__(self) -> None:
        self._library: Any = None
        self._dim = 0
        self._metric: Metric = "cosine"
        self._vector_type: VectorType = "fp32"
        self._index: Index | None = None
        self._batches = Batches(self.name)
        self._graph: Any = None

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
        """What of this combination the library cannot do."""
        return unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)

    def open(self, folder: Path) -> None:  # noqa: ARG002
        """Import the library; nothing is written.

        Raises
        ------
        harness.errors.StoreError
            When it is not installed.
        """
        try:
            import usearch.index
        except ImportError as error:
            raise StoreError(f"store={self.name} needs the package usearch; pip install 'embedding-search-harness[usearch]'") from error
        self._library = usearch.index

    def version(self) -> str:
        """The library's version and, once there is a graph, the instructions that it uses for these vectors."""
        try:
            found = f"usearch {version('usearch')}"
        except PackageNotFoundError:
            return "usearch"
        return found if self._graph is None else f"{found} ({self._graph.hardware_acceleration})"

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
        """Begin with no rows.

        Raises
        ------
        harness.errors.StoreError
            When the store is not open, or has not got what is asked for.
        """
        refused = self.violations(index=index, metric=metric, dim=dim, rows=0, k=(), vector_type=vector_type, filtered=filtered)
        if refused:
            raise StoreError("; ".join(refused))
        if self._library is None:
            raise StoreError(f"store={self.name} is not open")
        self.drop()
        self._dim, self._metric, self._vector_type, self._index = dim, metric, vector_type, index

    def insert(self, vectors: NDArray[Any], first_id: int) -> None:
        """Copy a batch.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, or a row cannot be ranked.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: insert before create")
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=first_id, vector_type=self._vector_type)
        self._batches.keep(vectors.copy(), first_id)

    def build(self) -> None:
        """Link all rows; FLAT needs the rows only, and is linked as thinly as can be.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, ids repeat or leave gaps, or the library fails.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: build before create")
        build = self._index.build_params() or {"M": 2, "ef_construction": 1}
        metric = "hamming" if self._vector_type == "binary" else METRIC_NAMES[self._metric]
        graph = self._library.Index(
            ndim=self._dim,
            metric=metric,
            dtype=DTYPE_NAMES[self._vector_type],
            connectivity=build["M"],
            expansion_add=build["ef_construction"],
        )
        rows = self._batches.joined()
        if rows is not None:
            try:
                graph.add(np.arange(len(rows), dtype=np.uint64), rows, threads=_threads())
            except (RuntimeError, ValueError) as error:
                raise StoreError(f"store={self.name} could not add {len(rows)} rows: {error}") from error
        self._graph = graph

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:  # noqa: ARG002
        """Ready as soon as it is built.

        Raises
        ------
        harness.errors.StoreError
            When it is not built, or holds another number of rows.
        """
        held = 0 if self._graph is None else len(self._graph)
        if self._graph is None or held != rows:
            raise StoreError(f"store={self.name} holds {held} built rows, not {rows}")
        return Ready(rows=rows, segments=1, index_state="Finished", detail=f"threads: {_threads()}")

    def search(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Ids of the nearest rows.

        Parameters
        ----------
        queries : ndarray of shape (n, dim), float32
            int8 for int8 rows, uint8 of shape (n, dim / 8) for binary ones, which are ranked by Hamming distance: that is the
            order of each metric for vectors of -1 and 1.
        k : int
        params : mapping
            ``ef``; empty for FLAT.
        below : int, optional
            Refused.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where fewer were found.

        Raises
        ------
        harness.errors.StoreError
            Before the collection is built, with a filter, or when the library fails.
        """
        answer = np.full((len(queries), k), -1, dtype=np.int64)
        found = self._found(queries, k, params, below)
        keys, counts = (found.keys[None], [len(found.keys)]) if len(queries) == 1 else (found.keys, found.counts)
        for row, count in enumerate(counts):
            answer[row, :count] = keys[row, :count]
        return answer

    def distance_computations(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> float:
        """Distances computed a query, by the library's own count: mean over the queries."""
        return float(self._found(queries, k, params, below).computed_distances) / len(queries)

    def _found(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], below: int | None) -> Any:
        graph = self._graph
        if graph is None:
            raise StoreError(f"store={self.name}: search before the collection is built")
        if below is not None:
            raise StoreError(f"store={self.name} has no search with a filter")
        check_shape(self.name, queries, dim=self._dim, vector_type=self._vector_type)
        ef = params.get("ef")
        if ef is not None:
            candidates = min(int(ef), max(len(graph), k))  # more candidates than rows change no answer, but take memory
            if graph.expansion_search != candidates:
                graph.expansion_search = candidates
        alone = len(queries) == 1
        try:
            return graph.search(queries[0] if alone else queries, k, exact=ef is None, threads=1 if alone else _threads())
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"store={self.name} could not search: {error}") from error

    def index_bytes(self) -> int | None:
        """Bytes of rows and graph as the library would write them to a file; None before they are built."""
        return None if self._graph is None else int(self._graph.serialized_length)

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """A small graph with ``ef = k``."""
        return HNSW(M=8, ef_construction=40, ef=(k,))

    def drop(self) -> None:
        """Free the graph."""
        self._graph, self._index, self._batches = None, None, Batches(self.name)

    def close(self) -> None:
        """Free the graph."""
        self.drop()
        self._library = None


def _threads() -> int:
    """As many as OpenMP programs take, so that the cell's own number of threads holds here too."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(wanted) if wanted.isdigit() and int(wanted) else cores
