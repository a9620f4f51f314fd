"""What kind of number each gated metric is: its direction, unit, floor and target, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KindName = Literal["duration", "tail", "exact", "quality", "memory"]


@dataclass(frozen=True)
class Kind:
    """How one metric is judged.

    `floor` is the smallest change in the direction of harm that can be a regression; a PASS proves the change smaller than `target`.
    Both are ratios less one, for ``exact`` and ``quality`` absolute differences (of which only `target`, the margin, is used).
    """

    name: KindName
    unit: str
    better: Literal["lower", "higher"]
    floor: float
    target: float
    about: str


KINDS: dict[str, Kind] = {
    "forward_s": Kind("duration", "s", "lower", 0.025, 0.05, "one forward pass over a batch"),
    "pipeline_s": Kind("duration", "s", "lower", 0.025, 0.05, "one batch through all stages"),
    "query_embed_s": Kind("duration", "s", "lower", 0.025, 0.05, "one query to its vector"),
    "load_s": Kind("duration", "s", "lower", 0.05, 0.10, "loading the model"),
    "search_s": Kind("duration", "s", "lower", 0.025, 0.05, "one search, by blocks"),
    "search_p95_s": Kind("tail", "s", "lower", 0.05, 0.10, "the search that one in twenty exceeds"),
    "search_p99_s": Kind("tail", "s", "lower", 0.05, 0.10, "the search that one in a hundred exceeds"),
    "insert_s": Kind("duration", "s", "lower", 0.05, 0.10, "inserting the corpus"),
    "build_s": Kind("duration", "s", "lower", 0.05, 0.10, "building the index"),
    "recall": Kind("exact", "ratio", "higher", 0.0, 0.0, "recall of a build that is deterministic"),
    "recall_of_builds": Kind("quality", "ratio", "higher", 0.0, 0.005, "recall of builds that differ from one to the next"),
    "ndcg_at_10": Kind("quality", "ratio", "higher", 0.0, 0.005, "ranking quality against labels, through the index"),
    "index_bytes": Kind("exact", "bytes", "lower", 0.0, 0.0, "size of the index"),
    "vectors": Kind("exact", "checksum", "lower", 0.0, 0.0, "checksum of the vectors that the model makes"),
    "peak_rss_bytes": Kind("memory", "bytes", "lower", 0.03, 0.06, "peak memory of a fresh process"),
}
"""Throughput and QPS are not here: each is the inverse of a duration, and gated once."""
