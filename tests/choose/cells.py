"""Records and samples that look like real ones, made of stated numbers; none is a measurement."""

from dataclasses import replace

import numpy as np

from harness.choose.candidates import Candidate
from harness.fingerprint import digest
from harness.records import Measured, Point, Record, write

MODEL = {"_target_": "models.sentence_transformers.SentenceTransformersModel", "source": "org/small", "dim": 8}
MACHINE = {"cpu": "Example CPU", "cores": 2, "memory_gib": 8, "threads": 2}


def timing(value, *, spread=0.05, n=3, unit="s", better="lower"):
    return Measured(value, unit, better, value * (1 - spread), value * (1 + spread), n)


def score(value, lo, hi, n=300):
    return Measured(value, "ratio", "higher", lo, hi, n, "query")


def once(value):
    return Measured(value, "bytes", "lower", n=1, reason="within one process")


def made_from(model="small", *, data="d0", dtype="fp32", weights="w0"):
    return {
        "model": {**MODEL, "source": f"org/{model}"},
        "dtype": dtype,
        "attention": "auto",
        "compile": False,
        "weights": weights,
        "data": data,
    }


def times(mean_s, *, count=700, processes=3, seed=0):
    """Positive samples of some processes, each with a speed of its own."""
    rng = np.random.default_rng(seed)
    return [mean_s * rng.lognormal(0.02 * process, 0.1, count) for process in range(processes)]


def _record(kind, key, model, settings, machine, **changes):
    fields = {
        "kind": kind,
        "key": key,
        "status": "ok",
        "error": None,
        "settings": settings,
        "labels": {"model": model, "dataset": "texts", "device": "cpu" if kind == "embed" else None},
        "data": {"name": "texts", "fingerprint": settings["data"], "corpus": 1000, "queries": 300, "dim": 8},
        "model": {"weights": "pretrained", "source": f"org/{model}", "revision": "abc", "dtype": "fp32", **changes.pop("about", {})},
        "environment": {
            "machine": {**machine, **({"device": "cpu", "device_name": None} if kind == "embed" else {})},
            "fingerprint": digest(machine)[:12],
        },
        "metrics": {},
        "started_at": "2026-11-02T10:00:00.000000Z",
    }
    return Record(**(fields | changes))


def embed(key="e0", model="small", *, query_s=0.01, batch_size=32, memory=500e6, rate=100.0, machine=MACHINE, samples=None, **changes):
    settings = {**made_from(model), **changes.pop("made_from", {}), "batch_size": batch_size, "device": "cpu", "processes": 3}
    metrics = {"pipeline_per_s": timing(rate, unit="items/s", better="higher"), "peak_rss_bytes": once(memory)}
    samples = times(query_s, seed=1) if samples is None else samples
    kept = {f"query_s_{i}": one for i, one in enumerate(samples)}
    return _record("embed", key, model, settings, machine, metrics=metrics, samples=kept, **changes)


def point(ef, recall=(0.96, 0.95, 0.97), *, k=10, concurrency=1, ndcg=None, **more):
    metrics = {"recall": score(*recall)}
    metrics["ndcg_at_10"] = score(*ndcg) if ndcg else Measured(None, "ratio", "higher", replication="query", reason="no labels")
    return Point(k, concurrency, {"ef": ef}, metrics, **more)


def search(key="s0", model="small", *, points=None, latencies=(0.002,), index="hnsw", machine=MACHINE, samples=None, **changes):
    points = (point(64),) if points is None else points
    settings = {
        **made_from(model),
        **changes.pop("made_from", {}),
        "store": {"_target_": "stores.milvus_lite.MilvusLite"},
        "index": {"_target_": "stores.index.HNSW", "M": 16, "ef_construction": 100, "ef": [64]},
        "metric": "cosine",
        "vector_type": "fp32",
        "k": sorted({one.k for one in points}),
        "seed": 0,
        **changes.pop("settings", {}),
    }
    kept = {}
    for number, latency in enumerate(latencies):
        searched = times(latency, seed=2 + number)
        kept |= {f"latency_s_{number}_{i}": one for i, one in enumerate(searched)}
        kept[f"each_qps_{number}"] = np.array([1 / one.mean() for one in searched])
    kept |= samples or {}
    metrics = {"peak_rss_bytes": once(300e6), "index_bytes": Measured(1000 * 40.0, "bytes", "lower", n=3, replication="build")}
    record = _record("search", key, model, settings, machine, metrics=metrics, points=tuple(points), samples=kept, **changes)
    labels = {**record.labels, "store": "milvus_lite", "index": index, "build_params": {"M": 16, "ef_construction": 100}}
    return Record(**{**record.__dict__, "labels": labels})


def folder(path, *records):
    """Write records below a folder; returns it."""
    for record in records:
        write(record, path)
    return path


def candidate(name, *, recall=(0.96, 0.95, 0.97), ndcg=None, p50=0.010, p99=None, memory=1e9, throughput=80.0, pairs=None, scores=None):
    """A candidate of stated figures: triples are value, lower and upper bound; a number has an interval of ±5 %; None is not known."""

    def of(value, unit="s", better="lower", replication="process"):
        if value is None:
            return Measured(None, unit, better, replication=replication, reason="not measured here")
        if isinstance(value, tuple):
            reason = "all 3 values are identical, so their spread is not known" if value[1] is None else None
            return Measured(value[0], unit, better, value[1], value[2], 3, replication, reason)
        return Measured(value, unit, better, value * 0.95, value * 1.05, 3, replication)

    figures = {
        "recall": of(recall, "ratio", "higher", "query"),
        "ndcg_at_10": of(ndcg, "ratio", "higher", "query"),
        "latency_p50_s": of(p50),
        "latency_p95_s": of(p99),
        "latency_p99_s": of(p99),
        "throughput_per_s": of(throughput, "1/s", "higher"),
        "memory_bytes": Measured(memory, "bytes", "lower", n=1, reason="measured once" if memory else "not measured here"),
        "pipeline_per_s": of(100.0, "items/s", "higher"),
    }
    return Candidate(EMBED, replace(SEARCH, key=name), 0, figures, pairs or {}, scores or {}, name)


EMBED, SEARCH = embed(), search()
