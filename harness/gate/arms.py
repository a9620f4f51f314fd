"""Rounds of fresh processes: one a side, told by turns what to time, block by block in random order.

A round starts one process an arm, with the same hash seed (a new one each round) and an environment of a length of its own, lets all
of them load what is to be measured, and then goes through the cases: a few samples to warm up, then `blocks` blocks of one sample of
each arm. While one process works, the others and this one wait in the kernel. How many calls a sample has is settled once, on base.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells import environment
from harness.errors import CellError, HarnessError
from harness.fingerprint import usable_cores
from harness.gate import worker as worker_file
from harness.gate.decide import harrell_davis, requests_needed
from harness.gate.outcome import Case, Decision, Verdict
from harness.gate.rounds import Fault, Key, Seen
from harness.gate.settings import MEMORY, SEARCH, GateCell, GateSettings
from harness.gate.sides import PREFIX, Side
from harness.replicate import describe_exit

WORKER = Path(worker_file.__file__)
ALL_CELLS = "all cells"
"""What the memory of a process that has loaded them all belongs to."""
TAILS = {"search_p95_s": 0.95, "search_p99_s": 0.99}
SAME_DIRECTION = 1e-5
"""Vectors whose cosine is less than this below 1 are the same but for rounding: float32 sums in another order differ by less."""
_ANSWER_S = 600.0
"""A process that is silent for so long hangs."""
_LEAVE_S = 20.0


class SideError(HarnessError):
    """What a side answered instead of a result."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        """``settings``: it does not know what is asked for; ``lacking``: it cannot be measured; ``failed``; ``died``."""


class Process:
    """The parent's end of one side's process."""

    def __init__(self, side: Side, variables: Mapping[str, str]) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # What it writes goes into a folder of this process's, so that it is cleared away even if the other is killed.
        self._folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [side.python, "-P", str(WORKER), str(side.source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, **variables, "TMPDIR": self._folder.name},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends this
        )
        self._buffer = b""

    def send(self, do: str, **request: Any) -> None:
        """Ask, without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None

    def receive(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises
        ------
        SideError
            When the side's code failed, or the process has died or hangs.
        """
        stream = self._process.stdout
        assert stream is not None
        deadline = time.monotonic() + _ANSWER_S
        with selectors.DefaultSelector() as waiting:
            waiting.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not waiting.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise SideError("died", f"it did not answer within {_ANSWER_S:g} s and was killed")
                chunk = os.read(stream.fileno(), 1 << 20)
                if not chunk:
                    raise self._died()
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"]["kind"], answer["error"]["text"])
        return answer

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Ask and wait for the answer."""
        self.send(do, **request)
        return self.receive()

    def _died(self) -> SideError:
        code = self._process.wait()
        self._words.seek(0)
        last = " ".join(self._words.read().decode(errors="replace").split())[-300:]
        return SideError("died", f"the process ended unexpectedly ({describe_exit(code)})" + (f": {last}" if last else ""))

    def kill(self) -> None:
        """End the process at once, and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the leader of a session of its own
        self._process.wait()

    def close(self) -> None:
        """Let the process end; kill it if it does not."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # it had gone already
                    continue
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            if self._process.poll() is None:  # interrupted while waiting
                self.kill()
            self._words.close()
            self._folder.cleanup()


@dataclass(frozen=True)
class Measurable:
    """One case as it is measured."""

    key: Key
    cell: str
    """Name of the gate's cell."""
    point: int | None = None
    """Number of the operating point; None for what a cell has only once."""


def needed_parts(metrics: Collection[str]) -> list[str]:
    """Return which of a cell's parts some metrics need: ``embed``, ``search`` or both."""
    search = {*SEARCH, "recall_of_builds"}
    return [part for part, there in (("embed", set(metrics) - search), ("search", set(metrics) & search)) if there]


@dataclass(frozen=True)
class Compared:
    """What both sides said of the gate's cells: what can be measured, and what is decided without."""

    plans: Mapping[str, Mapping[str, Any]]
    """Cell name to the plans of ``base`` and ``head``."""
    cases: tuple[Measurable, ...]
    settled: tuple[Case, ...]
    """MISSING, NEW, NOT COMPARABLE and ERROR."""
    notes: tuple[str, ...]
    guarded: frozenset[Key]
    """Cases that processor time decides."""


def compare_cells(base: Side, head: Side, settings: GateSettings, cells: Sequence[GateCell], config_dirs: Sequence[str]) -> Compared:
    """Ask both sides what each cell is there, and sort out what can be compared.

    Parameters
    ----------
    config_dirs : sequence of str
        Folders with options of one's own; relative ones lie below each side's source.
    """
    said: dict[str, dict[str, dict[str, Any] | SideError]] = {cell.name: {} for cell in cells}
    sides = {"base": base, "head": head}
    with ExitStack() as leave:
        processes = {}
        for arm, side in sides.items():
            processes[arm] = Process(side, environment(usable_cores()))
            leave.callback(processes[arm].close)
        for cell in cells:
            for arm, side in sides.items():
                folders = [str(side.source / folder) for folder in config_dirs]  # an absolute one stays as it is
                overrides = [*cell.overrides, *side.overrides]
                try:
                    processes[arm].send("plan", cell=cell.name, overrides=overrides, config_dirs=folders, vectors=arm == "base")
                except SideError as error:
                    said[cell.name][arm] = error
            for arm in sides:
                if arm not in said[cell.name]:
                    try:
                        said[cell.name][arm] = processes[arm].receive()["plan"]
                    except SideError as error:
                        said[cell.name][arm] = error
    plans: dict[str, Mapping[str, Any]] = {}
    cases: list[Measurable] = []
    settled: list[Case] = []
    notes: list[str] = []
    free = bool(base.overrides or head.overrides)
    for cell in cells:
        one, other = said[cell.name]["base"], said[cell.name]["head"]
        if isinstance(one, SideError) or isinstance(other, SideError):
            settled += _unmeasurable(cell, settings, one, other)
            continue
        differing = [name for name in one["task"] if one["task"][name] != other["task"].get(name) and (name != "weights" or not free)]
        if (one["embed"] is None) != (other["embed"] is None):
            differing.append("what is embedded")
        points, others = one["points"], other["points"]
        if len(points) != len(others) or any(point in points and points.index(point) != i for i, point in enumerate(others)):
            differing.append("list of operating points")  # paired by position, one would stand beside another one's
        if differing:
            reason = f"another {', '.join(differing)} on the two sides: the figures are of different tasks"
            settled += [
                _without_number(one["titles"][needed_parts([metric])[0]], metric, settings, "NOT COMPARABLE", reason)
                for metric in cell.metrics
            ]
            continue
        found = [f"{cell.name}: {words}" for words in _differences(one["settings"], other["settings"])]
        notes += [f"{words} (not asked for: the sides' own settings differ)" for words in found] if not free else []
        plans[cell.name] = {"base": one, "head": {**other, "vectors": one["vectors"]}, "control": one}
        cases += _measurables(cell, one, other, taken={case.key for case in cases}, free=free)
    if cases and settings.memory:
        cases.append(Measurable((ALL_CELLS, MEMORY), ""))
    if any(name in ("vectors",) for cell in cells for name in cell.metrics) and free:
        notes.append("vectors are not compared between different settings")
    guarded = frozenset(
        case.key
        for case in cases
        if case.cell
        and _by_processor_time(plans[case.cell]["base"], case.key[1])
        and _by_processor_time(plans[case.cell]["head"], case.key[1])
    )
    return Compared(plans, tuple(cases), tuple(settled), tuple(notes), guarded)


def _unmeasurable(cell: GateCell, settings: GateSettings, base: dict[str, Any] | SideError, head: dict[str, Any] | SideError) -> list[Case]:
    """Return the verdicts on a cell of which at least one side has no plan."""
    verdict: Verdict
    of_base, of_head = (side.kind if isinstance(side, SideError) else None for side in (base, head))
    if "lacking" in (of_base, of_head):
        verdict = "NOT COMPARABLE"
    elif of_base == "settings" and not of_head:  # base does not know it; what failed or died there is an error
        verdict = "NEW"
    elif of_head == "settings" and not of_base:
        verdict = "MISSING"
    else:
        verdict = "ERROR"
    words = "; ".join(f"{arm}: {side}" for arm, side in (("base", base), ("head", head)) if isinstance(side, SideError))
    titles: Mapping[str, str] = next((side["titles"] for side in (base, head) if not isinstance(side, SideError)), {})
    return [
        _without_number(
            f"{titles[part]} ({cell.name})" if (part := needed_parts([metric])[0]) in titles else cell.name,
            metric,
            settings,
            verdict,
            words,
        )
        for metric in cell.metrics
    ]


def _without_number(cell: str, metric: str, settings: GateSettings, verdict: Verdict, reason: str) -> Case:
    kind = settings.kind(metric)
    decision = Decision(verdict, reason=reason)
    return Case(cell, metric, kind.name, kind.unit, None, None, decision, floor=kind.floor, target=kind.target)


def _differences(base: Mapping[str, Any], head: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return in words where two settings differ."""
    found: list[str] = []
    for name in dict.fromkeys([*base, *head]):
        one, other = base.get(name), head.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name} is {one} on base, {other} on head")
    return found


def _measurables(cell: GateCell, base: Mapping[str, Any], head: Mapping[str, Any], *, taken: set[Key], free: bool) -> list[Measurable]:
    """Return a cell's cases; operating points of the two sides belong together by their number."""
    found = []
    for metric in cell.metrics:
        if metric == "vectors" and free:
            continue
        part = "search" if metric in (*SEARCH, "recall_of_builds") else "embed"
        title = base["titles"][part]
        if metric not in ("search_s", "search_p95_s", "search_p99_s", "recall", "recall_of_builds"):
            found.append(Measurable((title, metric), cell.name))
            continue
        for number, (point, other) in enumerate(zip(base["points"], head["points"], strict=False)):
            words = [f"{name} {value}" + (f" → {new}" if (new := other["params"].get(name, value)) != value else "")
                     for name, value in point["params"].items()]  # fmt: skip
            found.append(Measurable((" · ".join([title, *words, f"k {point['k']}"]), metric), cell.name, number))
    if any(case.key in taken for case in found):
        found = [Measurable((f"{case.key[0]} ({cell.name})", case.key[1]), case.cell, case.point) for case in found]
    return found


def _by_processor_time(plan: Mapping[str, Any], metric: str) -> bool:
    """Say whether a metric is work of one thread of the measuring process, so that its processor time is the clearer clock."""
    if plan["threads"] != 1 or metric not in ("forward_s", "pipeline_s", "query_embed_s", "load_s", "search_s", "insert_s", "build_s"):
        return False
    return bool(plan["in_process"]) if metric in SEARCH else plan["device"] == "cpu"


class Cells:
    """Makes rounds of a gate's cells, see `harness.gate.rounds.Instrument`.

    Parameters
    ----------
    sides : mapping
        Arm to side.
    compared : Compared
        What the sides said.
    settings : GateSettings
        Blocks, their length, threads, seed.
    """

    def __init__(self, sides: Mapping[str, Side], compared: Compared, settings: GateSettings) -> None:
        self.sides, self.compared, self.settings = sides, compared, settings
        self._cases = {case.key: case for case in compared.cases}
        self._times: dict[tuple[str, str, int | None], int] = {}
        self._reference: dict[str, Any] = {}
        """By cell, the vectors that base made first."""
        self._truth: dict[tuple[str, int], Any] = {}

    def round(self, number: int, wanted: Sequence[Key], arms: Sequence[str]) -> Mapping[Key, Seen | Fault]:
        """Measure some cases once on every arm."""
        return _Round(self, number, [self._cases[key] for key in wanted], arms).made()

    # What follows is a round's own business with what is kept between rounds.

    def times(self, case: Measurable, metric: str, calibrate: Callable[[], int]) -> int:
        """Return how many calls a sample has."""
        key = (case.cell, metric, case.point)
        if key not in self._times:
            self._times[key] = calibrate()
        return self._times[key]

    def checksum(self, cell: str, vectors: list[list[float]]) -> int:
        """Return a checksum that is the base's wherever vectors are the base's but for rounding."""
        found = np.asarray(vectors, dtype=np.float64)
        reference = self._reference.setdefault(cell, found)
        same = found.shape == reference.shape and bool(np.isfinite(found).all())
        if same:
            lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
            cosines = (found * reference).sum(axis=1) / np.maximum(lengths, 1e-30)
            scale = np.linalg.norm(found, axis=1) / np.maximum(np.linalg.norm(reference, axis=1), 1e-30)
            same = bool((cosines > 1 - SAME_DIRECTION).all() and (np.abs(scale - 1) < 10 * SAME_DIRECTION).all())
        digest = hashlib.sha256((reference if same else np.round(found, 4)).tobytes()).hexdigest()
        return int(digest[:12], 16)  # as many digits as a float holds

    def recall(self, cell: str, point: int, ids: list[list[int]]) -> list[float]:
        """Return the recall of each query, by this program's own ground truth and metric for both sides."""
        from harness.groundtruth import exact_neighbours
        from harness.metrics.recall import recall_at_k

        plan = self.compared.plans[cell]["base"]
        k, metric = plan["points"][point]["k"], plan["task"]["metric"]
        corpus = np.load(Path(plan["vectors"]) / "corpus.npy", mmap_mode="r")
        queries = np.load(Path(plan["vectors"]) / "queries.npy")
        if (cell, k) not in self._truth:
            from harness.search_cell import parts_of

            below = parts_of(plan["task"]["filter"][0])
            self._truth[cell, k] = exact_neighbours(queries, corpus, k=min(k, len(corpus)), metric=metric, below=below)
        scores = recall_at_k(np.asarray(ids, dtype=np.int64), self._truth[cell, k], k=k, queries=queries, corpus=corpus)
        return [float(score) for score in scores]


class _Round:
    """One round, while it is made."""

    def __init__(self, cells: Cells, number: int, wanted: Sequence[Measurable], arms: Sequence[str]) -> None:
        self._cells = cells
        self._sides, self._compared, self._settings = cells.sides, cells.compared, cells.settings
        self._arms = list(arms)
        self._rng = random.Random(f"{self._settings.seed} {number}")
        self._wanted = list(wanted)
        self._memory_wanted = any(case.key == (ALL_CELLS, MEMORY) for case in wanted)
        self._seen: dict[Key, Seen | Fault] = {}
        self._failed: set[str] = set()
        self._processes: dict[str, Process] = {}

    def made(self) -> Mapping[Key, Seen | Fault]:
        hash_seed = str(self._rng.randrange(1, 2**32))
        with ExitStack() as leave:
            for arm in self._shuffled(self._arms):
                side = self._sides["base" if arm == "control" else arm]
                padding = {"HARNESS_GATE_PADDING": "x" * self._rng.randrange(4096), "PYTHONHASHSEED": hash_seed}
                self._processes[arm] = Process(side, {**environment(self._settings.threads), **padding})
                leave.callback(self._processes[arm].close)
            asked = list(dict.fromkeys(case.cell for case in self._wanted if case.cell))
            # For the memory of a process that holds all cells, those are loaded too that are decided already.
            names = self._shuffled(list(self._compared.plans) if self._memory_wanted else asked)
            leave.push(self._kill_if_interrupted)
            try:
                for name in names:
                    self._load(name)
                self._everywhere("", "settle")
                for name in self._shuffled([name for name in asked if name not in self._failed]):
                    self._measure(name)
                self._memory()
                self._everywhere("", "close")
            except CellError:
                pass  # a process has died: what was seen until then stands, the rest is asked for again
        return self._seen

    def _kill_if_interrupted(self, kind: type[BaseException] | None, *_: object) -> None:
        """Do not wait for what is under way when the gate is to end."""
        if kind is not None:
            for process in self._processes.values():
                process.kill()

    def _shuffled(self, values: Sequence[Any]) -> list[Any]:
        return self._rng.sample(list(values), len(values))

    def _of(self, name: str) -> list[Measurable]:
        return [case for case in self._wanted if case.cell == name and case.key not in self._seen]

    def _fault(self, name: str, arm: str, error: SideError) -> None:
        """Note that a cell failed on an arm; a process that died takes the round with it."""
        self._failed.add(name)
        for case in self._of(name) if name else []:
            self._seen[case.key] = Fault("base" if arm == "control" else arm, str(error))
        if error.kind == "died":
            raise CellError(str(error)) from error

    def _everywhere(self, name: str, do: str, *, at_once: bool = False, **request: Any) -> dict[str, dict[str, Any]] | None:
        """Ask all arms the same, one after the other or all at once; None where one failed."""
        answers: dict[str, dict[str, Any]] = {}
        order = self._shuffled(self._arms)
        failed: tuple[str, SideError] | None = None
        for arm in order if at_once else ():
            try:
                self._processes[arm].send(do, **self._own(name, arm, request))
            except SideError as error:
                failed = (arm, error)
        for arm in order:
            try:
                if not at_once:
                    self._processes[arm].send(do, **self._own(name, arm, request))
                answers[arm] = self._processes[arm].receive()
            except SideError as error:
                if failed is None or arm == "head":
                    failed = (arm, error)
        if failed is not None:
            self._fault(name, *failed)
            return None
        return answers

    def _own(self, name: str, arm: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request with what differs between the arms: the plan, or a point of it by number."""
        found = dict(request)
        if found.pop("with_plan", False):
            found["plan"] = self._compared.plans[name][arm]
        if isinstance(found.get("point"), int):
            found["point"] = self._compared.plans[name][arm]["points"][found["point"]]
        return found

    def _load(self, name: str) -> None:
        """Load a cell on all arms; imports and first calls at once, what is timed by turns."""
        metrics = {case.key[1] for case in self._of(name)}
        every = {case.key[1] for case in self._compared.cases if case.cell == name}
        parts = needed_parts(every if self._memory_wanted else metrics)
        if self._everywhere(name, "prepare", at_once=True, cell=name, with_plan=True, parts=parts) is None:
            return
        took = self._everywhere(name, "load", cell=name)
        if took is None:
            return
        once = [case for case in self._of(name) if case.key[1] in ("load_s", "insert_s", "build_s")]
        for case in once:
            self._seen[case.key] = self._timed(case, {arm: [took[arm]["took"][case.key[1]]] for arm in self._arms})
        if not metrics & {"vectors", "recall", "recall_of_builds", "index_bytes"}:
            return
        facts = self._everywhere(name, "facts", cell=name)
        if facts is not None:
            self._state(name, facts)

    def _state(self, name: str, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what is no time: vectors, recall, bytes."""
        order = ["base", *(arm for arm in self._arms if arm != "base")]  # the base's vectors are the reference
        for case in self._of(name):
            metric = case.key[1]
            if metric == "vectors":
                self._seen[case.key] = Seen({arm: [self._cells.checksum(name, facts[arm]["vectors"])] for arm in order})
            elif metric == "index_bytes":
                if any(facts[arm]["index_bytes"] is None for arm in order):
                    self._seen[case.key] = Fault(
                        "head", "the store does not tell the size of its index; leave index_bytes out of the metrics"
                    )
                else:
                    self._seen[case.key] = Seen({arm: [facts[arm]["index_bytes"]] for arm in order})
            elif metric in ("recall", "recall_of_builds"):
                assert case.point is not None
                try:
                    scores = {arm: self._cells.recall(name, case.point, facts[arm]["ids"][case.point]) for arm in order}
                except (HarnessError, ValueError) as error:
                    self._seen[case.key] = Fault("head", f"its answers cannot be scored: {error}")
                    continue
                exact = metric == "recall"
                self._seen[case.key] = Seen({arm: [sum(found) / len(found)] if exact else found for arm, found in scores.items()})

    def _measure(self, name: str) -> None:
        """Go through a cell's timed cases in random order."""
        timed = self._of(name)
        points = {case.point for case in timed if case.key[1] in ("search_s", *TAILS)}
        jobs: list[tuple[str, int | None]] = [("search_s", point) for point in points]
        jobs += [(case.key[1], None) for case in timed if case.key[1] in ("forward_s", "pipeline_s", "query_embed_s")]
        for metric, point in self._shuffled(jobs):
            if name not in self._failed:
                self._blocks(name, metric, point)

    def _blocks(self, name: str, metric: str, point: int | None) -> None:
        cases = [
            case for case in self._of(name) if case.point == point and case.key[1] in ((metric, *TAILS) if point is not None else (metric,))
        ]
        asked: dict[str, Any] = {"cell": name, "metric": metric, "point": point}
        try:
            base = self._processes["base"]
            least = {"least_ns": int(self._settings.block_ms * 1e6), "clock": int(cases[0].key in self._compared.guarded)}
            times = self._cells.times(
                cases[0], metric, lambda: int(base.ask("calibrate", **self._own(name, "base", asked), **least)["times"])
            )
        except SideError as error:
            self._fault(name, "base", error)
            return
        before: dict[str, dict[str, Any]] | None = None
        for _ in range(3):  # until two samples in a row agree
            now = self._everywhere(name, "block", **asked, times=times)
            if now is None:
                return
            if before and all(abs(now[arm]["ns"][0] / before[arm]["ns"][0] - 1) < 0.1 for arm in self._arms):
                break
            before = now
        tails = [case for case in cases if case.key[1] in TAILS]
        if tails and self._everywhere(name, "latencies", cell=name, point=point) is None:
            return
        orders = list(itertools.permutations(self._arms))
        plan = [order for _ in range(-(-self._settings.blocks // len(orders))) for order in self._shuffled(orders)][: self._settings.blocks]
        pairs: dict[str, list[Sequence[float]]] = {arm: [] for arm in self._arms}
        for order in self._shuffled(plan):
            for arm in order:
                try:
                    answer = self._processes[arm].ask("block", **self._own(name, arm, asked), times=times)
                except SideError as error:
                    self._fault(name, arm, error)
                    return
                pairs[arm].append([taken / answer["units"] for taken in answer["ns"]])
        for case in cases:
            if case.key[1] == metric:
                self._seen[case.key] = self._timed(case, pairs)
        if tails:
            self._tails(name, tails, point)

    def _tails(self, name: str, cases: Sequence[Measurable], point: int | None) -> None:
        latencies = self._everywhere(name, "latencies", cell=name, point=point)
        if latencies is None:
            return
        fewest = min(len(latencies[arm]["seconds"]) for arm in self._arms)
        for case in cases:
            quantile = TAILS[case.key[1]]
            needed = requests_needed(quantile)
            few = (
                f"{fewest} requests a side and round are too few to judge by, {needed} are needed; raise gate.block_ms"
                if fewest < needed
                else ""
            )
            values = {arm: [harrell_davis(latencies[arm]["seconds"], quantile)] for arm in self._arms}
            self._seen[case.key] = Seen(values, too_few=few)

    def _timed(self, case: Measurable, pairs: Mapping[str, Sequence[Sequence[float]]]) -> Seen:
        """Return nanoseconds of both clocks as seconds, of processor time where that is the clearer clock."""
        wall = {arm: [pair[0] / 1e9 for pair in found] for arm, found in pairs.items()}
        if case.key not in self._compared.guarded:
            return Seen(wall)
        return Seen({arm: [pair[1] / 1e9 for pair in found] for arm, found in pairs.items()}, wall=wall)

    def _memory(self) -> None:
        key = (ALL_CELLS, MEMORY)
        if self._memory_wanted and (peaks := self._everywhere("", "peak")) is not None:
            lacking = ", ".join(sorted(name for name in self._failed if name))
            few = f"{lacking} could not be measured on both sides, so that the processes did not hold the same" if lacking else ""
            self._seen[key] = Seen({arm: [peaks[arm]["peak_rss_bytes"]] for arm in self._arms}, too_few=few)
