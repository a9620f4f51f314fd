"""The report as one HTML file that needs nothing else: style, scripts, charts and data are inside it.

The page asks the network for nothing, and its content policy forbids it to. Names come from users and libraries: all
are text, in the page, in the charts and in the embedded data. What a reader should see before any script runs (what was measured, what
stands out, what is missing, where it comes from) is written here; tables and charts, which may have thousands of rows, are drawn by the
page's script from the data inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import Record
from harness.report import provenance
from harness.report.distribution import KINDS, LEVELS, Distribution, Kind
from harness.report.figures import Picture, pictures
from harness.report.packed import packed_json, packed_plotly
from harness.report.rows import (
    ALWAYS,
    BUILD,
    PARTS,
    Row,
    Section,
    anchor,
    caveats,
    cell_name,
    compared,
    index_in_two_builds,
    label,
    sections,
    unfinished,
    varying,
)
from harness.report.summary import GOOD_RECALL, Best, best, findings, overview, unmeasured
from harness.report.tables import TITLES, Cell, Table, whole_table
from harness.report.units import INTERVALS, NULL, WITHIN_MEANS, count, plural

_SCRIPTS = ("page_state.js", "page_tables.js", "page_charts.js", "page.js")
_ROWS = 5_000
"""Rows of each kind that a dataset's part of the page holds at most: no browser opens many more in the time that a reader waits."""
_WHOLE_RECORDS = 150
"""Records that a page holds as they are, of rows on or near a front; the files of all lie beside it."""
_MISSING = 500
"""Cells without a result that the page lists."""
_CELLS = 20
"""Cells named under a caveat, or under a value in which environments differ."""
_CURVES = 4
"""Distributions drawn before a reader chooses."""
_DIGITS = 7
"""Digits of the numbers in the page; all of them are in the files beside it."""


@dataclass(frozen=True)
class View:
    """One table as the template needs it."""

    id: str
    title: str
    table: Table
    rows: Sequence[Row]
    left_out: str
    """Said where the table does not hold all rows."""


@dataclass(frozen=True)
class Drawn:
    """One chart's place on the page."""

    id: str
    title: str
    settings: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """One chart of distributions, whose rows a reader chooses."""

    id: str
    title: str
    kind: Kind
    table: str
    """The table whose rows it can draw."""
    chosen: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    """Anchor and name of each row that can be chosen, those nearest the fronts where there are many."""


@dataclass(frozen=True)
class Chapter:
    """One dataset's part of the page."""

    anchor: str
    section: Section
    findings: tuple[str, ...]
    best: tuple[Best, ...]
    charts: tuple[Drawn, ...]
    curves: tuple[Curve, ...]
    views: tuple[View, ...]


def page(
    name: str,
    rows: Sequence[Row],
    records: Sequence[Record],
    left_out: Sequence[str] = (),
    found: Mapping[str, Mapping[Kind, Distribution]] | None = None,
    shown: Sequence[Section] | None = None,
) -> str:
    """Return the whole page.

    Parameters
    ----------
    name, rows, records, left_out, shown
        See `harness.report.markdown.markdown`.
    found : mapping, optional
        The rows' distributions, from `harness.report.distribution.distributions`.
    """
    import jinja2
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plural"] = plural
    found = found or {}
    whole = sections(rows) if shown is None else shown
    held = [section.reduced(_ROWS) for section in whole]
    drawn = [pictures(section) for section in held]
    chapters = [_chapter(*parts, place, found) for place, parts in enumerate(zip(whole, held, drawn, strict=True))]
    views = [view for chapter in chapters for view in chapter.views]
    curves = [curve for chapter in chapters for curve in chapter.curves]
    figures = [
        (chart.id, one) for chapter, made in zip(chapters, drawn, strict=True) for chart, one in zip(chapter.charts, made, strict=True)
    ]
    data = _data(held, views, figures, curves, records, found)
    script = "".join((here / file).read_text(encoding="utf-8") for file in _SCRIPTS)
    names = {key: cell_name(row) for key, row in {row["key"]: row for row in rows}.items()}
    return environment.get_template("page.html.j2").render(
        name=name,
        overview=overview(rows, whole),
        machines=provenance.machines(records),
        chapters=chapters,
        most_cells=_CELLS,
        most_missing=_MISSING,
        intervals=INTERVALS,
        within=WITHIN_MEANS if any(view.table.within for view in views) else "",
        caveats=caveats(rows),
        missing=[(row["status"], cell_name(row), row["error"] or "no reason was recorded") for row in unfinished(rows)],
        unmeasured=unmeasured(rows),
        left_out=left_out,
        environment=provenance.environment(records),
        cell_names=names,
        models=provenance.models(records),
        datasets=provenance.datasets(records),
        null=NULL,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own files, not a user's words
        script=Markup(script),  # noqa: S704
        plotly=Markup(packed_plotly() if figures or curves else ""),  # noqa: S704  # base64
        data=Markup(packed_json(data)),  # noqa: S704  # base64
    )


