"""The schedule of a gate: rounds, looks, the control, the budget, and the second measurement of what looks like a regression.

What a round is made of is an `Instrument`'s business: pairs of fresh processes (`harness.gate.arms`) or two runs of pytest
(`harness.gate.pytest_rounds`). Nothing here measures, and nothing here decides: that is `harness.gate.decide`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.gate.decide import (
    LOOKS,
    confirm,
    control_alpha,
    decide,
    decide_by_blocks,
    decide_guarded,
    exact,
    log_ratios,
    quality,
    second_alpha,
)
from harness.gate.kinds import Kind
from harness.gate.outcome import Case, Decision

Key = tuple[str, str]
"""Cell and metric of a case."""

ALPHA = 0.01
"""Of one case's first measurement."""
BETA = 0.01
"""Of a wrong PASS or IMPROVED."""
EXACT_ROUNDS = 2
"""Rounds that show whether what is declared exact is so."""
QUALITY_ROUNDS = 10
"""Builds whose scores are averaged for each query."""


@dataclass(frozen=True)
class Seen:
    """What one round showed of one case: for each arm one value a block, block i of all arms having been taken together.

    One value for what a round has only once; for ``quality`` the scores of the queries.
    """

    values: Mapping[str, Sequence[Any]]
    wall: Mapping[str, Sequence[float]] | None = None
    """Wall time, where `values` are processor time."""
    fastest: Mapping[str, float] | None = None
    """The fastest of what `values` are medians of, where they are no blocks themselves."""
    too_few: str = ""
    """Why this is shown but cannot decide, such as too few requests for a quantile."""


@dataclass(frozen=True)
class Fault:
    """What went wrong with a case in a round, and on which arm."""

    arm: str
    text: str


class Instrument(Protocol):
    """Makes rounds."""

    def round(self, number: int, wanted: Sequence[Key], arms: Sequence[str]) -> Mapping[Key, Seen | Fault]:
        """Measure some cases once on every arm, in new processes.

        A case that is missing in the answer was not reached, as when a process died at another; it is asked for again.
        """


@dataclass
class Series:
    """The rounds of one case."""

    key: Key
    kind: Kind
    base: list[Any] = field(default_factory=list)
    head: list[Any] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    """Wall time, where `x` is processor time."""
    fastest: list[float] = field(default_factory=list)
    """Of the fastest block or sample of either side, by the clock of `x`; empty where a round has only one."""
    beside: list[Any] = field(default_factory=list)
    """The second copy of base, where there is a control."""
    beside_x: list[float] = field(default_factory=list)
    too_few: str = ""
    decision: Decision | None = None
    control: Decision | None = None
    ended: bool = False
    """Whether the rounds were over, by time or by number, before it could be decided."""

    def add(self, seen: Seen) -> None:
        """Take in a round."""
        self.too_few = self.too_few or seen.too_few
        arms = seen.values
        if self.kind.name in ("exact", "quality"):
            self.base.append(arms["base"][0] if self.kind.name == "exact" else arms["base"])
            self.head.append(arms["head"][0] if self.kind.name == "exact" else arms["head"])
            if "control" in arms:
                self.beside.append(arms["control"][0] if self.kind.name == "exact" else arms["control"])
            return
        self.base.append(statistics.median(arms["base"]))
        self.head.append(statistics.median(arms["head"]))
        self.x.append(_round_value(arms["base"], arms["head"], self.kind))
        if seen.wall is not None:
            self.wall.append(_round_value(seen.wall["base"], seen.wall["head"], self.kind))
        if seen.fastest is not None:
            self.fastest.append(_round_value([seen.fastest["base"]], [seen.fastest["head"]], self.kind))
        elif len(arms["base"]) > 1:
            self.fastest.append(_fastest_value(arms["base"], arms["head"], self.kind))
        if "control" in arms:
            self.beside.append(statistics.median(arms["control"]))
            self.beside_x.append(_round_value(arms["base"], arms["control"], self.kind))

    def look(self, *, alpha: float, control: float = ALPHA, last: bool = False) -> None:
        """Decide if that can be done now, the control at a level of its own; with `last` in any case."""
        self.decision = self._decided(self.head, self.x, self.wall, self.fastest, alpha=alpha, last=last)
        if self.beside and self.control is None:
            done = self.decision is not None
            self.control = self._decided(self.beside, self.beside_x, [], [], alpha=control, beta=control, last=last or done)

    def _decided(
        self,
        head: list[Any],
        x: list[float],
        wall: list[float],
        fastest: list[float],
        *,
        alpha: float,
        last: bool,
        beta: float = BETA,
    ) -> Decision | None:
        count = len(self.base)
        if not count:
            return Decision("INCONCLUSIVE", reason="there was no time for a single round; raise --budget") if last else None
        if self.kind.name == "exact":
            if count < EXACT_ROUNDS:
                reason = f"{count} of the {EXACT_ROUNDS} rounds that show whether it varies; raise --budget"
                return Decision("INCONCLUSIVE", rounds=count, reason=reason) if last else None
            return exact(self.base, head, self.kind)
        if self.kind.name == "quality":
            return quality(self.base, head, self.kind, alpha=alpha, beta=beta) if count >= QUALITY_ROUNDS or last else None
        if wall:
            found = decide_guarded(x, wall, self.kind, fastest=fastest, alpha=alpha, beta=beta, last=last)
        elif fastest:
            found = decide_by_blocks(x, fastest, self.kind, alpha=alpha, beta=beta, last=last)
        else:
            found = decide(x, self.kind, alpha=alpha, beta=beta, last=last)
        if self.too_few:
            return None if found is None else replace(found, verdict="INCONCLUSIVE", advisory=True, reason=self.too_few)
        return found

    def case(self, decision: Decision, *, first: Decision | None = None, confirmed: Decision | None = None) -> Case:
        """Return what is said of the head."""
        return self._case(self.head, decision, first=first, confirmed=confirmed)

    def control_case(self) -> Case:
        """Return what is said of the second copy of base."""
        assert self.control is not None
        return self._case(self.beside, self.control)

    def _case(self, head: list[Any], decision: Decision, **more: Decision | None) -> Case:
        return Case(
            cell=self.key[0],
            metric=self.key[1],
            kind=self.kind.name,
            unit=self.kind.unit,
            base=_typical(self.base),
            head=_typical(head),
            decision=decision,
            floor=self.kind.floor,
            target=self.kind.target,
            **more,
        )


