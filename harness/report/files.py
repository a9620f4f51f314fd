"""Writes the reports of one ``results/<name>``, each file whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError, HarnessError
from harness.frame import to_frame
from harness.records import current, scan, uncollected, write_atomically
from harness.report.distribution import distributions
from harness.report.exports import benchmark_json, json_lines
from harness.report.markdown import markdown
from harness.report.page import page
from harness.report.rows import Row, Section, plain, sections
from harness.report.units import plural

if TYPE_CHECKING:
    from rich.console import Console


def write(folder: Path, console: Console | None = None) -> dict[str, Path]:
    """Write all reports and print the tables, where there is a console; see `harness.report.write_reports`."""
    with uncollected():
        contents, shown, rows = _made(folder)
        written = {}
        for kind, (file, content) in contents.items():
            path = folder / file
            try:
                write_atomically(path, content)
            except OSError as error:
                reason = error.strerror or error
                raise HarnessError(
                    f"{path} cannot be written ({reason}); make the folder writable or copy its records/ elsewhere"
                ) from error
            written[kind] = path
        if console is not None:
            from harness.report.terminal import print_rows

            print_rows(rows, console, shown)
    return written


def _made(folder: Path) -> tuple[dict[str, tuple[str, bytes]], list[Section], list[Row]]:
    """Return what goes into each file, by kind, and the sections and rows that all of them show."""
    found, broken = scan(folder)
    left_out = [f"{path.name}: {reason}" for path, reason in broken]
    records = current(found)
    if not records:
        said = f"; {plural(len(left_out), 'file')} there could not be read, the first is {left_out[0]}" if left_out else ""
        raise DataError(f"{folder / 'records'} holds no record to report on{said}; measure something first with `python -m harness`")
    frame = to_frame(records)
    rows = plain(frame)
    shown = sections(rows)
    latencies = distributions(rows, records, folder)
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    name = folder.resolve().name
    contents = {
        "html": ("report.html", _bytes(page(name, rows, records, left_out, latencies, shown))),
        "markdown": ("report.md", _bytes(markdown(name, rows, records, left_out, shown))),
        "csv": ("results.csv", _bytes(_csv(rows, list(map(str, frame.columns))))),
        "parquet": ("results.parquet", parquet.getvalue()),
        "jsonl": ("results.jsonl", _bytes(json_lines(rows))),
        "benchmark": ("benchmark.json", _bytes(benchmark_json(rows, records, latencies))),
    }
    return contents, shown, rows


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return the frame's rows as CSV; pandas' own writer takes ten times as long over hundreds of nullable columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(row.get, columns) for row in rows)
    return out.getvalue()


def _bytes(text: str) -> bytes:
    """Return text as UTF-8; what came as no UTF-8 stays readable and breaks nothing."""
    return text.encode("utf-8", "backslashreplace")
