"""What may be said of each figure of two matched rows: faster, slower, no difference shown, or not comparable and why.

One rule serves this and the gate: with enough independent runs a side on one machine, `harness.gate.decide.unpaired` decides. Below
that the ratio and its interval are shown and called *advisory*: three processes of one run see the same minute of a machine, and two such
runs of the same code can differ. Scores are compared query by query, sizes that do not vary as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from harness.compare.evidence import of_runs, ratio, scores
from harness.compare.match import NOT_OF_THE_MACHINE, Pair, other_definition, other_machine
from harness.gate.decide import unpaired
from harness.gate.kinds import KINDS, Kind
from harness.records import Measured
from harness.statistics import paired_difference

Word = Literal["faster", "slower", "better", "worse", "smaller", "larger", "no difference shown", "not comparable"]

ENOUGH = 10
"""Independent runs a side below which nothing is decided."""

_RATE = Kind("duration", "1/s", "higher", 0.025, 0.05, "a rate")

FIGURES: dict[str, tuple[tuple[str, Kind], ...]] = {
    "embed": (
        ("throughput_per_s", _RATE),
        ("pipeline_per_s", _RATE),
        ("query_embed_p50_s", KINDS["query_embed_s"]),
        ("load_s", KINDS["load_s"]),
        ("peak_rss_bytes", KINDS["peak_rss_bytes"]),
        ("device_peak_bytes", KINDS["peak_rss_bytes"]),
    ),
    "point": (
        ("recall", KINDS["recall_of_builds"]),
        ("ndcg_at_10", KINDS["recall_of_builds"]),
        ("search_latency_p50_s", KINDS["search_s"]),
        ("search_latency_p95_s", KINDS["search_p95_s"]),
        ("search_latency_p99_s", KINDS["search_p99_s"]),
        ("qps", _RATE),
        ("max_rate_at_p99_per_s", _RATE),
    ),
    "build": (
        ("insert_s", KINDS["insert_s"]),
        ("build_s", KINDS["build_s"]),
        ("index_bytes", KINDS["index_bytes"]),
        ("peak_rss_bytes", KINDS["peak_rss_bytes"]),
        ("server_rss_bytes", KINDS["peak_rss_bytes"]),
        ("ndcg_at_10_exact", KINDS["recall_of_builds"]),
    ),
}
"""What is compared of each kind of row, and how each is judged; the others of the frame explain these."""


@dataclass(frozen=True)
class Judgement:
    """One figure of one pair."""

    figure: str
    word: Word
    base: Measured
    head: Measured
    change: float | None = None
    """head / base; of scores head - base."""
    lo: float | None = None
    hi: float | None = None
    confidence: float | None = None
    """The level of the interval."""
    absolute: bool = False
    """Whether the change is a difference."""
    advisory: bool = False
    """The evidence is below what decides."""
    reason: str = ""
    medians: bool = False
    """Whether `base` and `head` are medians over the `n` runs of a side, of all of which the change is, or the newest run's."""


@dataclass(frozen=True)
class Judged:
    """A pair with all that is said of it."""

    pair: Pair
    judgements: tuple[Judgement, ...]
    """Empty where the whole pair cannot be compared: then `harness.compare.match.Pair.obstacle` says why."""


def judge(pairs: Sequence[Pair], *, across_machines: bool = False) -> list[Judged]:
    """Judge every figure that at least one side of a pair has.

    Parameters
    ----------
    pairs : sequence of Pair
        Matched rows.
    across_machines : bool
        Compare what two machines measured, advisory whatever the evidence.
    """
    return [Judged(pair, () if pair.obstacle else tuple(_judgements(pair, across_machines))) for pair in pairs]


def _judgements(pair: Pair, across_machines: bool) -> list[Judgement]:
    machine = other_machine(pair.base, pair.head, pair.varied)
    found = []
    for figure, kind in FIGURES[pair.base.part]:
        one, other = pair.base.measured.get(figure), pair.head.measured.get(figure)
        if one is None or other is None or (one.value is None and other.value is None):
            continue
        if figure == "qps" and pair.base.row["concurrency"] in (None, 1):
            continue  # of one client the inverse of the latency, of an open loop the rate that was offered
        found.append(_judgement(pair, figure, kind, one, other, machine, across_machines))
    return found


