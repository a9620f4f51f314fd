"""Where the numbers come from: machine, versions, models and data, and in what the records differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Record
from harness.report.units import NULL, count

VARIES_BY_NATURE = frozenset({"other_work", "memory_available_bytes", "fingerprint", "ready", "floor_index", "tuned"})
"""What differs from moment to moment on one machine, from one index to the next in one store, or only repeats other facts."""


@dataclass(frozen=True)
class Differing:
    """One fact in which records differ."""

    name: str
    values: tuple[tuple[str, int], ...]
    """Each value and how many cells were measured under it."""
    keys: tuple[tuple[str, ...], ...]
    """The keys of those cells, for each value."""


@dataclass(frozen=True)
class Environment:
    """What the records' environments have in common, by heading, and in what they differ."""

    common: Mapping[str, tuple[tuple[str, str], ...]]
    differing: tuple[Differing, ...]


def environment(records: Sequence[Record]) -> Environment:
    """Return what is known about where some records were measured.

    A fact that only some records state is not a difference: an embed cell and a search cell use different libraries.
    """
    alike: dict[tuple[str, Any, str], tuple[Any, list[str]]] = {}  # thousands of records have the same few environments
    for record in records:
        for heading, value in record.environment.items():
            if heading not in VARIES_BY_NATURE:
                alike.setdefault((heading, record.labels.get("store"), repr(value)), (value, []))[1].append(record.key)
    seen: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (heading, store, _), (value, keys) in alike.items():
        for under, name, text in _flat(heading, value, store):
            seen.setdefault((under, name), {}).setdefault(text, []).extend(keys)
    common: dict[str, list[tuple[str, str]]] = {}
    for (heading, name), values in seen.items():
        if len(values) == 1:
            common.setdefault(heading, []).append((name, next(iter(values))))
    differing = []
    for (heading, name), values in seen.items():
        if len(values) > 1:
            by_count = sorted(values.items(), key=lambda one: -len(one[1]))
            told = tuple((value, len(keys)) for value, keys in by_count)
            differing.append(Differing(f"{heading}: {name}", told, tuple(tuple(keys) for _, keys in by_count)))
    return Environment({heading: tuple(sorted(facts)) for heading, facts in common.items()}, tuple(differing))


def _flat(heading: str, value: Any, store: Any) -> list[tuple[str, str, str]]:
    """Return (heading, name, value) of each fact under one heading of an environment; facts that stand alone are the program's.

    What goes with a setting is named after it, an engine's version after its store and a device's name after the device,
    so that a sweep over stores or devices is not mistaken for a change of conditions.
    """
    if not isinstance(value, Mapping):
        return [("program", heading, _text(value))]
    known = {name: part for name, part in value.items() if name not in VARIES_BY_NATURE}
    if heading == "machine" and "device" in known:
        known[f"device {known.pop('device')}"] = known.pop("device_name", None)
    if heading == "engine":
        known = {f"{store} {name}": part for name, part in known.items()}
    return [(heading, name, text) for name, text in _leaves(known)]


def _leaves(mapping: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    leaves = []
    for name, value in mapping.items():
        title = f"{before}{name}"
        leaves += _leaves(value, f"{title}, ") if isinstance(value, Mapping) else [(title, _text(value))]
    return leaves


def _text(value: Any) -> str:
    return NULL if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def machines(records: Sequence[Record]) -> list[str]:
    """Return each machine in a few words, with its accelerators, the most used first."""
    found: Counter[str] = Counter()
    accelerators: dict[str, dict[str, None]] = {}
    for record in records:
        machine = record.environment.get("machine")
        if isinstance(machine, Mapping):
            words = [str(machine.get("cpu") or "unknown processor")]
            words += [f"{machine['cores']} cores"] if machine.get("cores") else []
            words += [f"{machine['memory_gib']} GiB"] if machine.get("memory_gib") else []
            name = ", ".join(words)
            found[name] += 1
            if machine.get("device_name") and machine.get("device") != "cpu":
                accelerators.setdefault(name, {})[str(machine["device_name"])] = None
    return [", ".join([name, *accelerators.get(name, ())]) for name, _ in found.most_common()]


def models(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return each model that was measured, once for each of its weights."""
    found = []
    for record in records:
        model = record.model
        if record.status != "ok" or not model:
            continue
        parameters = model.get("parameters")
        found.append(
            {
                "model": str(record.labels.get("model") or NULL),
                "weights": "random weights" if model.get("weights") == "random" else _text(model.get("weights")),
                "source": _text(model.get("source")),
                "revision": _text(model.get("revision")),
                "dtype": _text(model.get("dtype")) + (f", by {model['runtime']}" if model.get("runtime") else ""),
                "parameters": count(parameters) if isinstance(parameters, int) else NULL,
                "weights fingerprint": _text(model.get("weights_fingerprint")),
                "note": str(model.get("note") or ""),
            }
        )
    return _distinct(found)


def datasets(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return each dataset that was measured on, once for each of its contents."""
    found = []
    for record in records:
        data = record.data
        if record.status != "ok" or not data:
            continue
        sizes = {name: count(data[name]) if isinstance(data.get(name), int) else NULL for name in ("corpus", "queries")}
        found.append(
            {
                "dataset": str(record.labels.get("dataset") or data.get("name") or NULL),
                "modality": _text(data.get("modality")),
                **sizes,
                "data fingerprint": _text(data.get("fingerprint")),
                "about": ", ".join(
                    f"{name.removeprefix('about_')}: {_text(data[name])}".replace("_", " ") for name in data if name.startswith("about_")
                ),
            }
        )
    return _distinct(found)


def _distinct(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows once each, without the columns in which none says anything."""
    told = {name for row in rows for name, value in row.items() if value}
    return list({tuple(row.items()): {name: value for name, value in row.items() if name in told} for row in rows}.values())
