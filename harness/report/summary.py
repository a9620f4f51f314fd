"""What was measured and what stands out, in sentences.

A sentence names a best only among rows that did the same work, never one made of random weights, and says which
others cannot be told apart from it by their intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.rows import (
    BATCH,
    BUILD,
    COMPARED,
    DEVICE,
    DTYPE,
    INDEX,
    MACHINE,
    MODEL,
    OTHER,
    SEARCH,
    STORE,
    VECTORS,
    K,
    Part,
    Row,
    Section,
    by_name,
    compared,
    is_random,
    label,
    model_name,
    sections,
    varying,
)
from harness.report.tables import is_within
from harness.report.units import NULL, SHOWN, WITHIN, count, interval, number, plural, share

GOOD_RECALL = 0.95
"""The recall from which an index is called good enough in a sentence; a common requirement, and only a wording."""
TARGETS = (0.90, 0.95, 0.99)
"""Recalls that people ask for; the best at each is named."""
_SENTENCES = 4
"""Models and ways of asking that get a sentence of their own; the table of the best has all."""

STATUS_WORDS = {"oom": "ran out of memory", "failed": "failed", "invalid": "gave an invalid result", "skipped": "skipped"}


def overview(rows: Sequence[Row], shown: Sequence[Section] | None = None) -> list[str]:
    """Return what was measured, when and on what data; `shown` are the rows' sections, where they are known already."""
    done = [row for row in rows if row["status"] == "ok"]
    cells = {kind: len({row["key"] for row in done if row["kind"] == kind}) for kind in ("embed", "search", "corpus")}
    points = sum(row["kind"] == "search" and row["k"] is not None for row in done)
    parts = []
    if cells["embed"]:
        parts.append(plural(cells["embed"], "embed cell"))
    if cells["search"]:
        parts.append(f"{plural(cells['search'], 'search cell')} with {plural(points, 'operating point')}")
    if cells["corpus"]:
        parts.append(f"{plural(cells['corpus'], 'number')} of workers")
    first = f"{_list(parts) or 'No cell'} {'was' if sum(cells.values()) == 1 or not parts else 'were'} measured{_when(done)}."
    found = [first[0].upper() + first[1:]]
    states = Counter(row["status"] for row in {row["key"]: row for row in rows if row["status"] != "ok"}.values())
    if states:
        found.append(f"Without a result: {_list([f'{count(n)} {STATUS_WORDS.get(state, state)}' for state, n in sorted(states.items())])}.")
    data = [
        f"{section.name} ({section.facts})" if section.facts else section.name for section in (sections(rows) if shown is None else shown)
    ]
    if data:
        found.append(f"Data: {'; '.join(data)}.")
    if randoms := sorted({model_name(row) for row in done if is_random(row)}):
        found.append(f"{_list(randoms)}: speed and memory are real, the vectors are not, so these rows take part in no comparison.")
    return found


def _when(rows: Sequence[Row]) -> str:
    times = sorted(str(row["started_at"])[:16].replace("T", " ") for row in rows if row["started_at"])
    if not times:
        return ""
    first, last = times[0], times[-1]
    if first == last:
        return f" on {first} UTC"
    return f" between {first} and {last.removeprefix(first[:11])} UTC"


def findings(section: Section) -> list[str]:
    """Return what stands out in one dataset's results."""
    return [*_throughput(section.embed), *_search(section.search), *_attribution(section.search)]


def _throughput(rows: Sequence[Row]) -> list[str]:
    """Tell each machine's fastest pipeline; machines are not ranked against each other."""
    sentences = []
    for machine in dict.fromkeys(row["machine"] for row in rows):
        known = [row for row in rows if row["machine"] == machine and row["pipeline_per_s"] is not None and not is_random(row)]
        if len(known) < 2:
            continue
        best = max(known, key=lambda row: float(row["pipeline_per_s"]))
        parts = [part for part in (MODEL, DEVICE, DTYPE, OTHER, BATCH) if part in (MODEL, BATCH, *varying(known, (DEVICE, DTYPE, OTHER)))]
        words = f"The highest pipeline throughput is {_figure(best, 'pipeline_per_s')} with {label(best, parts)}{_on(rows, machine)}"
        sentences.append(words + _alike(best, known, "pipeline_per_s", parts) + ".")
    return sentences


