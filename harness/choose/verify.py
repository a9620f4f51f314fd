"""The best candidates measured in one real loop, beside what was computed from their two cells.

The cells are composed again from the overrides that the run's manifest kept. They must come to the same keys: otherwise code, libraries,
data or machine are not those that were measured, and the two figures would not be of the same thing. What is measured becomes a record of
kind ``serve``, which is used again like any other.
"""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import cache, interrupts, machine_lock
from harness.cells import Cell, embed_spec, environment, search_spec
from harness.choose.candidates import PERCENTILES, Candidate
from harness.choose.require import between, written
from harness.errors import HarnessError
from harness.fingerprint import digest, source_of
from harness.plan import make_plan
from harness.progress import console
from harness.records import Measured, Record, newest, now, samples, scan, write
from harness.replicate import Replicate
from harness.statistics import over_processes
from harness.summary import measured, percentile
from harness.workspace import workspace

TASK = "harness.serve_cell:measure"


def verified(folder: Path, candidates: Sequence[Candidate], *, config_dirs: Sequence[str] = ()) -> tuple[list[str], HarnessError | None]:
    """Measure some candidates in one loop.

    Returns
    -------
    list of str
        How well the loop agrees with what was computed, a sentence or two for each candidate, or that it was not measured.
    harness.errors.HarnessError or None
        Why the first that was not measured was not: a cell cannot be composed again as it was, or its process failed.
    """
    found: list[str] = []
    failed: HarnessError | None = None
    for one in candidates:
        try:
            record = _served(folder, one, config_dirs)
            arrays = samples(record, folder)
        except HarnessError as error:
            interrupts.raise_again(error)
            failed = failed or error
            found.append(f"Not verified in a real loop: {one.name}.")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            failed = failed or HarnessError(f"--verify: the samples of the loop cannot be read ({error})")
            found.append(f"Not verified in a real loop: {one.name}.")
        else:
            found += _compared(one, record, arrays)
    return found, failed


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
    parts = loop_settings(candidate)
    key = digest(parts)[:20]
    for record in newest(scan(folder, key)[0]):
        if record.status == "ok":
            return record
    embed_cell, search_cell = (_again(folder, record, config_dirs) for record in (candidate.embed, candidate.search))
    return _measure(folder, candidate, embed_cell, search_cell, key, parts)


def loop_settings(candidate: Candidate) -> dict[str, Any]:
    """Return what decides about a loop's figures: the two cells, the operating point, and the loop's own code."""
    return {
        "kind": "serve",
        "embed": candidate.embed.key if candidate.embed else None,
        "search": candidate.search.key,
        "k": candidate.point.k,
        "search_params": dict(candidate.point.search_params),
        "source": dict(source_of(["harness.serve_cell"])),
    }


def _jobs(manifest: Path) -> list[dict[str, Any]]:
    """Return the jobs that a manifest names, none where it is damaged; one that a launcher ran elsewhere has a manifest of its own."""
    try:
        body = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return []
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
    asked = [override for override in jobs[0] if not override.startswith("budget=")]
    if len(asked) < len(jobs[0]):  # what a budget had cut, by all jobs of its sweep, is asked for as it was measured
        asked.append(f"dataset.corpus={record.data['corpus']}")
    plan = make_plan(asked, multirun=False, config_dirs=config_dirs)
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
    with workspace() as place, machine_lock.timed(True, job.device, waiting=_waiting):
        for number in range(job.processes):
            part = place / str(number)
            part.mkdir()
            outcomes.append(_process({**spec, "replicate": number}, part, environment(job.threads), job.timeout_s))
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
    try:
        write(record, folder)
    except OSError as error:
        raise HarnessError(f"{folder} cannot be written ({error.strerror or error}); make the folder writable") from error
    return record


def _waiting() -> None:
    console().print("waiting for another run on this machine", highlight=False)


def _process(
    spec: Mapping[str, Any], folder: Path, variables: Mapping[str, str], timeout_s: float
) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
    """Measure one replicate in a fresh process that writes into an empty folder, and return its result and samples."""
    with closing(Replicate(environment=variables)) as server:
        server.run(TASK, spec, folder, timeout_s=timeout_s)
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        kept = {name: archive[name] for name in archive.files}
    return json.loads((folder / "result.json").read_text()), kept
