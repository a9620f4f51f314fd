"""Measures the cells that a plan lacks, one after the other, each in fresh processes, each ending as a record.

Whatever happens to a cell (an error, a crash, a hang, no memory) becomes a record that says so, and the run goes on.
The engine waits; it does not compute while a cell is measured. On one machine one cell is measured at a time, across
all runs of this program: timed cells take a lock. Runs of one folder share the work: each cell has a lock too, also across machines.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from filelock import FileLock, Timeout

from harness import cache, devices, fingerprint, interrupts, machine_lock, summary, truth
from harness.cells import TRUTH_K, Cell, embed_spec, environment, search_spec
from harness.data import open_data
from harness.disturbance import NOTABLE, OtherWork
from harness.errors import CellError, HarnessError
from harness.interfaces import UNITS, Data, Weights
from harness.plan import Plan, Planned
from harness.progress import Progress
from harness.records import Record, newest, now, scan, write
from harness.replicate import Replicate
from harness.search_cell import parts_of
from harness.search_summary import of_search
from harness.vectors import open_truth
from harness.workspace import workspace

log = logging.getLogger(__name__)

_POLL_S = 0.25
"""Seconds between two looks at a lock that another run holds: it may be measuring, so that we must not be busy."""

_KEPT = 8
"""Replicates whose servers stay for the next cell: each holds the imported libraries, about half a gigabyte. Others start anew."""

_ON_ACCELERATORS = {"torch", "pynvml"}
"""Libraries that the harness itself uses only where a device is not the CPU; importing them takes seconds."""

_BESIDE: Mapping[Any, str] = {
    "device": "Measured with exclusive=device: cells on other devices of this machine may have been timed at the same time, which share "
    "its processors and memory.",
    False: "Measured with exclusive=false: other cells may have been timed on this machine at the same time; timings are then slower and "
    "vary more.",
}
"""What a reader is told of a cell that was not promised to be alone on the machine."""


class Engine:
    """Runs cells and writes their records; holds the measuring processes, so use it as a context manager.

    Parameters
    ----------
    plan : Plan
        All that was asked for.
    progress : Progress
        What the person sees.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._replicates: dict[int, list[Replicate]] = {}
        self._preload = _preload(plan)
        self._fetched: dict[str, Weights | HarnessError] = {}
        self.records: dict[str, Record] = {}
        """What this run has measured, by key."""
        self._outcomes: Mapping[str, Record] = ChainMap(self.records, dict(plan.settled))
        """What is known by now, by key: the records of this run, then those reused."""
        self._done = set(plan.existing | plan.skips_on_record)
        self._out_of_memory: dict[str, int] = {}
        """The smallest batch that did not fit into memory in this run, by all else that a cell is."""
        self._failed_recipes: dict[tuple[str, str], HarnessError] = {}
        """Why vectors could not be made, by recipe and device: another device may have the memory that one lacks."""
        self._left_to_others: list[Planned] = []
        """Jobs with a cell that another run was measuring when its turn came."""
        self._other_work: float | None = None
        """Share of the processors that others used while the present cell was timed."""
        self._ground_truth: Mapping[str, Any] | None = None
        """What the ground truth of the search cell measured last took when it was made."""
        self._held = ExitStack()
        self._workspace = self._held.enter_context(workspace())

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._replicates.values():
            for replicate in group:
                replicate.close()
        _remove_stale_locks(self._plan.folder / "records")
        self._held.close()

    def run(self, planned: Planned, *, wait: bool = False) -> None:
        """Measure what one job still lacks.

        A cell that another run is measuring is left for `catch_up`, unless `wait`: several runs of one folder share the work.
        """
        if planned.job.unsupported:
            self._skip(planned)
            return
        busy = False
        for cell in planned.cells(self._outcomes):  # of a curve of batch sizes the next cell is decided on when the last one is measured
            if cell.key in self._done and not self._on_another_device(cell):
                continue
            if self._too_large(cell) or self._measure(cell, wait=wait):
                self._done.add(cell.key)
                continue
            busy = True
            if planned.job.find_batch_size:
                break
        if busy:
            self._left_to_others.append(planned)

    def catch_up(self) -> None:
        """Wait for the cells that other runs were measuring; reads what has come of them, and measures what has not been."""
        for planned in self._left_to_others:
            self.run(planned, wait=True)
        self._left_to_others.clear()

    def _on_another_device(self, cell: Cell) -> bool:
        """Say whether a search cell came to nothing because one device could not make its vectors, and this job has another."""
        failed = {device for recipe, device in self._failed_recipes if recipe == cell.recipe}
        record = self.records.get(cell.key)
        lacking = cell.kind == "search" and record is not None and record.status != "ok"
        return lacking and bool(failed) and cell.job.device not in failed

    def _skip(self, planned: Planned) -> None:
        """Record a combination that the store or the device cannot do."""
        cell = planned.skip
        if cell.key not in self._done:
            self._done.add(cell.key)
            self._write_skipped(cell, " ".join(planned.job.unsupported))

    def _too_large(self, cell: Cell) -> bool:
        """Record a cell as skipped where a smaller batch of the same has not fitted into memory in this run."""
        smaller = self._out_of_memory.get(cell.but_batch_size)
        if smaller is None or cell.job.batch_size <= smaller:
            return False
        reason = f"memory ran out at batch_size={smaller}, so this larger batch of the same was not tried; choose a smaller one"
        self._write_skipped(cell, reason)
        log.warning("skipped: %s: %s", cell.title, reason)
        return True

    def _write_skipped(self, cell: Cell, reason: str) -> None:
        self._other_work = None  # which is of the cell that was measured before
        self._write(self._record(cell, "skipped", reason, now(), 0.0, None))

    def _measure(self, cell: Cell, *, wait: bool = True) -> bool:
        """Measure a cell, or read what another run has made of it; False if another run is at it and this one is not to `wait`."""
        with self._alone_with(cell, wait=wait) as alone:
            if alone and not self._measured_meanwhile(cell):
                self._measure_now(cell)
            return alone

    def _measure_now(self, cell: Cell) -> None:
        def waiting() -> None:
            self._progress.start("waiting for another run on this machine", 0.0)

        with machine_lock.timed(cell.job.exclusive, *cell.devices, waiting=waiting):
            self._progress.start(cell.title, self._plan.estimates.get(cell.key, 0.0))
            started_at, began = now(), time.monotonic()
            self._other_work = None
            status, reason, found = "ok", None, None
            try:
                found = self._embed(cell) if cell.kind == "embed" else self._search(cell)
            except Exception as error:
                interrupts.raise_again(error)
                status = error.status if isinstance(error, CellError) else "failed"
                reason = str(error)
                if not isinstance(error, HarnessError):
                    log.exception("%s", cell.title)  # a bug, ours or a plug-in's: the sweep goes on, and the record says what it was
                    reason = f"{type(error).__name__}: {error}"
            record = self._record(cell, status, reason, started_at, time.monotonic() - began, found)
        self._write(record)
        if status == "oom" and cell.kind == "embed":
            smallest = self._out_of_memory.get(cell.but_batch_size, cell.job.batch_size)
            self._out_of_memory[cell.but_batch_size] = min(smallest, cell.job.batch_size)
        self._progress.done("measured" if status == "ok" else f"{status}:")
        if reason:
            log.error("%s: %s", cell.title, reason)

    @contextmanager
    def _alone_with(self, cell: Cell, *, wait: bool) -> Iterator[bool]:
        """Hold the lock on a cell of this folder, so that two runs never measure it both; yields whether it could be had.

        The system takes the lock from whoever dies. It comes before the machine's: who waits for a cell holds up nobody else's.
        """
        path = self._plan.folder / "records" / f".{cell.key}.lock"
        lock = FileLock(path)
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=0)
            if wait and not lock.is_locked:
                self._progress.start(f"waiting for another run to measure {cell.title}", 0.0)
                lock.acquire(poll_interval=_POLL_S)
        try:
            if lock.is_locked:
                _remove_half_written(path.parent, cell.key)
            yield lock.is_locked
        finally:
            if lock.is_locked:
                path.unlink(missing_ok=True)  # still locked: who waits for it finds it gone, and takes a new one
                lock.release()

    def _measured_meanwhile(self, cell: Cell) -> bool:
        """Say whether another run has measured this cell since the plan was made, as when this one had to wait for it.

        Whatever has come of it counts, so that what fails is not tried by each in turn. With ``fresh`` only what was begun after this run.
        """
        known = self._plan.known.get(cell.key)
        before = self._plan.since if cell.job.fresh else known.started_at if known is not None else ""
        if cell.key in self.records:  # of this run, which is here again for a reason
            before = max(before, self.records[cell.key].started_at)
        found = [record for record in newest(scan(self._plan.folder, cell.key)[0]) if record.started_at > before]
        self.records |= {record.key: record for record in found}
        return bool(found)

    def _write(self, record: Record) -> None:
        with self._writing():
            try:
                write(record, self._plan.folder)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror or error}{self._rescued(record)}") from error
        self.records[record.key] = replace(record, samples={})  # which lie on disk: a run of many cells would keep them all in memory

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Translate what can go wrong with the folder of results."""
        try:
            yield
        except OSError as error:
            raise HarnessError(
                f"{self._plan.folder} cannot be written: {error.strerror or error}; free space or choose another results="
            ) from error

    def _rescued(self, record: Record) -> str:
        """Write a record that its folder does not take where temporary files go; says where it is, if that has worked."""
        folder = Path(tempfile.gettempdir()) / f"harness-kept-{self._plan.folder.name}"
        try:
            write(record, folder)
        except OSError:
            return ""
        return f" (the last record is kept: `python -m harness merge {folder} --into {self._plan.folder}` brings it back)"

    # ------------------------------------------------------------------------------------- the cells

    def _embed(self, cell: Cell) -> summary.Summary:
        spec = self._fetch(cell)
        memory = self._alone("harness.embed_cell:measure_memory", spec, cell)
        outcomes = self._replicate("harness.embed_cell:measure", spec, cell)
        return summary.of_embed(outcomes, memory, device=cell.job.device, unit=UNITS[cell.job.dataset.modality])

    def _search(self, cell: Cell) -> summary.Summary:
        vectors = self._vectors(cell)
        data = open_data(cell.data_folder)
        truths = {share: self._truth(cell, vectors, data, parts_of(share)) for share in dict.fromkeys((None, *cell.job.filter))}
        spec = {**search_spec(cell, vectors), "truth": {str(parts_of(share)): str(folder) for share, folder in truths.items()}}
        self._ground_truth = truth.cost_of(truths[None])
        outcomes = self._replicate("harness.search_cell:measure", spec, cell)
        memory = self._alone("harness.search_cell:measure_memory", spec, cell)
        return of_search(
            outcomes,
            memory,
            vectors=vectors,
            truth={share: open_truth(folder, metric=cell.job.metric, rows=len(data.corpus)) for share, folder in truths.items()},
            data=data,
            random_weights=cell.weights.kind == "random",
            exact=cell.job.index.family == "FLAT" and cell.job.vector_type == "fp32",
        )

    def _fetch(self, cell: Cell) -> dict[str, Any]:
        """Return what a process that uses this cell's model is told, its weights being here before any clock starts."""
        key = fingerprint.digest(asdict(cell.weights))
        if key not in self._fetched:
            try:
                self._fetched[key] = cell.job.model.fetch(cell.weights)
            except HarnessError as error:
                self._fetched[key] = error
        fetched = self._fetched[key]
        if isinstance(fetched, HarnessError):
            raise fetched
        return {**embed_spec(cell), "weights": asdict(fetched)}

    def _vectors(self, cell: Cell) -> Path:
        """Return the folder of the vectors that this cell's model makes of its data, making them first if need be."""
        if cell.job.dataset.modality == "vectors":
            return cell.data_folder
        made_by = cell.recipe, cell.job.device
        if made_by in self._failed_recipes:
            raise self._failed_recipes[made_by]
        found = cache.sound("vectors", cell.recipe)
        if found is not None:
            return found
        shards = cache.shelf("shards", cell.recipe)
        spec = {**self._fetch(cell), "engine": dict(cell.job.nodes["engine"]), "shards": str(shards)}
        timeout_s = max(cell.job.timeout_s, 20 * self._plan.estimates.get(cell.recipe, 0.0))

        def make(folder: Path) -> None:
            self._servers(cell)[0].run("harness.vectors:make_vectors", spec, folder, timeout_s=timeout_s, report=self._progress.stage)

        try:
            found = cache.get("vectors", cell.recipe, make)
        except HarnessError as error:
            if any(path.is_dir() for path in shards.glob("*")):
                said = f"{error}; the shards that were made are kept, the same command goes on from there"
                error = CellError(said, status=error.status if isinstance(error, CellError) else "failed")
            else:  # nothing for the next run to go on from
                shutil.rmtree(shards, ignore_errors=True)
            self._failed_recipes[made_by] = error
            raise error from None
        shutil.rmtree(shards, ignore_errors=True)
        return found

    def _truth(self, cell: Cell, vectors: Path, data: Data, below: int | None) -> Path:
        k = max(TRUTH_K, *cell.job.k)
        key = truth.key_of(vectors, k=k, metric=cell.job.metric, below=below)
        threads, device = cell.job.threads, cell.job.device if cell.job.device.startswith("cuda") else "cpu"
        spec = {"vectors": str(vectors), "k": k, "metric": cell.job.metric, "below": below}
        spec |= {"key": key, "threads": threads, "device": device}
        cost = truth.Cost(len(data.queries), len(data.corpus), cell.job.model.dim)
        timeout_s = max(cell.job.timeout_s, 20 * cost.seconds(threads, device))

        def make(folder: Path) -> None:
            if len(cost.parts) > 1:
                self._progress.say(cost.words(threads, device))
            self._servers(cell)[0].run("harness.truth:make_truth", spec, folder, timeout_s=timeout_s, report=self._progress.stage)

        found = cache.get("truth", key, make)
        truth.forget_parts(key)
        return found

    # ---------------------------------------------------------------------------------- the processes

    def _servers(self, cell: Cell) -> Sequence[Replicate]:
        """Return one live server for each replicate that keeps one between cells, started with the cell's number of threads."""
        group = self._replicates.setdefault(cell.job.threads, [])
        for number, replicate in enumerate(group):
            if not replicate.alive:
                replicate.close()
                group[number] = self._server(cell)
        while len(group) < min(cell.job.processes, _KEPT):
            group.append(self._server(cell))
        return group

    def _server(self, cell: Cell) -> Replicate:
        return Replicate(preload=self._preload, environment=environment(cell.job.threads))

    def _replicate(self, task: str, spec: Mapping[str, Any], cell: Cell) -> list[summary.Outcome]:
        """Measure in each replicate in turn and return what they left behind."""
        outcomes = []
        servers = self._servers(cell)
        for server in servers:
            server.wait_until_ready()
        watch = OtherWork([server.pid for server in servers])
        for number in range(cell.job.processes):
            folder = Path(tempfile.mkdtemp(dir=self._workspace))

            def report(stage: str, fraction: float, total: int = 0, number: int = number) -> None:
                self._progress.stage(f"process {number + 1} of {cell.job.processes}, {stage}", fraction, total)

            try:
                with nullcontext(servers[number]) if number < _KEPT else closing(self._server(cell)) as server:
                    server.run(task, {**spec, "replicate": number}, folder, timeout_s=cell.job.timeout_s, report=report)
                outcomes.append(_outcome(folder))
                if tuned := outcomes[0].result.get("tuned"):  # found by the first process, measured by all
                    spec = {**spec, "tuned": tuned}
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self._other_work = watch.share()
        return outcomes

    def _alone(self, task: str, spec: Mapping[str, Any], cell: Cell) -> Mapping[str, Any]:
        """Run the memory pass in a process that has imported nothing beforehand."""
        folder = Path(tempfile.mkdtemp(dir=self._workspace))
        server = Replicate(environment=environment(cell.job.threads))
        try:
            server.run(task, spec, folder, timeout_s=cell.job.timeout_s, report=self._progress.stage)
            result: Mapping[str, Any] = json.loads((folder / "result.json").read_text())
            return result
        finally:
            server.close()
            shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------- the record

    def _record(
        self, cell: Cell, status: str, error: str | None, started_at: str, duration_s: float, found: summary.Summary | None
    ) -> Record:
        data = open_data(cell.data_folder)
        details = self._vector_details(cell)
        about = found.info if found else {}
        info = about if cell.kind == "embed" and found else details.get("info", {})
        hardware = cell.parts["machine"]
        return Record(
            kind=cell.kind,
            key=cell.key,
            status=status,  # type: ignore[arg-type]
            error=error,
            settings=cell.settings,
            labels=cell.labels,
            data={
                "name": data.name,
                "modality": data.modality,
                "fingerprint": data.fingerprint,
                "corpus": len(data.corpus),
                "queries": len(data.queries),
                "dim": cell.job.model.dim,
                "vectors_fingerprint": details.get("fingerprint"),
                "ground_truth": self._ground_truth if found and cell.kind == "search" else None,
                "vectors_made_by": details.get("made_by"),
                **{f"about_{name}": value for name, value in data.labels.items()},
            },
            model={
                "weights": cell.weights.kind,
                "source": cell.weights.source,
                "revision": cell.weights.revision,
                "note": cell.weights.note,
                "weights_fingerprint": info.get("weights_fingerprint") or cell.weights.fingerprint,
                "backend": cell.job.backend,
                "runtime": info.get("runtime"),
                "dtype": cell.job.dtype,
                "parameters": info.get("parameters"),
            },
            environment={
                "fingerprint": fingerprint.digest(hardware)[:12],
                "machine": hardware,
                "versions": cell.parts["versions"],
                "source": cell.parts["source"],
                "commit": fingerprint.commit(),
                "engine": about if cell.kind == "search" else {},
                "threads": about.get("threads") if cell.kind == "embed" else None,
                "other_work": self._other_work,
                "memory_available_bytes": psutil.virtual_memory().available,
            },
            metrics=found.metrics if found else {},
            points=found.points if found else (),
            caveats=tuple(dict.fromkeys([*self._caveats(cell, data, details), *(found.caveats if found else ())])),
            started_at=started_at,
            duration_s=duration_s,
            samples=found.samples if found else {},
        )

    def _vector_details(self, cell: Cell) -> Mapping[str, Any]:
        folder = cell.data_folder if cell.job.dataset.modality == "vectors" else cache.find("vectors", cell.recipe)
        with suppress(OSError, ValueError):  # damaged: set aside and made again when a search cell needs them
            found = json.loads((folder / "vectors.json").read_text()) if folder else {}
            return found if isinstance(found, dict) else {}
        return {}

    def _caveats(self, cell: Cell, data: Data, details: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what a reader of this cell must know whatever was measured."""
        job = cell.job
        found = [(caveat.code, caveat.text) for caveat in (*data.caveats, *getattr(job.model, "caveats", ()))]
        if cell.weights.kind == "random" and cell.kind == "embed":
            found.append(("random_weights", f"The network has random weights, so its vectors mean nothing: {cell.weights.note}."))
        if cell.weights.kind == "random" and cell.kind == "search":
            text = f"The vectors come from random weights, so recall on them says nothing about real vectors: {cell.weights.note}."
            found.append(("random_vectors", text))
        if cell.kind == "search":
            found += [(str(code), str(text)) for code, text in details.get("caveats", [])]
        if cell.kind == "embed" and cell.labels["device"] == "cpu" and devices.emulated_on_cpu(job.dtype):
            text = f"This processor has no arithmetic in {job.dtype}; it is made up of fp32 steps and may be slower than fp32 itself."
            found.append(("emulated_dtype", text))
        if job.processes == 1:
            found.append(
                (
                    "within_one_process",
                    "Measured in one process: another one settles at another speed, which no interval here covers; raise processes.",
                )
            )
        if job.shrunk_from is not None:
            found.append(("budget", f"The corpus was cut from {job.shrunk_from} to {len(data.corpus)} documents to fit the budget."))
        if cell.kind == "search" and job.metric == "ip" and not job.model.normalized:
            text = "The vectors have different lengths and metric=ip ranks by length as well as by direction; metric=cosine does not."
            found.append(("lengths_count", text))
        if self._other_work is not None and self._other_work > NOTABLE:
            share = max(10, round(self._other_work * 10) * 10)
            text = f"Other processes used about {share} % of this machine's processors meanwhile: timings are slower and vary more."
            found.append(("busy_machine", text))
        if job.exclusive is not True:
            found.append(("not_exclusive", _BESIDE[job.exclusive]))
        return found


def _remove_half_written(records: Path, key: str) -> None:
    """Remove what somebody left who was killed while writing a record: files under temporary names, and samples that came before it."""
    for half in records.glob(f".{key}-*"):
        half.unlink(missing_ok=True)
    for samples in records.glob(f"{key}-*.npz"):
        if not samples.with_suffix(".json").exists():
            samples.unlink(missing_ok=True)


def clear_away(folder: Path) -> None:
    """Remove what runs of a folder that were killed have left, where there is nothing to measure any more."""
    with workspace():  # making one removes those left behind
        _remove_stale_locks(folder / "records")


def _remove_stale_locks(records: Path) -> None:
    """Remove the locks of cells whose owners were killed after they had written the record, when nobody asks for that cell any more."""
    for path in records.glob(".*.lock"):
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def _preload(plan: Plan) -> list[str]:
    """Return what the measuring processes import before they are forked: the libraries of the missing cells' plug-ins, and our own."""
    groups = {"embed": ("model",), "search": ("model", "store", "index")}
    nodes = [cell.job.nodes[group] for cell in plan.missing for group in groups[cell.kind]]
    theirs = fingerprint.packages_imported_by({str(node["_target_"]).rpartition(".")[0] for node in nodes})
    ours = set(fingerprint.packages_imported_by({"harness.search_cell"}))
    if all(cell.job.device == "cpu" for cell in plan.missing):
        ours -= _ON_ACCELERATORS
    return sorted(ours.union(theirs))


def _outcome(folder: Path) -> summary.Outcome:
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        samples = {name: archive[name] for name in archive.files}
    return summary.Outcome(json.loads((folder / "result.json").read_text()), samples)
