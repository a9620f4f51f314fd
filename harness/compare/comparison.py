"""A whole comparison as data: two sides, what was judged, what has no partner, and what else differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.compare.judge import Judged, Judgement, Word, judge
from harness.compare.match import Lone, match
from harness.compare.rows import Side, Stored, chosen, named
from harness.report.provenance import environment
from harness.report.units import count, plural


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of two sides."""

    base: str
    head: str
    across_machines: bool
    judged: tuple[Judged, ...]
    only_base: tuple[Lone, ...]
    only_head: tuple[Lone, ...]
    differing: tuple[tuple[str, str, str], ...]
    """(fact, on the base side, on the head side): versions, commit, machine."""
    left_out: tuple[str, ...]
    decides: str
    """What would decide where the evidence does not."""

    @property
    def title(self) -> str:
        """The two sides, and that they are of different machines where that is allowed."""
        return f"{self.base} → {self.head}" + (" (across machines: timings are advisory)" if self.across_machines else "")

    @property
    def judgements(self) -> list[tuple[Judged, Judgement]]:
        """Every figure with its pair."""
        return [(one, figure) for one in self.judged for figure in one.judgements]

    @property
    def counts(self) -> Counter[Word]:
        """How many figures have each verdict."""
        return Counter(figure.word for _, figure in self.judgements)


def compare(
    base: Side,
    head: Side,
    *,
    where: Mapping[str, str] | None = None,
    against: Mapping[str, str] | None = None,
    across_machines: bool = False,
) -> Comparison:
    """Compare two sides.

    Parameters
    ----------
    base, head : Side
        What was measured; the same side twice where `against` names what is compared with what.
    where : mapping of str, optional
        Settings that rows must have: ``{"store": "faiss", "ef": "64"}``.
    against : mapping of str, optional
        Settings that the head's rows must have instead; those named are what the sides differ in on purpose.
    across_machines : bool
        Compare timings of different machines too.
    """
    where, against = where or {}, against or {}
    varied = {name for name in where.keys() | against.keys() if against and where.get(name) != against.get(name)}
    heads = {**{name: value for name, value in where.items() if name not in varied}, **against}
    found = match(chosen(base.rows, where), chosen(head.rows, heads), varied=varied)
    said = [" ".join(f"{name}={value}" for name, value in conditions.items()) for conditions in (where, heads)]
    return Comparison(
        f"{base.label}{f' where {said[0]}' if said[0] else ''}",
        f"{head.label}{f' where {said[1]}' if said[1] else ''}",
        across_machines,
        tuple(judge(found.pairs, across_machines=across_machines)),
        found.only_base,
        found.only_head,
        () if base is head else _differing(base, head),
        tuple(dict.fromkeys([*base.left_out, *head.left_out])),
        _decides(base, head, [_overrides(conditions, base.rows + head.rows) for conditions in (where, heads)] if varied else None),
    )


def overview(comparison: Comparison) -> list[str]:
    """Return the sentences that stand first."""
    counts = comparison.counts
    compared = sum(number for word, number in counts.items() if word != "not comparable")
    refused = [one for one in comparison.judged if one.pair.obstacle]
    words: tuple[Word, ...] = ("slower", "worse", "larger", "faster", "better", "smaller", "no difference shown", "not comparable")
    said = ", ".join(f"{count(counts[word])} {word}" for word in words if counts[word])
    sentences = [
        f"{plural(len(comparison.judged), 'row')} on both sides, {plural(compared, 'figure')} compared{f': {said}' if said else ''}."
    ]
    if refused:
        sentences.append(f"{plural(len(refused), 'row')} cannot be compared: {_reasons(refused)}.")
    lone = len(comparison.only_base), len(comparison.only_head)
    if any(lone):
        sentences.append(f"Only in the base: {plural(lone[0], 'row')}; only in the head: {plural(lone[1], 'row')}.")
    advisory = sum(figure.advisory for _, figure in comparison.judgements)
    if advisory:
        sentences.append(
            f"{plural(advisory, 'figure')} {'is' if advisory == 1 else 'are'} advisory: two runs of a few processes each can differ with "
            f"nothing changed, and of many figures one in twenty lies outside its 95 % interval by chance. {comparison.decides}"
        )
    return sentences


def _reasons(refused: Sequence[Judged]) -> str:
    kinds = Counter(one.pair.obstacle.partition(":")[0] for one in refused)
    return ", ".join(f"{reason} ({number})" for reason, number in kinds.most_common())


def _differing(base: Side, head: Side) -> tuple[tuple[str, str, str], ...]:
    """Return the facts about the program, its libraries and the machine in which the sides differ, where each side agrees with itself."""
    sides = []
    for side in (base, head):
        common = environment(side.records).common
        sides.append({f"{heading}: {name}": value for heading, facts in common.items() for name, value in facts if heading != "source"})
    one, other = sides
    return tuple((name, one[name], other[name]) for name in one if name in other and one[name] != other[name])


_LISTS = {
    "k": "k",
    "concurrency": "workload.concurrency",
    "rate_per_s": "workload.rate",
    "churn_per_s": "workload.churn_per_s",
    "selectivity": "filter",
    "target_recall": "target_recall",
}
"""What says of a row how its operating point was asked, and the setting that lists its values."""


def _overrides(conditions: Mapping[str, str], rows: Sequence[Stored]) -> str:
    """Return conditions as a run takes them: an operating point's knob, k, clients and the like are lists there."""
    found = []
    for name, value in conditions.items():
        key = next((key for row in rows for key in named(row.identity, name)), name)
        group, _, knob = key.partition(".")
        if group == "search_params":
            found.append(f"index.{knob}=[{value}]")
        elif key in _LISTS:
            found.append(f"{_LISTS[key]}=[{value}]")
        else:
            found.append(f"{key}={value}")
    return " ".join(found)


def _decides(base: Side, head: Side, varied: Sequence[str] | None) -> str:
    if varied:
        return f'To decide: python -m harness gate --base-set "{varied[0]}" --head-set "{varied[1]}"'
    commits = [{str(record.environment.get("commit")) for record in side.records} for side in (base, head)]
    if all(len(found) == 1 for found in commits):
        one, other = (found.copy().pop() for found in commits)
        if one != other and not any(name == "None" or name.endswith("+changes") for name in (one, other)):
            return f"To decide: python -m harness gate --base {one[:12]} --head {other[:12]}"
    return "To decide, measure side by side with python -m harness gate, or ten times on either side (fresh=true)."