def _chapter(
    whole: Section, section: Section, made: Sequence[Picture], place: int, found: Mapping[str, Mapping[Kind, Distribution]]
) -> Chapter:
    """Return a dataset's part: words about all of its rows, tables and pictures of those that the page holds."""
    charts = tuple(
        Drawn(
            f"chart-{place}-{number}",
            one.title,
            tuple(figure["setting"] for figure in one.figures),
            tuple(figure["caption"] for figure in one.figures),
        )
        for number, one in enumerate(made)
    )
    views = [
        View(f"t{place}{kind[0]}", title, whole_table(kind, rows), rows, _left_out(rows, whole.of(kind)))
        for kind, title in TITLES.items()
        if (rows := section.of(kind))
    ]
    return Chapter(
        f"data-{place}",
        section,
        tuple(findings(whole)),
        tuple(best(whole)),
        charts,
        tuple(_curves(section, place, found)),
        tuple(views),
    )


def _left_out(shown: Sequence[Row], rows: Sequence[Row]) -> str:
    if len(shown) == len(rows):
        return ""
    return f"{count(len(shown))} of {plural(len(rows), 'row')}, those nearest the fronts; results.csv beside this page has all."


def _curves(section: Section, place: int, found: Mapping[str, Mapping[Kind, Distribution]]) -> list[Curve]:
    """Return the charts of distributions: of searches, of queries and of batches, those that any row has."""
    made = []
    for kind, title in KINDS.items():
        rows = section.search if kind == "search" else section.embed
        known = [row for row in rows if (one := found.get(anchor(row), {}).get(kind)) and _is_curve(one)]
        if not known:
            continue
        named = _names(rows)
        offered = known if len(known) <= 300 else [row for row in known if id(row) in section.near][:300]
        first = _typical(known) if kind == "search" else known
        made.append(
            Curve(
                f"curve-{place}-{kind}",
                f"Latency distribution: {title[0].lower()}{title[1:]}",
                kind,
                f"t{place}{'s' if kind == 'search' else 'e'}",
                tuple(anchor(row) for row in first[:_CURVES]),
                tuple((anchor(row), named[id(row)]) for row in offered),
            )
        )
    return made


def _is_curve(one: Distribution) -> bool:
    """Whether enough of a distribution can be stated to draw it."""
    return sum(one.stated) >= 3


def _typical(rows: Sequence[Row]) -> list[Row]:
    """Return, of the largest group of comparable points, each index's fastest with a good recall, or the one with its highest."""
    groups = compared(rows)
    chosen: dict[tuple[Any, ...], Row] = {}
    for row in max(groups, key=len) if groups else rows:
        kept = chosen.setdefault((row["store"], row["index"]), row)
        if _rank(row) < _rank(kept):
            chosen[row["store"], row["index"]] = row
    return list(chosen.values())


def _rank(row: Row) -> tuple[bool, float]:
    good = (row["recall"] or 0.0) >= GOOD_RECALL
    return not good, float(row["search_latency_p50_s"] or 0.0) if good else -float(row["recall"] or 0.0)


