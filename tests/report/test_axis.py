"""Ticks, and where a recall stands."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit

from harness.report.axis import RecallAxis, log_layout, log_ticks

recalls = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_a_recall_between_0_and_1_stands_at_its_logit():
    axis = RecallAxis.over([0.5, 0.9, 0.99, 0.999])
    for recall in (0.5, 0.9, 0.95, 0.99, 0.999):
        assert axis.at(recall) == pytest.approx(logit(recall) / math.log(10))


def test_nought_and_one_stand_outside_all_others_under_ticks_of_their_own():
    axis = RecallAxis.over([0.0, 0.4, 0.9996, 1.0])
    assert axis.at(0.0) < axis.at(0.4) < axis.at(0.9996) < axis.at(1.0)
    words = axis.layout("recall")["ticktext"]
    assert words[0] == "0"
    assert words[-1] == "1"


@given(recalls)
def test_a_higher_recall_never_stands_further_left(found):
    axis = RecallAxis.over(found)
    places = [axis.at(recall) for recall in sorted(found)]
    assert places == sorted(places)


@given(recalls)
def test_ticks_and_recalls_stand_inside_the_axis_and_ticks_do_not_touch(found):
    axis = RecallAxis.over(found)
    layout = axis.layout("recall")
    low, high = layout["range"]
    ticks = layout["tickvals"]
    assert len(ticks) == len(layout["ticktext"]) >= 2
    assert all(low <= place <= high for place in [*ticks, *map(axis.at, found)])
    assert all(after - before >= 0.05 * (high - low) for before, after in pairwise(ticks))


@given(st.floats(1e-4, 1e5), st.floats(1.2, 1e5))
def test_a_logarithmic_axis_has_ticks_inside_its_range_and_not_too_many(low, factor):
    high = low * factor
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 40
    assert all(low * 0.999999 <= tick <= high * 1.000001 for tick in ticks)
    assert log_layout("x", low, high)["range"] == [math.log10(low), math.log10(high)]
