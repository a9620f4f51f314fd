"""How a figure is written: the only place where seconds become milliseconds and bytes megabytes.

Records and frames hold seconds and bytes. Each figure has one fixed unit on every page, so that a column can be
read and sorted down; the number of digits follows from the value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

NULL = "–"
"""What stands for a figure that was not measured; never 0."""

WITHIN = "†"
"""Marks an interval that rests on one process."""

INTERVALS = "[low, high] is the 95 % interval: over processes for timings, over queries for recall and quality, over builds for builds."
WITHIN_MEANS = f"{WITHIN} within one process: the interval leaves out how much one process differs from the next."

Group = Literal["Throughput", "Workers", "One batch", "One query", "Cold start", "Memory", "Arithmetic", "Endpoint", "Input",
                "Index fidelity", "One search", "Load", "Changes", "Build", "Attribution", "Quality against labels", "Stages"]  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """How one figure of the frame is written."""

    title: str
    unit: str
    """Printed in the heading; empty for ratios and scores."""
    group: Group
    meaning: str
    scale: float = 1.0
    """What the stored value is multiplied by."""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


def _ms(title: str, group: Group, meaning: str) -> Shown:
    return Shown(title, "ms", group, meaning, 1e3)


def _mb(title: str, meaning: str) -> Shown:
    return Shown(title, "MB", "Memory", meaning, 1e-6)


SHOWN: dict[str, Shown] = {
    "pipeline_per_s": Shown("pipeline", "items/s", "Throughput", "Items in, vectors out, preparation overlapped with the forward pass."),
    "overlap_bound_per_s": Shown("bound", "items/s", "Throughput",
                                 "What the pipeline could reach if preparation were spread perfectly over the cores at hand."),
    "device_bound_per_s": Shown("device alone", "items/s", "Throughput", "What the device could do if nothing had to be prepared."),
    "pipeline_workers": Shown("workers", "threads", "Throughput", "Threads that prepare batches in the pipeline."),
    "corpus_per_s": Shown("corpus", "items/s", "Workers", "Stored documents in, vectors kept, by so many workers of an engine."),
    "scaling_efficiency": Shown("scaling", "", "Workers", "That rate by as many times the rate of one worker in the same round."),
    "throughput_per_s": Shown("forward", "items/s", "Throughput", "Prepared batches through the forward pass alone."),
    "units_per_s": Shown("forward", "units/s", "Throughput", "The same in the modality's own unit."),
    "batch_latency_p50_s": _ms("p50", "One batch", "Median time of one batch through all stages, one after the other."),
    "batch_latency_p95_s": _ms("p95", "One batch", "95th percentile of the time of one batch through all stages."),
    "query_embed_p50_s": _ms("p50", "One query", "Median time to embed one query: batch 1, from text or image to vector."),
    "query_embed_p99_s": _ms("p99", "One query", "99th percentile of the time to embed one query."),
    "load_s": Shown("load", "s", "Cold start", "Time to load the model in a fresh process."),
    "first_batch_s": _ms("first batch", "Cold start", "The first batch after loading, before any warm-up."),
    "first_query_s": _ms("first query", "Cold start", "The first query, before any warm-up."),
    "compile_s": Shown("compile", "s", "Cold start", "What the first pass over all shapes takes longer than a later one."),
    "export_s": Shown("export", "s", "Cold start", "Exporting the network to a runtime besides torch, once; not part of the load."),
    "truncated_share": Shown("truncated", "", "Input", "Share of the items cut to the model's longest input."),
    "peak_rss_bytes": _mb("process", "Highest resident memory, measured once, in a process of its own (1 MB = 10⁶ bytes)."),
    "device_peak_bytes": _mb("device", "Highest memory on the accelerator."),
    "device_reserved_bytes": _mb("device reserved", "Highest memory torch held on the accelerator, whether in use or kept."),
    "counted_gflop_per_item": Shown("an item", "GFLOP", "Arithmetic", "Operations of one item's forward pass, padding included, counted."),
    "flop_per_s": Shown("rate", "GFLOP/s", "Arithmetic", "Counted operations a second of the forward passes.", 1e-9),
    "mfu": Shown("utilisation", "", "Arithmetic", "That rate by the device's peak in the precision used (MFU)."),
    "energy_j_per_1000_items": Shown("energy", "J per 1,000 items", "Arithmetic",
                                     "What the whole GPU draws during the forward passes of 1,000 items."),
    "requests": Shown("requests", "answered", "Endpoint", "Requests answered, of all processes."),
    "requests_per_s": Shown("requests", "1/s", "Endpoint", "Requests a second of the forward passes, one at a time, waiting left out."),
    "retries": Shown("retries", "attempts", "Endpoint", "Attempts that came to nothing and were repeated."),
    "rate_limited": Shown("rate limited", "attempts", "Endpoint", "Those of them that the endpoint refused for coming too fast."),
    "recall": Shown("recall", "", "Index fidelity", "Share of the true k nearest neighbours found, ties counted as equal."),
    "recall_strict": Shown("strict", "", "Index fidelity", "The same by id alone: a tied neighbour under another id counts as a miss."),
    "search_latency_p50_s": _ms("p50", "One search", "Median time of one search, seen by the client."),
    "search_latency_p95_s": _ms("p95", "One search", "95th percentile of the time of one search."),
    "search_latency_p99_s": _ms("p99", "One search", "99th percentile of the time of one search."),
    "qps": Shown("searches", "1/s", "Load", "Queries answered a second at the stated concurrency or rate."),
    "max_rate_at_p99_per_s": Shown("highest rate", "1/s", "Load", "Highest rate of requests whose p99 stays within the target."),
    "errors": Shown("errors", "requests", "Load", "Requests that failed, of all processes; they have no latency."),
    "timeouts": Shown("timeouts", "requests", "Load", "Those of them that were not answered in time."),
    "client_cpu": Shown("client", "cores", "Load", "What the busiest client process used of a core; near 1 the client is the limit."),
    "send_lag_p99_s": _ms("send lag p99", "Load", "99th percentile of how late a request left after it was due."),
    "changes_per_s": Shown("changes", "1/s", "Changes", "Rows inserted, deleted or replaced a second while searches ran."),
    "change_p50_s": _ms("change p50", "Changes", "Median time from when a change was sent until it was acknowledged."),
    "freshness_p50_s": _ms("fresh p50", "Changes", "Median time from an acknowledged insertion until a search found the row."),
    "freshness_p95_s": _ms("fresh p95", "Changes", "95th percentile of that time."),
    "deletion_p50_s": _ms("deleted p50", "Changes", "Median time from an acknowledged deletion until a search found the row no more."),
    "deletion_p95_s": _ms("deleted p95", "Changes", "95th percentile of that time."),
    "deleted_share": Shown("deleted rows", "", "Changes", "Share of the ids returned whose row had been deleted before."),
    "round_trip_p50_s": _ms("round trip", "Attribution", "Median time of a search in a near-empty collection: the cost of asking."),
    "floor_p50_s": _ms("floor", "Attribution", "Median time with as many rows and the cheapest index: what no choice of index can remove."),
    "distance_computations": Shown("distances", "a query", "Attribution", "Distances computed for an average query, as the engine counts."),
    "insert_s": Shown("insert", "s", "Build", "Time to insert the whole corpus."),
    "build_s": Shown("build", "s", "Build", "Time from the last insertion until the store itself says that the index is ready."),
    "ready_s": Shown("ready", "s", "Build", "Part of building: the wait after the store has been asked to build."),
    "store_files_s": Shown("files", "s", "Build", "Part of inserting: writing the files of a bulk import."),
    "store_import_s": Shown("import", "s", "Build", "Part of inserting: the server reads them in."),
    "store_flush_s": Shown("flush", "s", "Build", "Part of the above: writing what was inserted into segments."),
    "store_build_s": Shown("index", "s", "Build", "Part of the above: building the index itself."),
    "store_compact_s": Shown("compact", "s", "Build", "Part of the above: merging segments."),
    "store_load_s": Shown("load", "s", "Build", "Part of the above: loading the collection for searching."),
    "store_wait_s": Shown("wait", "s", "Build", "Part of the above: waiting until the store proved that it is ready."),
    "server_rss_before_bytes": Shown("server before", "MB", "Build", "Resident memory of the server before the rows came.", 1e-6),
    "server_rss_bytes": Shown("server", "MB", "Build", "Resident memory of the server with the index loaded.", 1e-6),
    "index_bytes": Shown("size", "MB", "Build", "Size of the index as the store tells it (1 MB = 10⁶ bytes).", 1e-6),
    "ndcg_at_10": Shown("nDCG@10", "", "Quality against labels", "Ranking quality against relevance labels, through this index."),
    "ndcg_at_10_exact": Shown("nDCG@10 exact", "", "Quality against labels", "The same with exact search: what the index approximates."),
    "ndcg_at_10_bm25": Shown("nDCG@10 BM25", "", "Quality against labels", "What ranking by shared words reaches, with no model."),
    "label_recall_at_10": Shown("recall@10", "", "Quality against labels",
                                "Share of the labelled documents in the first 10, through this index."),
    "label_recall_at_10_exact": Shown("recall@10 exact", "", "Quality against labels", "The same with exact search."),
    "decode_s": _ms("decode", "Stages", "Mean time a batch spends being read and decoded."),
    "preprocess_s": _ms("preprocess", "Stages", "Mean time a batch spends in tokenising or resizing."),
    "transfer_s": _ms("transfer", "Stages", "Mean time to move a batch to the device."),
    "forward_s": _ms("forward", "Stages", "Mean time of the forward pass over a batch."),
    "finish_s": _ms("finish", "Stages", "Mean time to bring a batch's vectors back."),
}  # fmt: skip
"""Every figure of the frame, by its column."""

SCORES = frozenset(name for name, shown in SHOWN.items() if not shown.unit)
"""Figures between 0 and 1, written with three decimals."""


def scaled(name: str, value: float) -> float:
    """Return a stored value in the unit it is shown in."""
    return value * SHOWN[name].scale


def number(name: str, value: float | None) -> str:
    """Return a stored value as text, in its unit but without it; a dash where there is none."""
    if value is None:
        return NULL
    return score(value) if name in SCORES else significant(scaled(name, value))


def interval(name: str, value: float | None, lo: float | None, hi: float | None) -> str:
    """Return ``[low, high]`` with as many decimals as the value beside it has, from 1,000 on none; empty where there is no interval."""
    if value is None or lo is None or hi is None:
        return ""
    if name in SCORES:
        return f"[{score(lo)}, {score(hi)}]"
    decimals = _decimals(scaled(name, value))
    ends = (scaled(name, lo), scaled(name, hi))
    return "[" + ", ".join(f"{end:,.{decimals if abs(end) < 1000 else 0}f}" for end in ends) + "]"


def score(value: float) -> str:
    """Return a number between 0 and 1 with three decimals; only exactly 1 is written 1.000, only exactly 0 is 0.000.

    >>> score(0.98412), score(0.9999), score(1.0), score(0.0001)
    ('0.984', '>0.999', '1.000', '<0.001')
    """
    text = f"{value:.3f}"
    if text == "1.000" and value < 1:
        return ">0.999"
    if text in {"0.000", "-0.000"} and value != 0:
        return "<0.001"
    return text


def significant(value: float) -> str:
    """Return a number with three significant digits, whole from 100 on.

    >>> significant(3.6149), significant(1234.5), significant(0), significant(99.96)
    ('3.61', '1,234', '0', '100')
    """
    return f"{value:,.{_decimals(value)}f}"


def count(value: int) -> str:
    """Return a number of things.

    >>> count(20000)
    '20,000'
    """
    return f"{value:,}"


def share(part: float) -> str:
    """Return a share as a whole percentage.

    >>> share(0.864), share(0.001), share(0.0)
    ('86 %', '<1 %', '0 %')
    """
    return "<1 %" if 0 < part < 0.005 else f"{part * 100:.0f} %"


def duration(seconds: float) -> str:
    """Return a span of time in words.

    >>> duration(4.21), duration(190.0), duration(7500.0)
    ('4.2 s', '3 min 10 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(number: int, word: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "cell"), plural(3, "process"), plural(2, "query")
    ('1 cell', '3 processes', '2 queries')
    """
    many = f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("ss") else f"{word}s"
    return f"{count(number)} {word if number == 1 else many}"


def _decimals(value: float) -> int:
    """Return how many decimals give three significant digits after rounding, none from 100 on and at most nine."""
    if value == 0:
        return 0
    rounded = float(f"{value:.2e}")  # 9.999 becomes 10.0 first
    return min(max(2 - math.floor(math.log10(abs(rounded))), 0), 9)
