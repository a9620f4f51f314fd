"""Gates simulated by resampling recorded rounds: how often the full rule blames unchanged code, and how often it finds a true change.

    python -m tests.gate.simulate            # the table of the rule's operating characteristic, in Markdown

A simulated gate has 24 cases: three windows of consecutive rounds times the eight kernels, so that what disturbs all kernels at one
time disturbs several cases of a gate, as it does in life. A window is read round by round from a random start, as far as the rule
asks; what looks like a regression is measured again in a window that shares no round with the first. Nothing is smoothed, trimmed or
left out.
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

from harness.gate.decide import LOOKS, confirm, decide, second_alpha
from harness.gate.kinds import KINDS
from harness.gate.outcome import Decision
from harness.gate.rivals import RIVALS

ROUNDS = Path(__file__).with_name("rounds.parquet")
KIND = KINDS["forward_s"]
WINDOWS = 3
STRIDE = 2
"""Windows start at every second round: enough starts to draw from, and half the work."""


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


@cache
def rounds(series: str, one: str, other: str, clock: str = "cpu") -> np.ndarray:
    """Return the rule's input, log(other / one) as the median over a round's blocks, of shape (kernels, rounds)."""
    arms = blocks(series, clock)
    return np.median(np.log(arms[other] / arms[one]), axis=-1)


def sequence(x: np.ndarray, start: int, alpha: float) -> Decision:
    """Read rounds from `start` on, the series closed to a ring, until the rule decides."""
    for look in LOOKS:
        window = x[(start + np.arange(look)) % x.size]
        decision = decide(window, KIND, alpha=alpha)
        if decision is not None:
            return decision
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


def gates(series: str, *, changed: bool, percent: float = 5.0, count: int = 2000, clock: str = "cpu", seed: int = 1) -> Seen:
    """Simulate gates of unchanged code, or of a head with so many percent more work.

    Unchanged code compares the two copies of base, in either direction; the changed head is compared with either copy. Another
    change than the measured 5 % is the measured one shifted.
    """
    if changed:
        shift = np.log1p(percent / 100) - np.log1p(0.05)
        directions = [rounds(series, copy, "head", clock) + shift for copy in ("base", "again")]
    else:
        directions = [rounds(series, "base", "again", clock), rounds(series, "again", "base", clock)]
    kernels, length = directions[0].shape
    length -= length % STRIDE
    directions = [x[:, :length] for x in directions]
    apart = -(-LOOKS[-1] // STRIDE) * STRIDE
    level = second_alpha(WINDOWS * kernels)

    @cache
    def judged(direction: int, kernel: int, start: int, alpha: float) -> Decision:
        return sequence(directions[direction][kernel], start, alpha)

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
                decision = judged(direction, kernel, start, 0.01)
                used += decision.rounds
                suspect |= decision.verdict in ("REGRESSION", "IMPROVED")
                if decision.verdict == "REGRESSION":
                    second = judged(direction, kernel, again, level)
                    used += second.rounds
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
    print("\n| series | rule | rounds pooled | gates of 24 blamed | cases blamed | +5 % found |\n|---|---|---:|---:|---:|---:|")
    for series, pooled in itertools.product(("quiet", "hogged"), (1, LOOKS[0])):
        for name, shares in rivals(series, pooled).items():
            print(f"| {series} | {name} | {pooled} | {' | '.join(f'{share:.1%}' for share in shares)} |")


if __name__ == "__main__":
    main()
