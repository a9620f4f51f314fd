"""From what the replicates measured to a cell's figures, each with the interval of its own unit of replication.

Timings replicate over processes, builds over builds, recall and quality over queries (each query's score being the mean
over the builds). Nothing here reads a clock; nothing in the measuring processes computes a statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import STAGES
from harness.pipeline import bounds
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

    def scalar(name: str, unit: str, better: Better, *, reason: str = "not measured") -> Measured:
        return _replicated([outcome.result[name] for outcome in outcomes], unit, better, reason)

    compiles = "compile=true: the first call of each shape compiles, see compile_s"
    no_memory = f"device={device} has no memory of its own that torch counts"
    metrics = {
        "throughput_per_s": scalar("throughput_per_s", "items/s", "higher"),
        "units_per_s": scalar("units_per_s", f"{unit}/s", "higher", reason="the endpoint does not say how many tokens it read"),
        "pipeline_per_s": scalar("pipeline_per_s", "items/s", "higher"),
        **_bounds(outcomes),
        "load_s": scalar("load_s", "s", "lower"),
        "first_batch_s": scalar("first_batch_s", "s", "lower", reason=compiles),
        "first_query_s": scalar("first_query_s", "s", "lower", reason=compiles),
        "batch_latency_p50_s": percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.5),
        "batch_latency_p95_s": percentile([outcome.samples["batch_s"] for outcome in outcomes], 0.95),
        "query_embed_p50_s": percentile([outcome.samples["query_s"] for outcome in outcomes], 0.5),
        "query_embed_p99_s": percentile([outcome.samples["query_s"] for outcome in outcomes], 0.99),
        "peak_rss_bytes": single(memory["peak_rss_bytes"], "bytes", "not measured"),
        "device_peak_bytes": single(memory["device_peak_bytes"], "bytes", no_memory),
        "device_reserved_bytes": single(memory["device_reserved_bytes"], "bytes", no_memory),
        **_arithmetic(outcomes, device),
    }
    spent = [outcome.result["energy_j_per_item"] for outcome in outcomes]
    metrics["energy_j_per_1000_items"] = _replicated(
        [None if joules is None else 1000 * joules for joules in spent], "J", "lower", outcomes[0].result["energy_reason"]
    )
    if any(outcome.result["compile_s"] is not None for outcome in outcomes):
        took = [outcome.result["compile_s"] for outcome in outcomes]
        no_longer = "the first pass over the shapes took no longer than a later one: nothing was compiled"
        metrics["compile_s"] = _replicated([s if s is not None and s > 0 else None for s in took], "s", "lower", no_longer)
    if (exported_s := outcomes[0].result.get("export_s")) is not None:
        metrics["export_s"] = single(exported_s, "s", "not measured")
    for stage in STAGES:
        if stage == "transfer" and device == "cpu":
            metrics["transfer_s"] = Measured(None, "s", "lower", reason="device=cpu: nothing is moved")
        else:
            metrics[f"{stage}_s"] = measured(over_processes([outcome.result["stages"][stage] for outcome in outcomes]), "s", "lower")
    metrics["truncated_share"] = (
        Measured(None, "ratio", "none", reason="images are scaled, not cut to a length")
        if unit == "images"
        else Measured(None, "ratio", "none", reason="which items the endpoint cuts is not known")
        if outcomes[0].result["truncated_share"] is None
        else _counted(outcomes[0].result["truncated_share"], "ratio", outcomes[0].result["items"])
    )
    asked, caveats = _requests(outcomes)
    caveats += [(str(code), str(text)) for outcome in outcomes for code, text in outcome.result["caveats"]]
    samples = {f"{name}_{i}": values for i, outcome in enumerate(outcomes) for name, values in outcome.samples.items()}
    samples |= {  # of each process, so that runs can be compared by what was repeated
        f"each_{name}": np.array([outcome.result[name] for outcome in outcomes])
        for name in ("throughput_per_s", "pipeline_per_s", "load_s")
    }
    return Summary(metrics | asked, (), tuple(dict.fromkeys(caveats)), samples, outcomes[0].result["info"])


def _bounds(outcomes: Sequence[Outcome]) -> dict[str, Measured]:
    """Return what the stage times allow at most, see `harness.pipeline.bounds`, and how many threads prepared."""
    results = [outcome.result for outcome in outcomes]
    found = [
        bounds(result["stages"], items=result["batch_items"], workers=result["crew"]["workers"], in_turns=result["crew"]["in_turns"])
        for result in results
    ]
    return {
        "overlap_bound_per_s": measured(over_processes([overlap for overlap, _ in found]), "items/s", "higher"),
        "device_bound_per_s": measured(over_processes([device for _, device in found]), "items/s", "higher"),
        "pipeline_workers": Measured(
            float(results[0]["crew"]["workers"]), "threads", "none", n=len(results), reason="a setting, no interval"
        ),
    }


def _arithmetic(outcomes: Sequence[Outcome], device: str) -> dict[str, Measured]:
    """Return the counted operations and what the forward passes reach of the device's peak."""
    found = next((outcome.result["arithmetic"] for outcome in outcomes if outcome.result["arithmetic"]), None)
    rates = [outcome.result["throughput_per_s"] for outcome in outcomes]
    if found is None:
        uncounted = "the forward pass does no arithmetic that torch counts"
        return {
            "counted_gflop_per_item": Measured(None, "GFLOP", "none", reason=uncounted),
            "flop_per_s": Measured(None, "FLOP/s", "higher", reason=uncounted),
            "mfu": Measured(None, "ratio", "higher", reason=uncounted),
        }
    at_peak_s = found["peak_s_per_item"]
    unknown = (
        "the peak of a CPU is not known: its clock and the width of its units are not told"
        if device == "cpu"
        else f"the peak of device={device} in this precision is not in the table of harness/peaks.py"
    )
    return {
        "counted_gflop_per_item": _counted(found["flop_per_item"] / 1e9, "GFLOP", outcomes[0].result["items"]),
        "flop_per_s": measured(over_processes([rate * found["flop_per_item"] for rate in rates]), "FLOP/s", "higher"),
        "mfu": _replicated([None if at_peak_s is None else rate * at_peak_s for rate in rates], "ratio", "higher", unknown),
    }


