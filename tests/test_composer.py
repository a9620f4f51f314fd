"""Jobs composed together are the jobs composed one by one; each combination of choices is composed once."""

from dataclasses import replace
from itertools import product

import pytest

from harness import settings
from harness.errors import SettingsError
from harness.settings import Composer, compose_job, composing, expand, with_sweep
from tests.conftest import PLUGINS, QUICK

AXES = {
    "scalars": ["batch_size=1,8", "dtype=fp32,bf16", "seed=range(0,3)"],
    "choices and scalars": ["model=minilm,resnet50", "index=flat,hnsw", "batch_size=1,8"],
    "settings of what was chosen": ["index=hnsw", "index.M=8,16", "index.ef=[16],[16,64]"],
    "settings of the automatic dataset": ["dataset.corpus=100,200", "dataset.queries=10,20", "model=minilm,resnet50"],
    "a quoted value": ["model.query_prompt='','query: '", "batch_size=4,8"],
    "a null": ["threads=null,1", "vector_type=fp32,fp16"],
    "a list": ["k=[1],[10],[10,100]", "filter=[null],[null,0.1]"],
    "an addition": ["+model.nothing=1,2"],
    "a setting and one below it": ["workload=serial,closed", "workload.concurrency=[1],[2]"],
    "a value that decides the dataset": ["model.modality=text,image"],
    "mistakes": ["batch_size=0,8", "index.nothing=1,2", "dtype=fp8,fp32"],
    "a mistake of one choice": ["index=hnsw,flat", "index.M=8,16"],
    "a setting that only the chosen dataset has": ["dataset.min_words=10,20"],
    "settings that are checked each by itself": ["batch_size=8,auto", "seed=0,1", "threads=null,2"],
    "mistakes in settings that are checked each by itself": ["batch_size=8,0", "seed=1,-1", "dtype=fp32,fp9"],
    "a batch that one corpus allows": [
        "dataset=docstrings",
        "dataset.corpus=10,300",
        "dataset.queries=5",
        "batch_size=8,16",
        "seed=1,2",
    ],
    "a value made of one that varies": ["dataset=docstrings", "dataset.seed=${seed}", "seed=1,2", "batch_size=4,8"],
}


def outcome(compose):
    try:
        job = compose()
        return replace(job, store=type(job.store))  # not every store can be compared
    except SettingsError as error:
        return error.violations


@pytest.mark.parametrize("arguments", AXES.values(), ids=AXES)
def test_jobs_composed_together_are_those_composed_one_by_one(arguments):
    with composing([]):
        jobs = expand(arguments, multirun=True)
        composer = Composer(jobs)
        for overrides in jobs:
            assert outcome(lambda o=overrides: composer.job(o)) == outcome(lambda o=overrides: compose_job(o)), overrides


def test_what_a_user_adds_is_composed_too():
    with composing([str(PLUGINS)]):
        jobs = expand(["model=hashed_words", "dataset=sentences", "store=nothing", "index=flat", "model.dim=8,16"], multirun=True)
        composer = Composer(jobs, config_dirs=[str(PLUGINS)])
        assert [composer.job(overrides).model.dim for overrides in jobs] == [8, 16]


def test_one_jobs_settings_do_not_reach_the_next():
    with composing([]):
        jobs = expand(["batch_size=1,2", "dataset.queries=9", "dataset.corpus=100,200", "k=[1],[5]"], multirun=True)
        composer = Composer(jobs)
        found = [(job.batch_size, job.dataset.corpus, job.k) for job in map(composer.job, jobs)]
    assert found == list(product((1, 2), (100, 200), ((1,), (5,))))


def test_each_combination_of_choices_is_composed_once(monkeypatch):
    composed = []
    real = settings._compose
    monkeypatch.setattr(settings, "_compose", lambda overrides: composed.append(overrides) or real(overrides))
    with composing([]):
        jobs = expand(["model=minilm,mpnet", "dataset=docstrings", "index=flat,hnsw", "batch_size=range(1,9)", "seed=0,1"], multirun=True)
        composer = Composer(jobs)
        for overrides in jobs:
            composer.job(overrides)
    assert len(jobs) == 64
    assert len(composed) == 4


OF_HYDRAS = {
    "theirs": "defaults:\n  - override /hydra/launcher: joblib\n",
    "their_class": "hydra:\n  launcher:\n    _target_: mine.Launcher\n",
    "their_sweeper": "defaults:\n  - override /hydra/sweeper: theirs\n",
    "watched": "hydra:\n  callbacks:\n    mine:\n      _target_: hydra.experimental.callback.Callback\n",
    "variables": "hydra:\n  mode: MULTIRUN\n  job:\n    env_set:\n      MINE: '1'\n  sweeper:\n    params:\n      batch_size: 1,2\n",
    "elsewhere": "hydra:\n  sweep:\n    dir: elsewhere\n",
}


def by_hydra(arguments, folders):
    with composing(folders):
        arguments, multirun = with_sweep([*QUICK, *arguments], multirun=True, config_dirs=folders)
        expanded = expand(arguments, multirun=multirun)
        composer = Composer(expanded, config_dirs=folders)
        for overrides in expanded:
            composer.job(overrides)
    return composer.by_hydra


@pytest.mark.parametrize("asked", ["hydra.sweep.dir=elsewhere", "+hydra.job.env_set.MINE=1", "hydra/launcher=basic", *OF_HYDRAS])
def test_hydra_runs_the_jobs_where_something_of_its_own_is_asked_for(tmp_path, asked):
    if asked == "theirs":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra joblib is not here")
    if asked in OF_HYDRAS:
        (tmp_path / "sweep").mkdir()
        (tmp_path / "hydra/sweeper").mkdir(parents=True)
        (tmp_path / "hydra/sweeper/theirs.yaml").write_text("_target_: mine.Sweeper\ntrials: 10\n")
        (tmp_path / f"sweep/{asked}.yaml").write_text(f"# @package _global_\n# Mine.\n{OF_HYDRAS[asked]}")
        asked = f"+sweep={asked}"
    assert by_hydra([asked], [str(PLUGINS), str(tmp_path)])


@pytest.mark.parametrize("sweep", [None, *(path.stem for path in (settings.CONF / "sweep").glob("*.yaml"))])
def test_hydra_does_not_run_the_jobs_of_our_sweeps(sweep):
    with composing([str(PLUGINS)]):
        arguments, multirun = with_sweep([f"+sweep={sweep}"] if sweep else ["batch_size=1,2"], multirun=True, config_dirs=[str(PLUGINS)])
        composer = Composer(config_dirs=[str(PLUGINS)])
        composer.job(expand(arguments, multirun=multirun)[0])
    assert not composer.by_hydra


def test_a_sweep_of_the_users_own_that_only_names_axes_is_run_like_ours(tmp_path):
    (tmp_path / "sweep").mkdir()
    text = "# @package _global_\n# Mine.\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      batch_size: 1,2\n"
    (tmp_path / "sweep/mine.yaml").write_text(text)
    assert not by_hydra(["+sweep=mine"], [str(PLUGINS), str(tmp_path)])
