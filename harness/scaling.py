"""``python -m harness scaling``: what more workers gain when a corpus is embedded by an engine that has workers.

The same documents are embedded with each number of workers, several times, in fresh processes and in an order that is shuffled anew in
every round, so that a drift of the machine hits all alike. Each number becomes a record of kind ``corpus``: documents a second, and the
scaling efficiency, which is the rate with n workers by n times the rate with one *of the same round*. A worker has as many threads
whatever the number of workers, and shards of the same size.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import fingerprint, machine_lock
from harness.cells import Cell, embed_spec, environment
from harness.corpus import CANONICAL_BATCH, Corpus
from harness.data import open_data
from harness.engine import _BESIDE
from harness.errors import HarnessError, SettingsError
from harness.plan import make_plan, seconds_per_item
from harness.progress import Progress, console
from harness.records import SCHEMA_VERSION, Measured, Record, now, write
from harness.replicate import Replicate
from harness.report import write_reports
from harness.report.units import interval, number
from harness.statistics import over_processes
from harness.summary import measured
from harness.workspace import workspace

log = logging.getLogger(__name__)

TASK = "harness.corpus_cell:measure"
ASKED = ("model", "backend", "dtype", "attention", "compile", "weights", "data", "device", "interop_threads", "exclusive")
"""Settings of the embed cell that count here, too; ``exclusive`` is among them only where it is not true."""
_START_S = 20.0
"""Starting the workers, each with its model, as a first guess of the time left."""
SHARDS_EACH = 8
"""Shards for each of the most workers, at least: at the end workers wait for the one with the last shard, half a shard on average."""


def run(
    overrides: Sequence[str], *, workers: str = "1,2", repeats: int = 3, items: int | None = None, config_dirs: Sequence[str] = ()
) -> list[Record]:
    """Measure, write and show what some overrides ask for.

    Parameters
    ----------
    overrides : sequence of str
        As for a run; the engine has to be one with workers, such as ``engine=ray``.
    workers : str
        Numbers of workers, a comma between them; 1 is always among them.
    repeats : int
        Rounds, 2 at least.
    items : int, optional
        Documents to embed; None for all.

    Raises
    ------
    harness.errors.HarnessError
        When something asked for cannot be, or a worker fails; two rounds that were whole by then, or more, are kept.
    """
    counts = _counts(workers)
    if repeats < 2:
        raise SettingsError(f"--repeats must be a whole number of at least 2, got {repeats}: one measurement has no interval")
    planned = make_plan(overrides, multirun=False, config_dirs=config_dirs).jobs[0]
    cell, job = planned.embed, planned.job
    node = job.nodes["engine"]
    if not {"workers", "threads", "shard_items"} <= set(node):
        raise SettingsError(f"engine={job.choices['engine']} has no workers to be counted; use engine=ray")
    if job.dataset.modality == "vectors":
        raise SettingsError(f"dataset={job.choices['dataset']} holds vectors: there is nothing to embed")
    items = planned.documents if items is None else items
    if not 1 <= items <= planned.documents:
        raise SettingsError(f"--items must be in [1, {planned.documents}], got {items}")
    batch = CANONICAL_BATCH[job.dataset.modality]
    if items < (least := SHARDS_EACH * batch * max(counts)):
        raise SettingsError(
            f"--items must be at least {least} for {max(counts)} workers, {SHARDS_EACH} shards of {batch} documents for each, got {items}: "
            "with fewer some have nothing to do; raise dataset.corpus, or lower --workers"
        )
    share = 1 if node.get("address") else max(counts)  # on a cluster each worker has a machine's threads, as in a run
    settings = {
        "items": items,
        "repeats": repeats,
        "threads_each": node["threads"] or max(1, job.threads // share),
        "shard_items": min(node["shard_items"], items // (SHARDS_EACH * max(counts))),
    }
    _check_writable(job.folder)
    started_at, began = now(), time.monotonic()
    rounds: dict[int, list[Mapping[str, Any]]] = {count: [] for count in counts}
    stopped: BaseException | None = None
    try:
        _measure(rounds, cell, node, settings)
    except (HarnessError, KeyboardInterrupt) as error:
        stopped = error
    whole = min(map(len, rounds.values()))
    if stopped is not None and whole < 2:
        if isinstance(stopped, KeyboardInterrupt):
            raise KeyboardInterrupt("interrupted before two rounds were whole, so that nothing is kept") from None
        raise stopped
    rounds = {count: each[:whole] for count, each in rounds.items()}
    records = _records(cell, node, rounds, settings | {"repeats": whole}, started_at=started_at, duration_s=time.monotonic() - began)
    out = Console()
    _show(records, out)
    try:
        for record in records:
            write(record, job.folder)
    except OSError as error:
        raise HarnessError(f"{job.folder} cannot be written: {error.strerror or error}; free space or choose another results=") from error
    out.print(f"\n{write_reports(job.folder)['html']} has them beside what else was measured there", highlight=False, soft_wrap=True)
    if isinstance(stopped, KeyboardInterrupt):
        raise KeyboardInterrupt(f"interrupted; the {whole} rounds that were whole are kept") from None
    if stopped is not None:
        raise stopped
    return records


def _check_writable(folder: Path) -> None:
    """Find out before anything is measured that it could not be written down."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"results={folder.parent} cannot be written ({error.strerror or error}); choose another results=") from error


