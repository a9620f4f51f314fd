"""The clock and the loops, against a clock of our own."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.timing import Timed, Until, affordable, seconds_of, working_clock


class FakeClock:
    """Nanoseconds that pass only when told to; reading costs nothing."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += round(seconds * 1e9)


@given(st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=20))
def test_a_block_times_every_call_by_itself_and_the_wall_around_them(durations):
    clock = FakeClock()
    timed = Timed()
    answers = timed.block(lambda i: (clock.work(durations[i]), i)[1], range(len(durations)), clock=clock)
    assert answers == list(range(len(durations)))
    assert timed.array() == pytest.approx(durations, abs=1e-9)
    assert timed.wall_s == pytest.approx(sum(durations), abs=1e-6)
    assert timed.count == len(durations)


def test_blocks_add_up():
    clock = FakeClock()
    timed = Timed()
    for seconds in (1.0, 2.0):
        timed.block(lambda _, seconds=seconds: clock.work(seconds), [0, 0], clock=clock)
    assert timed.seconds == [1.0, 1.0, 2.0, 2.0]
    assert timed.wall_s == 6.0


def test_what_happens_between_blocks_is_in_no_figure():
    clock = FakeClock()
    timed = Timed()
    timed.block(lambda _: clock.work(1), [0], clock=clock)
    clock.work(1000)
    timed.block(lambda _: clock.work(1), [0], clock=clock)
    assert timed.wall_s == 2.0


def test_wall_time_counts_what_the_loop_spends_beside_the_calls():
    class Ticking(FakeClock):
        def __call__(self):
            self.now += 1_000_000_000  # reading this clock takes a second
            return self.now

    clock = Ticking()
    timed = Timed()
    timed.block(lambda _: None, [0, 1], clock=clock)
    assert timed.seconds == [1.0, 1.0]
    assert timed.wall_s == 5.0


def test_measuring_goes_on_until_both_minima_are_met():
    until = Until(min_s=2.0, min_count=10)
    assert not until.met(1.9, 100)
    assert not until.met(3600.0, 9)
    assert until.met(2.0, 10)


@pytest.mark.parametrize(("seconds_each", "count"), [(0.001, 670), (0.02, 130), (0.1, 64), (0.5, 11), (100.0, 11)])
def test_as_many_samples_are_taken_as_fit_and_never_fewer_than_the_smallest_count(seconds_each, count):
    assert affordable((670, 130, 64, 11), seconds_each, within_s=8.0) == count


def test_seconds_of_returns_the_time_and_the_answer():
    clock = FakeClock()
    assert seconds_of(lambda: (clock.work(1.5), "answer")[1], clock=clock) == (1.5, "answer")


def test_the_clock_stands_still_while_an_endpoint_waits():
    class Endpoint:
        waited_s = 0.0

        def counters(self):
            return {"waited_s": self.waited_s}

    now = {"ns": 1_000_000_000}
    model = Endpoint()
    clock = working_clock(model, clock=lambda: now["ns"])
    began = clock()
    now["ns"] += 3_000_000_000
    model.waited_s = 2.5
    assert clock() - began == 500_000_000


def test_the_clock_of_a_model_that_computes_here_is_the_clock():
    assert working_clock(object()) is time.perf_counter_ns
