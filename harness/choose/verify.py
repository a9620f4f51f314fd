"""The best candidates measured in one real loop, beside what was computed from their two cells.

The cells are composed again from the overrides that the run's manifest kept. They must come to the same keys: otherwise code, libraries,
data or machine are not those that were measured, and the two figures would not be of the same thing. What is measured becomes a record of
kind ``serve``, which is used again like any other.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from harness import cache
from harness.cells import Cell, embed_spec, environment, search_spec
from harness.choose.candidates import PERCENTILES, Candidate
from harness.choose.require import between, written
from harness.errors import HarnessError
from harness.fingerprint import digest, source_of
from harness.plan import make_plan
from harness.records import Measured, Record, newest, now, samples, scan, write
from harness.replicate import Replicate
from harness.statistics import over_processes
from harness.summary import measured, percentile

TASK = "harness.serve_cell:measure"


def verified(folder: Path, candidates: Sequence[Candidate], *, config_dirs: Sequence[str] = ()) -> list[str]:
    """Measure some candidates in one loop and return how well that agrees with what was computed, a sentence or two each.

    Raises
    ------
    harness.errors.HarnessError
        When a cell cannot be composed again as it was, or its process fails.
    """
    found = []
    for one in candidates:
        record = _served(folder, one, config_dirs)
        found += list(_compared(one, record, samples(record, folder) if not record.samples else record.samples))
    return found


def _compared(candidate: Candidate, record: Record, arrays: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Say what the loop took, what was computed, and their ratio with its interval over processes."""
    real = [arrays[f"serve_s_{i}"] for i in range(sum(name.startswith("serve_s_") for name in arrays))]
    for name, title in (("latency_p50_s", "median"), ("latency_p99_s", "p99")):
        computed, loop = candidate.figures[name], record.metrics[f"serve_{name}"]
        if computed.value is None or loop.value is None:
            yield f"Real loop, {candidate.name}: {title} {_said(name, loop)}, computed {_said(name, computed)}."
            continue
        ratio = over_processes(
            [float(np.quantile(one, PERCENTILES[name])) / alone for one, alone in zip(real, candidate.pairs[name], strict=False)]
        )
        between_them = f"ratio {ratio.value:.3f}" + (f" [{ratio.lo:.3f}, {ratio.hi:.3f}]" if ratio.lo is not None else "")
        if ratio.lo is None or ratio.hi is None:
            agreement = f"no interval ({ratio.reason})"
        elif ratio.lo <= 1 <= ratio.hi:
            agreement = "no difference shown"
        else:
            assert ratio.value is not None
            agreement = f"the loop takes {'longer' if ratio.value > 1 else 'less'} than was computed"
        yield f"Real loop, {candidate.name}: {title} {_said(name, loop)}, computed {_said(name, computed)}; {between_them}: {agreement}."


def _said(name: str, figure: Measured) -> str:
    return f"unknown ({figure.reason})" if figure.value is None else f"{written(name, figure.value)}{between(name, figure)}"


def _served(folder: Path, candidate: Candidate, config_dirs: Sequence[str]) -> Record:
    """Return the record of the loop, measured now where there is none."""
    if candidate.embed is None:
        raise HarnessError("--verify: the vectors were given, so that there is no query to embed")
    if candidate.point.concurrency != 1:
        raise HarnessError("--verify: the loop has one client, and these figures were measured under another load")
    parts = {
        "kind": "serve",
        "embed": candidate.embed.key,
        "search": candidate.search.key,
        "k": candidate.point.k,
        "search_params": dict(candidate.point.search_params),
        "source": dict(source_of(["harness.serve_cell"])),
    }
    key = digest(parts)[:20]
    for record in newest(scan(folder, key)[0]):
        if record.status == "ok":
            return record
    embed_cell, search_cell = (_again(folder, record, config_dirs) for record in (candidate.embed, candidate.search))
    return _measure(folder, candidate, embed_cell, search_cell, key, parts)


