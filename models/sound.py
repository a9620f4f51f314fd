"""Sound as audio models take it: one channel at the model's own rate, no longer than the model hears.

Every audio model was trained at one sampling rate and is deaf to the true one: samples at another rate are the same
sound played faster or slower, and the vectors are wrong without any sign of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harness.errors import DataError
from harness.interfaces import Sound, Vectors

LOUDEST = 2.0
"""Samples are in [-1, 1]. Lossy decoders overshoot that by a few per cent; beyond twice it, integers were not divided by their range."""


def checked(item: Any, *, what: str = "an item") -> Sound:
    """Return `item` if it is a sound that can be embedded.

    Parameters
    ----------
    item : Sound
        What a dataset decoded.
    what : str
        What to call it in a message.

    Raises
    ------
    harness.errors.DataError
        When it is no `Sound`, has no samples or no rate, holds NaN or infinity, or is not scaled to [-1, 1].
    """
    if not isinstance(item, Sound):
        raise DataError(f"{what} must be a Sound, got {type(item).__name__}; choose a dataset of the model's modality")
    if item.samples.ndim != 1 or len(item.samples) == 0:
        raise DataError(f"{what} must have samples of shape (n,) with n at least 1, got {item.samples.shape}; leave out empty files")
    if not item.rate >= 1:
        raise DataError(f"{what} must have a rate of at least 1 sample a second, got {item.rate}")
    peak = float(np.abs(item.samples).max())
    if not peak <= LOUDEST:  # NaN is not below it either
        raise DataError(f"{what} must have samples in [-1, 1], got a peak of {peak:g}; the file is damaged or was not scaled when decoded")
    return item


def resampled(sound: Sound, rate: int, *, seconds: float, start_s: float = 0.0) -> Vectors:
    """Return an excerpt of a sound at another rate.

    The excerpt is cut out first, so that an hour costs no more than what is heard of it; the resampling filter therefore
    takes what lies outside for silence, over about ten samples of the lower rate at either end.

    Parameters
    ----------
    sound : Sound
        At its own rate.
    rate : int
        Samples a second to return.
    seconds : float
        How long the excerpt lasts at most.
    start_s : float
        Where it begins; rounded to a sample of `sound`.

    Returns
    -------
    ndarray of shape (n,), float32
        At most `seconds` × `rate` samples, fewer where the sound ends before, none where it ends before `start_s`. By polyphase
        filtering with a zero-phase low-pass at the lower Nyquist rate (``scipy.signal.resample_poly`` and its Kaiser window).
    """
    start = round(start_s * sound.rate)
    part = sound.samples[start : start + math.ceil(seconds * sound.rate)]
    if len(part) and sound.rate != rate:
        from scipy.signal import resample_poly

        part = resample_poly(part, rate, sound.rate)  # which cancels common factors itself
    samples: Vectors = np.asarray(part[: round(seconds * rate)], dtype=np.float32)
    return samples
