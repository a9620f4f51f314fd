"""What a batch holds, as far as it can be seen from outside: its arrays, their bytes and their shapes.

A model's inputs are the model's own business. The harness asks two things of them: how much memory a batch takes, so that it
does not keep more of them than fit, and which batches are alike in shape, so that each shape is warmed up and counted once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from harness.interfaces import Item, Prepared


def arrays(inputs: Any) -> Iterator[Any]:
    """Yield the tensors and arrays in dicts, lists, tuples and dataclasses, however deep."""
    if hasattr(inputs, "shape") and hasattr(inputs, "nbytes"):
        yield inputs
    elif isinstance(inputs, Mapping):
        for value in inputs.values():
            yield from arrays(value)
    elif isinstance(inputs, list | tuple):
        for value in inputs:
            yield from arrays(value)
    elif dataclasses.is_dataclass(inputs):
        for field in dataclasses.fields(inputs):
            yield from arrays(getattr(inputs, field.name))


def bytes_of(prepared: Prepared) -> int:
    """Return how many bytes the arrays of a batch take; 0 where it shows none."""
    return sum(int(array.nbytes) for array in arrays(prepared.inputs))


def bytes_of_items(items: Sequence[Item]) -> int:
    """Return how many bytes decoded items take: pixels, samples, frames; of texts, which take next to nothing, none."""
    pictures: int = sum(3 * item.width * item.height for item in items if hasattr(item, "width") and hasattr(item, "height"))
    return pictures + sum(int(array.nbytes) for array in arrays(list(items)))


def shape_of(prepared: Prepared) -> Hashable:
    """Return what is equal for batches of equal shape; a batch that shows no array is like no other."""
    found = tuple((tuple(array.shape), str(array.dtype)) for array in arrays(prepared.inputs))
    return found or object()