def _judgement(pair: Pair, figure: str, kind: Kind, base: Measured, head: Measured, machine: str, across_machines: bool) -> Judgement:
    def no(reason: str) -> Judgement:
        return Judgement(figure, "not comparable", base, head, reason=reason)

    for side, one in (("base", base), ("head", head)):
        if one.value is None:
            return no(f"{side} has none: {one.reason or 'not measured'}")
    if definition := other_definition(figure, pair.base, pair.head):
        return no(definition)
    if kind.name == "quality":
        return _of_scores(pair, figure, base, head)
    elsewhere = bool(machine) and figure not in NOT_OF_THE_MACHINE
    if elsewhere and not across_machines:
        return no(f"{machine}; --across-machines compares them all the same")
    return _of_ratio(pair, figure, kind, base, head, elsewhere)


def _of_scores(pair: Pair, figure: str, base: Measured, head: Measured) -> Judgement:
    if base.reason == head.reason == "exact by construction":
        return Judgement(figure, "no difference shown", base, head, 0.0, 0.0, 0.0, absolute=True)
    one, other = scores(pair.base, figure), scores(pair.head, figure)
    difference = (head.value or 0.0) - (base.value or 0.0)
    if (
        one is None
        or other is None
        or one.shape != other.shape
        or pair.base.record.settings.get("seed") != pair.head.record.settings.get("seed")
    ):
        reason = "the scores of each query were not kept, or are of other queries, so nothing can be shown"
        return Judgement(figure, "no difference shown", base, head, difference, absolute=True, advisory=True, reason=reason)
    found = paired_difference(other, one).difference
    word: Word = "no difference shown"
    if found.lo is not None and found.hi is not None:
        word = "better" if found.lo > 0 else "worse" if found.hi < 0 else word
    return Judgement(figure, word, base, head, found.value, found.lo, found.hi, 0.95, absolute=True)


def _of_ratio(pair: Pair, figure: str, kind: Kind, base: Measured, head: Measured, elsewhere: bool) -> Judgement:
    several = min(len(pair.base.repeats), len(pair.head.repeats)) >= ENOUGH and not elsewhere and "device" not in pair.varied
    values = (of_runs(pair.base, figure), of_runs(pair.head, figure)) if several else ([], [])
    decisive = min(map(len, values)) >= ENOUGH
    constant = kind.name == "exact" and all(len(set(side)) == 1 for side in values)
    if decisive and not constant:
        decision = unpaired(values[0], values[1], kind, enough=True)
        harm: dict[str, Word] = {"REGRESSION": _word(kind, worse=True), "IMPROVED": _word(kind, worse=False)}
        ends = (None if decision.lo is None else 1 + decision.lo, None if decision.hi is None else 1 + decision.hi)
        change = None if decision.change is None else 1 + decision.change
        word = harm.get(decision.verdict, "no difference shown")
        reason = "" if decision.verdict != "ERROR" else decision.reason
        base, head = (
            replace(one, value=median(each), lo=None, hi=None, n=len(each)) for one, each in zip((base, head), values, strict=True)
        )
        return Judgement(figure, word, base, head, change, *ends, decision.confidence, reason=reason, medians=True)
    found = ratio(base, head)
    if found is None:
        return Judgement(figure, "not comparable", base, head, reason="a ratio needs positive numbers")
    exact = found.lo == found.hi == found.value
    word = "no difference shown"
    if found.lo is not None and found.hi is not None and (found.lo > 1 or found.hi < 1) and (exact or abs(found.value - 1) > kind.floor):
        word = _word(kind, worse=(found.value > 1) == (kind.better == "lower"))
    reason = "" if found.lo is not None else f"no interval: {base.reason or head.reason or 'too few processes'}"
    return Judgement(
        figure, word, base, head, found.value, found.lo, found.hi, None if exact else 0.95, advisory=elsewhere or not exact, reason=reason
    )


def _word(kind: Kind, *, worse: bool) -> Word:
    if kind.unit == "bytes":
        return "larger" if worse else "smaller"
    return "slower" if worse else "faster"
