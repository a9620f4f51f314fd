"""From records on disk to the choice: no point that a limit or its load rules out is ever chosen, by brute force over all samples."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.choose.command import Asked, decide
from harness.errors import DataError
from harness.search_summary import _load_caveats
from harness.statistics import over_processes
from tests.choose import cells

EMBED_S = 0.010
SLIP = 0.5

POINT = st.fixed_dictionaries({
    "ef": st.sampled_from([16, 64]),
    "rate": st.sampled_from([None, 20.0, 200.0]),
    "overloaded": st.booleans(),
    "latency_s": st.sampled_from([0.002, 0.010, 0.040]),
    "recall": st.sampled_from([(0.96, 0.95, 0.97), (0.96, None, None), (0.90, 0.88, 0.92)]),
})  # fmt: skip
POINTS = st.lists(POINT, min_size=1, max_size=4, unique_by=lambda one: (one["ef"], one["rate"]))


def record(points):
    """A search cell of these points, with the caveats that the harness writes for those whose load was too much."""
    made, caveats = [], []
    for one in points:
        load = {"concurrency": None if one["rate"] else 1, "rate_per_s": one["rate"]}
        made.append(cells.point(one["ef"], one["recall"], **load))
        about = {**load, "churn_per_s": None, "selectivity": None, "target_recall": None, "k": 10, "search_params": {"ef": one["ef"]}}
        caveats += _load_caveats(about, [{"client_cpu": 0.1, "errors": {}, "slip": SLIP if one["overloaded"] else 0.0}])
    return cells.search(points=made, latencies=[one["latency_s"] for one in points], caveats=tuple(caveats))


def p99(point, number):
    """The interval's upper end of the p99 of all sums, one by one."""
    pairs = zip(cells.times(EMBED_S, seed=1), cells.times(point["latency_s"], seed=2 + number), strict=True)
    return over_processes([np.quantile(np.add.outer(a, b), 0.99, method="inverted_cdf") for a, b in pairs]).hi


@given(POINTS, st.sampled_from([None, 0.95]), st.sampled_from([None, 0.020, 0.040]))
@settings(max_examples=25, deadline=None)
def test_what_is_chosen_from_records_keeps_every_limit_and_was_never_overloaded(points, min_recall, max_p99_s):
    asked = Asked(min_recall=min_recall, max_p99=None if max_p99_s is None else f"{max_p99_s}s")
    with tempfile.TemporaryDirectory() as folder:
        cells.folder(Path(folder), cells.embed(query_s=EMBED_S), record(points))
        kept_up = [number for number, one in enumerate(points) if not (one["rate"] and one["overloaded"])]
        if not kept_up:
            with pytest.raises(DataError, match="did not keep up with"):
                decide(Path(folder), asked)
            return
        choice = decide(Path(folder), asked).choice
    assert sorted(one.candidate.number for one in choice.verdicts) == kept_up
    meets = [
        number
        for number in kept_up
        if (min_recall is None or (points[number]["recall"][1] or 0.0) >= min_recall)
        and (max_p99_s is None or p99(points[number], number) <= max_p99_s)
    ]
    assert sorted(one.candidate.number for one in choice.qualified) == meets
    if meets:
        assert choice.winner.number in meets
