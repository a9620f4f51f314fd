from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from harness.errors import StoreError
from stores.batches import Batches, unit


def kept(*batches):
    found = Batches("x")
    for first_id, rows in batches:
        found.keep(np.full((rows, 2), first_id, np.float32), first_id)
    return found


def test_batches_are_joined_in_the_order_of_their_ids_whatever_the_order_they_came_in():
    assert kept((3, 2), (0, 3)).joined()[:, 0].tolist() == [0, 0, 0, 3, 3]


def test_what_was_joined_is_forgotten():
    batches = kept((0, 3))
    assert len(batches.joined()) == 3
    assert batches.joined() is None


@pytest.mark.parametrize("first_id", [2, 4])
def test_repeated_and_missing_ids_are_refused(first_id):
    with pytest.raises(StoreError, match=f"store=x: ids must run from 0 without gaps or repeats; expected 3, got {first_id}"):
        kept((0, 3), (first_id, 1)).joined()


def test_unit_rows_are_those_of_scikit_learn_and_the_callers_stay_as_they_are():
    rows = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    before = rows.copy()
    np.testing.assert_allclose(unit(rows), normalize(rows.astype(np.float64)), rtol=1e-6)
    assert (rows == before).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_neither_tiny_nor_huge_rows_lose_their_direction(size):
    np.testing.assert_allclose(unit(np.array([[3 * size, 4 * size]], np.float32)), [[0.6, 0.8]], rtol=1e-6)


def test_a_row_of_zeros_stays_one():
    assert unit(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]
