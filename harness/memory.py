"""How much memory a process and those it started have held at most."""

from __future__ import annotations

import resource
import sys

_UNIT = 1 if sys.platform == "darwin" else 1024
"""``ru_maxrss`` is in bytes on macOS and in KiB on Linux (getrusage(2))."""


def peak_rss_bytes() -> int:
    """Return the largest resident set of this process so far, plus the largest of any child that has ended, in bytes."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * _UNIT
