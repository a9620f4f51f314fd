"""A comparison on a terminal, as Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.comparison import Comparison, overview
from harness.compare.words import HEADS, Line, lone, refused, tables
from harness.report.markdown import text
from harness.report.units import count, plural

if TYPE_CHECKING:
    from rich.console import Console

INTERVALS = (
    "[low, high] is the 95 % interval unless it says otherwise; head / base is a ratio, of recall and quality the difference head - base, "
    "query by query."
)

_STYLES = {"slower": "red", "worse": "red", "larger": "red", "faster": "green", "better": "green", "smaller": "green"}

_MOST_UNCHANGED = 30
"""Figures without a difference that a terminal shows one by one."""

_STYLE = Path(__file__).parents[1] / "report" / "page.css"


def terminal(comparison: Comparison, console: Console) -> None:
    """Print a comparison."""
    from rich.text import Text

    console.print(Text(comparison.title, style="bold"))
    for sentence in overview(comparison):
        console.print(Text(sentence))
    found = tables(comparison)
    brief = sum(len(unchanged) for _, _, unchanged in found) > _MOST_UNCHANGED
    for title, differing, unchanged in found:
        console.print(Text(f"\n{title}{_across(comparison)}", style="bold cyan"))
        lines = differing if brief else [*differing, *unchanged]
        if lines:
            console.print(_table(lines))
        if brief and unchanged:
            console.print(
                Text(f"{plural(len(unchanged), 'more figure')} without a difference; --markdown or --html lists them", style="dim")
            )
    for title, entries in _lists(comparison):
        console.print(Text(f"\n{title}", style="bold"))
        for entry, why in entries:
            console.print(Text(f"  {entry}", style="yellow"))
            if why:
                console.print(Text(f"    {why}", style="dim"))
    if found:
        console.print(Text(INTERVALS, style="dim"))


def _table(lines: Sequence[Line]) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("row\nfigure", overflow="fold", min_width=20, ratio=3)
    for head in HEADS[2:5]:
        table.add_column(head, justify="right")
    table.add_column(HEADS[5], overflow="fold", min_width=11, ratio=2)
    before = None
    for line in lines:
        said = Text.assemble((line.verdict, _STYLES.get(line.word, "dim")), f"\n{line.why}" if line.why else "")
        what = Text.assemble((f"{line.row}\n" if line.row != before else "", "bold"), f"  {line.figure}")
        before = line.row
        amounts = [Text(part.replace(" [", "\n[").replace(" (", "\n(")) for part in (line.base, line.head)]
        table.add_row(what, *amounts, Text(f"{line.ratio}\n{line.between}".strip()), said)
    return table


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Return some comparisons as Markdown; what shows no difference is folded."""
    return "\n".join(part for comparison in comparisons for part in _markdown(comparison))


def _markdown(comparison: Comparison) -> list[str]:
    parts = [f"## {text(comparison.title)}", "", *(f"{text(sentence)}  " for sentence in overview(comparison)), ""]
    for title, differing, unchanged in tables(comparison):
        parts += [f"### {text(title)}{_across(comparison)}", ""]
        if differing:
            parts += [*_rows(differing), ""]
        if unchanged:
            summary = f"<summary>{count(len(unchanged))} without a difference</summary>"
            parts += ["<details>", summary, "", *_rows(unchanged), "", "</details>", ""]
    for title, entries in _lists(comparison):
        parts += [f"### {title}", "", *(f"- {text(entry)}{f': {text(why)}' if why else ''}" for entry, why in entries), ""]
    return [*parts, INTERVALS, ""]


def _rows(lines: Sequence[Line]) -> list[str]:
    return [
        f"| {' | '.join(HEADS)} |",
        "|---|---|---:|---:|---:|---|",
        *(
            f"| {text(line.row)} | {text(line.figure)} | {line.base} | {line.head} | {f'{line.ratio} {line.between}'.strip()} | "
            f"{text(line.verdict)}{f': {text(line.why)}' if line.why else ''} |"
            for line in lines
        ),
    ]


def html(comparisons: Sequence[Comparison]) -> str:
    """Return some comparisons as one page that needs nothing else."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        comparisons=[
            {
                "title": one.title,
                "overview": overview(one),
                "across": _across(one),
                "tables": tables(one),
                "lists": _lists(one),
            }
            for one in comparisons
        ],
        heads=HEADS,
        intervals=INTERVALS,
        style=Markup(_STYLE.read_text(encoding="utf-8")),  # noqa: S704  # our own file, not a user's words
    )


def _across(comparison: Comparison) -> str:
    return " (across machines)" if comparison.across_machines else ""


def _lists(comparison: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what stands below the tables: title and entries."""
    alone = lone(comparison)
    found = [
        (f"Not comparable{_across(comparison)}", refused(comparison)),
        ("Only in the base", [(row, why) for side, row, why in alone if side == "base"]),
        ("Only in the head", [(row, why) for side, row, why in alone if side == "head"]),
        ("What else differs", [(fact, f"{one} → {other}") for fact, one, other in comparison.differing]),
        ("Files left out", [(sentence, "") for sentence in comparison.left_out]),
    ]
    return [(title, entries) for title, entries in found if entries]
