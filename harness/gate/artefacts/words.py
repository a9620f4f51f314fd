"""A gate's outcome in words: the sentence that comes first, and how amounts, changes and verdicts are written.

Every artefact takes its words from here, so that the terminal, the pull request and the page cannot disagree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.gate.outcome import (
    EXIT_CRASHED,
    EXIT_NOT_COMPARABLE,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_UNTRUSTED,
    Case,
    Outcome,
    Verdict,
    worst_first,
)
from harness.report.units import NULL, count, duration, plural, significant

UNCHANGED: Verdict = "PASS"
"""What is folded away: proved to have changed by less than the target."""


def parts(outcome: Outcome) -> tuple[list[Case], list[Case], list[Case]]:
    """Return the cases that a reader is shown, those that are shown for information only, and the unchanged, each with the worst first.

    Where all is advisory there would be nothing to show, so that all of it is shown.
    """
    ordered = worst_first(outcome.cases)
    unchanged = [case for case in ordered if case.decision.verdict == UNCHANGED]
    advisory = [case for case in ordered if case.decision.advisory and case.decision.verdict != UNCHANGED and not outcome.advisory]
    folded = {id(case) for case in (*unchanged, *advisory)}
    return [case for case in ordered if id(case) not in folded], advisory, unchanged


EXITS = {
    EXIT_OK: "no regression",
    EXIT_REGRESSION: "a regression, or a cell that is missing",
    EXIT_UNTRUSTED: "the measurement is not to be trusted",
    EXIT_NOT_COMPARABLE: "not comparable",
    EXIT_CRASHED: "a cell crashed",
}
"""What each exit code means."""

_NAMES: dict[Verdict, str] = {
    "REGRESSION": "regression",
    "MISSING": "missing",
    "ERROR": "error",
    "NOT COMPARABLE": "not comparable",
    "INCONCLUSIVE": "inconclusive",
    "IMPROVED": "improved",
    "NEW": "new",
    "PASS": "pass",
}
_COUNTED = ("REGRESSION", "ERROR")
"""Verdicts whose name is a noun that has a plural."""

_BETWEEN = " · "
"""Between the parts of a cell's name."""

_LONGEST = 160
"""Characters that a name or reason keeps; whole ones are in verdict.json."""

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}
"""What an amount is divided by, largest first, with the name of what results."""


@dataclass(frozen=True)
class Line:
    """One case, ready to be written into a table."""

    cell: str
    metric: str
    base: str
    head: str
    recall: str
    """What the same cell's recall did; empty for the recall itself and where none is gated."""
    change: str
    interval: str
    verdict: str
    why: str
    case: Case


