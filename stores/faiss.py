"""FAISS in this process: the index by itself, with no database around it.

What a reader of its numbers should know, found in faiss-cpu 1.15.1 by reading and measuring:

**What is measured.** `insert` copies rows (cosine: at unit length), `build` trains and adds them all at once, so that
all of the index's own work is build time and the order of inserts changes nothing. Rows and index are both in memory
while it is built.

**Threads.** Building uses as many OpenMP threads as OMP_NUM_THREADS says (all cores without it), which the collection's readiness states.
A search of one query runs on one thread, whichever index; one of many spreads its queries. Searches side by side do not
hold Python's lock while FAISS works, and each carries its own parameters. All seeds are FAISS's fixed ones: on one
thread an index is the same each time; on several, a graph's links depend on which row came first.

**Families.** They are built as Milvus's engine, which began as FAISS, builds them: SCANN is 4-bit codes of pairs of
dimensions and a second look at the rows themselves; IVF_RABITQ turns the rows by a random rotation first. HNSW_PQ takes
the square distance between unit vectors for the cosine, which ranks alike, because FAISS links product-quantised rows by
L2 whatever the metric: with the inner product recall fell from 0.87 to 0.30; metric=ip is refused for that reason.
HNSW_PRQ is left out: FAISS took 86 s to train and 36 s to add 3,000 rows of 384 dimensions, and 17 ms a search.

**Filters.** A bit for each row, made before the clock starts. FAISS walks HNSW's graph as if there were no filter and drops
what does not pass, so that a strict one leaves few or no rows; no engine's brute force steps in as Milvus's does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Ids, Index, Metric, Ready, VectorType, part_of
from stores.batches import Batches, unit
from stores.in_process import no_endpoint, refuse_to_attach
from stores.index import HNSW
from stores.vectors import METRICS, check_rows, check_shape, unsupported

SCALAR_QUANTISERS = {
    "SQ4U": "QT_4bit_uniform",
    "SQ6": "QT_6bit",
    "SQ8": "QT_8bit",
    "BF16": "QT_bf16",
    "FP16": "QT_fp16",
    "bf16": "QT_bf16",
    "fp16": "QT_fp16",
    "int8": "QT_8bit_direct_signed",
}
"""FAISS's names of the quantisers in `stores.index` and of the vector types, which are stored without loss."""

PLAIN = ("FLAT", "HNSW", "IVF_FLAT")
"""Families that store a row as it is, hence as any vector type; the others compress by themselves."""


@dataclass(frozen=True)
class _Built:
    """An index, and its parts, which FAISS refers to without owning them."""

    whole: Any
    parts: tuple[Any, ...] = ()


