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


def check_as(vector_type, rows, metric="cosine", dim=16):
    check_rows("x", rows, dim=dim, metric=metric, first_id=5, vector_type=vector_type)


@pytest.mark.parametrize(
    ("vector_type", "good"),
    [
        ("fp32", np.ones((2, 16), np.float32)),
        ("fp16", np.ones((2, 16), np.float32)),
        ("bf16", np.ones((2, 16), np.float32)),
        ("int8", np.ones((2, 16), np.int8)),
        ("binary", np.ones((2, 2), np.uint8)),
    ],
)
def test_each_vector_type_takes_its_own_array_and_no_other(vector_type, good):
    check_as(vector_type, good)
    for wrong in (good[:, 1:], good.astype(np.int16), good[0]):
        with pytest.raises(StoreError, match=f"must be {good.dtype} of shape"):
            check_as(vector_type, wrong)


def test_a_row_of_bits_is_never_zero_but_one_of_integers_may_be():
    check_as("binary", np.zeros((2, 2), np.uint8))
    with pytest.raises(StoreError, match="row 5 is all zeros"):
        check_as("int8", np.zeros((2, 16), np.int8))


def test_a_number_that_half_precision_cannot_hold_is_refused_where_it_would_be_stored_so():
    rows = np.ones((2, 16), np.float32)
    rows[1, 3] = -65_505
    check_as("bf16", rows)
    with pytest.raises(StoreError, match="row 6 holds a number beyond fp16's 65504"):
        check_as("fp16", rows)
