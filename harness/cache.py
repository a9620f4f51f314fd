"""Folders that are made once and kept: data, vectors and ground truth, addressed by what they were made from.

Made under a temporary name and renamed when whole, with a list of the files and their sizes; a folder whose files do
not match its list is made again. Processes that want the same folder at once wait for the one that makes it.

The place is ``$HARNESS_CACHE`` or the user's cache folder of the operating system. Deleting it costs time, never results.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from harness.errors import SettingsError

log = logging.getLogger(__name__)

_LIST = "files.json"


def root() -> Path:
    """Return the folder that holds everything cached."""
    return Path(os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness"))


def find(kind: str, key: str) -> Path | None:
    """Return the whole folder of that kind and key, None if there is none yet."""
    folder = root() / kind / key
    try:
        sizes: dict[str, int] = json.loads((folder / _LIST).read_text())
    except (OSError, ValueError):
        return None
    if all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()):
        return folder
    log.warning("%s is not whole any more; it is made again", folder)
    return None


def get(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that kind and key, calling ``make(empty_folder)`` first where there is none."""
    folder = root() / kind / key
    found = find(kind, key)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"the cache {root()} cannot be written ({error.strerror}); set HARNESS_CACHE to another folder") from error
    with FileLock(folder.with_name(f"{key}.lock")):
        found = find(kind, key)
        if found is not None:
            return found
        for left_behind in folder.parent.glob(f".{key}-*"):  # by somebody who was killed: whoever makes this folder holds the lock
            shutil.rmtree(left_behind, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        try:
            make(temporary)
            sizes = {str(path.relative_to(temporary)): path.stat().st_size for path in sorted(temporary.rglob("*")) if path.is_file()}
            (temporary / _LIST).write_text(json.dumps(sizes))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