class Faiss:
    """FAISS on the CPU; ids are the rows' numbers."""

    name = "faiss"
    in_process = True
    families: tuple[str, ...] = ("FLAT", "HNSW", "HNSW_SQ", "HNSW_PQ", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "IVF_RABITQ", "SCANN")
    """Those that FAISS builds as Milvus's engine does."""
    verified: Mapping[str, tuple[str, ...]] = {"1.15.1": families}
    metrics = METRICS
    vector_types: tuple[VectorType, ...] = ("fp32", "fp16", "bf16", "int8", "binary")
    """All of them, for the families that do not compress."""
    filters = True
    """By a bit for each row."""
    largest_insert = 65_536
    """A batch is only copied; 256 MiB of 4-kB vectors."""
    endpoint = no_endpoint
    attach = refuse_to_attach

    def __init__(self) -> None:
        self._faiss: Any = None
        self._dim = 0
        self._metric: Metric = "cosine"
        self._vector_type: VectorType = "fp32"
        self._index: Index | None = None
        self._batches = Batches(self.name)
        self._built: _Built | None = None
        self._prepared: dict[tuple[Any, ...], Any] = {}
        """FAISS's own objects of search parameters by what they say; made once each, because making one takes as long as a search."""

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
        """What of this combination FAISS cannot do, or would do wrong or abort at."""
        found = unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)
        if vector_type != "fp32" and index.family in self.families and index.family not in PLAIN:
            found.append(
                f"store=faiss stores vector_type={vector_type} in {', '.join(PLAIN)} only; {index.family} compresses by itself,"
                " use vector_type=fp32"
            )
        if vector_type == "int8" and metric == "cosine":
            found.append("store=faiss has no cosine of int8 rows, which cannot be brought to unit length; use metric=ip or metric=l2")
        if vector_type == "binary" and index.family == "IVF_FLAT" and filtered:
            found.append("store=faiss has no filter for binary rows in IVF_FLAT; use index=flat or index=hnsw, or no filter")
        if index.family == "HNSW_PQ" and metric == "ip":
            found.append("store=faiss has no HNSW_PQ for metric=ip: it links such rows by L2; use metric=cosine or l2, or index=ivf_pq")
        return found

    def open(self, folder: Path) -> None:  # noqa: ARG002
        """Import the library; nothing is written."""
        import faiss

        self._faiss = faiss

    def version(self) -> str:
        """The build and the instructions that it uses on this machine, e.g. ``faiss-cpu 1.15.1 (AVX512)``."""
        name = next((name for name in ("faiss-cpu", "faiss") if _installed(name)), "faiss")
        if self._faiss is None:
            return f"{name} {version(name)}" if _installed(name) else name
        level = getattr(self._faiss, "SIMDConfig", None)
        return f"{name} {self._faiss.__version__}" + (f" ({level.get_level_name()})" if level else "")

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
        if self._faiss is None:
            raise StoreError(f"store={self.name} is not open")
        self.drop()
        self._dim, self._metric, self._vector_type, self._index = dim, metric, vector_type, index

    def insert(self, vectors: NDArray[Any], first_id: int) -> None:
        """Copy a batch, for cosine at unit length.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, or a row cannot be ranked.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: insert before create")
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=first_id, vector_type=self._vector_type)
        self._batches.keep(unit(vectors) if self._metric == "cosine" and self._vector_type != "binary" else vectors.copy(), first_id)

    def build(self) -> None:
        """Train the index where it learns from the rows, and add them all.

        Raises
        ------
        harness.errors.StoreError
            When ids repeat or leave gaps, or FAISS fails.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: build before create")
        rows = self._batches.joined()
        try:
            built = self._binary(self._index) if self._vector_type == "binary" else self._float(self._index)
            if rows is not None:
                rows = rows.astype(np.float32) if self._vector_type == "int8" else rows
                if not built.whole.is_trained:
                    built.whole.train(rows)
                built.whole.add(rows)
        except RuntimeError as error:
            raise StoreError(f"store={self.name} could not build {self._index.family}: {_reason(error)}") from error
        self._built, self._prepared = built, {}

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:  # noqa: ARG002
        """Ready as soon as it is built.

        Raises
        ------
        harness.errors.StoreError
            When it is not built, or holds another number of rows.
        """
        held = 0 if self._built is None else int(self._built.whole.ntotal)
        if self._built is None or held != rows:
            raise StoreError(f"store={self.name} holds {held} built rows, not {rows}")
        return Ready(rows=rows, segments=1, index_state="Finished", detail=f"OpenMP threads: {self._faiss.omp_get_max_threads()}")

    def search(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Ids of the nearest rows; each caller's parameters are its own.

        Parameters
        ----------
        queries : ndarray of shape (n, dim), float32
            int8 for int8 rows, uint8 of shape (n, dim / 8) for binary ones, which are ranked by Hamming distance: that is the
            order of each metric for vectors of -1 and 1.
        k : int
        params : mapping
            An operating point of the index.
        below : int, optional
            Only rows whose part is smaller count.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where fewer were found.

        Raises
        ------
        harness.errors.StoreError
            Before the collection is built, or when FAISS fails.
        """
        if self._built is None:
            raise StoreError(f"store={self.name}: search before the collection is built")
        check_shape(self.name, queries, dim=self._dim, vector_type=self._vector_type)
        key = (k, below, *params.items())
        prepared = self._prepared.get(key) or self._prepare(key, k, params, below)
        if self._vector_type == "int8":
            queries = queries.astype(np.float32)
        elif self._by_l2_of_unit_rows():
            queries = unit(queries)
        elif not queries.flags.c_contiguous:
            queries = np.ascontiguousarray(queries)
        # What `search` of the Python package calls in the end; its own checks, made above, would take 2 µs more a query.
        pointer, ids = self._faiss.swig_ptr, np.empty((len(queries), k), dtype=np.int64)
        distances = np.empty(ids.shape, dtype=np.int32 if self._vector_type == "binary" else np.float32)
        try:
            self._built.whole.search_c(len(queries), pointer(queries), k, pointer(distances), pointer(ids), prepared)
        except RuntimeError as error:
            raise StoreError(f"store={self.name} could not search: {_reason(error)}") from error
        return ids

    def distance_computations(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> float:
        """Distances computed a query, by FAISS's own counters, those to the cells' centres and of a refinement included; of FLAT all rows.

        The counters belong to the whole process: nothing else may search meanwhile. Outside any clock.

        Returns
        -------
        float
            Mean over the queries.
        """
        if self._built is None or self._index is None:
            raise StoreError(f"store={self.name}: search before the collection is built")
        rows = int(self._built.whole.ntotal)
        if self._index.family == "FLAT":  # known without a search
            return float(rows if below is None else self._allowed(below).sum())
        graph, cells = self._faiss.cvar.hnsw_stats, self._faiss.cvar.indexIVF_stats
        graph.reset()
        cells.reset()
        self.search(queries, k, params, below=below)
        again = min(float(params.get("reorder_k", k * params.get("refine_k", 0))), rows)
        if self._index.family.startswith("HNSW"):
            return float(graph.ndis) / len(queries) + again
        return float(cells.ndis) / len(queries) + float(self._index.build_params()["nlist"]) + again

    def index_bytes(self) -> int | None:
        """Bytes of the index as FAISS would write it to a file; None before it is built."""
        if self._built is None:
            return None
        written = 0

        def count(block: bytes) -> int:
            nonlocal written
            written += len(block)
            return len(block)

        writer = self._faiss.PyCallbackIOWriter(count)  # counts and keeps nothing: the memory figure stays true
        write = self._faiss.write_index_binary if self._vector_type == "binary" else self._faiss.write_index
        write(self._built.whole, writer)
        return written

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """A small graph with ``ef = k``."""
        return HNSW(M=8, ef_construction=40, ef=(k,))

    def drop(self) -> None:
        """Free the index."""
        self._prepared, self._built, self._index, self._batches = {}, None, None, Batches(self.name)

    def close(self) -> None:
        """Free the index."""
        self.drop()
        self._faiss = None

    # ------------------------------------------------------------------------------- making an index

    def _by_l2_of_unit_rows(self) -> bool:
        assert self._index is not None
        return self._index.family == "HNSW_PQ" and self._metric == "cosine"

    def _float(self, index: Index) -> _Built:
        """An empty index over numbers."""
        faiss, dim = self._faiss, self._dim
        build: dict[str, Any] = index.build_params()
        metric = faiss.METRIC_L2 if self._metric == "l2" or self._by_l2_of_unit_rows() else faiss.METRIC_INNER_PRODUCT
        stored_as = None if self._vector_type == "fp32" else self._quantiser(self._vector_type)
        parts: list[Any] = []

        def cells() -> Any:
            parts.append(faiss.IndexFlat(dim, metric))
            return parts[-1]

        whole: Any
        match index.family:
            case "FLAT":
                whole = faiss.IndexFlat(dim, metric) if stored_as is None else faiss.IndexScalarQuantizer(dim, stored_as, metric)
            case "HNSW":
                M = build["M"]
                whole = faiss.IndexHNSWFlat(dim, M, metric) if stored_as is None else faiss.IndexHNSWSQ(dim, stored_as, M, metric)
            case "HNSW_SQ":
                whole = faiss.IndexHNSWSQ(dim, self._quantiser(build["sq_type"]), build["M"], metric)
            case "HNSW_PQ":
                whole = faiss.IndexHNSWPQ(dim, build["m"], build["M"], build["nbits"], metric)
                _quiet(faiss.downcast_index(whole.storage).pq.cp)
            case "IVF_FLAT" if stored_as is None:
                whole = faiss.IndexIVFFlat(cells(), dim, build["nlist"], metric)
            case "IVF_FLAT" | "IVF_SQ8":
                bits = self._quantiser("SQ8") if stored_as is None else stored_as
                whole = faiss.IndexIVFScalarQuantizer(cells(), dim, build["nlist"], bits, metric, stored_as is None)
            case "IVF_PQ":
                whole = faiss.IndexIVFPQ(cells(), dim, build["nlist"], build["m"], build["nbits"], metric)
                _quiet(whole.pq.cp)
            case "IVF_RABITQ":
                whole = faiss.IndexIVFRaBitQ(cells(), dim, build["nlist"], metric)
            case "SCANN":
                whole = faiss.IndexIVFPQFastScan(cells(), dim, build["nlist"], dim // 2, 4, metric)
                _quiet(whole.pq.cp)
            case family:
                raise StoreError(f"store={self.name} has no index {family}; it has {', '.join(self.families)}")
        if "ef_construction" in build:
            whole.hnsw.efConstruction = build["ef_construction"]
        if "nlist" in build:
            _quiet(whole.cp)
        if index.family == "IVF_RABITQ":
            parts += [whole, faiss.RandomRotationMatrix(dim, dim)]
            whole = faiss.IndexPreTransform(parts[-1], parts[-2])
        if index.family == "SCANN" or build.get("refine"):
            kept_as = "FP32" if index.family == "SCANN" else build["refine_type"]
            copies = (
                faiss.IndexFlat(dim, metric) if kept_as == "FP32" else faiss.IndexScalarQuantizer(dim, self._quantiser(kept_as), metric)
            )
            parts += [whole, copies]
            whole = faiss.IndexRefine(parts[-2], parts[-1])
        return _Built(whole, tuple(parts))

    def _binary(self, index: Index) -> _Built:
        """An empty index over bits."""
        faiss, build = self._faiss, index.build_params()
        if index.family == "FLAT":
            return _Built(faiss.IndexBinaryFlat(self._dim))
        if index.family == "HNSW":
            graph = faiss.IndexBinaryHNSW(self._dim, build["M"])
            graph.hnsw.efConstruction = build["ef_construction"]
            return _Built(graph)
        cells = faiss.IndexBinaryFlat(self._dim)
        whole = faiss.IndexBinaryIVF(cells, self._dim, build["nlist"])
        _quiet(whole.cp)
        return _Built(whole, (cells,))

    def _quantiser(self, name: str) -> Any:
        return getattr(self._faiss.ScalarQuantizer, SCALAR_QUANTISERS[name])

    # ----------------------------------------------------------------------------- search parameters

    def _prepare(self, key: tuple[Any, ...], k: int, params: Mapping[str, int | float], below: int | None) -> Any:
        """FAISS's object for search parameters, made at the first search with them, which no clock sees."""
        assert self._index is not None
        assert self._built is not None
        faiss, rows = self._faiss, int(self._built.whole.ntotal)
        only = {} if below is None else {"sel": self._selector(below)}
        found: Any
        if "ef" in params:
            # More candidates than rows change no answer, but FAISS reserves memory for each and aborts where there is none.
            found = faiss.SearchParametersHNSW(efSearch=int(min(params["ef"], max(rows, k))), **only)
        elif "rbq_query_bits" in params:
            within = faiss.IVFRaBitQSearchParameters(nprobe=int(params["nprobe"]), qb=int(params["rbq_query_bits"]), centered=False, **only)
            found = faiss.SearchParametersPreTransform(index_params=within)
        elif "nprobe" in params:
            found = faiss.SearchParametersIVF(nprobe=int(params["nprobe"]), **only)
        else:
            found = faiss.SearchParameters(**only)
        again = max(1.0, params["reorder_k"] / k) if "reorder_k" in params else params.get("refine_k")
        if again is not None:
            # FAISS multiplies by k in float32 and cuts off the fraction: rounded up a little, 100 stays 100.
            found = faiss.IndexRefineSearchParameters(k_factor=again * (1 + 2**-20), base_index_params=found)
        return self._prepared.setdefault(key, found)

    def _selector(self, below: int) -> Any:
        return self._faiss.IDSelectorBitmap(np.packbits(self._allowed(below), bitorder="little"))

    def _allowed(self, below: int) -> NDArray[np.bool_]:
        assert self._built is not None
        return np.asarray(part_of(np.arange(self._built.whole.ntotal, dtype=np.int64)) < below)


def _quiet(clustering: Any) -> None:
    """Take away FAISS's advice on standard error about the number of training rows; recall tells whether they were enough."""
    clustering.min_points_per_centroid = 1


def _reason(error: Exception) -> str:
    """What FAISS said, without the place in its source."""
    return str(error).rpartition("Error: ")[2] or type(error).__name__


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
