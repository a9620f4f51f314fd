"""One side of a comparison: the rows that are stored below a folder of results, each with what it is and what it rests on.

A row is an embed cell, the build of a search cell, or one operating point of it. Records are append-only, so a side may also be one folder
up to a time or since one; measured again, a cell's newer records add processes to the same row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, SettingsError
from harness.frame import to_frame
from harness.records import Measured, Point, Record, current, samples, scan
from harness.report.rows import (
    BATCH,
    BUILD,
    CHURN,
    CONCURRENCY,
    DEVICE,
    DTYPE,
    FILTER,
    INDEX,
    METRIC,
    MODEL,
    NQ,
    P99_TARGET,
    RATE,
    SEARCH,
    STORE,
    TARGET,
    VECTORS,
    K,
    Row,
    label,
    plain,
)

log = logging.getLogger(__name__)

PartOf = Literal["embed", "build", "point"]

_NAMED = {
    "embed": (MODEL, DEVICE, DTYPE, BATCH),
    "build": (MODEL, STORE, INDEX, BUILD, VECTORS, METRIC, DTYPE),
    "point": (MODEL, STORE, INDEX, BUILD, VECTORS, METRIC, DTYPE, SEARCH, TARGET, K, FILTER, CONCURRENCY, RATE, P99_TARGET, NQ, CHURN),
}
"""What a row is called by, always in full: a series over weeks hangs on the name."""

_CIRCUMSTANCES = frozenset({"weights", "data", "engine"})
"""Settings of the record that say under what circumstances a row was measured, not which row it is: whether these may differ is judged
apart, in words."""

_PROTOCOL = frozenset({"processes", "min_duration_s", "min_requests"})
"""How long and how often was measured: it widens or narrows intervals and moves nothing."""

_OF_POINTS = frozenset({"p99_target_s", "nq"})
"""Settings about operating points besides those that list several, of which each row is one."""


@dataclass(frozen=True)
class Stored:
    """One row of one side."""

    part: PartOf
    row: Row
    """The row of the frame, as reports have it."""
    record: Record
    """The newest record of the cell."""
    folder: Path
    repeats: tuple[Record, ...]
    """All records of the same key that have a result, oldest first: the cell measured several times."""
    point: Point | None = None
    number: int | None = None
    """Position of `point` in its record, by which its samples are stored."""
    apart: str = ""
    """What tells the row from others of its side that would bear the same name."""
    kept: dict[tuple[str, str, str], Mapping[str, NDArray[Any]]] = field(default_factory=dict, compare=False, repr=False)
    """Scores read so far, shared by the rows of a side."""

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What must be equal for two rows to be the same row, flat, names joined by dots."""
        about: dict[str, Any] = {"part": self.part, "corpus": self.row["corpus"], "queries": self.row["queries"]}
        about |= {name: self.record.labels.get(name) for name in ("model", "dataset", "device", "store", "index")}
        settings = {name: value for name, value in self.record.settings.items() if name not in _CIRCUMSTANCES | _PROTOCOL}
        if self.record.kind == "search":
            filtered = any(share is not None for share in settings.get("filter") or ())  # then every row is stored with its part
            settings = {name: value for name, value in settings.items() if name not in _OF_POINTS and not isinstance(value, list)}
            settings |= {"index": self._built(settings.get("index") or {}), "filtered": filtered}
        settings.setdefault("backend", "torch")  # records from before there was a choice
        about |= _flat(settings)
        if self.point is not None:
            about |= _flat({one.name: getattr(self.point, one.name) for one in fields(self.point) if one.name != "metrics"})
            about["p99_target_s"] = self.row["p99_target_s"]
        return {name: value for name, value in about.items() if value is not None}

    def _built(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of an index without its knob, a list of values of which each is an operating point: no build hangs on it."""
        built = self.record.labels.get("build_params") or {}
        return {name: value for name, value in index.items() if not isinstance(value, list) or name in built}

    @property
    def name(self) -> str:
        """What the row is called."""
        return " · ".join(part for part in (label(self.row, _NAMED[self.part]), self.row["dataset"] or "no dataset", self.apart) if part)

    @property
    def measured(self) -> Mapping[str, Measured]:
        """The figures of this row and of nothing else: an operating point's own, or a cell's own."""
        return self.record.metrics if self.point is None else self.point.metrics

    @cached_property
    def machine(self) -> Mapping[str, Any]:
        """What the machine is, flat."""
        return _flat(self.record.environment.get("machine") or {})

    @property
    def processes(self) -> int:
        """How many processes measured the cell, all times together."""
        return sum(int(record.settings.get("processes", 0)) for record in self.repeats)

    def scores(self, figure: str) -> Mapping[str, NDArray[Any]]:
        """Return one score a query of every operating point, of the newest repeat; read once for all rows of the cell."""
        if not self.repeats:
            return {}
        newest = self.repeats[-1]
        name = (newest.key, newest.started_at, figure)
        if name not in self.kept:
            self.kept[name] = samples(newest, self.folder, beginning=(figure,))
        return self.kept[name]

    def raw(self, beginning: str) -> list[Mapping[str, NDArray[Any]]]:
        """Return the raw samples of each repeat whose names begin in one way; an archive holds those of all operating points."""
        return [samples(record, self.folder, beginning=(beginning,)) for record in self.repeats]


@dataclass(frozen=True)
class Side:
    """All rows of one side."""

    label: str
    rows: tuple[Stored, ...]
    records: tuple[Record, ...]
    """The records that a reader is shown, the newest of each cell."""
    left_out: tuple[str, ...]
    """Files that hold no record that this version reads, a sentence each."""


def read_side(folder: Path, *, until: datetime | None = None, since: datetime | None = None) -> Side:
    """Return what a folder of results holds.

    Parameters
    ----------
    folder : Path
        Such as ``results/default``.
    until, since : datetime, optional
        Only what was started before, or at or after, this time.

    Raises
    ------
    harness.errors.DataError
        When nothing is there.
    """
    found, broken = scan(folder)
    found = [one for one in found if (until is None or _time(one) < until) and (since is None or _time(one) >= since)]
    when = "".join((f" before {until:%Y-%m-%d %H:%M:%S}" if until else "", f" since {since:%Y-%m-%d %H:%M:%S}" if since else ""))
    left_out = tuple(f"{path.name}: {reason}" for path, reason in broken)
    if not found:
        said = f"; {len(left_out)} files could not be read, the first is {left_out[0]}" if left_out else ""
        raise DataError(f"{folder} holds no records{when and f' started{when} (UTC)'}{said}; measure with `python -m harness name=…` first")
    everything = current(found)
    shown = [one for one in everything if one.kind in ("embed", "search")]
    if others := len(everything) - len(shown):
        left_out = (*left_out, f"{others} record{'s' * (others > 1)} of scaling or of choose --verify: not compared")
    repeats: dict[str, list[Record]] = {}
    for record in found:
        if record.status == "ok":
            repeats.setdefault(record.key, []).append(record)
    rows = _told_apart(_rows(shown, folder, {key: tuple(records) for key, records in repeats.items()}))
    return Side(f"{folder}{when}", tuple(rows), tuple(shown), left_out)


def time_of(words: str, key: str) -> datetime:
    """Return a time given on the command line, UTC unless it says otherwise.

    Raises
    ------
    harness.errors.SettingsError
        When it is no time.
    """
    try:
        found = datetime.fromisoformat(words)
    except ValueError as error:
        raise SettingsError(f"{key} must be a time such as 2026-11-02T10:30, got {words!r}") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _time(record: Record) -> datetime:
    return datetime.fromisoformat(record.started_at)


def _rows(records: Sequence[Record], folder: Path, repeats: Mapping[str, tuple[Record, ...]]) -> list[Stored]:
    """Return a row for each embed cell, for each search cell's build and for each of its operating points, in the frame's order."""
    parts: dict[str, tuple[Record, PartOf, int | None]] = {}
    for record in records:
        parts[f"{record.key} "] = (record, "embed" if record.kind == "embed" else "build", None)
        parts |= {f"{record.key} {number}": (record, "point", number) for number in range(len(record.points))}
    alone = [
        replace(record, key=key, points=() if number is None else (record.points[number],)) for key, (record, _, number) in parts.items()
    ]
    found = []
    kept: dict[tuple[str, str, str], Mapping[str, NDArray[Any]]] = {}
    for row in plain(to_frame(alone)):
        record, part, number = parts[row["key"]]
        row["key"] = record.key
        point = None if number is None else record.points[number]
        found.append(Stored(part, row, record, folder, repeats.get(record.key, ()), point, number, kept=kept))
    return found


def _told_apart(rows: Sequence[Stored]) -> list[Stored]:
    """Return the rows, those with one name told apart by the settings in which they differ."""
    alike: dict[tuple[str, str], list[Stored]] = {}
    for row in rows:
        alike.setdefault((row.part, row.name), []).append(row)
    found = []
    for row in rows:
        others = alike[row.part, row.name]
        known = sorted({name for other in others for name in other.identity})
        names = [name for name in known if len({repr(other.identity.get(name)) for other in others}) > 1]
        apart = " ".join(f"{name}={row.identity.get(name)}" for name in names)
        found.append(replace(row, apart=apart) if apart else row)
    return found


def _flat(mapping: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{before}{name}.")
        else:
            leaves[f"{before}{name}"] = json.dumps(value, sort_keys=True) if isinstance(value, list | tuple) else value
    return leaves


def arrays(stored: Stored, name: str) -> list[NDArray[np.float64]]:
    """Return the arrays called ``<name>_0``, ``<name>_1`` … of every repeat: one a process."""
    found = []
    for raw in stored.raw(f"{name}_"):
        number = 0
        while f"{name}_{number}" in raw:
            found.append(np.asarray(raw[f"{name}_{number}"], dtype=np.float64))
            number += 1
    return found


def chosen(rows: Iterable[Stored], conditions: Mapping[str, str]) -> list[Stored]:
    """Return the rows that meet all conditions, such as ``{"store": "faiss", "ef": "64"}``; a build has no ``ef`` and needs none.

    Raises
    ------
    harness.errors.SettingsError
        When no row has a setting of that name.
    """
    rows = list(rows)
    known = sorted({key for row in rows for key in row.identity})
    unknown = [name for name in conditions if not any(named(dict.fromkeys(known), name))]
    if unknown and rows:
        raise SettingsError([f"no row has a setting {name}; there are {', '.join(known)}" for name in unknown])
    of_builds = {name for name in conditions if any(named(row.identity, name) for row in rows if row.part != "point")}
    return [
        row
        for row in rows
        if all(_meets(row, name, value) or (row.part == "build" and name not in of_builds) for name, value in conditions.items())
    ]


def named(identity: Mapping[str, Any], name: str) -> list[str]:
    """Return the parts of an identity that a short name means: itself, or what ends in it after a dot."""
    return [key for key in identity if key == name or key.endswith(f".{name}")]


def _meets(stored: Stored, name: str, value: str) -> bool:
    return any(_same(stored.identity[key], value) for key in named(stored.identity, name))


def _same(value: Any, words: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == words.lower()
    try:
        return float(value) == float(words)
    except (TypeError, ValueError):
        return str(value) == words
