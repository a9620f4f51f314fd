"""Rounds of fresh processes, made for real with a model of words and exact search."""

import json
import random
import statistics
import sys

import numpy as np
import pytest

from harness.gate.arms import ALL_CELLS, Cells, compare_cells
from harness.gate.kinds import KINDS
from harness.gate.rounds import Fault, Seen, Series
from harness.gate.settings import MEMORY, GateSettings
from harness.gate.sides import Side
from tests.conftest import PLUGINS, ROOT

COMMON = "model=hashed_words dataset=sentences store=exact index=flat batch_size=4 embed_items=8"
METRICS = ["forward_s", "pipeline_s", "query_embed_s", "load_s", "vectors", "search_s", "search_p95_s", "insert_s", "build_s", "recall"]


def instrument(*, metrics=METRICS, head=(), cells=("words",), **more):
    """Cells on two sides that differ in settings alone."""
    given = {name: {"set": f"model.dim={32 + 8 * number}", "metrics": metrics} for number, name in enumerate(cells)}
    settings = GateSettings(cells=given, common=COMMON, blocks=4, block_ms=1, **more)
    sides = {"base": Side("b", ROOT, sys.executable), "head": Side("h", ROOT, sys.executable, head)}
    compared = compare_cells(sides["base"], sides["head"], settings, settings.all_cells(), [str(PLUGINS)])
    return Cells(sides, compared, settings), compared


def test_a_round_has_one_value_a_block_for_each_arm_and_one_of_what_happens_once():
    made, compared = instrument()
    keys = [case.key for case in compared.cases]
    assert (ALL_CELLS, MEMORY) in keys
    seen = made.round(1, keys, ("base", "head", "control"))
    assert set(seen) == set(keys)
    for (cell, metric), one in seen.items():
        assert isinstance(one, Seen), (cell, metric, one)
        assert set(one.values) == {"base", "head", "control"}
        blocks = 4 if metric in ("forward_s", "pipeline_s", "query_embed_s", "search_s") else 1
        assert {len(values) for values in one.values.values()} == {blocks}
        assert (one.wall is not None) == (metric.endswith("_s") and metric != "search_p95_s"), "processor time decides what one thread does"
    by_metric = {metric: one for (_, metric), one in seen.items()}
    assert by_metric["recall"].values == {arm: [1.0] for arm in ("base", "head", "control")}
    assert len({values[0] for values in by_metric["vectors"].values.values()}) == 1
    assert 1e7 < by_metric[MEMORY].values["base"][0] < 1e10


def test_only_what_is_asked_for_is_measured():
    made, compared = instrument(metrics=["forward_s", "search_s"], cells=("one", "two"))
    key = next(case.key for case in compared.cases if case.cell == "two" and case.key[1] == "search_s")
    assert set(made.round(1, [key], ("base", "head"))) == {key}


def test_memory_is_of_all_cells_even_where_all_else_is_decided():
    made, compared = instrument(metrics=["search_s"], cells=("one", "two"))
    keys = [case.key for case in compared.cases]
    whole = made.round(1, keys, ("base", "head"))[ALL_CELLS, MEMORY].values["base"][0]
    alone = made.round(2, [(ALL_CELLS, MEMORY)], ("base", "head"))[ALL_CELLS, MEMORY].values["base"][0]
    assert alone == pytest.approx(whole, rel=0.05)


def test_a_side_that_dies_is_that_cells_fault_and_the_rest_is_asked_for_again():
    made, compared = instrument(metrics=["forward_s"], head=("model.trouble=killed",), memory=False)
    seen = made.round(1, [case.key for case in compared.cases], ("base", "head"))
    assert [type(one) for one in seen.values()] == [Fault]
    fault = next(iter(seen.values()))
    assert fault.arm == "head"
    assert "SIGKILL" in fault.text


def test_a_cell_that_fails_leaves_the_others_measured():
    made, compared = instrument(metrics=["forward_s", "search_s"], head=("model.trouble=load",), memory=False)
    seen = made.round(1, [case.key for case in compared.cases], ("base", "head"))
    assert {one.arm for one in seen.values() if isinstance(one, Fault)} == {"head"}
    assert "the weights file is broken" in next(one.text for one in seen.values() if isinstance(one, Fault))


def test_settings_that_differ_are_measured_and_the_slower_one_is_slower():
    made, compared = instrument(metrics=["forward_s"], head=("model.dim=1024",), memory=False)
    (key,) = (case.key for case in compared.cases)
    seen = made.round(1, [key], ("base", "head"))[key]
    assert statistics.median(seen.values["head"]) > statistics.median(seen.values["base"])


def test_a_checksum_forgives_rounding_and_nothing_else():
    made, _ = instrument(metrics=["vectors"], memory=False)
    vectors = np.random.default_rng(0).standard_normal((4, 32))
    first = made.checksum("words", vectors.tolist())
    assert first == int(float(first)), "a float holds all of its digits"
    assert made.checksum("words", (vectors * (1 + 1e-7)).tolist()) == first
    for other in (vectors + 0.01, vectors * 2, vectors[:, ::-1], vectors[:3], np.full_like(vectors, np.nan)):
        assert made.checksum("words", other.tolist()) != first


def test_a_rounds_number_is_the_median_over_its_blocks():
    series = Series(("a", "search_s"), KINDS["search_s"])
    random.seed(0)
    base = [random.uniform(1, 2) for _ in range(8)]
    series.add(Seen({"base": base, "head": [1.1 * value for value in base[:-1]] + [50.0]}))
    assert series.x == [pytest.approx(np.log(1.1))]


def test_a_plan_can_be_sent():
    _, compared = instrument(metrics=["recall"], memory=False)
    assert json.loads(json.dumps(compared.plans)) == compared.plans