def _round_value(base: Sequence[float], other: Sequence[float], kind: Kind) -> float:
    """Return a round's one number: the median over blocks of the log ratio, in the direction of harm; NaN where a block has none."""
    ratios = log_ratios(base, other, kind).tolist()
    return math.nan if any(math.isnan(ratio) for ratio in ratios) else statistics.median(ratios)


def _fastest_value(base: Sequence[float], other: Sequence[float], kind: Kind) -> float:
    """Return the log ratio of the fastest block of either side; NaN where a block has none."""
    if any(math.isnan(ratio) for ratio in log_ratios(base, other, kind).tolist()):
        return math.nan
    return float(log_ratios([min(base)], [min(other)], kind)[0])


def _typical(values: Sequence[Any]) -> float | None:
    """Return the median of a case's rounds; None for checksums."""
    flat = [value for one in values for value in (one if isinstance(one, list | tuple) else [one])]
    numbers = [float(value) for value in flat if isinstance(value, int | float) and not isinstance(value, bool)]
    if not numbers:
        return None
    return statistics.fmean(numbers) if any(isinstance(one, list | tuple) for one in values) else statistics.median(numbers)


@dataclass(frozen=True)
class Progress:
    """What is known while a gate goes on, for whoever shows it."""

    confirming: bool
    rounds: int
    series: Sequence[Series]
    elapsed_s: float
    left_s: float
    """At most, by the budget and by the number of rounds at most."""


@dataclass
class Result:
    """What a schedule came to."""

    cases: list[Case]
    control: list[Case] | None
    rounds: int
    """Median number of rounds of a case."""
    interrupted: bool = False
    series: Sequence[Series] = ()
    """The rounds of every case."""
    again: Sequence[Series] = ()
    """Those of the second measurements."""


