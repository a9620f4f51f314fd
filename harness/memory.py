"""How much memory a process has held at most."""

from __future__ import annotations

import resource
import sys

_UNIT = 1 if sys.platform == "darwin" else 1024
"""``ru_maxrss`` is in bytes on macOS and in KiB on Linux (getrusage(2))."""


def peak_rss_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    What it starts is not added: a child that is about to execute another program counts as as large as its parent, so
    libraries that merely ask ``ldconfig`` something would double the figure.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
