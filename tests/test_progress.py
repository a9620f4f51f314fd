"""What a person sees while cells are measured, on a terminal and without one, on a clock of our own."""

import io

import pytest
from rich.console import Console

from harness import progress
from harness.progress import Progress, in_words


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    own = Clock()
    monkeypatch.setattr(progress, "time", own)
    return own


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), force_terminal=False, width=120)


def lines(screen):
    return screen.file.getvalue().splitlines()


def test_without_a_terminal_each_piece_of_work_is_two_lines(clock, screen):
    with Progress(100.0, screen)() as shown:
        shown.start("embed minilm", 40.0)
        clock.now += 12
        shown.done("measured")
        shown.start("search flat", 60.0)
        clock.now += 3
        shown.done("failed:")
    assert lines(screen) == ["embed minilm …", "measured embed minilm (12 s)", "search flat …", "failed: search flat (3 s)"]


def test_long_work_says_now_and_then_where_it_is(clock, screen):
    with Progress(100.0, screen)() as shown:
        shown.start("embed minilm", 40.0)
        for step in range(1, 41):
            clock.now += 1
            shown.stage("vectors", step / 40, 4000)
    told = lines(screen)[1:]
    assert len(told) == 2  # after 15 and 30 seconds
    assert told[0] == "  embed minilm: vectors 38%, 107/s, about 85 s left"
    assert told[1].endswith("about 70 s left")


def test_a_rate_is_told_when_there_is_something_to_count(clock, screen):
    with Progress(10.0, screen)() as shown:
        shown.start("work", 10.0)
        shown.stage("loading", 0.0)
        clock.now += 20
        shown.stage("loading", 0.0)
        clock.now += 20
        shown.stage("reading", 0.5)
    assert lines(screen)[1:] == ["  work: loading, about 0 s left", "  work: reading 50%, about 0 s left"]


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_divided_by_zero(clock, terminal):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Progress(0.0, screen)() as shown:
        shown.start("nothing to do", 0.0)
        for fraction in (0.0, 0.5, 1.0):
            shown.stage("at once", fraction, 10)
            shown.stage("at once", fraction)
            clock.now += 100
        shown.done("measured")
    assert "nothing to do" in screen.file.getvalue()


def test_time_left_sinks_and_is_never_negative(clock, screen):
    with Progress(30.0, screen)() as shown:
        for title in ("first", "second"):
            shown.start(title, 10.0)
            clock.now += 50  # far longer than it was thought
            shown.stage("slow", 0.5)
            shown.done("measured")
    told = [line for line in lines(screen) if "left" in line]
    assert [line.rpartition("about ")[2] for line in told] == ["20 s left", "10 s left"]


def test_on_a_terminal_a_line_lives_and_finished_work_stays(clock):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(30.0, screen)() as shown:
        shown.start("embed minilm", 10.0)
        shown.stage("forward", 0.5, 100)
        shown._bar.refresh()
        shown.done("measured")
    text = screen.file.getvalue()
    assert "forward 50%" in text
    assert "measured embed minilm" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (40.4, "40 s"), (99, "99 s"), (100, "2 min"), (170, "3 min"), (7140, "119 min"), (7800, "2 h 10 min")],
)
def test_durations_are_written_as_people_write_them(seconds, words):
    assert in_words(seconds) == words
