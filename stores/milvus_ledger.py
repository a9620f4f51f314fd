"""Which collections on Milvus servers are whose, so that those of a program that was killed are dropped by the next one.

A collection stays on a server when the process that made it is killed. Each has a file here, on the machine of its owner, from before it
is created until it has been dropped, and the owner holds a lock on that file. The system frees the lock when the owner ends, however it
does: what is noted and not locked has no owner any more. Nobody else's collection is ever looked at.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import platformdirs


class Note:
    """That a collection is this process's, from before it is created.

    Parameters
    ----------
    uri, database, collection : str
        Where it is going to be.
    """

    def __init__(self, uri: str, database: str, collection: str) -> None:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{collection}.json"
        half = folder / f".{collection}"
        self._file: IO[str] = half.open("w", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # before it has its name, so that nobody finds it without its owner
        json.dump({"uri": uri, "database": database, "collection": collection}, self._file)
        self._file.flush()
        half.rename(self._path)

    def strike(self) -> None:
        """Forget it: the collection has been dropped."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def leave(self) -> None:
        """Leave it to the next program to drop the collection, which could not be dropped."""
        self._file.close()


def left_behind(uri: str, database: str) -> Iterator[str]:
    """Yield the collections on a server whose owners have ended without dropping them.

    Each counts as dropped when the next is asked for.
    """
    for path in _folder().glob("*.json"):
        with suppress(OSError), path.open(encoding="utf-8") as noted:  # gone meanwhile, or locked by its owner
            fcntl.flock(noted, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = json.load(noted)
            if (about["uri"], about["database"]) == (uri, database):
                yield about["collection"]
                path.unlink(missing_ok=True)


def _folder() -> Path:
    cache = os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness")
    return Path(cache) / "milvus-collections"
