"""Records as a run leaves them, with their raw samples, of processes whose speeds a test decides on. No number is a measurement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from harness.fingerprint import digest
from harness.records import Measured, Point, Record, write
from harness.statistics import mean_over_queries, over_processes
from harness.summary import measured, percentile, single
from tests.report.examples import DATASETS, ENVIRONMENT, MACHINE, MODELS

SOURCE = {
    "harness.timing": "t" * 64,
    "harness.metrics.recall": "r" * 64,
    "harness.metrics.similarity": "s" * 64,
    "harness.metrics.labels": "l" * 64,
}
SPREAD = 0.01
"""Standard deviation of the processes' speeds, on the logarithm."""


def speeds(rng, processes, scale):
    return scale * np.exp(SPREAD * rng.standard_normal(processes))


def samples_of(rng, typical, count):
    return [each * np.exp(0.05 * rng.standard_normal(count)) for each in typical]


def _environment(machine, source, commit):
    hardware = {**MACHINE, **(machine or {})}
    return {
        **ENVIRONMENT,
        "machine": hardware,
        "fingerprint": digest(hardware)[:12],
        "source": {**SOURCE, **(source or {})},
        "commit": commit,
    }


def _record(
    kind, key, labels, settings, *, seed, machine=None, source=None, commit="c" * 40, model="minilm", weights=None, data=None, **more
):
    fields: dict[str, Any] = {
        "kind": kind,
        "key": key,
        "status": "ok",
        "error": None,
        "settings": {"seed": 0, "processes": 3, "model": {"_target_": f"models.{model}"}, "dtype": "fp32", **settings},
        "labels": {"model": model, "dataset": "docstrings", **labels},
        "data": {**DATASETS["docstrings"], **(data or {})},
        "model": {**MODELS["minilm"], **(weights or {})},
        "environment": _environment(machine, source, commit),
        "metrics": {},
        "started_at": f"2026-11-02T10:{seed % 60:02d}:00.000000Z",
        "duration_s": 20.0,
    }
    return Record(**(fields | more))


def runs(count, make, *, seed=0, **more):
    """The same cell measured so many times, at different times."""
    return [make(seed=seed + number, **more) for number in range(count)]


def embed(*, scale=1.0, processes=3, seed=0, batch_size=8, key=None, **more):
    """An embed cell whose times are `scale` times the usual."""
    rng = np.random.default_rng([seed, 1])
    batch, query, load = speeds(rng, processes, 0.1 * scale), speeds(rng, processes, 0.01 * scale), speeds(rng, processes, 1.5 * scale)
    rates = batch_size / batch
    raw = {"forward_s": samples_of(rng, batch, 40), "batch_s": samples_of(rng, batch, 40), "query_s": samples_of(rng, query, 700)}
    arrays = {f"{name}_{i}": one for name, several in raw.items() for i, one in enumerate(several)}
    each = {"throughput_per_s": rates, "pipeline_per_s": 0.9 * rates, "load_s": load}
    metrics = {
        **{name: measured(over_processes(values), "items/s", "higher") for name, values in each.items() if name != "load_s"},
        "load_s": measured(over_processes(load), "s", "lower"),
        "forward_s": measured(over_processes(batch), "s", "lower"),
        "batch_latency_p50_s": percentile(raw["batch_s"], 0.5),
        "query_embed_p50_s": percentile(raw["query_s"], 0.5),
        "peak_rss_bytes": single(600e6 * scale, "bytes", ""),
    }
    settings = {"batch_size": batch_size, "device": "cpu", "processes": processes}
    record = _record(
        "embed",
        key or f"e{batch_size:03d}",
        {"device": "cpu"},
        {**settings, **more.pop("settings", {})},
        seed=seed,
        metrics=metrics,
        **more,
    )
    return replace(record, samples={**arrays, **{f"each_{name}": values for name, values in each.items()}})


def search(
    *, scale=1.0, processes=3, seed=0, index="hnsw", store="faiss", knobs=({"ef": 64},), recalls=None, size=33_120_044.0, key=None, **more
):
    """A search cell; `recalls` holds the queries' scores of each knob's value."""
    rng = np.random.default_rng([seed, 2])
    recalls = [queries(number) for number in range(len(knobs))] if recalls is None else recalls
    insert, build = speeds(rng, processes, 3.0 * scale), speeds(rng, processes, 8.0 * scale)
    sizes = np.full(processes, size) if np.ndim(size) == 0 else np.asarray(size, dtype=float)
    points, arrays = [], {"each_insert_s": insert, "each_build_s": build, "each_index_bytes": sizes}
    for number, (params, recall) in enumerate(zip(knobs, recalls, strict=True)):
        raw = samples_of(rng, speeds(rng, processes, 0.002 * scale), 700)
        arrays |= {f"latency_s_{number}_{i}": one for i, one in enumerate(raw)} | {
            f"recall_{number}": recall,
            f"ndcg_at_10_{number}": recall / 2,
        }
        arrays[f"each_qps_{number}"] = np.array([1 / one.mean() for one in raw])
        points.append(
            Point(
                10,
                1,
                params,
                {
                    "recall": measured(mean_over_queries(recall, exact=index == "flat"), "ratio", "higher"),
                    "ndcg_at_10": measured(mean_over_queries(recall / 2), "ratio", "higher"),
                    "search_latency_p50_s": percentile(raw, 0.5),
                    "search_latency_p95_s": percentile(raw, 0.95),
                    "search_latency_p99_s": percentile(raw, 0.99),
                    "qps": measured(over_processes(arrays[f"each_qps_{number}"]), "1/s", "higher"),
                },
            )
        )
    metrics = {
        "insert_s": measured(over_processes(insert, unit="build"), "s", "lower"),
        "build_s": measured(over_processes(build, unit="build"), "s", "lower"),
        "index_bytes": measured(over_processes(sizes, unit="build"), "bytes", "lower"),
        "peak_rss_bytes": single(300e6 * scale, "bytes", ""),
    }
    settings = {
        "store": {"_target_": f"stores.{store}"},
        "index": {"_target_": f"stores.index.{index}", "M": 16, **{name: [one[name] for one in knobs] for name in knobs[0]}},
        "metric": "cosine",
        "k": [10],
        "filter": [None],
        "processes": processes,
    }
    labels = {"device": None, "store": store, "index": index, "build_params": {"M": 16}}
    record = _record(
        "search",
        key or f"s-{store}-{index}",
        labels,
        {**settings, **more.pop("settings", {})},
        seed=seed,
        metrics=metrics,
        points=tuple(points),
        **more,
    )
    return replace(record, samples=arrays)


def queries(seed=0, count=300, lose=0.05):
    """Scores of queries, some of which have lost a neighbour or two."""
    rng = np.random.default_rng([seed, 3])
    return 1 - rng.binomial(10, lose, count) / 10


def failed(record, error="RuntimeError: broken", status="failed"):
    return replace(record, status=status, error=error, metrics={}, points=(), samples={})


def folder_of(path, *records):
    for record in records:
        write(record, path)
    return path


def missing(reason):
    return Measured(None, "bytes", "lower", reason=reason)
