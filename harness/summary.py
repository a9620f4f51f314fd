"""From what the replicates measured to a cell's figures, each with the interval of its own unit of replication.

Timings replicate over processes, builds over builds, recall and quality over queries (each query's score being the mean
over the builds). Nothing here reads a clock; nothing in the measuring processes computes a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import STAGES, Data, Ids
from harness.metrics import labels as label_metrics
from harness.metrics.recall import recall_at_k, strict_recall_at_k
from harness.metrics.similarity import Neighbours
from harness.records import Better, Measured, Point
from harness.statistics import Estimate, mean_over_queries, over_processes, percentile_over_processes, within_process_percentile

LABEL_DEPTH = 10
"""The k of nDCG@k and label recall@k; 10 is the field's habit (BEIR, MTEB)."""


@dataclass(frozen=True)
class Outcome:
    """What one replicate left behind."""

    result: Mapping[str, Any]
    samples: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Summary:
    """A cell's figures and raw samples, ready for the record."""

    metrics: Mapping[str, Measured]
    points: tuple[Point, ...]
    caveats: tuple[tuple[str, str], ...]
    samples: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the loaded model turned out to be (embed cells), or which engine it was (search cells)."""


def of_embed(outcomes: Sequence[Outcome], memory: Mapping[str, Any], *, device: str, unit: str) -> Summary:
    """Return the figures of an embed cell from its replicates and its memory pass."""

    def scalar(name: str, unit: str, better: Better) -> Measured:
        return _measured(over_processes([outcome.result[name] for outcome in outcomes]), unit, better)

    metrics = {
        "throughput_per_s": scalar("throughput_per_s", "items/s", "higher"),
        "units_per_s": scalar("units_per_s", f"{unit}/s", "higher"),
        "pipeline_per_s": scalar("pipeline_per_s", "items/s", "higher"),
        "load_s": scalar("load_s", "s", "lower"),
        "first_batch_s": scalar("first_batch_s", "s", "lower"),
        "first_query_s": scalar("first_query_s", "s", "lower"),
        "batch_latency_p50_s": _percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.5),
        "batch_latency_p95_s": _percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.95),
        "query_embed_p50_s": _percentile([outcome.samples["query_s"] for outcome in outcomes], 0.5),
        "query_embed_p99_s": _percentile([outcome.samples["query_s"] for outcome in outcomes], 0.99),
        "peak_rss_bytes": _single(memory["peak_rss_bytes"], "bytes", "not measured"),
        "device_peak_bytes": _single(memory["device_peak_bytes"], "bytes", f"device={device} has no memory of its own that torch counts"),
    }
    for stage in STAGES:
        if stage == "transfer" and device == "cpu":
            metrics["transfer_s"] = Measured(None, "s", "lower", reason="device=cpu: nothing is moved")
        else:
            metrics[f"{stage}_s"] = _measured(over_processes([outcome.result["stages"][stage] for outcome in outcomes]), "s", "lower")
    truncated = outcomes[0].result["truncated_share"]
    metrics["truncated_share"] = (
        Measured(
            truncated, "ratio", "none", n=outcomes[0].result["items"], replication="query", reason="a count over the sample, no interval"
        )
        if unit == "tokens"
        else Measured(None, "ratio", "none", reason="only text is truncated")
    )
    caveats = [(str(code), str(text)) for outcome in outcomes for code, text in outcome.result["caveats"]]
    samples = {f"{name}_{i}": values for i, outcome in enumerate(outcomes) for name, values in outcome.samples.items()}
    return Summary(metrics, (), tuple(dict.fromkeys(caveats)), samples, outcomes[0].result["info"])


def of_search(
    outcomes: Sequence[Outcome],
    memory: Mapping[str, Any],
    *,
    vectors: Path,
    truth: Neighbours,
    data: Data,
    random_weights: bool,
    exact: bool,
) -> Summary:
    """Return the figures of a search cell from its replicates and its memory pass.

    Parameters
    ----------
    vectors : Path
        Folder of the source vectors, from which distances are computed again for ties.
    truth : Neighbours
        Exact neighbours of all queries.
    data : Data
        For the relevance labels.
    random_weights : bool
        Vectors of random networks are collapsed: quality is then null.
    exact : bool
        Whether the index finds the exact neighbours by construction.
    """
    corpus = np.load(vectors / "corpus.npy", mmap_mode="r")
    queries = np.load(vectors / "queries.npy")

    def build(name: str, unit: str, better: Better = "lower") -> Measured:
        return _measured(over_processes([outcome.result[name] for outcome in outcomes], unit="build"), unit, better)

    sizes = [outcome.result["index_bytes"] for outcome in outcomes]
    metrics = {
        "insert_s": build("insert_s", "s"),
        "build_s": build("build_s", "s"),
        "ready_s": build("ready_s", "s"),
        "index_bytes": build("index_bytes", "bytes")
        if all(sizes)
        else Measured(None, "bytes", "lower", reason="the store does not tell the size of its index"),
        "first_query_s": _measured(over_processes([outcome.result["first_query_s"] for outcome in outcomes]), "s", "lower"),
        "peak_rss_bytes": _single(memory["peak_rss_bytes"], "bytes", "the store runs in a process that cannot be seen from here"),
        **_quality(truth.ids, data, random_weights, suffix="_exact"),
    }
    samples: dict[str, Any] = {
        f"{name}_{i}": values
        for i, outcome in enumerate(outcomes)
        for name, values in outcome.samples.items()
        if name.startswith(("round_trip_s_", "floor_s_"))
    }
    points = []
    for number, point in enumerate(outcomes[0].result["points"]):
        k = point["k"]
        answers = [outcome.samples[f"ids_{number}"] for outcome in outcomes]
        recall = np.mean([recall_at_k(ids, truth, k=k, queries=queries, corpus=corpus) for ids in answers], axis=0)
        strict = np.mean([strict_recall_at_k(ids, truth, k=k) for ids in answers], axis=0)
        latencies = [outcome.samples[f"latency_s_{number}"] for outcome in outcomes]
        rates = [outcome.result["points"][number]["count"] / outcome.result["points"][number]["wall_s"] for outcome in outcomes]
        figures = {
            "recall": _measured(mean_over_queries(recall, exact=exact), "ratio", "higher"),
            "recall_strict": _measured(mean_over_queries(strict), "ratio", "higher"),
            "search_latency_p50_s": _percentile(latencies, 0.5),
            "search_latency_p95_s": _percentile(latencies, 0.95),
            "search_latency_p99_s": _percentile(latencies, 0.99),
            "round_trip_p50_s": _percentile([outcome.samples[f"round_trip_s_{k}"] for outcome in outcomes], 0.5),
            "floor_p50_s": _percentile([outcome.samples[f"floor_s_{k}"] for outcome in outcomes], 0.5),
            "qps": _measured(over_processes(rates), "1/s", "higher"),
            **_quality(answers[0] if k >= LABEL_DEPTH else None, data, random_weights, others=answers[1:]),
        }
        points.append(Point(k=k, concurrency=1, search_params=point["search_params"], metrics=figures))
        samples[f"recall_{number}"] = recall
        samples |= {f"latency_s_{number}_{i}": values for i, values in enumerate(latencies)}
    engine = {name: outcomes[0].result[name] for name in ("version", "ready", "floor_index")}
    return Summary(metrics, tuple(points), _search_caveats(outcomes), samples, engine)


def _search_caveats(outcomes: Sequence[Outcome]) -> tuple[tuple[str, str], ...]:
    if len(outcomes) > 1:
        return ()
    return (("one_build", "The index was built once: insert, build and recall of another build may differ; raise processes."),)


def _quality(ids: Ids | None, data: Data, random_weights: bool, *, suffix: str = "", others: Sequence[Ids] = ()) -> dict[str, Measured]:
    """Return nDCG and recall against the labels, a query's score being the mean over the builds that answered it."""
    measures: dict[str, Callable[..., label_metrics.LabelScores]] = {
        f"ndcg_at_{LABEL_DEPTH}": label_metrics.ndcg_at_k,
        f"label_recall_at_{LABEL_DEPTH}": label_metrics.recall_at_k,
    }
    reason = None
    if data.qrels is None:
        reason = "the dataset has no relevance labels"
    elif random_weights:
        reason = "random weights: the vectors mean nothing"
    elif ids is None:
        reason = f"needs k ≥ {LABEL_DEPTH}"
    if reason is not None:
        return {f"{name}{suffix}": Measured(None, "ratio", "higher", replication="query", reason=reason) for name in measures}
    scores = {
        name: np.mean([measure(found, data.qrels, k=LABEL_DEPTH).scores for found in (ids, *others)], axis=0)
        for name, measure in measures.items()
    }
    return {f"{name}{suffix}": _measured(mean_over_queries(values), "ratio", "higher") for name, values in scores.items()}


def _percentile(samples: Sequence[NDArray[Any]], q: float) -> Measured:
    """Combine over processes; with a single one, the interval within it, marked as such."""
    estimate = within_process_percentile(samples[0], q) if len(samples) == 1 else percentile_over_processes(samples, q)
    return _measured(estimate, "s", "lower")


def _measured(estimate: Estimate, unit: str, better: Better) -> Measured:
    return Measured(
        value=estimate.value,
        unit=unit,
        better=better,
        lo=estimate.lo,
        hi=estimate.hi,
        n=estimate.n,
        replication=estimate.unit_of_replication,
        reason=estimate.reason,
    )


def _single(value: float | None, unit: str, reason: str) -> Measured:
    """Return a figure that was measured once, in a pass of its own."""
    if value is None:
        return Measured(None, unit, "lower", reason=reason)
    return Measured(float(value), unit, "lower", n=1, replication="process", reason="within one process")