def _jobs(manifest: Path) -> list[dict[str, Any]]:
    """Return the jobs that a manifest names; one that a launcher ran elsewhere has a manifest of its own."""
    body = json.loads(manifest.read_text())
    return list(body.get("jobs", [body]))


def _again(folder: Path, record: Record, config_dirs: Sequence[str]) -> Cell:
    """Return the cell that a record is of, composed from what its run was asked for.

    Raises
    ------
    harness.errors.HarnessError
        When no manifest names it, or it is not the same any more.
    """
    jobs = [
        job["overrides"]
        for manifest in sorted((folder / "manifests").glob("*.json"), reverse=True)
        for job in _jobs(manifest)
        if record.key in job["cells"]
    ]
    if not jobs:
        raise HarnessError(f"--verify: no manifest in {folder} says how {record.kind} cell {record.key} was asked for; run it again")
    plan = make_plan(jobs[0], multirun=False, config_dirs=config_dirs)
    for cell in (*plan.jobs[0].curve, plan.jobs[0].search):
        if cell.key == record.key:
            return cell
    raise HarnessError(
        f"--verify: {record.kind} cell {record.key} comes to another key now: code, libraries, data, weights or machine are not those "
        f"that were measured; run `python -m harness {' '.join(jobs[0])}` again, then choose"
    )


def _measure(folder: Path, candidate: Candidate, embed_cell: Cell, search_cell: Cell, key: str, parts: Mapping[str, Any]) -> Record:
    job = embed_cell.job
    vectors = search_cell.data_folder if search_cell.job.dataset.modality == "vectors" else cache.find("vectors", search_cell.recipe)
    if vectors is None:
        raise HarnessError("--verify: the vectors are not in the cache any more; run the search cell again with fresh=true")
    weights = asdict(job.model.fetch(embed_cell.weights))
    about = embed_spec(embed_cell)
    spec = {
        **{name: about[name] for name in ("share_s", "min_requests", "seed")},
        "embed": {**about, "weights": weights},
        "search": search_spec(search_cell, vectors),
        "point": {"k": candidate.point.k, "search_params": dict(candidate.point.search_params)},
    }
    started_at, began = now(), time.monotonic()
    outcomes: list[tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]] = []
    with _machine():
        for number in range(job.processes):
            outcomes.append(_process({**spec, "replicate": number}, environment(job.threads), job.timeout_s))
    arrays = {f"{name}_{i}": values for i, (_, kept) in enumerate(outcomes) for name, values in kept.items()}
    real = [kept["serve_s"] for _, kept in outcomes]
    assert candidate.embed is not None
    record = replace(
        candidate.search,
        kind="serve",
        key=key,
        settings=dict(parts),
        labels={**candidate.search.labels, "device": candidate.embed.labels.get("device")},
        metrics={
            **{f"serve_{name}": percentile(real, q) for name, q in PERCENTILES.items()},
            "serve_per_s": measured(over_processes([result["count"] / result["wall_s"] for result, _ in outcomes]), "1/s", "higher"),
        },
        points=(),
        caveats=(),
        started_at=started_at,
        duration_s=time.monotonic() - began,
        samples=arrays,
    )
    write(record, folder)
    return record


def _machine() -> FileLock:
    """Return the lock that says that this machine is being measured on, the one that `harness.engine` takes."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return FileLock(Path(tempfile.gettempdir()) / f"embedding-search-harness-{user}.lock")


def _process(
    spec: Mapping[str, Any], variables: Mapping[str, str], timeout_s: float
) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
    """Measure one replicate in a fresh process and return its result and samples."""
    folder = Path(tempfile.mkdtemp(prefix="harness-serve-"))
    server = Replicate(environment=variables)
    try:
        server.run(TASK, spec, folder, timeout_s=timeout_s)
        with np.load(folder / "samples.npz", allow_pickle=False) as archive:
            kept = {name: archive[name] for name in archive.files}
        return json.loads((folder / "result.json").read_text()), kept
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
