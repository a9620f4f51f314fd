"""Gates simulated by resampling recorded rounds: how often the full rule blames unchanged code, and how often it finds a true change.

    python -m tests.gate.simulate            # the table of the rule's operating characteristic, in Markdown

A simulated gate has 24 cases: three windows of consecutive rounds times the eight kernels, so that what disturbs all kernels at one
time disturbs several cases of a gate, as it does in life. A window is read round by round from a random start, as far as the rule
asks; what looks like a regression is measured again in a window that shares no round with the first. Nothing is smoothed, trimmed or
left out. The rules are the gate's own: of wall time by median and fastest blocks, of processor time the same with wall time as a guard.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from harness.gate.decide import LOOKS, confirm, decide_by_blocks, decide_guarded, second_alpha
from harness.gate.kinds import KINDS
from harness.gate.outcome import Decision
from harness.gate.rivals import RIVALS

ROUNDS = Path(__file__).with_name("rounds.parquet")
KIND = KINDS["forward_s"]
WINDOWS = 3
STRIDE = 4
"""Windows start at every fourth round: enough starts to draw from, and a quarter of the work."""
TOUCHED = ((0.9, 8.0), (0.75, 8.0), (0.6, 12.0), (0.6, 20.0), (0.5, 20.0))
"""Slowdowns that only some blocks have: their share, and how many percent longer they take."""


@cache
def recorded() -> pd.DataFrame:
    """Return the recorded rounds: a row for each series, kernel, arm, round and block."""
    return pd.read_parquet(ROUNDS)


@cache
def blocks(series: str, clock: str) -> dict[str, np.ndarray]:
    """Return for each arm the times of shape (kernels, rounds, blocks)."""
    rows = recorded().query("series == @series")
    arms = {}
    for arm, mine in rows.groupby("arm", observed=True):
        ordered = mine.sort_values(["kernel", "round", "block"])
        arms[str(arm)] = ordered[f"{clock}_us"].to_numpy(float).reshape(mine["kernel"].nunique(), mine["round"].nunique(), -1)
    return arms


def medians(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return log(other / one) as the median over a round's blocks, of shape (kernels, rounds)."""
    return np.median(np.log(other / one), axis=-1)


