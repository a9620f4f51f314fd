"""Killed with SIGKILL at each stage in turn, the same command goes on from there, and at the end nothing is left that should not be."""

import time

import psutil
import pytest

from tests.disturbed import Place

SWEEP = [
    "model=hashed_words", "dataset=sentences", "dataset.corpus=60", "dataset.queries=12", "store=nothing", "index=flat,hnsw", "processes=1",
    "min_duration_s=0.02", "workload.min_requests=11", "embed_items=8",
]  # fmt: skip
"""One embed cell and two search cells."""


def chain(*stages, slow=()):
    return [pytest.param(*stage, marks=[pytest.mark.slow] if stage in slow else []) for stage in stages]


KILLED = chain(
    ("data", "parent"), ("cache", "parent"), ("embed_memory", "parent"), ("embed", "parent"), ("record", "parent"), ("vectors", "parent"),
    ("truth", "parent"), ("search", "parent"), ("search_memory", "parent"), ("report", "parent"),
    slow=[("data", "parent"), ("embed_memory", "parent"), ("embed", "parent"), ("vectors", "parent"), ("search_memory", "parent")],
)  # fmt: skip
"""In the order in which a run comes to these stages."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("killed"), SWEEP)


@pytest.mark.parametrize(("stage", "victim"), KILLED, ids=lambda name: name)
def test_a_run_that_is_killed_ends_with_all_that_it_started_and_keeps_what_was_measured(place, stage, victim):
    before, _ = place.outcomes()
    place.order(stage, victim)
    code, words = place.run()
    assert code == -9, words
    assert not list(place.orders.iterdir()), "it came to that stage"
    place.assert_nobody_is_left()
    after, left_out = place.outcomes()
    assert before <= after
    assert left_out == set()


def test_the_next_run_completes_the_rest_and_clears_away_what_the_killed_ones_left(place):
    code, words = place.run()
    assert code == 0, words
    found, left_out = place.outcomes()
    assert sorted((kind, status) for kind, _, status in found) == [("embed", "ok"), ("search", "ok"), ("search", "ok")]
    assert left_out == set()
    assert (place.results / "report.html").exists()
    place.assert_nothing_half_made_is_left()
    code, words = place.run()
    assert code == 0
    assert "3 measured already, 0 to measure" in words


@pytest.mark.parametrize(
    ("stage", "victim"),
    chain(
        ("embed_memory", "child"), ("embed", "server"), ("vectors", "child"), ("truth", "server"), ("search", "child"),
        ("search_memory", "server"),
        slow=[("embed_memory", "child"), ("vectors", "child"), ("truth", "server"), ("search", "child"), ("search_memory", "server")],
    ),
    ids=lambda name: name,
)  # fmt: skip
def test_a_measuring_process_that_is_killed_costs_its_cell_alone_and_the_next_run_measures_that(tmp_path, stage, victim):
    place = Place(tmp_path / "killed", SWEEP)
    place.order(stage, victim)
    code, words = place.run()
    assert code == 1, words
    assert "Traceback" not in words
    assert not list(place.orders.iterdir())
    outcomes, _ = place.outcomes()
    failed = [kind for kind, _, status in outcomes if status == "failed"]
    assert failed == (["search", "search"] if stage == "vectors" else ["embed"] if stage.startswith("embed") else ["search"])
    assert len(outcomes) == 3
    place.assert_nothing_half_made_is_left()
    code, words = place.run()
    assert code == 0, words
    found, _ = place.outcomes()
    assert {status for _, _, status in found} == {"ok"}
    place.assert_nothing_half_made_is_left()


def database(place):
    """The Milvus server that a run has started, and what watches over it."""
    found = []
    for process in place.processes():
        try:
            if "standalone" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["database", "parent"])
def test_a_database_that_is_killed_or_whose_run_is_leaves_nothing_and_the_next_run_completes_the_rest(tmp_path, victim):
    pytest.importorskip("milvus", reason="the package milvus, which carries the server, is not installed")
    place = Place(tmp_path / "killed", [*SWEEP, "store=milvus_local", "index=hnsw"])
    run = place.start()
    end = time.monotonic() + 200
    while not database(place):
        assert time.monotonic() < end, place.said()
        assert run.poll() is None, place.said()
        time.sleep(0.05)
    time.sleep(1.0)
    for process in database(place) if victim == "database" else [run]:
        process.kill()
    assert run.wait(timeout=200) == (1 if victim == "database" else -9), place.said()
    place.assert_nobody_is_left()
    code, words = place.run()
    assert code == 0, words
    found, _ = place.outcomes()
    assert sorted((kind, status) for kind, _, status in found) == [("embed", "ok"), ("search", "ok")]
    place.assert_nothing_half_made_is_left()
