"""The record: what one measured cell leaves behind, and the only thing that reports are made of.

One JSON file a cell and time, ``<key>-<started_at>.json``, with the raw samples in an ``.npz`` beside it. Records
are append-only: measuring again writes another file, readers take the newest. A file is written under a temporary
name, flushed and renamed, so that whatever has its final name is whole; a file that does not parse or fit its checksum is set aside with
a word about it, never fatal, and never counts as measured.

Not-a-number never enters a record: what was not measured is null with the reason.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from harness.errors import HarnessError
from harness.statistics import Unit

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
"""Raised whenever a number's meaning or the layout changes; older records are refused, not guessed at."""

Kind = Literal["embed", "search", "serve", "corpus"]
Status = Literal["ok", "oom", "failed", "invalid", "skipped"]
Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Measured:
    """One figure with its uncertainty, or the reason why there is none."""

    value: float | None
    unit: str
    """``s``, ``bytes``, ``1/s``, ``ratio`` …; seconds everywhere, milliseconds only on the page."""
    better: Better
    lo: float | None = None
    """Lower end of the 95 % interval; null with `reason` when none can be stated."""
    hi: float | None = None
    n: int = 0
    """How many units of replication the figure rests on."""
    replication: Unit = "process"
    """What was repeated independently: *process* for timings, *query* for recall and quality, *build* for builds."""
    reason: str | None = None
    """Why the value or its interval is null."""


@dataclass(frozen=True)
class Point:
    """One operating point of a search cell: every number in it comes from the same run at the same concurrency."""

    k: int
    concurrency: int | None
    """Clients of a closed loop, each with one request under way; null for an open loop."""
    search_params: Mapping[str, int | float]
    metrics: Mapping[str, Measured]
    rate_per_s: float | None = None
    """Requests a second that an open loop offers; null for a closed loop, and where the highest that meets a target was looked for."""
    churn_per_s: float | None = None
    """Rows inserted, deleted or replaced a second meanwhile; null where they stayed as they were."""
    nq: int = 1
    """Queries a request."""
    selectivity: float | None = None
    """Share of the rows that the filter lets through; null without a filter."""
    target_recall: float | None = None
    """The recall that the knob was tuned to reach; null where its value was given."""


@dataclass(frozen=True)
class Record:
    """Everything known about one cell."""

    kind: Kind
    key: str
    """Hash of everything that can change the numbers; see `harness.cells`."""
    status: Status
    error: str | None
    """What happened and what to do, for every status but ``ok``."""
    settings: Mapping[str, Any]
    """The resolved settings that enter the key."""
    labels: Mapping[str, Any]
    """What a reader calls things: model, dataset, device, store, index (the names of the options chosen)."""
    data: Mapping[str, Any]
    """fingerprint, name, modality, corpus, queries, dim."""
    model: Mapping[str, Any]
    """source, revision, weights (``pretrained``, ``local`` or ``random``), weights_fingerprint, dtype, parameters."""
    environment: Mapping[str, Any]
    """machine (the fingerprint's parts), versions, commit, threads, load."""
    metrics: Mapping[str, Measured]
    points: tuple[Point, ...] = ()
    caveats: tuple[tuple[str, str], ...] = ()
    """(code, text) pairs."""
    started_at: str = ""
    """UTC, ISO 8601 with microseconds."""
    duration_s: float = 0.0
    schema_version: int = SCHEMA_VERSION
    samples: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Raw samples by name, each an ndarray; stored in the .npz beside the record, not in the JSON."""


class RecordError(HarnessError):
    """A file that should hold a record does not."""


def now() -> str:
    """Return the present time in UTC as records write it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_json(record: Record) -> str:
    """Return the record as JSON text, without its raw samples."""
    body = asdict(record)
    del body["samples"]
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)


def from_json(text: str) -> Record:
    """Return the record that `to_json` wrote.

    Raises
    ------
    RecordError
        When the text is not a record of this schema version.
    """
    try:
        body = _parsed(_unsealed(text))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error})") from error
    version = body.get("schema_version") if isinstance(body, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"schema_version is {version!r}, this program reads {SCHEMA_VERSION}; measure again or use the version that wrote it"
        )
    try:
        body["metrics"] = _measured(body["metrics"])
        body["points"] = tuple(Point(**{**point, "metrics": _measured(point["metrics"])}) for point in body["points"])
        body["caveats"] = tuple((code, words) for code, words in body["caveats"])
        return Record(**body)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise RecordError(f"not a whole record ({error})") from error


def text_of(content: bytes) -> str:
    """Return the text of a record's file, whatever ends its lines: git can be told to change that on checkout, which damages nothing."""
    return content.decode().replace("\r\n", "\n")


def _measured(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Measured]:
    """Return figures as `Measured`; of the dozens in a record each with exactly its fields is filled at once and not field by field."""
    found = {}
    for name, figure in figures.items():
        if figure.keys() == _FIELDS:
            found[name] = one = object.__new__(Measured)
            one.__dict__.update(figure)
        else:
            found[name] = Measured(**figure)
    return found


