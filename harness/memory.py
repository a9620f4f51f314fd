"""How much memory a process has held at most."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    On Linux this is ``VmHWM`` of proc(5), and not getrusage(2): there a process that is about to execute another program hands its own
    peak on to it, so that what a large process starts looks as large, and libraries that merely ask ``ldconfig`` something double
    the figure. What this process has started is not added.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
