"""Try the gate on the machine at hand: how often does it cry wolf, and how often does it find a true 5 %?

A gate here covers the kernels of `harness.gate.planted`, whose work is known. In the same rounds a second copy of base is compared with
base (whatever is found there is a false alarm), and a head that does exactly 5 % more work (whatever is missed there is a miss), with
the full rule: looks, floor, wall time as a guard of processor time, and a second measurement from scratch of what looked like a
regression. The rules that others gate with judge the same rounds.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from harness.errors import SettingsError
from harness.gate.decide import LOOKS, confirm, decide_guarded, second_alpha
from harness.gate.kinds import KINDS
from harness.gate.outcome import Decision, Verdict
from harness.gate.planted import ARMS, calibrate, measure_round
from harness.gate.rivals import RIVALS
from harness.progress import in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

KIND: Final = KINDS["forward_s"]
"""The kernels are judged as any duration is: floor 2.5 %, target 5 %."""
CONFIDENCE: Final = 0.95
"""Of the intervals of the rates, two-sided, by Clopper and Pearson (1934)."""
GATE_S: Final = 60.0
"""First guess of how long one gate takes, until one has been seen."""

Round = Mapping[str, Sequence[Sequence[Sequence[int]]]]
"""As `harness.gate.planted.measure_round` returns it."""


@dataclass(frozen=True)
class Rate:
    """So many of so many."""

    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Return the ends of Clopper and Pearson's interval."""
        from scipy.stats import binomtest

        ends = binomtest(self.hits, self.of).proportion_ci(CONFIDENCE, method="exact")
        return float(ends.low), float(ends.high)

    def __str__(self) -> str:
        if not self.of:
            return "not tried"
        low, high = self.interval
        return f"{self.hits / self.of:.1%} ({self.hits} of {self.of}; {low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Row:
    """How one rule did."""

    rule: str
    false_gates: Rate
    """Gates of unchanged code with at least one alarm."""
    false_cases: Rate
    """Single cases of unchanged code with an alarm."""
    found: Rate
    """Single cases with 5 % more work in which a regression was reported."""


@dataclass
class SelfTest:
    """What a self-test has seen so far."""

    gates: int = 0
    kernels: int = 0
    seconds: float = 0.0
    rounds: int = 0
    load_before: float = 0.0
    load_after: float = 0.0
    again: Counter[Verdict] = field(default_factory=Counter)
    """Verdicts on unchanged code, one a case."""
    head: Counter[Verdict] = field(default_factory=Counter)
    """Verdicts on 5 % more work, one a case."""
    false_gates: int = 0
    rivals: dict[str, list[int]] = field(default_factory=dict)
    """For each other rule: gates judged, gates with a false alarm, false alarms, regressions found."""

    @property
    def rows(self) -> list[Row]:
        """The rates of this gate first, then of the others."""
        ours = [self.gates, self.false_gates, self.again["REGRESSION"], self.head["REGRESSION"]]
        rows = []
        for name, (gates, false_gates, false_cases, found) in {"this gate": ours, **self.rivals}.items():
            cases = gates * self.kernels
            rows.append(Row(name, Rate(false_gates, gates), Rate(false_cases, cases), Rate(found, cases)))
        return rows

    def table(self) -> Table:
        """Return the rates as a table."""
        from rich.table import Table

        table = Table(
            title=f"{self.gates} gates of {self.kernels} cases of unchanged code, and as many with exactly {ARMS['head']} % more work"
        )
        for heading in ("rule", "false alarm: a gate", "false alarm: a case", f"+{ARMS['head']} % found: a case"):
            table.add_column(heading)
        for row in self.rows:
            table.add_row(row.rule, str(row.false_gates), str(row.false_cases), str(row.found))
        return table

    def sentences(self) -> str:
        """Say what the table does not: what became of the rest, how long it took, how busy the machine was."""
        rest = ", ".join(f"{count} {verdict}" for verdict, count in self.head.items() if verdict != "REGRESSION") or "nothing else"
        unchanged = ", ".join(f"{count} {verdict}" for verdict, count in self.again.items())
        return (
            f"Unchanged code: {unchanged}. With {ARMS['head']} % more work, besides regressions: {rest}.\n"
            f"{self.rounds} rounds in {in_words(self.seconds)}; load average {self.load_before:.1f} before and "
            f"{self.load_after:.1f} after, on {os.cpu_count()} processors (the self-test itself keeps about one of them busy).\n"
            f"Rates: number of trials, and interval of Clopper and Pearson at {CONFIDENCE:.0%}. The samples of both sides were "
            f"taken in alternation, which is kinder to the other rules than the two separate runs that they usually compare."
        )


