"""Which configurations there are to choose from: an embed cell with an operating point of a search cell on the vectors that it makes.

The two belong together where everything that decides about the vectors is equal (the model's settings, its weights, precision, attention,
the data) and both were measured on one machine with as many threads. What may not compete is left out and named, with the reason: vectors
of random weights, cells without a result, requests that were not kept up with, other work (filters, several queries a request).
One choice is of one dataset, one machine and one k; another choice is another question.

Embed cells that differ in their batch size alone measure the same single queries. They share the samples of the latest of them, so that a
batch size is chosen for what it does to documents and memory, and not for the luck of its queries.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.choose import path
from harness.errors import DataError
from harness.fingerprint import digest
from harness.records import Measured, Point, Record, current, read_all, samples
from harness.search_summary import overloaded

MADE_FROM = ("model", "backend", "dtype", "attention", "compile", "weights", "data")
"""The settings that embed and search cells share, see `harness.cells`: what the vectors are made from, and how."""
NOT_THE_MACHINE = ("device", "device_name")
"""Parts of a record's machine that a search cell does not have."""
PERCENTILES = {"latency_p50_s": 0.5, "latency_p95_s": 0.95, "latency_p99_s": 0.99}
SCORES = ("recall", "ndcg_at_10")
"""Figures that replicate over queries."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One configuration: how queries and documents are embedded, and how they are searched."""

    embed: Record | None
    """None where the vectors were given."""
    search: Record
    number: int
    """Of the operating point in the search cell."""
    figures: Mapping[str, Measured]
    """``recall``, ``ndcg_at_10``, ``latency_p50_s`` … (end to end), ``throughput_per_s``, ``memory_bytes``, ``pipeline_per_s``, costs."""
    pairs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of figures over processes, each pair of processes' own value, in their order."""
    scores: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Of figures over queries, each query's own score, where they are kept."""
    name: str = ""
    """What tells it from the others."""

    @property
    def point(self) -> Point:
        """The operating point."""
        return self.search.points[self.number]

    @property
    def key(self) -> str:
        """Names it in files: the cells' keys and the operating point's number."""
        return f"{self.embed.key if self.embed else 'given'}+{self.search.key}.{self.number}"

    @property
    def serving(self) -> tuple[Any, ...]:
        """What decides about queries: all but the batch size, in which documents alone are embedded."""
        return (self.search.key, self.number, _serving(self.embed) if self.embed else None)

    @property
    def queries(self) -> tuple[Any, ...]:
        """What must be equal for two candidates' scores to be of the same queries in the same order."""
        tuned = bool(self.search.settings.get("target_recall"))
        seed = self.search.settings.get("seed") if tuned else None
        return (self.search.data.get("fingerprint"), tuned, seed, self.point.k)


@dataclass(frozen=True)
class Field:
    """What there is to choose from."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]
    """(which, why), each once."""
    about: str
    """Data and machine, in words."""
    dataset: str
    corpus: int


def gather(folder: Path, *, dataset: str | None = None, machine: str | None = None, k: int | None = None) -> Field:
    """Return the candidates of a folder of results.

    Parameters
    ----------
    dataset : str or None
        Which dataset, by its name, ``name/documents``, or the beginning of its fingerprint, where there are several.
    machine : str or None
        Which machine, by the beginning of its fingerprint, where there are several.
    k : int or None
        Neighbours a search, where there are several.

    Raises
    ------
    harness.errors.DataError
        When nothing may be chosen from, or it has to be said among which the choice is.
    """
    records = current(read_all(folder))
    if not records:
        raise DataError(f"{folder} holds no records; measure something first with `python -m harness`")
    left_out: dict[tuple[str, str], None] = {}
    embeds, searches = _fit(records, left_out)
    searches = _of_one(searches, "--dataset", dataset, _dataset_names)
    searches = _of_one(searches, "--machine", machine, lambda record: [hardware(record)])
    points = _points(searches, left_out)
    every_k = sorted({record.points[number].k for record, number in points})
    if k is None and len(every_k) > 1:
        raise DataError(f"operating points were measured at k = {', '.join(map(str, every_k))}; choose among one of them with --k")
    if every_k and k not in (None, *every_k):
        raise DataError(f"no operating point was measured at --k={k}; there are those at k = {', '.join(map(str, every_k))}")
    points = [(record, number) for record, number in points if k in (None, record.points[number].k)]
    found = list(_paired(embeds, points, folder, left_out))
    if not found:
        why = [f"{what}: {reason}" for what, reason in left_out]
        if not any(record.kind == "search" for record in records):
            why.append("no search cell was measured, and a choice is of a model and an index")
        raise DataError(f"{folder} holds nothing to choose from: {'; '.join(dict.fromkeys(why))}")
    first = found[0].search
    about = (
        f"{first.labels.get('dataset')}: {first.data.get('corpus'):,} documents, {first.data.get('queries'):,} queries, "
        f"k={found[0].point.k}; machine {hardware(first)} ({(first.environment.get('machine') or {}).get('cpu', 'unknown')})"
    )
    return Field(tuple(_named(found)), tuple(left_out), about, str(first.labels.get("dataset")), int(first.data.get("corpus") or 0))


def hardware(record: Record) -> str:
    """Return a short fingerprint of the machine, whatever device and however many threads of it were used."""
    parts = record.environment.get("machine")
    about = {n: v for n, v in parts.items() if n not in (*NOT_THE_MACHINE, "threads")} if isinstance(parts, Mapping) else {}
    return digest(about)[:12]


def _where(record: Record) -> str:
    parts = record.environment.get("machine")
    return digest({n: v for n, v in parts.items() if n not in NOT_THE_MACHINE} if isinstance(parts, Mapping) else {})


def _made_from(record: Record) -> str:
    return digest({name: record.settings.get(name) for name in MADE_FROM})


def _agree(embed: Record, search: Record) -> bool:
    """Whether two cells ran with the same versions of the libraries that both name, and so on the same vectors."""
    mine, theirs = (record.environment.get("versions") or {} for record in (embed, search))
    return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())


def _serving(embed: Record) -> str:
    """Return what decides about how an embed cell's queries are embedded: all but its batch size."""
    settings = {name: value for name, value in embed.settings.items() if name not in ("batch_size", "embed_items")}
    return digest(json.loads(json.dumps([embed.labels, settings, _where(embed)], default=str)))


