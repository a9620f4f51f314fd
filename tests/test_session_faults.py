"""Whole runs of the command line that go wrong: cells that fail, mistakes, files that cannot be written; what was measured stays."""

import json
import subprocess
from pathlib import Path

import pytest

from harness import load_results
from tests.conftest import QUICK


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("load", "failed", "the weights file is broken"),
        ("memory", "oom", "memory ran out"),
        ("killed", "failed", "killed by SIGKILL"),
        ("wrong_dim", "invalid", "33"),
    ],
)
def test_a_cell_that_fails_is_recorded_and_the_sweep_goes_on(harness, tmp_path, trouble, status, words):
    done = harness("-m", *QUICK, f"model.trouble={trouble},''", "batch_size=8")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    found = records(tmp_path / "results/default")
    bad = [record for record in found if record["status"] != "ok"]
    assert {(record["kind"], record["status"]) for record in bad} == {("embed", status), ("search", status)}
    assert all(words in record["error"] for record in bad)
    assert sorted(record["kind"] for record in found if record["status"] == "ok") == ["embed", "search"]
    assert "2 of 4 cells have no result" in done.stderr


def test_what_only_the_loaded_model_can_refuse_is_a_failed_cell_with_its_words_and_exit_code_1(harness, tmp_path):
    done = harness("-m", *QUICK, "model.trouble=has_no_attention", "attention=sdpa,auto")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = {(record["settings"]["attention"], record["kind"]): record for record in records(tmp_path / "results/default")}
    assert {name: record["status"] for name, record in found.items()} == {
        (attention, kind): status for attention, status in (("sdpa", "failed"), ("auto", "ok")) for kind in ("embed", "search")
    }
    words = "attention must be auto for this model, which has none, got sdpa; and more is wrong"
    assert found["sdpa", "embed"]["error"] == found["sdpa", "search"]["error"] == words
    assert f"failed: embed hashed_words on cpu, fp32, batch 32: {words}" in done.stderr


def test_a_cell_that_hangs_is_given_up_after_its_time(harness, tmp_path):
    done = harness(*QUICK, "model.trouble=hangs", "timeout_s=3")
    assert done.returncode == 1
    assert all("timeout_s=3" in record["error"] for record in records(tmp_path / "results/default"))


@pytest.mark.parametrize("trouble", ["insert", "build_killed"])
def test_a_store_that_fails_leaves_the_embed_cell_alone(harness, tmp_path, trouble):
    done = harness(*QUICK, f"store.trouble={trouble}")
    assert done.returncode == 1
    assert {record["kind"]: record["status"] for record in records(tmp_path / "results/default")} == {"embed": "ok", "search": "failed"}


def test_what_a_store_lacks_is_skipped_in_a_sweep_with_the_reason(harness, tmp_path):
    done = harness("-m", *QUICK, "store=exact", "index=flat,hnsw")
    assert done.returncode == 0, done.stderr
    statuses = {record["labels"].get("index"): record for record in records(tmp_path / "results/default") if record["kind"] == "search"}
    assert statuses["flat"]["status"] == "ok"
    assert statuses["hnsw"]["status"] == "skipped"
    assert "it has FLAT" in statuses["hnsw"]["error"]
    before = len(records(tmp_path / "results/default"))
    assert harness("-m", *QUICK, "store=exact", "index=flat,hnsw").returncode == 0
    assert len(records(tmp_path / "results/default")) == before


def test_a_mistake_is_exit_code_2_without_a_traceback_and_nothing_is_written(harness, tmp_path):
    done = harness(*QUICK, "batch_size=0", "dtype=fp9")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_written_is_a_plain_error(harness, tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    done = harness(*QUICK)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "results" in done.stderr


def test_a_device_that_is_not_here_is_skipped_and_keeps_no_other_cell_from_being_measured(harness, tmp_path):
    done = harness("-m", *QUICK, "device=cuda:7,cpu")
    assert done.returncode == 0, done.stderr
    statuses = sorted((record["kind"], record["status"]) for record in records(tmp_path / "results/default"))
    assert statuses == [("embed", "ok"), ("embed", "skipped"), ("search", "ok")]
    again = harness(*QUICK, "device=cpu")
    assert "2 measured already, 0 to measure" in again.stderr


def test_a_bug_in_a_plug_in_becomes_a_record_and_the_sweep_goes_on(harness, tmp_path):
    done = harness("-m", *QUICK, "store.trouble=float_ids,''")
    assert done.returncode == 1
    found = {
        record["settings"]["store"]["trouble"]: record for record in records(tmp_path / "results/default") if record["kind"] == "search"
    }
    assert found["float_ids"]["status"] == "failed"
    assert found[""]["status"] == "ok"
    assert (tmp_path / "results/default/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report"], "DIR"),
        (["report", "nowhere"], "holds no record"),
        (["plan", "--nonsense"], "--nonsense"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_command_used_wrongly_is_exit_code_2_without_a_traceback(harness, arguments, words):
    done = harness(*arguments, plugins=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_made_is_a_plain_error(harness, tmp_path):
    (tmp_path / "file").write_text("")
    done = harness(*QUICK, env={"HARNESS_CACHE": str(tmp_path / "file" / "cache")})
    assert done.returncode == 2
    assert "HARNESS_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and a function that lets nobody write there any more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_results_folder_that_can_only_be_read_is_a_plain_error_and_keeps_what_it_has(disk, harness):
    folder, forbid = disk
    asked = [*QUICK, f"results={folder}/results"]
    assert harness(*asked).returncode == 0
    before = sorted((folder / "results").rglob("*"))
    forbid()
    for more in (["batch_size=4"], []):
        done = harness(*asked, *more)
        assert done.returncode == 2, done.stderr
        assert f"results={folder}/results cannot be written (Read-only file system); choose another results=" in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted((folder / "results").rglob("*")) == before
    assert len(load_results(folder / "results/default")) == 2
