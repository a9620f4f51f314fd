"""What a gate says, as data: everything that is printed or written is made from these, and nothing else decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["REGRESSION", "PASS", "IMPROVED", "INCONCLUSIVE", "MISSING", "NEW", "NOT COMPARABLE", "ERROR"]
"""The verdict on one metric of one cell."""

VERDICTS: tuple[Verdict, ...] = ("REGRESSION", "MISSING", "ERROR", "NOT COMPARABLE", "INCONCLUSIVE", "IMPROVED", "NEW", "PASS")
"""All of them, what needs a reader first."""

EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, EXIT_UNTRUSTED, EXIT_NOT_COMPARABLE, EXIT_CRASHED = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Decision:
    """What the rounds of one metric of one cell show."""

    verdict: Verdict
    change: float | None = None
    """head / base - 1 in the direction of the metric's own unit (+0.05: the number grew by 5 %); absolute for recall and quality.
    None where there is no number."""
    lo: float | None = None
    hi: float | None = None
    """Ends of the interval of `change`, the inversion of the test that decided, so that the two cannot disagree."""
    confidence: float | None = None
    """The interval's level, such as 0.99."""
    p: float | None = None
    """One-sided p-value of the test for harm at the last look."""
    rounds: int = 0
    looks: int = 0
    detectable: float | None = None
    """The smallest change that these rounds would have found with 95 % power, as a ratio less one."""
    rounds_needed: int | None = None
    """About how many rounds an inconclusive case needs in all."""
    advisory: bool = False
    """The evidence is below the minimum for a verdict: shown, never decided on."""
    reason: str = ""
    """Why, in a sentence, for everything but PASS."""


@dataclass(frozen=True)
class Case:
    """One metric of one cell on both sides."""

    cell: str
    """The cell in words, such as ``minilm · cpu · fp32 · batch 32``."""
    metric: str
    """The metric's name in `harness.gate.kinds.KINDS`, or of a pytest-benchmark test the name of its statistic."""
    kind: str
    """``duration``, ``tail``, ``exact``, ``quality`` or ``memory``."""
    unit: str
    base: float | None
    """The typical value on the base side, in `unit`: a median over rounds."""
    head: float | None
    decision: Decision
    confirmed: Decision | None = None
    """The independent re-measurement of what looked like a regression; None where none was needed."""
    first: Decision | None = None
    """The decision that asked for the re-measurement."""
    floor: float | None = None
    """The smallest change that counts, as a ratio less one."""
    target: float | None = None
    """PASS means: proved smaller than this."""


@dataclass(frozen=True)
class Outcome:
    """A whole gate."""

    cases: tuple[Case, ...]
    base: str
    """What the base side is, such as ``3bfda9c (merge base of origin/main)``."""
    head: str
    how: str
    """``interleaved rounds``, ``stored results``, ``pytest-benchmark files`` …"""
    duration_s: float
    rounds: int
    """Median number of rounds of a case."""
    machine: str = ""
    load: str = ""
    """How busy the machine was, in words; empty where nobody looked."""
    control: tuple[Case, ...] | None = None
    """Base against a second copy of itself, in the same rounds; None without ``--control``."""
    strict: bool = False
    advisory: bool = False
    """Nothing here was measured in a way that decides; shown only."""
    notes: tuple[str, ...] = field(default=())

    @property
    def contaminated(self) -> bool:
        """Whether the control found a difference between two copies of the same code."""
        return any(case.decision.verdict in ("REGRESSION", "IMPROVED") for case in self.control or ())

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many cases have each verdict, what needs a reader first."""
        seen = Counter(case.decision.verdict for case in self.cases)
        return {verdict: seen[verdict] for verdict in VERDICTS if seen[verdict]}

    @property
    def exit_code(self) -> int:
        """0 no regression, 1 regression or missing cell, 3 not trustworthy, 4 not comparable, 5 a cell crashed (2: misused)."""
        counts = self.counts
        if self.contaminated:
            return EXIT_UNTRUSTED
        if counts.get("REGRESSION") or counts.get("MISSING"):
            return EXIT_REGRESSION
        if counts.get("ERROR"):
            return EXIT_CRASHED
        if counts.get("NOT COMPARABLE") or not set(counts) - {"NEW"}:  # nothing was compared
            return EXIT_NOT_COMPARABLE
        if counts.get("INCONCLUSIVE") and self.strict:
            return EXIT_UNTRUSTED
        return EXIT_OK


def worst_first(cases: Sequence[Case]) -> list[Case]:
    """Return the cases, what needs a reader first, otherwise in their order."""
    return sorted(cases, key=lambda case: VERDICTS.index(case.decision.verdict))