def _fit(records: Sequence[Record], left_out: dict[tuple[str, str], None]) -> tuple[list[Record], list[Record]]:
    """Return the embed and search cells that may compete."""
    embeds: list[Record] = []
    searches: list[Record] = []
    for record in records:
        what = cell_name(record)
        if record.kind not in ("embed", "search"):
            continue
        if record.status != "ok":
            left_out[what, f"{record.status}: {record.error}"] = None
        elif record.model.get("weights") == "random":
            left_out[what, "random weights: vectors that mean nothing, so that it never competes"] = None
        elif record.model.get("weights") == "served":
            left_out[
                what, "a model behind an endpoint: its speed is no machine's here, so that it is not ranked beside those that run on one"
            ] = None
        elif any(code == "implausible" for code, _ in record.caveats):
            left_out[what, next(text for code, text in record.caveats if code == "implausible")] = None
        else:
            (embeds if record.kind == "embed" else searches).append(record)
    return embeds, searches


def _dataset_names(record: Record) -> list[str]:
    name = str(record.labels.get("dataset"))
    sized, whole = f"{name}/{record.data.get('corpus')}", str(record.data.get("fingerprint"))
    return [f"{sized}/{whole[:8]}", sized, name, whole]


def _of_one(records: list[Record], option: str, asked: str | None, names: Callable[[Record], Sequence[str]]) -> list[Record]:
    """Return the records of the one dataset or machine that was asked for, or that there is."""
    if not records:  # for a reason that is told later
        return []
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(names(record)[0], []).append(record)
    fitting = [first for first, group in by_name.items() if asked is None or any(one.startswith(asked) for one in names(group[0]))]
    if asked is not None and len(fitting) > 1:  # a whole name goes before the beginning of another
        fitting = [first for first in fitting if asked in names(by_name[first][0])] or fitting
    if len(fitting) == 1:
        return by_name[fitting[0]]
    there = ", ".join(sorted(by_name))
    said = f"{option}={asked} is {'none' if not fitting else 'more than one'} of them" if asked is not None else f"say which with {option}"
    raise DataError(f"a choice is made among the results of one {option.removeprefix('--')}, and there are {there}; {said}")


def _points(searches: Sequence[Record], left_out: dict[tuple[str, str], None]) -> list[tuple[Record, int]]:
    """Return the operating points that did the work that is chosen by: one query a request, among all rows, at a stated load."""
    found = []
    for record in searches:
        for number, point in enumerate(record.points):
            reason = None
            recall = point.metrics.get("recall")
            if recall is None or recall.value is None:
                reason = (recall.reason if recall else None) or "no recall was measured"
            elif point.selectivity is not None:
                reason = f"a filter lets {point.selectivity:g} of the rows through: another task than searching all of them"
            elif point.churn_per_s is not None:
                reason = f"{point.churn_per_s:g} rows a second changed meanwhile: another task than searching what stays as it is"
            elif point.nq != 1:
                reason = f"{point.nq} queries a request: what one query takes is not known"
            elif point.concurrency is None and point.rate_per_s is None:
                reason = "measured at the highest rate that meets a target, which is another one in each process"
            elif (lost := point.metrics.get("errors")) is not None and lost.value:
                reason = f"{lost.value:g} requests failed: they have no latency, so that its percentiles are of the others alone"
            elif overloaded(record.caveats, point):
                reason = f"did not keep up with {point.rate_per_s:g} requests/s: latencies grow with the length of the run"
            if reason is None:
                found.append((record, number))
            else:
                which = f"{parameters(point.search_params)} k={point.k}".strip()
                left_out[f"{cell_name(record)} {which}", reason] = None
    return found


