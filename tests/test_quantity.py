"""Numbers with units are read as people mean them, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SettingsError
from harness.quantity import BYTES, quantity

TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [("20GB", 20e9), ("500 mb", 5e8), ("1.5kB", 1500), ("7b", 7), ("1GiB", 2**30), (" .5TB ", 5e11), ("0B", 0), ("2mib", 2**21)],
)
def test_sizes_are_read_in_either_case(text, value):
    assert quantity(text, BYTES, key="x", kind="a size") == value


@pytest.mark.parametrize("text", ["150us", "150 µs", "150 μs", "0.15MS", "0.00015s"])
def test_times_are_read_in_every_unit_and_with_either_sign_for_micro(text):
    assert quantity(text, TIMES, key="x", kind="a time") == pytest.approx(150e-6)


@pytest.mark.parametrize(
    "text", ["", "20", "GB", "-1GB", "+1GB", "1e3GB", "1.GB", "1.2.3GB", "1 G B", "1GBs", "nanGB", "inf", "9" * 400 + "B"]
)
def test_what_is_no_number_with_one_of_the_units_is_refused_by_name(text):
    with pytest.raises(SettingsError) as error:
        quantity(text, BYTES, key="--max-size", kind="a size such as 500MB")
    assert str(error.value) == f"--max-size must be a size such as 500MB, got {text!r}"


@given(st.integers(0, 10**12), st.sampled_from(sorted(BYTES)))
def test_a_number_times_its_unit(number, unit):
    assert quantity(f"{number}{unit}", BYTES, key="x", kind="a size") == number * BYTES[unit]
