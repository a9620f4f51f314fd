"""Reports: what a reader sees of the records, on a terminal, as one HTML page, as Markdown and as tables of numbers.

Every number comes from `harness.frame.to_frame`; what a figure is called and how it is written is decided in
`harness.report.units` for all of them at once. pandas, plotly, Jinja and rich are imported when first used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["print_tables", "to_step_summary", "write_reports"]


def write_reports(folder: str | Path, console: Console | None = None) -> dict[str, Path]:
    """Write ``report.html``, ``report.md``, the table of results in three formats and ``benchmark.json`` from the records below a folder.

    Parameters
    ----------
    folder : str or Path
        One ``results/<name>``; the newest record of each cell is shown.
    console : rich.console.Console, optional
        Where the tables are printed as well.

    Returns
    -------
    dict of str to Path
        The files written, by name: ``html``, ``markdown``, ``csv``, ``parquet``, ``jsonl`` and ``benchmark`` (timings as
        pytest-benchmark writes them).

    Raises
    ------
    harness.errors.DataError
        When the folder holds no record.
    harness.errors.HarnessError
        When a file cannot be written.
    """
    from harness.report.files import write

    return write(Path(folder), console)


def print_tables(results: str | Path | pd.DataFrame, console: Console | None = None) -> None:
    """Print the results of a folder, or those in a frame that `harness.load_results` made.

    Raises
    ------
    harness.errors.DataError
        When the folder holds no record.
    """
    from rich.console import Console

    from harness.frame import load_results
    from harness.report.rows import plain
    from harness.report.terminal import print_rows

    frame = load_results(results) if isinstance(results, str | Path) else results
    print_rows(plain(frame), console or Console())


def to_step_summary(markdown: Path) -> None:
    """Append a Markdown file to the page of the GitHub workflow step that this runs in, if it does.

    GitHub names a file in ``GITHUB_STEP_SUMMARY`` and shows up to 1 MiB of what is written there.
    """
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if page:
        with Path(page).open("a", encoding="utf-8") as handle:
            handle.write(markdown.read_text(encoding="utf-8") + "\n")
