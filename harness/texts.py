"""Texts in a file, read one at a time: a corpus of any size costs the memory of its index.

As Python strings or as JSON, texts take a multiple of their length in every process that opens the dataset. Here they lie end to end in one
file, in UTF-8, and a second file says where each begins. Reading is ``pread`` and not a memory map: pages of a map
that were read once count as the process's memory until somebody else needs it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """The texts that `write` left under a name, e.g. ``folder/corpus`` for ``corpus.txt`` and ``corpus.begin.npy``."""

    def __init__(self, name: Path) -> None:
        self._begin = np.load(name.with_suffix(".begin.npy"), mmap_mode="r")
        self._file = os.open(name.with_suffix(".txt"), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._begin) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]  # negative ones count from the end, others that are not there raise IndexError
        begin, end = self._begin[number : number + 2].tolist()
        return os.pread(self._file, end - begin, begin).decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def write(texts: Iterable[str], name: Path) -> None:
    """Write texts for `Texts` to read."""
    begin = [0]
    with name.with_suffix(".txt").open("wb") as file:
        for text in texts:
            begin.append(begin[-1] + file.write(text.encode("utf-8", "surrogatepass")))
    np.save(name.with_suffix(".begin.npy"), np.array(begin, dtype=np.int64))
