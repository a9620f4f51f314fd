"""The Pareto front against the definition, point by point."""

from hypothesis import given
from hypothesis import strategies as st

from harness.report.pareto import pareto

coarse = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # so that ties are common
points = st.lists(st.tuples(coarse, coarse) | st.tuples(st.floats(0, 1), st.floats(1e-6, 10)), max_size=12)


def dominated(one, by):
    return by[0] >= one[0] and by[1] <= one[1] and by != one


@given(points)
def test_the_front_is_what_no_point_dominates(found):
    expected = {i for i, one in enumerate(found) if not any(dominated(one, other) for other in found)}
    assert set(pareto(found)) == expected


@given(points)
def test_the_front_is_in_order_of_recall_and_names_each_point_once(found):
    front = pareto(found)
    assert len(set(front)) == len(front)
    recalls = [found[i][0] for i in front]
    assert recalls == sorted(recalls)


def test_no_points_have_no_front():
    assert pareto([]) == []
