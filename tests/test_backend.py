"""``backend=`` as an axis: runtimes besides torch are swept like a dtype, count in every key, and are refused where they cannot be."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from importlib import metadata

import pytest

from harness.choose import production
from harness.choose.candidates import Candidate
from harness.errors import SettingsError
from harness.plan import make_plan
from models import exported
from tests.choose import cells as chosen
from tests.conftest import PLUGINS, QUICK

TEXT = [*QUICK, "model=minilm", "model.weights=random"]


@pytest.fixture
def plan(tmp_path):
    def make(*overrides, multirun=False):
        return make_plan([*TEXT, f"results={tmp_path}", *overrides], multirun=multirun, config_dirs=[str(PLUGINS)])

    return make


@pytest.fixture
def all_installed(monkeypatch):
    """As if every extra were here."""
    there = importlib.util.find_spec
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name, *rest: there(name, *rest) or name)


def mistakes(plan, *overrides, **more):
    with pytest.raises(SettingsError) as caught:
        plan(*overrides, **more)
    return caught.value.violations


@pytest.mark.usefixtures("all_installed")
def test_runtimes_and_precisions_are_swept_and_each_has_cells_and_vectors_of_its_own(plan):
    sweep = plan("backend=torch,onnx,openvino", "dtype=fp32,int8", multirun=True)
    assert len(sweep.jobs) == 6
    assert len(sweep.skipped) == 1, "torch has no int8"
    assert [one.job.backend for one in sweep.skipped] == ["torch"]
    assert len({cell.recipe for cell in sweep.cells}) == 5
    assert len(sweep.cells) == 2 * 5
    assert {cell.settings["backend"] for cell in sweep.cells} == {"torch", "onnx", "openvino"}


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_the_source_and_the_library_of_a_runtime_count_for_its_own_cells_alone(plan, backend):
    mine, theirs = plan(f"backend={backend}").jobs[0].embed, plan().jobs[0].embed
    module = exported.RUNTIMES[backend]
    assert module in mine.parts["source"]
    assert module not in theirs.parts["source"]
    library = {"onnx": "onnxruntime", "openvino": "openvino"}[backend]
    assert library not in theirs.parts["versions"]
    for needed in exported.runtime_of(backend).PACKAGES:
        if importlib.util.find_spec(needed) is not None:
            assert mine.parts["versions"][needed] == metadata.version(needed)


def test_torch_is_the_default_and_the_title_names_any_other(plan, all_installed):
    assert plan().jobs[0].job.backend == "torch"
    assert "torch" not in plan().jobs[0].embed.title
    assert "by onnx" in plan("backend=onnx").jobs[0].embed.title


def test_a_model_that_no_other_runtime_can_run_is_refused_by_name_with_those_that_can(plan):
    (said,) = mistakes(plan, "model=resnet50", "dataset=auto", "backend=onnx")
    assert said.startswith("backend=onnx: model=resnet50 computes with torch alone; take backend=torch, or one of bge_base_en, ")
    assert "minilm" in said
    assert "whisper" not in said


@pytest.mark.parametrize("model", ["hashed_words", "openai_embedding"])
def test_models_of_users_and_models_behind_an_endpoint_have_no_runtime_to_choose(model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(SettingsError) as caught:
        make_plan([*QUICK, f"model={model}", "backend=openvino"], multirun=False, config_dirs=[str(PLUGINS)])
    assert any("backend=openvino" in one for one in caught.value.violations)


def test_int8_needs_a_runtime_that_makes_it(plan):
    assert mistakes(plan, "dtype=int8") == ("dtype=int8 needs backend=onnx or backend=openvino; torch computes in fp32, fp16 or bf16",)


def test_a_backend_that_does_not_exist_is_told_once(plan):
    assert mistakes(plan, "backend=tensorrt") == ("backend must be one of torch, onnx, openvino, got 'tensorrt'",)


def test_a_missing_extra_refuses_the_job_before_anything_is_measured_and_a_sweep_goes_on_without_it(plan, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else there(name, *rest))
    (said,) = mistakes(plan, "backend=onnx")
    assert "needs the package" in said
    assert said.endswith("pip install 'embedding-search-harness[onnx]'")
    sweep = plan("backend=torch,onnx", multirun=True)
    assert [one.job.backend for one in sweep.skipped] == ["onnx"]
    assert sweep.skipped[0].job.cannot_embed


def test_no_code_is_guessed_for_production_where_torch_is_not_what_computes():
    search = chosen.search(points=(chosen.point(64),))
    about = {
        "backend": "onnx",
        "dtype": "int8",
        "model": {"_target_": "models.sentence_transformers.SentenceTransformersModel", "source": "org/m"},
        "store": {"_target_": "stores.exact.Exact"},
    }
    search = replace(search, settings={**search.settings, **about})
    candidate = Candidate(chosen.embed(batch_size=2), search, 0, {}, name="chosen")
    text, notes = production.code(candidate, folder="r", about="t", measured=[])
    assert notes[0].startswith("The model's loading code was not generated: onnx computes it; export the network")
    compile(text, "chosen.py", "exec")
