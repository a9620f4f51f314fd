"""The clock and the loops around it; nothing else in the project reads a clock to make a number.

The clock is `time.perf_counter_ns`, read directly around the call. What the call returns is kept and looked at after
the clock has stopped. Tests pass a clock of their own, so that no test depends on real time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Model, Served

Clock = Callable[[], int]
"""Returns nanoseconds of a clock that never goes back."""


@dataclass(frozen=True)
class Until:
    """When a loop has measured enough: both minima are met."""

    min_s: float
    min_count: int

    def met(self, elapsed_s: float, count: int) -> bool:
        """Say whether to stop after `count` calls that took `elapsed_s` seconds together."""
        return elapsed_s >= self.min_s and count >= self.min_count


def affordable(counts: Sequence[int], seconds_each: float, *, within_s: float) -> int:
    """Return the largest of some counts of samples that fits into a time, the smallest where none does.

    How many samples a loop takes is settled before it starts, by what one costs: a slow model gets a median where a fast one gets
    a p99, and no loop stops in the middle of what it set out to do.
    """
    return max((count for count in counts if count * seconds_each <= within_s), default=min(counts))


@dataclass
class Timed:
    """What was measured of one operating point, growing block by block."""

    seconds: list[float] = field(default_factory=list)
    """One latency a call."""
    wall_s: float = 0.0
    """Wall time of the blocks, the loop around the calls included: what throughput is computed from."""

    @property
    def count(self) -> int:
        """Number of calls."""
        return len(self.seconds)

    def block(self, call: Callable[[int], Any], numbers: Sequence[int], *, clock: Clock = time.perf_counter_ns) -> list[Any]:
        """Call ``call(i)`` for each number, timing every call; returns the answers."""
        answers = []
        stamps = []
        begin = clock()
        for number in numbers:
            before = clock()
            answer = call(number)
            after = clock()
            stamps.append(after - before)
            answers.append(answer)
        self.wall_s += (clock() - begin) / 1e9
        self.seconds += [stamp / 1e9 for stamp in stamps]
        return answers

    def array(self) -> NDArray[np.float64]:
        """Return the latencies in the order measured, seconds, shape (count,)."""
        return np.asarray(self.seconds, dtype=np.float64)


def seconds_of(call: Callable[[], Any], *, clock: Clock = time.perf_counter_ns) -> tuple[float, Any]:
    """Return how long one call took, in seconds, and its answer."""
    before = clock()
    answer = call()
    return (clock() - before) / 1e9, answer


def working_clock(model: Model, *, clock: Clock = time.perf_counter_ns) -> Clock:
    """Return the clock to time a model's calls by: for one behind an endpoint, a clock that stands still while it waits or retries.

    Its counter of seconds that were waited only ever grows by time that has passed, so the clock never goes back.
    """
    if not isinstance(model, Served):
        return clock
    served = model
    return lambda: clock() - round(served.counters()["waited_s"] * 1e9)
