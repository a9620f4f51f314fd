"""The gate on files of pytest-benchmark, of this project's suite or of anybody's.

One file is one process is one round: the median of a benchmark's ``stats.data`` is the round's value, however many samples it holds,
because samples of one process are not independent of each other. Where the files of the two sides were measured alternately, as their
``datetime`` tells, and now the one and now the other came first, neighbours form rounds and are judged as pairs; otherwise the sides are
judged as independent processes, since what always comes second is hotter, or has warmer caches. Below ten files a side nothing is decided,
and with many benchmarks not below as many as could show a regression of one of them (`files_needed`): a gate that cannot fail must not
pass either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from harness.errors import DataError
from harness.gate.decide import FALSE_ALARMS, decide, log_ratios
from harness.gate.kinds import Kind
from harness.gate.outcome import Case, Decision, Outcome
from harness.gate.stored import ALL, ENOUGH, Timings, outcome_of, settled, timings
from harness.report.units import plural

KIND = Kind("duration", "s", "lower", 0.025, 0.05, "median of a benchmark's samples")

_MACHINE = (("cpu", "brand_raw"), ("cpu", "count"), ("machine",), ("system",), ("release",))
"""Parts of ``machine_info`` that have to be equal; the host's name and the processor's momentary clock are not among them."""

_EITHER_ORDER = 0.2
"""Share of the rounds that must have begun with either side; by the toss of a coin, one set of ten rounds in fifty has less."""


@dataclass(frozen=True)
class Round:
    """One file: one process on one side."""

    path: Path
    at: datetime
    machine: Mapping[str, str]
    medians: Mapping[str, float]
    """Seconds, by the benchmark's full name."""
    commit: str


def benchmark_outcome(base: Sequence[Path], head: Sequence[Path], *, across_machines: bool = False) -> Outcome:
    """Return what two sets of pytest-benchmark files show.

    Parameters
    ----------
    base, head : sequence of Path
        Files that ``pytest --benchmark-json=FILE`` wrote, one for each run.
    across_machines : bool
        Show what different machines measured as advisory instead of calling it NOT COMPARABLE.

    Raises
    ------
    harness.errors.DataError
        When a file is not one of pytest-benchmark or lacks the samples; every such file is named.
    """
    sides = _read(base, head)
    names = list(dict.fromkeys(name for side in sides for one in side for name in one.medians))
    machine = _other_machine([one for side in sides for one in side])
    apart = _apart(*sides)
    judged = sum(all(any(name in one.medians for one in side) for side in sides) for name in names)
    cases = [_case(name, sides, not apart, machine, across_machines, judged) for name in names]
    how = "pytest-benchmark files" if apart else "pytest-benchmark files, in alternation"
    notes = [f"The two sides are not judged in pairs, because {apart}."] if apart else []
    notes += ["Timings are shown across machines and decide nothing."] if machine and across_machines else []
    return outcome_of(
        settled(cases),
        _called(sides[0]),
        _called(sides[1]),
        how,
        machine=", ".join(part for part in (sides[1][0].machine.get("cpu.brand_raw"), sides[1][0].machine.get("system")) if part),
        notes=tuple(notes),
    )


def files_needed(benchmarks: int) -> int:
    """Return how many files a side, measured in alternation, can show a regression of one of so many benchmarks.

    A regression has to hold at `FALSE_ALARMS` divided by their number (see `harness.gate.stored`), and the smallest p of the signed-rank
    test of n rounds is 2^-n: it takes 10 files for up to ten benchmarks, 11 for twenty, 15 for three hundred.
    """
    return max(ENOUGH, math.floor(-math.log2(FALSE_ALARMS / max(benchmarks, 1))) + 1)


