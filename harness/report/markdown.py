"""The report as Markdown, short enough for a pull request; tables as GitHub renders them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from harness.records import Record
from harness.report.provenance import environment, machines
from harness.report.rows import CellKind, Row, Section, caveats, cell_name, sections, unfinished
from harness.report.summary import Best, best, findings, overview
from harness.report.tables import FIGURES, TITLES, Cell, Table, table_of
from harness.report.units import INTERVALS, NULL, WITHIN_MEANS, plural

_FIGURES: Mapping[CellKind, tuple[str, ...]] = {
    "embed": ("pipeline_per_s", "throughput_per_s", "batch_latency_p50_s", "query_embed_p50_s", "peak_rss_bytes"),
    "search": ("recall", "search_latency_p50_s", "search_latency_p95_s", "qps", "ndcg_at_10", "ndcg_at_10_exact", "build_s"),
    "corpus": FIGURES["corpus"],
}
"""In the order of the page."""
_ROWS = 40
"""Rows a table has at most, so that a page of a pull request can hold it."""
_CELLS = 20
"""Cells without a result that are listed."""


def text(words: str) -> str:
    r"""Return words as Markdown that says just them, also inside a table's cell.

    >>> text("a|b <c>\nd")
    'a\\|b &lt;c&gt; d'
    """
    words = " ".join(words.split())
    words = re.sub(r"([\\`*|\[\]~])", r"\\\1", words)
    words = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", words)  # inside a word an underscore is only an underscore
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown(
    name: str,
    rows: Sequence[Row],
    records: Sequence[Record],
    left_out: Sequence[str] = (),
    shown: Sequence[Section] | None = None,
) -> str:
    """Return the report.

    Parameters
    ----------
    name : str
        What the run is called.
    rows : sequence of Row
        The frame's rows.
    records : sequence of Record
        The records the frame was made of; machine and versions are read from them.
    left_out : sequence of str
        What could not be read, a sentence each.
    shown : sequence of Section, optional
        The rows' sections, where they are known already.
    """
    shown = sections(rows) if shown is None else shown
    lines = [f"# Results: {text(name)}", ""]
    for section in shown:
        told, fastest = findings(section), best(section)
        if told or fastest:
            lines += [f"**{text(section.name)}**", "", *(f"- {text(sentence)}" for sentence in told), "", *_best(fastest)]
    lines += ["## What was measured", "", *(text(sentence) + "  " for sentence in overview(rows, shown))]
    lines += [text(f"Machine: {'; '.join(machines(records)) or 'not recorded'}."), ""]
    within = False
    for section in shown:
        lines += [f"## {text(section.name)}", "", text(section.facts), ""]
        for kind, figures in _FIGURES.items():
            whole = section.of(kind)
            kept = section.foremost(whole, _ROWS)
            table = table_of(kind, kept, figures)
            if table.rows:
                lines += [f"### {TITLES[kind]}", "", text(" · ".join(table.common)), "", *_table(table), ""]
                lines += (
                    [f"{len(kept)} of {plural(len(whole), 'row')}, those nearest the fronts; `results.csv` has all.", ""]
                    if len(kept) < len(whole)
                    else []
                )
                lines += [*(text(f"{NULL} {reason}") + "  " for reason in table.nulls()), ""] if table.nulls() else []
                within |= table.within
    if any(row["status"] == "ok" for row in rows):
        lines += [INTERVALS, ""]
    if within:
        lines += [text(WITHIN_MEANS), ""]
    if missing := unfinished(rows):
        lines += ["## Without a result", "", "| status | cell | reason |", "|---|---|---|"]
        lines += [
            f"| {text(row['status'])} | {text(cell_name(row))} | {text(row['error'] or 'no reason was recorded')} |"
            for row in missing[:_CELLS]
        ]
        lines += ["", f"and {len(missing) - _CELLS} more."] if len(missing) > _CELLS else []
        lines += [""]
    if left_out:
        lines += ["## Files left out", "", *(f"- {text(sentence)}" for sentence in left_out), ""]
    if noted := caveats(rows):
        lines += ["## Caveats", "", *(f"- **{text(one.code)}** ({plural(len(one.cells), 'cell')}): {text(one.text)}" for one in noted), ""]
    if differing := environment(records).differing:
        lines += ["## Differences between the records", ""]
        lines += [
            f"- {text(one.name)}: " + ", ".join(f"{text(value)} ({plural(n, 'cell')})" for value, n in one.values) for one in differing
        ]
        lines += [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _best(fastest: Sequence[Best]) -> list[str]:
    """Return the table of the fastest points at each recall; the machine-readable files have what it leaves out."""
    if not fastest:
        return []
    among = any(one.context for one in fastest)
    heads = [*(["among"] if among else []), "asked for", "fastest", "recall", "median latency", "cannot be told apart from"]
    found = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in fastest[:_ROWS]:
        cells = [*([one.context] if among else []), one.target, one.name or NULL, one.recall, one.latency or NULL, one.alike or NULL]
        found.append("| " + " | ".join(map(text, cells)) + " |")
    return [*found, ""]


def _table(table: Table) -> list[str]:
    heads = [f"{_prefix(column.group, column.title)}{column.heading}" for column in table.columns]
    return [
        "| " + " | ".join(map(text, heads)) + " |",
        "|" + "|".join("---:" if column.number else "---" for column in table.columns) + "|",
        *("| " + " | ".join(map(_cell, row)) + " |" for row in table.rows),
    ]


def _prefix(group: str, title: str) -> str:
    """Return what a percentile is one of, where its heading stands alone."""
    return f"{group.lower().removeprefix('one ')} " if re.fullmatch(r"p\d+", title) else ""


def _cell(cell: Cell) -> str:
    return f"{text(cell.text)} {cell.interval}".strip()  # an interval has nothing to escape
