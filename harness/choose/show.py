"""The choice as a person reads it (terminal, Markdown) and as a program does (JSON); all three say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.choose.candidates import Candidate, Field
from harness.choose.cost import FIGURES
from harness.choose.decide import Choice, Verdict, said
from harness.choose.require import between, written
from harness.records import Measured
from harness.report.markdown import text
from harness.report.summary import MOSTLY
from harness.report.units import INTERVALS, NULL, plural, share

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_LOSERS = 12
"""Of the candidates that lost, so many stand on the terminal; Markdown has `LISTED_LOSERS`, JSON all of them."""
LISTED_LOSERS = 100
_NAME_WIDTH = 18
"""Least width of a configuration's name on the terminal, where columns that do not fit are left to choice.md."""
COLUMNS = {
    "recall": "recall",
    "ndcg_at_10": "nDCG@10",
    "latency_p50_s": "p50 end to end",
    "latency_p99_s": "p99 end to end",
    "throughput_per_s": "queries/s",
    "memory_bytes": "memory",
}


@dataclass(frozen=True)
class Answer:
    """All that is said of one choice."""

    folder: str
    field: Field
    choice: Choice
    assumptions: tuple[str, ...]
    """What the figures suppose, a sentence each."""
    production: str | None = None
    """Where the production settings were written."""
    production_note: str = ""
    """What of them could not be generated."""
    verified: tuple[str, ...] = ()
    """What the real loop says beside the convolution, a sentence each."""
    currency: str = ""


def verdict(answer: Answer) -> str:
    """Return the answer in one sentence."""
    choice = answer.choice
    asked = " and ".join(map(str, choice.requirements))
    among = plural(len(choice.verdicts), "candidate")
    if choice.winner is not None:
        met = f", {len(choice.qualified)} known to have {asked}" if asked else ""
        return f"Of {among}{met}, take {choice.winner.name}: {choice.objective.title} {choice.objective.said(choice.winner)}."
    nearest = choice.nearest
    assert nearest is not None
    wanted = f"is known to have {asked}" if asked else f"has a known {choice.objective.title}"
    return f"None of {among} {wanted}. The nearest is {nearest.candidate.name}: {nearest.why}."


def notes(answer: Answer) -> list[str]:
    """Return what a reader has to know beside the answer, a sentence each."""
    choice = answer.choice
    found = [choice.doubt] if choice.doubt else []
    undecided = [one for one in choice.verdicts if one.state == "undecided"]
    if undecided:
        found.append(f"{plural(len(undecided), 'candidate')} undecided: more measuring could tell; see each one's remedy.")
    if choice.winner is not None:
        if choice.objective.name != "quality" and not any(one.least for one in choice.requirements):
            found.append(f"Neither --min-recall nor --min-ndcg was asked for: the chosen one has recall {said(choice.winner, 'recall')}.")
        if choice.winner.embed is None:
            found.append("The vectors were given: embedding a query is in no figure.")
        found += _embedding(choice.winner)
        codes = dict(choice.winner.search.caveats) | (dict(choice.winner.embed.caveats) if choice.winner.embed else {})
        found += [f"{code}: {words}" for code, words in codes.items()]
    if choice.quality == "recall" and len({one.candidate.search.labels.get("model") for one in choice.qualified}) > 1:
        found.append("There is no nDCG@10 for all: recall says how well an index does on one model's vectors, not which model finds more.")
    if answer.production_note:
        found.append(answer.production_note)
    return [*found, *answer.verified]


def _embedding(candidate: Candidate) -> list[str]:
    """Say how much of the latency is the model's, where it is most of it: then no index will make it much shorter."""
    model = candidate.embed.metrics.get("query_embed_p50_s") if candidate.embed else None
    whole = candidate.figures["latency_p50_s"].value
    if model is None or model.value is None or whole is None or not MOSTLY <= model.value / whole <= 1:
        return []
    return [f"Embedding the query is {share(model.value / whole)} of the median latency: a quicker model would shorten it, no index can."]