def _requests(outcomes: Sequence[Outcome]) -> tuple[dict[str, Measured], list[tuple[str, str]]]:
    """Return what a model behind an endpoint counted, with a caveat where requests were repeated; nothing for one that computes here."""
    found = [outcome.result["requests"] for outcome in outcomes]
    if any(one is None for one in found):
        return {}, []
    total = {name: sum(one[name] for one in found) for name in found[0]}
    figures = {
        name: Measured(float(total[name]), "1", "none", n=len(found), reason="a count over all processes, no interval")
        for name in ("requests", "retries", "rate_limited")
    }
    figures["requests_per_s"] = _replicated([one["per_s"] for one in found], "1/s", "higher", "not measured")
    if not total["retries"]:
        return figures, []
    text = (
        f"{total['retries']:,.0f} attempts beside {total['requests']:,.0f} answered requests came to nothing and were repeated, "
        f"{total['rate_limited']:,.0f} of them because the endpoint wanted fewer. The {total['waited_s']:,.1f} s that took are in no "
        "figure, so a corpus takes longer than the rates here say. Ask for a higher limit or a smaller batch_size."
    )
    return figures, [("requests_repeated", text)]


def _replicated(values: Sequence[float | None], unit: str, better: Better, reason: str | None) -> Measured:
    """Combine what each process measured; null, for that reason, where one has nothing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Measured(None, unit, better, reason=reason)
    return measured(over_processes(known), unit, better)


def _counted(value: float, unit: str, n: int) -> Measured:
    """Return a figure that was counted, over `n` things, and not drawn from anything."""
    return Measured(value, unit, "none", n=n, replication="query", reason="a count over the sample, no interval")


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
