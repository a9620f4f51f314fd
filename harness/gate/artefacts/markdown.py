"""``summary.md``: the outcome for a pull request, one sentence first, what has not changed folded away."""

from __future__ import annotations

from collections.abc import Sequence

from harness.gate.artefacts.words import Line, afterwards, change_heading, facts, headline, lines, parts
from harness.gate.outcome import Outcome
from harness.report.markdown import text
from harness.report.units import count, plural

MOST_BYTES = 60_000
"""A comment on GitHub holds 65,536 characters."""

_KEPT = 2_000
"""Bytes for the sentences that say what was cut and for what closes the tables."""


def summary(outcome: Outcome) -> str:
    """Return the summary, never more than `MOST_BYTES`; where rows had to be left out it says how many."""
    with_recall = any(line.recall for line in lines(outcome, outcome.cases))
    shown, advisory, unchanged = (lines(outcome, cases) for cases in parts(outcome))
    first = [f"**{text(headline(outcome))}** ({text(facts(outcome))})", ""]
    last = _within([f"{text(sentence)}  " for sentence in afterwards(outcome)], MOST_BYTES // 4)
    left = MOST_BYTES - _KEPT - _size(first) - _size(last)
    above = _table(shown, outcome, with_recall, left)
    left -= _size(above)
    below = []
    for folded, title in ((advisory, "advisory: too little evidence for a verdict"), (unchanged, "unchanged")):
        if folded:
            body = _table(folded, outcome, with_recall, left)
            below += ["<details>", f"<summary>{count(len(folded))} {title}</summary>", "", *body, "</details>", ""]
            left -= _size(body)
    return "\n".join([*first, *above, *below, *last]) + "\n"


def _table(rows: Sequence[Line], outcome: Outcome, with_recall: bool, most: int) -> list[str]:
    """Return a table of as many rows as fit into so many bytes, and a word on those that do not."""
    if not rows:
        return []
    heads = ["cell", "metric", "base", "head", change_heading(outcome), *(["recall"] if with_recall else []), "verdict"]
    rules = ["---", "---", "---:", "---:", "---:", *(["---:"] if with_recall else []), "---"]
    body = [f"| {' | '.join(map(text, heads))} |", f"|{'|'.join(rules)}|"]
    kept = _within([_row(line, with_recall) for line in rows], most - _size(body))
    body += [*kept, ""]
    if len(kept) < len(rows):
        body += [f"{plural(len(rows) - len(kept), 'more row')} would not fit here; verdict.json and report.html have all of them.", ""]
    return body


def _row(line: Line, with_recall: bool) -> str:
    changed = text(line.change)
    if changed and line.case.decision.verdict in ("REGRESSION", "IMPROVED"):
        changed = f"**{changed}**"
    verdict = text(line.verdict) + (f": {text(line.why)}" if line.why else "")
    parts = [text(line.cell), text(line.metric), text(line.base), text(line.head), f"{changed} {line.interval}".strip()]
    parts += [text(line.recall)] if with_recall else []
    return f"| {' | '.join([*parts, verdict])} |"


def _within(rows: Sequence[str], most: int) -> list[str]:
    kept = []
    for row in rows:
        most -= _size([row])
        if most < 0:
            break
        kept.append(row)
    return kept


def _size(rows: Sequence[str]) -> int:
    return sum(len(row.encode("utf-8", "backslashreplace")) + 1 for row in rows)