def clean(words: str) -> str:
    r"""Return words as one line without control characters: a name must not move a cursor, end a row or fill a page.

    >>> clean("a\nb\x1b[31m")
    'a b�[31m'
    """
    line = " ".join(words.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def headline(outcome: Outcome) -> str:
    """Return the verdict on the whole, the most important first."""
    if outcome.contaminated:
        return "Performance: not to be trusted, the control found a difference between two copies of the base"
    if not outcome.cases:
        return "Performance: nothing could be compared"
    counts = outcome.counts
    said = [_counted(verdict, number) for verdict, number in counts.items()]
    if not any(verdict in counts for verdict in ("REGRESSION", "MISSING", "ERROR", "NOT COMPARABLE")):
        open_ = any(case.first is not None and case.decision.verdict == "INCONCLUSIVE" for case in outcome.cases)
        said.insert(0, "no regression reproduced" if open_ else "no regression")  # what looked like one was neither shown nor refuted
    return f"Performance{' (advisory)' if outcome.advisory else ''}: {', '.join(said)}"


def _counted(verdict: Verdict, number: int) -> str:
    return plural(number, _NAMES[verdict]) if verdict in _COUNTED else f"{count(number)} {_NAMES[verdict]}"


def facts(outcome: Outcome) -> str:
    """Return what was compared, in a few words."""
    shared = _BETWEEN.join(common(outcome))
    cases = plural(len(outcome.cases), "case") + (f" of {shared}" if shared else "")
    parts = [cases, f"base {clean(outcome.base)}", f"head {clean(outcome.head)}", clean(outcome.how)]
    parts += [f"{plural(outcome.rounds, 'round')} median"] if outcome.rounds else []
    parts += [duration(outcome.duration_s)] if outcome.duration_s else []
    found = [case.decision.detectable for case in outcome.cases if case.decision.detectable is not None]
    found = [value for value in found if math.isfinite(value)]
    return ", ".join(parts) + (f"; could detect ≥ {100 * median(found):.1f} %" if found else "")


def afterwards(outcome: Outcome) -> list[str]:
    """Return the sentences that stand below the tables."""
    said = [clean(note) for note in outcome.notes]
    if outcome.control is not None:
        flagged = [case for case in outcome.control if case.decision.verdict in ("REGRESSION", "IMPROVED")]
        said.append(f"A/A control: {count(len(flagged))} of {plural(len(outcome.control), 'case')} flagged.")
        shifts = [case.decision.change for case in outcome.control if case.decision.change is not None and not is_absolute(case)]
        if shifts:
            said.append(f"Median shift of the control: {_percent(median(shifts))} %.")
    if outcome.machine or outcome.load:
        said.append(
            "; ".join(part for part in (f"Machine: {clean(outcome.machine)}" if outcome.machine else "", clean(outcome.load)) if part)
        )
    said.append(f"Exit code {outcome.exit_code}: {EXITS[outcome.exit_code]}.")
    return [sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in said]


def level(cases: Sequence[Case]) -> float | None:
    """Return the confidence level that most intervals have."""
    levels = Counter(case.decision.confidence for case in cases if case.decision.confidence is not None and interval(case))
    return levels.most_common(1)[0][0] if levels else None


def lines(outcome: Outcome, cases: Sequence[Case]) -> list[Line]:
    """Return some of an outcome's cases as lines of a table."""
    usual, shared = level(outcome.cases), common(outcome)
    recalls = {case.cell: case for case in outcome.cases if is_recall(case)}
    return [_line(case, recalls.get(case.cell), usual, shared) for case in cases]


def common(outcome: Outcome) -> list[str]:
    """Return the parts that the names of all cells share, where there are several: they are said once and left out of every row."""
    names = [clean(cell).split(_BETWEEN) for cell in dict.fromkeys(case.cell for case in outcome.cases)]
    return [part for part in names[0] if all(part in others for others in names)] if len(names) > 1 else []


def _short(cell: str, shared: Sequence[str]) -> str:
    return _BETWEEN.join(part for part in clean(cell).split(_BETWEEN) if part not in shared) or clean(cell)


def is_recall(case: Case) -> bool:
    """Whether a case is about a recall, which every other figure of its cell has to be read beside."""
    return case.metric.startswith("recall")


def is_absolute(case: Case) -> bool:
    """Whether a case's change is a difference and not a ratio."""
    return case.unit == "ratio" or case.kind == "quality"


def _line(case: Case, recall: Case | None, usual: float | None, shared: Sequence[str]) -> Line:
    base, head = amounts(case)
    return Line(
        _short(case.cell, shared),
        clean(case.metric),
        base,
        head,
        "" if recall is None or recall is case else _went(recall),
        change(case),
        interval(case, usual),
        verdict(case),
        "; ".join(part for part in (why(case), _price(case, recall)) if part),
        case,
    )


def _price(case: Case, recall: Case | None) -> str:
    """Return what a gain in speed was paid with."""
    paid = recall is not None and case.decision.verdict == "IMPROVED" and recall.decision.verdict == "REGRESSION"
    return "no gain: the recall of this cell is a regression" if paid else ""


def _went(recall: Case) -> str:
    base, head = amounts(recall)
    return base if base == head else f"{base} → {head}"


def amounts(case: Case) -> tuple[str, str]:
    """Return both sides' typical values with their unit, the same one for both."""
    known = [abs(value) for value in (case.base, case.head) if value is not None and math.isfinite(value)]
    if case.unit == "checksum":
        return _checksum(case.base), _checksum(case.head)
    scale, unit = next(
        ((scale, unit) for scale, unit in _SCALES.get(case.unit, ()) if max(known, default=0.0) >= scale),
        _SCALES.get(case.unit, ((1.0, "" if case.unit == "ratio" else clean(case.unit)),))[-1],
    )

    def written(value: float | None, digits: int) -> str:
        if value is None or not math.isfinite(value):
            return NULL
        number = f"{value:.4f}" if case.unit == "ratio" else significant(value / scale)
        number = number if digits == 3 else f"{value / scale:.{digits}g}"
        return f"{number} {unit}".strip()

    texts = written(case.base, 3), written(case.head, 3)
    for digits in range(4, 16):  # what is declared exact and differs is shown to differ
        if case.kind != "exact" or case.base == case.head or texts[0] != texts[1]:
            break
        texts = written(case.base, digits), written(case.head, digits)
    return texts


def _checksum(value: float | None) -> str:
    return NULL if value is None or not math.isfinite(value) else f"{int(value):x}"


def change(case: Case) -> str:
    """Return the change of the metric, in per cent or, of recall and quality, as a difference."""
    value = case.decision.change
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:+.4f}" if is_absolute(case) else f"{_percent(value)} %"


