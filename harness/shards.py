"""Pieces of a corpus's vectors on disk, each whole and checked or not there: where a run that was killed goes on.

A shard is one ``.npz`` file (``vectors``, and ``truncated``, how many items were cut) under a name that holds its number and the SHA-256 of
its bytes. It is written under another name, flushed and renamed. A file whose bytes do not fit its name counts as never made.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.errors import DataError
from harness.interfaces import Vectors

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.npz")


def packed(vectors: Vectors, truncated: int) -> bytes:
    """Return the bytes of a shard."""
    buffer = io.BytesIO()
    np.savez(buffer, vectors=np.ascontiguousarray(vectors, dtype=np.float32), truncated=np.int64(truncated))
    return buffer.getvalue()


class Shards:
    """The shards of one corpus in a folder of their own.

    Parameters
    ----------
    folder : Path
        Made if it is not there. Shards that were cut or computed in another way belong into another folder.
    sizes : sequence of int
        How many vectors each shard holds, by its number.
    dim : int
    """

    def __init__(self, folder: Path, sizes: Sequence[int], dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sizes, self._dim = folder, sizes, dim
        self._paths: dict[int, Path] = {}

    def missing(self) -> list[int]:
        """Look at what is there, remove what is damaged, and return the numbers of the shards still to be made."""
        for path in sorted(self._folder.iterdir()):
            named = _NAME.fullmatch(path.name)
            if named is None or int(named[1]) >= len(self._sizes):
                path.unlink()  # half-written by somebody who was killed
                continue
            try:
                self._checked(int(named[1]), path)
            except DataError as error:
                log.warning("%s; it is made again", error)
                path.unlink()
            else:
                self._paths[int(named[1])] = path
        return [number for number in range(len(self._sizes)) if number not in self._paths]

    def keep(self, number: int, body: bytes) -> None:
        """Write one shard, `packed` bytes, so that it is there whole or not at all."""
        path = self._folder / f"{number:08d}-{hashlib.sha256(body).hexdigest()}.npz"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as handle:
            handle.write(body)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        self._paths[number] = path

    def read(self, number: int) -> tuple[Vectors, int]:
        """Return a shard's vectors, of shape (size, dim), and how many of its items were cut.

        Raises
        ------
        harness.errors.DataError
            When it is not there, or no longer what was written.
        """
        if number not in self._paths:
            raise DataError(f"shard {number} of {self._folder} is not there")
        return self._checked(number, self._paths[number])

    def _checked(self, number: int, path: Path) -> tuple[Vectors, int]:
        named = _NAME.fullmatch(path.name)
        assert named is not None
        try:
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() != named[2]:
                raise DataError(f"{path} is not what was written there")
            with np.load(io.BytesIO(body), allow_pickle=False) as found:
                vectors, truncated = found["vectors"], int(found["truncated"])
        except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error})") from error
        if vectors.shape != (self._sizes[number], self._dim) or vectors.dtype != np.float32:
            raise DataError(f"{path} holds {vectors.dtype} of shape {vectors.shape}, not float32 of {(self._sizes[number], self._dim)}")
        return vectors, truncated
