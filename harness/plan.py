"""What a command line asks for, worked out before the first second of measuring.

Every job is composed and checked, its data laid out, its weights located, its cells named; what is already measured is
found by key. The time it will take is an estimate from arithmetic (the model's declared operations an item, this
machine's cores), or from the records of the same model and device where there are any.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from harness import cache, fingerprint, knee
from harness.cells import TRUTH_K, Cell, embed_cell, place_of, search_cell
from harness.churn_cell import LEAST_SEEN, rows_taken_out
from harness.data import open_data, prepare
from harness.errors import DataError, SettingsError, WeightsError
from harness.fingerprint import digest
from harness.interfaces import Data, Identified, Store, Weights
from harness.records import Record, newest, now, read_all, write_atomically
from harness.search_cell import parts_of
from harness.settings import Composer, Job, compose_job, composing, expand, with_sweep
from harness.truth import Cost, key_of

_GFLOP_PER_S_PER_CORE = 50.0
"""What fp32 inference of small transformers reaches on one core of a present server, for estimates only."""
_ACCELERATOR_GFLOP_PER_S = 10_000.0
_START_S = 12.0
"""Importing torch and its companions in the measuring processes, once."""
_SMALLEST_CORPUS = 200
"""Below this many documents a corpus says little about an index, so a budget does not go there."""


@dataclass(frozen=True)
class Planned:
    """One job with its cells."""

    job: Job
    curve: tuple[Cell, ...]
    """Its embed cell; for ``batch_size=auto`` those of all batch sizes up to the corpus, by rising batch size."""
    search: Cell
    documents: int
    queries: int

    @property
    def embed(self) -> Cell:
        """The embed cell, the first of a curve; where vectors are given, the search cell is all there is."""
        return self.curve[0] if self.curve else self.search

    @property
    def skip(self) -> Cell:
        """The cell under which it is recorded that this job cannot be done, with a key of its own: the measurable cell keeps its key."""
        cell = self.embed if self.job.cannot_embed else self.search
        return replace(cell, key=digest([cell.key, self.job.device, list(self.job.unsupported)])[:20])

    def cells(self, outcomes: Mapping[str, Record]) -> Iterator[Cell]:
        """Yield the cells to be measured: none where the store or the device cannot do what is asked.

        A curve of batch sizes ends where `outcomes`, by key, say so (see `harness.knee`); they are read as the cells are asked for, so that
        each may be measured before the next one is. Beyond a batch size without an outcome it cannot be told, and all are yielded.
        """
        if self.job.unsupported:
            return
        found: list[Record] | None = []
        for cell in self.curve:
            if found is not None and knee.ended(found):
                break
            yield cell
            outcome = outcomes.get(cell.key)
            found = None if found is None or outcome is None else [*found, outcome]
        yield self.search


@dataclass(frozen=True)
class Plan:
    """All jobs of a command line."""

    jobs: tuple[Planned, ...]
    known: Mapping[str, Record]
    """The newest record of each key in the folder; empty where everything is to be measured again."""
    estimates: dict[str, float]
    """Seconds by cell key, and by recipe for the vectors still to be made."""
    truths: Mapping[str, Mapping[str, float]]
    """The ground truth still to be made, by key of the search cells that need it: seconds by what tells it from others."""
    budget_note: str | None = None
    skips_on_record: frozenset[str] = frozenset()
    """Keys of combinations that are recorded as skipped already."""
    since: str = field(default_factory=now)
    """When the run began that this plan is of: what has been measured since then counts, whatever came of it. A run of many
    processes has one beginning."""
    corpus_share: float | None = None
    """The part of every corpus that fits the budget; None where no budget cuts any."""
    by_hydra: bool = False
    """Whether Hydra is to run the jobs, because a launcher, a sweeper or a setting of Hydra's is asked for."""

    def is_result(self, record: Record) -> bool:
        """Say whether a record answers what was asked: where a curve of batch sizes was asked for, its end by lack of memory does too."""
        return record.status == "ok" or (record.status == "oom" and record.key in self._ends)

    @cached_property
    def _ends(self) -> frozenset[str]:
        """Keys of the cells at which a curve of batch sizes may end."""
        return frozenset(cell.key for one in self.jobs if one.job.find_batch_size for cell in one.curve[1:])

    @cached_property
    def settled(self) -> Mapping[str, Record]:
        """The records that will be reused, by key, and those of this very run, which does not try twice."""
        return {key: record for key, record in self.known.items() if self.is_result(record) or record.started_at >= self.since}

    @cached_property
    def existing(self) -> frozenset[str]:
        """Keys of cells that are measured already and will be reused."""
        return frozenset(self.settled)

    def cells_given(self, outcomes: Mapping[str, Record]) -> list[Cell]:
        """Return every distinct cell that is needed, given what has come of some, in the order in which it will be measured."""
        found: dict[str, Cell] = {}
        for planned in self.jobs:
            for cell in planned.cells(outcomes):
                found.setdefault(cell.key, cell)
        return list(found.values())

    @cached_property
    def cells(self) -> list[Cell]:
        """Every distinct cell, in the order in which it will be measured; of a curve all that may be needed."""
        return self.cells_given(self.settled)

    @cached_property
    def missing(self) -> list[Cell]:
        """Cells still to be measured."""
        existing = self.existing
        return [cell for cell in self.cells if cell.key not in existing]

    @cached_property
    def skipped(self) -> list[Planned]:
        """Jobs that cannot be done here."""
        return [planned for planned in self.jobs if planned.job.unsupported]

    @property
    def seconds(self) -> float:
        """Estimated time for what is missing."""
        missing = self.missing
        if not missing:
            return 0.0
        recipes = {cell.recipe for cell in missing if cell.kind == "search"}
        made = sum(self.estimates[cell.key] for cell in missing) + sum(self.estimates.get(recipe, 0.0) for recipe in recipes)
        found = {name: seconds for cell in missing for name, seconds in self.truths.get(cell.key, {}).items()}
        return _START_S + made + sum(found.values())

    @property
    def folder(self) -> Path:
        """Where the records go; one run has one name."""
        return self.jobs[0].job.folder