def interval(case: Case, usual: float | None = None) -> str:
    """Return the interval of the change, with its level where that is not the usual one; an end that is not bounded is ∞."""
    lo, hi = case.decision.lo, case.decision.hi
    if (lo is None and hi is None) or lo == hi:  # nothing is known of one, or the number is exact
        return ""
    ends = (-math.inf if lo is None else lo, math.inf if hi is None else hi)
    texts = [_end(end, absolute=is_absolute(case)) for end in ends]
    stated = case.decision.confidence
    return f"[{texts[0]}, {texts[1]}]" + (f" at {_level(stated)}" if stated is not None and stated != usual else "")


def _end(value: float, *, absolute: bool) -> str:
    if not math.isfinite(value) or (not absolute and value <= -1):
        return "-∞" if value < 0 else "∞"
    return f"{value:+.4f}" if absolute else _percent(value)


def _percent(value: float) -> str:
    """Return a ratio less one in per cent; what would be rounded to nothing and is not keeps a digit."""
    return f"{100 * value:+.1f}" if value == 0 or abs(value) >= 0.0005 else f"{100 * value:+.1g}"


def moved(case: Case) -> str:
    """Return both sides' amounts with the change and its interval; empty where nothing was measured."""
    if case.base is None and case.head is None:
        return ""
    between = f"{change(case)} {interval(case)}".strip()
    return " → ".join(amounts(case)) + (f" ({between})" if between else "")


def _level(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def change_heading(outcome: Outcome) -> str:
    """Return the heading over the changes, with the level of their intervals."""
    usual = level(outcome.cases)
    return "change" if usual is None else f"change [{_level(usual)} interval]"


def verdict(case: Case) -> str:
    """Return the verdict, with how sure it is."""
    decision = case.decision
    said: str = decision.verdict
    if said == "REGRESSION" and case.confirmed is not None and case.confirmed.verdict == "REGRESSION":
        said += " (reproduced)"
    return f"{said} (advisory)" if decision.advisory else said


def why(case: Case) -> str:
    """Return what explains a verdict; empty where it explains itself."""
    decision = case.decision
    said = [clean(decision.reason)] if decision.reason else []
    if decision.verdict == "INCONCLUSIVE" and decision.rounds_needed:
        said.append(f"needs about {count(decision.rounds_needed)} rounds in all")
    if decision.verdict == "INCONCLUSIVE" and decision.detectable is not None and math.isfinite(decision.detectable):
        said.append(f"could detect ≥ {100 * decision.detectable:.1f} %")
    return "; ".join(part.rstrip(".") for part in said)