def fastest(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return log(other / one) of the fastest block of either, of shape (kernels, rounds)."""
    return np.log(other.min(axis=-1) / one.min(axis=-1))


@cache
def rounds(series: str, one: str, other: str, clock: str = "cpu") -> np.ndarray:
    """Return the first of the numbers that a rule gets of each round, of shape (kernels, rounds)."""
    arms = blocks(series, clock)
    return medians(arms[one], arms[other])


def inputs(series: str, one: str, other: str, clock: str, touched: tuple[float, float] | None = None) -> np.ndarray:
    """Return what the rule gets of each round, by median and fastest blocks, and by wall time's median, of shape (3, kernels, rounds).

    `touched` plants a slowdown in `other` that some
    blocks have and others not: their share, and how many percent longer they take.
    """
    arms = {name: blocks(series, name) for name in ("cpu", "wall")}
    times = {name: (arms[name][one], arms[name][other]) for name in arms}
    if touched is not None:
        share, percent = touched
        factor = np.where(np.random.default_rng(7).random(times["wall"][1].shape) < share, 1 + percent / 100, 1.0)
        times = {name: (before, after * factor) for name, (before, after) in times.items()}
    return np.stack([medians(*times[clock]), fastest(*times[clock]), medians(*times["wall"])])


def sequence(given: np.ndarray, start: int, alpha: float, clock: str) -> tuple[Decision, int]:
    """Read rounds from `start` on, the series closed to a ring, until the rule decides; returns how many it has read, too."""
    for look in LOOKS:
        x, quick, wall = given[:, (start + np.arange(look)) % given.shape[-1]]
        if clock == "cpu":
            decision = decide_guarded(x, wall, KIND, fastest=quick, alpha=alpha)
        else:
            decision = decide_by_blocks(x, quick, KIND, alpha=alpha)
        if decision is not None:
            return decision, look
    raise AssertionError("the rule did not decide at its cap")


@dataclass(frozen=True)
class Seen:
    """What many simulated gates said."""

    gates: int
    blamed: int
    """Gates with at least one confirmed regression."""
    verdicts: Counter[str]
    """Of single cases, after confirmation."""
    rounds: float
    """Mean number of rounds of a case, confirmation included."""
    suspected: int = 0
    """Gates in which the first measurement alone called at least one case changed, either way."""

    def share(self, verdict: str) -> float:
        """Return the share of cases with a verdict."""
        return self.verdicts[verdict] / self.verdicts.total()


def gates(
    series: str,
    *,
    changed: bool,
    percent: float = 5.0,
    count: int = 2000,
    clock: str = "cpu",
    seed: int = 1,
    touched: tuple[float, float] | None = None,
) -> Seen:
    """Simulate gates of unchanged code, or of a head with so many percent more work.

    Unchanged code compares the two copies of base, in either direction; the changed head is compared with either copy. Another
    change than the measured 5 % is the measured one shifted; with `touched` (see `inputs`) it is unchanged code in which some blocks take
    longer.
    """
    if changed:
        shift = np.log1p(percent / 100) - np.log1p(0.05)
        directions = [inputs(series, copy, "head", clock) + shift for copy in ("base", "again")]
    else:
        directions = [inputs(series, *pair, clock, touched) for pair in (("base", "again"), ("again", "base"))]
    _, kernels, length = directions[0].shape
    length -= length % STRIDE
    directions = [given[..., :length] for given in directions]
    apart = -(-LOOKS[-1] // STRIDE) * STRIDE
    level = second_alpha(WINDOWS * kernels * (4 if clock == "cpu" else 1))  # either clock may accuse, both times

    @cache
    def judged(direction: int, kernel: int, start: int, alpha: float) -> tuple[Decision, int]:
        return sequence(directions[direction][:, kernel], start, alpha, clock)

    chooser = np.random.default_rng(seed)
    verdicts: Counter[str] = Counter()
    blamed, used, suspected = 0, 0, 0
    for _ in range(count):
        found = suspect = False
        for _ in range(WINDOWS):
            direction = int(chooser.integers(2))
            start = int(chooser.integers(length // STRIDE)) * STRIDE
            again = (start + apart + int(chooser.integers((length - 2 * apart) // STRIDE + 1)) * STRIDE) % length
            for kernel in range(kernels):
                decision, read = judged(direction, kernel, start, 0.01)
                used += read
                suspect |= decision.verdict in ("REGRESSION", "IMPROVED")
                if decision.verdict == "REGRESSION":
                    second, read = judged(direction, kernel, again, level)
                    used += read
                    decision = confirm(decision, second)
                verdicts[decision.verdict] += 1
                found |= decision.verdict == "REGRESSION"
        blamed += found
        suspected += suspect
    return Seen(count, blamed, verdicts, used / verdicts.total(), suspected)


def rivals(series: str, pooled: int) -> dict[str, tuple[float, float, float]]:
    """Return what other rules say on the same rounds: shares of gates of 24 unchanged cases, of such cases, of changed cases flagged.

    Each sees the wall times of so many rounds pooled (with 1: one process a side, as they are used); three groups of rounds times the eight
    kernels make a gate.
    """
    arms = blocks(series, "wall")
    kernels, count, _ = arms["base"].shape
    used = count - count % (pooled * WINDOWS)
    samples = {arm: times[:, :used].reshape(kernels, used // pooled, -1) for arm, times in arms.items()}
    said = {}
    for name, rule in RIVALS.items():
        alarms, finds = rule(samples["base"], samples["again"]), rule(samples["base"], samples["head"])
        blamed = alarms.reshape(kernels, -1, WINDOWS).any(axis=(0, 2))
        said[name] = float(blamed.mean()), float(alarms.mean()), float(finds.mean())
    return said


def main() -> None:
    """Print the operating characteristic, and that of other rules."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("| series | clock | change | gates blamed | REGRESSION | PASS | INCONCLUSIVE | IMPROVED | rounds a case |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for series in ("quiet", "hogged"):
        for clock in ("cpu", "wall"):
            for percent in (0, 2, 3, 5, 7, 10):
                seen = gates(series, changed=percent > 0, percent=percent, count=count, clock=clock)
                shares = " | ".join(f"{seen.share(verdict):.2%}" for verdict in ("REGRESSION", "PASS", "INCONCLUSIVE", "IMPROVED"))
                print(f"| {series} | {clock} | +{percent} % | {seen.blamed / seen.gates:.2%} | {shares} | {seen.rounds:.1f} |", flush=True)
    print("\n| clock | blocks touched | by | REGRESSION | PASS |\n|---|---:|---:|---:|---:|")
    for clock, touched in itertools.product(("cpu", "wall"), TOUCHED):
        seen = gates("quiet", changed=False, touched=touched, count=count // 4, clock=clock)
        print(f"| {clock} | {touched[0]:.0%} | +{touched[1]:g} % | {seen.share('REGRESSION'):.1%} | {seen.share('PASS'):.1%} |", flush=True)
    print("\n| series | rule | rounds pooled | gates of 24 blamed | cases blamed | +5 % found |\n|---|---|---:|---:|---:|---:|")
    for series, pooled in itertools.product(("quiet", "hogged"), (1, LOOKS[0])):
        for name, shares in rivals(series, pooled).items():
            print(f"| {series} | {name} | {pooled} | {' | '.join(f'{share:.1%}' for share in shares)} |")


if __name__ == "__main__":
    main()
