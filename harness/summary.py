"""From what the replicates measured to a cell's figures, each with the interval of its own unit of replication.

Timings replicate over processes, builds over builds, recall and quality over queries (each query's score being the mean
over the builds). Nothing here reads a clock; nothing in the measuring processes computes a statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from harness.interfaces import STAGES
from harness.records import Better, Measured, Point
from harness.statistics import Estimate, over_processes, percentile_over_processes, within_process_percentile


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
        return measured(over_processes([outcome.result[name] for outcome in outcomes]), unit, better)

    metrics = {
        "throughput_per_s": scalar("throughput_per_s", "items/s", "higher"),
        "units_per_s": scalar("units_per_s", f"{unit}/s", "higher"),
        "pipeline_per_s": scalar("pipeline_per_s", "items/s", "higher"),
        "load_s": scalar("load_s", "s", "lower"),
        "first_batch_s": scalar("first_batch_s", "s", "lower"),
        "first_query_s": scalar("first_query_s", "s", "lower"),
        "batch_latency_p50_s": percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.5),
        "batch_latency_p95_s": percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.95),
        "query_embed_p50_s": percentile([outcome.samples["query_s"] for outcome in outcomes], 0.5),
        "query_embed_p99_s": percentile([outcome.samples["query_s"] for outcome in outcomes], 0.99),
        "peak_rss_bytes": single(memory["peak_rss_bytes"], "bytes", "not measured"),
        "device_peak_bytes": single(memory["device_peak_bytes"], "bytes", f"device={device} has no memory of its own that torch counts"),
    }
    for stage in STAGES:
        if stage == "transfer" and device == "cpu":
            metrics["transfer_s"] = Measured(None, "s", "lower", reason="device=cpu: nothing is moved")
        else:
            metrics[f"{stage}_s"] = measured(over_processes([outcome.result["stages"][stage] for outcome in outcomes]), "s", "lower")
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


def percentile(samples: Sequence[NDArray[Any]], q: float) -> Measured:
    """Combine over processes; with a single one, the interval within it, marked as such."""
    estimate = within_process_percentile(samples[0], q) if len(samples) == 1 else percentile_over_processes(samples, q)
    return measured(estimate, "s", "lower")


def measured(estimate: Estimate, unit: str, better: Better) -> Measured:
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


def single(value: float | None, unit: str, reason: str) -> Measured:
    """Return a figure that was measured once, in a pass of its own."""
    if value is None:
        return Measured(None, unit, "lower", reason=reason)
    return Measured(float(value), unit, "lower", n=1, replication="process", reason="within one process")
