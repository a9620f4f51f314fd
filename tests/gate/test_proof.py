"""The claim of the gate, on recorded rounds: it does not cry wolf, and it finds 5 %.

The rounds were recorded by `record_rounds.py` on a virtual machine with two cores: eight kernels; base, a second copy of base, and a head
that does exactly 5 % more work; `quiet` (679 rounds) with nothing else started, although the machine grew slower by half from about the
290th round on, which is left in; `hogged` (312 rounds) with two processes spinning on both cores, and with test suites running beside them
(load average 14). Both rules are tried: of processor time, guarded by wall time, as in a gate of single-threaded cells, and of wall time
alone, as in all others.
`simulate.py` says how gates are made of them. Neighbouring windows share rounds, so the number of independent windows
(`test_the_data_hold_as_many_independent_windows_as_is_said`), not the number of simulated gates, says how fine a rate can be told.
"""

from functools import cache

import numpy as np
import pytest

from harness.gate.decide import LOOKS
from tests.gate import simulate

GATES = 2000


SERIES, CLOCKS = ("quiet", "hogged"), ("cpu", "wall")


@cache
def unchanged(series, clock):
    """Gates of unchanged code."""
    return simulate.gates(series, changed=False, count=GATES, clock=clock)


@cache
def slower(series, clock):
    """Gates of a head with 5 % more work."""
    return simulate.gates(series, changed=True, count=GATES, clock=clock)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("series", SERIES)
def test_a_gate_of_24_unchanged_cases_blames_none_in_99_of_100(series, clock):
    assert unchanged(series, clock).verdicts.total() == 24 * GATES
    assert unchanged(series, clock).blamed / GATES <= 0.01


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("series", "power"), [("quiet", 0.95), ("hogged", 0.85)])
def test_five_percent_more_work_is_found(series, power, clock):
    assert slower(series, clock).share("REGRESSION") >= power


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("series", SERIES)
def test_five_percent_more_work_hardly_ever_passes(series, clock):
    assert slower(series, clock).share("PASS") <= 0.03


@pytest.mark.parametrize(("series", "clock"), [("quiet", "cpu"), ("quiet", "wall")])
def test_unchanged_code_passes_and_most_of_the_rounds_at_hand_are_not_needed(series, clock):
    assert unchanged(series, clock).share("PASS") >= 0.95
    assert unchanged(series, clock).rounds <= LOOKS[-1] / 2


def test_the_larger_the_change_the_more_often_it_is_found():
    found = [simulate.gates("quiet", changed=True, percent=percent, count=200).share("REGRESSION") for percent in (2, 3)]
    assert found[0] < found[1] < slower("quiet", "cpu").share("REGRESSION")


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("touched", [(0.6, 20.0), (0.75, 12.0)])
def test_a_slowdown_of_some_blocks_only_is_found_though_the_fastest_may_be_spared(touched, clock):
    seen = simulate.gates("quiet", changed=False, touched=touched, count=200, clock=clock)
    assert seen.share("REGRESSION") >= 0.95
    assert seen.share("PASS") <= 0.03


@pytest.mark.parametrize("pooled", [1, 10])
@pytest.mark.parametrize("series", ["quiet", "hogged"])
def test_on_the_same_rounds_no_other_rule_keeps_both_promises(series, pooled):
    for rule, (gates_blamed, _, found) in simulate.rivals(series, pooled).items():
        assert gates_blamed > 0.01 or found < 0.85, rule


@pytest.mark.parametrize("series", ["quiet", "hogged"])
def test_the_data_hold_as_many_independent_windows_as_is_said(series):
    kernels, count = simulate.rounds(series, "base", "again").shape
    assert kernels == 8
    assert count // LOOKS[0] >= 25
    assert count // LOOKS[-1] >= 3


@pytest.mark.parametrize("series", ["quiet", "hogged"])
def test_the_recorded_head_really_does_five_percent_more(series):
    change = np.median(simulate.rounds(series, "base", "head"), axis=1)
    assert np.all(np.abs(np.expm1(change) - 0.05) < 0.02)


def test_rounds_of_unchanged_code_favour_neither_side():
    x = simulate.rounds("quiet", "base", "again")
    assert np.all(np.abs(np.median(x, axis=1)) < 0.01)
