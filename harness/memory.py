"""How much memory a process, or a process with all it has started, has held at most; and giving some back."""

from __future__ import annotations

import mmap
import re
import resource
import sys
from pathlib import Path

import numpy as np
import psutil

from harness.interfaces import Vectors


def peak_rss_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    On Linux this is ``VmHWM`` of proc(5), and not getrusage(2): there a process that is about to execute another program hands its own
    peak on to it, so that what a large process starts looks as large, and libraries that merely ask ``ldconfig`` something double
    the figure. What this process has started is not added.
    """
    return _high_water_mark("self") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def tree_peak_bytes() -> int:
    """Return the largest resident set of this process so far plus those of the processes that it has started and that still run.

    Each is the process's own peak, whether or not they were reached at the same moment, and pages that a process shares with the
    one that forked it count for both: the sum is never less than what was held together. A helper that has ended is not in it.
    """
    total = peak_rss_bytes()
    for child in psutil.Process().children(recursive=True):
        try:
            total += _high_water_mark(child.pid) or child.memory_info().rss
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return total


def _high_water_mark(process: int | str) -> int | None:
    """Return a process's ``VmHWM`` in bytes, None where the system has none (or the process holds no memory any more)."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def give_back(vectors: Vectors) -> None:
    """Tell the system that the pages of a memory-mapped file are not needed for now, so that they do not pile up in this process."""
    base: object = vectors
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not vectors.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # only where nothing can have been changed: a private copy's changes would be lost
