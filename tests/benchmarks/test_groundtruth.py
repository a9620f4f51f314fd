"""What exact ground truth costs beside the matrix product that it cannot do without: 2,000 queries by 100,000 rows of 384 dimensions.

Without ``--benchmark-enable`` a fiftieth of the rows is searched twice and checked.
"""

import os
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from harness.groundtruth import exact_neighbours
from tests.benchmarks.pairs import alternated, ratio


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("k", [10, 100])
def test_ground_truth_takes_at_most_1_3_times_the_bare_matrix_product(benchmark, publish, k):
    """The product as anybody would write it; on vectors with near neighbours, as embeddings have them."""
    rng, rows = np.random.default_rng(0), 100_000 if benchmark.enabled else 2_000
    topics = rng.standard_normal((500, 384), dtype=np.float32)
    corpus, queries = (topics[rng.integers(500, size=n)] + rng.standard_normal((n, 384), dtype=np.float32) for n in (rows, 2_000))
    for vectors in (corpus, queries):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def product():
        began = time.perf_counter()
        scores = queries @ corpus.T
        took = time.perf_counter() - began
        assert scores.shape == (2_000, rows)
        return took

    def truth():
        began = time.perf_counter()
        found = exact_neighbours(queries, corpus, k=k, metric="cosine")
        took = time.perf_counter() - began
        assert found.ids.shape == (2_000, k)
        return took

    alternated(truth, product, pairs=1)
    found = ratio(alternated(product, truth, pairs=20 if benchmark.enabled else 2))
    benchmark.pedantic(truth, rounds=1)
    publish(**{f"exact_neighbours_k_{k}_by_matrix_product_time_ratio": found, "threads": os.environ.get("OMP_NUM_THREADS", "1")})
    if benchmark.enabled:
        assert found.pairs >= 20
        assert found.hi <= 1.3
