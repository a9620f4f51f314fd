"""Folders for what measuring processes write: gone when the run ends, and where it was killed, when the next one begins.

A locked file beside a folder says that somebody owns it. The system frees the lock when its owner ends, however it does. A process number
would not do: containers that share a folder for temporary files number their processes apart, so that the number of a live owner may be
unknown here, and that of a dead one be somebody else's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "harness-run-"


@contextmanager
def workspace(here: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder of one's own, and remove it afterwards; what others left behind who were killed is removed first.

    It lies where temporary files go, or in the folder named.
    """
    here = here or Path(tempfile.gettempdir())
    _remove_left_behind(here)
    folder = here / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"  # the number is for people; the lock alone counts
    lock = Path(f"{folder}.lock")
    with FileLock(lock):  # there before the folder and until after it, so that a folder is never without an owner
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            _remove(folder, lock)


def _remove_left_behind(here: Path) -> None:
    for lock in here.glob(f"{_PREFIX}*.lock"):
        with suppress(Timeout, OSError), FileLock(lock, timeout=0):  # OSError: another user's
            _remove(lock.with_suffix(""), lock)


def _remove(folder: Path, lock: Path) -> None:
    """Remove a folder, then the lock beside it, which is held: who waits for that finds it gone and takes a new one."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink(missing_ok=True)
