"""``report.html``: the outcome as one page that needs nothing else, with the changes and their intervals in a picture.

It wears the style of the other reports' page; it asks the network for nothing, and its content policy forbids it to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.gate.artefacts.forest import forest
from harness.gate.artefacts.words import UNCHANGED, afterwards, change_heading, facts, headline, lines
from harness.gate.outcome import EXIT_OK, Outcome, worst_first

_STYLE = Path(__file__).parents[2] / "report" / "page.css"


def page(outcome: Outcome, at: str) -> str:
    """Return the whole page."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = forest(outcome)
    ordered = worst_first(outcome.cases)
    return environment.get_template("page.html.j2").render(
        headline=headline(outcome),
        facts=facts(outcome),
        good=outcome.exit_code == EXIT_OK,
        at=at,
        afterwards=afterwards(outcome),
        change=change_heading(outcome),
        tables=[
            (title, rows)
            for title, rows in (
                ("What needs a reader", lines(outcome, [case for case in ordered if case.decision.verdict != UNCHANGED])),
                ("Unchanged", lines(outcome, [case for case in ordered if case.decision.verdict == UNCHANGED])),
                ("Control: base against a second copy of itself", lines(outcome, worst_first(outcome.control or ()))),
            )
            if rows
        ],
        figures=charts,
        style=Markup(_STYLE.read_text(encoding="utf-8")),  # noqa: S704  # our own files, not a user's words
        script=Markup((here / "page.js").read_text(encoding="utf-8")),  # noqa: S704
        plotly=Markup(get_plotlyjs() if charts else ""),  # noqa: S704
        charts=Markup(_embedded(charts)),  # noqa: S704
    )


def _embedded(value: Any) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
