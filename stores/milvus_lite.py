"""Milvus Lite: the Milvus protocol over FAISS and NumPy, in Python, inside this process.

What a reader of its numbers should know, found in milvus-lite 3.2.2 with pymilvus 3.0.2 by reading and
measuring (2 CPU cores, 384-d text vectors):

**Index parameters can get lost.** pymilvus's client flattens an index's ``params`` into single keys, as
Milvus servers read them; Lite reads only a key called ``params`` and takes its defaults (M 16,
efConstruction 200, nlist 128) when there is none, saying nothing. Both spellings are sent here, and
`MilvusLite.wait_ready` compares what the engine holds with what was asked for.

**When an index is used.** New rows are searched by brute force in NumPy until they are flushed into a
segment (at `flush`, or at 128 MiB of rows), and a segment is searched by brute force until its own
index is attached. There is no row count below which a flushed segment stays without an index.
Merging segments (4 or more of like size) and indexing what was merged happen in a background
thread. ``describe_index`` always answers "Finished, no pending rows", also then, so it proves nothing:
readiness is read from the engine's own segments, which lie in this process.

**What a search costs.** Python walks over every row of the collection in each request, whatever the
index (to hide deleted rows), and fetches each hit as a dict: 1.5 ms at 10 rows, 2 ms at 2,000, 3.4 ms at
5,000, of which FAISS's own search is a few per cent. A request with many queries pays for the walk once. FLAT is NumPy,
which copies and, for cosine, normalises all rows again for each request.

**Idle connections.** pymilvus pings every 10 seconds, and the engine's gRPC server, which wants five minutes between pings, closes the
connection of a client that has been idle for half a minute ("Too many pings"), as the smaller collections of a cell are while the
large one is built; their next search then fails. Pings are turned off.

**Threads.** A request with one query runs FAISS on one thread; one with many, and building an index,
use FAISS's OpenMP threads; FLAT uses BLAS's. OMP_NUM_THREADS, set before the process starts, pins
both. ``faiss.omp_set_num_threads`` does not: it holds for the calling thread only, and the engine works in
gRPC's threads. Requests side by side compete for one interpreter lock, and must agree on ``ef`` or ``nprobe``:
the engine sets it on the index that they share.

**Filters.** The expression is evaluated over all rows. FAISS walks HNSW's graph as if there were no filter and drops what does not
pass, so that a strict one leaves few rows: of 3,000, at ef 200, recall was 0.99 where 50 % pass, 0.98 at 10 %, 0.85 at 1 % and 0.16 at
0.1 %. FLAT and IVF find all that they would find without it.

**Limits.** It stores float32 only. None was met on dimension (40,000 worked) or k (40,000 worked; a Milvus server refuses more than
16,384); a request may not exceed 256 MiB.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import StoreError
from harness.interfaces import Ids, Index, Metric, Ready, Vectors, VectorType, part_of
from stores.in_process import no_endpoint, refuse_to_attach
from stores.index import HNSW
from stores.milvus_params import METRIC_TYPES, milvus_params
from stores.vectors import METRICS, check_rows, check_shape, unsupported

VECTOR, PART = "vector", "part"
CONSISTENCY = "Strong"
"""Lite keeps one copy and answers alike at every level; this is the level that it really has."""

ENGINE_NAMES = {"FLAT": "BRUTE_FORCE"}
"""What the engine calls an index that it has attached, where that is not the family's name."""

QUIET = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": 0}
"""No pings to an engine inside this process; see *Idle connections* in the docstring above."""

POLL_S = 0.005
"""Between two looks at the engine's state; a look costs about a millisecond."""

DIFFERENCES_BYTES = 256 * 2**20
"""Most memory that the engine may take for FLAT with L2, where it holds (queries, rows, dim) differences at once."""