def _search(rows: Sequence[Row]) -> list[str]:
    sentences = []
    groups = [group for group in compared(rows) if len(group) > 1]
    settings = [part for part in COMPARED if part not in (K, MACHINE)]
    context = [part for part in varying(rows, settings) if part in settings]
    for group in groups[:_SENTENCES] if len(groups) > _SENTENCES + 1 else groups:
        if len(group) < 2:
            continue
        what = f"recall@{group[0]['k']}"
        where = "".join(f", {part.prefix}{part.of(group[0])}" for part in context if part.of(group[0])) + _on(rows, group[0]["machine"])
        parts = [INDEX, SEARCH, *(part for part in (STORE, BUILD, VECTORS, OTHER) if _needed(group, part))]
        good = [row for row in group if row["recall"] >= GOOD_RECALL]
        if not good:
            best = max(group, key=lambda row: (float(row["recall"]), -float(row["search_latency_p50_s"])))
            highest = f"the highest is {_figure(best, 'recall')} with {label(best, parts)}"
            sentences.append(f"No operating point reached a {what} of {GOOD_RECALL}{where}; {highest}.")
            continue
        best = min(good, key=lambda row: float(row["search_latency_p50_s"]))
        words = (
            f"Of the operating points with a {what} of at least {GOOD_RECALL}{where}, {label(best, parts)} has the lowest median latency: "
            f"{_figure(best, 'search_latency_p50_s')} at a recall of {_figure(best, 'recall')}"
        )
        sentences.append(words + _alike(best, good, "search_latency_p50_s", parts) + ".")
    return sentences


@dataclass(frozen=True)
class Best:
    """The fastest operating point that reaches a recall, among those that may be compared."""

    context: str
    """What the compared points have in common and others have not; empty where there is one group."""
    target: str
    name: str
    """Empty where no point reaches the target."""
    recall: str
    latency: str
    rate: str
    alike: str
    """Points of another name whose latency's interval overlaps."""
    row: Row | None


def best(section: Section) -> list[Best]:
    """Return the lowest median latency at each of `TARGETS`, for each model and way of asking."""
    rows = section.search
    groups = [group for group in compared(rows) if len(group) > 1]
    told = [part for part in varying([group[0] for group in groups], COMPARED) if part in COMPARED]
    found = []
    for group in groups:
        context = " · ".join(part.prefix + part.of(group[0]) for part in told if part.of(group[0]))
        parts = [INDEX, SEARCH, *(part for part in (STORE, BUILD, VECTORS, OTHER) if _needed(group, part))]
        for target in TARGETS:
            asked = f"recall@{group[0]['k']} ≥ {target:.2f}"
            good = [row for row in group if row["recall"] >= target]
            if not good:
                highest = max(group, key=lambda row: float(row["recall"]))
                words = f"none; the highest is {number('recall', highest['recall'])}"
                found.append(Best(context, asked, "", words, "", "", "", None))
                continue
            first = min(good, key=lambda row: float(row["search_latency_p50_s"]))
            alike = _overlapping(first, good, "search_latency_p50_s")
            told_alike = "not known" if alike is None else _list([label(row, parts) for row in alike], most=2)
            found.append(
                Best(
                    context,
                    asked,
                    label(first, parts),
                    _figure(first, "recall"),
                    _figure(first, "search_latency_p50_s"),
                    _figure(first, "qps") if first["qps"] is not None else NULL,
                    told_alike,
                    first,
                )
            )
    return found


MOSTLY = 0.5
"""The share of a latency from which what the index cannot change is said to dominate it."""


