"""The self-test: that it counts right what a machine with a known truth shows it, and that it can be stopped."""

import io
import random

import numpy as np
import pytest
from rich.console import Console

from harness.errors import SettingsError
from harness.gate import selftest
from harness.gate.planted import ARMS, BLOCKS, KERNELS
from harness.gate.selftest import Rate, self_test


def machine(*, noise=0.01, extra=None, stop_after=None):
    """Return a stand-in for measuring a round: work takes a nanosecond a loop, with noise; `extra` makes arms slower than their work."""
    generator = np.random.default_rng(0)
    rounds = 0

    def measure(loops, chooser, *, arms=ARMS, blocks=BLOCKS):
        nonlocal rounds
        rounds += 1
        if stop_after is not None and rounds > stop_after:
            raise KeyboardInterrupt
        assert isinstance(chooser, random.Random)
        times = {}
        for kernel, count in loops.items():
            sides = []
            for arm, percent in arms.items():
                factor = (1 + percent / 100) * (1 + (extra or {}).get(arm, 0.0))
                sides.append([[int(1e4 * count * factor * generator.lognormal(0, noise))] * 2 for _ in range(blocks)])
            times[kernel] = sides
        return times

    return measure


@pytest.fixture
def console(monkeypatch):
    """A console that keeps what is printed; calibration is skipped."""
    monkeypatch.setattr(selftest, "calibrate", lambda: dict.fromkeys(KERNELS, 100))
    return Console(file=io.StringIO(), width=200)


def test_a_calm_machine_gives_no_false_alarm_and_finds_all(console):
    seen = self_test(3, console=console, measure=machine())
    assert (seen.gates, seen.false_gates) == (3, 0)
    assert seen.again == {"PASS": 3 * len(KERNELS)}
    assert seen.head == {"REGRESSION": 3 * len(KERNELS)}
    printed = console.file.getvalue()
    assert "0.0% (0 of 3; 0.0% to 70.8%)" in printed
    assert "100.0% (24 of 24; 85.8% to 100.0%)" in printed
    assert "gate 3 of 3 done" in printed


def test_a_biased_machine_is_counted_as_false_alarms(console):
    seen = self_test(2, console=console, measure=machine(extra={"again": 0.1}))
    assert seen.false_gates == 2
    assert seen.rows[0].false_cases == Rate(2 * len(KERNELS), 2 * len(KERNELS))


def test_the_rivals_judge_the_same_rounds_one_by_one_and_pooled(console):
    seen = self_test(2, console=console, measure=machine())
    by_rule = {row.rule: row for row in seen.rows}
    single = by_rule["pytest-benchmark median:5%, one round"]
    assert single.false_gates.of == 20
    assert single.found.of == 20 * len(KERNELS)
    assert 0.3 < single.found.hits / single.found.of < 0.7
    pooled = by_rule["google/benchmark U test, 10 rounds pooled"]
    assert pooled.false_gates.of == 2
    assert pooled.found == Rate(2 * len(KERNELS), 2 * len(KERNELS))


def test_an_interrupt_prints_what_there_is(console):
    seen = self_test(100, console=console, measure=machine(stop_after=65))
    assert 0 < seen.gates < 100
    printed = console.file.getvalue()
    assert "interrupted" in printed
    assert f"{seen.gates} gates of 8 cases" in printed


def test_an_interrupt_before_the_first_gate_prints_no_rates(console):
    assert self_test(5, console=console, measure=machine(stop_after=3)).gates == 0
    assert "%" not in console.file.getvalue()


def test_three_hundred_gates_without_an_alarm_bound_the_rate():
    low, high = Rate(0, 300).interval
    assert low == 0
    assert high == pytest.approx(0.0122, abs=1e-4)


def test_less_than_one_gate_is_refused(console):
    with pytest.raises(SettingsError, match="at least 1, got 0"):
        self_test(0, console=console)
