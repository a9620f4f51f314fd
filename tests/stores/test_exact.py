from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors

import stores.exact
from harness.errors import StoreError
from harness.interfaces import part_of
from stores.exact import Exact
from stores.index import FLAT
from stores.vectors import METRICS
from tests.stores.oracle import distances, hard_rows

SKLEARN_METRICS = {"cosine": "cosine", "l2": "euclidean"}


def built(rows, metric):
    store = Exact()
    store.create("c", dim=rows.shape[1], metric=metric, index=FLAT())
    store.insert(rows, 0)
    store.build()
    return store


@pytest.mark.parametrize("metric", sorted(SKLEARN_METRICS))
def test_neighbours_are_those_of_scikit_learn(metric):
    rows, queries = hard_rows(500, 24, 1), hard_rows(40, 24, 2)
    expected = NearestNeighbors(n_neighbors=7, algorithm="brute", metric=SKLEARN_METRICS[metric]).fit(rows.astype(np.float64))
    assert (built(rows, metric).search(queries, 7, {}) == expected.kneighbors(queries.astype(np.float64), return_distance=False)).all()


NUMBERS = st.floats(-100, 100, width=32)


@settings(deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda dim: st.tuples(
            arrays(np.float32, st.tuples(st.integers(1, 30), st.just(dim)), elements=NUMBERS),
            arrays(np.float32, (1, dim), elements=NUMBERS),
        )
    ),
    st.sampled_from(METRICS),
    st.integers(1, 40),
)
def test_the_answer_holds_the_smallest_float64_distances_in_order(data, metric, k):
    rows, query = data
    if metric == "cosine":
        rows = rows[rows.any(axis=1)]
        if not len(rows) or not query.any():
            return
    (ids,) = built(rows, metric).search(query, k, {})
    found = min(k, len(rows))
    assert (ids[found:] == -1).all()
    to_rows = distances(query, rows, metric)[0]
    assert len(set(ids[:found].tolist())) == found
    scale = np.abs(to_rows).max() + 1e-300
    np.testing.assert_allclose(to_rows[ids[:found]], np.sort(to_rows)[:found], rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_equal_rows_are_ranked_by_lower_id(metric, k):
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((5, 37)).astype(np.float32), 40, axis=0)[rng.permutation(200)]
    query = rng.standard_normal((1, 37)).astype(np.float32)
    nearest = distances(query, rows, metric)[0]
    expected = np.flatnonzero(np.isclose(nearest, nearest.min(), rtol=1e-12))[:k]
    assert built(rows, metric).search(query, k, {})[0].tolist() == expected.tolist()


def test_l2_far_from_the_origin_is_exact_where_float32_products_are_not():
    rng = np.random.default_rng(0)
    rows = (10_000 + rng.standard_normal((300, 8))).astype(np.float32)
    queries = (10_000 + rng.standard_normal((20, 8))).astype(np.float32)
    expected = np.argsort(distances(queries, rows, "l2"), axis=1, kind="stable")[:, :5]
    in_float32 = np.argsort((rows**2).sum(axis=1) - 2 * queries @ rows.T, axis=1)[:, :5]
    assert (in_float32 != expected).mean() > 0.5
    assert (built(rows, "l2").search(queries, 5, {}) == expected).all()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("metric", METRICS)
def test_lengths_whose_products_leave_float32_are_ranked_right(metric, scale):
    rows, query = hard_rows(200, 5, 1), hard_rows(1, 5, 2)
    expected = built(rows, metric).search(query, 10, {})
    scaled = built((rows.astype(np.float64) * scale).astype(np.float32), metric)
    assert (scaled.search((query.astype(np.float64) * scale).astype(np.float32), 10, {}) == expected).all()


def test_blocks_of_queries_do_not_change_the_answer(monkeypatch):
    rows, queries = hard_rows(100, 8, 1), hard_rows(33, 8, 2)
    store = built(rows, "l2")
    whole = store.search(queries, 5, {})
    monkeypatch.setattr(stores.exact, "SCORES_BYTES", 4 * 100 * 7)
    assert (store.search(queries, 5, {}) == whole).all()


@pytest.mark.parametrize("first_id", [0, 9, 11])
def test_ids_with_gaps_or_repeats_are_refused(first_id):
    store = Exact()
    store.create("c", dim=2, metric="l2", index=FLAT())
    store.insert(np.ones((10, 2), np.float32), 0)
    if first_id:
        store.insert(np.ones((10, 2), np.float32), first_id)
        with pytest.raises(StoreError, match=f"expected 10, got {first_id}"):
            store.build()
    else:
        store.insert(np.ones((4, 2), np.float32), 0)
        store.build()
        with pytest.raises(StoreError, match="holds 4 built rows, not 14"):
            store.wait_ready(rows=14, deadline_s=1)


def test_bytes_are_those_of_the_vectors():
    assert built(hard_rows(100, 8, 1), "l2").index_bytes() == 100 * 8 * 4


def test_the_callers_array_may_change_after_insert():
    rows = hard_rows(10, 4, 1)
    store = Exact()
    store.create("c", dim=4, metric="l2", index=FLAT())
    kept = rows.copy()
    store.insert(rows, 0)
    rows[:] = 0
    store.build()
    assert store.search(kept, 1, {})[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("below", [1, 100, 1000])
def test_behind_a_filter_the_answer_is_that_over_the_rows_which_pass(metric, below):
    rows, queries = hard_rows(3_000, 12, 1), hard_rows(20, 12, 2)
    passing = np.flatnonzero(part_of(np.arange(3_000)) < below)
    expected = built(rows[passing], metric).search(queries, 7, {})
    found = built(rows, metric).search(queries, 7, {}, below=below)
    assert (found == np.where(expected < 0, -1, passing[expected])).all()


def test_a_filter_that_lets_nothing_pass_finds_nothing():
    assert (built(hard_rows(50, 4, 1), "l2").search(hard_rows(3, 4, 2), 5, {}, below=0) == -1).all()
