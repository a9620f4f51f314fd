"""The pictures, as the figure dictionaries that plotly.js draws.

Colours are left to the page, which knows whether it is light or dark: a trace names the position of its colour in
``meta.colour``, and each position has a marker and a dash, or a pattern, of its own, so that nothing hangs on colour alone. A picture
shows one way of asking (k, clients, filter) at a time; a reader chooses among them, since numbers of different ones do not compare. What
nobody measured has no picture. A line joins only rows that differ in nothing but what its axis, or its points' names, tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.figures.embedding import batch_parts, throughput_batch
from harness.report.figures.load import latency_load
from harness.report.figures.parts import Figure, escape
from harness.report.figures.recall import quality_lost, recall_latency, recall_memory, recall_rate
from harness.report.figures.search import build_time, search_parts
from harness.report.rows import Section

__all__ = ["Figure", "Picture", "escape", "pictures"]


@dataclass(frozen=True)
class Picture:
    """One picture, drawn for each way of asking."""

    title: str
    figures: tuple[Figure, ...]


def pictures(section: Section) -> list[Picture]:
    """Return the pictures of a section, those with something to show; bars come last, since they are higher than the others."""
    made = (
        ("Recall and latency", recall_latency(section)),
        ("Recall and throughput", recall_rate(section)),
        ("Latency and load", latency_load(section)),
        ("Quality lost to the index", quality_lost(section)),
        ("Recall and memory", recall_memory(section)),
        ("Throughput and batch size", throughput_batch(section)),
        ("Where a search's time goes", search_parts(section)),
        ("Building the index", build_time(section)),
        ("Where a batch's time goes", batch_parts(section)),
    )
    return [Picture(title, tuple(figures)) for title, figures in made if figures]
