"""Whole runs of the command line in processes of their own: sweeps, resuming, interruption, what they write."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import load_results
from harness.records import from_json
from tests.conftest import PLUGINS, QUICK, own_environment


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, shared_cache):
    """A sweep of 9 jobs, run once for all tests that look at what it left."""
    folder = tmp_path_factory.mktemp("sweep")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "-m", *QUICK, "batch_size=1,8,32", "index=flat,hnsw,ivf_flat", "--config-dir", str(PLUGINS)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=own_environment(shared_cache),
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_sweep_of_nine_jobs_measures_six_cells(swept):
    folder, done = swept
    found = records(folder / "results/default")
    assert sorted(record["kind"] for record in found) == ["embed"] * 3 + ["search"] * 3
    assert {record["status"] for record in found} == {"ok"}
    assert "9 jobs, 3 embed + 3 search cells; 0 measured already, 6 to measure" in done.stderr


def test_a_run_prints_the_paths_of_its_reports_and_they_are_there(swept):
    folder, done = swept
    for name in ("report.html", "report.md", "results.csv", "results.parquet"):
        assert f"results/default/{name}" in done.stdout
        assert (folder / "results/default" / name).stat().st_size > 0


def test_a_second_run_measures_nothing(swept, harness):
    folder, _ = swept
    before = sorted((folder / "results/default/records").iterdir())
    again = harness("-m", *QUICK, "batch_size=1,8,32", "index=flat,hnsw,ivf_flat", cwd=folder)
    assert again.returncode == 0
    assert "6 measured already, 0 to measure" in again.stderr
    assert sorted((folder / "results/default/records").iterdir()) == before


def test_the_plan_lists_the_cells_and_measures_nothing(swept, harness):
    folder, _ = swept
    before = sorted((folder / "results/default/records").iterdir())
    plan = harness("plan", "-m", *QUICK, "batch_size=1,4", "index=flat,hnsw", cwd=folder)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count(": measured") == 3  # batch size 1, flat, hnsw
    assert len(re.findall(r"batch 4: about \d+ s", plan.stdout)) == 1
    assert sorted((folder / "results/default/records").iterdir()) == before


def test_fresh_measures_again_and_keeps_what_was(swept, harness):
    folder, _ = swept
    before = len(records(folder / "results/default"))
    again = harness(*QUICK, "fresh=true", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert len(records(folder / "results/default")) == before + 2


def test_the_frame_has_a_row_for_each_embed_cell_and_each_operating_point(swept):
    folder, _ = swept
    frame = load_results(folder / "results/default")
    assert list(frame[frame.kind == "embed"].batch_size) == [1, 8, 32]
    points = frame[frame.kind == "search"].groupby("index").size().to_dict()
    assert points["flat"] == 1
    assert points["hnsw"] == len(json.loads("[10, 16, 64, 256]"))
    wanted = [
        "kind", "key", "status", "error", "model", "weights", "device", "dtype", "batch_size", "dataset", "corpus", "queries",
        "dim", "store", "index", "build_params", "search_params", "k", "concurrency", "recall", "recall_strict",
        "search_latency_p50_s", "search_latency_p95_s", "search_latency_p99_s", "round_trip_p50_s", "floor_p50_s", "qps",
        "insert_s", "build_s", "index_bytes", "throughput_per_s", "pipeline_per_s", "batch_latency_p50_s", "query_embed_p50_s",
        "query_embed_p99_s", "peak_rss_bytes", "ndcg_at_10", "ndcg_at_10_exact", "recall_lo", "recall_hi", "throughput_per_s_lo",
        "throughput_per_s_hi", "search_latency_p50_s_lo", "search_latency_p50_s_hi",
    ]  # fmt: skip
    assert set(wanted) <= set(frame.columns)


def test_every_record_parses_and_says_where_its_numbers_come_from(swept):
    folder, _ = swept
    for path in (folder / "results/default/records").glob("*.json"):
        record = from_json(path.read_text())
        assert record.environment["machine"]["cpu"]
        assert record.environment["versions"]["numpy"]
        assert record.data["fingerprint"]
        assert record.model["weights"] == "pretrained"
        assert path.with_suffix(".npz").exists()


def test_reports_are_rebuilt_from_the_records(swept, harness):
    folder, _ = swept
    (folder / "results/default/report.html").unlink()
    done = harness("report", "results/default", cwd=folder, plugins=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "results/default/report.html").exists()


def test_a_report_of_nothing_is_a_plain_error(harness, tmp_path):
    done = harness("report", "results/nothing", plugins=False)
    assert done.returncode != 0
    assert "holds no record" in done.stderr
    assert "Traceback" not in done.stderr


def test_random_weights_are_labelled_and_have_no_quality(harness, tmp_path):
    assert harness(*QUICK, "model.trouble=random").returncode == 0
    by_kind = {record["kind"]: record for record in records(tmp_path / "results/default")}
    assert by_kind["embed"]["model"]["weights"] == "random"
    assert "random_vectors" in [code for code, _ in by_kind["search"]["caveats"]]
    quality = by_kind["search"]["points"][0]["metrics"]["ndcg_at_10"]
    assert quality["value"] is None
    assert "random weights" in quality["reason"]
    assert "random" in (tmp_path / "results/default/report.md").read_text().lower()


def test_one_process_is_marked_within_one_process(harness, tmp_path):
    assert harness(*QUICK, "processes=1").returncode == 0
    for record in records(tmp_path / "results/default"):
        assert "within_one_process" in [code for code, _ in record["caveats"]]
    embed = next(record for record in records(tmp_path / "results/default") if record["kind"] == "embed")
    assert embed["metrics"]["throughput_per_s"]["lo"] is None
    assert "within one process" in embed["metrics"]["throughput_per_s"]["reason"]


def start(folder, shared_cache, *overrides):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "-m", *QUICK, *overrides, "--config-dir", str(PLUGINS)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(shared_cache),
        start_new_session=True,
    )


SLOW = ["min_duration_s=0.8", "batch_size=1,2,4"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path, shared_cache, harness, how):
    run = start(tmp_path, shared_cache, *SLOW)
    folder = tmp_path / "results/default"
    end = time.monotonic() + 120
    while len(list(folder.glob("records/*.json"))) < 2:
        assert time.monotonic() < end, "nothing was measured"
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(how)
    _, words = run.communicate(timeout=60)
    assert run.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert "Traceback" not in words
    assert psutil.wait_procs(family, timeout=20)[1] == []
    if how != signal.SIGKILL:
        assert list(Path(own_environment(shared_cache)["TMPDIR"]).glob(f"harness-run-{run.pid}-*")) == []
    kept = {path.name for path in folder.glob("records/*.json")}
    assert 2 <= len(kept) < 4
    for name in kept:
        from_json((folder / "records" / name).read_text())
    again = harness("-m", *QUICK, *SLOW)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} measured already, {4 - len(kept)} to measure" in again.stderr
    assert list(Path(own_environment(shared_cache)["TMPDIR"]).glob(f"harness-run-{run.pid}-*")) == []
    after = records(folder)
    assert len(after) == 4
    assert kept <= {path.name for path in folder.glob("records/*.json")}


def test_a_setting_of_hydras_is_obeyed_and_the_jobs_are_the_same(swept, harness):
    folder, _ = swept
    before = sorted((folder / "results/default/records").iterdir())
    assert not (folder / "results/default/hydra").exists()
    hydras = ["hydra.sweep.dir=hydras", "hydra.sweep.subdir=job-${hydra.job.num}"]
    done = harness("-m", *QUICK, "batch_size=8,16", "index=flat", *hydras, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 measured already, 1 to measure" in done.stderr
    assert sorted(path.name for path in (folder / "hydras").glob("job-*")) == ["job-0", "job-1"]
    assert len(set((folder / "results/default/records").glob("*.json")) - set(before)) == 1


def test_runs_that_share_a_name_share_a_report(harness, tmp_path):
    assert harness(*QUICK, "name=both").returncode == 0
    assert harness(*QUICK, "name=both", "index=hnsw").returncode == 0
    frame = load_results(tmp_path / "results/both")
    assert set(frame["index"].dropna()) == {"flat", "hnsw"}
    assert len(frame[frame.kind == "embed"]) == 1


def test_a_users_own_models_folder_does_not_shadow_ours(harness, tmp_path):
    for name in ("models", "stores"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    done = harness(*QUICK, "store=exact")
    assert done.returncode == 0, done.stderr
    doctor = harness("doctor", plugins=False)
    assert "has a folder models/ of its own" in doctor.stdout


def test_a_model_in_the_users_own_package_is_found_from_the_current_directory(harness, tmp_path):
    (tmp_path / "my_package.py").write_text("from tests.plugins.parts import HashedWords as Mine\n")
    (tmp_path / "my_conf/model").mkdir(parents=True)
    (tmp_path / "my_conf/model/mine.yaml").write_text("# Mine.\n_target_: my_package.Mine\nmodality: text\ndim: 16\n")
    both = [*QUICK[1:], "model=mine", "--config-dir", "my_conf"]
    done = harness(*both)
    assert done.returncode == 0, done.stderr
    assert load_results(tmp_path / "results/default").dim.tolist() == [16, 16]


def test_run_from_python_returns_the_cells_asked_for(tmp_path, shared_cache):
    script = (
        "import harness\n"
        f"frame = harness.run(*{QUICK!r}, 'index=flat,hnsw', multirun=True, config_dirs=[{str(PLUGINS)!r}])\n"
        "print(sorted(frame.kind), frame['index'].dropna().unique().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=own_environment(shared_cache),
    )
    assert done.returncode == 0, done.stderr
    assert "['embed', 'search', 'search', 'search', 'search', 'search'] ['flat', 'hnsw']" in done.stdout
