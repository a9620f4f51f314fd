"""Several runs of one folder share the work: each cell is measured once, whoever dies holds up nobody, and nothing is lost."""

import fcntl
import io
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter

import pytest
from rich.console import Console

from harness.engine import Engine
from harness.plan import make_plan
from harness.progress import Progress
from harness.records import Record, now, read_all, write
from harness.session import measure
from tests.conftest import PLUGINS, QUICK, ROOT, own_environment

SWEPT = ["batch_size=1,2,4", "index=flat,hnsw"]


@pytest.fixture
def plan(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(*overrides):
        return make_plan([*QUICK, f"results={tmp_path}", *overrides], multirun=True, config_dirs=[str(PLUGINS)])

    return make


class Quick(Engine):
    """Measures in no time; what it shares with other runs is the engine's own."""

    def _measure_now(self, cell):
        self._write(record_of(cell))


def engine_of(plan):
    out = io.StringIO()
    return Quick(plan, Progress(0.0, Console(file=out))), out


def lock_of(plan, cell):
    (plan.folder / "records").mkdir(parents=True, exist_ok=True)
    return plan.folder / "records" / f".{cell.key}.lock"


def record_of(cell, status="ok", error=None):
    return Record(cell.kind, cell.key, status, error, {}, {}, {}, {}, {}, {}, started_at=now())


def test_two_runs_started_at_once_measure_each_cell_once_even_without_a_common_lock_on_the_machine(tmp_path, shared_cache):
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-m", "harness", "-m", *QUICK, *SWEPT, "--config-dir", str(PLUGINS)]
        environment = {**own_environment(shared_cache), "TMPDIR": str(tmp_path / name)}  # as in containers
        runs.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment))
    for run in runs:
        _, words = run.communicate(timeout=300)
        assert run.returncode == 0, words
    found = [json.loads(path.read_text()) for path in (tmp_path / "results/default/records").glob("*.json")]
    assert Counter(record["status"] for record in found) == {"ok": 5}
    assert len({record["key"] for record in found}) == 5
    assert not list((tmp_path / "results/default/records").glob(".*"))


def test_a_cell_that_another_run_is_measuring_is_left_and_read_when_that_is_done(plan):
    made = plan("batch_size=1,2")
    busy, *others = made.cells
    lock = lock_of(made, busy)
    engine, out = engine_of(made)
    with engine, lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for one in made.jobs:
            engine.run(one)
        assert {record.key for record in read_all(made.folder)} == {cell.key for cell in others}, "the others are measured meanwhile"

        def finish():
            write(record_of(busy), made.folder)
            fcntl.flock(held, fcntl.LOCK_UN)

        threading.Timer(1.0, finish).start()
        engine.catch_up()
    assert "waiting for another run to measure embed" in out.getvalue()
    assert set(engine.records) == {cell.key for cell in made.cells}
    assert len(read_all(made.folder)) == len(made.cells), "it was read, not measured again"


def test_what_failed_in_another_run_meanwhile_is_not_tried_again_by_this_one(plan):
    made = plan("batch_size=1")
    cell = made.cells[0]
    write(record_of(cell, "failed", "broken"), made.folder)  # after the plan was made
    engine, _ = engine_of(made)
    with engine:
        engine._measure(cell)
    assert [record.error for record in read_all(made.folder)] == ["broken"]


def test_what_had_failed_before_this_run_is_tried_again(plan):
    cell = plan("batch_size=1").cells[0]
    write(record_of(cell, "failed", "broken"), plan("batch_size=1").folder)
    made = plan("batch_size=1")
    engine, _ = engine_of(made)
    with engine:
        engine._measure(cell)
    assert [record.status for record in read_all(made.folder)] == ["failed", "ok"]


def test_with_fresh_only_what_was_begun_after_this_run_counts(plan):
    before = plan("batch_size=1")
    cell = before.cells[0]
    made = plan("batch_size=1", "fresh=true")
    write(record_of(cell), made.folder)
    assert made.missing
    engine, _ = engine_of(made)
    with engine:
        engine._measure(cell)
        assert len(read_all(made.folder)) == 1
    again = plan("batch_size=1", "fresh=true")
    engine, _ = engine_of(again)
    with engine:
        engine._measure(again.cells[0])
    assert len(read_all(made.folder)) == 2


def test_a_lock_of_a_process_that_was_killed_holds_up_nobody_and_its_half_written_files_go(plan):
    made = plan("batch_size=1")
    cell = made.cells[0]
    lock = lock_of(made, cell)
    code = f"import filelock, time; lock = filelock.FileLock({str(lock)!r}); lock.acquire(); print('locked', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "locked\n"
        half = made.folder / "records" / f".{cell.key}-20260101.json.1.tmp"
        half.write_text("{")
        engine, _ = engine_of(made)
        with engine:
            assert not engine._measure(cell, wait=False)
            assert half.exists(), "its owner may be at work"
            holder.kill()
            holder.wait()
            assert engine._measure(cell, wait=False)
    assert [record.status for record in read_all(made.folder)] == ["ok"]
    assert not list((made.folder / "records").glob(".*"))


def test_what_killed_runs_left_goes_with_the_next_even_where_there_is_nothing_to_measure(plan, tmp_path):
    made = plan("batch_size=1")
    for cell in made.cells:
        write(record_of(cell), made.folder)
    records = made.folder / "records"
    stale, held = (lock_of(made, cell) for cell in made.cells)
    stale.touch()
    (tmp_path / "harness-run-1-abc").mkdir()
    (tmp_path / "harness-run-1-abc.lock").touch()
    with held.open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert measure(plan("batch_size=1"), [], multirun=True)[1] == {}
        assert list(records.glob(".*")) == [held], "whose owner lives"
    assert not list(tmp_path.glob("harness-run-*"))


def test_samples_whose_record_was_never_written_go_when_the_cell_is_measured(plan):
    made = plan("batch_size=1")
    cell = made.cells[0]
    whole = write(record_of(cell, "failed", "broken"), made.folder)
    of_a_record = whole.with_suffix(".npz")
    of_none = whole.with_name(f"{cell.key}-20260101T000000000000Z.npz")
    for path in (of_a_record, of_none):
        path.write_bytes(b"")
    engine, _ = engine_of(plan("batch_size=1"))
    with engine:
        engine._measure(cell)
    assert of_a_record.exists()
    assert not of_none.exists()
