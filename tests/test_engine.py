"""The engine: which processes it starts and keeps, what it does once, what it holds while it measures."""

import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from rich.console import Console

from harness import cache, engine, fingerprint, machine_lock
from harness.data import open_data
from harness.errors import CellError, HarnessError
from harness.plan import make_plan
from harness.progress import Progress
from harness.records import SCHEMA_VERSION, now, read_all, to_json, write
from tests.conftest import PLUGINS, QUICK, own_environment

WATCHED = ["model=watched", *QUICK[1:]]


def loads(path):
    """Return the first load in each process (replicates load twice, the first time for the imports), in order."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return list({event[2]: event for event in reversed(events) if event[0] == "load"}.values())[::-1]


@pytest.fixture(scope="module")
def watched(tmp_path_factory, shared_cache):
    """A sweep of two batch sizes whose model writes down where it was loaded: (event, details, process, its parent)."""
    folder = tmp_path_factory.mktemp("watched")
    log = folder / "log"
    done = subprocess.run(
        [sys.executable, "-m", "harness", "-m", *WATCHED, "batch_size=4,8", f"model.log={log}", "threads=1", "--config-dir", str(PLUGINS)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=own_environment(shared_cache),
    )
    assert done.returncode == 0, done.stderr
    return log


def test_weights_are_fetched_once_for_all_cells_that_use_them(watched):
    assert watched.read_text().count('"fetch"') == 1


def test_every_measurement_has_a_process_of_its_own(watched):
    found = loads(watched)
    assert len(found) == 2 * (1 + 2) + 1  # for each batch size memory and two replicates; the vectors once
    assert len({process for *_, process, _ in found}) == len(found)


def test_replicates_are_forked_from_two_servers_and_memory_from_fresh_ones(watched):
    first_memory, first, second, *others = [parent for *_, parent in loads(watched)]
    assert len({first_memory, first, second}) == 3
    assert others.count(first) + others.count(second) == 3  # the second cell's replicates and the vectors
    assert os.getpid() not in {first_memory, first, second}


def test_measuring_processes_have_the_threads_that_were_asked_for_and_no_hub(watched):
    assert [event[1] for event in loads(watched)] == [{"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}] * 7


def test_a_server_that_died_is_replaced_for_the_next_cell(harness, tmp_path):
    done = harness("-m", *WATCHED, "model.trouble=kills_server,''")
    assert done.returncode == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/default/records").glob("*.json")]
    by_trouble = {(record["settings"]["model"]["trouble"], record["kind"]): record for record in records}
    for kind in ("embed", "search"):
        assert by_trouble["kills_server", kind]["status"] == "failed"
        assert "ended unexpectedly" in by_trouble["kills_server", kind]["error"]
        assert by_trouble["", kind]["status"] == "ok"


def test_more_processes_than_servers_are_kept_each_have_a_server_of_their_own_all_the_same(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(engine, "_KEPT", 1)
    log = tmp_path / "log"
    asked = [*WATCHED, "processes=3", f"model.log={log}", f"results={tmp_path}"]
    plan = make_plan(asked, multirun=False, config_dirs=[str(PLUGINS)])
    with engine.Engine(plan, Progress(0.0, Console(file=io.StringIO()))) as running:
        running._measure(plan.jobs[0].embed)
        assert [replicate.alive for group in running._replicates.values() for replicate in group] == [True]
    assert len({parent for *_, parent in loads(log)}) == 1 + 3  # the memory pass, then each replicate
    assert running.records[plan.jobs[0].embed.key].metrics["throughput_per_s"].n == 3


def test_vectors_that_could_not_be_made_are_not_tried_again_for_each_index(harness, tmp_path):
    log = tmp_path / "log"
    done = harness("-m", *WATCHED, "index=flat,hnsw,ivf_flat", f"model.log={log}", "model.trouble=wrong_dim")
    assert done.returncode == 1
    assert len(loads(log)) == 3  # memory, the first replicate (whose audit fails), the vectors once


def test_vectors_that_one_device_could_not_make_are_made_on_the_other_one_that_was_asked_for(made, monkeypatch):
    """A search cell is the same whatever device made its vectors; nobody tries a device twice."""
    plan, running = made
    tried = []

    class Small:
        def run(self, task, spec, folder, **_):
            tried.append(spec["device"])
            raise CellError("memory ran out", status="oom")

    [planned] = plan.jobs
    monkeypatch.setattr(cache, "sound", lambda kind, key: None)
    monkeypatch.setattr(running, "_servers", lambda cell: [Small()])
    for device in ("cuda:0", "cuda:0", "cuda:1", "cuda:0", "cuda:1"):
        search = replace(planned.search, job=replace(planned.job, device=device))
        running.run(replace(planned, job=search.job, curve=(), search=search))
    assert tried == ["cuda:0", "cuda:1"]
    assert [record.status for record in read_all(plan.folder)] == ["oom", "oom"]


def test_a_run_waits_while_another_measures_on_this_machine_and_does_not_count_the_time(tmp_path, shared_cache):
    environment = own_environment(shared_cache) | {"TMPDIR": str(tmp_path)}
    lock = FileLock(tmp_path / f"embedding-search-harness-{os.getuid()}.lock")
    waited = 3.0
    with lock:
        run = subprocess.Popen(
            [sys.executable, "-m", "harness", *QUICK, "--config-dir", str(PLUGINS)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        lines = []
        for line in run.stderr:
            lines.append(line)
            if "waiting for another run on this machine" in line:
                break
        began = time.monotonic()
        time.sleep(waited)
        assert run.poll() is None
        assert not list(tmp_path.glob("results/default/records/*.json"))
    rest = run.communicate(timeout=120)[1]
    took = time.monotonic() - began
    assert run.returncode == 0, "".join([*lines, rest])
    durations = [json.loads(path.read_text())["duration_s"] for path in tmp_path.glob("results/default/records/*.json")]
    assert len(durations) == 2
    assert sum(durations) < took - waited + 0.1


@pytest.mark.parametrize(
    ("model", "device", "torch"),
    [("hashed_words", "cpu", False), ("hashed_words", "cuda:0", True), ("minilm", "cpu", True)],
)
def test_torch_is_preloaded_for_models_that_use_it_and_for_accelerators(tmp_path, shared_cache, monkeypatch, model, device, torch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = make_plan([f"model={model}", *QUICK[1:], f"results={tmp_path}"], multirun=False, config_dirs=[str(PLUGINS)])
    cells = [replace(cell, job=replace(cell.job, device=device)) for cell in plan.cells]
    found = engine._preload(SimpleNamespace(missing=cells))
    assert ("torch" in found) == torch
    assert ("sentence_transformers" in found) == (model == "minilm")
    assert {"numpy", "psutil"} <= set(found)


@pytest.fixture
def made(tmp_path, shared_cache, monkeypatch):
    """An engine for one quick job whose results go below `tmp_path`."""
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = make_plan([*QUICK, f"results={tmp_path}"], multirun=False, config_dirs=[str(PLUGINS)])
    with engine.Engine(plan, Progress(0.0, Console(file=io.StringIO()))) as running:
        yield plan, running


class WouldWaitError(Exception):
    pass


@pytest.mark.parametrize("busy", ["cpu", "cuda:0"])
def test_a_search_cell_is_not_timed_while_another_has_its_processors_or_its_models_device_to_itself(made, monkeypatch, busy):
    plan, running = made
    cell = plan.jobs[0].search
    cell = replace(cell, job=replace(cell.job, device="cuda:0", exclusive="device"))

    def start(title, _):
        if title.startswith("waiting"):
            raise WouldWaitError

    monkeypatch.setattr(running._progress, "start", start)
    monkeypatch.setattr(running, "_search", lambda cell: pytest.fail("it was timed"))
    with machine_lock.timed("device", busy, waiting=pytest.fail), pytest.raises(WouldWaitError):
        running._measure_now(cell)
    assert read_all(plan.folder) == []


def test_what_makes_ground_truth_belongs_to_the_key_of_a_search_cell_and_of_the_truth_that_is_kept(made, monkeypatch, tmp_path):
    plan, running = made
    cell = plan.jobs[0].search
    assert "harness.truth" in cell.parts["source"]
    (tmp_path / "vectors.json").write_text('{"fingerprint": "v"}')
    monkeypatch.setattr(cache, "get", lambda kind, key, make: Path(key))
    before = running._truth(cell, tmp_path, open_data(cell.data_folder), None)
    edited = tmp_path / "truth.py"
    edited.write_text(Path(engine.truth.__file__).read_text() + "# other code\n")
    there = fingerprint._path_of
    monkeypatch.setattr(fingerprint, "_path_of", lambda module: edited if module == "harness.truth" else there(module))
    assert running._truth(cell, tmp_path, open_data(cell.data_folder), None) != before


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cell_that_is_skipped_carries_nothing_of_the_one_measured_before(made):
    plan, running = made
    cell = plan.jobs[0].embed
    running._other_work = 0.5  # as a disturbed cell leaves it
    running._out_of_memory[cell.but_batch_size] = cell.job.batch_size - 1
    assert running._too_large(cell)
    (record,) = read_all(plan.folder)
    assert record.status == "skipped"
    assert record.environment["other_work"] is None
    assert "busy_machine" not in dict(record.caveats)


def test_a_record_that_cannot_be_written_ends_the_run_with_a_plain_error_and_leaves_no_half_file(made):
    plan, running = made
    record = running._record(plan.cells[0], "ok", None, now(), 0.0, None)
    with files_of_at_most(100), pytest.raises(HarnessError, match=r"cannot be written: .*free space or choose another results="):
        running._write(record)
    assert list((plan.folder / "records").iterdir()) == []
    running._write(record)
    assert read_all(plan.folder) == [record]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_a_full_disk_does_not_take_is_kept_and_can_be_brought_back(small_disk, shared_cache, harness, tmp_path):
    (small_disk / "results").mkdir()
    room = 40_960  # for the manifest, Hydra's notes and the first record
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    own = {"TMPDIR": str(tmp_path)}
    done = harness(*QUICK, f"results={small_disk}/results", env=own)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    command = re.search(r"`python -m harness (merge .*?)`", done.stderr)
    (small_disk / "filler").unlink()
    assert harness(*command[1].split(), plugins=False, env=own).returncode == 0
    again = harness(*QUICK, f"results={small_disk}/results", env=own)
    assert again.returncode == 0, again.stderr
    assert "2 measured already, 0 to measure" in again.stderr


def test_a_damaged_record_and_one_of_an_older_program_are_measured_again_with_a_word(made, caplog):
    plan, running = made
    first, second = (replace(running._record(cell, "ok", None, now(), 0.0, None), metrics={}) for cell in plan.cells)
    damaged, older = write(first, plan.folder), write(second, plan.folder)
    damaged.write_text(damaged.read_text().replace('"status": "ok"', '"status": "oK"'))
    older.write_text(to_json(replace(second, schema_version=SCHEMA_VERSION - 1)))
    arguments = [*QUICK, f"results={plan.folder.parent}"]
    with caplog.at_level("WARNING"):
        again = make_plan(arguments, multirun=False, config_dirs=[str(PLUGINS)])
    assert [cell.key for cell in again.missing] == [cell.key for cell in plan.cells]
    words = " ".join(caplog.messages)
    assert f"{damaged} left out: its checksum does not fit" in words
    assert f"{older} left out: schema_version is {SCHEMA_VERSION - 1}, this program reads {SCHEMA_VERSION}; measure again" in words
    assert damaged.exists()
    assert older.exists()
