"""``python -m harness gate``: from what a person asked for to an outcome, what is written of it, and the exit code."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness import fingerprint, interrupts
from harness.errors import SettingsError
from harness.gate.decide import LOOKS
from harness.gate.outcome import Case, Decision, Outcome
from harness.gate.rounds import Progress, Result, Series, schedule
from harness.gate.settings import MEMORY, GateCell, GateSettings, open_settings, seconds
from harness.gate.sides import Asked, Side, two_sides
from harness.progress import console, in_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

_INTERRUPTED = 130
_LINE_EVERY_S = 15.0
"""Seconds between two lines about the rounds where there is no terminal."""
_ROWS = 12
"""Cases shown while a gate goes on."""


@dataclass(frozen=True)
class Options:
    """The command line of a gate."""

    given: tuple[str, ...] = ()
    """Two folders of results, or files of pytest-benchmark."""
    head_files: tuple[str, ...] = ()
    sides: Asked = field(default_factory=Asked)
    control: bool = False
    strict: bool = False
    budget: str | None = None
    only: str | None = None
    out: str | None = None
    option: str = "default"
    config_dirs: tuple[str, ...] = ()
    pytest: tuple[str, ...] = ()
    self_test: int | None = None
    across_machines: bool = False


def gate_command(options: Options) -> int:
    """Run a gate, print and write what it found, and return its exit code: see `harness.gate.outcome.Outcome.exit_code`."""
    from rich.console import Console

    from harness.gate.artefacts import print_outcome, write_artefacts

    _check(options)
    interrupts.listen()
    if options.self_test is not None:
        from harness.gate.selftest import self_test

        self_test(options.self_test, console=Console())
        return 0
    result = None
    if options.given:
        outcome = _stored(options)
    else:
        try:
            outcome, result = _measured(options)
        except KeyboardInterrupt:
            console().print("interrupted before there was a round", highlight=False)
            return _INTERRUPTED
    folder = Path(options.out) if options.out else Path("results/gate") / datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")
    trend = None if options.out else folder.parent / "trend.csv"  # one series over gates, each of which has a folder of its own
    written = write_artefacts(outcome, folder, trend=trend)
    if result is not None:
        written["rounds"] = _write_rounds(result, folder)
    print_outcome(outcome, Console())
    told = console()
    for path in written.values():
        told.print(str(path), highlight=False, soft_wrap=True)
    return _INTERRUPTED if result is not None and result.interrupted else outcome.exit_code


def _write_rounds(result: Result, folder: Path) -> Path:
    """Write every round of every case, so that each verdict can be computed again."""
    from harness.records import write_atomically

    found = [
        {
            "cell": one.key[0],
            "metric": one.key[1],
            "again": again,
            "base": one.base,
            "head": one.head,
            "control": one.beside,
            "log_ratios": one.x,
            "wall_log_ratios": one.wall,
            "fastest_log_ratios": one.fastest,
        }
        for again, several in ((False, result.series), (True, result.again))
        for one in several
    ]
    path = folder / "rounds.json"
    write_atomically(path, json.dumps(found, indent=0).encode())
    return path


def _check(options: Options) -> None:
    """Refuse what contradicts itself."""
    wrong = []
    if options.budget is not None and seconds(options.budget) is None:
        wrong.append(f"--budget must be a time such as 90s, 5m or 1h, got {options.budget}")
    measuring = options.sides != Asked() or options.control or options.only or options.pytest
    if options.given and measuring:
        wrong.append("stored results are compared as they are: leave out --base, --head, --control, --only, --pytest and the like")
    if options.head_files and not options.given:
        wrong.append("--head-files needs the base's files before it: gate BASE.json … --head-files 'HEAD*.json'")
    if options.pytest and (options.sides.base_set or options.sides.head_set):
        wrong.append("--base-set and --head-set are settings of cells; --pytest has none")
    if options.self_test is not None and (options.given or measuring):
        wrong.append("--self-test measures planted kernels, not a change: give it alone")
    if wrong:
        raise SettingsError(wrong)


# -------------------------------------------------------------------------------------- stored results


def _stored(options: Options) -> Outcome:
    """Compare two folders of results, or two sets of pytest-benchmark files."""
    from dataclasses import replace

    paths = [Path(one) for one in options.given]
    if (
        len(paths) == 2
        and not options.head_files
        and all((path / "records").is_dir() or (path.is_dir() and not _files(str(path))) for path in paths)
    ):
        from harness.gate.stored import stored_outcome

        outcome = stored_outcome(*paths, across_machines=options.across_machines)
    else:
        from harness.gate.benchmarks import benchmark_outcome

        outcome = benchmark_outcome(*split_files(options.given, options.head_files), across_machines=options.across_machines)
    return replace(outcome, strict=options.strict)


def _files(given: str) -> list[Path]:
    """Return the JSON files that a file, a folder or a pattern names."""
    path = Path(given)
    if path.is_dir():
        return sorted(path.glob("*.json"))
    return sorted(Path(found) for found in glob.glob(given)) if not path.exists() else [path]  # noqa: PTH207 - a pattern may be absolute


def split_files(given: Sequence[str], head_files: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files of base and of head.

    Two arguments (files, folders or quoted patterns) are a side each; with `head_files` all others are base's. More, as the shell makes
    of ``base*.json head*.json``, are told apart by their names without numbers, of which there must be two, base's first.

    Raises
    ------
    harness.errors.SettingsError
        When a file is missing, or the names do not say which side is which.
    """
    missing = [f"{one} is neither a file nor a folder with JSON files" for one in (*given, *head_files) if not _files(one)]
    if missing:
        raise SettingsError(missing)
    if head_files:
        return [path for one in given for path in _files(one)], [path for one in head_files for path in _files(one)]
    if len(given) == 2:
        return _files(given[0]), _files(given[1])
    groups: dict[str, list[Path]] = {}
    for one in given:
        for path in _files(one):
            groups.setdefault(str(path.parent / re.sub(r"[\d_.\-]+", "", path.name.removesuffix(".json"))), []).append(path)
    if len(groups) != 2:
        raise SettingsError(
            "it is not clear which files are base's and which head's; quote two patterns, as in gate 'base*.json' 'head*.json', "
            "or name the second side's: --head-files 'head*.json'"
        )
    base, head = groups.values()
    return base, head