def self_test(n: int, *, console: Console, measure: Callable[..., Round] = measure_round) -> SelfTest:
    """Run `n` gates of unchanged code and `n` gates against a head that does exactly 5 % more work, and print both rates.

    Interrupting it prints what there is.

    Parameters
    ----------
    n : int
        Gates; 300 without a false alarm are needed to claim at most 1 % of false alarms at 95 % confidence.
    console : rich.console.Console
        Where progress and table go.
    measure : callable
        Measures one round, as `harness.gate.planted.measure_round` does.
    """
    if n < 1:
        raise SettingsError(f"the number of gates of a self-test must be at least 1, got {n}")
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    seen = SelfTest(load_before=os.getloadavg()[0])
    began = time.monotonic()
    columns = (TextColumn("gates of the self-test"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        loops = calibrate()
        seen.kernels = len(loops)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("gates", total=n)
            for number in range(1, n + 1):
                _gate(loops, random.Random(), measure, seen)
                bar.advance(task)
                each = (time.monotonic() - began) / number
                if not console.is_terminal:
                    left = in_words(each * (n - number))
                    console.print(f"gate {number} of {n} done, about {left} left", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted; this is what there is", highlight=False)
    seen.seconds, seen.load_after = time.monotonic() - began, os.getloadavg()[0]
    if seen.gates:
        console.print(seen.table())
        console.print(seen.sentences(), highlight=False, soft_wrap=True)
    return seen


def change(base: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    """Return a round's numbers, each a log(other / base): the blocks' median by wall and by processor time, the fastest by the latter."""
    one, two = np.asarray(base), np.asarray(other)
    wall, cpu = np.median(np.log(two / one), axis=0)
    return float(wall), float(cpu), float(np.log(two[:, 1].min() / one[:, 1].min()))


def _gate(loops: Mapping[str, int], chooser: random.Random, measure: Callable[..., Round], seen: SelfTest) -> None:
    """Run one gate of each sort, in the same rounds, and count what it says."""
    cases = [(arm, kernel) for arm in ARMS if arm != "base" for kernel in loops]
    early: list[Round] = []
    first, used = _sequence(cases, loops, chooser, measure, alpha=0.01, keep=early)
    suspects = [case for case, decision in first.items() if decision.verdict == "REGRESSION"]
    second, more = _sequence(suspects, loops, chooser, measure, alpha=second_alpha(4 * len(loops)))  # by either of two clocks, both times
    final = {case: confirm(decision, second[case]) if case in second else decision for case, decision in first.items()}
    seen.gates += 1
    seen.rounds += used + more
    seen.again.update(decision.verdict for (arm, _), decision in final.items() if arm == "again")
    seen.head.update(decision.verdict for (arm, _), decision in final.items() if arm == "head")
    seen.false_gates += any(decision.verdict == "REGRESSION" for (arm, _), decision in final.items() if arm == "again")
    _ask_rivals(early, seen)


def _sequence(
    cases: Sequence[tuple[str, str]],
    loops: Mapping[str, int],
    chooser: random.Random,
    measure: Callable[..., Round],
    *,
    alpha: float,
    keep: list[Round] | None = None,
) -> tuple[dict[tuple[str, str], Decision], int]:
    """Measure rounds until every case is decided; what is decided is not measured on. Returns the decisions and the number of rounds."""
    xs: dict[tuple[str, str], list[tuple[float, float, float]]] = {case: [] for case in cases}
    decided: dict[tuple[str, str], Decision] = {}
    rounds = 0
    while len(decided) < len(xs):
        open_cases = [case for case in xs if case not in decided]
        arms = {arm: ARMS[arm] for arm in ARMS if arm == "base" or any(arm == one for one, _ in open_cases)}
        wanted = {kernel: loops[kernel] for kernel in loops if any(kernel == one for _, one in open_cases)}
        times = measure(wanted, chooser, arms=arms)
        rounds += 1
        if keep is not None and rounds <= LOOKS[0]:
            keep.append(times)
        for arm, kernel in open_cases:
            xs[arm, kernel].append(change(times[kernel][0], times[kernel][list(arms).index(arm)]))
            wall, cpu, fastest = zip(*xs[arm, kernel], strict=True)
            decision = decide_guarded(cpu, wall, KIND, fastest=fastest, alpha=alpha)
            if decision is not None:
                decided[arm, kernel] = decision
    return decided, rounds


def _ask_rivals(rounds: Sequence[Round], seen: SelfTest) -> None:
    """Count what the other rules say on rounds in which every kernel and arm was measured, in wall time, which is what they look at.

    Once on each round, as they are used, with one process a side; and once on all of the gate's first rounds, which they do not ask for.
    """
    samples = np.array([[times[kernel] for kernel in sorted(times)] for times in rounds], dtype=np.float64)[..., 0]
    pooled = samples.transpose(1, 2, 0, 3).reshape(1, samples.shape[1], len(ARMS), -1)
    for how, given in (("one round", samples), (f"{len(rounds)} rounds pooled", pooled)):
        arm = {name: given[:, :, position] for position, name in enumerate(ARMS)}
        for name, rule in RIVALS.items():
            alarms, finds = rule(arm["base"], arm["again"]), rule(arm["base"], arm["head"])
            counts = seen.rivals.setdefault(f"{name}, {how}", [0, 0, 0, 0])
            for place, more in enumerate((len(given), alarms.any(axis=1).sum(), alarms.sum(), finds.sum())):
                counts[place] += int(more)