def make_plan(arguments: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> Plan:
    """Return the plan for some command-line arguments.

    Raises
    ------
    harness.errors.SettingsError
        Listing every mistake of every job, each once.
    """
    since = now()
    wrong: dict[str, None] = {}
    jobs: list[Job] = []
    with composing(config_dirs):
        arguments, multirun = with_sweep(arguments, multirun=multirun, config_dirs=config_dirs)
        expanded = expand(arguments, multirun=multirun)
        composer = Composer(expanded, config_dirs=config_dirs)
        for overrides in expanded:
            try:
                jobs.append(composer.job(overrides))
            except SettingsError as error:
                wrong |= dict.fromkeys(error.violations)
    if not wrong and len({(job.results, job.name) for job in jobs}) > 1:
        wrong["name and results must be the same for all jobs of a sweep; a name holds any number of sweeps"] = None
    if not wrong and len(jobs) == 1:
        wrong |= dict.fromkeys(jobs[0].unsupported)
    if wrong:
        raise SettingsError(list(wrong))
    jobs, share, note = _within_budget(jobs)
    plan = _planned(jobs, alone=len(jobs) == 1, since=since, share=share, note=note)
    return replace(plan, by_hydra=composer.by_hydra)


def plan_job(overrides: Sequence[str], *, since: str, corpus_share: float | None, config_dirs: Sequence[str] = ()) -> Plan:
    """Return the plan for one job of a sweep that was planned in another process, perhaps on another machine.

    Parameters
    ----------
    overrides : sequence of str
        The job's own.
    since, corpus_share : str, float or None
        Of the sweep's plan, see `Plan`.
    config_dirs : sequence of str, optional
        A user's own configuration folders.

    Raises
    ------
    harness.errors.SettingsError
        Listing every mistake, as where this machine lacks what the other has.
    """
    with composing(config_dirs):
        job = compose_job(overrides, config_dirs=config_dirs)
    if corpus_share is not None:
        job = _with_corpus(job, _shrunk(job, corpus_share))
    return _planned([job], alone=False, since=since, share=corpus_share)


def _planned(jobs: Sequence[Job], *, alone: bool, since: str, share: float | None, note: str | None = None) -> Plan:
    """Return the plan for composed jobs; `alone` is a job outside any sweep, which is refused where another is skipped."""
    records = read_all(jobs[0].folder)
    speed = _speeds(records)
    known = {record.key: record for record in newest(records) if not jobs[0].fresh or record.started_at >= since}
    planned = []
    estimates: dict[str, float] = {}
    located: dict[str, Weights] = {}
    engines: dict[str, Any] = {}
    stores: dict[str, Store] = {}
    datasets: dict[str, tuple[Path, Data]] = {}
    refusals: dict[tuple[Any, ...], list[str]] = {}
    wrong: dict[str, None] = {}
    naming = _Naming()
    cells = _Cells(speed, estimates)
    with fingerprint.remembering():  # what the source and the libraries are does not change while a plan is made
        for job in jobs:
            node, contents, store = (naming(job.nodes[group]) for group in ("model", "dataset", "store"))
            try:
                if node not in located:
                    located[node] = job.model.locate()
                if contents not in datasets:
                    folder = prepare(job.dataset, job.nodes["dataset"])
                    datasets[contents] = folder, open_data(folder)
            except (WeightsError, DataError) as error:
                wrong[str(error)] = None
                continue
            folder, data = datasets[contents]
            if store not in engines:  # asked once, and what it then knows of its server holds for all with the same settings
                engines[store] = job.store.identity() if isinstance(job.store, Identified) else None
                stores[store] = job.store
            rows = len(data.corpus)
            if job.batch_size > rows:
                wrong[f"batch_size must be ≤ {_documents_of(job, rows)}, got {job.batch_size}"] = None
            embedded = node, contents, *map(job.choices.get, ("model", "dataset"))
            searched = *embedded, store, naming(job.nodes["index"]), *map(job.choices.get, ("store", "index")), _SEARCHED(job)
            if searched not in refusals:
                refusals[searched], mistakes = _refused(job, stores[store], located[node], rows, len(data.queries))
                wrong |= dict.fromkeys(mistakes)
            if refused := refusals[searched]:
                job = replace(job, unsupported=tuple(dict.fromkeys([*job.unsupported, *refused])))
                if alone:
                    wrong |= dict.fromkeys(refused)
            curve = []
            if job.dataset.modality != "vectors":  # there is nothing to embed
                for size in batch_sizes(job, rows):
                    one = job if size == job.batch_size else replace(job, batch_size=size)
                    curve.append(cells.embed((*embedded, _EMBEDDED(one)), one, data, folder, located[node]))
            search = cells.search(searched, job, data, folder, located[node], engines[store])
            search = replace(search, job=job)  # whose device, which is no part of a search cell, makes the vectors
            planned.append(Planned(job, tuple(curve), search, rows, len(data.queries)))
    if wrong:
        raise SettingsError(list(wrong))
    impossible = {one.skip.key for one in planned if one.job.unsupported}  # a batch skipped for want of memory is tried again
    skips = frozenset(record.key for record in newest(records) if record.status == "skipped" and record.key in impossible)
    return Plan(tuple(planned), known, estimates, cells.truths, note, skips, since, share)


class _Naming:
    """Names nodes by what they hold, each once: the jobs of a sweep share most of theirs."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[Mapping[str, Any], str]] = {}

    def __call__(self, node: Mapping[str, Any]) -> str:
        if id(node) not in self._names:
            self._names[id(node)] = node, digest(dict(node))  # the node is kept, so that no other has its place in memory
        return self._names[id(node)][1]


class _Cells:
    """Makes the cells of jobs, and their estimates, each distinct one once."""

    def __init__(self, speed: dict[tuple[str, str], float], estimates: dict[str, float]) -> None:
        self._speed, self._estimates = speed, estimates
        self._embed: dict[tuple[Any, ...], Cell] = {}
        self._search: dict[tuple[Any, ...], Cell] = {}
        self.truths: dict[str, dict[str, float]] = {}

    def embed(self, about: tuple[Any, ...], job: Job, data: Data, folder: Path, weights: Weights) -> Cell:
        """Return the embed cell of a job, which `about` tells from others."""
        if about not in self._embed:
            self._embed[about] = cell = embed_cell(job, data, folder, weights)
            self._estimates[cell.key] = _embed_seconds(job, self._seconds_per_item(cell))
        return self._embed[about]

    def search(self, about: tuple[Any, ...], job: Job, data: Data, folder: Path, weights: Weights, engine: Any) -> Cell:
        """Return the search cell of a job, which `about` tells from others; the vectors still to be made are estimated, too."""
        if about not in self._search:
            self._search[about] = cell = search_cell(job, data, folder, weights, engine)
            self._estimates[cell.key] = _search_seconds(job, len(data.corpus))
            given = job.dataset.modality == "vectors"
            vectors = folder if given else cache.find("vectors", cell.recipe)
            if vectors is None:
                self._estimates[cell.recipe] = (len(data.corpus) + len(data.queries)) * self._seconds_per_item(cell)
            self.truths[cell.key] = {
                f"{cell.recipe} {name}": seconds
                for (name, below), seconds in _truth_seconds(job, len(data.corpus), len(data.queries)).items()
                if vectors is None or not _found(vectors, job, below)
            }
        return self._search[about]

    def _seconds_per_item(self, cell: Cell) -> float:
        return seconds_per_item(cell.job, self._speed, place_of(cell.job, cell.weights)[0])


def _documents_of(job: Job, rows: int) -> str:
    return f"the {rows} documents of dataset={job.choices['dataset']}" + (f" under budget={job.budget_s:g}s" if job.shrunk_from else "")


def _refused(job: Job, store: Store, weights: Weights, rows: int, queries: int) -> tuple[list[str], list[str]]:
    """Return what of a job's search there is not, for which it is skipped in a sweep, and what is a mistake anywhere."""
    mistakes = job.index.violations(rows=rows, dim=job.model.dim, k=job.k)
    if max(job.k) > rows:
        mistakes = [*mistakes, f"k must be ≤ {_documents_of(job, rows)}, got {max(job.k)}"]
    refused = store.violations(
        index=job.index,
        metric=job.metric,
        dim=job.model.dim,
        rows=rows,
        k=job.k,
        vector_type=job.vector_type,
        filtered=any(job.filter),
    )
    refused = [*refused, *_too_few(job, rows, queries)]
    if job.target_recall and weights.kind == "random":
        refused.append("target_recall needs vectors that mean something, and these are of random weights; give model.path or take it away")
    return refused, list(mistakes)


def batch_sizes(job: Job, rows: int) -> list[int]:
    """Return the batch sizes that a job may measure: its own, or for ``batch_size=auto`` every power of two up to the corpus."""
    return [2**power for power in range(rows.bit_length())] if job.find_batch_size else [job.batch_size]


# ---------------------------------------------------------------------------------------- estimates


def _speeds(records: Iterable[Record]) -> dict[tuple[str, str], float]:
    """Return seconds an item by (model, device), from what has been measured."""
    found = {}
    for record in records:
        figure = record.metrics.get("pipeline_per_s")
        if record.kind == "embed" and record.status == "ok" and figure is not None and figure.value:
            found[str(record.labels["model"]), str(record.labels["device"])] = 1 / figure.value
    return found


def seconds_per_item(job: Job, speed: dict[tuple[str, str], float], device: str) -> float:
    """Estimate what an item takes, from what has been measured of this model on this device, or from the model's operations."""
    measured = speed.get((job.choices["model"], device))
    rate = _GFLOP_PER_S_PER_CORE * job.threads if job.device == "cpu" else _ACCELERATOR_GFLOP_PER_S
    return measured if measured is not None else job.model.gflop_per_item / rate


def _truth_seconds(job: Job, rows: int, queries: int) -> dict[tuple[str, int | None], float]:
    """Return how long the ground truth takes among all rows and among those of each filter, by name and the part it is below."""
    whole = Cost(queries, rows, job.model.dim).guess(job.threads)
    k = max(TRUTH_K, *job.k)
    return {
        (f"{job.metric} {k} {share}", parts_of(share)): whole * (1.0 if share is None else share)
        for share in dict.fromkeys((None, *job.filter))
    }


def _found(vectors: Path, job: Job, below: int | None) -> bool:
    """Say whether some ground truth of these vectors is in the cache already."""
    try:
        key = key_of(vectors, k=max(TRUTH_K, *job.k), metric=job.metric, below=below)
    except (OSError, ValueError, LookupError, TypeError):  # damaged: set aside and made again when they are needed
        return False
    return cache.find("truth", key) is not None


def _embed_seconds(job: Job, seconds_per_item: float) -> float:
    """Warm-up and three kinds of passes over the sample, then single queries; each replicate, then the memory pass."""
    share = job.min_duration_s / job.processes
    sample = max(job.embed_items, job.batch_size) * seconds_per_item
    queries = min(max(share, job.min_requests * seconds_per_item * 1.5), 4 * share)
    return job.processes * (2.0 + sample + 3 * max(share, sample) + queries) + 10.0 + 3 * job.batch_size * seconds_per_item


def _search_seconds(job: Job, rows: int) -> float:
    """Load, then every operating point, the floor and the round trip for their share or their count of requests."""
    share = job.min_duration_s / job.processes
    settings = len(job.k) * len(job.filter) * (len(job.target_recall) or len(job.index.search_params()))
    seconds = max(share, job.min_requests * 3e-3)
    closed = (settings * len(job.concurrency) + 2 * len(job.k)) * seconds
    opened = settings * sum(max(share, job.min_requests / rate) for rate in job.rate)
    looked_for = settings * 12 * 2 * seconds if job.p99_target_s else 0.0  # about twelve rates, some of them slow
    changing = settings * sum(max(seconds, changes_s(job, rate)) for rate in job.churn_per_s)
    load = 1.0 + rows * 4e-4
    return job.processes * (load + closed + opened + looked_for + changing) + load + 2.0


def changes_s(job: Job, churn_per_s: float) -> float:
    """Return about how long it takes at a rate of changes until enough of them have been seen to show, see `harness.churn_cell`."""
    return LEAST_SEEN / churn_per_s / (1.0 if job.churn_upserts == 1 else (1.0 - job.churn_upserts) / 2)


def fewest_to_tune(target: float) -> int:
    """Return how many queries, all of them answered without a miss, have a 95 % interval that begins at the target recall or above.

    Gaffke's lower bound for n scores of 1 is Clopper and Pearson's, 0.025 ** (1 / n).
    """
    return math.ceil(math.log(0.025) / math.log(target))


def _too_few(job: Job, rows: int, queries: int) -> list[str]:
    """Return what a filter or a target asks for that there is not enough data for."""
    found = [
        f"filter={share:g} lets about {int(share * rows)} of {rows} rows through, fewer than k={max(job.k)}; take a larger share or corpus"
        for share in job.filter
        if share is not None and share * rows * 0.8 < max(job.k)  # parts differ a little in size
    ]
    if job.target_recall and queries < (least := 2 * fewest_to_tune(max(job.target_recall))):
        found.append(
            f"target_recall={max(job.target_recall):g} needs dataset.queries ≥ {least}, half of them to tune on, got {queries}: "
            "fewer cannot show it even where all neighbours are found"
        )
    if job.churn_per_s and rows - rows_taken_out(rows) < max(job.k):
        found.append(f"workload.churn_per_s takes rows out: k must be ≤ {rows - rows_taken_out(rows)} of {rows}, got {max(job.k)}")
    return found + _too_slow(job, queries)


def _too_slow(job: Job, queries: int) -> list[str]:
    """Return that rates are so low that a process is killed, by its time limit, before it has counted enough."""
    points = len(job.k) * len(job.filter) * (len(job.target_recall) or len(job.index.search_params()))
    least = max(job.min_requests, math.ceil(queries / job.nq))
    ends = f"s a process, which timeout_s={job.timeout_s:g} ends before; raise the lowest rate or timeout_s"
    found = []
    if (takes := points * sum(least / rate for rate in job.rate)) > job.timeout_s:
        rates = ",".join(f"{rate:g}" for rate in job.rate)
        found.append(
            f"workload.rate=[{rates}] with {least} requests at each of {points} operating points takes {takes:.0f} {ends}, "
            "or lower workload.min_requests"
        )
    if (takes := points * sum(changes_s(job, rate) for rate in job.churn_per_s)) > job.timeout_s:
        rates = ",".join(f"{rate:g}" for rate in job.churn_per_s)
        found.append(
            f"workload.churn_per_s=[{rates}] with {LEAST_SEEN} insertions at each of {points} operating points takes {takes:.0f} {ends}"
        )
    return found


def _within_budget(jobs: list[Job]) -> tuple[list[Job], float | None, str | None]:
    """Shrink every corpus by one factor until the estimate fits ``budget=``; returns the factor too, and says what was done.

    By arithmetic alone, never by what has been measured meanwhile: the same command must come to the same corpus when it is started
    again, or nothing of what it has measured could be used.
    """
    budget = jobs[0].budget_s
    if budget is None:
        return jobs, None, None

    measured = [(job, _work(job)) for job in jobs if not job.unsupported]

    def total(factor: float) -> float:
        vectors: dict[str, float] = {}
        truths: dict[str, float] = {}
        cells: dict[str, float] = {}
        for job, (recipe, embed, search) in measured:
            rows = _shrunk(job, factor)
            cells[f"{search} {rows}"] = _search_seconds(job, rows)
            for (name, _), seconds in _truth_seconds(job, rows, job.dataset.queries).items():
                truths[f"{recipe} {rows} {name}"] = seconds
            if job.dataset.modality == "vectors":  # there is nothing to embed
                continue
            item = seconds_per_item(job, {}, job.device)
            vectors.setdefault(f"{recipe} {rows}", (rows + job.dataset.queries) * item)  # made for the first job that needs them
            for size in batch_sizes(job, rows):  # of a curve all that may be needed
                cells[f"{embed} {rows} {size}"] = _embed_seconds(replace(job, batch_size=size), item)
        return _START_S + sum(vectors.values()) + sum(truths.values()) + sum(cells.values())

    if total(1.0) <= budget:
        return jobs, None, None
    if total(0.0) > budget:
        raise SettingsError(
            f"budget={budget:g}s cannot be met: with a corpus of {_shrunk(jobs[0], 0.0)} documents this takes about {total(0.0):.0f} s; "
            "raise the budget, lower processes or min_duration_s, or sweep over less"
        )
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= budget else (low, middle)
    return [_with_corpus(job, _shrunk(job, low)) for job in jobs], low, f"budget={budget:g}s: every corpus cut to {low:.0%} of its size"


_NO_WORK = ("overrides", "name", "results", "choices", "nodes", "model", "dataset", "store", "index", "timeout_s", "fresh", "budget_s",
            "unsupported", "cannot_embed", "shrunk_from")  # fmt: skip
"""Parts of a job that ask for no other measurement, and those that its nodes hold already."""
_OF_EMBEDDING = ("device", "batch_size", "find_batch_size", "interop_threads", "embed_items")
_OF_SEARCHING = ("metric", "k", "vector_type", "filter", "target_recall", "concurrency", "rate", "p99_target_s", "churn_per_s",
                 "churn_upserts", "nq")  # fmt: skip
_OF_TIMING = ("processes", "min_duration_s", "min_requests", "seed", "threads", "exclusive")
_NAMED_APART = ("overrides", "name", "results", "choices", "nodes", "model", "dataset", "store", "index", "unsupported", "cannot_embed")


def _but(*without: str) -> Callable[[Job], tuple[Any, ...]]:
    return attrgetter(*(one.name for one in fields(Job) if one.name not in (*_NAMED_APART, *without)))


_EMBEDDED, _SEARCHED = _but(*_OF_SEARCHING), _but(*_OF_EMBEDDING)
"""With its nodes, what tells a job's embed cell from others, and its search cell: perhaps more than the keys do, never less."""


def _work(job: Job) -> tuple[str, str, str]:
    """Return what tells jobs' vectors, embed cells (but for their batch size) and search cells apart before their data is there.

    As the recipe and the keys do in `harness.cells`; what is not named above counts for all three.
    """

    def of(groups: Sequence[str], *without: str) -> str:
        names = [one.name for one in fields(job) if one.name not in (*_NO_WORK, *without)]
        return digest([*(dict(job.nodes[group]) for group in groups), *(getattr(job, name) for name in names)])

    return (
        of(("model", "dataset"), *_OF_EMBEDDING, *_OF_SEARCHING, *_OF_TIMING),
        of(("model", "dataset"), "batch_size", "find_batch_size", *_OF_SEARCHING),
        of(("model", "dataset", "store", "index"), *_OF_EMBEDDING),
    )


def _rows(job: Job) -> int:
    """Return the size of a job's corpus; a dataset that takes all there is has to be looked at."""
    return job.dataset.corpus if job.dataset.corpus is not None else len(open_data(prepare(job.dataset, job.nodes["dataset"])).corpus)


def _shrunk(job: Job, factor: float) -> int:
    """Return a part of a job's corpus, no smaller than what says something, holds a document for each query, and allows k and a batch."""
    rows = _rows(job)
    return min(rows, max(_SMALLEST_CORPUS, job.dataset.queries, job.batch_size, *job.k, int(rows * factor)))


def _with_corpus(job: Job, rows: int) -> Job:
    """Return the job with another corpus size; the size asked for stays in the dataset's record as a caveat."""
    if rows == _rows(job):
        return job
    node = {**job.nodes["dataset"], "corpus": rows}
    return replace(job, dataset=replace(job.dataset, corpus=rows), nodes={**job.nodes, "dataset": node}, shrunk_from=_rows(job))  # type: ignore[type-var]


# ---------------------------------------------------------------------------------------- manifests


def write_manifest(plan: Plan, started_at: str) -> Path:
    """Write down which cells this run asked for; its exit code comes from them."""
    jobs = [
        {
            "overrides": list(planned.job.overrides),
            "cells": [cell.key for cell in planned.cells(plan.settled)],
            "skipped": list(planned.job.unsupported),
        }
        for planned in plan.jobs
    ]
    return _write_manifest(plan.folder, _stamp(started_at), {"started_at": started_at, "jobs": jobs})


def write_job_manifest(
    folder: Path,
    overrides: Sequence[str],
    *,
    since: str,
    cells: Sequence[str] = (),
    skipped: Sequence[str] = (),
    stopped: str | None = None,
) -> Path:
    """Write down which cells one job of a run has asked for in a process of its own, for the process that started the run.

    Parameters
    ----------
    folder : Path
        The run's ``results/<name>``.
    overrides : sequence of str
        The job's own.
    since : str
        When the run began.
    cells : sequence of str
        The keys, which on another machine are others than the run's plan has.
    skipped : sequence of str
        What there is not where the job ran.
    stopped : str, optional
        What kept the job from being done.
    """
    body = {"run": since, "overrides": list(overrides), "cells": list(cells), "skipped": list(skipped), "stopped": stopped}
    return _write_manifest(folder, f"{_stamp(since)}-{digest(sorted(overrides))[:12]}", body)


def job_manifests(folder: Path, since: str) -> list[dict[str, Any]]:
    """Return what the jobs that ran in processes of their own have written down about a run."""
    return [json.loads(path.read_text()) for path in sorted((folder / "manifests").glob(f"{_stamp(since)}-*.json"))]


def _stamp(time: str) -> str:
    return time.replace(":", "").replace(".", "")


def _write_manifest(folder: Path, name: str, body: Mapping[str, Any]) -> Path:
    path = folder / "manifests" / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(body, indent=1).encode())
    except OSError as error:
        raise SettingsError(f"results={folder.parent} cannot be written ({error.strerror or error}); choose another results=") from error
    return path
