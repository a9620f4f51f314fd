"""What runs inside a side's process: started for real, in a folder that holds the side's sources."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.cells import environment
from harness.gate.arms import Process, SideError, compare_cells
from harness.gate.settings import GateCell, GateSettings
from harness.gate.sides import Side
from harness.groundtruth import exact_neighbours
from tests.conftest import PLUGINS, ROOT

QUICK = ("model=hashed_words", "dataset=sentences", "store=exact", "index=flat", "batch_size=4", "embed_items=8", "threads=1")


def side(source=ROOT, overrides=()):
    return Side("here", source, sys.executable, overrides)


@pytest.fixture
def process():
    started = []

    def start(source=ROOT, **variables):
        one = Process(side(source), {**environment(1), **variables})
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def planned():
    one = Process(side(), environment(1))
    try:
        return one.ask("plan", cell="words", overrides=list(QUICK), config_dirs=[str(PLUGINS)], vectors=True)["plan"]
    finally:
        one.close()


def test_a_worker_measures_what_its_own_source_says_by_turns(process, planned):
    one = process()
    one.ask("prepare", cell="words", plan=planned, parts=["embed", "search"])
    took = one.ask("load", cell="words")["took"]
    assert set(took) == {"load_s", "insert_s", "build_s"}
    one.ask("settle")
    times = one.ask("calibrate", cell="words", metric="search_s", least_ns=2_000_000, clock=1, point=planned["points"][0])["times"]
    assert times > 1
    for metric, point, units in (("search_s", planned["points"][0], times), ("forward_s", None, 2 * times), ("query_embed_s", None, times)):
        answer = one.ask("block", cell="words", metric=metric, times=times, point=point)
        assert answer["units"] == units
        assert all(part > 0 for part in answer["ns"])
    assert len(one.ask("latencies", cell="words", point=planned["points"][0])["seconds"]) > times
    assert one.ask("latencies", cell="words", point=planned["points"][0])["seconds"] == [], "they are given once"
    assert one.ask("peak")["peak_rss_bytes"] > 1e7
    one.ask("close")


def test_its_answers_are_those_of_brute_force(process, planned):
    one = process()
    one.ask("prepare", cell="words", plan=planned, parts=["embed", "search"])
    one.ask("load", cell="words")
    facts = one.ask("facts", cell="words")
    corpus, queries = (np.load(Path(planned["vectors"]) / f"{name}.npy") for name in ("corpus", "queries"))
    truth = exact_neighbours(queries, corpus, k=10, metric="cosine")
    assert facts["ids"] == [truth.ids.tolist()]
    assert facts["index_bytes"] is None or facts["index_bytes"] > 0
    assert np.allclose(facts["vectors"], corpus[: len(facts["vectors"])], atol=1e-6)


def test_more_work_takes_more_processor_time(process, planned):
    one = process()
    one.ask("prepare", cell="words", plan=planned, parts=["search"])
    one.ask("load", cell="words")
    few, many = (one.ask("block", cell="words", metric="search_s", times=times, point=planned["points"][0])["ns"][1] for times in (50, 500))
    assert many > 2 * few


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ({"do": "plan", "cell": "x", "overrides": ["model=nobody"], "config_dirs": [], "vectors": False}, "settings", "model=nobody"),
        (
            {"do": "plan", "cell": "x", "overrides": [*QUICK, "k=[0]"], "config_dirs": [str(PLUGINS)], "vectors": False},
            "settings",
            "k must",
        ),
        ({"do": "load", "cell": "unknown"}, "failed", "unknown"),
    ],
)
def test_an_error_is_an_answer_and_the_worker_goes_on(process, request_, kind, words):
    one = process()
    with pytest.raises(SideError, match=words) as caught:
        one.ask(**request_)
    assert caught.value.kind == kind
    assert one.ask("settle") == {}


def test_a_source_without_the_module_that_a_gate_needs_is_lacking(process, tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/__init__.py").write_text("")
    with pytest.raises(SideError, match="not what a gate needs") as caught:
        process(tmp_path).ask("plan", cell="x", overrides=[], config_dirs=[], vectors=False)
    assert caught.value.kind == "lacking"


def test_a_worker_that_dies_says_its_last_words(process, tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/__init__.py").write_text("import os, sys\nprint('farewell', file=sys.stderr, flush=True)\nos._exit(7)\n")
    with pytest.raises(SideError, match=r"exit code 7.*farewell") as caught:
        process(tmp_path).ask("plan", cell="x", overrides=[], config_dirs=[], vectors=False)
    assert caught.value.kind == "died"


def test_what_a_library_prints_is_not_taken_for_an_answer(process, tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/__init__.py").write_text("print('{\"plan\": 1}', flush=True)\n")
    (tmp_path / "harness/gate").mkdir()
    (tmp_path / "harness/gate/samples.py").write_text("def planned(*_, **__): return 2\n")
    assert process(tmp_path).ask("plan", cell="x", overrides=[], config_dirs=[], vectors=False)["plan"] == 2


# ----------------------------------------------------------------------------- what two sides make of it


def compared(base=(), head=(), *, cell=QUICK, metrics=("search_s", "recall"), base_source=ROOT, head_source=ROOT):
    settings = GateSettings(cells={"words": {"set": " ".join(cell), "metrics": list(metrics)}}, memory=False)
    cells = (GateCell("words", tuple(cell), tuple(metrics)),)
    return compare_cells(side(base_source, base), side(head_source, head), settings, cells, [str(PLUGINS)])


def verdicts(found):
    return {case.decision.verdict for case in found.settled}


def test_the_same_on_both_sides_can_be_measured_and_processor_time_decides():
    found = compared()
    assert [case.key[1] for case in found.cases] == ["search_s", "recall"]
    assert found.settled == ()
    assert {key[1] for key in found.guarded} == {"search_s"}


def test_settings_that_are_to_differ_may_differ_but_the_data_may_not():
    found = compared(head=("model.dim=16",))
    assert found.cases
    found = compared(head=("dataset.corpus=100",))
    assert verdicts(found) == {"NOT COMPARABLE"}
    assert "another data" in found.settled[0].decision.reason


def test_a_setting_that_one_side_does_not_know_is_missing_or_new():
    assert verdicts(compared(head=("store.nothing=1",))) == {"MISSING"}
    assert verdicts(compared(base=("store.nothing=1",))) == {"NEW"}
    both = compared(cell=(*QUICK, "store.nothing=1"))
    assert verdicts(both) == {"ERROR"}
    assert "base: " in both.settled[0].decision.reason


def test_a_side_that_cannot_be_measured_is_not_comparable(tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/__init__.py").write_text("")
    assert verdicts(compared(base_source=tmp_path)) == {"NOT COMPARABLE"}


def test_an_answer_is_one_line_of_json(planned):
    assert json.loads(json.dumps(planned)) == planned
