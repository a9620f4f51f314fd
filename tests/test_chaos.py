"""Chaos: whatever is killed, and whenever, the same command ends with the same results and leaves nothing else behind."""

import random
import subprocess
import sys
import time

import psutil
import pytest

from harness.records import newest, scan
from tests.conftest import PLUGINS, own_environment

SWEEP = [
    "model=hashed_words", "dataset=sentences", "dataset.corpus=60", "dataset.queries=12", "store=exact", "index=flat", "processes=1",
    "min_duration_s=0.1", "workload.min_requests=20", "embed_items=16", "batch_size=1,2,4,8", "metric=cosine,l2", "k=[1],[2],[5],[10]",
]  # fmt: skip
"""Four embed cells and eight search cells of Python alone."""
KILLS = 6
SEEDS = [1]


def start(folder, environment):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "-m", *SWEEP, "--config-dir", str(PLUGINS)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def of_this_run(environment):
    """The processes that were started for a run, which its environment tells."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HARNESS_CACHE") == environment["HARNESS_CACHE"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def results(folder):
    """Key and status of each cell, the newest record counting."""
    found, left_out = scan(folder / "results/default")
    assert left_out == []
    return {(record.kind, record.key, record.status) for record in newest(found)}


def surroundings(folder):
    folder.mkdir()
    environment = own_environment(folder / "cache") | {"TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir(exist_ok=True)
    return environment


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_under_random_kills_ends_with_the_results_of_an_undisturbed_one(tmp_path, seed):
    rng = random.Random(seed)
    quiet = surroundings(tmp_path / "quiet")
    began = time.monotonic()
    undisturbed = start(tmp_path / "quiet", quiet)
    _, words = undisturbed.communicate()
    assert undisturbed.returncode == 0, words
    took_s = time.monotonic() - began
    expected = results(tmp_path / "quiet")
    assert len(expected) == 12

    environment = surroundings(tmp_path / "chaos")
    killed = {"parent": 0, "child": 0}
    starts = 0
    run = None
    while True:
        if run is None:
            run = start(tmp_path / "chaos", environment)
            starts += 1
            assert starts <= 3 * KILLS, "it does not come to an end"
        wait_s = rng.uniform(0.05, 0.35) * took_s if sum(killed.values()) < KILLS else None
        try:
            code = run.wait(wait_s)
        except subprocess.TimeoutExpired:
            family = psutil.Process(run.pid).children(recursive=True)
            victim = rng.choice(family) if family and rng.random() < 0.6 else psutil.Process(run.pid)
            killed["parent" if victim.pid == run.pid else "child"] += 1
            try:
                victim.kill()
            except psutil.NoSuchProcess:  # it ended by itself just now
                continue
            if victim.pid == run.pid:
                run.communicate()
                run = None
            continue
        _, words = run.communicate()
        assert "Traceback" not in words
        assert code in (0, 1), words
        run = None
        if code == 0:
            break
    assert killed["parent"] > 0
    assert killed["child"] > 0
    assert results(tmp_path / "chaos") == expected

    end = time.monotonic() + 20
    while of_this_run(environment):
        assert time.monotonic() < end, of_this_run(environment)
        time.sleep(0.1)
    left, usual = ({path.name for path in (tmp_path / name / "temporary").iterdir()} for name in ("chaos", "quiet"))
    assert left == usual, "what libraries leave, and the machine's lock"
    assert not [path for path in (tmp_path / "chaos/results/default/records").glob(".*") if path.suffix != ".lock"]
