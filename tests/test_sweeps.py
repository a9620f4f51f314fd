"""The committed sweeps: each can be planned with what stands on the command line holding, is listed, and `smoke` measures."""

import json

import pytest
from omegaconf import OmegaConf

from harness.errors import SettingsError
from harness.listing import described
from harness.plan import fewest_to_tune, make_plan
from harness.settings import CONF, composing, options, with_sweep
from tests.conftest import QUICK

SWEEPS = options("sweep")
SMALL = ["dataset.corpus=256", "dataset.queries=40"]
OTHERWISE = {
    "recall_latency": [*SMALL, "target_recall=[0.8]"],
    "scale": ["dataset.corpus=128,256", "dataset.queries=40"],
    "million": ["dataset.corpus=1100", "dataset.queries=40"],  # cells of k-means need a row each
}
"""What makes a sweep's data small where `SMALL` would take from it what it is about."""


def axes(sweep):
    params = OmegaConf.load(CONF / f"sweep/{sweep}.yaml").hydra.sweeper.params
    return {str(key): str(values).split(",") for key, values in params.items()}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # nobody waits for a hub

    def make(*arguments, multirun=False):
        return make_plan([*arguments, f"results={tmp_path}"], multirun=multirun)

    return make


def test_the_usual_questions_have_a_sweep():
    assert {"smoke", "text_models", "image_models", "index_families", "batch_curve", "recall_latency", "devices", "scale"} <= set(SWEEPS)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_committed_sweep_can_be_planned_as_it_is(plan, sweep):
    planned = plan(f"+sweep={sweep}", *OTHERWISE.get(sweep, SMALL))
    expected = 1
    for key, values in axes(sweep).items():
        expected *= 2 if key == "dataset.corpus" else len(values)
    assert len(planned.jobs) == expected > 1
    assert planned.folder.name == sweep
    for key, values in axes(sweep).items():
        if key in ("model", "dataset", "store", "index"):
            assert {one.job.choices[key] for one in planned.jobs} == set(values)
    skipped = {" ".join(one.job.unsupported) for one in planned.skipped}
    assert not any(words for words in skipped if "this machine has" not in words and " has no " not in words), skipped
    assert planned.missing, "something is left to measure on any machine"


def test_the_recalls_that_are_tuned_to_can_be_shown_by_the_queries():
    sweep = OmegaConf.load(CONF / "sweep/recall_latency.yaml")
    assert 2 * fewest_to_tune(max(sweep.target_recall)) <= sweep.dataset.queries


def test_a_sweep_costs_the_sum_of_its_cells(plan):
    planned = plan("+sweep=smoke", *SMALL)
    kinds = [cell.kind for cell in planned.cells]
    assert (len(planned.jobs), kinds.count("embed"), kinds.count("search")) == (4, 2, 2)


def test_what_stands_on_the_command_line_holds_against_the_sweep(plan):
    planned = plan("+sweep=smoke", "batch_size=4", "name=mine", *SMALL)
    assert {one.job.batch_size for one in planned.jobs} == {4}
    assert planned.folder.name == "mine"
    assert len(planned.jobs) == 2


def test_an_axis_on_the_command_line_takes_the_place_of_the_sweeps(plan):
    planned = plan("+sweep=smoke", "batch_size=2,4,16", *SMALL)
    assert sorted({one.job.batch_size for one in planned.jobs}) == [2, 4, 16]


def test_the_automatic_dataset_takes_the_sweeps_corpus(plan):
    assert {one.documents for one in plan("+sweep=smoke").jobs} == {200}


@pytest.mark.parametrize(
    ("argument", "words"),
    [("+sweep=nothing", "sweep=nothing is not an option; it has batch_curve"), ("sweep=smoke", "write \\+sweep=smoke; there are")],
)
def test_a_sweep_that_is_none_is_refused_with_those_there_are(plan, argument, words):
    with pytest.raises(SettingsError, match=words):
        plan(argument)


def test_a_users_own_sweep_is_found_in_a_folder_of_theirs(tmp_path):
    (tmp_path / "sweep").mkdir()
    text = "# @package _global_\n# Mine.\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      batch_size: 1,2\n"
    (tmp_path / "sweep/mine.yaml").write_text(text)
    assert described("sweep", [str(tmp_path)])["mine"] == "Mine."
    with composing([str(tmp_path)]):
        found = with_sweep(["+sweep=mine", "seed=1"], multirun=False, config_dirs=[str(tmp_path)])
    assert found == (["batch_size=1,2", "+sweep=mine", "seed=1"], True)


def test_every_sweep_says_in_its_first_line_what_it_asks():
    assert all(described("sweep")[sweep].startswith(("Which", "What", "How", "A minute")) for sweep in SWEEPS)


def test_the_command_lists_the_sweeps_as_they_are_written(harness):
    done = harness("list", plugins=False)
    assert done.returncode == 0, done.stderr
    assert all(f"+sweep={sweep}" in done.stdout for sweep in SWEEPS)


@pytest.mark.slow
def test_smoke_measures_all_it_asks_for(harness, tmp_path):
    done = harness("+sweep=smoke", plugins=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "4 jobs, 2 embed + 2 search cells" in done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "results/smoke/records").glob("*.json")]
    assert sorted((record["kind"], record["status"]) for record in found) == [("embed", "ok")] * 2 + [("search", "ok")] * 2
    assert (tmp_path / "results/smoke/report.html").exists()
    again = harness("+sweep=smoke", plugins=False)
    assert again.returncode == 0
    assert "4 measured already, 0 to measure" in again.stderr


def test_a_sweep_by_name_is_run_with_what_the_command_line_says(harness, tmp_path):
    done = harness("+sweep=smoke", *QUICK, "batch_size=2,4", "processes=1", "dataset.corpus=60", "dataset.queries=12", "name=here")
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "results/here/records").glob("*.json")]
    assert sorted((record["kind"], record["status"]) for record in found) == [("embed", "ok")] * 2 + [("search", "ok")]
