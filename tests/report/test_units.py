"""How figures are written."""

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.frame import FIGURES
from harness.report import axis, markdown, rows, units


@pytest.mark.parametrize("module", [units, rows, axis, markdown], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_figure_of_the_frame_can_be_written():
    assert set(units.SHOWN) == set(FIGURES)


def test_seconds_are_shown_as_milliseconds_and_bytes_as_megabytes():
    assert units.number("search_latency_p50_s", 0.0036149) == "3.61"
    assert units.SHOWN["search_latency_p50_s"].heading == "p50 (ms)"
    assert units.number("peak_rss_bytes", 612_345_678) == "612"
    assert units.SHOWN["peak_rss_bytes"].heading == "process (MB)"


@pytest.mark.parametrize("name", FIGURES)
def test_what_was_not_measured_is_a_dash(name):
    assert units.number(name, None) == "–"
    assert units.interval(name, None, 0.1, 0.2) == ""
    assert units.interval(name, 0.1, None, None) == ""


@given(st.floats(1e-6, 1e9))
def test_a_number_keeps_three_significant_digits(value):
    text = units.significant(value)
    assert math.isclose(float(text.replace(",", "")), value, rel_tol=0.0051)
    digits = text.replace(",", "").replace(".", "").lstrip("0")
    assert len(digits) >= 3
    assert "." not in text or len(digits) == 3


@given(st.floats(0, 1))
def test_a_score_is_written_as_perfect_or_nothing_only_if_it_is(value):
    text = units.score(value)
    assert (text == "1.000") == (value == 1)
    assert (text == "0.000") == (value == 0)
    assert abs(float(text.strip("<>")) - value) <= 0.0010001


def test_an_interval_has_as_many_decimals_as_its_value():
    assert units.interval("search_latency_p50_s", 0.0036149, 0.0034, 0.01) == "[3.40, 10.00]"
    assert units.interval("qps", 1234.5, 1200.4, 1299.6) == "[1,200, 1,300]"
    assert units.interval("recall", 0.98, 0.97, 0.9999) == "[0.970, >0.999]"
    assert units.interval("pipeline_per_s", 25.0, 0.004, 122_889.4) == "[0.0, 122,889]"


@given(st.floats(0, 10**7))
def test_a_duration_never_has_sixty_seconds_or_minutes(seconds):
    assert " 60 " not in f" {units.duration(seconds)}"
