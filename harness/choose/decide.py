"""Which candidate to take, why each other one lost, and how sure that is.

A candidate qualifies when every constraint holds by the bound of its interval and its objective is known. The best of those by the
objective wins; equal ones are told apart by quality, by how fast documents are embedded, by latency, by name, so that the answer does
not depend on the order.
Nothing here reads a file or a clock: the same figures always give the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.choose.candidates import Candidate
from harness.choose.require import Judgement, Requirement, between, written
from harness.records import Measured
from harness.report.pareto import pareto
from harness.statistics import over_processes, paired_difference

State = Literal["chosen", "beaten", "violated", "undecided", "unknown"]


@dataclass(frozen=True)
class Objective:
    """What the best is best at."""

    name: str
    figure: str
    title: str
    higher: bool
    unit: str = ""

    def rank(self, candidate: Candidate) -> float:
        """Return what is smaller for a better candidate; infinite where it is not known."""
        value = candidate.figures[self.figure].value
        return math.inf if value is None else -value if self.higher else value

    def said(self, candidate: Candidate) -> str:
        """Return the candidate's value with its interval and unit."""
        return said(candidate, self.figure, self.unit)


def said(candidate: Candidate, figure: str, unit: str = "") -> str:
    """Return a candidate's figure with its interval, for a sentence."""
    found = candidate.figures[figure]
    if found.value is None:
        return f"unknown ({found.reason})"
    return f"{written(figure, found.value)}{between(figure, found)}{' ' + unit if unit else ''}"


OBJECTIVES = {
    "latency": Objective("latency", "latency_p50_s", "median latency, query embedding and search", higher=False),
    "throughput": Objective(
        "throughput", "throughput_per_s", "queries a second of one machine, embedding and searching in turns", higher=True
    ),
    "quality": Objective("quality", "ndcg_at_10", "nDCG@10 through the index", higher=True),
    "cost": Objective("cost", "cost_per_million_queries", "cost of a million queries", higher=False),
}


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate."""

    candidate: Candidate
    state: State
    judgements: tuple[tuple[Requirement, Judgement], ...]
    on_front: bool = False
    why: str = ""
    """Why it was not chosen."""

    @property
    def failing(self) -> list[tuple[Requirement, Judgement]]:
        """The constraints that do not hold."""
        return [(requirement, one) for requirement, one in self.judgements if one.state != "holds"]


@dataclass(frozen=True)
class Choice:
    """The answer."""

    objective: Objective
    requirements: tuple[Requirement, ...]
    verdicts: tuple[Verdict, ...]
    """The chosen one first, then those that qualified by the objective, then the others by how near they came."""
    quality: str
    """The figure on the front's other axis."""
    doubt: str = ""
    """Whether the best two can be told apart, in a sentence; empty where only one qualified."""

    @property
    def winner(self) -> Candidate | None:
        """The candidate to take; None where none qualifies."""
        return self.verdicts[0].candidate if self.verdicts and self.verdicts[0].state == "chosen" else None

    @property
    def rival(self) -> Candidate | None:
        """The best that qualifies and answers queries in another way than the winner: not only at another batch size."""
        others = (one.candidate for one in self.qualified[1:])
        return next((one for one in others if self.winner is not None and one.serving != self.winner.serving), None)

    @property
    def qualified(self) -> list[Verdict]:
        """Those that meet every constraint, best first."""
        return [one for one in self.verdicts if one.state in ("chosen", "beaten")]

    @property
    def nearest(self) -> Verdict | None:
        """Where none qualifies, the candidate that came nearest."""
        return None if self.winner or not self.verdicts else self.verdicts[0]


def choose(candidates: Sequence[Candidate], requirements: Sequence[Requirement], objective: Objective) -> Choice:
    """Return the choice among some candidates."""
    qualified, others = [], []
    for one in candidates:
        judgements = tuple((requirement, requirement.judge(one.figures[requirement.figure])) for requirement in requirements)
        if all(judged.state == "holds" for _, judged in judgements) and objective.rank(one) < math.inf:
            qualified.append((one, judgements))
        else:
            others.append((one, judgements))
    quality = "ndcg_at_10" if all(one.figures["ndcg_at_10"].value is not None for one, _ in qualified or others) else "recall"
    qualified.sort(key=lambda pair: (objective.rank(pair[0]), *_ties(pair[0], quality)))
    front = _front([one for one, _ in qualified], objective, quality)
    verdicts = []
    for place, (one, judgements) in enumerate(qualified):
        if place == 0:
            verdicts.append(Verdict(one, "chosen", judgements, on_front=one in front))
        else:
            why = _beaten(one, qualified[0][0], front, objective, quality)
            verdicts.append(Verdict(one, "beaten", judgements, on_front=one in front, why=why))
    lost = [_lost(one, judgements, objective) for one, judgements in others]
    verdicts += sorted(lost, key=lambda verdict: (_distance(verdict), objective.rank(verdict.candidate), verdict.candidate.name))
    found = Choice(objective, tuple(requirements), tuple(verdicts), quality)
    return found if found.winner is None or found.rival is None else replace(found, doubt=_doubt(found.winner, found.rival, objective))


def _ties(candidate: Candidate, quality: str) -> tuple[float, float, float, str, str]:
    score, latency = candidate.figures[quality].value, candidate.figures["latency_p50_s"].value
    documents = candidate.figures["pipeline_per_s"].value if "pipeline_per_s" in candidate.figures else None
    return (-(score or 0.0), -(documents or 0.0), math.inf if latency is None else latency, candidate.name, candidate.key)