def _paired(
    embeds: Sequence[Record], points: Sequence[tuple[Record, int]], folder: Path, left_out: dict[tuple[str, str], None]
) -> Iterator[Candidate]:
    kept: dict[str, Mapping[str, NDArray[Any]]] = {}

    def samples_of(record: Record) -> Mapping[str, NDArray[Any]]:
        if record.key not in kept:
            try:
                kept[record.key] = samples(record, folder)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                left_out[cell_name(record), f"its samples cannot be read ({error}); measure it again with fresh=true"] = None
                kept[record.key] = {}
        return kept[record.key]

    by_work: dict[tuple[str, str], list[Record]] = {}
    asked: dict[str, Record] = {}
    answers: dict[tuple[str, str, int], Answering] = {}
    for record in sorted(embeds, key=lambda record: record.started_at):
        by_work.setdefault((_made_from(record), _where(record)), []).append(record)
        asked[_serving(record)] = record
    used = set()
    for record, number in points:
        given = record.model.get("weights") == "given"
        partners: Sequence[Record | None] = (
            [None] if given else [embed for embed in by_work.get((_made_from(record), _where(record)), []) if _agree(embed, record)]
        )
        if not partners:
            left_out[
                cell_name(record),
                "no embed cell of the same model, weights, precision and data was measured on the same machine and threads",
            ] = None
        for embed in partners:
            used.add(embed.key if embed else None)
            source = asked[_serving(embed)] if embed else None
            about = (source.key if source else "", record.key, number)
            if about not in answers:
                answers[about] = answering(samples_of(source) if source else None, record, number, samples_of(record))
            yield candidate(embed, record, number, answers[about])
    datasets = {record.data.get("fingerprint") for record, _ in points}
    for record in embeds:
        if record.key not in used and record.data.get("fingerprint") in datasets:
            left_out[cell_name(record), "no search cell on its vectors was measured on the same machine and threads"] = None


@dataclass(frozen=True, eq=False)
class Answering:
    """How queries are answered by a model and an operating point; batch sizes share it."""

    figures: Mapping[str, Measured]
    pairs: Mapping[str, tuple[float, ...]]
    scores: Mapping[str, NDArray[Any]]


def answering(embed_samples: Mapping[str, Any] | None, search: Record, number: int, search_samples: Mapping[str, Any]) -> Answering:
    """Return what is known of answering queries, from the samples of both cells; None where the vectors were given."""
    point = search.points[number]
    asked = None if embed_samples is None else _by_process(embed_samples, "query_s_")
    searched = _by_process(search_samples, f"latency_s_{number}_")
    figures: dict[str, Measured] = {name: point.metrics[name] for name in SCORES if name in point.metrics}
    figures.setdefault("ndcg_at_10", Measured(None, "ratio", "higher", replication="query", reason="not measured"))
    pairs = {}
    for name, q in PERCENTILES.items():
        figures[name], pairs[name] = path.percentile(asked, searched, q)
    rates = [float(rate) for rate in search_samples.get(f"each_qps_{number}", ())]
    if point.rate_per_s is None:
        figures["throughput_per_s"], pairs["throughput_per_s"] = path.throughput(asked, rates)
    else:
        offered = "an open loop answers what is offered, not what could be borne"
        figures["throughput_per_s"], pairs["throughput_per_s"] = Measured(None, "1/s", "higher", reason=offered), ()
    scores = {name: search_samples[f"{name}_{number}"] for name in SCORES if f"{name}_{number}" in search_samples}
    return Answering(figures, pairs, scores)


def candidate(embed: Record | None, search: Record, number: int, answers: Answering) -> Candidate:
    """Return one configuration with its figures."""
    figures = {**answers.figures, "memory_bytes": _memory(embed, search)}
    if embed is not None and "pipeline_per_s" in embed.metrics:
        figures["pipeline_per_s"] = embed.metrics["pipeline_per_s"]
    return Candidate(embed, search, number, figures, answers.pairs, answers.scores)


