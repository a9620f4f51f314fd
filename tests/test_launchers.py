"""Hydra's launchers that run jobs in other processes: each cell once, all records there, one report and one exit code at the end."""

import json
from collections import Counter

import pytest

from harness.errors import SettingsError
from harness.settings import compose_job, composing
from tests.conftest import QUICK

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5"],
}


@pytest.fixture(params=LAUNCHERS)
def launcher(request):
    pytest.importorskip(
        f"hydra_plugins.hydra_{request.param.partition('_')[0]}_launcher", reason=f"the extra of {request.param} is not here"
    )
    return LAUNCHERS[request.param]


@pytest.fixture
def joblib():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra joblib is not here")
    return LAUNCHERS["joblib"]


def records(folder):
    return [json.loads(path.read_text()) for path in (folder / "results/default/records").glob("*.json")]


def test_jobs_in_other_processes_measure_each_cell_once_and_are_reported_together(harness, tmp_path, launcher):
    done = harness("-m", *QUICK, "batch_size=4,8", *launcher)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert Counter((record["kind"], record["status"]) for record in records(tmp_path)) == {("embed", "ok"): 2, ("search", "ok"): 1}
    assert "results/default/report.html" in done.stdout
    again = harness("-m", *QUICK, "batch_size=4,8", *launcher)
    assert again.returncode == 0
    assert "3 measured already, 0 to measure" in again.stderr
    assert len(records(tmp_path)) == 3


@pytest.mark.slow
def test_what_fails_elsewhere_fails_the_run_is_told_and_is_not_tried_by_each_job(harness, tmp_path, joblib):
    done = harness("-m", *QUICK, "model.trouble=load,''", "batch_size=4,8", *joblib)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = Counter((record["kind"], record["status"]) for record in records(tmp_path))
    assert found == {("embed", "failed"): 2, ("search", "failed"): 1, ("embed", "ok"): 2, ("search", "ok"): 1}
    assert "3 of 6 cells have no result" in done.stderr
    assert "the weights file is broken" in done.stderr


@pytest.mark.slow
def test_fresh_measures_each_cell_once_more_and_not_once_a_job(harness, tmp_path, joblib):
    assert harness("-m", *QUICK, "batch_size=4,8").returncode == 0
    done = harness("-m", *QUICK, "batch_size=4,8", "fresh=true", *joblib)
    assert done.returncode == 0, done.stderr
    assert sorted(Counter(record["key"] for record in records(tmp_path)).values()) == [2, 2, 2]


@pytest.mark.slow
def test_a_budget_cuts_every_jobs_corpus_alike(harness, tmp_path, joblib):
    done = harness("-m", *QUICK, "dataset.corpus=5000", "dataset.queries=50", "batch_size=4,8", "budget=48s", *joblib)
    assert done.returncode == 0, done.stderr
    sizes = {record["data"]["corpus"] for record in records(tmp_path)}
    assert len(sizes) == 1
    assert sizes.pop() < 5000
    assert len(records(tmp_path)) == 3


def test_what_a_store_lacks_is_skipped_elsewhere_too(harness, tmp_path, joblib):
    done = harness("-m", *QUICK, "store=exact", "index=flat,hnsw", *joblib)
    assert done.returncode == 0, done.stderr
    assert Counter(record["status"] for record in records(tmp_path)) == {"ok": 2, "skipped": 1}


@pytest.mark.slow
def test_a_process_that_dies_elsewhere_fails_the_run_and_keeps_what_was_measured(harness, tmp_path, joblib):
    (tmp_path / "deadly.py").write_text(
        "import os\nfrom tests.plugins.parts import HashedWords\n\n\n"
        "class Deadly(HashedWords):\n"
        "    def fetch(self, weights):\n"
        "        os._exit(9)  # in the process that runs the job\n"
    )
    (tmp_path / "my/model").mkdir(parents=True)
    (tmp_path / "my/model/deadly.yaml").write_text("# Ends the process that wants it.\n_target_: deadly.Deadly\nmodality: text\ndim: 32\n")
    done = harness("-m", *QUICK[1:], "model=hashed_words,deadly", "--config-dir", "my", *joblib)
    assert done.returncode == 1
    assert "have no result" in done.stderr
    assert {record["status"] for record in records(tmp_path)} <= {"ok"}


def test_a_launcher_that_is_not_installed_is_a_plain_error_with_the_remedy():
    with composing([]), pytest.raises(SettingsError, match=r"is not an option that is installed") as caught:
        compose_job(["hydra/launcher=submitit_nowhere"])
    assert "pip install 'embedding-search-harness[submitit]'" in str(caught.value)
