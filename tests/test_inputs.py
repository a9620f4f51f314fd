"""What can be seen of a prepared batch from outside."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.inputs import bytes_of, bytes_of_items, shape_of
from harness.interfaces import Clip, Prepared, Sound


@dataclass(frozen=True)
class Wrapped:
    features: Any
    role: str = "document"


def batch(inputs):
    return Prepared(inputs, count=1, units=1.0)


def test_arrays_are_found_however_they_are_packed():
    tensor, array = torch.zeros(4, 8), np.zeros((2, 3), dtype=np.uint8)
    for inputs in (tensor, [tensor], {"a": tensor}, UserDict(a=tensor), Wrapped({"a": (tensor,)})):
        assert bytes_of(batch(inputs)) == 4 * 8 * 4
    assert bytes_of(batch(Wrapped({"a": [tensor, array], "b": "words", "c": None}))) == 4 * 8 * 4 + 6


def test_batches_are_alike_if_all_shapes_and_types_are():
    assert shape_of(batch({"ids": torch.zeros(4, 8)})) == shape_of(batch({"ids": torch.ones(4, 8)}))
    assert shape_of(batch({"ids": torch.zeros(4, 8)})) != shape_of(batch({"ids": torch.zeros(4, 9)}))
    assert shape_of(batch(torch.zeros(4))) != shape_of(batch(torch.zeros(4, dtype=torch.float16)))


def test_a_batch_that_shows_nothing_is_like_no_other():
    words = batch([["a", "b"], ["c"]])
    assert bytes_of(words) == 0
    assert shape_of(words) != shape_of(words)


def test_decoded_items_take_their_pixels_samples_and_frames():
    sound = Sound(np.zeros(1000, dtype=np.float32), 8000)
    assert bytes_of_items([Image.new("RGB", (20, 10))] * 2) == 2 * 20 * 10 * 3
    assert bytes_of_items([sound]) == 4000
    assert bytes_of_items([Clip(np.zeros((5, 4, 3, 3), dtype=np.uint8), 25.0, sound)]) == 180 + 4000
    assert bytes_of_items(["a text"]) == 0
