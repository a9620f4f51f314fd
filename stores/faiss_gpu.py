"""FAISS on an NVIDIA GPU, in this process.

The GPU builds of FAISS (faiss-gpu, faiss-gpu-cu12, faiss-gpu-cuvs …) install the same folder as faiss-cpu, which Milvus Lite
needs: they take an environment of their own, and `FaissGpu.open` says so where the wrong build is found.

Not yet run on a GPU: what is refused and how requests are translated is tested, the names having been compared with those of
faiss-gpu-cu12 1.14.1 and faiss-gpu-cuvs 1.15.1. GPU_CAGRA needs a cuVS build. FAISS's memory on the GPU must not be used by two
threads at once, so searches side by side wait for one another here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Ids, Index, Metric, Ready, VectorType
from stores.batches import Batches, unit
from stores.in_process import no_endpoint, refuse_to_attach
from stores.index import GPU_BRUTE_FORCE
from stores.vectors import METRICS, check_rows, check_shape, unsupported

CODES_A_VECTOR = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 48, 56, 64, 96)
"""Values of `m` that FAISS has GPU code for, https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU."""

LARGEST = 2048
"""Most neighbours and most cells a search, same page."""


class FaissGpu:
    """FAISS on the first GPU that the process sees; ids are the rows' numbers."""

    name = "faiss_gpu"
    in_process = True
    families: tuple[str, ...] = ("GPU_BRUTE_FORCE", "GPU_IVF_FLAT", "GPU_IVF_PQ", "GPU_CAGRA")
    """Those that run on a GPU."""
    metrics = METRICS
    vector_types: tuple[VectorType, ...] = ("fp32",)
    """Only what models make."""
    filters = False
    largest_insert = 65_536
    """A batch is only copied; 256 MiB of 4-kB vectors."""
    endpoint = no_endpoint
    attach = refuse_to_attach

    def __init__(self) -> None:
        self._faiss: Any = None
        self._resources: Any = None
        self._dim = 0
        self._metric: Metric = "cosine"
        self._index: Index | None = None
        self._batches = Batches(self.name)
        self._built: Any = None
        self._one_at_a_time = Lock()

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
        """What of this combination FAISS has no GPU code for."""
        found = unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)
        found += [f"store={self.name}: k must be <= {LARGEST}, got {each}" for each in k if each > LARGEST]
        build = index.build_params()
        if index.family == "GPU_IVF_PQ":
            if build["m"] not in CODES_A_VECTOR:
                found.append(f"store={self.name}: index.m must be one of {', '.join(map(str, CODES_A_VECTOR))}, got {build['m']}")
            if build["nbits"] != 8:
                found.append(f"store={self.name}: index.nbits must be 8, got {build['nbits']}")
        too_wide = [params["nprobe"] for params in index.search_params() if params.get("nprobe", 0) > LARGEST]
        found += [f"store={self.name}: index.nprobe must be <= {LARGEST}, got {each}" for each in too_wide]
        return found

    def open(self, folder: Path) -> None:  # noqa: ARG002
        """Import the library and take memory on the GPU; nothing is written.

        Raises
        ------
        harness.errors.StoreError
            When the installed FAISS is not built for a GPU, builds overwrote one another, or there is no GPU.
        """
        builds = _builds()
        remedy = "it needs a GPU build in an environment of its own, without faiss-cpu and milvus-lite: pip install faiss-gpu-cuvs"
        if len(builds) > 1:
            raise StoreError(f"store={self.name}: {' and '.join(builds)} overwrite each other's files; {remedy}")
        try:
            import faiss
        except ImportError as error:
            raise StoreError(f"store={self.name}: FAISS cannot be imported ({error}); {remedy}") from error
        if not hasattr(faiss, "StandardGpuResources"):
            raise StoreError(f"store={self.name}: {builds[0] if builds else 'FAISS'} is for the CPU; {remedy}")
        if not faiss.get_num_gpus():
            raise StoreError(f"store={self.name} needs a GPU and FAISS sees none; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
        self._faiss, self._resources = faiss, faiss.StandardGpuResources()

    def version(self) -> str:
        """The build, e.g. ``faiss-gpu-cuvs 1.15.1``."""
        return " and ".join(_builds()) or "FAISS is not installed"

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
        if index.family == "GPU_CAGRA" and not hasattr(self._faiss, "GpuIndexCagra"):
            raise StoreError(f"store={self.name}: {self.version()} has no GPU_CAGRA; pip install faiss-gpu-cuvs instead")
        self.drop()
        self._dim, self._metric, self._index = dim, metric, index

    def insert(self, vectors: NDArray[Any], first_id: int) -> None:
        """Copy a batch, for cosine at unit length.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, or a row cannot be ranked.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: insert before create")
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=first_id)
        self._batches.keep(unit(vectors) if self._metric == "cosine" else vectors.copy(), first_id)

    def build(self) -> None:
        """Send all rows to the GPU and build the index there.

        Raises
        ------
        harness.errors.StoreError
            When there is no collection, ids repeat or leave gaps, or FAISS fails.
        """
        if self._index is None:
            raise StoreError(f"store={self.name}: build before create")
        rows = self._batches.joined()
        kind, arguments, settings = constructor(self._index, self._dim, self._metric)
        config = getattr(self._faiss, f"{kind}Config")()
        for name, value in settings.items():
            setattr(config, name, value)
        metric = getattr(self._faiss, arguments[-1])
        try:
            built = getattr(self._faiss, kind)(self._resources, *arguments[:-1], metric, config)
            if rows is not None:
                if kind != "GpuIndexFlat":
                    built.train(rows)  # a graph takes its rows while it is trained
                if kind != "GpuIndexCagra":
                    built.add(rows)
        except RuntimeError as error:
            raise StoreError(f"store={self.name} could not build {self._index.family}: {error}") from error
        self._built = built

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:  # noqa: ARG002
        """Ready as soon as it is built.

        Raises
        ------
        harness.errors.StoreError
            When it is not built, or holds another number of rows.
        """
        held = 0 if self._built is None else int(self._built.ntotal)
        if self._built is None or held != rows:
            raise StoreError(f"store={self.name} holds {held} built rows, not {rows}")
        return Ready(rows=rows, segments=1, index_state="Finished")

    def search(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Ids of the nearest rows, copied back to this machine's memory.

        Parameters
        ----------
        queries : ndarray of shape (n, dim), float32
        k : int
        params : mapping
            An operating point of the index.
        below : int, optional
            Refused.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where fewer were found.

        Raises
        ------
        harness.errors.StoreError
            Before the collection is built, with a filter, or when FAISS fails.
        """
        if self._built is None:
            raise StoreError(f"store={self.name}: search before the collection is built")
        if below is not None:
            raise StoreError(f"store={self.name} has no search with a filter")
        check_shape(self.name, queries, dim=self._dim)
        kind, settings = search_parameters(params)
        how = getattr(self._faiss, kind)(**settings) if kind else None
        try:
            with self._one_at_a_time:
                ids: Ids = np.asarray(self._built.search(queries, k, params=how)[1], dtype=np.int64)
        except (RuntimeError, AssertionError) as error:
            raise StoreError(f"store={self.name} could not search: {error}") from error
        return ids

    def index_bytes(self) -> int | None:
        """None: FAISS does not tell what an index takes on the GPU."""
        return None

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """Brute force, which is quick in the smallest dimension."""
        return GPU_BRUTE_FORCE()

    def drop(self) -> None:
        """Free the index."""
        self._built, self._index, self._batches = None, None, Batches(self.name)

    def close(self) -> None:
        """Free the index and the memory on the GPU."""
        self.drop()
        self._resources = self._faiss = None


def constructor(index: Index, dim: int, metric: Metric) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Translate an index into FAISS's class, its arguments (the metric's name the last) and what its configuration holds."""
    build = index.build_params()
    name = "METRIC_L2" if metric == "l2" else "METRIC_INNER_PRODUCT"
    match index.family:
        case "GPU_BRUTE_FORCE":
            return "GpuIndexFlat", (dim, name), {}
        case "GPU_IVF_FLAT":
            return "GpuIndexIVFFlat", (dim, build["nlist"], name), {}
        case "GPU_IVF_PQ":
            return "GpuIndexIVFPQ", (dim, build["nlist"], build["m"], build["nbits"], name), {}
        case "GPU_CAGRA":
            return "GpuIndexCagra", (dim, name), dict(build)
        case family:
            raise StoreError(f"store=faiss_gpu has no index {family}")


def search_parameters(params: Mapping[str, int | float]) -> tuple[str, dict[str, Any]]:
    """Translate an operating point into FAISS's class of search parameters and what it holds; an empty name for none."""
    if not params:
        return "", {}
    return ("SearchParametersIVF" if "nprobe" in params else "SearchParametersCagra"), dict(params)


def _builds() -> list[str]:
    """Packages that install FAISS's folder, with their versions."""
    found = {(each.metadata["Name"], each.version) for each in distributions() if each.metadata["Name"]}
    return sorted(f"{name} {version}" for name, version in found if name == "faiss-cpu" or name.startswith(("faiss-gpu", "faiss-cuda")))
