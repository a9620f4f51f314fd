"""Axes that a linear scale does not do: ticks of a logarithmic one, and a logit one for recall."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_TICKS = (0.9, 0.99, 0.5, 0.999, 0.95, 0.8, 0.1, 0.9999, 0.7, 0.2, 0.01, 0.98, 0.995, 0.99999, 0.3, 0.6, 0.05, 0.97, 0.4, 0.001, 1e-4, 1e-5)
"""Recalls that may bear a tick, those that a reader looks for first; each next one only where it has room."""
_NOTHING = 1e-6
"""What nobody can tell from 0, or from 1: a miss among a thousand queries of a thousand neighbours."""
_ROOM = 0.09
"""Of the axis, between two ticks: five digits in small print on a phone."""


@dataclass(frozen=True)
class RecallAxis:
    """A logit axis: 0.9, 0.99 and 0.999 are equally far apart, as far as the errors that are left differ in magnitude.

    ``log10(r / (1 - r))`` has no place for exactly 0 and exactly 1. They stand a step outside all that lies between, each under a
    tick of its own.
    """

    lowest: float
    """Smallest recall above 0."""
    highest: float
    """Largest recall below 1."""
    zero: bool = False
    """Whether there is a recall of 0."""

    @classmethod
    def over(cls, recalls: Iterable[float]) -> RecallAxis:
        """Return the axis for some recalls; wide enough for a few ticks also where all are 1."""
        recalls = list(recalls)
        between = [recall for recall in recalls if _NOTHING < recall < 1 - _NOTHING]
        return cls(min([*between, 0.9]), max([*between, 0.99]), zero=min(recalls, default=1.0) <= _NOTHING)

    def at(self, recall: float) -> float:
        """Return where a recall stands."""
        kept = min(max(recall, self.lowest / 3), 1 - (1 - self.highest) / 3)
        return math.log10(kept / (1 - kept))

    def layout(self, title: str) -> dict[str, Any]:
        """Return plotly's settings of the axis."""
        first, last = self.at(0.0 if self.zero else self.lowest), self.at(1.0)
        span = last - first
        ticks = [(first, "0"), (last, "1")] if self.zero else [(last, "1")]
        for recall in _TICKS:
            place = self.at(recall)
            room = min(abs(place - taken) for taken, _ in ticks)
            if self.lowest * 0.999 <= recall <= self.highest * 1.001 and room >= _ROOM * span:
                ticks.append((place, f"{recall:g}"))
        ticks.sort()
        margin = 0.04 * span
        return {
            "title": {"text": title},
            "range": [first - margin, last + margin],
            "tickvals": [place for place, _ in ticks],
            "ticktext": [words for _, words in ticks],
        }


def log_ticks(low: float, high: float) -> list[float]:
    """Return tick positions on a logarithmic axis: 1, 2, 5 of each decade, and finer round steps on a short one.

    >>> log_ticks(0.8, 30), log_ticks(9, 17)
    ([1.0, 2.0, 5.0, 10.0, 20.0], [10.0, 12.0, 14.0, 16.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) >= 3:
        return ticks
    power = math.floor(math.log10(high - low))
    step = next(
        size
        for size in (float(f"{digit}e{exponent}") for exponent in (power - 1, power) for digit in (1, 2, 5))
        if (high - low) / size <= 6
    )
    return [float(f"{place * step:.6g}") for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_layout(title: str, low: float, high: float) -> dict[str, Any]:
    """Return plotly's settings of a logarithmic axis between two positive numbers."""
    ticks = log_ticks(low, high)
    return {
        "title": {"text": title},
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:,.10g}" for tick in ticks],
    }
