"""The ratio of two things timed in turn, with its interval: what a benchmark here may assert.

Two times measured minutes apart differ by what else the machine did; two measured back to back mostly do not. So both are timed in
pairs, first-second and second-first in turn, which cancels what being second costs, and the logarithms of the pairs' ratios are
averaged with Student's t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios with its two-sided 95 % interval."""

    value: float
    lo: float
    hi: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lo:.4f}, {self.hi:.4f}] over {self.pairs} pairs"


def alternated(first: Callable[[], float], second: Callable[[], float], *, pairs: int) -> list[tuple[float, float]]:
    """Return the seconds that each states, pair by pair; every other pair begins with the second."""
    found = []
    for number in range(pairs):
        if number % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        found.append((a, b))
    return found


def ratio(times: Sequence[tuple[float, float]]) -> Ratio:
    """Return the second's time by the first's: the throughput of the first relative to that of the second."""
    a, b = np.array(times, dtype=np.float64).T
    logs = np.log(b / a)
    interval = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    return Ratio(float(np.exp(logs.mean())), float(np.exp(interval.low)), float(np.exp(interval.high)), len(logs))
