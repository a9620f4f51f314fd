"""The real Milvus standalone server on this machine, started and stopped by the harness: one for all stores open in a process.

A cell opens three stores at once, and a server each would cost 3 times 220 MB and three engines that disturb each other; so
the first `open` starts the server, later ones in the same process use it, and the last `close` stops it. It lies in the folder of the
first. Replicates are processes of their own and hence have servers of their own.

Its version is that of the package ``milvus``, 2.3.5, which brings the C++ engine, etcd and local storage in one program. Its
configuration is the package's, which is Milvus's default; it takes as many threads as it finds cores, beside the client that
measures it. See `stores.milvus_server` for who can reach it, and `stores.milvus` for what goes for every server. What was
found on it besides:

- A start takes 2 s once the programs are unpacked (5 s, once), a flush 2 to 3 s and a load 3 to 4 s whatever the number of rows,
  for its parts look for each other's work every second or so.
- DISKANN and the GPU families are accepted and never built, hence not offered; so is, without an error, any index
  with a parameter of the wrong kind.
- IVF_PQ with a filter answers with rows that pass it and are hardly nearer than any others: recall 0.14 where it is 0.86 without a filter,
  every cell probed. That combination is refused. All other families answer filtered searches as they should.
- A bulk import takes NumPy files at any absolute path that the server can read; a relative one counts from where the server was started.
  It is done when it is *Completed*, 2 s after its rows are in a segment (*Persisted*): until then that segment is not merged with others.
  50,000 rows of 384 dimensions took 13 to 16 s beside other work, 0.3 to 0.6 s of it for the files, where requests took 10 to 13 s and
  2.5 s to flush.
- The bytes of an index are those that its files unpack to, for the server compresses them: text vectors and a graph's links by a third.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness.errors import StoreError
from harness.interfaces import VectorType
from stores.milvus import VERIFIED, Milvus
from stores.milvus_server import MilvusServer, package_version


@dataclass
class _Shared:
    """A server, the process that started it (a forked child must not take its parent's for its own), and how many stores use it."""

    server: MilvusServer
    process: int
    users: int = 1


_LOCK = threading.Lock()
_SHARED: list[_Shared] = []


class MilvusLocal(Milvus):
    """Milvus standalone in a folder and on ports of its own.

    Parameters
    ----------
    consistency : str
        ``Strong``, ``Bounded``, ``Eventually`` or ``Session``, sent with each search.
    shards : int
        Of the collection.
    timeout_s : float
        For a single call. Waiting for an index has the deadline of the cell.
    insert_by : str
        ``requests``, or ``bulk_import``: files in the server's storage that it is asked to import.

    Raises
    ------
    harness.errors.SettingsError
        When a value is outside its range; names every one that is.
    """

    _outlives_us = False

    def __init__(self, *, consistency: str = "Bounded", shards: int = 1, timeout_s: float = 60.0, insert_by: str = "requests") -> None:
        super().__init__(
            token_env="", user_env="", password_env="", consistency=consistency, shards=shards, timeout_s=timeout_s, insert_by=insert_by
        )
        self._shared: _Shared | None = None

    @property
    def name(self) -> str:
        """The name in ``store=milvus_local``."""
        return "milvus_local"

    @property
    def families(self) -> tuple[str, ...]:
        """Those that its server builds."""
        return VERIFIED["2.3.5"]

    @property
    def vector_types(self) -> tuple[VectorType, ...]:
        """Those that its server searches; half precision came with 2.4."""
        return ("fp32", "binary")

    def _number(self) -> tuple[int, int]:
        """The version of the package's server, which need not run to be known."""
        return 2, 3

    def _folder_violations(self) -> list[str]:
        """Nothing is asked for: the server's storage is a folder of our own."""
        return []

    def _import_folder(self) -> Path:
        assert self._shared is not None
        return self._shared.server.folder / "data" / "imports"

    def open(self, folder: Path) -> None:
        """Start the server in `folder`, or use the one that this process has, and connect.

        Raises
        ------
        harness.errors.StoreError
            When the server is not installed or does not start.
        """
        if self._shared is not None:
            raise StoreError(f"store={self.name} is open already; close it first")
        self._shared = _join(Path(folder).resolve())
        self.uri = self._shared.server.uri
        try:
            super().open(folder)
        except BaseException:
            self._leave()
            raise

    def identity(self) -> dict[str, str] | None:
        """The version that would be started, which no import tells; None where the package is absent."""
        try:
            return {"version": package_version()}
        except StoreError:
            return None

    def version(self) -> str:
        """The server's version."""
        return f"milvus {package_version()}"

    def index_bytes(self) -> int | None:
        """Bytes of the collection's indexes as memory holds them; None where there is none, as for FLAT and for small segments."""
        if self._shared is None or not self._collection:
            return None
        with self._translated("tell its segments"):
            segments = [segment.segmentID for segment in self._stored()]
        # index_files/<build>/<version>/<partition>/<segment>/<slice>
        files = self._shared.server.folder / "data" / "index_files"
        sizes = [_unpacked_bytes(file) for segment in segments for file in files.glob(f"*/*/*/{segment}/*")]
        return sum(sizes) if sizes else None

    def server_rss_bytes(self) -> int | None:
        """Resident memory of the server now, with all collections that it holds; None when it does not run."""
        return None if self._shared is None else self._shared.server.rss_bytes()

    def close(self) -> None:
        """Drop what is left, disconnect, and stop the server if no other store of this process uses it."""
        try:
            super().close()
        finally:
            self._leave()

    def _leave(self) -> None:
        shared, self._shared = self._shared, None
        if shared is None or shared.process != os.getpid():
            return
        with _LOCK:
            shared.users -= 1
            if not shared.users:
                _SHARED.remove(shared)
                shared.server.stop()

    def _trouble(self) -> str:
        return "" if self._shared is None else self._shared.server.failed_build()

    def _reason(self, error: Exception) -> str:
        server = None if self._shared is None else self._shared.server
        if server is None or not server.has_ended(wait_s=1.0):
            return super()._reason(error)
        return f"the server ended ({server.how_it_ended()}); its log: {server.last_words()}"


def _unpacked_bytes(file: Path) -> int:
    """Return how many bytes of an index a file holds: it is Milvus's header around a Parquet column of one value a byte."""
    import pyarrow.parquet

    raw = file.read_bytes()
    start, end = raw.find(b"PAR1"), raw.rfind(b"PAR1") + 4
    if start < 0:
        return len(raw)
    return int(pyarrow.parquet.read_metadata(io.BytesIO(raw[start:end])).num_rows)


def programs() -> Path:
    """Return where the server's programs are kept unpacked: with all else that this project caches."""
    return Path(os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness"))


def _join(folder: Path) -> _Shared:
    """Return this process's server with one user more, started where there is none that runs."""
    with _LOCK:
        for shared in _SHARED:
            if shared.process == os.getpid() and shared.server.exit_code is None:
                shared.users += 1
                return shared
        shared = _Shared(MilvusServer(folder, programs=programs()), os.getpid())
        _SHARED.append(shared)
        return shared
