"""A run from its arguments to its reports: plan, measure each job through Hydra, report, exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from harness import knee
from harness.engine import Engine
from harness.errors import HarnessError
from harness.plan import Plan, Planned, make_plan, write_manifest
from harness.progress import Progress, console, in_words
from harness.records import Record, newest, now, read_all
from harness.settings import CONF, search_path

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run_command(overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> int:
    """Measure what some overrides ask for, report it, and return the exit code: 0, or 1 where a cell has failed."""
    plan = make_plan(overrides, multirun=multirun, config_dirs=config_dirs)
    show_plan(plan, everything=False)
    records = measure(plan, overrides, multirun=multirun, config_dirs=config_dirs)
    show_report(plan.folder)
    show_knees(plan, records)
    return _verdict(plan, records)


def run_and_report(overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> pd.DataFrame:
    """Do what `harness.run` promises."""
    from harness.frame import to_frame
    from harness.report import write_reports

    plan = make_plan(overrides, multirun=multirun, config_dirs=config_dirs)
    made = measure(plan, overrides, multirun=multirun, config_dirs=config_dirs)
    write_reports(plan.folder)
    stored = {record.key: record for record in newest(read_all(plan.folder))} | made
    asked = dict.fromkeys([*(cell.key for cell in plan.cells_given(stored)), *(one.skip.key for one in plan.skipped)])
    return to_frame(stored[key] for key in asked if key in stored)


def measure(plan: Plan, overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> dict[str, Record]:
    """Run every job of a plan through Hydra; returns the records that were made, by key."""
    write_manifest(plan, now())
    if not plan.missing and all(one.skip.key in plan.skips_on_record for one in plan.skipped):
        return {}
    planned = {_sorted(one.job.overrides): one for one in plan.jobs}
    with Progress(plan.seconds, console())() as progress, Engine(plan, progress) as engine:
        stopped: list[HarnessError] = []

        def job(_: DictConfig) -> None:
            """Measure one job; Hydra would answer an exception with a traceback, so the first one waits for its end."""
            if stopped:
                return
            wanted = list(HydraConfig.get().overrides.task)
            try:
                engine.run(planned[_sorted(wanted)] if multirun else plan.jobs[0])
            except KeyError:
                stopped.append(HarnessError(f"Hydra ran a job that was not planned: {' '.join(wanted)}; use Hydra's own sweeper"))
            except HarnessError as error:
                stopped.append(error)

        _through_hydra(job, overrides, multirun=multirun, config_dirs=config_dirs)
        if stopped:
            raise stopped[0]
        return engine.records


def _sorted(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return what names a job whatever the order; Hydra lists its own settings apart."""
    return tuple(sorted(override for override in overrides if not override.lstrip("+~").startswith(("hydra.", "hydra/"))))


def _through_hydra(job: object, overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str]) -> None:
    """Hand the jobs to Hydra, so that its sweepers and launchers work; it reads the arguments of the process."""
    before = sys.argv
    sys.argv = ["harness", *(["-m"] if multirun else []), *overrides, *search_path(config_dirs)]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)()  # type: ignore[arg-type]
    finally:
        sys.argv = before


def _verdict(plan: Plan, records: Mapping[str, Record]) -> int:
    """Say which of the cells asked for have no result and return the exit code."""
    outcomes = {**plan.settled, **records}
    cells = plan.cells_given(outcomes)
    failed = [cell for cell in cells if cell.key not in outcomes or not plan.is_result(outcomes[cell.key])]
    for cell in failed:
        record = outcomes.get(cell.key)
        status, reason = (record.status, record.error) if record else ("failed", "it was not measured")
        print(f"{status}: {cell.title}: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(cells)} cells have no result; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def show_knees(plan: Plan, records: Mapping[str, Record]) -> None:
    """Print, for each curve of batch sizes that was asked for, the batch size beyond which little is gained."""
    outcomes = {**plan.settled, **records}
    curves = {one.embed.key: one for one in plan.jobs if one.job.find_batch_size and not one.job.unsupported}
    for one in curves.values():
        measured = [outcomes[cell.key] for cell in one.curve if cell.key in outcomes]
        found = knee.knee(measured)
        if found is not None:
            print(found.words)
        elif measured and all(record.status == "ok" for record in measured):
            print(
                f"{measured[-1].labels['model']}: the largest batch is the fastest; no knee up to the {one.documents} documents there are"
            )


def show_plan(plan: Plan, *, everything: bool) -> None:
    """Print what will be measured and how long it will take; with `everything`, a line for each cell."""
    out = console() if not everything else Console()
    cells, missing, existing = plan.cells, plan.missing, plan.existing
    sought = {cell.key for one in plan.jobs if one.job.find_batch_size for cell in one.curve[2:]} & {cell.key for cell in missing}
    most = "at most " if sought else ""
    kinds = [sum(cell.kind == kind for cell in cells) for kind in ("embed", "search")]
    jobs = f"{len(plan.jobs)} job{'s' if len(plan.jobs) != 1 else ''}"
    out.print(
        f"{plan.folder}: {jobs}, {most}{kinds[0]} embed + {kinds[1]} search cells; {len(cells) - len(missing)} measured already, "
        f"{len(missing)} to measure, {most or 'about '}{in_words(plan.seconds)}",
        highlight=False,
        soft_wrap=True,
    )
    pairs = {(one.job.choices["model"], one.job.choices["dataset"]): one for one in plan.jobs}
    for (model, dataset), one in pairs.items():
        weights = one.embed.weights
        note = f" ({weights.note})" if weights.note else ""
        out.print(
            f"  {model}: {weights.kind} weights from {weights.source}{note}\n  {dataset}: {one.documents} documents, {one.queries} queries",
            highlight=False,
            soft_wrap=True,
        )
    if plan.budget_note:
        out.print(f"  {plan.budget_note}", highlight=False, soft_wrap=True)
    if everything:
        for cell in cells:
            state = "measured" if cell.key in existing else f"about {in_words(plan.estimates[cell.key])}"
            state += ", if the rate still rises" if cell.key in sought else ""
            out.print(f"  {cell.key}  {cell.title}: {state}", highlight=False, soft_wrap=True)
    for planned in plan.skipped:
        out.print(f"  skipped: {_choices(planned)}: {' '.join(planned.job.unsupported)}", highlight=False, soft_wrap=True)


def _choices(planned: Planned) -> str:
    return " ".join(f"{group}={planned.job.choices[group]}" for group in ("model", "store", "index"))


def show_report(folder: Path) -> None:
    """Rebuild a folder's reports, print its tables and where the reports are."""
    from harness.report import print_tables, write_reports

    paths = write_reports(folder)
    print_tables(folder, Console())
    for path in paths.values():
        print(path)
