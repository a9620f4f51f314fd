"""The locks that say what is being timed on this machine, so that cells which would disturb each other are not timed side by side.

A cell that is to be alone on the machine (``exclusive=true``) holds the machine's lock by itself. One that is to be alone on its device
(``exclusive=device``) shares the machine's lock with others of its kind and holds its device's by itself. One that may run beside
anything (``exclusive=false``) shares the machine's lock and holds no other. A run that has asked to be alone is therefore never disturbed
by one that has not, and the system frees a lock when its owner dies.

The files lie where temporary files go, by user: other users, and containers with temporary folders of their own, are not kept out.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

Exclusive = bool | Literal["device"]
"""``True``: alone on this machine; ``"device"``: alone on its device; ``False``: beside whatever else may be beside others."""

_POLL_S = 0.25
"""Seconds between two looks at a lock that another run holds: it may be measuring, so that we must not be busy."""


@contextmanager
def timed(exclusive: Exclusive, device: str, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the locks under which a cell may be timed.

    Parameters
    ----------
    exclusive : bool or "device"
        Whom it is timed beside.
    device : str
        What it computes on, such as ``cuda:0``.
    waiting : callable
        Called once, before waiting for another run.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    name = f"embedding-search-harness-{user}"
    wanted = [(f"{name}.lock", exclusive is True)]
    if exclusive == "device":
        wanted.append((f"{name}-{device.replace(':', '-')}.lock", True))
    with ExitStack() as held:
        told = False
        for file, alone in wanted:  # always in this order, so that no two runs wait for each other
            handle = held.enter_context((Path(tempfile.gettempdir()) / file).open("a"))
            while not _taken(handle.fileno(), alone=alone):
                if not told:
                    waiting()
                    told = True
                time.sleep(_POLL_S)
        yield


def _taken(file: int, *, alone: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