def _case(
    name: str, sides: tuple[Sequence[Round], Sequence[Round]], alternate: bool, machine: str, across_machines: bool, judged: int
) -> Case | Timings:
    base, head = ([one.medians.get(name) for one in side] for side in sides)
    known = [[value for value in side if value is not None] for side in (base, head)]
    if not known[0] or not known[1]:
        decision = Decision("MISSING", reason="in no file of the head") if known[0] else Decision("NEW", reason="in no file of the base")
        return Case(name, ALL, "", "", None, None, decision)
    if machine and not across_machines:
        typical = [median(side) for side in known]
        return Case(name, "median", KIND.name, KIND.unit, typical[0], typical[1], Decision("NOT COMPARABLE", reason=machine))
    if alternate and not machine and all(value is not None for value in (*base, *head)):
        rounds, needed = len(base), files_needed(judged)

        def rule(alpha: float) -> Decision:
            found = decide(log_ratios(base, head, KIND), KIND, alpha=alpha, looks=(rounds,), last=True)
            assert found is not None  # at the last look there is a decision
            return found

        advice = f"{rounds} files a side; with {plural(judged, 'benchmark')} a verdict takes {needed}: {needed - rounds} more"
        return Timings(name, "median", KIND, known[0], known[1], rounds >= needed, advice, rule)
    return timings(name, "median", KIND, known[0], known[1], machine)


def _read(base: Sequence[Path], head: Sequence[Path]) -> tuple[list[Round], list[Round]]:
    if not base or not head:
        raise DataError("pytest-benchmark files are needed on both sides, such as base*.json and head*.json")
    faults: list[str] = []
    sides: tuple[list[Round], list[Round]] = ([], [])
    for side, paths in zip(sides, (base, head), strict=True):
        for path in paths:
            try:
                side.append(_round(Path(path)))
            except DataError as error:
                faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return sorted(sides[0], key=_when), sorted(sides[1], key=_when)


def _when(one: Round) -> datetime:
    return one.at


def _round(path: Path) -> Round:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(body, dict) or not isinstance(body.get("benchmarks"), list) or not body["benchmarks"]:
        raise DataError(f"{path} holds no benchmarks; write it with pytest --benchmark-json={path.name}")
    try:
        at = datetime.fromisoformat(body["datetime"])
        medians = {str(one["fullname"]): _median(one, path) for one in body["benchmarks"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a file of pytest-benchmark ({type(error).__name__}: {error})") from error
    about = body.get("commit_info") or {}
    commit = f"{str(about.get('id'))[:12]}{'+changes' if about.get('dirty') else ''}" if about.get("id") else ""
    return Round(path, at if at.tzinfo else at.replace(tzinfo=UTC), _machine(body.get("machine_info") or {}), medians, commit)


def _median(benchmark: Mapping[str, Any], path: Path) -> float:
    data = benchmark["stats"].get("data")
    if not data:
        raise DataError(
            f"{path} has no samples (stats.data) of {benchmark['fullname']}, whose median is needed; "
            "write files with --benchmark-json, or --benchmark-save-data beside --benchmark-autosave"
        )
    value = median(float(sample) for sample in data)
    if not math.isfinite(value) or value <= 0:
        raise DataError(f"{path} has a median of {value} s for {benchmark['fullname']}, which is no duration")
    return value


def _machine(info: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for names in _MACHINE:
        value: Any = info
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        found[".".join(names)] = "" if value is None else str(value)
    return found


def _other_machine(rounds: Sequence[Round]) -> str:
    seen = {name: sorted({one.machine[name] for one in rounds}) for name in rounds[0].machine}
    differing = [f"{name} {' / '.join(values)}" for name, values in seen.items() if len(values) > 1]
    return f"other machine: {', '.join(differing)}" if differing else ""


def _apart(base: Sequence[Round], head: Sequence[Round]) -> str:
    """Say why the files, in the order of their time, do not form rounds of one of each side in either order; nothing where they do."""
    if len(base) != len(head):
        return f"there are {len(base)} files of the base and {len(head)} of the head"
    pairs = list(zip(base, head, strict=True))
    ends = [max(one.at, other.at) for one, other in pairs]
    starts = [min(one.at, other.at) for one, other in pairs]
    if any(end >= start for end, start in zip(ends, starts[1:], strict=False)) or any(one.at == other.at for one, other in pairs):
        return "they were not measured by turns: a slower hour of the machine looks like a slower version"
    first = sum(one.at < other.at for one, other in pairs)
    if min(first, len(pairs) - first) < len(pairs) * _EITHER_ORDER:
        return f"the base came first in {first} of {len(pairs)} rounds: what comes second may differ for that; change the order"
    return ""


def _called(side: Sequence[Round]) -> str:
    commits = {one.commit for one in side if one.commit}
    files = f"{len(side)} files" if len(side) > 1 else str(side[0].path)
    return f"{files} of {commits.pop()}" if len(commits) == 1 else files
