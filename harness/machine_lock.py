"""The locks that say what is being timed on this machine, so that cells which would disturb each other are not timed side by side.

A cell that is to be alone on the machine (``exclusive=true``) holds the machine's lock by itself. One that is to be alone on its devices
(``exclusive=device``) shares the machine's lock and holds its devices' by itself. One that may run beside anything (``exclusive=false``)
shares both. A run that has asked to be alone is therefore never disturbed by one that has not, and the system frees a lock when its owner
dies. Each lock has a turn besides, held by whoever waits for it: others that could share it do not slip in before.

The files lie where temporary files go, by user: other users, and containers with temporary folders of their own, are not kept out. A GPU
has the name that it has in ``CUDA_VISIBLE_DEVICES``: where one run names it there by number and another by UUID, they do not meet.
Further GPUs that workers of ``engine=ray`` take are not locked.
"""

from __future__ import annotations

import fcntl
import os
import re
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
def timed(exclusive: Exclusive, *devices: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the locks under which a cell may be timed.

    Parameters
    ----------
    exclusive : bool or "device"
        Whom it is timed beside.
    *devices : str
        What it computes on, such as ``cuda:0``, as torch counts them in this process.
    waiting : callable
        Called once, before waiting for another run.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    name = f"embedding-search-harness-{user}"
    wanted = [(name, exclusive is True)]
    if exclusive is not True:
        wanted += [(f"{name}-{device}", exclusive == "device") for device in sorted({_outside(device) for device in devices})]
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            waiting()
            told = True
        time.sleep(_POLL_S)

    with ExitStack() as held:
        for file, alone in wanted:  # always in this order, so that no two runs wait for each other
            with _locked(f"{file}.turn", alone=True, wait=wait):
                held.enter_context(_locked(f"{file}.lock", alone=alone, wait=wait))
        yield


def _outside(device: str) -> str:
    """Return the name that a device has for all processes, fit for a file: ``cuda:0`` is the first GPU that this process may see."""
    kind, _, number = device.partition(":")
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if kind == "cuda" and number.isdecimal() and int(number) < len(visible):
        number = visible[int(number)] or number
    return re.sub(r"[^\w-]", "-", f"{kind}-{number}" if number else kind)


@contextmanager
def _locked(file: str, *, alone: bool, wait: Callable[[], None]) -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / file).open("a") as handle:
        while not _taken(handle.fileno(), alone=alone):
            wait()
        yield


def _taken(file: int, *, alone: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
