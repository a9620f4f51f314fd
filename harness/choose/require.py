"""What is asked of a configuration, and whether a figure is known to meet it.

A constraint *holds* only if the bound of the figure's interval holds: a recall whose interval is [0.93, 0.97] is not known to be 0.95.
Where the interval lies on both sides of the limit it is *undecided*, which more measuring can change; where all of it lies on the wrong
side the constraint is *violated*, which it cannot; where there is no figure it is *unknown*, for a reason that stands in the record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import SettingsError
from harness.quantity import BYTES, quantity
from harness.records import Measured

State = Literal["holds", "violated", "undecided", "unknown"]

_TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}
MOST = 1e15
"""Beyond any corpus, rate and price there is: what is larger is a slip of the finger, and its costs would overflow."""
_REMEDIES = {"process": "raise processes=", "query": "raise dataset.queries=", "build": "raise processes=", "sample": "raise processes="}
"""What narrows an interval, by the unit that it is replicated over."""


@dataclass(frozen=True)
class Judgement:
    """What one constraint comes to for one candidate."""

    state: State
    words: str
    """With the numbers, for whatever does not hold."""
    miss: float
    """How far the figure itself is from the limit, as a share of it; 0 where it is on the right side, infinite where it is not known."""


@dataclass(frozen=True)
class Requirement:
    """One constraint."""

    option: str
    """As it is written on the command line."""
    figure: str
    """The candidate's figure that is judged."""
    title: str
    limit: float
    least: bool
    """Whether the figure must be at least the limit, or at most."""
    once: bool = False
    """Whether the figure is measured once and has no interval, so that itself is judged (memory)."""

    def __str__(self) -> str:
        return f"{self.title} {'≥' if self.least else '≤'} {self.shown}"

    @property
    def shown(self) -> str:
        """The limit as a person reads it, a score with all its digits."""
        return str(self.limit) if self.least else written(self.figure, self.limit)

    def judge(self, figure: Measured) -> Judgement:
        """Say whether the constraint holds for a figure, by the bound of its interval."""
        if figure.value is None:
            return Judgement("unknown", f"{self.title} is not known: {figure.reason or 'not measured'}", math.inf)
        within = figure.replication == "sample"  # of one process: says nothing about another
        lo, hi = (figure.value, figure.value) if self.once else (None, None) if within else (figure.lo, figure.hi)
        said = f"{self.title} {written(self.figure, figure.value)}{between(self.figure, figure)}"
        sign = "<" if self.least else ">"
        limit = self.shown
        wrong = figure.value < self.limit if self.least else figure.value > self.limit
        miss = abs(figure.value - self.limit) / max(abs(self.limit), 1e-300) if wrong else 0.0
        worst, best = (lo, hi) if self.least else (hi, lo)
        remedy = _REMEDIES[figure.replication]
        if worst is None or best is None:
            return Judgement(
                "undecided", f"{said} has no interval to hold against {limit} ({figure.reason or 'not stated'}); {remedy}", miss
            )
        if (worst >= self.limit) if self.least else (worst <= self.limit):
            return Judgement("holds", said, 0.0)
        if (best < self.limit) if self.least else (best > self.limit):
            return Judgement("violated", f"{said} {sign} {limit}", miss)
        return Judgement("undecided", f"{said} cannot be told from {limit}; {remedy}", miss)


def requirements(
    *, min_recall: float | None = None, max_p99: str | None = None, min_ndcg: float | None = None, max_memory: str | None = None
) -> tuple[Requirement, ...]:
    """Return the constraints of a command line.

    Raises
    ------
    harness.errors.SettingsError
        With everything that is wrong with them.
    """
    found: list[Requirement] = []
    wrong: list[str] = []
    for option, score, figure, title in (
        ("--min-recall", min_recall, "recall", "recall"),
        ("--min-ndcg", min_ndcg, "ndcg_at_10", "nDCG@10"),
    ):
        if score is not None and not 0 < score <= 1:
            wrong.append(f"{option} must be a number in (0, 1], got {score!r}")
        elif score is not None:
            found.append(Requirement(option, figure, title, score, least=True))
    if max_p99 is not None:
        seconds = _limit(max_p99, _TIMES, "--max-p99", "a time such as 20ms or 0.5s", wrong)
        found.append(Requirement("--max-p99", "latency_p99_s", "p99 end to end", seconds, least=False))
    if max_memory is not None:
        size = _limit(max_memory, BYTES, "--max-memory", "a size such as 500MB or 16GB", wrong)
        found.append(Requirement("--max-memory", "memory_bytes", "memory", size, least=False, once=True))
    if wrong:
        raise SettingsError(wrong)
    return tuple(found)


def _limit(text: str, units: Mapping[str, float], key: str, kind: str, wrong: list[str]) -> float:
    """Return a limit greater than 0, noting what is wrong with it instead of raising."""
    try:
        found = quantity(text, units, key=key, kind=kind)
    except SettingsError as error:
        wrong += error.violations
        return 1.0
    if not found:
        wrong.append(f"{key} must be greater than 0, got {text!r}")
    return found


def number_of(text: str, option: str) -> int:
    """Return a number of things such as ``10M`` or ``250000``.

    >>> number_of("10M", "--corpus"), number_of("1_500", "--corpus")
    (10000000, 1500)

    Raises
    ------
    harness.errors.SettingsError
        When it is no such number.
    """
    kind = f"a whole number in [1, {MOST:.0e}] such as 250000, 10M or 1B"
    grouped = re.fullmatch(r"[1-9]\d{0,2}([,_]\d{3})+", text.strip())  # 1,5M is no fifteen million
    found = quantity(re.sub("[,_]", "", text) if grouped else text, _COUNTS, key=option, kind=kind)
    whole = round(found)
    if not 1 <= whole <= MOST or not math.isclose(found, whole, rel_tol=1e-12):  # 0.7 × 10⁶ is a little less than 700,000 in floating point
        raise SettingsError(f"{option} must be {kind}, got {text!r}")
    return whole


def written(figure: str, value: float) -> str:
    """Return a figure as a person reads it, with its unit.

    >>> written("latency_p99_s", 0.0123), written("memory_bytes", 1.5e9), written("recall", 0.95)
    ('12.3 ms', '1.50 GB', '0.950')
    """
    from harness.report.units import score, significant

    if figure.endswith("_s") and not figure.endswith("per_s"):
        return f"{significant(1e3 * value)} ms"
    if figure.endswith("_bytes"):
        return f"{significant(value / 1e9)} GB" if value >= 1e9 else f"{significant(value / 1e6)} MB"
    if figure.endswith("per_s"):
        return f"{significant(value)}/s"
    if figure.startswith("cost"):
        return significant(value)
    return score(value)


def between(figure: str, measured: Measured) -> str:
    """Return `` [low, high]`` as a person reads it; empty where there is no interval, marked where it rests on one process."""
    if measured.lo is None or measured.hi is None:
        return ""
    ends = [written(figure, end) for end in (measured.lo, measured.hi)]
    unit = ends[1].partition(" ")[2]
    if unit and ends[0].endswith(unit):
        ends = [end.removesuffix(f" {unit}") for end in ends]
    return f" [{ends[0]}, {ends[1]}]" + ("†" if measured.replication == "sample" else "")