def _attribution(rows: Sequence[Row]) -> list[str]:
    """Tell of each store how much of its latencies no choice of index can change."""
    sentences = []
    for store in dict.fromkeys(row["store"] for row in rows):
        known = [
            row
            for row in rows
            if row["store"] == store
            and row["concurrency"] == 1
            and row["selectivity"] is None
            and row["churn_per_s"] is None
            and row["vector_type"] in (None, "fp32")
            and row["floor_p50_s"]
            and row["search_latency_p50_s"]
        ]
        if not known:
            continue
        slowest = max(known, key=lambda row: float(row["search_latency_p50_s"]))
        floor, whole = float(slowest["floor_p50_s"]), float(slowest["search_latency_p50_s"])
        if MOSTLY * whole <= floor <= whole:
            part, most = number("floor_p50_s", floor), _figure(slowest, "search_latency_p50_s")
            words = f"On {store}, {part} of the {most} of even the slowest operating point are not the index"
            sentences.append(f"{words}: a search among as many rows in two dimensions takes as long.")
            continue
        shares = sorted(float(row["floor_p50_s"]) / float(row["search_latency_p50_s"]) for row in known)
        between = share(shares[0]) if share(shares[0]) == share(shares[-1]) else f"{share(shares[0])} to {share(shares[-1])}"
        if shares[-1] < MOSTLY:
            words = f"On {store}, the index dominates the median latencies: a search among as many rows in two dimensions"
            sentences.append(f"{words} takes {between} of them.")
        elif shares[-1] <= 1:
            sentences.append(f"On {store}, the floor, which no choice of index can lower, is {between} of the median latencies.")
    return sentences


@dataclass(frozen=True)
class Unmeasured:
    """A figure that some rows do not have, and why."""

    figure: str
    reason: str
    rows: int


def unmeasured(rows: Sequence[Row]) -> list[Unmeasured]:
    """Return what could not be measured and why, what most rows miss first."""
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["status"] == "ok":
            for name, reason in by_name(row["reasons"]).items():
                if name in SHOWN and row[name] is None:
                    shown = SHOWN[name]
                    found[f"{shown.group}: {shown.title}", reason] += 1
    return [Unmeasured(figure, reason, n) for (figure, reason), n in found.most_common()]


def _needed(rows: Sequence[Row], part: Part) -> bool:
    """Whether an index's name alone leaves open which row is meant."""
    return len({(row["index"], part.of(row)) for row in rows}) > len({row["index"] for row in rows})


def _on(rows: Sequence[Row], machine: str | None) -> str:
    return f" on machine {str(machine)[:8]}" if MACHINE in varying(rows, (MACHINE,)) else ""


def _figure(row: Row, name: str) -> str:
    words = f"{number(name, row[name])} {SHOWN[name].unit}".strip()
    between = interval(name, row[name], row[f"{name}_lo"], row[f"{name}_hi"])
    return f"{words} {between}{WITHIN if is_within(row, name) else ''}".strip()


def _overlapping(best: Row, rows: Sequence[Row], name: str) -> list[Row] | None:
    """Return the other rows whose interval of a figure overlaps with the best one's; None where an interval is missing."""
    others = [row for row in rows if row is not best]
    if any(row[f"{name}_lo"] is None or row[f"{name}_hi"] is None for row in (best, *others)):
        return None if others else []
    return [row for row in others if row[f"{name}_lo"] <= best[f"{name}_hi"] and best[f"{name}_lo"] <= row[f"{name}_hi"]]


def _alike(best: Row, rows: Sequence[Row], name: str, parts: Sequence[Part]) -> str:
    """Return which rows' intervals overlap with the best one's, as the end of a sentence."""
    alike = _overlapping(best, rows, name)
    if alike is None:
        return "; without intervals for all of them, the difference may be chance"
    if not alike:
        return ""
    return f"; the interval overlaps with {_list([label(row, parts) for row in alike], most=3)}, so these cannot be told apart"


def _list(words: Sequence[str], *, most: int = 10) -> str:
    """Return words joined by commas and an *and*; of a long list only the first `most`."""
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
