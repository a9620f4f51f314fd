"""Equal recall: the smallest knob, few tries, and the truth when there is none."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.groundtruth import exact_neighbours
from harness.statistics import mean_over_queries
from harness.tuning import smallest, smallest_knob
from stores.index import FLAT, HNSW
from tests import cells


@given(low=st.integers(1, 50), span=st.integers(0, 5000), answer=st.integers(0, 6000))
def test_the_smallest_value_is_found_in_few_tries(low, span, answer):
    high, tried = low + span, []

    def reaches(value):
        tried.append(value)
        return value >= answer

    found = smallest(reaches, low, high)
    assert found == (None if answer > high else max(answer, low))
    assert all(low <= value <= high for value in tried)
    assert len(tried) <= 2 * np.log2(high + 2) + 3


class Blurred:
    """Answers with the true neighbours, of which those beyond the share `at(knob)` are missed, the same queries every time."""

    def __init__(self, truth, numbers, at):
        self.truth, self.numbers, self.at, self.asked = truth, numbers, at, []

    def __call__(self, params):
        self.asked.append(params["ef"])
        rng = np.random.default_rng(0)  # a value that finds more finds what a smaller one found, too
        ids = self.truth.ids[self.numbers, :10].copy()
        return np.where(rng.random(ids.shape) < self.at(params["ef"]), ids, -1)


@pytest.fixture
def laid_out(tmp_path):
    folder = cells.vectors(tmp_path / "vectors", rows=500, queries=400)
    corpus, queries = np.load(folder / "corpus.npy"), np.load(folder / "queries.npy")
    truth = exact_neighbours(queries, corpus, k=10, metric="cosine")
    (tmp_path / "truth").mkdir()
    np.save(tmp_path / "truth/ids.npy", truth.ids)
    np.save(tmp_path / "truth/scores.npy", truth.scores)
    return tmp_path, truth


def tuned(laid_out, at, targets, index=None):
    folder, truth = laid_out
    numbers = np.arange(0, 400, 2)
    blurred = Blurred(truth, numbers, at)
    found = smallest_knob(
        blurred, index or HNSW(), targets, k=10, rows=500, dim=8, truth=folder / "truth", metric="cosine",
        vectors=folder / "vectors", numbers=numbers,
    )  # fmt: skip
    json.dumps(found)  # it goes into a result
    return found, blurred


def test_the_value_found_is_the_smallest_whose_lower_bound_reaches_the_target(laid_out):
    def at(ef):
        return 1 - 0.5 * 10 / ef

    found, blurred = tuned(laid_out, at, [0.95, 0.9])
    assert [one["target_recall"] for one in found] == [0.9, 0.95]
    for one in found:
        ef = one["search_params"]["ef"]

        def lower(value):
            return mean_over_queries((blurred({"ef": value}) >= 0).mean(axis=1)).lo

        assert lower(ef) >= one["target_recall"] > lower(ef - 1)
    assert len(blurred.asked) < 40


def test_what_was_tried_for_one_target_is_not_tried_again_for_the_next(laid_out):
    _, blurred = tuned(laid_out, lambda ef: 1 - 0.5 * 10 / ef, [0.8, 0.9, 0.95])
    assert len(set(blurred.asked)) == len(blurred.asked)


def test_not_reachable_is_an_answer_with_the_best_there_is(laid_out):
    (found,), _ = tuned(laid_out, lambda ef: 0.7, [0.9])
    assert found["search_params"] is None
    assert found["best"] == pytest.approx(0.7, abs=0.05)


def test_a_target_that_so_few_queries_cannot_show_is_not_looked_for(laid_out):
    """With n right answers out of n the lower end of the 95 % interval is 0.025 ** (1 / n) (Clopper and Pearson)."""
    (near, beyond), blurred = tuned(laid_out, lambda ef: 1.0, [0.97, 0.99])
    assert 0.97 < 0.025 ** (1 / near["queries"]) < 0.99
    assert near["search_params"] is not None
    assert (beyond["search_params"], beyond["best"]) == (None, None)
    assert len(blurred.asked) == 1


def test_an_index_without_a_knob_reaches_a_target_or_does_not(laid_out):
    folder, truth = laid_out
    numbers = np.arange(400)
    for share, reached in ((1.0, True), (0.5, False)):
        blurred = Blurred(truth, numbers, lambda ef, share=share: share)
        (found,) = smallest_knob(
            lambda params, blurred=blurred: blurred({"ef": 1}), FLAT(), [0.9], k=10, rows=500, dim=8, truth=folder / "truth",
            metric="cosine", vectors=folder / "vectors", numbers=numbers,
        )  # fmt: skip
        assert (found["search_params"] == {}) == reached
