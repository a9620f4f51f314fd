"""A Milvus server, 2.3 or newer, standalone or distributed, by its address.

What a reader of its numbers should know, found with pymilvus 3.0.2 and a standalone server 2.3.5 by measuring:

**Inserting.** pymilvus's ``insert`` takes a dict a row and spends most of its time in Python. A request whose columns are laid
down as the bytes that go over the wire anyway is 4 times as quick and costs the client a tenth of the processor (20,000 rows
of 128 dimensions, rows/s: dicts of NumPy rows 32,400; dicts of lists 44,900; columns of lists 42,200; this 206,000).

**Ready.** A search is answered from growing segments, from raw rows and from interim indexes as well as from the index that was
asked for, so nothing is measured before the server itself says that every row lies in a sealed, indexed and loaded
segment, that nothing waits to be indexed, and that the index has the parameters that were asked for. Small segments are
merged first (compaction), because the server would do so in the midst of the measurement. A segment of fewer rows than
the server's ``minSegmentSizeToEnableIndex``, 1,024 by default, is never indexed but searched by brute force.

**Consistency.** The level goes with every search. ``Bounded``, the default here as in Milvus, reads what is five seconds old
at most; ``Strong`` waits for the server's clock and adds up to its tick, 200 ms, to each search. Nothing is written while
it is measured, so all levels answer alike.

**Searching.** One request with a deadline, no retries, no output fields. What pymilvus does before and after the call is part of the
latency, as it is for who uses it: 30 µs to put a request together and 15 µs to take ten ids out of the answer, of 1.6 ms.

**Whose it is.** Collections are named ``harness_<name>_<random>`` and only those that this object created are dropped. What a killed
program leaves behind is dropped by the next one on the same machine, see `stores.milvus_ledger`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urldefrag, urlsplit

import numpy as np
from numpy.typing import NDArray

from harness.errors import SettingsError, StoreError, StoreTimeoutError
from harness.interfaces import Ids, Index, Metric, Ready, VectorType, part_of
from stores.index import HNSW
from stores.milvus_bulk import ROWS as BULK_ROWS
from stores.milvus_bulk import BulkImport
from stores.milvus_connection import Connection, status
from stores.milvus_ledger import Note, drop_left_behind
from stores.milvus_params import BINARY_FAMILIES, index_type, metric_type, milvus_params
from stores.milvus_wire import as_bytes, data_type, insert_request
from stores.vectors import METRICS, check_rows, check_shape, unsupported

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""How long a server may take to say who it is when a plan is made."""

_T = TypeVar("_T")

VECTOR, PART = "vector", "part"
CONSISTENCY_LEVELS = ("Strong", "Bounded", "Eventually", "Session")
INSERT_BY = ("requests", "bulk_import")

FAMILIES: Mapping[tuple[int, int], tuple[str, ...]] = {
    (2, 3): ("FLAT", "HNSW", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "DISKANN", "GPU_IVF_FLAT", "GPU_IVF_PQ"),
    (2, 4): ("GPU_CAGRA", "GPU_BRUTE_FORCE"),
    (2, 5): ("HNSW_SQ", "HNSW_PQ", "HNSW_PRQ"),
    (2, 6): ("IVF_RABITQ",),
}
"""What each version added, https://milvus.io/docs/release_notes.md. AUTOINDEX is left out: on a server of one's own it is HNSW with
parameters from the server's configuration, and takes no level."""
VECTOR_TYPES: Mapping[tuple[int, int], tuple[VectorType, ...]] = {(2, 3): ("fp32", "binary"), (2, 4): ("fp16", "bf16"), (2, 6): ("int8",)}
INT8_FAMILIES = ("HNSW",)
"""The family that takes int8 vectors, https://milvus.io/docs/index-explained.md."""
RIGHT_FILTERED_PQ_SINCE = (2, 4)
"""Server 2.3.5 answers such searches with rows that pass the filter and are hardly nearer than others, see `stores.milvus_local`."""

