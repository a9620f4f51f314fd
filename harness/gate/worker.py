"""What runs inside a side's process: loads cells of that side's own code and times them when told to.

Started by path, ``python -P worker.py SOURCE``, so that both sides are measured by the very same file, while everything it measures comes
from SOURCE, which stands first on the import path. It reads one request a line and answers with one line of JSON; between the two it
waits in the kernel. Of the side it uses `harness.gate.samples` alone, and only the standard library of its own.

A sample is a number of calls in a row, timed from outside by two clocks: wall time and processor time of this process, all its threads.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COMPARED = 16
"""Documents whose vectors are compared between the sides."""
WARM_UP = 20
"""Requests to each operating point before anything is timed."""


def timed(call: Callable[[], object]) -> list[int]:
    """Return the nanoseconds of wall time and of processor time that a call takes."""
    cpu = time.process_time_ns()
    wall = time.perf_counter_ns()
    call()
    wall = time.perf_counter_ns() - wall
    return [wall, time.process_time_ns() - cpu]


def repeated(call: Callable[[], int]) -> Callable[[int], int]:
    """Return a function that makes a call so many times in a row, and adds up what the calls have done."""

    def several(times: int) -> int:
        return sum(call() for _ in range(times))

    return several


class Missing(Exception):  # noqa: N818 - a message to the parent, not a fault
    """There is no such thing to measure on this side."""


class Worker:
    """The requests, one method each; they return what the answer holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cells: dict[str, dict[str, Any]] = {}

    def plan(self, cell: str, overrides: list[str], config_dirs: list[str], vectors: bool) -> dict[str, Any]:
        """Say what a cell is on this side."""
        from harness.gate import samples

        results = self._folder / "results"
        results.mkdir(exist_ok=True)
        dirs = [folder for folder in config_dirs if Path(folder).is_dir()]
        return {"cell": cell, "plan": samples.planned(overrides, config_dirs=dirs, results=results, vectors=vectors)}

    def prepare(self, cell: str, plan: Mapping[str, Any], parts: list[str]) -> dict[str, Any]:
        """Do what comes before a cell is loaded under the clock: imports, files into the page cache, an empty collection."""
        from harness.gate import samples

        loaded: dict[str, Any] = {"points": plan["points"]}
        if "embed" in parts:
            if plan["embed"] is None:
                raise Missing("vectors are given: there is nothing to embed")
            loaded["embed"] = samples.Embedding(plan["embed"])
            loaded["embed"].load()
        if "search" in parts:
            loaded["search"] = samples.Searching(plan["search"], Path(plan["vectors"]), Path(tempfile.mkdtemp(dir=self._folder)))
            loaded["search"].open()
        self._cells[cell] = loaded
        return {}

    def load(self, cell: str) -> dict[str, Any]:
        """Load a cell's model or collection; answers with what that took."""
        loaded = self._cells[cell]
        took: dict[str, list[int]] = {}
        if "embed" in loaded:
            took["load_s"] = timed(loaded["embed"].load)
            loaded["embed"].ready()
        if "search" in loaded:
            took["insert_s"] = timed(loaded["search"].insert)
            took["build_s"] = timed(loaded["search"].build)
            for point in loaded["points"]:
                loaded["search"].block(point["k"], point["params"], WARM_UP)
        return {"took": took}

    def facts(self, cell: str) -> dict[str, Any]:
        """Return what a loaded cell's answers are: vectors, ids and bytes; outside any clock."""
        found: dict[str, Any] = {}
        loaded = self._cells[cell]
        if "embed" in loaded:
            found["vectors"] = loaded["embed"].vectors(COMPARED).tolist()
        if "search" in loaded:
            store = loaded["search"]
            found["ids"] = [store.ids(point["k"], point["params"]).tolist() for point in loaded["points"]]
            found["index_bytes"] = store.index_bytes()
        return found

    def settle(self) -> dict[str, Any]:
        """Collect garbage now, and never while a sample is timed."""
        gc.collect()
        gc.freeze()
        gc.disable()
        return {}

    def block(self, cell: str, metric: str, times: int, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Take one sample of so many passes, queries or requests; ``units`` is how many batches, queries or requests that were."""
        call = self._call(cell, metric, point)
        done: list[int] = []
        return {"ns": timed(lambda: done.append(call(times))), "units": done[0]}

    def calibrate(self, cell: str, metric: str, least_ns: int, clock: int, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return how many times take so long together by one of the two clocks: asked of one side, used for all."""
        call = self._call(cell, metric, point)
        call(1)
        times = 1
        while (took := timed(lambda times=times: call(times))[clock]) < least_ns:  # type: ignore[misc]
            times = min(times * 10, int(times * least_ns / max(took, 1) * 1.1) + 1)
        return {"times": times}

    def _call(self, cell: str, metric: str, point: Mapping[str, Any] | None) -> Callable[[int], int]:
        loaded = self._cells[cell]
        if point is not None:
            store, k, params = loaded["search"], point["k"], point["params"]
            return lambda times: store.block(k, params, times)
        model = loaded["embed"]
        one: dict[str, Callable[[int], int]] = {
            "query_embed_s": model.queries,
            "forward_s": repeated(model.forward),
            "pipeline_s": repeated(model.pipeline),
        }
        return one[metric]

    def latencies(self, cell: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each request of an operating point took since this was last asked, in seconds."""
        return {"seconds": self._cells[cell]["search"].latencies(point["k"], point["params"])}

    def peak(self) -> dict[str, Any]:
        """Return the most memory that this process has held."""
        from harness.memory import peak_rss_bytes

        return {"peak_rss_bytes": peak_rss_bytes()}

    def close(self) -> dict[str, Any]:
        """Close what is open."""
        for loaded in self._cells.values():
            if "search" in loaded:
                loaded["search"].close()
        return {}


def told(error: BaseException) -> dict[str, str]:
    """Return an error as the parent wants it: what kind, and a sentence."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = "; ".join(str(error).splitlines()) or type(error).__name__
    if "SettingsError" in names:
        return {"kind": "settings", "text": text}
    if isinstance(error, Missing):
        return {"kind": "lacking", "text": text}
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "harness":
        return {"kind": "lacking", "text": f"this version of the harness has not what a gate needs: {text}"}
    if "HarnessError" in names:
        return {"kind": "failed", "text": text}
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (in {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return {"kind": "failed", "text": f"{type(error).__name__}: {text}{where}"}


def serve(source: str) -> None:
    """Answer requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    sys.path[:0] = [str(folder) for folder in (Path(source), Path(source) / "src") if folder.is_dir()]

    def answer(body: Mapping[str, Any]) -> None:
        line = json.dumps(body).encode() + b"\n"
        while line:
            line = line[os.write(answers, line) :]

    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        worker = Worker(Path(folder))
        for line in requests:
            request = json.loads(line)
            try:
                answer(getattr(worker, request.pop("do"))(**request))
            except Exception as error:  # noqa: BLE001 - whatever a side's code raises is that cell's error, told to the parent
                traceback.print_exc()
                answer({"error": told(error)})


if __name__ == "__main__":
    serve(sys.argv[1])
