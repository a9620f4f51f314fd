"""The gate on results that lie in two folders, with nothing measured anew.

Such results were measured one side after the other, so that a slower hour looks like a slower version. The unit of evidence is thus the
*run*, a whole measurement at a time of its own, and never the process. In a simulation of unchanged programs, 24 timings, one run of ten
processes a side that differ by 2 %, and hours of the machine that differ by 3 % (one standard deviation), 39 of 100 gates blamed the
program, and none of 150 where the hours were alike. Timings and memory are decided only where each side has ten runs on one machine
(``fresh=true`` adds one), and shown as advisory otherwise. What does not hang on the machine is gated all the same: recall, nDCG, the
size of the index; scores that are equal query by query count as exact only after two runs a side, since one build may happen to agree
with another. Other data, weights or definitions of a metric are NOT COMPARABLE, never a PASS.

No regression is measured again here. In place of that, one counts only if it also holds at a level divided by the number of timings judged.
Ten runs of base in one week and ten of head in the next still share what changed on the machine between the weeks; interleaved rounds
(``python -m harness gate --base REF``) do not have this weakness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from harness.compare.evidence import geometric_mean, of_runs, one_run, replicates, scores
from harness.compare.match import NOT_OF_THE_MACHINE, Lone, Pair, match, other_definition, other_machine
from harness.compare.rows import Stored, arrays, read_side
from harness.errors import DataError
from harness.gate.decide import FALSE_ALARMS, exact, harrell_davis, quality, requests_needed, unpaired
from harness.gate.kinds import KINDS, Kind
from harness.gate.outcome import Case, Decision, Outcome, Verdict
from harness.gate.rounds import EXACT_ROUNDS
from harness.report.provenance import machines
from harness.report.units import plural

ENOUGH = 10
"""Independent runs a side below which no timing is decided."""

APART = "The two sides were not measured in common rounds: a difference between two hours of the machine looks like one of the program."
MORE = (
    f"A verdict on a timing needs {ENOUGH} runs a side at different times on one machine (fresh=true adds one), "
    "or both versions side by side: python -m harness gate --base REF."
)

ALL = "all metrics"
"""Stands for the metric where a whole cell is missing, new or not comparable."""

_FIGURES: dict[str, tuple[tuple[str, str], ...]] = {
    "embed": (
        ("forward_s", "forward_s"),
        ("pipeline_s", "batch_latency_p50_s"),
        ("query_embed_s", "query_embed_p50_s"),
        ("load_s", "load_s"),
        ("peak_rss_bytes", "peak_rss_bytes"),
    ),
    "point": (
        ("search_s", "search_latency_p50_s"),
        ("search_p95_s", "search_latency_p95_s"),
        ("search_p99_s", "search_latency_p99_s"),
        ("recall_of_builds", "recall"),
        ("ndcg_at_10", "ndcg_at_10"),
    ),
    "build": (
        ("insert_s", "insert_s"),
        ("build_s", "build_s"),
        ("index_bytes", "index_bytes"),
        ("peak_rss_bytes", "peak_rss_bytes"),
    ),
}
"""Metric of the gate and figure of the record that it is read from, for each kind of row."""

_TAILS = {"search_p95_s": 0.95, "search_p99_s": 0.99}

_SHOWN_ONLY = frozenset({"search_p99_s"})
"""Too heavy a tail to blame anybody for."""


@dataclass(frozen=True)
class Timings:
    """A case that waits until it is known how many there are: a regression has to hold at a level that depends on it."""

    cell: str
    metric: str
    kind: Kind
    base: Sequence[float]
    head: Sequence[float]
    enough: bool
    advice: str
    """What to say where there is not enough."""
    rule: Callable[[float], Decision]
    """The decision at a level."""


def stored_outcome(base: Path, head: Path, *, across_machines: bool = False) -> Outcome:
    """Return what two folders of results show.

    Parameters
    ----------
    base, head : Path
        Such as ``results/base`` and ``results/head``.
    across_machines : bool
        Show timings of different machines as advisory instead of calling them NOT COMPARABLE.

    Returns
    -------
    Outcome
        Without cases, hence *not comparable*, where the base holds no records.

    Raises
    ------
    harness.errors.DataError
        When the head holds no records.
    """
    head_side = read_side(Path(head))
    try:
        base_side = read_side(Path(base))
    except DataError as error:
        return Outcome((), str(base), str(head), "stored results", 0.0, 0, notes=(f"There is no baseline: {error}",))
    found = match(base_side.rows, head_side.rows)
    crashed = {id(pair.base.record) for pair in found.pairs if pair.head.record.status != "ok"}
    cases: list[Case | Timings] = []
    for pair in found.pairs:
        cases += _pair(pair, across_machines)
    cases += [_lone(one, "MISSING") for one in found.only_base if id(one.row.record) not in crashed and one.row.record.status == "ok"]
    cases += [_lone(one, "NEW") for one in found.only_head if one.row.record.status == "ok"]
    cases += [
        _whole(one.row, "ERROR", one.row.record.error or one.row.record.status)
        for one in found.only_head
        if one.row.record.status not in ("ok", "skipped", "oom")
    ]
    notes = [APART, *([MORE] if any(isinstance(one, Timings) and not one.enough for one in cases) else [])]
    notes += [f"Left out: {sentence}" for sentence in dict.fromkeys([*base_side.left_out, *head_side.left_out])]
    if across_machines:
        notes.insert(0, "Timings are shown across machines and decide nothing.")
    return outcome_of(
        settled(cases),
        base_side.label,
        head_side.label,
        "stored results",
        machine="; ".join(dict.fromkeys([*machines(base_side.records), *machines(head_side.records)])),
        notes=tuple(notes),
    )


def settled(cases: Sequence[Case | Timings]) -> tuple[Case, ...]:
    """Return all cases decided; what looks like a regression has to hold at the level divided by the number of timings too."""
    judged = sum(isinstance(one, Timings) and one.enough for one in cases)
    return tuple(_settle(one, judged) if isinstance(one, Timings) else one for one in cases)


def _settle(one: Timings, judged: int) -> Case:
    decision = one.rule(FALSE_ALARMS)
    if not one.enough and decision.verdict != "ERROR":
        decision = replace(decision, verdict="INCONCLUSIVE", advisory=True, rounds_needed=None, reason=one.advice)
    elif decision.verdict == "REGRESSION" and judged > 1:
        strict = one.rule(FALSE_ALARMS / judged)
        if strict.lo is None and strict.rounds_needed is not None:  # the level is out of reach of so few, whatever they hold
            more = strict.rounds_needed - strict.rounds
            reason = f"looks like a regression, but among {judged} timings {strict.rounds} a side cannot prove one: {more} more are needed"
            decision = replace(decision, verdict="INCONCLUSIVE", rounds_needed=strict.rounds_needed, reason=reason)
        elif strict.verdict != "REGRESSION":
            reason = f"looks like a regression, but among {judged} timings one such may be chance; measure it side by side"
            decision = replace(decision, verdict="INCONCLUSIVE", reason=reason)
    return Case(
        one.cell, one.metric, one.kind.name, one.kind.unit, _typical(one.base), _typical(one.head), decision,
        floor=one.kind.floor, target=one.kind.target,
    )  # fmt: skip


def outcome_of(
    cases: Sequence[Case], base: str, head: str, how: str, *, machine: str = "", notes: tuple[str, ...] = (), duration_s: float = 0.0
) -> Outcome:
    """Return the outcome of decided cases; it is advisory as a whole where every case is."""
    rounds = [case.decision.rounds for case in cases if case.decision.rounds and case.kind not in ("exact", "quality")]
    return Outcome(
        tuple(cases),
        base,
        head,
        how,
        duration_s,
        round(median(rounds)) if rounds else 0,
        machine=machine,
        advisory=bool(cases) and all(case.decision.advisory for case in cases),
        notes=notes,
    )


def _lone(lone: Lone, verdict: Verdict) -> Case:
    return _whole(lone.row, verdict, lone.why)


def _whole(row: Stored, verdict: Verdict, reason: str) -> Case:
    return Case(_name(row), ALL, "", "", None, None, Decision(verdict, reason=reason))


def _name(row: Stored) -> str:
    return f"{row.name} · build" if row.part == "build" else row.name


def _pair(pair: Pair, across_machines: bool) -> list[Case | Timings]:
    statuses = pair.base.record.status, pair.head.record.status
    if statuses in (("skipped", "skipped"), ("oom", "oom")):  # an unchanged result: that is where its memory ends
        return []
    if statuses[0] == "ok" and statuses[1] != "ok":
        return [_whole(pair.head, "MISSING" if statuses[1] == "skipped" else "ERROR", pair.obstacle)]
    if statuses[1] == "ok" and statuses[0] != "ok":
        return [_whole(pair.head, "NEW", pair.obstacle)]
    if pair.obstacle:
        return [_whole(pair.head, "NOT COMPARABLE", pair.obstacle)]
    machine = other_machine(pair.base, pair.head)
    found = [_figure(pair, metric, figure, machine, across_machines) for metric, figure in _FIGURES[pair.base.part]]
    return [one for one in found if one is not None]


def _figure(pair: Pair, metric: str, figure: str, machine: str, across_machines: bool) -> Case | Timings | None:
    kind = KINDS[metric]
    known = [figure in one.measured and one.measured[figure].value is not None for one in (pair.base, pair.head)]
    if not any(known) or (metric in _TAILS and not all(known)):  # whether there are requests enough for a tail is chance
        return None

    def whole(verdict: Verdict, reason: str) -> Case:
        one, other = (_measured(side, figure) for side in (pair.base, pair.head))
        return Case(_name(pair.head), metric, kind.name, kind.unit, one, other, Decision(verdict, reason=reason))

    if not all(known):
        lacking = pair.head if known[0] else pair.base
        why = lacking.measured[figure].reason if figure in lacking.measured else None
        return whole("MISSING" if known[0] else "NEW", f"{'head' if known[0] else 'base'} has none: {why or 'not measured'}")
    if definition := other_definition(figure, pair.base, pair.head):
        return whole("NOT COMPARABLE", definition)
    if figure in ("recall", "ndcg_at_10"):
        return _scores(pair, metric, figure)
    if figure == "index_bytes":
        sides = replicates(pair.base, figure) or _values(pair.base, figure), replicates(pair.head, figure) or _values(pair.head, figure)
        if all(len(set(side)) == 1 for side in sides):
            decision = exact(sides[0], sides[1], kind)
            return Case(
                _name(pair.head), metric, kind.name, kind.unit, sides[0][0], sides[1][0], decision, floor=kind.floor, target=kind.target
            )
        kind = replace(KINDS["peak_rss_bytes"], about="size of the index, which differs from build to build")
    elsewhere = bool(machine) and figure not in NOT_OF_THE_MACHINE
    if elsewhere and not across_machines:
        return whole("NOT COMPARABLE", machine)
    if metric in _TAILS:
        return _tail(pair, metric, kind, machine if elsewhere else "")
    return timings(_name(pair.head), metric, kind, _values(pair.base, figure), _values(pair.head, figure), machine if elsewhere else "")


def timings(cell: str, metric: str, kind: Kind, base: Sequence[float], head: Sequence[float], against: str = "") -> Timings:
    """Return a case of independent values, one a run; `against` says what forbids a verdict whatever their number."""
    fewest = min(len(base), len(head))
    advice = against or f"{len(base)} and {len(head)} independent runs of the {ENOUGH} a side that a verdict needs"
    enough = fewest >= ENOUGH and not against

    def rule(alpha: float) -> Decision:
        return unpaired(base, head, kind, enough=enough, alpha=alpha)

    return Timings(cell, metric, kind, base, head, enough, advice, rule)


def _tail(pair: Pair, metric: str, kind: Kind, machine: str) -> Timings | None:
    """Return the case of a quantile of latency; none where the requests of a process are too few for it."""
    q = _TAILS[metric]
    each = [[arrays(one_run(side, run), f"latency_s_{side.number}") for run in side.repeats] for side in (pair.base, pair.head)]
    if not all(each) or any(one.size < requests_needed(q) for side in each for run in side for one in run or [np.empty(0)]):
        return None
    values = [[geometric_mean([harrell_davis(one, q) for one in run]) for run in side] for side in each]
    against = machine or ("a 99th percentile is shown and never decided on" if metric in _SHOWN_ONLY else "")
    return timings(_name(pair.head), metric, kind, values[0], values[1], against)


def _scores(pair: Pair, metric: str, figure: str) -> Case:
    one, other = pair.base.measured[figure], pair.head.measured[figure]
    kind = KINDS[metric]

    def case(metric: str, kind: Kind, decision: Decision, values: tuple[float | None, float | None] = (one.value, other.value)) -> Case:
        return Case(_name(pair.head), metric, kind.name, kind.unit, *values, decision, floor=kind.floor, target=kind.target)

    if figure == "recall" and one.reason == other.reason == "exact by construction":
        return case("recall", KINDS["recall"], exact([one.value], [other.value], KINDS["recall"]))
    seeds = {side.record.settings.get("seed") for side in (pair.base, pair.head)}
    base, head = _of_runs(pair.base, figure), _of_runs(pair.head, figure)
    if base is None or head is None or base.shape[1] != head.shape[1] or len(seeds) > 1:
        difference = (other.value or 0.0) - (one.value or 0.0)
        reason = "the scores of each query were not kept, or are of other queries"
        return case(metric, kind, Decision("INCONCLUSIVE", change=difference, advisory=True, reason=reason))
    alike, runs = bool((base == base[0]).all() and (head == base[0]).all()), min(len(base), len(head))
    if alike and runs >= EXACT_ROUNDS:  # builds that give each query the same answers every time are not a sample of anything
        return case(metric, kind, exact([one.value], [one.value], KINDS["recall"]))
    decision = quality(base, head, kind)
    if alike and decision.verdict == "INCONCLUSIVE":
        seen = f"all {base.shape[1]} queries scored alike in {plural(runs, 'run')} a side"
        reason = f"{seen}; builds may differ, and {EXACT_ROUNDS} runs a side (fresh=true adds one) would show that they do not"
        decision = replace(decision, reason=reason)
    return case(metric, kind, decision, (float(base.mean()), float(head.mean())))


def _of_runs(row: Stored, figure: str) -> NDArray[np.float64] | None:
    """Return the scores of shape (runs, queries), a run being a build or the mean of several; None where no run kept them."""
    kept = [scores(one_run(row, run), figure) for run in row.repeats]
    found = [one for one in kept if one is not None]
    return np.stack(found) if found and len({one.size for one in found}) == 1 else None


def _values(row: Stored, figure: str) -> list[float]:
    """Return a value a run, or, where the records keep none, that of the newest."""
    kept = of_runs(row, figure)
    if kept:
        return kept
    value = _measured(row, figure)
    return [] if value is None else [value]


def _measured(row: Stored, figure: str) -> float | None:
    return row.measured[figure].value if figure in row.measured else None


def _typical(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return median(known) if known else None