# ------------------------------------------------------------------------------------------- measuring


def _measured(options: Options) -> tuple[Outcome, Result]:
    """Measure two sides against each other."""
    from harness.disturbance import OtherWork

    told = console()
    began = time.monotonic()
    settings = open_settings(options.option, config_dirs=options.config_dirs)
    budget_s = seconds(options.budget) if options.budget else settings.budget_s
    assert budget_s is not None
    with two_sides(options.sides, folder=Path.cwd(), tell=lambda words: told.print(words, highlight=False, soft_wrap=True)) as (base, head):
        told.print(f"base: {base.title}\nhead: {head.title}", highlight=False, soft_wrap=True)
        with _machine(told), tempfile.TemporaryDirectory(prefix="harness-gate-files-") as files:
            others = OtherWork(())
            if options.pytest:
                how = "pytest-benchmark in interleaved runs"
                settled, notes, result = _benchmarks(options, base, head, Path(files), budget_s, told)
            else:
                how = "interleaved rounds of fresh processes"
                settled, notes, result = _cells(options, settings, base, head, budget_s, told)
            share = others.share()
    if base.source == head.source and base.python == head.python and base.overrides == head.overrides:
        notes = (*notes, "Both sides are the same.")
    if words := _too_short(result, budget_s, began):
        notes = (*notes, words)
    if result.interrupted:
        notes = (*notes, "Interrupted: this is what there was.")
    machine = fingerprint.machine()
    outcome = Outcome(
        cases=(*result.cases, *settled),
        base=base.title,
        head=head.title,
        how=how,
        duration_s=time.monotonic() - began,
        rounds=result.rounds,
        machine=f"{machine['cpu']}, {machine['cores']} cores",
        load="" if share is None else f"others used {share:.0%} of the processors meanwhile",
        control=None if result.control is None else tuple(result.control),
        strict=options.strict,
        notes=notes,
    )
    return outcome, result


def _too_short(result: Result, budget_s: float, began: float) -> str:
    """Say so where the budget ended before anything could be decided, since a gate that never decides lets everything pass."""
    short = [len(one.base) for one in result.series if one.base and one.decision is not None and one.decision.verdict == "INCONCLUSIVE"]
    if result.interrupted or not short or max(short) >= LOOKS[0]:
        return ""
    needed = 2 * LOOKS[0] * (time.monotonic() - began) / max(short)
    return (
        f"The budget of {in_words(budget_s)} was spent after {max(short)} rounds, and nothing can be decided before the {LOOKS[0]}th; "
        f"raise --budget to about {math.ceil(needed / 60)}m, or measure less with --only."
    )


def _cells(
    options: Options, settings: GateSettings, base: Side, head: Side, budget_s: float, told: Console
) -> tuple[tuple[Case, ...], tuple[str, ...], Result]:
    """Measure the gate's cells."""
    from harness.gate.arms import Cells, compare_cells

    cells = settings.all_cells()
    only = options.only.lower().split() if options.only else []
    if only:
        cells = tuple(cell for cell in cells if any(_says(cell, word) for word in only))
        if not cells:
            names = ", ".join(cell.name for cell in settings.all_cells())
            raise SettingsError(f"--only {options.only} fits no cell; there are {names}")
    told.print(f"{len(cells)} cells; making data and vectors where there are none yet …", highlight=False)
    compared = compare_cells(base, head, settings, cells, options.config_dirs)
    gone = _gone(options, settings, base, head)
    settled = (*compared.settled, *(case for case in gone if not only or any(word in case.cell.lower() for word in only)))
    wanted = compared.cases
    if only:  # a word may also name a metric
        narrowed = tuple(case for case in wanted if case.key[1] != MEMORY or "memory" in options.only.lower()) if options.only else wanted
        named = tuple(case for case in narrowed if any(word in case.key[1] for word in only))
        wanted = named or narrowed
    kinds = {case.key: settings.kind(case.key[1]) for case in wanted}
    if not kinds:
        return settled, compared.notes, Result([], [] if options.control else None, 0)
    told.print(f"{len(kinds)} cases, at most {in_words(budget_s)} of rounds", highlight=False)
    instrument = Cells({"base": base, "head": head}, compared, settings)
    with _Show(told) as show:
        result = schedule(instrument, kinds, budget_s=budget_s, control=options.control, guarded=compared.guarded & set(kinds), tell=show)
    return settled, compared.notes, result


