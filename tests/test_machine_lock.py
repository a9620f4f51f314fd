"""Cells that would disturb each other are never timed side by side, unless all of them allow it, and then their records say so."""

import json
import subprocess
import sys
import tempfile
import threading
from datetime import datetime
from itertools import product

import pytest

from harness import machine_lock
from tests.conftest import PLUGINS, QUICK, own_environment

ALONE, HERE, THERE, ANY = (True, "cpu"), ("device", "cuda:0"), ("device", "cuda:1"), (False, "cpu")
ANY_HERE, BOTH, ON_CPU = (False, "cuda:0"), ("device", "cpu", "cuda:0"), ("device", "cpu")


class WouldWaitError(Exception):
    pass


def would_wait():
    raise WouldWaitError


@pytest.mark.parametrize(
    ("held", "asked", "beside"),
    [
        (ALONE, ALONE, False),
        (ALONE, HERE, False),
        (ALONE, ANY, False),
        (HERE, ALONE, False),
        (HERE, HERE, False),
        (HERE, THERE, True),
        (HERE, ANY, True),
        (ANY, ALONE, False),
        (ANY, HERE, True),
        (ANY, ANY, True),
        (HERE, ANY_HERE, False),
        (ANY_HERE, HERE, False),
        (ANY_HERE, ANY_HERE, True),
        (ANY_HERE, THERE, True),
        (ON_CPU, ANY, False),
        (BOTH, HERE, False),
        (BOTH, ON_CPU, False),
        (HERE, BOTH, False),
        (BOTH, THERE, True),
    ],
)
def test_nobody_is_timed_beside_a_cell_that_has_not_allowed_it(tmp_path, monkeypatch, held, asked, beside):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def take():
        with machine_lock.timed(*asked, waiting=would_wait):
            return True

    with machine_lock.timed(*held, waiting=would_wait):
        if beside:
            assert take()
        else:
            with pytest.raises(WouldWaitError):
                take()
    assert take(), "it is free again"


@pytest.mark.parametrize(
    ("visible", "asked", "beside"),
    [("3", "cuda:3", False), ("3", "cuda:0", True), ("5, 3", "cuda:5", False), ("5,3", "cuda:3", True), ("", "cuda:0", False)],
)
def test_a_gpu_is_the_same_one_whatever_number_it_has_among_those_that_a_run_may_see(tmp_path, monkeypatch, visible, asked, beside):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with machine_lock.timed("device", "cuda:0", waiting=would_wait):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        if beside:
            with machine_lock.timed("device", asked, waiting=would_wait):
                return
        with pytest.raises(WouldWaitError), machine_lock.timed("device", asked, waiting=would_wait):
            pass


@pytest.mark.parametrize(("held", "waits", "late"), [(ANY, ALONE, ANY), (ANY_HERE, HERE, ANY_HERE)])
def test_nobody_gets_in_before_one_who_waits_for_the_same_lock(tmp_path, monkeypatch, held, waits, late):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    has_to_wait, got_in = threading.Event(), threading.Event()

    def wait():
        with machine_lock.timed(*waits, waiting=has_to_wait.set):
            got_in.set()

    waiter = threading.Thread(target=wait)
    with machine_lock.timed(*held, waiting=would_wait):
        waiter.start()
        assert has_to_wait.wait(30)
        with pytest.raises(WouldWaitError), machine_lock.timed(*late, waiting=would_wait):
            pass
        assert not got_in.is_set()
    waiter.join(30)
    assert got_in.is_set()


MEETING = '''
import time
from dataclasses import dataclass
from pathlib import Path

from tests.plugins.parts import HashedWords


@dataclass(frozen=True)
class Meeting(HashedWords):
    """Loads when two that were told the same place are there, each under a name of its own."""

    place: str = ""
    who: str = ""

    def load(self, weights, **how):
        if self.place:
            Path(self.place, self.who).touch()
            end = time.monotonic() + 120
            while len(list(Path(self.place).iterdir())) < 2:
                if time.monotonic() > end:
                    raise RuntimeError("nobody else came")
                time.sleep(0.02)
        return super().load(weights, **how)
'''


def both(folder, cache, *of_one, of_other=()):
    """Run two sweeps at once, in processes of their own that share the machine's lock; returns the records of each."""
    (folder / "meeting.py").write_text(MEETING)
    (folder / "my/model").mkdir(parents=True)
    option = '# Waits for another.\n_target_: meeting.Meeting\nmodality: text\ndim: 32\nplace: ""\nwho: ""\n'
    (folder / "my/model/meeting.yaml").write_text(option)
    runs = []
    for name, more in (("one", of_one), ("other", of_other)):
        asked = [*QUICK[1:], "model=meeting", f"model.who={name}", f"name={name}", *more]
        command = [sys.executable, "-m", "harness", *asked, "--config-dir", "my", "--config-dir", str(PLUGINS)]
        environment = own_environment(cache) | {"TMPDIR": str(folder)}
        runs.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment))
    for run in runs:
        _, words = run.communicate(timeout=300)
        assert run.returncode == 0, words
    return [[json.loads(path.read_text()) for path in (folder / "results" / name / "records").glob("*.json")] for name in ("one", "other")]


def told(records):
    return [dict(record["caveats"]).get("not_exclusive") for record in records]


def test_two_runs_that_allow_it_are_timed_side_by_side_and_their_records_say_so(tmp_path, shared_cache):
    (tmp_path / "meet").mkdir()
    how = ["exclusive=false", f"model.place={tmp_path / 'meet'}"]
    records = both(tmp_path, shared_cache, *how, of_other=how)
    assert [record["status"] for one in records for record in one] == ["ok"] * 4, "each has met the other while it was timed"
    for one in records:
        assert all("exclusive=false" in words for words in told(one))
        assert {record["settings"]["exclusive"] for record in one} == {False}


def test_a_run_that_does_not_allow_it_is_alone_even_where_the_other_does(tmp_path, shared_cache):
    records = both(tmp_path, shared_cache, of_other=["exclusive=false"])
    assert told(records[0]) == [None, None]
    spans = [
        [(start := datetime.fromisoformat(record["started_at"]).timestamp(), start + record["duration_s"]) for record in one]
        for one in records
    ]
    for mine, theirs in product(*spans):
        assert mine[1] <= theirs[0] + 0.01 or theirs[1] <= mine[0] + 0.01, "timed at the same time"