def _counts(words: str) -> list[int]:
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts) or len(set(parts)) < len(parts):
        raise SettingsError(f"--workers must be different whole numbers with a comma between them, such as 1,2,4, got {words!r}")
    return sorted({1, *map(int, parts)})


def _measure(found: dict[int, list[Mapping[str, Any]]], cell: Cell, node: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Add what each number of workers comes to in each round."""
    job = cell.job
    order, shuffle = list(found), random.Random(job.seed)
    engine = {**node, "threads": settings["threads_each"], "shard_items": settings["shard_items"]}
    spec = {**embed_spec(cell), "weights": asdict(job.model.fetch(cell.weights)), "items": settings["items"]}
    alone_s = settings["items"] * seconds_per_item(job, {}, job.device) * job.threads / settings["threads_each"]
    takes_s = {count: _START_S + alone_s / count for count in order}  # a guess
    with Progress(settings["repeats"] * sum(takes_s.values()), console())() as progress, workspace() as folder:

        def waiting() -> None:
            progress.start("waiting for another run on this machine", 0.0)

        with (
            machine_lock.timed(job.exclusive, str(cell.labels["device"] or "cpu"), waiting=waiting),
            closing(Replicate(environment=environment(settings["threads_each"]))) as server,
        ):
            for _ in range(settings["repeats"]):
                shuffle.shuffle(order)
                for count in order:
                    progress.start(f"{settings['items']} documents with {count} worker{'s' * (count > 1)}", takes_s[count])
                    own = folder / f"{len(found[count])}-{count}"
                    own.mkdir()
                    told = {**spec, "engine": {**engine, "workers": count}}
                    server.run(TASK, told, own, timeout_s=job.timeout_s, report=progress.stage)
                    found[count].append(json.loads((own / "result.json").read_text()))
                    shutil.rmtree(own, ignore_errors=True)
                    progress.done("measured")


def _records(
    cell: Cell,
    node: Mapping[str, Any],
    rounds: Mapping[int, Sequence[Mapping[str, Any]]],
    settings: Mapping[str, Any],
    *,
    started_at: str,
    duration_s: float,
) -> list[Record]:
    job, data = cell.job, open_data(cell.data_folder)
    modules = ["harness.corpus_cell", "harness.summary", str(node["_target_"]).rpartition(".")[0], *Corpus(embed_spec(cell)).modules]
    # Of this module's own source the file alone: most of what it imports shows figures and computes none.
    source = {**fingerprint.source_of(modules), __name__: fingerprint.source_of([__name__])[__name__]}
    rates = {count: [one["items"] / one["seconds"] for one in found] for count, found in rounds.items()}
    found = []
    for count, each in rates.items():
        machines = max(one["machines"] for one in rounds[count])
        about = {name: cell.settings[name] for name in ASKED if name in cell.settings}
        asked = {**about, **settings, "seed": job.seed, "engine": {**node, "workers": count}, "workers": count}
        parts = {
            "schema": SCHEMA_VERSION,
            "kind": "corpus",
            "settings": asked,
            "source": source,
            "versions": fingerprint.versions_used_by(modules),
            "machine": cell.parts["machine"],
        }
        found.append(
            Record(
                kind="corpus",
                key=fingerprint.digest(parts)[:20],
                status="ok",
                error=None,
                settings=asked,
                labels=cell.labels,
                data={
                    "name": data.name,
                    "modality": data.modality,
                    "fingerprint": data.fingerprint,
                    "corpus": len(data.corpus),
                    "queries": len(data.queries),
                    "dim": job.model.dim,
                },
                model={
                    "weights": cell.weights.kind,
                    "source": cell.weights.source,
                    "revision": cell.weights.revision,
                    "note": cell.weights.note,
                    "weights_fingerprint": cell.weights.fingerprint,
                    "backend": job.backend,
                    "dtype": job.dtype,
                    "parameters": None,
                },
                environment={
                    "fingerprint": fingerprint.digest(cell.parts["machine"])[:12],
                    "machine": cell.parts["machine"],
                    "versions": parts["versions"],
                    "source": parts["source"],
                    "commit": fingerprint.commit(),
                    "made_by": list(rounds[count]),
                },
                metrics={
                    "corpus_per_s": measured(over_processes(each), "items/s", "higher"),
                    "scaling_efficiency": _efficiency(count, each, rates[1]),
                },
                caveats=(*_told(cell, rounds[count]), *_caveats(count, machines, job.threads, settings["threads_each"])),
                started_at=started_at,
                duration_s=duration_s,
                samples={"corpus_per_s": each},
            )
        )
    return found


def _efficiency(count: int, rates: Sequence[float], alone: Sequence[float]) -> Measured:
    """Return the rate of some workers by that of as many single ones, round by round."""
    if count == 1:
        return Measured(1.0, "ratio", "higher", n=len(rates), reason="one worker is what the others are compared with")
    return measured(over_processes([rate / (count * one) for rate, one in zip(rates, alone, strict=True)]), "ratio", "higher")


def _told(cell: Cell, each: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the audits said, and that nobody promised that the machine was left alone."""
    found = [(str(code), str(text)) for one in each for code, text in one["caveats"]]
    if cell.job.exclusive is not True:
        found.append(("not_exclusive", _BESIDE[cell.job.exclusive]))
    return list(dict.fromkeys(found))


def _caveats(count: int, machines: int, threads: int, threads_each: int) -> tuple[tuple[str, str], ...]:
    if count <= machines:
        return ()
    text = (
        f"{count} workers of {threads_each} threads shared {machines} machine{'s' * (machines > 1)}: its memory, its clock speed and what "
        "else runs on it, so this is not what as many machines reach; nor is their network in it."
    )
    if machines == 1 and count * threads_each > threads:
        text += f" They had {count * threads_each} threads on {threads} cores, which cannot scale; set engine.threads lower."
    return (("workers_share_a_machine", text),)


def _show(records: Sequence[Record], out: Console) -> None:
    first = records[0]
    table = Table(
        title=f"{first.labels['model']}: {first.settings['items']} documents, {first.settings['threads_each']} threads a worker",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2),
    )
    for heading in ("workers", "documents/s", "scaling efficiency", "rounds"):
        table.add_column(heading, justify="right")
    for record in records:
        cells = []
        for name in ("corpus_per_s", "scaling_efficiency"):
            figure = record.metrics[name]
            cells.append(f"{number(name, figure.value)} {interval(name, figure.value, figure.lo, figure.hi)}".strip())
        table.add_row(str(record.settings["workers"]), *cells, str(record.metrics["corpus_per_s"].n))
    out.print(table)
    for code, text in dict.fromkeys(caveat for record in records for caveat in record.caveats):
        out.print(f"{code}: {text}", highlight=False, soft_wrap=True)
