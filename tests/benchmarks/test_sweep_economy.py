"""What a sweep costs beside its cells: 1 model × 4 batch sizes × 5 indexes are 20 jobs, and 9 cells.

*A cell's own measuring time* is that of the processes which measure it, from the moment each is asked for until it has ended: its
replicates, and its memory pass, whose interpreter starts from nothing. All else that a person waits for counts as overhead: starting the
program, planning, starting the servers that replicates are forked from with their imports, embedding the corpus for the search cells,
ground truth, records and reports.

The naive way is timed beside it: every job by itself, measuring its embed cell and its search cell (``fresh=true``). It is
helped by what the sweep has left in the cache, vectors and ground truth, so it is dearer still without. Of its 20 jobs those on the
diagonal are run, each batch size and each index at least once, and taken for all.

Without ``--benchmark-enable`` a small grid of the tests' own plug-ins goes the same way, and the books are checked.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from harness.records import read_all
from tests.conftest import PLUGINS, QUICK, own_environment

TOLD = """
import json, sys, time
note = sys.argv[1]
from harness.replicate import Replicate
run = Replicate.run
def noted(self, task, *arguments, **named):
    began = time.monotonic()
    try:
        return run(self, task, *arguments, **named)
    finally:
        with open(note, "a") as file:
            print(json.dumps([task, time.monotonic() - began]), file=file)
Replicate.run = noted
from harness.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""The program, writing down what each measuring process was asked for and how long that took."""

MEASURING = {f"harness.{kind}_cell:{task}" for kind in ("embed", "search") for task in ("measure", "measure_memory")}

INDEXES = "flat,hnsw,hnsw_sq,ivf_flat,ivf_sq8"
GRID = ["model=minilm", "dataset=docstrings", "store=faiss", "batch_size=1,4,16,64", f"index={INDEXES}"]
SETTINGS = ["dataset.corpus=500", "dataset.queries=200", "min_duration_s=3", "embed_items=64"]
"""Half the default duration, three processes as by default; shorter cells would be nothing but the start of their processes."""

SMALL_GRID = ["model=hashed_words", "dataset=sentences", "store=nothing", "batch_size=1,4", "index=flat,hnsw,ivf_flat"]


def timed(arguments, folder, *, multirun):
    """Run the program and return the seconds it took and those of each task, a list by name."""
    note = folder / f"tasks {time.monotonic_ns()}.jsonl"
    command = [sys.executable, "-P", "-c", TOLD, str(note), *(["-m"] if multirun else []), *arguments]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=own_environment(folder / "cache"), capture_output=True, text=True, timeout=3600, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    tasks = {}
    for line in note.read_text().splitlines():
        task, took = json.loads(line)
        tasks.setdefault(task, []).append(took)
    return seconds, tasks


def own_time(tasks):
    return sum(sum(times) for task, times in tasks.items() if task in MEASURING)


def diagonal(grid):
    """Return the jobs of a grid on its diagonal: the shorter of two axes begins again."""
    axes = [(key, values.split(",")) for key, _, values in (one.partition("=") for one in grid)]
    longest = max(len(values) for _, values in axes)
    return [[f"{key}={values[number % len(values)]}" for key, values in axes] for number in range(longest)]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_sweep_takes_at_most_1_15_times_the_own_measuring_time_of_its_cells(benchmark, publish, tmp_path):
    real = benchmark.enabled
    grid = GRID if real else SMALL_GRID
    settings = SETTINGS if real else [*(one for one in QUICK if not one.startswith(("model", "dataset", "store", "index")))]
    settings = settings if real else [*settings, "--config-dir", str(PLUGINS)]
    (tmp_path / "cache").mkdir()
    wall_s, tasks = timed([*grid, *settings, "name=sweep"], tmp_path, multirun=True)
    records = read_all(tmp_path / "results/sweep")
    cells, jobs = (9, 20) if real else (5, 6)
    assert len(records) == cells
    assert {record.status for record in records} == {"ok"}
    processes = 3 if real else 2
    sizes, indexes = (4, 5) if real else (2, 3)
    assert len(tasks["harness.embed_cell:measure"]) == processes * sizes, "each once"
    assert len(tasks["harness.search_cell:measure"]) == processes * indexes
    assert (len(tasks["harness.vectors:make_vectors"]), len(tasks["harness.truth:make_truth"])) == (1, 1)
    own_s = own_time(tasks)
    in_cells_s = sum(record.duration_s for record in records)
    vectors_s, truth_s = (sum(tasks[task]) for task in ("harness.vectors:make_vectors", "harness.truth:make_truth"))
    assert own_s < in_cells_s < wall_s
    naive = [timed([*job, *settings, "fresh=true", "name=naive"], tmp_path, multirun=False) for job in diagonal(grid)]
    assert all(len(one["harness.embed_cell:measure"]) == len(one["harness.search_cell:measure"]) == processes for _, one in naive)
    job_s = float(np.mean([seconds for seconds, _ in naive]))
    assert jobs * job_s > wall_s, "a sweep costs the sum, not the product"
    publish(
        sweep_by_own_measuring_time=f"{wall_s / own_s:.3f} ({wall_s:.0f} s by {own_s:.0f} s, {cells} cells)",
        outside_the_cells=f"{wall_s - in_cells_s:.1f} s (start, plan, records, report)",
        vectors_and_ground_truth=f"{vectors_s:.1f} s + {truth_s:.1f} s",
        servers_and_the_rest_within_cells=f"{in_cells_s - own_s - vectors_s - truth_s:.1f} s",
        naive_grid_by_sweep=f"{jobs * job_s / wall_s:.1f} ({jobs} jobs of {job_s:.0f} s, as {len(naive)} of them took)",
    )
    benchmark.pedantic(lambda: None)
    if real:
        assert wall_s <= 1.15 * own_s


def test_the_diagonal_has_each_value_of_each_axis():
    jobs = diagonal(GRID)
    assert len(jobs) == 5
    assert {value for job in jobs for value in job if value.startswith("index")} == {f"index={one}" for one in INDEXES.split(",")}
    assert {value for job in jobs for value in job if value.startswith("batch")} == {f"batch_size={one}" for one in (1, 4, 16, 64)}
