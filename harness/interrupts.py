"""Ctrl-C and the request to terminate: both end a run by an exception, so that what it began is cleared away.

Python raises it at whatever instruction the signal finds. Hydra and OmegaConf do not stand that: a clean-up of theirs meets half-set
state and fails by itself, and its error takes the place of the interrupt. While they compose, `held` keeps interrupts back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: int | None = None


def listen() -> None:
    """Raise on SIGTERM as on Ctrl-C, and remember which of them came; for the main thread of the command line."""
    global _asked
    _asked = None
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where whoever started us wants it ignored
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    global _asked
    _asked = number
    raise_again()


def raise_again() -> None:
    """Raise the interrupt that came since `listen`, if one did: an error of whatever it interrupted may have taken its place."""
    if _asked == signal.SIGINT:
        raise KeyboardInterrupt
    if _asked is not None:
        raise SystemExit(128 + _asked)


@contextmanager
def held() -> Iterator[None]:
    """Keep interrupts back until the body, which is to be short, has ended."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    answers = {number: answer for number, answer in found.items() if callable(answer)}
    for number in answers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
        if came:
            signal.raise_signal(came[0])
