"""The outcome on a terminal: one sentence, a table of what needs a reader, a count of what has not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from harness.gate.artefacts.words import Line, afterwards, change_heading, facts, headline, lines, parts
from harness.gate.outcome import EXIT_OK, Outcome
from harness.report.units import count

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 60
"""Rows of a table on a terminal; more would push the sentence off it."""

_STYLES = {
    "REGRESSION": "bold red",
    "MISSING": "bold red",
    "ERROR": "bold red",
    "NOT COMPARABLE": "yellow",
    "INCONCLUSIVE": "yellow",
    "IMPROVED": "green",
    "NEW": "cyan",
}


def show(outcome: Outcome, console: Console) -> None:
    """Print the outcome."""
    needed, advisory, unchanged = parts(outcome)
    shown = lines(outcome, needed)
    console.print(Text(headline(outcome), style="bold green" if outcome.exit_code == EXIT_OK else "bold red"))
    console.print(Text(facts(outcome), style="dim"))
    if shown:
        console.print(_table(shown[:_MOST_ROWS], change_heading(outcome)))
    if len(shown) > _MOST_ROWS:
        console.print(Text(f"{count(len(shown) - _MOST_ROWS)} more; the written report has all of them"))
    if advisory:
        console.print(Text(f"{count(len(advisory))} advisory: too little evidence for a verdict"))
    if unchanged:
        console.print(Text(f"{count(len(unchanged))} unchanged"))
    for sentence in afterwards(outcome):
        console.print(Text(sentence, style="dim"))


def _table(rows: list[Line], change: str) -> Table:
    with_recall = any(line.recall for line in rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("cell, metric", overflow="fold", ratio=3, min_width=14)
    table.add_column("base\nhead", justify="right")
    table.add_column(change.replace(" [", "\n["), justify="right")
    if with_recall:
        table.add_column("recall", justify="right")
    table.add_column("verdict", overflow="fold", ratio=4, min_width=14)
    for line in rows:
        said = Text.assemble((line.verdict, _STYLES.get(line.case.decision.verdict, "")), f"\n{line.why}" if line.why else "")
        cells = [
            Text.assemble(line.cell, ("\n" + line.metric, "bold")),
            Text(f"{line.base}\n{line.head}"),
            Text(f"{line.change}\n{line.interval}".strip()),
        ]
        table.add_row(*cells, *([Text(line.recall.replace(" → ", "\n"))] if with_recall else []), said)
    return table
