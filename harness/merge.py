"""``python -m harness merge DIR… --into DIR``: the records of several machines in one folder.

Records never change and their names never collide (a name is the hash of what was measured, machine included, and the microsecond), so
that merging is copying. What does not read as a record here, or whose raw samples are damaged, is named and left where it is. Nothing
is ever overwritten or taken away.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DataError, HarnessError
from harness.records import RecordError, from_json, text_of, write_atomically


@dataclass(frozen=True)
class Merged:
    """What came of merging."""

    brought: int
    """Records that are in the folder now and were not before."""
    there: int
    """Records that it had already."""
    left_out: tuple[tuple[Path, str], ...]
    """Files that were not brought, each with the reason."""


def merge(folders: Sequence[Path], into: Path) -> Merged:
    """Bring the records of some folders, with their raw samples, into one.

    Parameters
    ----------
    folders : sequence of Path
        Folders such as ``results/default``.
    into : Path
        The folder that gets them; made if there is none.

    Raises
    ------
    harness.errors.DataError
        When one of the folders holds no records; nothing is brought then.
    harness.errors.HarnessError
        When the folder cannot be written; what has been brought stays.
    """
    empty = [str(folder) for folder in folders if not any((folder / "records").glob("*.json"))]
    if empty:
        raise DataError(f"{', '.join(empty)}: no records/*.json; give folders such as results/default")
    records = into / "records"
    brought = there = 0
    left_out: list[tuple[Path, str]] = []
    for path in (path for folder in folders for path in sorted((folder / "records").glob("*.json"))):
        try:
            content = path.read_bytes()
            from_json(text_of(content))
            samples = _samples_beside(path)
        except (RecordError, OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
            left_out.append((path, str(error)))
            continue
        target = records / path.name
        if target.exists():
            if target.read_bytes() == content:
                there += 1
            else:
                left_out.append((path, f"{target} is another record of that name"))
            continue
        try:
            records.mkdir(parents=True, exist_ok=True)
            if samples is not None:  # first: a record that exists has its samples
                write_atomically(target.with_suffix(".npz"), samples)
            write_atomically(target, content)
        except OSError as error:
            raise HarnessError(
                f"{into} cannot be written: {error.strerror or error}; what has been brought stays, the same command goes on"
            ) from error
        brought += 1
    return Merged(brought, there, tuple(left_out))


def _samples_beside(record: Path) -> bytes | None:
    """Return the raw samples that lie beside a record, None where it has none.

    Raises
    ------
    zipfile.BadZipFile
        When they do not fit the checksums in their archive.
    """
    path = record.with_suffix(".npz")
    if not path.exists():
        return None
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{path.name}: {damaged} is damaged")
    return path.read_bytes()
