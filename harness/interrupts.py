"""Ctrl-C and the request to terminate: both end a run by an exception, so that what it began is cleared away.

Python raises it at whatever instruction the signal finds. Hydra and OmegaConf do not stand that: a clean-up of theirs meets half-set
state and fails by itself, and its error takes the place of the interrupt. While they work, `held` keeps interrupts back for a moment.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_LONGEST_S = 3.0
"""Seconds that an interrupt is kept back at most: Hydra composes a job in a fraction of one, but thousands of them in a row."""

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


class Held:
    """Keeps interrupts back, and lets them through where that is said; made by `held`.

    Parameters
    ----------
    answers : mapping of int to callable
        What each signal does where it is let through.
    """

    def __init__(self, answers: Mapping[int, Callable[[int, FrameType | None], object]]) -> None:
        self._answers = answers
        self._pending: int | None = None
        self._through = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Answer a signal, or keep it."""
        if self._through:
            self._answers[number](number, frame)
        elif self._pending is None:
            self._pending = number
            late = threading.Timer(_LONGEST_S, self.let_go)
            late.daemon = True
            late.start()

    def let_go(self) -> None:
        """Keep nothing back from here on, first of all what has come; may be called in any thread."""
        self._through = True
        number, self._pending = self._pending, None
        if number is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    @contextmanager
    def through(self) -> Iterator[None]:
        """Keep nothing back while the body runs."""
        before = self._through
        self.let_go()
        try:
            yield
        finally:
            self._through = before


@contextmanager
def held() -> Iterator[Held]:
    """Keep interrupts back until the body has ended or lets them through, or until an interrupt has waited for three seconds."""
    answers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        answers = {number: answer for number, answer in found.items() if callable(answer)}
    one = Held(answers)
    for number in answers:
        signal.signal(number, one.note)
    try:
        yield one
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
        one.let_go()
