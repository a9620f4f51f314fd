"""Scores and the rounding error of float32 ones."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import DataError
from harness.metrics.similarity import norms, rounding_error, scale, scores_of


def test_scores_agree_with_scipy_and_bigger_is_nearer():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    query, rows = rng.normal(size=24).astype(np.float32), rng.normal(size=(50, 24)).astype(np.float32)
    wide = query[None, :].astype(float), rows.astype(float)
    np.testing.assert_allclose(scores_of(query, rows, "cosine"), 1 - cdist(*wide, "cosine")[0], rtol=1e-12)
    np.testing.assert_allclose(scores_of(query, rows, "l2"), -cdist(*wide, "sqeuclidean")[0], rtol=1e-12)
    np.testing.assert_allclose(scores_of(query, rows, "ip"), wide[1] @ wide[0][0], rtol=1e-12)
    for metric in ("cosine", "l2"):
        assert scores_of(query, query[None, :], metric)[0] > scores_of(query, rows, metric).max()


def test_a_zero_vector_has_no_cosine():
    with pytest.raises(DataError, match="norm 0"):
        scores_of(np.ones(3), np.zeros((1, 3)), "cosine")


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 17, 384, 2048])
@pytest.mark.parametrize("kind", ["positive", "near"])
def test_a_float32_sum_in_plain_order_stays_within_the_rounding_error_and_near_it(dim, kind):
    """Vectors with large partial sums, where rounding is worst; normalised in float32 by a plain loop as well."""
    rng = np.random.default_rng(dim)
    noise = rng.normal(size=(3000, dim))
    x = (np.abs(noise) if kind == "positive" else rng.normal(size=dim) + 0.5 * noise).astype(np.float32)
    unit = x / np.sqrt(np.cumsum(x * x, axis=1, dtype=np.float32)[:, -1:])
    narrow = np.cumsum(unit * unit[0], axis=1, dtype=np.float32)[:, -1].astype(float) / norms(unit[:1])
    off = np.abs(narrow - scores_of(x[0], x, "cosine"))
    assert off.max() <= rounding_error(dim)
    assert dim == 1 or off.max() > rounding_error(dim) / 12, "the bound is not beyond all proportion"


def test_the_scale_of_a_score_is_its_summed_magnitudes():
    """Cauchy–Schwarz for the inner product; for L2 all three terms of ‖q‖² + ‖x‖² − 2 q·x."""
    rng = np.random.default_rng(1)
    q, x = rng.normal(size=(1, 9)), rng.normal(size=(40, 9))
    assert np.all(np.abs(x) @ np.abs(q[0]) <= scale(norms(q), norms(x), "ip"))
    terms = np.square(q).sum() + np.square(x).sum(axis=1) + 2 * np.abs(x) @ np.abs(q[0])
    assert np.all(terms <= scale(norms(q), norms(x), "l2"))
    assert scale(norms(q), norms(x), "cosine").tolist() == [1.0] * 40
