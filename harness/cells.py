"""The cell: the unit of measuring, storing, resuming and comparing; and its key.

A job names one embed cell and one search cell. They depend on different settings (batch size does not change an index's
recall, an index does not change a model's speed), so many jobs of a sweep share cells, and a sweep costs the sum of
its parts. A cell's key is a hash of everything that can change its numbers, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.devices import available
from harness.fingerprint import digest, digest_of, machine, source_of, versions_used_by
from harness.interfaces import Data, Exportable, Weights
from harness.records import SCHEMA_VERSION, Kind
from harness.settings import Job

TRUTH_K = 100
"""Neighbours kept in the ground truth; more than any quality figure needs, so that several k share it."""

WITHIN_SHARES = 4
"""A count of samples for a higher percentile is taken where it fits into so many times a figure's share of `min_duration_s`."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure, complete: what the measuring processes are told and what its key is made of."""

    kind: Kind
    key: str
    """The first 20 hexadecimal digits of the hash of `parts`."""
    parts: Mapping[str, Any]
    """Everything that can change the numbers: settings, data, weights, source, versions, machine."""
    settings: Mapping[str, Any]
    """The settings among them, as the record shows them."""
    labels: Mapping[str, Any]
    data_folder: Path
    recipe: str
    """Key of the vectors this cell's model makes of its data."""
    weights: Weights
    job: Job

    @property
    def but_batch_size(self) -> str:
        """What the cell is besides its batch size: cells alike in this need the more memory the larger their batch is."""
        named = {name: value for name, value in self.parts.items() if name != "settings"}
        return digest({**named, "settings": {name: value for name, value in self.settings.items() if name != "batch_size"}})

    @property
    def devices(self) -> tuple[str, ...]:
        """What is at work while it is measured: of a search cell the processors, and what its vectors and ground truth are made on."""
        return (str(self.labels["device"]),) if self.kind == "embed" else ("cpu", self.job.device)

    @property
    def title(self) -> str:
        """What a person calls this cell."""
        if self.kind == "embed":
            computed = "" if self.settings["backend"] == "torch" else f" by {self.settings['backend']}"
            where = f"{self.labels['device']}{computed}"
            return f"embed {self.labels['model']} on {where}, {self.settings['dtype']}, batch {self.settings['batch_size']}"
        return f"search {self.labels['store']}/{self.labels['index']} on {self.labels['model']} vectors"


@dataclass(frozen=True)
class _Common:
    """What a job's two cells have in common."""

    settings: Mapping[str, Any]
    recipe: str
    surroundings: Mapping[str, Any]
    labels: Mapping[str, Any]
    modules: list[str]
    """Those that make the vectors."""

    @classmethod
    def of(cls, job: Job, data: Data, weights: Weights) -> _Common:
        protocol: dict[str, Any] = {
            "processes": job.processes,
            "min_duration_s": job.min_duration_s,
            "min_requests": job.min_requests,
            "seed": job.seed,
        }
        if job.exclusive is not True:
            protocol["exclusive"] = job.exclusive
        modules = [_module(job.nodes["model"])]
        if job.backend != "torch" and isinstance(job.model, Exportable):  # the runtime, with its libraries
            modules.append(job.model.backends[job.backend])
        made_from = {
            "model": {name: value for name, value in job.nodes["model"].items() if name != "gflop_per_item"},  # which only estimates use
            "backend": job.backend,
            "dtype": job.dtype,
            "attention": job.attention,
            "compile": job.compile,
            "weights": weights.fingerprint,
            "data": data.fingerprint,
        }
        recipe = digest_of(
            {
                **made_from,
                "source": source_of([*modules, "harness.vectors"]),
                "versions": versions_used_by([*modules, "harness.vectors"]),
            }
        )[:32]
        surroundings = {"within_shares": WITHIN_SHARES, "variables": environment(job.threads)}
        labels = {"model": job.choices["model"], "dataset": job.choices["dataset"], "modality": _modality(data)}
        return cls({**protocol, **made_from}, recipe, surroundings, labels, modules)


def embed_cell(job: Job, data: Data, data_folder: Path, weights: Weights) -> Cell:
    """Return a job's embed cell.

    Parameters
    ----------
    job : Job
        Resolved and checked settings.
    data : Data
        The job's dataset, laid out in `data_folder`.
    weights : Weights
        Where the model's weights come from on this machine.
    """
    common = _Common.of(job, data, weights)
    modules = [*common.modules, "harness.embed_cell", "harness.summary"]  # how figures are computed decides about them, too
    device, hardware = place_of(job, weights)
    settings = {
        **common.settings,
        "device": device,
        "batch_size": job.batch_size,
        "interop_threads": job.interop_threads,
        "embed_items": job.embed_items,
    }
    parts = {
        "schema": SCHEMA_VERSION,
        "kind": "embed",
        "settings": settings,
        "source": source_of(modules),
        "versions": versions_used_by(modules),
        "surroundings": common.surroundings,
        "machine": hardware,
    }
    labels = {**common.labels, "device": device}
    return Cell("embed", digest_of(parts)[:20], parts, settings, labels, data_folder, common.recipe, weights, job)


