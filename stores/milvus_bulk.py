"""Rows into a Milvus server by files in its storage, and a request to import them, instead of by requests that hold them.

The files are NumPy's, one a field under the field's name, which a server reads as they are (row by row formats are parsed). They have to
lie where the server finds them: this writes to a folder that this machine and the server both see below its *local* storage. Rows that were
imported lie in sealed segments at once. The files of a collection lie in a folder of its name, so that those of a killed program go with it
(`stores.milvus_ledger`). Object storage (S3, MinIO) is not written to: it was not seen working here.

What was found on server 2.3.5 is told in `stores.milvus_local`.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from stores.milvus_connection import Connection

POLL_S = 0.02
"""Between two looks at an import; a look takes the server a millisecond or two."""
FAILED, COMPLETED, CLEANED = 1, 6, 7
"""milvus.proto.common.ImportState."""
ROWS = 100_000
"""Rows of 4 kB in one import, 400 MB: a server seals a segment at 512 MB, and reads a file into memory whole."""


class BulkImport:
    """Imports into one server.

    Parameters
    ----------
    store : str
        Name for messages.
    connection : Connection
    folder : Path
        Below the server's local storage; files lie there while they are imported.
    deadline_s : float
        For one import.
    """

    def __init__(self, store: str, connection: Connection, folder: Path, *, deadline_s: float) -> None:
        self._store, self._connection, self._folder, self._deadline_s = store, connection, folder, deadline_s
        self._files_s = self._import_s = 0.0

    @property
    def times(self) -> dict[str, float]:
        """Seconds that all imports so far took: ``files``, writing them; ``import``, from asking until the server said that it was done."""
        return {"files": self._files_s, "import": self._import_s}

    def take(self, collection: str, columns: Mapping[str, NDArray[Any]]) -> int:
        """Bring rows in, column by column; returns how many the server says it took.

        Raises
        ------
        harness.errors.StoreError
            When the folder cannot be written, the server refuses or fails, or the import is not done by its deadline.
        """
        kept = self._folder / collection
        own = kept / secrets.token_hex(6)
        start = time.monotonic()
        try:
            own.mkdir(parents=True)
            paths = [own / f"{name}.npy" for name in columns]
            for path, values in zip(paths, columns.values(), strict=True):
                np.save(path, values)
        except OSError as error:
            shutil.rmtree(kept, ignore_errors=True)
            raise StoreError(f"store={self._store} cannot write the files of an import to {own}: {error.strerror or error}") from error
        written = time.monotonic()
        self._files_s += written - start
        try:
            return self._imported(collection, [str(path) for path in paths])
        finally:
            self._import_s += time.monotonic() - written
            shutil.rmtree(kept, ignore_errors=True)

    def _imported(self, collection: str, paths: list[str]) -> int:
        deadline = time.monotonic() + self._deadline_s
        try:
            task = self._connection.call_patiently("do_bulk_insert", collection, "", paths)
            while True:
                state = self._connection.call("get_bulk_insert_state", task)
                if state.state in (FAILED, CLEANED):
                    raise StoreError(f"store={self._store}: the import into {collection} failed: {state.failed_reason}")
                if state.state == COMPLETED:  # before that the segments are not merged with others
                    return int(state.row_count)
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"store={self._store}: the import into {collection} was {state.state_name} after {self._deadline_s:g} s; "
                        "make the import smaller or look at the server's log"
                    )
                time.sleep(POLL_S)
        except self._connection.failures as error:
            raise StoreError(f"store={self._store} could not import into {collection}: {self._connection.reason(error)}") from error
