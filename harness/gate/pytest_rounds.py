"""Rounds of pytest-benchmark: the same test files run in both sides by turns, one run being one process and so one value a benchmark.

Anybody's suite can be gated by it, whether it is about this harness or not. The samples inside a run are not independent of each other,
so a run counts as two numbers: its median, and its fastest sample, which has waited least where other processes take the processor.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, SettingsError
from harness.gate.kinds import Kind
from harness.gate.outcome import Case, Decision, Verdict
from harness.gate.rounds import Fault, Key, Seen
from harness.gate.sides import Side

METRIC = "median"
KIND = Kind("duration", "s", "lower", 0.025, 0.05, "median of a benchmark's samples in one run of pytest")
_RUN_S = 1800.0
"""A run of pytest that takes longer than this hangs."""
_BY_NAME = 200
"""So many tests are named on the command line; for more, the files are run as given."""


@dataclass(frozen=True)
class Ran:
    """What one run of pytest left behind."""

    medians: Mapping[str, float]
    """By the benchmark's full name, seconds."""
    fastest: Mapping[str, float]
    words: str
    """The end of what pytest printed, where it did not end well."""


class Benchmarks:
    """Makes rounds of pytest-benchmark, see `harness.gate.rounds.Instrument`.

    Parameters
    ----------
    sides : mapping
        ``base`` and ``head``.
    paths : sequence of str
        What pytest is to run, relative to each side's source.
    folder : Path
        Empty; for the runs' files.
    seed : int
        Of the order of the sides.
    """

    def __init__(self, sides: Mapping[str, Side], paths: Sequence[str], folder: Path, *, seed: int = 0) -> None:
        self._sides, self._paths, self._folder, self._seed = sides, list(paths), folder, seed
        self._run = 0

    def discover(self) -> tuple[list[Key], list[Case]]:
        """Run everything once on both sides: what both have, and the verdicts on what only one has.

        Raises
        ------
        harness.errors.HarnessError
            When neither side has a benchmark that works.
        """
        found = {arm: self._pytest(self._sides[arm], self._paths, 0) for arm in ("base", "head")}
        base, head = found["base"].medians, found["head"].medians
        if not base and not head:
            raise HarnessError(f"{' '.join(self._paths)}: no benchmark ran on either side: {found['head'].words or found['base'].words}")
        settled = []
        for name in dict.fromkeys([*base, *head]):
            if name in base and name in head:
                continue
            verdict: Verdict
            if name not in head:
                verdict, reason = "MISSING", f"head has not run it{_after(found['head'].words)}"
            else:
                verdict, reason = "NEW", f"base has not run it{_after(found['base'].words)}"
            settled.append(Case(name, METRIC, KIND.name, KIND.unit, base.get(name), head.get(name), Decision(verdict, reason=reason)))
        return [(name, METRIC) for name in base if name in head], settled

    def round(self, number: int, wanted: Sequence[Key], arms: Sequence[str]) -> Mapping[Key, Seen | Fault]:
        """Run some benchmarks once on every arm, in random order of the arms."""
        rng = random.Random(f"{self._seed} {number}")
        hash_seed = rng.randrange(1, 2**32)
        names = [name for name, _ in wanted]
        found: dict[str, Ran] = {}
        for arm in rng.sample(list(arms), len(arms)):
            what = names if len(names) <= _BY_NAME else self._paths
            found[arm] = self._pytest(self._sides["base" if arm == "control" else arm], what, hash_seed)
        seen: dict[Key, Seen | Fault] = {}
        for name in names:
            failed = [arm for arm in found if name not in found[arm].medians]
            if failed:
                arm = "head" if "head" in failed else "base"
                seen[name, METRIC] = Fault(arm, f"it left no result{_after(found[failed[0]].words)}")
            else:
                seen[name, METRIC] = Seen(
                    {arm: [ran.medians[name]] for arm, ran in found.items()}, fastest={arm: ran.fastest[name] for arm, ran in found.items()}
                )
        return seen

    def _pytest(self, side: Side, what: Sequence[str], hash_seed: int) -> Ran:
        self._run += 1
        report = self._folder / f"{self._run}.json"
        options = ["--benchmark-enable", "--benchmark-only", f"--benchmark-json={report}", "-q", "-rfE", "-p", "no:cacheprovider"]
        command = [side.python, "-m", "pytest", *what, *options]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # where a test runs the gate
        # Before what is installed: an editable install of the package under test leads to one side only.
        first = [str(folder) for folder in (side.source, side.source / "src") if folder.is_dir()]
        path = os.pathsep.join([*first, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command,
            cwd=side.source,
            env={**variables, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the parent, which then ends this
        )
        try:
            said, _ = process.communicate(timeout=_RUN_S)
        except subprocess.TimeoutExpired as error:
            raise HarnessError(f"pytest {' '.join(what[:3])} on {side.title} did not end within {_RUN_S:g} s") from error
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if "unrecognized arguments: --benchmark" in said or "No module named pytest" in said:
            raise SettingsError(
                f"--pytest needs pytest and pytest-benchmark in the environment of {side.title}: pip install pytest-benchmark"
            )
        failed = set(re.findall(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", said, re.MULTILINE))  # a failed test leaves its timing too
        samples = {name: data for name, data in _samples(report).items() if name not in failed}
        report.unlink(missing_ok=True)
        medians = {name: statistics.median(data) for name, data in samples.items()}
        return Ran(
            medians, {name: min(data) for name, data in samples.items()}, "" if process.returncode == 0 else " ".join(said.split())[-300:]
        )


def _samples(report: Path) -> dict[str, list[float]]:
    """Return the samples of each benchmark."""
    try:
        body: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # pytest leaves an empty file where no benchmark ran
        return {}
    return {one["fullname"]: one["stats"]["data"] for one in body.get("benchmarks", []) if one["stats"].get("data")}


def _after(words: str) -> str:
    return f"; pytest ended with: {words}" if words else ""
