"""The Pareto front: the operating points that no other point beats in both recall and latency."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points on the front, by rising recall.

    A point is on it unless another one has at least its recall at most its latency and is better in one of the two.
    Points that are equal in both stand on it together, in the order given.

    Parameters
    ----------
    points : sequence of (recall, latency)
        Recall: higher is better. Latency: lower is better.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1], i))
    front: list[int] = []
    for i in order:
        recall, latency = points[i]
        if not front or latency < points[front[-1]][1] or points[front[-1]] == (recall, latency):
            front.append(i)
    return sorted(front, key=lambda i: (points[i][0], points[i][1], i))
