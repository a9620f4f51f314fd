"""How much processor time everybody else spent while a cell was measured.

A load average looks back over minutes and counts our own work; this is the machine's busy time between two moments, less what
this program and its measuring processes used, which the kernel keeps for every process and the children it has waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

NOTABLE = 0.1
"""Share of the machine's processors in other hands from which a reader is told; an idle system's own housekeeping is far below."""


class OtherWork:
    """Watches from construction on.

    Parameters
    ----------
    servers : sequence of int
        Process numbers of the measuring servers, which must be alive and without a running child at both moments.
    """

    def __init__(self, servers: Sequence[int]) -> None:
        self._servers = tuple(servers)
        self._began, self._busy, self._own = time.monotonic(), _busy_s(), self._own_s()

    def share(self) -> float | None:
        """Return the share (0 … 1) of all processors' time that others used; None where a server has gone meanwhile."""
        try:
            own = self._own_s() - self._own
        except psutil.NoSuchProcess:
            return None
        capacity = (time.monotonic() - self._began) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (_busy_s() - self._busy - own) / capacity)) if capacity > 0 else None

    def _own_s(self) -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in (None, *self._servers))


def _busy_s() -> float:
    """Return the seconds that all processors together have worked since the machine started, or that were taken from it."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
