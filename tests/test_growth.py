"""A long sweep does not outgrow its parent: memory, open files and threads after 200 cells are what they were after 5."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import PLUGINS, QUICK, own_environment
from tests.disturbed import Place

SWEEP = [*QUICK, "seed=range(0,100)"]
"""A hundred jobs, an embed cell and a search cell each."""
CELLS = 200

SETTLED = 5
"""Cells after which everything that is imported or opened once has been."""

STAND_IN = """
import json, sys
import numpy as np, psutil
from harness import engine, session
from harness.plan import make_plan
from harness.records import Measured
from harness.summary import Summary

here, seen = psutil.Process(), []


class StandIn(engine.Engine):
    \"\"\"Writes a record of 400 kB of samples for each cell; all around it is as in any run.\"\"\"

    def _embed(self, cell):
        return Summary({"load_s": Measured(1.0, "s", "lower")}, (), (), {"samples": np.ones(50_000)}, {})

    _search = _embed

    def _write(self, record):
        super()._write(record)
        seen.append([here.memory_info().rss, here.num_fds(), here.num_threads()])


session.Engine = StandIn
overrides, plugins = json.loads(sys.argv[1]), [sys.argv[2]]
plan, records = session.measure(make_plan(overrides, multirun=True, config_dirs=plugins), overrides, multirun=True, config_dirs=plugins)
assert all(record.status == "ok" for record in records.values())
print(json.dumps(seen))
"""


def test_a_parent_is_no_larger_after_200_cells_than_after_5(tmp_path, shared_cache):
    """By a stand-in that measures in no time; a real sweep follows below."""
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN, json.dumps(SWEEP), str(PLUGINS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=own_environment(shared_cache),
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == CELLS
    (memory, files, threads), (memory_after, files_after, threads_after) = seen[SETTLED - 1], seen[-1]
    assert memory_after < 1.05 * memory, f"{memory / 1e6:.1f} MB, then {memory_after / 1e6:.1f} MB"
    assert (files_after, threads_after) == (files, threads)


@pytest.mark.slow
def test_a_parent_of_200_real_cells_is_no_larger_than_after_5(tmp_path):
    place = Place(tmp_path / "long", [*SWEEP, "processes=1", "min_duration_s=0.02", "workload.min_requests=11", "embed_items=8"])
    run = place.start()
    parent, seen = psutil.Process(run.pid), {}
    while run.poll() is None and place.measured < CELLS:
        seen[place.measured] = parent.memory_info().rss, parent.num_fds(), parent.num_threads()
        time.sleep(0.05)
    assert run.wait(timeout=120) == 0, place.said()
    settled = next(count for count in sorted(seen) if count >= SETTLED)
    last = max(seen)
    assert last >= CELLS - 5
    (memory, files, threads), (memory_after, files_after, threads_after) = seen[settled], seen[last]
    print(f"\nafter {settled} cells {memory / 1e6:.1f} MB, {files} files, {threads} threads; after {last}: {memory_after / 1e6:.1f} MB, "
          f"{files_after}, {threads_after}")  # fmt: skip
    assert memory_after < 1.05 * memory
    assert files_after <= files + 4  # a cell is under way, whose memory pass has a server of its own
    assert threads_after <= threads
