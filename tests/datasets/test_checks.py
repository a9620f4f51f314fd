import pytest

from harness.datasets.checks import number, whole_number


@pytest.mark.parametrize("value", [True, False, 1.0, float("nan"), "3", None, 0, -1, 10, [1]])
def test_only_whole_numbers_in_the_range_pass(value):
    (text,) = whole_number("corpus", value, least=1, most=9)
    assert text == f"dataset.corpus must be a whole number in [1, 9], got {value!r}"


@pytest.mark.parametrize("value", [1, 5, 9])
def test_both_ends_of_the_range_are_in_it(value):
    assert whole_number("corpus", value, least=1, most=9) == []


def test_the_remedy_is_said_last():
    assert whole_number("corpus", 0, least=1, remedy="null for all") == [
        "dataset.corpus must be a whole number of at least 1, got 0; null for all"
    ]


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "3", None, 0.49, 9.1])
def test_only_finite_numbers_in_the_range_pass(value):
    (text,) = number("seconds", value, least=0.5, most=9)
    assert text == f"dataset.seconds must be a number in [0.5, 9], got {value!r}"


@pytest.mark.parametrize("value", [0.5, 2, 9.0])
def test_both_ends_of_a_range_of_numbers_are_in_it(value):
    assert number("seconds", value, least=0.5, most=9) == []