def schedule(
    instrument: Instrument,
    kinds: Mapping[Key, Kind],
    *,
    budget_s: float,
    control: bool = False,
    guarded: Collection[Key] = (),
    tell: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Measure cases until each is decided or the budget is spent, and what looks like a regression a second time from scratch.

    Parameters
    ----------
    instrument : Instrument
        Makes the rounds.
    kinds : mapping
        The cases, with what kind of number each is.
    budget_s : float
        Seconds for the first measurement; the second may take as many.
    control : bool
        Whether a second copy of base is measured in the same rounds.
    guarded : collection of Key
        Cases decided on processor time, whose wall time is a second test.
    tell : callable
        Told after each round.
    """
    arms = ("base", "head", "control") if control else ("base", "head")
    series = {key: Series(key, kind) for key, kind in kinds.items()}
    tests = sum(kind.name in ("duration", "tail", "memory", "quality") for kind in kinds.values()) + len(guarded)
    pairs = tests + 2 * len(guarded)  # a guarded case may be accused by either clock, both times
    stage = _Stage(instrument, arms, tell, clock, control_alpha(tests))
    stage.run(list(series.values()), alpha=ALPHA, budget_s=budget_s, confirming=False)
    candidates = [one for one in series.values() if _to_confirm(one)]
    again = {one.key: Series(one.key, one.kind) for one in candidates}
    if candidates and not stage.interrupted:
        stage.arms = ("base", "head")
        stage.run(list(again.values()), alpha=second_alpha(pairs, ALPHA), budget_s=budget_s, confirming=True)
    cases = []
    for one in series.values():
        first, second = one.decision, again.get(one.key)
        assert first is not None  # at the end of a stage there is one
        if second is None:
            cases.append(one.case(first))
            continue
        if second.decision is None:  # interrupted before
            open_ = replace(first, verdict="INCONCLUSIVE", reason="it looks like a regression, but was not measured a second time")
            cases.append(one.case(open_, first=first))
            continue
        cases.append(one.case(confirm(first, second.decision, ended=second.ended), first=first, confirmed=second.decision))
    beside = [one.control_case() for one in series.values() if one.control is not None] if control else None
    rounds = statistics.median_low([one.decision.rounds for one in series.values() if one.decision] or [0])
    return Result(cases, beside, rounds, stage.interrupted, list(series.values()), list(again.values()))


def _to_confirm(series: Series) -> bool:
    """Say whether a case looks like a regression that chance could have made; what is exact is so at once."""
    decision = series.decision
    return decision is not None and decision.verdict == "REGRESSION" and series.kind.name != "exact"


class _Stage:
    """One measurement: rounds until all cases are decided, the budget is spent, or somebody interrupts."""

    def __init__(
        self, instrument: Instrument, arms: Sequence[str], tell: Callable[[Progress], None], clock: Callable[[], float], control: float
    ) -> None:
        self._instrument, self.arms, self._tell, self._clock, self._control = instrument, arms, tell, clock, control
        self._number = 0
        self.interrupted = False

    def run(self, series: Sequence[Series], *, alpha: float, budget_s: float, confirming: bool) -> None:
        began = self._clock()
        done = longest = 0
        slowest_s = 0.0
        try:
            while open_ := [one for one in series if one.decision is None]:
                elapsed = self._clock() - began
                if done and elapsed + slowest_s > budget_s:
                    break
                self._number += 1
                seen = self._instrument.round(self._number, [one.key for one in open_], self.arms)
                done += 1
                for one in open_:
                    self._take(one, seen.get(one.key), alpha, confirming=confirming)
                longest = max(longest, *(len(one.base) for one in open_))
                slowest_s = (self._clock() - began) / done
                left = min(budget_s, (self._clock() - began) + slowest_s * (max(LOOKS) - longest)) - (self._clock() - began)
                self._tell(Progress(confirming, done, series, self._clock() - began, max(0.0, left)))
                if done >= 2 * max(LOOKS):  # rounds that bring nothing, as when a process dies in each
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        for one in series:
            if one.decision is None and not (self.interrupted and confirming):
                one.ended = True
                one.look(alpha=alpha, control=self._control, last=True)

    def _take(self, one: Series, seen: Seen | Fault | None, alpha: float, *, confirming: bool) -> None:
        if seen is None:
            return
        if isinstance(seen, Fault):
            rounds = len(one.base)
            if seen.arm == "head" or rounds or confirming:  # base could do it before: that it cannot now is no property of head's
                one.decision = Decision("ERROR", rounds=rounds, reason=f"{seen.arm}: {seen.text}")
            else:
                one.decision = Decision("NEW", rounds=rounds, reason=f"base cannot do it: {seen.text}")
            return
        one.add(seen)
        one.look(alpha=alpha, control=self._control)