def _worth(candidate: Candidate, objective: Objective, quality: str) -> tuple[float, float] | None:
    """Return the candidate's place in the plane of the front: quality, and what is to be low (the objective, or the median latency)."""
    score = candidate.figures[quality].value
    low = candidate.figures["latency_p50_s"].value if objective.figure == quality else objective.rank(candidate)
    return None if score is None or low is None else (score, low)


def _front(candidates: Sequence[Candidate], objective: Objective, quality: str) -> list[Candidate]:
    """Return those that no other beats in both quality and the objective (for the objective quality: in quality and latency)."""
    placed = [(one, worth) for one in candidates if (worth := _worth(one, objective, quality)) is not None]
    return [placed[i][0] for i in pareto([worth for _, worth in placed])]


def _beaten(one: Candidate, winner: Candidate, front: Sequence[Candidate], objective: Objective, quality: str) -> str:
    if one.serving == winner.serving and objective.rank(one) == objective.rank(winner):
        documents = f"{said(one, 'pipeline_per_s')} documents instead of {said(winner, 'pipeline_per_s')}"
        return f"answers queries as the chosen one does and embeds {documents}"
    behind = f"{objective.title} {objective.said(one)}, the chosen one has {objective.said(winner)}"
    if one in front and _worth(one, objective, quality) == _worth(winner, objective, quality):
        return f"{behind}; equal in {_title(quality)} too"
    if one in front:
        other = "latency_p50_s" if objective.figure == quality else quality
        return f"{behind}; on the front: {_title(other)} {said(one, other)} instead of {said(winner, other)}"
    mine = _worth(one, objective, quality)
    above = [
        better
        for better in front
        if mine is not None and (theirs := _worth(better, objective, quality)) and theirs[0] >= mine[0] and theirs[1] <= mine[1]
    ]
    by = winner if winner in above else above[0] if above else None
    return behind if by is None else f"{behind}; dominated by {'the chosen one' if by is winner else by.name}"


def _title(figure: str) -> str:
    return {"latency_p50_s": "median latency", "ndcg_at_10": "nDCG@10"}.get(figure, figure)


def _lost(one: Candidate, judgements: tuple[tuple[Requirement, Judgement], ...], objective: Objective) -> Verdict:
    """Return the verdict on a candidate that does not qualify: what is violated goes before what is not known."""
    failing = [judged for _, judged in judgements if judged.state != "holds"]
    reasons = [judged.words for state in ("violated", "unknown", "undecided") for judged in failing if judged.state == state]
    states = {judged.state for judged in failing}
    state: State = "violated" if "violated" in states else "unknown" if "unknown" in states or not failing else "undecided"
    if objective.rank(one) == math.inf:
        reasons.append(f"{objective.title} is not known: {one.figures[objective.figure].reason}")
    return Verdict(one, state, judgements, why="; ".join(reasons))


def _distance(verdict: Verdict) -> tuple[int, int, int, float]:
    """Return how far a candidate is from qualifying: what is decided against it first, then what is open, then by how much it misses."""
    states = [judged.state for _, judged in verdict.judgements]
    miss = sum(judged.miss for _, judged in verdict.judgements)
    return states.count("violated"), states.count("unknown"), states.count("undecided"), miss


def _doubt(first: Candidate, second: Candidate, objective: Objective) -> str:
    """Say whether the best two can be told apart, by what is paired: processes for timings, queries for scores."""
    figure = objective.figure
    a, b = first.figures[figure], second.figures[figure]
    names = f"{first.name} and {second.name}"
    mine, theirs = first.scores.get(figure), second.scores.get(figure)
    if mine is not None and theirs is not None and first.queries == second.queries and len(mine) == len(theirs):
        found = paired_difference(mine, theirs).difference
        if found.value is not None and found.lo is not None and found.hi is not None:
            inside = f"a difference of {found.value:+.4f} [{found.lo:+.4f}, {found.hi:+.4f}] over {found.n:,} queries, paired"
            return f"{names} cannot be told apart: {inside}." if found.lo <= 0 <= found.hi else f"{names} differ by {inside}."
    ratio = over_processes([x / y for x, y in zip(first.pairs.get(figure, ()), second.pairs.get(figure, ()), strict=False)])
    if ratio.lo is not None and ratio.hi is not None:
        inside = f"a ratio of {ratio.value:.4f} [{ratio.lo:.4f}, {ratio.hi:.4f}] over {ratio.n} pairs of processes"
        return (
            f"{names} cannot be told apart: {inside}; raise processes=."
            if ratio.lo <= 1 <= ratio.hi
            else f"{names} differ by more than their processes do: {inside}; {_APART}."
        )
    return _by_intervals(names, a, b)


_APART = "measured at different times, so that it is no proof: --verify or `python -m harness gate` measures side by side"


def _by_intervals(names: str, a: Measured, b: Measured) -> str:
    if a.lo is None or a.hi is None or b.lo is None or b.hi is None:
        return (
            f"Whether {names} can be told apart is not known: without intervals for both, the difference may be chance; raise processes=."
        )
    if a.lo <= b.hi and b.lo <= a.hi:
        return f"{names} cannot be told apart: their intervals overlap."
    return f"{names} differ by more than their intervals; {_APART}."
