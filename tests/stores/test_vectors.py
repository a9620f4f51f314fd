from __future__ import annotations

import numpy as np
import pytest

from harness.errors import StoreError
from stores.vectors import check_rows


def check(rows, metric="cosine", dim=3, first_id=0):
    check_rows("x", np.asarray(rows, np.float32), dim=dim, metric=metric, first_id=first_id)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_row_that_is_not_finite_is_refused_by_its_id(bad, metric):
    with pytest.raises(StoreError, match="store=x: row 102 holds NaN or infinity"):
        check([[1, 2, 3], [4, 5, 6], [1, bad, 1]], metric, first_id=100)


def test_opposite_infinities_do_not_hide_each_other():
    with pytest.raises(StoreError, match="row 0"):
        check([[np.inf, -np.inf, 0]])


def test_the_largest_floats_are_finite():
    largest = np.finfo(np.float32).max
    check([[largest, largest, largest]], "l2")


def test_a_zero_row_has_no_cosine_but_a_length_and_a_product():
    with pytest.raises(StoreError, match="row 1 is all zeros and has no cosine"):
        check([[1, 0, 0], [0, 0, 0]])
    check([[1, 0, 0], [0, 0, 0]], "l2")
    check([[1, 0, 0], [0, 0, 0]], "ip")


@pytest.mark.parametrize(
    "rows", [np.ones((2, 4), np.float32), np.ones(3, np.float32), np.ones((2, 3), np.float64), np.ones((2, 3), np.float16)]
)
def test_another_shape_or_type_is_refused(rows):
    with pytest.raises(StoreError, match=r"must be float32 of shape \(n, 3\)"):
        check_rows("x", rows, dim=3, metric="ip", first_id=0)


def test_a_negative_id_is_refused_because_it_would_read_as_nothing_found():
    with pytest.raises(StoreError, match="ids must be >= 0"):
        check([[1, 2, 3]], first_id=-1)
