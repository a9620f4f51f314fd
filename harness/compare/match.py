"""Which row of one side belongs to which of the other, and what stands in the way of comparing the two.

Rows are matched on settings. What was measured under other circumstances is still matched, so that a reader learns why it is not compared:
other data, other weights, another machine, a metric that is computed in another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.compare.rows import Stored, named

_FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "index": ("search_params",),
}
"""What goes with a whole group that two sides differ in on purpose: another index has another knob."""

_WEIGHTS = frozenset({"model", *(f"model.{name}" for name in ("weights", "source", "revision", "package", "path", "seed"))})
"""Settings that say which weights are meant: where two sides differ in one on purpose, their weights may."""

_DEFINED_IN: Mapping[str, tuple[str, ...]] = {
    "recall": ("harness.metrics.recall", "harness.metrics.similarity"),
    "ndcg_at_10": ("harness.metrics.labels",),
    "ndcg_at_10_exact": ("harness.metrics.labels",),
}
"""Sources that say what a score is; every other figure is defined by the clock."""

_CLOCK = ("harness.timing",)

NOT_OF_THE_MACHINE = frozenset({"recall", "ndcg_at_10", "ndcg_at_10_exact", "index_bytes"})
"""Figures that are the same on every machine."""

_DEFINED_BY_NO_SOURCE = frozenset({"index_bytes", "peak_rss_bytes", "device_peak_bytes", "server_rss_bytes"})


@dataclass(frozen=True)
class Pair:
    """The same row on both sides."""

    base: Stored
    head: Stored
    varied: frozenset[str]
    """Settings in which the two differ on purpose."""
    obstacle: str = ""
    """Why nothing of the pair may be compared; empty where it may."""


@dataclass(frozen=True)
class Lone:
    """A row that the other side does not have."""

    row: Stored
    why: str


@dataclass(frozen=True)
class Matched:
    """Two sides set against each other."""

    pairs: tuple[Pair, ...]
    only_base: tuple[Lone, ...]
    only_head: tuple[Lone, ...]


def match(base: Iterable[Stored], head: Iterable[Stored], *, varied: Iterable[str] = ()) -> Matched:
    """Match the rows of two sides.

    Parameters
    ----------
    base, head : iterable of Stored
        The rows.
    varied : iterable of str
        Settings in which the sides differ on purpose, such as ``store`` or ``ef``: they need not be equal, all others have to be. Who names
        a whole group (``index``, ``model``) frees all that is set in it, and with an index its knob. A build that both sides search is
        then none of the rows.
    """
    base, head = list(base), list(head)
    freed = _freed([*base, *head], varied)
    if freed:
        both = {id(row) for row in base if row.part == "build"} & {id(row) for row in head}
        base, head = ([row for row in rows if id(row) not in both] for rows in (base, head))
    there = _by_identity(base, freed)
    pairs: list[Pair] = []
    only_base: list[Lone] = []
    only_head: list[Lone] = []
    for key, heads in _by_identity(head, freed).items():
        bases = there.pop(key, [])
        if freed and len(bases) * len(heads) > 1:
            why = f"{len(bases)} rows of the base and {len(heads)} of the head would fit each other; name one of each, as with ef=64"
            only_base += [Lone(row, why) for row in bases]
            only_head += [Lone(row, why) for row in heads]
            continue
        for row in heads:
            same = [other for other in bases if _circumstances(other) == _circumstances(row)] or bases
            same = [other for other in same if other.record.settings == row.record.settings] or same
            if same:
                other = same[-1]
                bases.remove(other)
                pairs.append(Pair(other, row, freed, obstacle(other, row, freed)))
            else:
                only_head.append(Lone(row, ""))
        only_base += [Lone(row, "") for row in bases]
    only_base += [Lone(row, "") for rows in there.values() for row in rows]
    return Matched(tuple(pairs), _nearest(only_base, only_head), _nearest(only_head, only_base))


def obstacle(base: Stored, head: Stored, varied: Iterable[str] = ()) -> str:
    """Return why two rows may not be compared at all; empty where they may."""
    found = []
    for side, one in (("base", base), ("head", head)):
        if one.record.status != "ok":
            found.append(f"{side} is {one.record.status}: {one.record.error or 'no reason was recorded'}")
    if found:
        return "; ".join(found)
    if base.record.data.get("fingerprint") != head.record.data.get("fingerprint"):
        found.append(_differ("other data", base.record.data.get("fingerprint"), head.record.data.get("fingerprint")))
    weights = [(one.record.model.get("weights"), one.record.model.get("weights_fingerprint")) for one in (base, head)]
    if _WEIGHTS.isdisjoint(varied) and weights[0] != weights[1]:
        found.append(_differ("other weights", *(f"{kind} {str(mark or '')[:12]}".strip() for kind, mark in weights)))
    if base.part != "embed" and any(one.record.model.get("weights") == "random" for one in (base, head)):
        found.append("vectors of random weights: searching them says nothing about real ones")
    return "; ".join(found)


def other_machine(base: Stored, head: Stored, varied: Iterable[str] = ()) -> str:
    """Return in what the two rows' machines differ; empty where they are the same."""
    ignored = {"device", "device_name"} if "device" in set(varied) else set()
    names = sorted((base.machine.keys() | head.machine.keys()) - ignored)
    differing = [name for name in names if base.machine.get(name) != head.machine.get(name)]
    if not differing:
        return ""
    return "other machine: " + ", ".join(f"{name} {base.machine.get(name)} / {head.machine.get(name)}" for name in differing)


