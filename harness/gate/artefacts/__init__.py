"""What a gate leaves behind, all of it made of one `harness.gate.outcome.Outcome`; nothing here decides.

=====================  ==============================================================================
``verdict.json``       everything, for programs
``summary.md``         one sentence, a small table, what is unchanged folded; for pull requests
``junit.xml``          a test case for each cell and metric, for the pages that CI systems draw
``report.html``        a page of its own with the changes and their intervals in a picture
``trend.csv``          a line for each cell and metric, appended: a series for change-point tools
=====================  ==============================================================================

The summary is also appended to the file that ``$GITHUB_STEP_SUMMARY`` names, and annotations are printed where
``$GITHUB_ACTIONS`` is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from harness.gate.outcome import Outcome

__all__ = ["print_outcome", "write_artefacts"]


def write_artefacts(outcome: Outcome, folder: str | Path, *, trend: Path | None = None, at: str | None = None) -> dict[str, Path]:
    """Write all files of a gate, each whole or not at all.

    Parameters
    ----------
    outcome : Outcome
        What the gate says.
    folder : str or Path
        Where the files go; made if it is not there.
    trend : Path, optional
        The series that is appended to, ``trend.csv`` in `folder` by default. Where every gate has a folder of its own, name one that
        they share.
    at : str, optional
        When the gate ended, ISO 8601; now by default.

    Returns
    -------
    dict of str to Path
        ``verdict``, ``summary``, ``junit``, ``report`` and ``trend``.

    Raises
    ------
    harness.errors.HarnessError
        When a file cannot be written.
    """
    from harness.errors import HarnessError
    from harness.gate.artefacts import junit, markdown, page, trends, verdict
    from harness.records import now, write_atomically

    folder, at = Path(folder), at or now()
    summary = markdown.summary(outcome)
    contents = {
        "verdict": ("verdict.json", verdict.to_json(outcome, at)),
        "summary": ("summary.md", summary),
        "junit": ("junit.xml", junit.to_xml(outcome, at)),
        "report": ("report.html", page.page(outcome, at)),
    }
    written = {"trend": trend or folder / "trend.csv"}
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (file, content) in contents.items():
            path = written[name] = folder / file
            write_atomically(path, content.encode("utf-8", "backslashreplace"))
        path = written["trend"]
        trends.append(outcome, path, at)
        if step := os.environ.get("GITHUB_STEP_SUMMARY"):
            path = Path(step)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as handle:
                handle.write(summary + "\n")
    except OSError as error:
        raise HarnessError(f"{path} cannot be written ({error.strerror or error}); choose another folder or make room") from error
    return written


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """Print the outcome: as tables on a terminal, as Markdown into a file or a log, with annotations on GitHub."""
    from rich.console import Console

    from harness.gate.artefacts import github, markdown, terminal

    console = console or Console()
    if console.is_terminal:
        terminal.show(outcome, console)
    else:
        console.file.write(markdown.summary(outcome))
    if os.environ.get("GITHUB_ACTIONS"):
        console.file.write("".join(f"{line}\n" for line in github.of(outcome)))
    console.file.flush()
