"""A run from its arguments to its reports: plan, measure each job, report, exit code.

Jobs are measured here one after the other, unless something of Hydra's is asked for: then Hydra runs them, wherever its launcher puts
them. There a job makes its own plan, measures what is missing under the same locks, leaves records, and a manifest that tells this
process which cells it stands for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from harness import interrupts, knee
from harness.engine import Engine, clear_away
from harness.errors import HarnessError
from harness.plan import Plan, Planned, job_manifests, make_plan, plan_job, write_job_manifest, write_manifest
from harness.progress import Progress, console, in_words
from harness.records import Record, newest, read_all
from harness.report import to_step_summary
from harness.settings import CONF, search_path

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run_command(overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> int:
    """Measure what some overrides ask for, report it, and return the exit code: 0, or 1 where a cell has failed."""
    plan = make_plan(overrides, multirun=multirun, config_dirs=config_dirs)
    show_plan(plan, everything=False)
    plan, records = measure(plan, overrides, multirun=multirun, config_dirs=config_dirs)
    if any((plan.folder / "records").glob("*.json")):  # none where Hydra ended before the first job
        show_report(plan.folder)
        to_step_summary(plan.folder / "report.md")
        show_knees(plan, records)
    return _verdict(plan, records)


def run_and_report(overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> pd.DataFrame:
    """Do what `harness.run` promises."""
    from harness.frame import to_frame
    from harness.report import write_reports

    plan = make_plan(overrides, multirun=multirun, config_dirs=config_dirs)
    plan, made = measure(plan, overrides, multirun=multirun, config_dirs=config_dirs)
    write_reports(plan.folder)
    stored = {record.key: record for record in newest(read_all(plan.folder))} | made
    cells = [cell.key for cell in plan.cells_given(stored)]
    lost = [key for key in cells if key not in stored]
    if lost:
        raise HarnessError(f"{len(lost)} of {len(cells)} cells were not measured; what was is kept, the same call tries them again")
    asked = dict.fromkeys([*cells, *(one.skip.key for one in plan.skipped)])
    return to_frame(stored[key] for key in asked if key in stored)


def measure(plan: Plan, overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str] = ()) -> tuple[Plan, dict[str, Record]]:
    """Measure what a plan lacks.

    Returns
    -------
    tuple of Plan and dict
        The plan with the cells as they were measured (in another process, perhaps on another machine, their keys are others), and the
        records that were made, by key.
    """
    write_manifest(plan, plan.since)
    if not plan.missing and all(one.skip.key in plan.skips_on_record for one in plan.skipped):
        clear_away(plan.folder)
        return plan, {}
    if plan.by_hydra:
        _through_hydra(_Jobs(plan, config_dirs), overrides, multirun=multirun, config_dirs=config_dirs)
        return _joined(plan)
    records, stopped = _run(plan)
    if stopped is not None:
        raise stopped
    return plan, records


def _run(plan: Plan) -> tuple[dict[str, Record], HarnessError | None]:
    """Measure in this process what a plan lacks; returns the records and what ended the run early, if anything did."""
    with Progress(plan.seconds, console())() as progress, Engine(plan, progress) as engine:
        everything: list[Callable[[], None]] = [*(partial(engine.run, one) for one in plan.jobs), engine.catch_up]
        for work in everything:
            try:
                work()
            except HarnessError as error:
                interrupts.raise_again(error)
                return engine.records, error
            except Exception as error:
                interrupts.raise_again(error)
                log.exception("a job ended unexpectedly; the others go on")
        return engine.records, None


class _Jobs:
    """What Hydra calls for each job, here or in another process, to which a launcher sends it."""

    def __init__(self, plan: Plan, config_dirs: Sequence[str]) -> None:
        self._folder, self._since, self._corpus_share = plan.folder.resolve(), plan.since, plan.corpus_share
        self._config_dirs = [str(Path(folder).resolve()) for folder in config_dirs]
        self._import_path = list(sys.path)

    def __call__(self, _: DictConfig) -> None:
        """Measure what the present job lacks, and leave word of it."""
        sys.path[:] = self._import_path  # plug-ins are looked for as where the plan was made: the current directory last
        wanted = list(HydraConfig.get().overrides.task)
        plan: Plan | None = None
        records: Mapping[str, Record] = {}
        stopped: HarnessError | None = None
        try:
            plan = plan_job(wanted, since=self._since, corpus_share=self._corpus_share, config_dirs=self._config_dirs)
            records, stopped = _run(plan)
        except HarnessError as error:  # to which Hydra would answer with a traceback
            interrupts.raise_again(error)
            stopped = error
        except Exception as error:
            interrupts.raise_again(error)
            raise
        write_job_manifest(
            self._folder,
            _sorted(wanted),
            since=self._since,
            cells=[cell.key for cell in plan.cells_given({**plan.settled, **records})] if plan is not None else [],
            skipped=plan.jobs[0].job.unsupported if plan is not None else [],
            stopped=None if stopped is None else str(stopped),
        )


class Forget(Callback):
    """Lets go of a job's configuration when the job is done; Hydra keeps two copies of it, and nobody asks for them any more."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:  # noqa: ARG002
        """Leave what Hydra's sweepers read: the job's status and what it returned."""
        job_return.cfg = job_return.hydra_cfg = None


def _joined(plan: Plan) -> tuple[Plan, dict[str, Record]]:
    """Return the plan and the records with what was done under Hydra, where the jobs' manifests name the cells."""
    done = {tuple(body["overrides"]): body for body in job_manifests(plan.folder, plan.since)}
    joined = []
    for one in plan.jobs:
        named = _sorted(one.job.overrides)
        body = done.get(named)
        if body is None and len(plan.jobs) == len(done) == 1:  # what Hydra was given word for word
            (body,) = done.values()
        if body is not None:
            if body["stopped"] is not None:
                log.error("%s: %s", " ".join(named), body["stopped"])
            *curve, search = body["cells"] or [None]
            one = replace(
                one,
                job=replace(one.job, unsupported=tuple(body["skipped"])),
                curve=tuple(replace(cell, key=key) for cell, key in zip(one.curve, curve, strict=False)) if search else one.curve,
                search=replace(one.search, key=search) if search else one.search,
            )
        joined.append(one)
    named_there = {key for body in done.values() for key in body["cells"]}
    stored = newest(record for record in read_all(plan.folder) if record.key in named_there or record.started_at >= plan.since)
    return replace(plan, jobs=tuple(joined)), {record.key: record for record in stored}


def _sorted(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return what names a job whatever the order; Hydra lists its own settings apart."""
    return tuple(sorted(override for override in overrides if not override.lstrip("+~").startswith(("hydra.", "hydra/"))))


def _through_hydra(jobs: _Jobs, overrides: Sequence[str], *, multirun: bool, config_dirs: Sequence[str]) -> None:
    """Hand the jobs to Hydra, which reads the arguments of the process."""
    before = sys.argv
    sys.argv = ["harness", *(["-m"] if multirun else []), *overrides, *search_path(config_dirs)]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(jobs)()
    except SystemExit as ended:
        if ended.code != 1:  # that is how Hydra ends when a job or a launcher raises, having said what
            raise
        interrupts.raise_again(ended)
        log.error("Hydra ended with the error above; what has been measured is kept")  # noqa: TRY400 - whose traceback it has printed
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
    from harness.report import write_reports

    paths = write_reports(folder, Console())
    for path in paths.values():
        print(path)
