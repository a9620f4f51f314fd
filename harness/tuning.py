"""Equal recall: the smallest value of an index's knob that reaches a target, and how few tries find it.

Comparing indexes at equal settings compares nothing, since an ``ef`` and an ``nprobe`` have no common measure; at equal recall
they have. A value counts as reaching the target when the lower end of the 95 % interval of its mean recall over the tuning
queries does. Recall rises with the knob, so doubling brackets the value and bisection finds it; what was tried is remembered
for the next target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Ids, Index, Metric
from harness.metrics.recall import recall_at_k
from harness.metrics.similarity import Neighbours
from harness.statistics import mean_over_queries
from harness.vectors import open_truth


def smallest(reaches: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest whole number in [low, high] that `reaches`, which once true stays true; None where `high` does not.

    Doubles from `low`, then bisects: about 2 log2(answer / low) tries.
    """
    below, value = low - 1, low
    while not reaches(value):
        below = value
        if value >= high:
            return None
        value = min(high, 2 * value)
    while value - below > 1:
        middle = (below + value) // 2
        below, value = (below, middle) if reaches(middle) else (middle, value)
    return value


def smallest_knob(
    answers: Callable[[Mapping[str, int | float]], Ids],
    index: Index,
    targets: Sequence[float],
    *,
    k: int,
    rows: int,
    dim: int,
    truth: Path,
    metric: Metric,
    vectors: Path,
    numbers: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Find where an index reaches each target.

    Parameters
    ----------
    answers : callable
        Search parameters → ids of shape (len(numbers), k) for the tuning queries.
    truth, vectors : Path
        Folders of the exact neighbours and of the source vectors.
    numbers : ndarray of int64
        Which of the queries are the tuning queries.

    Returns
    -------
    list of dict
        One for each target: ``target_recall``, ``search_params`` (None: not reached), ``best`` (the highest mean recall of all
        values that were tried; None where there are too few tuning queries to show that target), ``queries`` (how many the means
        rest on) and ``tries``.
    """
    every = open_truth(truth, metric=metric, rows=rows)
    nearest = Neighbours(every.ids[numbers], every.scores[numbers], metric, rows, every.below)
    corpus = np.load(vectors / "corpus.npy", mmap_mode="r")
    queries = np.load(vectors / "queries.npy")[numbers]
    tried: dict[str, tuple[float, float]] = {}
    flawless = mean_over_queries(np.ones(len(numbers))).lo

    def recall(params: Mapping[str, int | float]) -> tuple[float, float]:
        """Return the mean and the lower end of its interval."""
        key = repr(sorted(params.items()))
        if key not in tried:
            estimate = mean_over_queries(recall_at_k(answers(params), nearest, k=k, queries=queries, corpus=corpus))
            assert estimate.value is not None
            tried[key] = (estimate.value, estimate.value if estimate.lo is None else estimate.lo)
        return tried[key]

    found: list[dict[str, Any]] = []
    for target in sorted(targets):
        if flawless is None or flawless < target:  # no answers whatever could show it
            found.append({"target_recall": target, "search_params": None, "best": None, "queries": len(numbers), "tries": len(tried)})
            continue
        values = index.knob_range(rows=rows, dim=dim, k=k)
        if values is None:  # an index without a knob has one point
            only = index.search_params()[0]
            params: Mapping[str, int | float] | None = only if recall(only)[1] >= target else None
        else:
            value = smallest(lambda value, target=target: recall(index.at(value))[1] >= target, *values)  # type: ignore[misc]
            params = None if value is None else index.at(value)
        best = max(mean for mean, _ in tried.values())
        found.append(
            {"target_recall": target, "search_params": params and dict(params), "best": best, "queries": len(numbers), "tries": len(tried)}
        )
    return found