def _by_process(arrays: Mapping[str, NDArray[Any]], prefix: str) -> list[NDArray[Any]]:
    """Return the samples of each process, in the processes' order."""
    numbers = sorted(int(rest) for name in arrays if name.startswith(prefix) and (rest := name.removeprefix(prefix)).isdigit())
    return [arrays[f"{prefix}{number}"] for number in numbers]


def _memory(embed: Record | None, search: Record) -> Measured:
    """Return the model's peak and the index's or the server's, added: as if they were two processes of one machine."""
    parts: list[tuple[str, Measured | None]] = [] if embed is None else [("the model's", embed.metrics.get("peak_rss_bytes"))]
    own, server = search.metrics.get("peak_rss_bytes"), search.metrics.get("server_rss_bytes")
    parts.append(("the index's", own if own is not None and own.value is not None else server))
    for whose, part in parts:
        if part is None or part.value is None:
            return Measured(None, "bytes", "lower", reason=f"{whose} is not known: {part.reason if part else 'not measured'}")
    total = sum(float(part.value) for _, part in parts if part is not None and part.value is not None)
    return Measured(total, "bytes", "lower", n=1, reason="measured once, no interval")


# --------------------------------------------------------------------------------------------- names


def parameters(params: Mapping[str, Any] | None) -> str:
    """Return parameters for reading: ``M=16 ef=64``."""
    return " ".join(f"{name}={value}" for name, value in (params or {}).items())


def cell_name(record: Record) -> str:
    """Return what a cell is called among those left out."""
    labels = record.labels
    if record.kind == "embed":
        return f"embed {labels.get('model')} on {labels.get('device')}, batch {record.settings.get('batch_size')}"
    return f"search {labels.get('store')}/{labels.get('index')} on {labels.get('model')} vectors"


def _load(candidate: Candidate) -> str:
    point = candidate.point
    if point.rate_per_s is not None:
        return f"{point.rate_per_s:g} requests/s"
    return "1 client" if point.concurrency == 1 else f"{point.concurrency} clients"


_ALWAYS: tuple[Callable[[Candidate], str], ...] = (
    lambda c: str(c.search.labels.get("model")) if c.embed else "given vectors",
    lambda c: str(c.search.labels.get("index")),
    lambda c: parameters(c.point.search_params),
)


def _build(candidate: Candidate) -> str:
    return parameters(candidate.search.labels.get("build_params"))


_PARTS: tuple[Callable[[Candidate], str], ...] = (
    _ALWAYS[0],
    lambda c: str(c.search.settings.get("dtype", "")),
    lambda c: str(c.search.settings["backend"]) if c.search.settings.get("backend", "torch") != "torch" else "",
    lambda c: str(c.embed.labels.get("device", "")) if c.embed else "",
    lambda c: f"batch {c.embed.settings.get('batch_size')}" if c.embed else "",
    _ALWAYS[1],
    _build,
    _ALWAYS[2],
    lambda c: str(c.search.labels.get("store", "")),
    lambda c: f"stored as {c.search.settings['vector_type']}" if c.search.settings.get("vector_type", "fp32") != "fp32" else "",
    lambda c: str(c.search.settings.get("metric", "")),
    _load,
    lambda c: f"tuned to recall {c.point.target_recall:g}" if c.point.target_recall is not None else "",
)


def _named(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Give each candidate a name made of what some of them differ in, and for those still alike of the settings that tell them apart."""
    shown = [part for part in _PARTS if part in _ALWAYS or len({part(one) for one in candidates}) > 1]
    builds = {(one.search.labels.get("index"), _build(one)) for one in candidates}
    if len(builds) == len({index for index, _ in builds}):  # an index's name says how it was built
        shown = [part for part in shown if part is not _build]
    names = [" · ".join(words for part in shown if (words := part(one))) for one in candidates]
    alike: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        alike.setdefault(name, []).append(i)
    for name, group in alike.items():
        if len(group) == 1:
            continue
        flat = [_flat(candidates[i]) for i in group]
        differing = [key for key in sorted(set().union(*flat)) if len({json.dumps(one.get(key), default=str) for one in flat}) > 1]
        for i, one in zip(group, flat, strict=True):
            names[i] = f"{name} · {' '.join(f'{key}={str(one.get(key))[:24]}' for key in differing) or candidates[i].key}"
    return [replace(one, name=name) for one, name in zip(candidates, names, strict=True)]


def _flat(candidate: Candidate) -> dict[str, Any]:
    """Return all settings of a candidate's two cells by dotted names."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            found[prefix] = value

    walk("", candidate.search.settings)
    walk("", candidate.embed.settings if candidate.embed else {})
    found["threads"] = (candidate.search.environment.get("machine") or {}).get("threads")
    return found