def _row(one: Verdict, columns: Sequence[str]) -> list[str]:
    cells = [one.candidate.name]
    for figure in columns:
        found: Measured = one.candidate.figures[figure]
        words = NULL if found.value is None else f"{written(figure, found.value)}{between(figure, found)}"
        cells.append(words.replace("/s", ""))
    return cells


def _columns(verdicts: Sequence[Verdict], costs: Sequence[str] = FIGURES) -> list[str]:
    """Return the figures that some of them have."""
    return [
        name
        for name in (*COLUMNS, *costs)
        if any(name in one.candidate.figures and one.candidate.figures[name].value is not None for one in verdicts)
    ]


def _headings(columns: Sequence[str], currency: str) -> list[str]:
    titles = {
        "cost_per_million_items": f"million documents ({currency})",
        "cost_per_million_queries": f"million queries ({currency})",
        "cost_per_month": f"a month ({currency})",
    }
    return [COLUMNS.get(name) or titles[name] for name in columns]


def _front(choice: Choice) -> list[Verdict]:
    """Return what stands in the table: the chosen one and the front, one batch size of each; where none qualifies, the nearest five."""
    if choice.winner is None:
        return list(choice.verdicts[:5])
    front: dict[Any, Verdict] = {}
    for one in choice.verdicts:
        if one.on_front or one.state == "chosen":
            front.setdefault(one.candidate.serving, one)
    return list(front.values())


# ------------------------------------------------------------------------------------------ terminal


def print_answer(answer: Answer, console: Console) -> None:
    """Print the choice."""
    from rich.box import SIMPLE_HEAD
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from harness.report.terminal import _printable as printable

    def line(words: str, style: str = "", indent: int = 0) -> None:
        console.print(Padding(Text(printable(words), style=style), (0, 0, 0, indent)))

    choice = answer.choice
    line(answer.field.about)
    console.print()
    line(verdict(answer), "bold")
    for note in notes(answer):
        line(note, indent=2)
    shown = _front(choice)
    columns = _columns(shown, [choice.objective.figure] if choice.objective.name == "cost" else [])
    console.print()
    line("The front: no other that qualifies is better in both" if choice.winner else "The nearest", "bold")
    columns = list(dict.fromkeys([choice.objective.figure, *columns])) if choice.winner else columns
    rows = [[cell.replace(" [", "\n[") for cell in _row(one, columns)] for one in shown]
    headings = _headings(columns, answer.currency)
    widths = [
        max(map(len, [*heading.split(), *(line for row in rows for line in row[place].splitlines())]))
        for place, heading in enumerate(headings, start=1)
    ]
    fitting = next(n for n in range(len(columns), -1, -1) if n <= 1 or _NAME_WIDTH + sum(widths[:n]) + 3 * n + 2 <= console.width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("configuration", overflow="fold", min_width=_NAME_WIDTH)
    for heading, width in zip(headings[:fitting], widths, strict=False):
        table.add_column(heading, justify="right", width=width, overflow="fold")
    for one, row in zip(shown, rows, strict=True):
        table.add_row(printable(("→ " if one.state == "chosen" else "  ") + one.candidate.name), *row[1 : fitting + 1])
    console.print(table)
    losers = [one for one in choice.verdicts if one.why]
    if losers:
        line("Why not the others", "bold")
    for one in losers[:SHOWN_LOSERS]:
        line(f"{one.state}: {one.candidate.name}", "yellow", 2)
        line(one.why, indent=4)
    if len(losers) > SHOWN_LOSERS:
        line(f"and {len(losers) - SHOWN_LOSERS} more, in choice.json", indent=2)
    for title, sentences in (
        ("Left out", [f"{what}: {why}" for what, why in answer.field.left_out]),
        ("What the figures suppose", list(answer.assumptions)),
    ):
        if sentences:
            line(title, "bold")
        for sentence in sentences[:SHOWN_LOSERS]:
            line(sentence, indent=2)
        if len(sentences) > SHOWN_LOSERS:
            line(f"and {len(sentences) - SHOWN_LOSERS} more, in choice.json", indent=2)
    if answer.production:
        line(answer.production)


# ------------------------------------------------------------------------------------------ Markdown


def markdown(answer: Answer) -> str:
    """Return the choice for a pull request: the verdict first."""
    choice = answer.choice
    shown = _front(choice)
    columns = _columns(shown)
    lines = ["# Choice", "", f"**{text(verdict(answer))}**", "", text(answer.field.about), ""]
    lines += [f"- {text(note)}" for note in notes(answer)]
    lines += ["", "## The front" if choice.winner else "## The nearest", ""]
    lines += ["| configuration | " + " | ".join(map(text, _headings(columns, answer.currency))) + " |"]
    lines += ["|---|" + "---:|" * len(columns)]
    for one in shown:
        cells = _row(one, columns)
        name = f"**{text(cells[0])}**" if one.state == "chosen" else text(cells[0])
        lines.append(f"| {name} | " + " | ".join(cells[1:]) + " |")
    lines += ["", INTERVALS, ""]
    losers = [one for one in choice.verdicts if one.why]
    if losers:
        lines += ["## Why not the others", "", "| candidate | | why |", "|---|---|---|"]
        lines += [f"| {text(one.candidate.name)} | {one.state} | {text(one.why)} |" for one in losers[:LISTED_LOSERS]]
        lines += ["", f"and {len(losers) - LISTED_LOSERS} more, in choice.json" if len(losers) > LISTED_LOSERS else "", ""]
    if answer.field.left_out:
        lines += ["## Left out", "", *(f"- {text(what)}: {text(why)}" for what, why in answer.field.left_out[:LISTED_LOSERS]), ""]
    lines += ["## What the figures suppose", "", *(f"- {text(sentence)}" for sentence in answer.assumptions), ""]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- JSON


def as_json(answer: Answer) -> str:
    """Return the choice for a program: every candidate with its figures, state and reason; null where nothing is known."""
    choice = answer.choice
    body = {
        "folder": answer.folder,
        "about": answer.field.about,
        "verdict": verdict(answer),
        "objective": {"name": choice.objective.name, "figure": choice.objective.figure, "higher": choice.objective.higher},
        "requirements": [
            {"option": one.option, "figure": one.figure, "limit": one.limit, "least": one.least} for one in choice.requirements
        ],
        "winner": choice.winner.key if choice.winner else None,
        "nearest": choice.nearest.candidate.key if choice.nearest else None,
        "doubt": choice.doubt or None,
        "notes": notes(answer),
        "assumptions": list(answer.assumptions),
        "left_out": [{"what": what, "why": why} for what, why in answer.field.left_out],
        "currency": answer.currency or None,
        "candidates": [_as_data(one) for one in choice.verdicts],
    }
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)