def other_definition(figure: str, base: Stored, head: Stored) -> str:
    """Return which source that defines a figure differs between two rows; empty where none does."""
    if figure in _DEFINED_BY_NO_SOURCE:
        return ""
    sources = [one.record.environment.get("source") or {} for one in (base, head)]
    modules = _DEFINED_IN.get(figure, _CLOCK)
    differing = [name for name in modules if sources[0].get(name) != sources[1].get(name)]
    if not differing:
        return ""
    return f"another definition of the metric: {', '.join(differing)} differs; measure both sides with one version of the harness"


def _freed(rows: Sequence[Stored], varied: Iterable[str]) -> frozenset[str]:
    """Return the settings that need not be equal: those named, ``index.M`` for ``M``, and of a group that is named itself everything."""
    keys = dict.fromkeys(key for row in rows for key in row.identity)
    freed = {key for name in varied for key in named(keys, name)}
    groups = {key for key in freed if "." not in key}
    groups |= {follower for group in groups for follower in _FOLLOWS.get(group, ())}
    return frozenset(freed | {key for key in keys if key.partition(".")[0] in groups})


def _by_identity(rows: Iterable[Stored], without: frozenset[str]) -> dict[tuple[Any, ...], list[Stored]]:
    found: dict[tuple[Any, ...], list[Stored]] = {}
    for row in rows:
        key = tuple(sorted((name, repr(value)) for name, value in row.identity.items() if name not in without))
        found.setdefault(key, []).append(row)
    return found


def _circumstances(row: Stored) -> tuple[Any, ...]:
    record = row.record
    machine = sorted((name, repr(value)) for name, value in row.machine.items())
    return record.data.get("fingerprint"), record.model.get("weights_fingerprint"), machine


_MOST_LOOKED_AT = 400
"""Rows without a partner for which the nearest row of the other side is looked for."""


def _nearest(rows: Sequence[Lone], others: Sequence[Lone]) -> tuple[Lone, ...]:
    """Say of rows without a partner in what the nearest one on the other side differs."""
    if len(rows) > _MOST_LOOKED_AT or len(others) > _MOST_LOOKED_AT:
        return tuple(rows)
    return tuple(Lone(one.row, one.why or _difference(one.row, [other.row for other in others])) for one in rows)


def _difference(row: Stored, others: Sequence[Stored]) -> str:
    candidates = [_differing(row, other) for other in others if other.part == row.part]
    if not candidates:
        return "the other side has nothing of the kind"
    fewest = min(candidates, key=len)
    if len(fewest) > 3:
        return "the other side has nothing like it"
    return "the nearest row of the other side has " + ", ".join(f"{name}={value}" for name, value in fewest)


def _differing(row: Stored, other: Stored) -> list[tuple[str, Any]]:
    names = sorted(row.identity.keys() | other.identity.keys())
    return [(name, other.identity.get(name)) for name in names if row.identity.get(name) != other.identity.get(name)]


def _differ(what: str, one: Any, other: Any) -> str:
    return f"{what}: {str(one)[:24]} / {str(other)[:24]}"
