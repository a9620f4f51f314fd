"""Ctrl-C and the request to terminate: both end a run by an exception, so that what it began is cleared away.

Python raises it at whatever instruction the signal finds. Hydra and OmegaConf do not stand that: a clean-up of theirs meets half-set
state and fails by itself, and its error takes the place of the interrupt. While they compose, `held` keeps interrupts back; whoever goes on
after an error asks `raise_again` first whether it has taken the place of one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_holding = 0
"""How many `held` are under way."""
_came: int | None = None
"""The signal that came meanwhile."""


def listen() -> None:
    """Raise on SIGTERM as on Ctrl-C; for the main thread of the command line."""
    signal.signal(signal.SIGTERM, _answer)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as where whoever started us wants it ignored
        signal.signal(signal.SIGINT, _answer)


def _answer(number: int, _: FrameType | None) -> None:
    global _came
    if _holding:
        _came = number
        return
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def held() -> Iterator[None]:
    """Keep interrupts back until the body, which is to be short, has ended."""
    global _holding, _came
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if not _holding and _came is not None:
            number, _came = _came, None
            _answer(number, None)


def raise_again(error: BaseException) -> None:
    """Raise the interrupt whose place an error has taken, if it has: one that was raised while the interrupt was on its way."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, KeyboardInterrupt) or (isinstance(found, SystemExit) and found.code == 128 + signal.SIGTERM):
            raise found
        found = found.__context__