def _as_data(one: Verdict) -> dict[str, Any]:
    candidate = one.candidate
    return {
        "key": candidate.key,
        "name": candidate.name,
        "state": one.state,
        "on_front": one.on_front,
        "why": one.why or None,
        "embed_key": candidate.embed.key if candidate.embed else None,
        "search_key": candidate.search.key,
        "settings": settings(candidate),
        "figures": {name: asdict(found) for name, found in sorted(candidate.figures.items())},
        "constraints": [
            {"option": requirement.option, "state": judged.state, "words": judged.words} for requirement, judged in one.judgements
        ],
    }


def settings(candidate: Candidate) -> dict[str, Any]:
    """Return what a candidate is, by the names of the options and settings."""
    point, labels = candidate.point, candidate.search.labels
    return {
        "model": labels.get("model"),
        "dtype": candidate.search.settings.get("dtype"),
        "backend": candidate.search.settings.get("backend", "torch"),
        "device": candidate.embed.labels.get("device") if candidate.embed else None,
        "batch_size": candidate.embed.settings.get("batch_size") if candidate.embed else None,
        "store": labels.get("store"),
        "index": labels.get("index"),
        "build_params": labels.get("build_params"),
        "search_params": dict(point.search_params),
        "vector_type": candidate.search.settings.get("vector_type"),
        "metric": candidate.search.settings.get("metric"),
        "k": point.k,
        "concurrency": point.concurrency,
        "rate_per_s": point.rate_per_s,
    }
