"""What the store tests measure against: float64 brute force by SciPy, and vectors that are hard to index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

ROOT = Path(__file__).parents[2]
SCIPY_METRICS = {"cosine": "cosine", "l2": "sqeuclidean"}


def distances(queries, rows, metric):
    """Float64 distances, smaller is nearer, shape (queries, rows)."""
    queries, rows = np.asarray(queries, np.float64), np.asarray(rows, np.float64)
    return -(queries @ rows.T) if metric == "ip" else cdist(queries, rows, SCIPY_METRICS[metric])


def recall(answer, queries, rows, metric, rtol=1e-5):
    """Mean recall at k with ties by relative distance; repeated ids count once, missing ones as misses."""
    found = distances(queries, rows, metric)
    k = answer.shape[1]
    hits = 0
    for ids, to_rows in zip(answer, found, strict=True):
        kth = np.partition(to_rows, k - 1)[k - 1]
        hits += sum(to_rows[i] <= kth + rtol * abs(kth) for i in set(ids.tolist()) if i >= 0)
    return hits / answer.size


def hard_rows(n, dim, seed):
    """Gaussian rows of different lengths: in many dimensions their neighbours lie nearly as far as anything else."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)