def _names(rows: Sequence[Row]) -> dict[int, str]:
    """Return what each of some rows is called, by its ``id``."""
    if not rows:
        return {}
    always = ALWAYS[rows[0]["kind"]]
    told = varying(rows, PARTS[rows[0]["kind"]])
    parts = [*always, *(part for part in told if part not in always and (part is not BUILD or index_in_two_builds(rows)))]
    return {id(row): label(row, parts) for row in rows}


def _data(
    shown: Sequence[Section],
    views: Sequence[View],
    figures: Sequence[tuple[str, Picture]],
    curves: Sequence[Curve],
    records: Sequence[Record],
    found: Mapping[str, Mapping[Kind, Distribution]],
) -> dict[str, Any]:
    """Return all that the page's script draws from."""
    words: dict[str, int] = {}
    fronts = frozenset[int]().union(*(section.fronts for section in shown))
    tables = []
    for view in views:
        named = _names(view.rows)
        tables.append(
            {
                "id": view.id,
                "title": view.title,
                "columns": [
                    {
                        "name": column.name,
                        "title": column.title,
                        "unit": column.unit,
                        "group": column.group,
                        "meaning": column.meaning,
                        "number": column.number,
                        "scale": column.scale,
                        "shown": column.shown,
                    }
                    for column in view.table.columns
                ],
                "rows": [
                    {
                        "anchor": anchor(row),
                        "name": named[id(row)],
                        "front": id(row) in fronts and view.title == "Search",
                        "key": row["key"],
                        "file": f"{row['key']}-{str(row['started_at']).replace(':', '').replace('.', '')}.json",
                        "cells": [_cell(cell, words) for cell in cells],
                    }
                    for row, cells in zip(view.rows, view.table.rows, strict=True)
                ],
            }
        )
    return {
        "null": NULL,
        "levels": LEVELS,
        "tables": tables,
        "words": list(words),
        "pictures": [{"id": place, "figures": _rounded(picture.figures)} for place, picture in figures],
        "curves": [{"id": curve.id, "kind": curve.kind, "table": curve.table, "chosen": curve.chosen} for curve in curves],
        "sketches": {
            name: {
                kind: [one.n, [None if value is None else _short(value, 4) for value in one.quantiles]]
                for kind, one in kinds.items()
                if _is_curve(one)
            }
            for name in (anchor(row) for view in views for row in view.rows)
            if (kinds := found.get(name))
        },
        "records": _whole(shown, records),
    }


def _cell(cell: Cell, words: dict[str, int]) -> list[Any]:
    """Return a cell as ``[text, interval, number of its note, value, lo, hi, n]``, what is empty at the end left out."""
    note = words.setdefault(cell.note, len(words)) if cell.note else None
    packed: list[Any] = [cell.text, cell.interval, note]
    if isinstance(cell.sort, int | float):
        packed += [_short(cell.sort), *(None if one is None else _short(one) for one in (cell.lo, cell.hi)), cell.n]
    while len(packed) > 1 and packed[-1] in (None, ""):
        packed.pop()
    return packed


def _short(value: float, digits: int = _DIGITS) -> float:
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _rounded(value: Any) -> Any:
    """Return figures with shorter numbers."""
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _whole(shown: Sequence[Section], records: Sequence[Record]) -> dict[str, Any]:
    """Return the records of rows on a front, then of those near one, as many as a page holds."""
    rows = [row for section in shown for row in (*section.search, *section.embed, *section.corpus)]
    near = frozenset[int]().union(*(section.near for section in shown))
    fronts = frozenset[int]().union(*(section.fronts for section in shown))
    keys = dict.fromkeys([*(row["key"] for row in rows if id(row) in fronts), *(row["key"] for row in rows if id(row) in near)])
    kept = set(list(keys)[:_WHOLE_RECORDS])
    return {record.key: _body(record) for record in records if record.key in kept}


def _body(record: Record) -> dict[str, Any]:
    """Return a record as its file holds it."""
    body = {name: value for name, value in vars(record).items() if name != "samples"}
    points = [{**vars(point), "metrics": {name: vars(figure) for name, figure in point.metrics.items()}} for point in record.points]
    return {**body, "metrics": {name: vars(figure) for name, figure in record.metrics.items()}, "points": points}