def _gone(options: Options, settings: GateSettings, base: Side, head: Side) -> list[Case]:
    """Return MISSING for each cell that base's own gate has and this one has not: what is no longer measured cannot regress."""
    option = Path(options.option)
    if base.source == head.source or (option.suffix and option.is_absolute()):
        return []
    places = [option] if option.suffix else [Path(folder, "gate", f"{option}.yaml") for folder in ("conf", *options.config_dirs)]
    path = next((base.source / place for place in places if (base.source / place).is_file()), None)
    if path is None:
        return []
    try:
        had = open_settings(str(path)).all_cells()
    except SettingsError:  # an older layout of these files
        return []
    names = {cell.name for cell in settings.all_cells()}
    decision = Decision("MISSING", reason="base's gate measures this cell and head's does not")
    return [
        Case(cell.name, metric, kind.name, kind.unit, None, None, decision, floor=kind.floor, target=kind.target)
        for cell in had
        if cell.name not in names
        for metric in cell.metrics
        for kind in [settings.kind(metric)]
    ]


def _says(cell: GateCell, word: str) -> bool:
    return word in " ".join([cell.name, *cell.overrides, *cell.metrics]).lower()


def _benchmarks(
    options: Options, base: Side, head: Side, files: Path, budget_s: float, told: Console
) -> tuple[tuple[Case, ...], tuple[str, ...], Result]:
    """Measure a pytest-benchmark suite."""
    from harness.gate.pytest_rounds import KIND, Benchmarks

    instrument = Benchmarks({"base": base, "head": head}, options.pytest, files)
    keys, settled = instrument.discover()
    if options.only:
        words = options.only.lower().split()
        keys = [key for key in keys if any(word in key[0].lower() for word in words)]
        settled = [case for case in settled if any(word in case.cell.lower() for word in words)]
    told.print(f"{len(keys)} benchmarks on both sides, at most {in_words(budget_s)} of rounds", highlight=False)
    with _Show(told) as show:
        result = schedule(instrument, dict.fromkeys(keys, KIND), budget_s=budget_s, control=options.control, tell=show)
    return tuple(settled), (), result


@contextmanager
def _machine(told: Console) -> Iterator[None]:
    """Hold the lock under which cells are timed on this machine, so that nothing of this program is measured at the same time."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    lock = FileLock(Path(tempfile.gettempdir()) / f"embedding-search-harness-{user}.lock")  # the file that the engine locks, too
    try:
        lock.acquire(timeout=0)
    except Timeout:
        told.print("waiting for another run on this machine", highlight=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Show:
    """Shows how far the rounds have come: a live table on a terminal, a line now and then where there is none."""

    def __init__(self, out: Console) -> None:
        self._console = out
        self._live: Live | None = None
        self._last = time.monotonic()

    def __enter__(self) -> _Show:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, transient=True, auto_refresh=False)  # drawn between rounds, never beside one
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def __call__(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(_table(progress), refresh=True)
        elif time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            self._console.print(_line(progress), highlight=False, soft_wrap=True)


def _line(progress: Progress) -> str:
    open_ = [one for one in progress.series if one.decision is None]
    what = "measuring again what looks like a regression: " if progress.confirming else ""
    widest = max(open_, key=lambda one: len(one.x), default=None)
    words = f"; {' '.join(widest.key)}: {_interval(widest)}" if widest is not None and _interval(widest) else ""
    left = f"at most {in_words(progress.left_s)} left"
    return f"{what}round {progress.rounds}, {len(open_)} of {len(progress.series)} cases open, {left}{words}"


def _interval(series: Series) -> str:
    """Return a case's present interval; shown, not decided on."""
    from harness.gate.decide import decide

    if series.kind.name not in ("duration", "tail", "memory") or len(series.x) < 3:
        return ""
    now = decide(series.x, series.kind, last=True)
    if now is None or now.lo is None or now.hi is None:
        return "" if now is None or now.change is None else f"{now.change:+.1%}"
    return f"{now.change:+.1%} [{now.lo:+.1%}, {now.hi:+.1%}]"


def _table(progress: Progress) -> Table:
    from rich.table import Table

    table = Table(title=_line(progress).partition(";")[0], title_justify="left", box=None, padding=(0, 2))
    for heading in ("cell", "metric", "rounds", "change so far"):
        table.add_column(heading)
    open_ = [one for one in progress.series if one.decision is None]
    for one in open_[:_ROWS]:
        table.add_row(one.key[0], one.key[1], str(len(one.base)), _interval(one))
    if len(open_) > _ROWS:
        table.add_row(f"and {len(open_) - _ROWS} more", "", "", "")
    return table
