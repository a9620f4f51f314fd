"""Annotations: lines that GitHub turns into marks on a pull request's page.

Its format is ``::error title=…::message``; what would end a property or a line is escaped as its own toolkit does
(actions/toolkit, ``packages/core/src/command.ts``).
"""

from __future__ import annotations

from harness.gate.artefacts.words import clean, facts, headline, moved, verdict, why
from harness.gate.outcome import Case, Outcome, worst_first

_MOST = 10
"""GitHub shows ten errors and ten warnings of a step."""


def of(outcome: Outcome) -> list[str]:
    """Return the lines: an error for each regression, missing cell and crash, a warning for what could not be compared."""
    if outcome.contaminated:
        return [_line("error", "Performance gate", f"{headline(outcome)} ({facts(outcome)})")]
    levels = {"REGRESSION": "error", "MISSING": "error", "ERROR": "error", "NOT COMPARABLE": "warning"}
    found = [case for case in worst_first(outcome.cases) if case.decision.verdict in levels]
    errors = [_of(case, "error") for case in found if levels[case.decision.verdict] == "error"]
    warnings = [_of(case, "warning") for case in found if levels[case.decision.verdict] == "warning"]
    return [*errors[:_MOST], *warnings[:_MOST]]


def _of(case: Case, level: str) -> str:
    said = "; ".join(part for part in (moved(case), why(case)) if part)
    return _line(level, f"{verdict(case)}: {clean(case.metric)}", f"{clean(case.cell)}: {said}")


def _line(level: str, title: str, message: str) -> str:
    return f"::{level} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def _escaped(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
