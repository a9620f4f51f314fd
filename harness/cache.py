"""Folders that are made once and kept: data, vectors and ground truth, addressed by what they were made from.

Made under a temporary name and renamed when whole, with a list of the files, their sizes and checksums; a folder whose files do
not match its list is made again. Processes that want the same folder at once wait for the one that makes it.

The place is ``$HARNESS_CACHE`` or the user's cache folder of the operating system. Deleting it costs time, never results. `prune` deletes
what has not been used for long, and never what a process that still runs has asked for: each process holds a lock on a list of those.
``$HARNESS_CACHE_MAX``, such as ``20GB``, prunes to that size whenever something has been added.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import platformdirs
from filelock import FileLock, Timeout

from harness.errors import SettingsError
from harness.quantity import BYTES, quantity

log = logging.getLogger(__name__)

_LIST = "files.json"
_IN_USE = ".in-use"
"""Folder with a file for each process that uses the cache: the folders it has asked for, a line each, locked until the process ends."""


@dataclass(frozen=True)
class Entry:
    """One folder of the cache."""

    kind: str
    key: str
    bytes: int
    used_at: float
    """When it was last asked for, in seconds since 1970."""
    in_use: bool
    """Whether a process that still runs has asked for it."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return root() / self.kind / self.key


def root() -> Path:
    """Return the folder that holds everything cached."""
    return Path(os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness"))


def find(kind: str, key: str) -> Path | None:
    """Return the folder of that kind and key if it is there with files of the right sizes, None otherwise; `sound` looks into them too."""
    folder = root() / kind / key
    _note_use(kind, key)
    listed = _listed(folder)
    if listed is None:
        return None
    if all((folder / name).is_file() and (folder / name).stat().st_size == size for name, (size, _) in listed.items()):
        with suppress(OSError):  # somebody else's cache: its owner sees no use by us, and nothing else is wrong
            os.utime(folder / _LIST)
        return folder
    log.warning("%s is not whole any more; it is made again", folder)
    return None


_sound: set[Path] = set()
"""Folders whose contents this process has compared with their checksums."""


def sound(kind: str, key: str) -> Path | None:
    """Return the folder of that kind and key if it is there with the very contents that were put there, None otherwise.

    The contents are read once by each process, about a gigabyte a second.
    """
    folder = find(kind, key)
    if folder is None or folder in _sound:
        return folder
    for name, (_, checksum) in (_listed(folder) or {}).items():
        if checksum is not None and _checksum(folder / name) != checksum:
            log.warning("%s is not what was written there; it is made again", folder / name)
            return None
    _sound.add(folder)
    return folder


def get(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that kind and key, calling ``make(empty_folder)`` first where there is none.

    Raises
    ------
    harness.errors.SettingsError
        When the cache cannot be written, or ``HARNESS_CACHE_MAX`` is no size, which is said before anything is made.
    """
    limit = os.environ.get("HARNESS_CACHE_MAX")
    max_bytes = bytes_of(limit, key="HARNESS_CACHE_MAX") if limit else None
    folder = root() / kind / key
    found = sound(kind, key)
    if found is not None:
        return found
    with ExitStack() as held:
        with _writing(root()):
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(folder.with_name(f"{key}.lock")))
        found = sound(kind, key)
        if found is not None:
            return found
        for left_behind in folder.parent.glob(f".{key}-*"):  # by somebody who was killed: whoever makes this folder holds the lock
            shutil.rmtree(left_behind, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
        try:
            make(temporary)
            files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
            listed = {str(path.relative_to(temporary)): [path.stat().st_size, _checksum(path)] for path in files}
            (temporary / _LIST).write_text(json.dumps(listed))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _sound.add(folder)
    if max_bytes is not None:
        prune(max_bytes=max_bytes)
    return folder


def shelf(kind: str, key: str) -> Path:
    """Return a folder of that kind and key that fills little by little, made if need be: for work that goes on where it was stopped.

    Whoever uses it checks what lies in it. It is listed and pruned like any other, and removed by whoever has finished with it.

    Raises
    ------
    harness.errors.SettingsError
        When the cache cannot be written.
    """
    folder = root() / kind / key
    with _writing(root()):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _LIST).exists():
            (folder / _LIST).write_text("{}")
    find(kind, key)
    return folder


@contextmanager
def _writing(here: Path) -> Iterator[None]:
    """Translate what can go wrong where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"the cache {here} cannot be written ({error.strerror or error}); set HARNESS_CACHE to another folder"
        ) from error


def _listed(folder: Path) -> dict[str, tuple[int, str | None]] | None:
    """Return size and checksum by file name; None where there is no list. Folders of earlier versions have no checksums."""
    try:
        found: dict[str, Any] = json.loads((folder / _LIST).read_text())
        return {name: (about, None) if isinstance(about, int) else (int(about[0]), str(about[1])) for name, about in found.items()}
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return None


def _checksum(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------ what is in use


@dataclass
class _Own:
    """The list of what a process uses, in that process."""

    process: int
    handle: IO[str]
    noted: set[str]


_own: dict[Path, _Own] = {}
_threads = threading.Lock()


def _note_use(kind: str, key: str) -> None:
    """Note that this process uses a folder from now until it ends."""
    here, name = root(), f"{kind}/{key}"
    with _threads:
        own = _own.get(here)
        if own is not None and own.process == os.getpid() and name in own.noted:
            return
        try:
            with _pruning(here):  # so that nobody prunes between this note and the look at the folder
                if own is None or own.process != os.getpid():
                    _forget_the_dead(here)
                    handle = tempfile.NamedTemporaryFile("w", prefix=f"{os.getpid()}-", dir=here / _IN_USE, delete=False)  # noqa: SIM115
                    os.fchmod(handle.fileno(), 0o644)  # so that another user of the same cache can read it
                    fcntl.flock(handle, fcntl.LOCK_EX)  # which the system takes away when this process ends, however it does
                    own = _own[here] = _Own(os.getpid(), handle, set())
                own.handle.write(f"{name}\n")
                own.handle.flush()
                own.noted.add(name)
        except OSError as error:
            log.debug("%s cannot be written, so nobody who prunes it sees that %s is in use: %s", here, name, error)


@contextmanager
def _pruning(here: Path) -> Iterator[None]:
    """Hold the lock under which folders are declared to be in use, or not to be."""
    (here / _IN_USE).mkdir(parents=True, exist_ok=True)
    with FileLock(here / _IN_USE / "lock"):
        yield


def _users(here: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """Yield the file of each process with the folders it uses, None where the process has ended."""
    for path in (here / _IN_USE).glob("*-*"):
        with suppress(FileNotFoundError), path.open() as handle:  # somebody else has forgotten it meanwhile
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield path, handle.read().splitlines()
            else:
                yield path, None


def _forget_the_dead(here: Path) -> None:
    for path, used in _users(here):
        if used is None:
            path.unlink(missing_ok=True)


def _in_use(here: Path) -> set[str]:
    return {name for _, used in _users(here) for name in used or ()}


# ------------------------------------------------------------------------------------------------- pruning


def entries() -> list[Entry]:
    """Return every folder of the cache, the one unused for longest first."""
    here = root()
    used = _in_use(here)
    found = []
    for path in here.glob(f"[!.]*/[!.]*/{_LIST}"):
        folder = path.parent
        with suppress(OSError):  # pruned by somebody else meanwhile
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            kind = folder.parent.name
            found.append(Entry(kind, folder.name, size, path.stat().st_mtime, f"{kind}/{folder.name}" in used))
    return sorted(found, key=lambda entry: entry.used_at)


def prune(*, max_bytes: float | None = None, older_than_s: float | None = None) -> list[Entry]:
    """Remove what has been unused for longest, until the rest is small enough, and all that was last used long ago.

    Half-made folders of processes that were killed go too. What a running process has asked for stays, however large it is.

    Parameters
    ----------
    max_bytes : float, optional
        What may remain, all kinds together.
    older_than_s : float, optional
        Seconds since the last use after which a folder goes.

    Returns
    -------
    list of Entry
        What was removed.

    Raises
    ------
    harness.errors.SettingsError
        When the cache cannot be written.
    """
    here = root()
    if not here.is_dir():
        return []
    removed: list[Entry] = []
    doomed: list[Path] = []
    with ExitStack() as held:
        with _writing(here):
            held.enter_context(_pruning(here))
        _forget_the_dead(here)
        found = entries()
        total = sum(entry.bytes for entry in found)
        for entry in found:
            old = older_than_s is not None and entry.used_at < time.time() - older_than_s
            if entry.in_use or not (old or (max_bytes is not None and total > max_bytes)):
                continue
            gone = Path(tempfile.mkdtemp(prefix=f".{entry.key}-", dir=entry.folder.parent))  # as if half-made: cleared away if we die here
            entry.folder.rename(gone / "pruned")
            doomed.append(gone)
            removed.append(entry)
            total -= entry.bytes
    doomed += [path for path in here.glob("[!.]*/.*-*") if path not in doomed and _abandoned(path)]
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
    for path in here.glob("[!.]*/[!.]*.lock"):
        if not path.with_suffix("").exists():  # nobody's lock any more
            with suppress(Timeout, OSError), FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
    return removed


def _abandoned(half_made: Path) -> bool:
    """Say whether nobody is making what this temporary folder is for."""
    try:
        with FileLock(half_made.with_name(f"{half_made.name[1:].rpartition('-')[0]}.lock"), timeout=0):
            return True
    except Timeout:
        return False


_AGES = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def bytes_of(text: str, *, key: str) -> float:
    """Return the bytes of a size such as ``20GB`` or ``500 MB``; `key` names where it stands, for the error."""
    return quantity(text, BYTES, key=key, kind="a size such as 500MB or 20GB")


def seconds_of(text: str, *, key: str) -> float:
    """Return the seconds of an age such as ``30d`` or ``12h``; `key` names where it stands, for the error."""
    return quantity(text, _AGES, key=key, kind="an age such as 12h, 30d or 8w")
