"""The report as one HTML file that needs nothing else: style, script, charts and data are inside it.

The page asks the network for nothing, and its content policy forbids it to. Names come from users and libraries: all
are text, in the page, in the charts and in the embedded data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import Record
from harness.report import provenance
from harness.report.figures import Figure, recall_latency, throughput_batch
from harness.report.rows import (
    BATCH,
    EMBED_PARTS,
    MODEL,
    Row,
    Section,
    caveats,
    cell_name,
    compared,
    front,
    is_random,
    label,
    sections,
    unfinished,
    varying,
)
from harness.report.summary import findings, overview
from harness.report.tables import Table, embed_table, search_table
from harness.report.units import INTERVALS, NULL, WITHIN_MEANS, number, plural, share

STAGES = ("decode_s", "preprocess_s", "transfer_s", "forward_s", "finish_s")


@dataclass(frozen=True)
class Bar:
    """How one embed cell's time for a batch is shared among its stages."""

    name: str
    parts: tuple[tuple[str, float, str, str], ...]
    """(stage, share, share as text, time as text) of each stage that was measured."""
    longest: str


@dataclass(frozen=True)
class View:
    """One table as the template needs it."""

    title: str
    table: Table
    groups: tuple[tuple[str, int], ...]
    """Headings over the columns and how many columns each spans."""
    on_front: frozenset[int]
    """Positions of the rows on the Pareto front."""


@dataclass(frozen=True)
class Chapter:
    """One dataset's part of the page."""

    anchor: str
    section: Section
    findings: tuple[str, ...]
    charts: tuple[Figure, ...]
    views: tuple[View, ...]
    bars: tuple[Bar, ...]


def page(name: str, rows: Sequence[Row], records: Sequence[Record], left_out: Sequence[str] = ()) -> str:
    """Return the whole page; for the parameters see `harness.report.markdown.markdown`."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plural"] = plural
    chapters = [_chapter(section, place) for place, section in enumerate(sections(rows))]
    charts = [chart for chapter in chapters for chart in chapter.charts]
    return environment.get_template("page.html.j2").render(
        name=name,
        overview=overview(rows),
        machines=provenance.machines(records),
        chapters=chapters,
        intervals=INTERVALS,
        within=WITHIN_MEANS if any(view.table.within for chapter in chapters for view in chapter.views) else "",
        caveats=caveats(rows),
        missing=[(row["status"], cell_name(row), row["error"] or "no reason was recorded") for row in unfinished(rows)],
        left_out=left_out,
        environment=provenance.environment(records),
        models=provenance.models(records),
        datasets=provenance.datasets(records),
        null=NULL,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own files, not a user's words
        script=Markup((here / "page.js").read_text(encoding="utf-8")),  # noqa: S704
        plotly=Markup(get_plotlyjs() if charts else ""),  # noqa: S704
        results=Markup(_embedded([{column: value for column, value in row.items() if value is not None} for row in rows])),  # noqa: S704
        charts=Markup(_embedded(charts)),  # noqa: S704
    )


def _embedded(value: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _chapter(section: Section, place: int) -> Chapter:
    charts = tuple(
        chart | {"id": f"chart-{place}-{number}"} for number, chart in enumerate([*recall_latency(section), *throughput_batch(section)])
    )
    best = {id(row) for group in compared(section.search) if len(group) > 1 for row in front(group)}
    views = []
    if section.search:
        on_front = frozenset(number for number, row in enumerate(section.search) if id(row) in best)
        views.append(_view("Search", search_table(section.search), on_front))
    if section.embed:
        views.append(_view("Embedding", embed_table(section.embed), frozenset()))
    return Chapter(f"data-{place}", section, tuple(findings(section)), charts, tuple(views), tuple(_bars(section.embed)))


def _view(title: str, table: Table, on_front: frozenset[int]) -> View:
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return View(title, table, tuple(groups), on_front)


def _bars(rows: Sequence[Row]) -> list[Bar]:
    parts = varying(rows, EMBED_PARTS)
    bars = []
    for row in rows:
        seconds = {stage: float(row[stage]) for stage in STAGES if row[stage] is not None}
        total = sum(seconds.values())
        if total <= 0:
            continue
        named = [*parts] if not is_random(row) or MODEL in parts else [MODEL, *parts]
        shares = [
            (stage.removesuffix("_s"), took / total, share(took / total), f"{number(stage, took)} ms") for stage, took in seconds.items()
        ]
        longest = max(shares, key=lambda one: one[1])
        bars.append(Bar(label(row, named or (MODEL, BATCH)), tuple(shares), f"{longest[0]} {longest[2]}"))
    return bars