def search_cell(job: Job, data: Data, data_folder: Path, weights: Weights, engine: Any) -> Cell:
    """Return a job's search cell.

    Parameters
    ----------
    job, data, data_folder, weights : Job, Data, Path, Weights
        As for `embed_cell`.
    engine : JSON-like
        What the store says of the engine that it will reach, see `harness.interfaces.Identified`; None where it says nothing.
    """
    common = _Common.of(job, data, weights)
    store, index = job.nodes["store"], job.nodes["index"]
    modules = [_module(store), _module(index), "harness.search_cell", "harness.vectors", "harness.truth", "harness.search_summary"]
    settings = {
        **common.settings,
        "store": dict(store),
        **({} if engine is None else {"engine": engine}),
        "index": dict(index),
        "metric": job.metric,
        "k": list(job.k),
        **_load(job),
    }
    parts = {
        "schema": SCHEMA_VERSION,
        "kind": "search",
        "settings": settings,
        "recipe": common.recipe,
        "neighbours": data.labels.get("neighbours"),  # given ones are the ground truth, so that recall depends on them
        "source": source_of(modules),
        "versions": versions_used_by(modules),
        "surroundings": common.surroundings,
        "machine": {**machine(), "threads": job.threads},
    }
    labels = {
        **common.labels,
        "device": None,
        "store": job.choices["store"],
        "index": job.choices["index"],
        "build_params": job.index.build_params(),
    }
    return Cell("search", digest_of(parts)[:20], parts, settings, labels, data_folder, common.recipe, weights, job)


def _module(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[0]


def place_of(job: Job, weights: Weights) -> tuple[str, dict[str, Any]]:
    """Return the device that a job's model computes on, as the record calls it, and the machine it is part of.

    A model behind an endpoint computes on neither a device of ours nor on this machine, which only asks: it is called so, and figures
    of it are not set beside this machine's.
    """
    if weights.kind != "served":
        return job.device, {**machine(), "device": job.device, "device_name": available().get(job.device), "threads": job.threads}
    asked_from = f"an endpoint, asked from {machine()['cpu']}"
    return "endpoint", {**machine(), "cpu": asked_from, "device": "endpoint", "device_name": weights.source, "threads": job.threads}


def _modality(data: Data) -> str:
    """Return what is searched by what, as a person reads it: ``image``, or ``text → image`` across modalities."""
    return data.modality if data.query_modality == data.modality else f"{data.query_modality} → {data.modality}"


def environment(threads: int) -> dict[str, str]:
    """Return the variables under which measuring processes start: threads fixed, no network, no chatter."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def embed_spec(cell: Cell) -> dict[str, Any]:
    """Return what a process that measures (or uses) a cell's model is told."""
    job = cell.job
    return {
        "model": dict(job.nodes["model"]),
        "weights": asdict(cell.weights),
        "device": job.device,
        "backend": job.backend,
        "dtype": job.dtype,
        "attention": job.attention,
        "compile": job.compile,
        "batch_size": job.batch_size,
        "interop_threads": job.interop_threads,
        "data": str(cell.data_folder),
        "embed_items": job.embed_items,
        **_protocol(job),
    }


def search_spec(cell: Cell, vectors: Path) -> dict[str, Any]:
    """Return what a process that measures a search cell is told."""
    job = cell.job
    return {
        "store": dict(job.nodes["store"]),
        "index": dict(job.nodes["index"]),
        "metric": job.metric,
        "k": list(job.k),
        **_load(job),
        "vectors": str(vectors),
        "deadline_s": job.timeout_s / 2,
        **_protocol(job),
    }


def _load(job: Job) -> dict[str, Any]:
    return {
        "vector_type": job.vector_type,
        "filter": list(job.filter),
        "target_recall": list(job.target_recall),
        "concurrency": list(job.concurrency),
        "rate": list(job.rate),
        "p99_target_s": job.p99_target_s,
        "churn_per_s": list(job.churn_per_s),
        "churn_upserts": job.churn_upserts,
        "nq": job.nq,
    }


def _protocol(job: Job) -> dict[str, Any]:
    share = job.min_duration_s / job.processes
    return {"share_s": share, "max_s": WITHIN_SHARES * share, "min_requests": job.min_requests, "seed": job.seed}
