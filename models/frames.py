"""Which frames of a clip a video model sees: always the same ones, and as many as it was trained on.

A clip has hundreds of frames and a video model takes eight or sixteen. Published code draws them at random while training; for
an embedding the choice has to be the same every time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.interfaces import Clip


def checked(item: Any, *, what: str = "an item") -> Clip:
    """Return `item` if it is a clip that can be embedded; its sound is not looked at.

    Parameters
    ----------
    item : Clip
        What a dataset decoded.
    what : str
        What to call it in a message.

    Raises
    ------
    harness.errors.DataError
        When it is no `Clip`, has no frames or pixels, is not 8-bit RGB, or has no frame rate.
    """
    if not isinstance(item, Clip):
        raise DataError(f"{what} must be a Clip, got {type(item).__name__}; choose a dataset of the model's modality")
    frames = item.frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise DataError(
            f"{what} must have frames of shape (frames, height, width, 3), uint8, none of them 0, got {frames.shape}, {frames.dtype}; "
            "leave out damaged files"
        )
    if not (math.isfinite(item.frames_per_s) and item.frames_per_s > 0):
        raise DataError(f"{what} must have a finite number of frames a second above 0, got {item.frames_per_s}")
    return item


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Return the numbers of `count` frames spread evenly over a clip of `total`: the middle one of each of `count` equal parts.

    A clip of fewer frames gives some of them several times. (Wang et al. 2016, Temporal Segment Networks, draw one at random from each
    part for training and take the middle one for testing.)
    """
    numbers: NDArray[np.int64] = ((2 * np.arange(count, dtype=np.int64) + 1) * total) // (2 * count)
    return numbers


def excerpt(total: int, frames_per_s: float, *, count: int, rate: float) -> tuple[NDArray[np.int64], float]:
    """Return the numbers of `count` frames at `rate` a second from the middle of a clip, and the second at which they begin.

    Parameters
    ----------
    total : int
        Frames in the clip.
    frames_per_s : float
        Of the clip. At another rate than `rate` the frame shown at each moment is taken, so that some are taken twice or left out.
    count : int
        Frames to choose.
    rate : float
        How many of them a second.

    Returns
    -------
    numbers : ndarray of shape (count,), int64
        A clip that is too short is taken from its start and stands still at its last frame.
    start_s : float
        When the first of them is shown.
    """
    start_s = max(0.0, (total / frames_per_s - count / rate) / 2)
    # A ten-thousandth of a frame, so that a moment on the border of two frames does not fall to the former by rounding.
    shown = np.floor((start_s + np.arange(count) / rate) * frames_per_s + 1e-4).astype(np.int64)
    numbers: NDArray[np.int64] = np.minimum(shown, total - 1)
    return numbers, start_s
