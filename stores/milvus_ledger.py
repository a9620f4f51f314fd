"""Which collections on Milvus servers are whose, so that those of a program that was killed are dropped by the next one.

A collection stays on a server when the process that made it is killed. Each has a file here, on the machine of its owner, from before it
is created until it has been dropped, and the owner holds a lock on that file. The system frees the lock when the owner ends, however it
does: what is noted and not locked has no owner any more. Nobody else's collection is ever looked at. The files of a bulk import that was
under way (`stores.milvus_bulk`) go too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import platformdirs

log = logging.getLogger(__name__)


class Note:
    """That a collection is this process's, from before it is created.

    Parameters
    ----------
    uri, database, collection : str
        Where it is going to be.
    files : Path, optional
        Folder of the files that are imported into it, named like it.
    """

    def __init__(self, uri: str, database: str, collection: str, *, files: Path | None = None) -> None:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{collection}.json"
        half = folder / f".{collection}"
        self._file: IO[str] = half.open("w", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # before it has its name, so that nobody finds it without its owner
        about = {"uri": uri, "database": database, "collection": collection, "files": None if files is None else str(files.absolute())}
        json.dump(about, self._file)
        self._file.flush()
        os.fsync(self._file.fileno())
        half.rename(self._path)

    def strike(self) -> None:
        """Forget it: the collection has been dropped."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def leave(self) -> None:
        """Leave it to the next program to drop the collection, which could not be dropped."""
        self._file.close()


def drop_left_behind(uri: str, database: str, drop: Callable[[str], bool]) -> None:
    """Drop the collections on a server whose owners have ended without dropping them, and remove the files of those on any server.

    Parameters
    ----------
    uri, database : str
        The server.
    drop : callable
        Takes a collection's name and says whether it has been dropped; otherwise it stays noted.
    """
    for path in _folder().glob("*.json"):
        with suppress(OSError), path.open(encoding="utf-8") as noted:  # gone meanwhile, or locked by its owner
            fcntl.flock(noted, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                about = json.load(noted)
                where, collection, files = (about["uri"], about["database"]), about["collection"], about.get("files")
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s cannot be read, so the collection %s may be left on a Milvus server; drop it there", path, path.stem)
                path.unlink(missing_ok=True)
                continue
            if files is not None and Path(files).name == collection:  # nothing but what was made for it
                shutil.rmtree(files, ignore_errors=True)
            if where == (uri, database) and drop(collection):
                path.unlink(missing_ok=True)


def _folder() -> Path:
    cache = os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness")
    return Path(cache) / "milvus-collections"