class MilvusLite:
    """Milvus Lite through ``pymilvus.MilvusClient``, in a folder of its own."""

    name = "milvus_lite"
    in_process = True
    families: tuple[str, ...] = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
    """Those that the engine can build."""
    verified: Mapping[str, tuple[str, ...]] = {"3.2.2": families}
    metrics = METRICS
    vector_types: tuple[VectorType, ...] = ("fp32",)
    """Only what models make."""
    filters = True
    """By an expression on a scalar field."""
    largest_insert = 1_000
    """1,000 rows: the fastest of 200, 1,000 and 5,000, and 4 MB of the 256 MiB that a request may have."""
    endpoint = no_endpoint
    attach = refuse_to_attach

    def __init__(self) -> None:
        self._client: Any = None
        self._failures: tuple[type[Exception], ...] = ()
        self._path = Path()
        self._collection = ""
        self._dim = 0
        self._metric: Metric = "cosine"
        self._index: Index | None = None
        self._filtered = False
        self._queries_at_once = 0
        """Most queries for one request; 0 until the collection is proven to be ready."""

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
        """What of this combination Lite cannot do."""
        found = unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)
        quantiser = index.build_params().get("sq_type", "SQ8")
        if quantiser != "SQ8":
            found.append(f"store={self.name} has no index.sq_type {quantiser}; it has SQ8")
        return found

    def open(self, folder: Path) -> None:
        """Start the engine in `folder`.

        Raises
        ------
        harness.errors.StoreError
            When it does not start.
        """
        import grpc  # type: ignore[import-untyped]
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if self._client is not None:
            raise StoreError(f"store={self.name} is open already; close it first")
        # pymilvus logs each failure with a traceback before raising it; it leaves here as a StoreError with the same text.
        logging.getLogger("pymilvus.decorators").setLevel(logging.CRITICAL)
        self._failures = (MilvusException, grpc.RpcError)
        self._path = Path(folder).resolve() / "milvus_lite.db"
        with self._translated("start"):
            self._client = MilvusClient(str(self._path), grpc_options=QUIET)

    def version(self) -> str:
        """The engine's version."""
        return f"milvus-lite {version('milvus-lite')}"

    def create(
        self,
        collection: str,
        *,
        dim: int,
        metric: Metric,
        index: Index,
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> None:
        """Create a collection with an int64 primary key, the row's number, and one vector; the index follows in `build`.

        Raises
        ------
        harness.errors.StoreError
            When Lite cannot do this, or has a collection of that name.
        """
        refused = self.violations(index=index, metric=metric, dim=dim, rows=0, k=(), vector_type=vector_type, filtered=filtered)
        if not re.fullmatch(r"[A-Za-z_]\w{0,254}", collection, re.ASCII):
            refused.append(f"store={self.name}: a collection's name is letters, digits and underscores, got {collection!r}")
        if refused:
            raise StoreError("; ".join(refused))
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        if filtered:
            schema.add_field(PART, DataType.INT64)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
        with self._translated(f"create collection {collection}"):
            self._opened().create_collection(collection, schema=schema, consistency_level=CONSISTENCY)
        self._collection, self._dim, self._metric, self._index, self._queries_at_once = collection, dim, metric, index, 0
        self._filtered = filtered

    def insert(self, vectors: Vectors, first_id: int) -> None:
        """Add rows as dicts that hold NumPy rows, the fastest way that pymilvus offers.

        Measured with 384-d vectors, rows/s: such dicts 11,200; columns of lists (``batch_insert``, not in the
        client's API) 10,600; columns of NumPy rows 7,300; dicts of lists 6,600. The rest is the engine's own work.

        Raises
        ------
        harness.errors.StoreError
            When a row cannot be ranked, or the engine refuses.
        """
        self._created()
        self._queries_at_once = 0
        self._write("insert", vectors, np.arange(first_id, first_id + len(vectors), dtype=np.int64))

    def _write(self, how: Literal["insert", "upsert"], vectors: Vectors, ids: Ids) -> None:
        """Send rows."""
        client = self._created()
        check_rows(self.name, vectors, dim=self._dim, metric=self._metric, first_id=int(ids[0]) if len(ids) else 0)
        rows: list[dict[str, Any]] = [{"id": number, VECTOR: row} for number, row in zip(ids.tolist(), vectors, strict=True)]
        if self._filtered:
            for row, part in zip(rows, part_of(ids).tolist(), strict=True):
                row[PART] = part
        with self._translated(f"{how} {len(vectors)} rows"):
            getattr(client, how)(self._collection, rows, retry_times=0)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """Insert rows while others search; they lie in memory, searched by brute force, until a segment is full.

        Raises
        ------
        harness.errors.StoreError
            When a row cannot be ranked, or the engine refuses.
        """
        self._write("insert", vectors, ids)

    def upsert(self, vectors: Vectors, ids: Ids) -> None:
        """Replace rows, likewise: the engine inserts the new one and hides the old one."""
        self._write("upsert", vectors, ids)

    def delete(self, ids: Ids) -> None:
        """Hide rows from searches."""
        client = self._created()
        with self._translated(f"delete {len(ids)} rows"):
            client.delete(self._collection, ids=ids.tolist(), retry_times=0)

    def build(self) -> None:
        """Flush, let merges finish, and build the index of each segment, which is done when this returns.

        pymilvus would sleep for half a second before it looks whether the index is there; ``sync=False`` keeps
        that out of the time. The engine builds within the request itself.

        Raises
        ------
        harness.errors.StoreError
            When the engine fails.
        """
        client = self._created()
        assert self._index is not None
        with self._translated("flush"):
            client.flush(self._collection)
        self._engine()._wait_for_bg()
        built_with = milvus_params(self._index.build_params())
        params = client.prepare_index_params()
        params.add_index(
            VECTOR, index_type=self._index.family, metric_type=METRIC_TYPES[self._metric], params={**built_with, "params": built_with}
        )
        with self._translated(f"build {self._index.family}"):
            client.create_index(self._collection, params, sync=False)
            client.load_collection(self._collection)

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:
        """Wait until the engine's own segments hold all rows, each with the index that was asked for.

        Raises
        ------
        harness.errors.StoreError
            When that has not come by the deadline.
        """
        self._created()
        assert self._index is not None
        deadline = time.monotonic() + deadline_s
        try:
            self._engine()._wait_for_bg(deadline_s)
        except TimeoutError as error:
            raise StoreError(f"store={self.name}: segments of {self._collection} were still being merged after {deadline_s:g} s") from error
        while pending := self._pending(rows):
            if time.monotonic() >= deadline:
                raise StoreError(f"store={self.name}: {self._collection} was not ready after {deadline_s:g} s: {'; '.join(pending)}")
            time.sleep(POLL_S)
        self._queries_at_once = 2**31
        if self._index.family == "FLAT" and self._metric == "l2":
            self._queries_at_once = max(1, DIFFERENCES_BYTES // (4 * self._dim * max(1, rows)))
        segments = self._engine()._segments_snapshot()
        sizes = ", ".join(str(segment.num_rows) for segment in segments)
        return Ready(rows=rows, segments=len(segments), index_state="Finished", detail=f"rows by segment: {sizes}")

    def _pending(self, rows: int) -> list[str]:
        """What still keeps the collection from being ready, by the protocol's answers and by the engine's segments."""
        assert self._index is not None
        client, engine, found = self._opened(), self._engine(), []
        with self._translated("tell its state"):
            held = client.get_collection_stats(self._collection)["row_count"]
            state = client.get_load_state(self._collection)["state"].name
            described = client.describe_index(self._collection, VECTOR) or {}
        if held != rows:
            found.append(f"it holds {held} rows, not {rows}")
        if state != "Loaded":
            found.append(f"its load state is {state}")
        asked: dict[str, Any] = {
            "index_type": self._index.family,
            "metric_type": METRIC_TYPES[self._metric],
            "params": milvus_params(self._index.build_params()),
        }
        has = {key: described.get(key, {}) for key in asked}
        if has != asked:
            found.append(f"its index is {has}, not {asked}")
        segments = engine._segments_snapshot()
        growing = engine._memtable.size()
        if growing:
            found.append(f"{growing} rows are not in a segment yet")
        wanted = ENGINE_NAMES.get(self._index.family, self._index.family)
        for segment in segments:
            index = segment.indexes.get(VECTOR)
            if index is None or index.index_type != wanted or index.num_vectors != segment.num_rows:
                found.append(f"a segment of {segment.num_rows} rows has no {self._index.family} yet")
        return found

    def search(self, queries: Vectors, k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Ids of the nearest rows, in one request, without retries.

        FLAT with L2 asks in several requests when the engine would otherwise need more than 256 MiB. Taking the
        ids out of the answer costs 1 µs for 10 of them, 2 µs for 100.

        Parameters
        ----------
        queries : ndarray of shape (n, dim), float32
        k : int
        params : mapping
            ``ef`` or ``nprobe``.
        below : int, optional
            Only rows whose part is smaller.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where fewer were found.

        Raises
        ------
        harness.errors.StoreError
            Before the collection is ready, or when the engine refuses.
        """
        if not self._queries_at_once:
            raise StoreError(f"store={self.name}: search before wait_ready has found the collection ready")
        check_shape(self.name, queries, dim=self._dim)
        if below is not None and not self._filtered:
            raise StoreError(f"store={self.name}: {self._collection} was created without the field that filters")
        answer = np.full((len(queries), k), -1, dtype=np.int64)
        for start in range(0, len(queries), self._queries_at_once):
            try:
                found = self._client.search(
                    self._collection,
                    data=list(queries[start : start + self._queries_at_once]),
                    anns_field=VECTOR,
                    limit=k,
                    filter="" if below is None else f"{PART} < {below}",
                    search_params={"params": milvus_params(params)},
                    consistency_level=CONSISTENCY,
                    retry_times=0,
                )
            except self._failures as error:
                raise StoreError(f"store={self.name} could not search: {_reason(error)}") from error
            for row, hits in enumerate(found, start):
                answer[row, : len(hits.ids)] = hits.ids
        return answer

    def index_bytes(self) -> int | None:
        """Bytes of the collection's index files.

        The engine writes each index as it holds it: HNSW the graph and the vectors, IVF the centroids and the
        lists, FLAT the vectors. Memory holds the rows once or twice more, for the engine keeps every segment's
        columns beside the index. None before there is a file.
        """
        if not self._collection:
            return None
        sizes = [file.stat().st_size for file in (self._path / "collections" / self._collection).glob("partitions/*/indexes/*.idx")]
        return sum(sizes) if sizes else None

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """A small graph with ``ef = k``: it returns k rows, whose fetching every index has to pay for."""
        return HNSW(M=8, ef_construction=40, ef=(k,))

    def drop(self) -> None:
        """Drop the collection with its files."""
        client = self._created()
        with self._translated(f"drop {self._collection}"):
            client.drop_collection(self._collection)
        self._collection, self._index, self._queries_at_once = "", None, 0

    def close(self) -> None:
        """Stop the engine: its threads end, its port and its lock on the folder are free again."""
        if self._client is None:
            return
        from milvus_lite.server_manager import server_manager_instance

        client, self._client = self._client, None
        self._collection, self._index, self._queries_at_once = "", None, 0
        try:
            with self._translated("stop"):
                client.close()
        finally:
            server_manager_instance.release_server(str(self._path))

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise StoreError(f"store={self.name} could not {doing}: {_reason(error)}") from error

    def _opened(self) -> Any:
        if self._client is None:
            raise StoreError(f"store={self.name} is not open")
        return self._client

    def _created(self) -> Any:
        if self._index is None:
            raise StoreError(f"store={self.name} has no collection; create one first")
        return self._opened()

    def _engine(self) -> Any:
        """The engine's own object for the collection.

        Not public, hence checked: a version that keeps things elsewhere ends in a message and not in a wrong number.
        """
        from milvus_lite.server_manager import server_manager_instance

        try:
            _, database, _ = server_manager_instance._servers[str(self._path)]
            engine = database.get_collection(self._collection)
            for attribute in ("_wait_for_bg", "_segments_snapshot", "_memtable"):
                getattr(engine, attribute)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"store={self.name}: {self.version()} does not show its segments as 3.2 does, so nothing proves that it is ready;"
                " install milvus-lite 3.2"
            ) from error
        return engine


def _reason(error: Exception) -> str:
    """What the library said, without its class and code."""
    details = getattr(error, "details", None)
    return str(getattr(error, "message", "") or (details() if callable(details) else error))
