"""The tables on a terminal, readable at 80 columns: few figures, each with its interval under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from harness.report.rows import CellKind, Row, Section, caveats, cell_name, sections, unfinished
from harness.report.tables import BRIEF, TITLES, Table, table_of
from harness.report.units import INTERVALS, NULL, WITHIN_MEANS, count, plural

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_ROWS = 100
"""Rows a table has at most, those nearest the fronts: more scroll away, and take longer to lay out than to measure."""
_ORDER: tuple[CellKind, ...] = ("embed", "search", "corpus")
_NAME_WIDTH = 10
"""What a row's name keeps of a narrow terminal; intervals then break into two lines."""


def print_rows(rows: Sequence[Row], console: Console, shown: Sequence[Section] | None = None) -> None:
    """Print one section for each dataset, then the cells without a result and the caveats; `shown` are the sections, if known."""
    within = False
    nulls: dict[str, None] = {}
    for section in sections(rows) if shown is None else shown:
        console.print()
        console.print(_line(section.name, "bold"), _line(section.facts, "dim"))
        for kind in _ORDER:
            whole = section.of(kind)
            kept = section.foremost(whole, _ROWS)
            table = table_of(kind, kept, BRIEF[kind], merged=True)
            if table.rows:
                console.print(_line("\n  " + " · ".join((TITLES[kind], *table.common)), "cyan"))
                console.print(_rich(table))
                within |= table.within
                nulls.update(dict.fromkeys(table.nulls()))
                if len(kept) < len(whole):
                    console.print(_line(f"{count(len(kept))} of {plural(len(whole), 'row')}, those nearest the fronts", "dim"))
    if any(row["status"] == "ok" for row in rows):
        console.print(_line(INTERVALS, "dim"))
    if within:
        console.print(_line(WITHIN_MEANS, "dim"))
    for reason in nulls:
        console.print(_line(f"{NULL} {reason}", "dim"))
    _listed(
        console,
        "Without a result",
        [(f"{row['status']}  {cell_name(row)}", row["error"] or "no reason was recorded") for row in unfinished(rows)],
    )
    _listed(console, "Caveats", [(f"{noted.code}  ({plural(len(noted.cells), 'cell')})", noted.text) for noted in caveats(rows)])


def _line(text: str, style: str = "") -> Text:
    return Text(_printable(text), style=style)


def _printable(text: str) -> str:
    """Return text without control characters: a name must not move the cursor or change colours."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text)


def _rich(table: Table) -> RenderableType:
    out = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    for place, column in enumerate(table.columns):
        name = _heading(column.group, f"{column.title}\n{column.unit}" if column.number else column.title)
        widest = max((len(row[place].text) for row in table.rows), default=0) if column.number else _NAME_WIDTH
        out.add_column(escape(name), justify="right" if column.number else "left", min_width=widest, overflow="fold")
    for row in table.rows:
        out.add_row(
            *(
                Text.assemble(_printable(cell.text), *((("\n" + _printable(cell.interval), "dim"),) if cell.interval else ()))
                for cell in row
            )
        )
    return out


def _heading(group: str, name: str) -> str:
    """Return a column's heading; a percentile says of what it is one."""
    return f"{group.lower().removeprefix('one ')} {name}" if name.startswith("p") and name[1:3].isdigit() else name


def _listed(console: Console, title: str, entries: Sequence[tuple[str, str]]) -> None:
    if entries:
        console.print()
        console.print(_line(title, "bold"))
    for name, text in entries:
        console.print(Padding(_line(name, "yellow"), (0, 0, 0, 2)))
        console.print(Padding(_line(text), (0, 0, 0, 4)))