_FIELDS = frozenset(one.name for one in fields(Measured))


def _parsed(text: str) -> Any:
    """Return what JSON text holds.

    The standard library's parser is asked where the quicker one refuses: for the reason in its words, and because it takes a lone
    surrogate, which a file name that is not UTF-8 leaves behind.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text, parse_constant=_refuse_constant)


_SEAL = re.compile(r'\A\{"sha256": "([0-9a-f]{64})",')


def _sealed(body: bytes) -> bytes:
    """Return a record's JSON with the checksum of itself as its first member."""
    return b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",' + body[1:]


def _unsealed(text: str) -> str:
    """Return a record's JSON without its checksum, which has to fit; what has none is taken as it is."""
    seal = _SEAL.match(text)
    if seal is None:
        return text
    body = "{" + text[seal.end() :]
    if hashlib.sha256(body.encode()).hexdigest() != seal[1]:
        raise RecordError("its checksum does not fit: it was damaged, or edited, after it had been written")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a record may hold")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never sees half of it under its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(record: Record, folder: Path) -> Path:
    """Write one record and its raw samples below ``folder/records``; returns the JSON's path.

    The samples go first: a record that exists has its samples.
    """
    records = folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    stem = f"{record.key}-{record.started_at.replace(':', '').replace('.', '')}"
    if record.samples:
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in record.samples.items()}
        temporary = records / f".{stem}.{os.getpid()}.tmp.npz"
        try:
            with temporary.open("wb") as handle:
                np.savez_compressed(handle, **arrays)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(records / f"{stem}.npz")
        finally:
            temporary.unlink(missing_ok=True)
    path = records / f"{stem}.json"
    # A file name that is not UTF-8 arrives in a message as lone surrogates; escaped, they are legal JSON and read back the same.
    write_atomically(path, _sealed(to_json(record).encode("utf-8", "backslashreplace")))
    return path


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the collector of cycles off while many objects are made that stay: it would go through all of them again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def scan(folder: Path, key: str | None = None) -> tuple[list[Record], list[tuple[Path, str]]]:
    """Return every record (of one key) below ``folder/records``, oldest first, and the files that are none with the reason."""
    found, left_out = [], []
    with uncollected():
        for path in sorted((folder / "records").glob("*.json" if key is None else f"{key}-*.json")):
            try:
                found.append(from_json(text_of(path.read_bytes())))
            except (RecordError, UnicodeDecodeError, OSError) as error:
                left_out.append((path, str(error)))
    return sorted(found, key=lambda record: record.started_at), left_out


def read_all(folder: Path) -> list[Record]:
    """Return every record below ``folder/records``, oldest first; files that are none are named in the log and left out."""
    found, left_out = scan(folder)
    for path, reason in left_out:
        log.warning("%s left out: %s", path, reason)
    return found


def current(records: Iterable[Record]) -> list[Record]:
    """Return what a reader is shown: of `newest`, the latest for each combination of settings, data and machine.

    After a change of the program or of a library a cell has another key; its older record stays on disk and out of the report.
    """
    chosen: dict[str, Record] = {}
    for record in sorted(newest(records), key=lambda record: record.started_at):
        settings = {"backend": "torch", **record.settings}  # which records of before there was a choice do not state
        about = [record.kind, record.labels, settings, record.data.get("fingerprint"), record.environment.get("fingerprint")]
        chosen[json.dumps(about, sort_keys=True, default=str)] = record
    return list(chosen.values())


def newest(records: Iterable[Record]) -> list[Record]:
    """Return the newest record of each key, whatever its status: a failure after a success is the state of things."""
    return list({record.key: record for record in sorted(records, key=lambda record: record.started_at)}.values())


def samples(record: Record, folder: Path, *, beginning: tuple[str, ...] = ("",)) -> dict[str, np.ndarray[Any, Any]]:
    """Return the raw samples stored beside a record, those whose names begin in one of some ways; empty where it has none."""
    path = folder / "records" / f"{record.key}-{record.started_at.replace(':', '').replace('.', '')}.npz"
    if not path.exists():
        return {}
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:  # read at once, and not in four small pieces for each array
        members = [name for name in archive.namelist() if name.endswith(".npy") and name.startswith(beginning)]
        return {name.removesuffix(".npy"): _array(archive.read(name)) for name in members}


def _array(content: bytes) -> np.ndarray[Any, Any]:
    """Return the array of one member of an archive.

    numpy.load parses the header of each anew, which takes most of its time: thousands of small arrays share a few headers.
    """
    if content[:8] != _NPY_1:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    end = 10 + int.from_bytes(content[8:10], "little")
    shape, fortran, dtype = _header(content[8:end])
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if fortran else "C").copy()


_NPY_1 = b"\x93NUMPY\x01\x00"
"""How an array in version 1.0 of NumPy's format begins; then come two bytes with the length of the header, and the header."""


@lru_cache(maxsize=1024)
def _header(text: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an array; one of Python objects would have to be unpickled, and is refused."""
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(text))
    if dtype.hasobject:
        raise ValueError("an array of Python objects is no raw sample")
    return shape, fortran, dtype
