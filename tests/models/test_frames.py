"""Which frames of a clip are seen, against hand calculation and the properties that the choice must have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError
from harness.interfaces import Clip
from models.frames import checked, excerpt, spread


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(16, 16, range(16)), (32, 16, range(1, 32, 2)), (300, 3, [50, 150, 250]), (1, 4, [0, 0, 0, 0]), (2, 4, [0, 0, 1, 1]), (5, 2, [1, 3])],
)
def test_frames_are_spread_as_by_hand(total, count, expected):
    assert spread(total, count).tolist() == list(expected)


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_spread_frames_exist_come_in_order_and_are_the_same_read_backwards(total, count):
    numbers = spread(total, count)
    assert len(numbers) == count
    assert numbers[0] >= 0
    assert numbers[-1] < total
    gaps = np.diff(numbers)
    assert (gaps >= 0).all()
    if count > 1:
        assert gaps.max() - gaps.min() <= 1  # evenly
    assert np.abs((total - 1 - numbers[::-1]) - numbers).max() <= 1


@pytest.mark.parametrize(
    ("total", "frames_per_s", "expected", "start_s"),
    [
        (16, 25, range(16), 0.0),
        (36, 25, range(10, 26), 0.4),
        (100, 50, range(34, 66, 2), 0.68),  # every other frame of a clip that has twice as many
        (100, 12.5, [46, 46, 47, 47, 48, 48, 49, 49, 50, 50, 51, 51, 52, 52, 53, 53], 3.68),
        (3, 25, [0, 1, *[2] * 14], 0.0),  # too short: it stands still at its last frame
        (1, 25, [0] * 16, 0.0),
    ],
)
def test_an_excerpt_is_the_middle_of_a_clip_at_the_rate_that_was_asked_for(total, frames_per_s, expected, start_s):
    numbers, start = excerpt(total, frames_per_s, count=16, rate=25)
    assert numbers.tolist() == list(expected)
    assert start == pytest.approx(start_s)


@given(st.integers(1, 5_000), st.floats(0.1, 240), st.integers(1, 32))
def test_an_excerpt_shows_at_every_moment_the_frame_that_the_clip_shows_then(total, frames_per_s, count):
    numbers, start_s = excerpt(total, frames_per_s, count=count, rate=25)
    moments = start_s + np.arange(count) / 25
    shown = np.minimum(moments * frames_per_s, total - 1)
    assert ((numbers >= shown - 1) & (numbers <= shown + 1e-3)).all()
    assert ((numbers >= 0) & (numbers < total)).all()


def clip(**changed):
    return Clip(**{"frames": np.zeros((2, 4, 6, 3), dtype=np.uint8), "frames_per_s": 25.0, **changed})


def test_a_clip_of_one_frame_of_one_pixel_is_a_clip():
    small = clip(frames=np.zeros((1, 1, 1, 3), dtype=np.uint8))
    assert checked(small) is small


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (np.zeros((2, 4, 6, 3), dtype=np.uint8), "must be a Clip, got ndarray"),
        (clip(frames=np.zeros((0, 4, 6, 3), dtype=np.uint8)), r"\(0, 4, 6, 3\)"),
        (clip(frames=np.zeros((2, 4, 0, 3), dtype=np.uint8)), r"\(2, 4, 0, 3\)"),
        (clip(frames=np.zeros((2, 3, 4, 6), dtype=np.uint8)), r"\(2, 3, 4, 6\)"),
        (clip(frames=np.zeros((2, 4, 6, 3), dtype=np.float32)), "float32"),
        (clip(frames_per_s=0.0), "frames a second"),
        (clip(frames_per_s=float("nan")), "got nan"),
    ],
)
def test_what_is_no_clip_is_refused(item, said):
    with pytest.raises(DataError, match=said):
        checked(item, what="clip 3")
