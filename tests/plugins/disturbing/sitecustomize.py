"""Kills a run, or makes its work fail, at a stage named beforehand; Python imports this by itself where its folder is on ``PYTHONPATH``.

An order is an empty file ``<stage>.<what>`` in the folder that ``HARNESS_TEST_ORDERS`` names; whoever comes to that stage first takes it
away and obeys. So the harness is disturbed where a test wants it to be, in whichever process that is, and nothing in it knows.

``parent``, ``server`` and ``child`` are killed with SIGKILL; ``error`` and ``memory`` are raised. A killer strikes a moment after the stage
has begun, except in those that put a finished file or folder in its place (``record``, ``cache``), where it strikes just before.
"""

import functools
import os
import signal
import sys
import threading
import time
from importlib.machinery import PathFinder
from pathlib import Path

STAGES = {
    "harness.data": {"lay_out": "data"},
    "harness.embed_cell": {"measure_memory": "embed_memory", "measure": "embed"},
    "harness.vectors": {"make_vectors": "vectors"},
    "harness.truth": {"make_truth": "truth"},
    "harness.search_cell": {"measure_memory": "search_memory", "measure": "search"},
    "harness.report": {"write_reports": "report"},
}
"""By module and function, the stage that it is."""

OURS = "embed_memory", "embed", "vectors", "truth", "search_memory", "search"
"""Stages of measuring processes; the others are the parent's."""


def order(stage):
    """Take an order for a stage away and return what is to be done; None where there is none."""
    for path in Path(os.environ["HARNESS_TEST_ORDERS"]).glob(f"{stage}.*"):
        try:
            path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue
        return path.name.partition(".")[2]
    return None


def obey(stage, what, *, after_s):
    if what == "error":
        raise RuntimeError("planted: an error")
    if what == "memory":
        raise MemoryError("planted: no memory")
    if stage in OURS:
        server = os.getppid()
        stat = Path(f"/proc/{server}/stat").read_text()
        victim = {"child": os.getpid(), "server": server, "parent": int(stat.rpartition(")")[2].split()[1])}[what]
    else:
        victim = os.getpid()
    if after_s:
        threading.Timer(after_s, os.kill, (victim, signal.SIGKILL)).start()
    else:
        os.kill(victim, signal.SIGKILL)
        time.sleep(600)


def disturbed(function, stage):
    @functools.wraps(function)
    def obeying(*given, **named):
        what = order(stage)
        if what is not None:
            obey(stage, what, after_s=0.02)
        answer = function(*given, **named)
        if what is not None:
            time.sleep(600)  # until the killer strikes
        return answer

    return obeying


class Wrapping(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in STAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def wrapped(module):
            run(module)
            for function, stage in STAGES[name].items():
                setattr(module, function, disturbed(getattr(module, function), stage))

        spec.loader.exec_module = wrapped
        return spec


def renaming(method):
    @functools.wraps(method)
    def obeying(self, target):
        stage = {".json": "record"}.get(Path(target).suffix) if Path(target).parent.name == "records" else None
        if self.name.startswith(".") and self.is_dir():
            stage = "cache"
        if stage is not None and (what := order(stage)) is not None:
            obey(stage, what, after_s=0.0)
        return method(self, target)

    return obeying


if "HARNESS_TEST_ORDERS" in os.environ:
    sys.meta_path.insert(0, Wrapping)
    Path.replace, Path.rename = renaming(Path.replace), renaming(Path.rename)