VERIFIED = {"2.3.5": ("FLAT", "HNSW", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN")}
"""What the tests run against a real server, see tests/stores/test_milvus_local.py."""

LARGEST_DIM = 32_768
LARGEST_K = 16_384
"""Also the most queries of a request; https://milvus.io/docs/limitations.md."""
ANSWERS_AT_ONCE = 1_000_000
"""Most ids to ask for in one request, 12 MB with their scores."""
QUERIES_BYTES = 32 * 2**20
"""Most bytes of queries in one request, half of what the server takes."""

MESSAGE_BYTES = 64 * 2**20
"""A server's ``proxy.grpc.serverMaxRecvSize``."""
POLL_S = 0.02
"""Between two looks at the server's state; a look takes it a millisecond or two."""
IMPORT_S = 600.0
"""How long one import, of hundreds of megabytes at most, may take."""
GROWING, FLUSHED = 2, 4
"""milvus.proto.common.SegmentState."""
SMALLEST_INDEXED = 1_024
"""Rows of a segment from which on it gets an index: the default of the server's ``minSegmentSizeToEnableIndex``."""
BRUTE_FORCE = ("FLAT", "BIN_FLAT")
"""Families for which a query node names no index, for it reads the rows themselves."""
SORTED_SINCE = (2, 5)
"""Since then segments are sorted by primary key before they are indexed."""


class Milvus:
    """A Milvus server through ``pymilvus.MilvusClient``.

    Parameters
    ----------
    uri : str
        Address, ``http://host:19530``; ``https`` for TLS. Without user, password or token: results show it.
    token_env, user_env, password_env : str
        Names of the environment variables that hold a token, or a user and a password; unset ones are left out.
    database : str
        An existing database.
    consistency : str
        ``Strong``, ``Bounded``, ``Eventually`` or ``Session``, sent with each search.
    shards, replicas : int
        Of the collection; more replicas need as many query nodes.
    timeout_s : float
        For a single call. Waiting for an index has the deadline of the cell.
    ca_file, client_cert_file, client_key_file : str
        PEM files for TLS: a certificate authority of one's own, and, where the server wants to know clients, certificate and key.
    server_name : str
        The name in the server's certificate, where it is another than the host's.
    insert_by : str
        ``requests``, or ``bulk_import``: files in the server's storage that it is asked to import.
    bulk_folder : str
        For bulk imports: a folder below the server's local storage, under the same path there and on this machine.

    Raises
    ------
    harness.errors.SettingsError
        When a value is outside its range; names every one that is.
    """

    _outlives_us = True
    """Whether the server stays when this program ends, and with it what is left there."""

    def __init__(
        self,
        *,
        uri: str = "http://localhost:19530",
        token_env: str = "MILVUS_TOKEN",  # noqa: S107 - the name of a variable
        user_env: str = "MILVUS_USER",
        password_env: str = "MILVUS_PASSWORD",  # noqa: S107 - the name of a variable
        database: str = "default",
        consistency: str = "Bounded",
        shards: int = 1,
        replicas: int = 1,
        timeout_s: float = 60.0,
        ca_file: str = "",
        client_cert_file: str = "",
        client_key_file: str = "",
        server_name: str = "",
        insert_by: str = "requests",
        bulk_folder: str = "",
    ) -> None:
        self.uri, self.database, self.consistency = uri, database, consistency
        self.insert_by, self.bulk_folder = insert_by, bulk_folder
        self.shards, self.replicas, self.timeout_s = shards, replicas, timeout_s
        self.token_env, self.user_env, self.password_env = token_env, user_env, password_env
        self.ca_file, self.client_cert_file, self.client_key_file, self.server_name = (
            ca_file,
            client_cert_file,
            client_key_file,
            server_name,
        )
        found = self._own_violations()
        if found:
            raise SettingsError(found)
        self._connection: Connection | None = None
        self._note: Note | None = None  # of the collection that this object has created
        self._version = ""
        """What the server said when it was last asked; empty before that."""
        self._suffix = ""
        self._collection = ""
        self._owned = False
        self._dim = 0
        self._metric: Metric = "cosine"
        self._vector_type: VectorType = "fp32"
        self._filtered = False
        self._index: Index | None = None
        self._inserted = 0
        self._bulk: BulkImport | None = None
        """How rows come in by files, once there is a collection and where that was asked for."""
        self._times: dict[str, float] = {}
        self._call_search: Callable[..., Any] | None = None
        """pymilvus's search, once the collection is proven to be ready."""
        self._search_extra: dict[str, Any] = {}

    def _own_violations(self) -> list[str]:
        found = []
        texts: tuple[str, ...] = ("token_env", "user_env", "password_env", "database", "bulk_folder")
        texts += ("ca_file", "client_cert_file", "client_key_file", "server_name")
        found += [f"store.{name} must be text, got {value!r}" for name in texts if not isinstance(value := getattr(self, name), str)]
        parts = urlsplit(self.uri) if isinstance(self.uri, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.fragment:
            # Not quoted: a password may stand in it.
            found.append("store.uri must be http://host:port, or https://host:port for TLS, with nothing behind it")
        elif parts.username or parts.password:
            found.append(f"store.uri must not hold a user, password or token, results show it; put them into ${self.token_env}")
        if self.consistency not in CONSISTENCY_LEVELS:
            found.append(f"store.consistency must be one of {', '.join(CONSISTENCY_LEVELS)}, got {self.consistency!r}")
        for name in ("shards", "replicas"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
                found.append(f"store.{name} must be a whole number in [1, 64], got {value!r}")
        timeout = self.timeout_s
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool) and math.isfinite(timeout)
        if not number or not 1 <= timeout <= 86_400:
            found.append(f"store.timeout_s must be a number of seconds in [1, 86400], got {timeout!r}")
        if self.insert_by not in INSERT_BY:
            found.append(f"store.insert_by must be one of {', '.join(INSERT_BY)}, got {self.insert_by!r}")
        found += self._folder_violations()
        if bool(self.client_cert_file) != bool(self.client_key_file) or (self.client_cert_file and not self.ca_file):
            found.append("store.client_cert_file needs store.client_key_file and store.ca_file, and the other way round")
        return found

    def _folder_violations(self) -> list[str]:
        """What is wrong with the folder for bulk imports."""
        if (self.insert_by == "bulk_import") == bool(self.bulk_folder):
            return []
        return ["store.insert_by=bulk_import and store.bulk_folder, a folder below the server's local storage, go together; give both"]

    # ------------------------------------------------------------------------------------ what it has

    @property
    def name(self) -> str:
        """The name in ``store=milvus``."""
        return "milvus"

    @property
    def in_process(self) -> bool:
        """The engine is a server."""
        return False

    @property
    def families(self) -> tuple[str, ...]:
        """Those of the server's version; before it is known, those of all."""
        return _since(FAMILIES, self._number())

    @property
    def verified(self) -> Mapping[str, tuple[str, ...]]:
        """What was run against a real server; the rest is declared."""
        return VERIFIED

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All of them."""
        return METRICS

    @property
    def vector_types(self) -> tuple[VectorType, ...]:
        """Those of the server's version; before it is known, those of all."""
        return _since(VECTOR_TYPES, self._number())

    @property
    def filters(self) -> bool:
        """Yes, by an expression on a scalar field."""
        return True

    @property
    def largest_insert(self) -> int:
        """1,000 rows: 4 MB of the 64 that a server takes in one message; up to 40 MB were no quicker and cost the client more.

        An import takes some seconds whatever its size, so one has many rows.
        """
        return BULK_ROWS if self.insert_by == "bulk_import" else 1_000

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
        """What of this combination no server of a version that is known here can do; of the server's own version once it has told that."""
        found = unsupported(self, index=index, metric=metric, dim=dim, k=k, vector_type=vector_type, filtered=filtered)
        if dim == 1 or dim > LARGEST_DIM:
            found.append(f"store={self.name}: dim must be in [2, {LARGEST_DIM}], got {dim}")
        found += [f"store={self.name}: k must be <= {LARGEST_K}, got {each}" for each in k if each > LARGEST_K]
        if index.family not in self.families:
            return found
        number = self._number()
        if filtered and index.family == "IVF_PQ" and number is not None and number < RIGHT_FILTERED_PQ_SINCE:
            found.append(
                f"store={self.name}: a server before 2.4 answers filtered searches under IVF_PQ wrongly; use index=ivf_sq8 or no filter"
            )
        for of_type, known in (("binary", tuple(BINARY_FAMILIES)), ("int8", INT8_FAMILIES)):
            has = [family for family in known if family in self.families]
            if vector_type == of_type and has and index.family not in has:
                found.append(f"store={self.name} has no index {index.family} for vector_type={of_type}; it has {', '.join(has)}")
        if index.family.startswith("GPU_") and vector_type != "fp32":
            found.append(f"store={self.name} has {index.family} for vector_type=fp32 only, got {vector_type}")
        if self.insert_by == "bulk_import" and vector_type not in ("fp32", "binary"):
            found.append(f"store.insert_by=bulk_import is for vector_type=fp32 and binary, got {vector_type}; use store.insert_by=requests")
        return found

    # ------------------------------------------------------------------------------- connecting

    def open(self, folder: Path) -> None:  # noqa: ARG002
        """Connect; nothing is written on this machine.

        Raises
        ------
        harness.errors.StoreError
            When nobody answers, or refuses.
        """
        self._connect(self.uri)
        self._suffix = secrets.token_hex(6)

    def endpoint(self) -> str | None:
        """The address and, behind a ``#``, what this object's collections end in; None before `open`."""
        return f"{self.uri}#{self._suffix}" if self._suffix else None

    def attach(
        self,
        endpoint: str,
        collection: str,
        *,
        dim: int,
        metric: Metric,
        index: Index,
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> None:
        """Connect to a collection that another process has made ready, for searching only.

        Raises
        ------
        harness.errors.StoreError
            When there is none of that name, or it is not loaded.
        """
        uri, suffix = urldefrag(endpoint)
        self._connect(uri)
        name = _named(collection, suffix)
        with self._translated(f"attach to {name}"):
            there = self._opened().call("has_collection", name)
            state = self._opened().call("get_load_state", name).name if there else "missing"
        if state != "Loaded":
            self.close()
            raise StoreError(f"store={self.name} cannot attach to {name}: it is {state}")
        self._take(name, dim=dim, metric=metric, index=index, vector_type=vector_type, filtered=filtered)
        self._call_search = self._opened().method("search")

    def _connect(self, uri: str, *, timeout_s: float | None = None) -> None:
        if self._connection is not None:
            raise StoreError(f"store={self.name} is open already; close it first")
        token, user, password = (os.environ.get(name, "") if name else "" for name in (self.token_env, self.user_env, self.password_env))
        self._connection = Connection(
            self.name,
            uri,
            token=token or (f"{user}:{password}" if user else ""),
            database=self.database,
            timeout_s=timeout_s or self.timeout_s,
            tls={
                "ca_file": self.ca_file,
                "client_cert_file": self.client_cert_file,
                "client_key_file": self.client_key_file,
                "server_name": self.server_name,
            },
            login=f"set ${self.token_env}" + (f", or ${self.user_env} and ${self.password_env}" if self.user_env else ""),
        )
        self._version = self._connection.version

    def identity(self) -> dict[str, str] | None:
        """Which server this is and of which version, asked for at once and with little patience; None where nobody answers."""
        try:
            self._connect(self.uri, timeout_s=min(self.timeout_s, PATIENCE_S))
        except StoreError:
            return None
        try:
            return {"server": self.uri, "version": self.version()}
        except StoreError:
            return None
        finally:
            self.close()

    def version(self) -> str:
        """The server's version as it says it, without the ``v``."""
        return f"milvus {self._opened().version.lstrip('v')}"

    def _number(self) -> tuple[int, int] | None:
        """Major and minor version; None before it is known, and for a server that says none."""
        found = re.search(r"(\d+)\.(\d+)", self._version)
        return (int(found[1]), int(found[2])) if found else None

    # --------------------------------------------------------------------------------- loading

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
        """Create a collection with an int64 primary key, the row's number, one vector and, if `filtered`, the row's part.

        Raises
        ------
        harness.errors.StoreError
            When this server cannot do this, or has a collection of that name.
        """
        connection = self._opened()
        refused = self.violations(index=index, metric=metric, dim=dim, rows=0, k=(), vector_type=vector_type, filtered=filtered)
        if not re.fullmatch(r"[A-Za-z_]\w{0,200}", collection, re.ASCII):
            refused.append(f"store={self.name}: a collection's name is letters, digits and underscores, got {collection!r}")
        if refused:
            raise StoreError("; ".join(refused) + f" ({self.version()})")
        if self._owned:
            raise StoreError(f"store={self.name} has the collection {self._collection}; drop it first")
        from pymilvus import DataType, MilvusClient

        name = _named(collection, self._suffix)
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description="of a benchmark run; safe to drop")
        schema.add_field("id", DataType.INT64, is_primary=True)
        if filtered:
            schema.add_field(PART, DataType.INT64)
        schema.add_field(VECTOR, data_type(vector_type), dim=dim)
        with self._translated(f"create collection {name}"):
            if connection.call("has_collection", name):
                raise StoreError(f"store={self.name} has a collection {name} already, which is left as it is; run again")
            self._drop_left_behind()
            if self._outlives_us:
                if self._note is not None:
                    self._note.leave()
                files = self._import_folder() / name if self.insert_by == "bulk_import" else None
                self._note = Note(self.uri, self.database, name, files=files)
            connection.call_patiently("create_collection", name, schema, num_shards=self.shards, consistency_level=self.consistency)
        self._owned = True
        self._take(name, dim=dim, metric=metric, index=index, vector_type=vector_type, filtered=filtered)
        if self.insert_by == "bulk_import":
            self._bulk = BulkImport(self.name, connection, self._import_folder(), deadline_s=IMPORT_S)

    def _drop_left_behind(self) -> None:
        """Drop the collections on this server whose owners were killed; one that cannot be dropped is no reason to create none."""
        connection = self._opened()

        def drop(name: str) -> bool:
            try:
                if connection.call("has_collection", name):
                    connection.call_patiently("drop_collection", name)
            except connection.failures as error:
                log.warning("store=%s: a killed program left %s, which cannot be dropped: %s", self.name, name, self._reason(error))
                return False
            return True

        drop_left_behind(self.uri, self.database, drop)

    def _take(self, name: str, *, dim: int, metric: Metric, index: Index, vector_type: VectorType, filtered: bool) -> None:
        """Make a collection the one that all else is about."""
        self._collection, self._dim, self._metric, self._index = name, dim, metric, index
        self._vector_type, self._filtered, self._inserted, self._call_search, self._times = vector_type, filtered, 0, None, {}
        self._bulk = None
        # Queries other than float32 go as bytes, whose kind pymilvus reads from the schema; this saves it from asking the server.
        fields = {"fields": [{"name": VECTOR, "type": data_type(vector_type)}]}
        self._search_extra = {} if vector_type == "fp32" else {"schema": fields}

    def insert(self, vectors: NDArray[Any], first_id: int) -> None:
        """Add rows in one request, its columns laid down as the bytes that go over the wire.

        Raises
        ------
        harness.errors.StoreError
            When a row cannot be ranked, or the server refuses or is gone. A request is never sent twice, for the rows
            could then be there twice; where the server asks to slow down (its rate limit), that waiting counts.
        """
        self._writable()
        self._call_search = None
        ids = np.arange(first_id, first_id + len(vectors), dtype=np.int64)
        self._inserted += self._write(vectors, ids) if self._bulk is None else self._import(self._bulk, vectors, ids)

    def _import(self, bulk: BulkImport, vectors: NDArray[Any], ids: Ids) -> int:
        """Have the server import rows; returns how many it took, which is all."""
        self._writable()
        self._check(vectors, ids)
        taken = bulk.take(self._collection, {**self._numbers(ids), VECTOR: vectors})
        if taken != len(vectors):
            raise StoreError(f"store={self.name} imported {taken} of {len(vectors)} rows into {self._collection}")
        return taken

    def _check(self, vectors: NDArray[Any], ids: Ids) -> None:
        check_rows(
            self.name, vectors, dim=self._dim, metric=self._metric, first_id=int(ids[0]) if len(ids) else 0, vector_type=self._vector_type
        )

    def _numbers(self, ids: Ids) -> dict[str, Ids]:
        """Columns of rows besides their vectors."""
        return {"id": ids, PART: part_of(ids)} if self._filtered else {"id": ids}

    def add(self, vectors: NDArray[Any], ids: Ids) -> None:
        """Insert rows while others search; they lie in a growing segment, searched by brute force, until it is full and sealed.

        Raises
        ------
        harness.errors.StoreError
            As `insert` does.
        """
        self._write(vectors, ids)

    def upsert(self, vectors: NDArray[Any], ids: Ids) -> None:
        """Replace rows: the server deletes and inserts in one step.

        Raises
        ------
        harness.errors.StoreError
            As `insert` does.
        """
        self._write(vectors, ids, upsert=True)

    def delete(self, ids: Ids) -> None:
        """Delete rows by their primary keys.

        Raises
        ------
        harness.errors.StoreError
            When the server refuses or is gone.
        """
        connection = self._writable()
        with self._translated(f"delete {len(ids)} rows of {self._collection}"):
            connection.call_patiently("delete", self._collection, f"id in {ids.tolist()}")

    def _import_folder(self) -> Path:
        """Where files have to lie for the server to import them."""
        return Path(self.bulk_folder)

    def _writable(self) -> Connection:
        connection = self._created()
        if not self._owned:
            raise StoreError(f"store={self.name} is attached to {self._collection} for searching only")
        return connection

    def _write(self, vectors: NDArray[Any], ids: Ids, *, upsert: bool = False) -> int:
        """Send rows in one request; returns how many the server took, which is all."""
        connection = self._writable()
        self._check(vectors, ids)
        request = insert_request(
            self._collection,
            database=self.database,
            numbers=self._numbers(ids),
            vectors=vectors,
            field=VECTOR,
            dim=self._dim,
            vector_type=self._vector_type,
            upsert=upsert,
        )
        size = request.ByteSize()
        if size > MESSAGE_BYTES:
            raise StoreError(f"store={self.name}: {len(vectors)} rows are {size / 2**20:.0f} MB, and a server takes 64; insert fewer")
        doing = "upsert" if upsert else "insert"
        with self._translated(f"{doing} {len(vectors)} rows into {self._collection}"):
            if upsert:
                answer = connection.call_patiently("upsert", self._collection, [], upsert_param=request, schema={"fields": []})
            else:
                answer = connection.call_patiently("batch_insert", self._collection, [], insert_param=request, schema={"fields": []})
        taken = int(answer.upsert_count if upsert else answer.insert_count)
        if taken != len(vectors):
            raise StoreError(f"store={self.name} took {taken} of {len(vectors)} rows of {self._collection}")
        return taken

    def build(self) -> None:
        """Flush, and ask for the index; returns when all rows are in flushed segments and the server has accepted the index.

        Raises
        ------
        harness.errors.StoreError
            When the server refuses or is gone, or rows are not flushed within the time of a call.
        """
        connection = self._created()
        assert self._index is not None
        self._times = {}
        start = time.monotonic()
        with self._translated(f"flush {self._collection}"):
            # Asked to wait, pymilvus would look every half second only.
            connection.call_patiently("flush", [self._collection], _async=True)
            # A segment that still grows is on no list, so that nothing but the number of rows tells when all are flushed.
            while (held := sum(segment.num_rows for segment in self._stored())) < self._inserted:
                if time.monotonic() - start >= self.timeout_s:
                    raise StoreError(
                        f"store={self.name}: {self._inserted - held} of {self._inserted} rows of {self._collection} were not flushed"
                        f" after store.timeout_s={self.timeout_s:g} s"
                    )
                time.sleep(POLL_S)
        self._times["flush"] = time.monotonic() - start
        asked = self._asked_index()
        with self._translated(f"build {self._index.family}"):
            connection.call_patiently("create_index", self._collection, VECTOR, asked, index_name=VECTOR, sync=False)

    def _asked_index(self) -> dict[str, Any]:
        """Type, metric and build parameters as a server takes and tells them."""
        assert self._index is not None
        return {
            "index_type": index_type(self._index.family, self._vector_type),
            "metric_type": metric_type(self._metric, self._vector_type),
            **milvus_params(self._index.build_params()),
        }

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:
        """Wait until the server has indexed and merged all segments, load them, and wait until it proves that all is there.

        Raises
        ------
        harness.errors.StoreError
            When that has not come by the deadline, or the server says that it will not come.
        """
        connection = self._created()
        deadline = time.monotonic() + deadline_s

        def wait(part: str, pending: Callable[[], list[str]]) -> None:
            start = time.monotonic()
            while left := pending():
                if time.monotonic() >= deadline:
                    told = self._trouble()
                    raise StoreError(
                        f"store={self.name}: {self._collection} was not ready after {deadline_s:g} s: {'; '.join(left)}"
                        + (f"; the server's log: {told}" if told else "; raise the deadline or ask the server's log")
                    )
                time.sleep(POLL_S)
            self._times[part] = self._times.get(part, 0.0) + time.monotonic() - start

        with self._translated("become ready"):
            wait("build", lambda: self._index_pending(rows))
            if len(self._stored()) > 1:
                job = connection.call_patiently("compact", self._collection)
                wait("compact", lambda: self._compaction_pending(job))
                wait("build", lambda: self._index_pending(rows))
            start = time.monotonic()
            connection.call_patiently("load_collection", self._collection, replica_number=self.replicas, _async=True)
            wait("load", lambda: self._pending(rows))
            self._times["load"] = time.monotonic() - start
            loaded = self._loaded()
        self._call_search = connection.method("search")
        sizes = ", ".join(str(held) for held in sorted((held for held, _, _ in loaded.values()), reverse=True))
        return Ready(
            rows=rows,
            segments=len(loaded),
            index_state="Finished",
            detail=f"rows by segment: {sizes}; consistency {self.consistency}",
            times={**({} if self._bulk is None else self._bulk.times), **self._times},
        )

    def _stored(self) -> list[Any]:
        """Flushed segments."""
        infos = self._opened().call("get_persistent_segment_infos", self._collection)
        return [info for info in infos if info.state == FLUSHED and info.num_rows]

    def _loaded(self) -> dict[int, tuple[int, int, str]]:
        """Rows, state and index of each segment in the query nodes, counted once however many replicas there are."""
        infos = self._opened().call("get_query_segment_info", self._collection)
        return {info.segmentID: (info.num_rows, info.state, info.index_name) for info in infos if info.num_rows}

    def _index_pending(self, rows: int) -> list[str]:
        """What keeps the index from being built as it was asked for."""
        found = []
        descriptions = [one for one in self._opened().call("list_indexes", self._collection) if one.field_name == VECTOR]
        if len(descriptions) != 1:
            return [f"it has {len(descriptions)} indexes on its vectors"]
        described = descriptions[0]
        state = _index_state(described.state)
        if state == "Failed":
            raise StoreError(f"store={self.name} failed to build {self._asked_index()['index_type']}: {described.index_state_fail_reason}")
        if state != "Finished" or described.pending_index_rows:
            found.append(f"its index is {state}, {described.pending_index_rows} of {described.total_rows} rows are pending")
        asked, has = self._asked_index(), _described(described.params)
        unlike = {key: has.get(key) for key, value in asked.items() if not _same(has.get(key), value)}
        if unlike:
            found.append(f"its index has {unlike}, not { ({key: asked[key] for key in unlike}) }")
        stored = self._stored()
        held = sum(segment.num_rows for segment in stored)
        if held != rows:
            found.append(f"it holds {held} rows, not {rows}")
        if self._sorts():
            unsorted = [segment for segment in stored if not segment.is_sorted]
            if unsorted:
                found.append(f"{len(unsorted)} of {len(stored)} segments are not sorted yet")
        return found

    def _sorts(self) -> bool:
        number = self._number()
        return number is None or number >= SORTED_SINCE

    def _compaction_pending(self, job: int) -> list[str]:
        state = self._opened().call("get_compaction_state", job).state_name
        return [] if state == "Completed" else [f"merging its segments is {state}"]

    def _pending(self, rows: int) -> list[str]:
        """What still keeps the collection from being searched as it is meant to be."""
        found = self._index_pending(rows)
        state = self._opened().call("get_load_state", self._collection).name
        if state != "Loaded":
            found.append(f"it is {state}")
        loaded = self._loaded()
        held = sum(number for number, _, _ in loaded.values())
        if held != rows:
            found.append(f"{held} of {rows} rows are loaded")
        growing = sum(number for number, state, _ in loaded.values() if state == GROWING)
        if growing:
            found.append(f"{growing} rows are in growing segments")
        bare = [number for number, state, index in loaded.values() if not index and state != GROWING and number >= SMALLEST_INDEXED]
        if bare and self._asked_index()["index_type"] not in BRUTE_FORCE:
            found.append(f"{len(bare)} of {len(loaded)} loaded segments, of {sum(bare)} rows, are without their index")
        stored = {segment.segmentID for segment in self._stored()}
        if stored != set(loaded):
            found.append(f"{len(stored)} segments are stored and {len(loaded)} loaded, which are not all the same")
        return found

    def _trouble(self) -> str:
        """Why an index could not be built, in the server's log, where that can be read."""
        return ""

    # ------------------------------------------------------------------------------- searching

    def search(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Ids of the nearest rows, in one request, without retries.

        Very many queries at once, or very many ids, are asked for in several requests one after the other.

        Parameters
        ----------
        queries : ndarray of shape (n, dim)
        k : int
        params : mapping
            The knob and what goes with it: ``ef``, ``nprobe`` …
        below : int, optional
            Only rows whose part is smaller.

        Returns
        -------
        ndarray of shape (n, k), int64
            Best first, -1 where fewer were found.

        Raises
        ------
        harness.errors.StoreError
            Before the collection is ready, or when the server refuses or is gone.
        """
        if self._call_search is None or self._connection is None:
            raise StoreError(f"store={self.name}: search before wait_ready has found the collection ready")
        check_shape(self.name, queries, dim=self._dim, vector_type=self._vector_type)
        if below is not None and not self._filtered:
            raise StoreError(f"store={self.name}: {self._collection} was created without the field that filters")
        at_once = max(1, min(LARGEST_K, ANSWERS_AT_ONCE // max(1, k), QUERIES_BYTES // (4 * self._dim)))
        answer = np.full((len(queries), k), -1, dtype=np.int64)
        search_params = {"metric_type": metric_type(self._metric, self._vector_type), "params": milvus_params(params)}
        for start in range(0, len(queries), at_once):
            part = queries[start : start + at_once]
            data = list(part) if self._vector_type == "fp32" else [as_bytes(row, self._vector_type) for row in part]
            try:
                found = self._call_search(
                    self._collection,
                    VECTOR,
                    search_params,
                    k,
                    data=data,
                    expression="" if below is None else f"{PART} < {below}",
                    consistency_level=self.consistency,
                    **self._search_extra,
                )
            except self._connection.failures as error:
                kind = StoreTimeoutError if status(error) == "DEADLINE_EXCEEDED" else StoreError
                raise kind(f"store={self.name} could not search: {self._reason(error)}") from error
            for row, hits in enumerate(found, start):
                answer[row, : len(hits.ids)] = hits.ids
        return answer

    def index_bytes(self) -> int | None:
        """What the query nodes say that the collection's segments take; None where they say nothing, as up to 2.3 at least."""
        if not self._collection:
            return None
        with self._translated("tell its segments"):
            infos = self._opened().call("get_query_segment_info", self._collection)
        sizes = {info.segmentID: info.mem_size for info in infos if info.num_rows}
        return sum(sizes.values()) if sizes and all(sizes.values()) else None

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """A small graph with ``ef = k``: it returns k rows, whose fetching every index has to pay for."""
        return HNSW(M=8, ef_construction=40, ef=(k,))

    # ----------------------------------------------------------------------------------- leaving

    def drop(self) -> None:
        """Drop the collection that this object created."""
        connection = self._created()
        if not self._owned:
            raise StoreError(f"store={self.name} is attached to {self._collection}, which is another's to drop")
        with self._translated(f"drop {self._collection}"):
            connection.call_patiently("drop_collection", self._collection)
        if self._note is not None:
            self._note.strike()
            self._note = None
        self._forget()

    def close(self) -> None:
        """Drop what is left of one's own, and disconnect."""
        if self._connection is None:
            return
        if self._owned:
            with suppress(StoreError):  # the server may be gone, which is no reason to stay connected
                self.drop()
        self._forget()
        if self._note is not None:
            self._note.leave()
            self._note = None
        self._suffix = ""
        self._connection.close()
        self._connection = None

    def _forget(self) -> None:
        self._collection, self._index, self._owned, self._call_search, self._times = "", None, False, None, {}
        self._bulk = None

    # ----------------------------------------------------------------------------------- helpers

    def _opened(self) -> Connection:
        if self._connection is None:
            raise StoreError(f"store={self.name} is not open")
        return self._connection

    def _created(self) -> Connection:
        if self._index is None:
            raise StoreError(f"store={self.name} has no collection; create one first")
        return self._opened()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._opened().failures as error:
            raise StoreError(f"store={self.name} could not {doing}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        """What went wrong, in words."""
        return self._opened().reason(error)


def _named(collection: str, suffix: str) -> str:
    """Return the name on the server: the harness's own, and different for each object that creates it."""
    return f"harness_{collection.removeprefix('harness_')}_{suffix}"


def _since(versions: Mapping[tuple[int, int], tuple[_T, ...]], number: tuple[int, int] | None) -> tuple[_T, ...]:
    """Return all that was there by a version; everything if the version is not known."""
    return tuple(each for since, added in versions.items() if number is None or since <= number for each in added)


def _index_state(state: int) -> str:
    from pymilvus.grpc_gen import common_pb2

    return str(common_pb2.IndexState.Name(state))


def _described(params: Any) -> dict[str, str]:
    """Return what a server says of an index as one flat mapping; some put the build parameters into a JSON text called ``params``."""
    found = {pair.key: pair.value for pair in params}
    with suppress(ValueError):
        found |= {key: str(value) for key, value in json.loads(found.pop("params", "{}")).items()}
    return found


def _same(has: str | None, asked: Any) -> bool:
    """Whether a server's text for a value is the value that was asked for."""
    if has is None:
        return False
    if isinstance(asked, int | float):
        with suppress(ValueError):
            return float(has) == float(asked)
    return has.lower() == str(asked).lower()
