"""Vectors that somebody has made already, in the formats in which the field passes them on; with ``model=none``.

=====================  ===================================================================================================
``.hdf5``              ann-benchmarks: ``train``, ``test`` and ``neighbors`` in one file (needs the extra ``hdf5``)
``.fbin .u8bin .i8bin``  big-ann-benchmarks: two 32-bit numbers, rows and dimensions, then the values; ``.ibin`` for neighbours
``.fvecs .bvecs``      TEXMEX: every row begins with its number of dimensions; ``.ivecs`` for neighbours
``.npy``               NumPy
a folder               VectorDBBench: ``train*.parquet`` or ``shuffle_train*.parquet``, ``test.parquet``, ``neighbors.parquet``
=====================  ===================================================================================================

Files are memory-mapped where their format allows it and copied as float32, block by block, so that a corpus may be larger than
memory. Without a file of queries, rows drawn by the seed are taken out of the corpus to be the queries.

Neighbours that come with the file are proposals: they are used after a sample of them has been found to be what exact search finds
under the metric asked for, so that a file of another metric or of other vectors ends as an invalid cell and not as a recall of 0.00.
Where part of the corpus is taken they do not apply and are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.datasets.checks import leads_out, whole_number
from harness.errors import DataError, SettingsError
from harness.interfaces import Caveat, Data

_BLOCK_BYTES = 64 * 2**20
_BIN = {".fbin": np.float32, ".u8bin": np.uint8, ".i8bin": np.int8, ".ibin": np.int32}
_VECS = {".fvecs": np.float32, ".ivecs": np.int32, ".bvecs": np.uint8}
SUFFIXES = (".npy", ".hdf5", ".h5", *_BIN, *_VECS)


@dataclass(frozen=True, kw_only=True)
class VectorFiles:
    """A corpus of vectors, its queries and, where there are any, their neighbours.

    Parameters
    ----------
    path : str
        The corpus: a file of one of the formats above, or VectorDBBench's folder.
    queries_path, neighbours_path : str or None
        Files of their own for queries and neighbours, in formats whose files hold one thing.
    corpus : int or None
        The first so many rows; None takes all.
    queries : int
        At most so many queries, the first of them.
    seed : int
        Decides which rows become queries where no file has any.
    """

    path: str
    queries_path: str | None = None
    neighbours_path: str | None = None
    corpus: int | None = None
    queries: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            *([] if self.corpus is None else whole_number("corpus", self.corpus, least=1)),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
        ]
        for key in ("path", "queries_path", "neighbours_path"):
            value = getattr(self, key)
            if value is None and key != "path":
                continue
            found = Path(value).expanduser() if isinstance(value, str) else None
            if found is None or not found.exists():
                wrong.append(f"dataset.{key} must be an existing file of vectors, got {value!r}")
            elif not found.is_dir() and found.suffix not in SUFFIXES:
                wrong.append(f"dataset.{key} must be a folder of Parquet files or end in {', '.join(SUFFIXES)}, got {value!r}")
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Literal["vectors"]:
        return "vectors"

    @property
    def query_modality(self) -> Literal["vectors"]:
        return "vectors"

    @property
    def dim(self) -> int:
        """Dimensions of the vectors, as the file's header says."""
        with _contents(self._files) as found:
            return int(found.corpus.shape[1])

    @property
    def _files(self) -> tuple[Path, Path | None, Path | None]:
        """Corpus, queries, neighbours."""
        named = (None if value is None else Path(value).expanduser().resolve() for value in (self.queries_path, self.neighbours_path))
        return (Path(self.path).expanduser().resolve(), *named)  # type: ignore[return-value]

    def identity(self) -> list[Any]:
        """Names, sizes and times of the files; reading them all would take as long as making a copy."""
        files = [file for path in self._files if path is not None for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    def materialise(self, folder: Path) -> Data:
        """Copy corpus, queries and neighbours as ``corpus.npy``, ``queries.npy`` and ``given.npy``, as a canonical pass leaves vectors."""
        caveats = []
        neighbours = None
        with _contents(self._files) as found:
            held_out = None
            if found.queries is None:
                if self.queries >= len(found.corpus):
                    raise DataError(
                        f"dataset.queries must be less than the {len(found.corpus)} rows of {self.path}, which has no queries of its own, "
                        f"got {self.queries}; give dataset.queries_path or take fewer"
                    )
                held_out = np.sort(np.random.default_rng(self.seed).choice(len(found.corpus), self.queries, replace=False))
            there = len(found.corpus) - (0 if held_out is None else len(held_out))
            rows = there if self.corpus is None else self.corpus
            if rows > there:
                raise DataError(f"dataset.corpus must be at most the {there} rows of {self.path}, got {self.corpus}")
            asked = len(held_out) if held_out is not None else min(self.queries, len(found.queries))
            contents = hashlib.sha256(f"vectors {rows} {asked}\n".encode())
            kept = None if held_out is None else np.setdiff1d(np.arange(len(found.corpus)), held_out)
            _copy(found.corpus, kept, rows, folder / "corpus.npy", contents, name=self.path)
            whence = found.queries if held_out is None else found.corpus
            _copy(whence, held_out, asked, folder / "queries.npy", contents, name=self.queries_path or self.path)
            if found.neighbours is not None and held_out is None and rows == there:
                given = np.asarray(found.neighbours[:asked], dtype=np.int64)
                if len(given) < asked or given.min() < 0 or given.max() >= rows:
                    raise DataError(f"the neighbours of {self.path} are not those of {asked} queries among {rows} rows; leave them out")
                np.save(folder / "given.npy", given)
                neighbours = hashlib.sha256(given.tobytes()).hexdigest()
            elif found.neighbours is not None:
                words = "The neighbours given are of the whole corpus; exact search replaced them."
                if found.metric:
                    words += f" Nothing has compared metric with what the file says its distance is: {found.metric}."
                caveats.append(Caveat("given_neighbours_unused", words))
            dim, metric = int(found.corpus.shape[1]), found.metric
        describe(folder, dim=dim, fingerprint=contents.hexdigest(), neighbours=neighbours)
        return Data(
            modality="vectors",
            name=Path(self.path).name,
            corpus=range(rows),  # type: ignore[arg-type]
            queries=range(asked),  # type: ignore[arg-type]
            qrels=None,
            fingerprint=contents.hexdigest(),
            caveats=tuple(caveats),
            labels={
                "source": str(self.path),
                "dim": dim,
                **({"distance": metric} if metric else {}),
                **({"neighbours": neighbours} if neighbours else {}),
            },
        )


@dataclass(frozen=True)
class _Contents:
    corpus: Any
    """Anything with a length, a shape of (rows, dim) and slices: memory-mapped, or a dataset in a file."""
    queries: Any = None
    neighbours: Any = None
    metric: str | None = None
    """What the file says its neighbours are of."""


@contextmanager
def _contents(files: tuple[Path, Path | None, Path | None]) -> Iterator[_Contents]:
    """Open the files; what comes is valid inside the context only."""
    path, queries, neighbours = files
    more: dict[str, Any] = {
        "queries": None if queries is None else _array(queries),
        "neighbours": None if neighbours is None else _array(neighbours),
    }
    if path.is_dir():
        yield _parquet(path, **more)
    elif path.suffix in (".hdf5", ".h5"):
        try:
            import h5py
        except ImportError as error:
            raise DataError(f"{path}: reading HDF5 needs h5py; pip install 'embedding-search-harness[hdf5]'") from error
        try:
            with h5py.File(path, "r") as file:
                if "train" not in file:
                    raise DataError(f"{path}: no dataset called train; it has {', '.join(file)}")
                yield _Contents(
                    _two_dimensional(file["train"], path),
                    more["queries"] if more["queries"] is not None else file.get("test"),
                    more["neighbours"] if more["neighbours"] is not None else file.get("neighbors"),
                    str(file.attrs["distance"]) if "distance" in file.attrs else None,
                )
        except OSError as error:
            raise DataError(f"{path}: not a readable HDF5 file ({error})") from error
    else:
        yield _Contents(_array(path), **more)


def _array(path: Path) -> Any:
    """Return a file that holds one matrix, memory-mapped."""
    try:
        if path.suffix == ".npy":
            return _two_dimensional(np.load(path, mmap_mode="r", allow_pickle=False), path)
        if path.suffix in _BIN:
            rows, dim = (int(value) for value in np.fromfile(path, dtype=np.uint32, count=2))
            kind = np.dtype(_BIN[path.suffix])
            wanted = 8 + rows * dim * kind.itemsize
            if path.stat().st_size != wanted:
                raise DataError(f"{path}: its header says {rows} × {dim}, which are {wanted} bytes, but it has {path.stat().st_size}")
            return np.memmap(path, dtype=kind, mode="r", offset=8, shape=(rows, dim))
        if path.suffix in _VECS:
            return _vecs(path, np.dtype(_VECS[path.suffix]))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable {path.suffix} file ({error})") from error
    raise DataError(f"{path}: a file of queries or neighbours must be one of {', '.join(('.npy', *_BIN, *_VECS))}")


def _vecs(path: Path, kind: np.dtype[Any]) -> Any:
    """Return the rows of a TEXMEX file without the number before each."""
    (dim,) = np.fromfile(path, dtype=np.int32, count=1)
    width = 4 + int(dim) * kind.itemsize
    if dim < 1 or path.stat().st_size % width:
        raise DataError(
            f"{path}: its first row says {dim} dimensions, but its {path.stat().st_size} bytes are no whole number of such rows"
        )
    rows = np.memmap(path, dtype=np.dtype([("dim", np.int32), ("row", kind, (int(dim),))]), mode="r")
    return rows["row"]


def _two_dimensional(found: Any, path: Path) -> Any:
    if len(found.shape) != 2 or 0 in found.shape:
        raise DataError(f"{path}: vectors must have shape (rows, dimensions), got {tuple(found.shape)}")
    return found


def _parquet(folder: Path, *, queries: Any, neighbours: Any) -> _Contents:
    """Read VectorDBBench's folder; its ids need not be the rows' numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted(folder.glob("train*.parquet")) or sorted(folder.glob("shuffle_train*.parquet"))
    if not parts:
        raise DataError(f"{folder}: no train*.parquet or shuffle_train*.parquet in it")
    for path in (*parts, folder / "test.parquet", folder / "neighbors.parquet"):
        if leads_out(folder, path):
            raise DataError(f"{folder}: {path.name} is a link that leads out of it; put the file itself there")

    def matrix(files: Sequence[Path], column: str) -> tuple[NDArray[Any], NDArray[Any]]:
        try:
            table = pa.concat_tables([pq.read_table(file, columns=["id", column]) for file in files])
            lists = table[column].combine_chunks()
            values = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(f"{files[0]}: not a readable Parquet file with id and {column} ({error})") from error
        return table["id"].to_numpy(), values

    ids, corpus = matrix(parts, "emb")
    test, truth = folder / "test.parquet", folder / "neighbors.parquet"
    query_ids = None
    if queries is None and test.exists():
        query_ids, queries = matrix([test], "emb")
    if neighbours is None and truth.exists():
        of, found = matrix([truth], "neighbors_id")
        number = {int(one): row for row, one in enumerate(ids)}
        neighbours = np.asarray([[number.get(int(one), -1) for one in line] for line in found])
        if query_ids is not None:
            at = {int(one): row for row, one in enumerate(of)}
            if not set(map(int, query_ids)) <= set(at):
                raise DataError(f"{truth}: it lacks neighbours of some queries of {test.name}")
            neighbours = neighbours[[at[int(one)] for one in query_ids]]
    return _Contents(_two_dimensional(corpus, folder), queries, neighbours)


def _copy(source: Any, numbers: NDArray[Any] | None, rows: int, path: Path, contents: Any, *, name: str) -> None:
    """Write the first `rows` of a matrix, or of some of its rows, as float32, block by block."""
    dim = int(source.shape[1])
    step = max(1, _BLOCK_BYTES // (4 * dim))

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            block = np.ascontiguousarray(source[start:stop] if numbers is None else source[numbers[start:stop]], dtype=np.float32)
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise DataError(f"{name}: row {start + int(np.flatnonzero(~finite)[0])} holds NaN or infinity and cannot be ranked")
            yield block

    write_rows(path, (rows, dim), blocks(), contents)


def write_rows(path: Path, shape: tuple[int, int], blocks: Iterable[NDArray[np.float32]], contents: Any) -> None:
    """Write a ``.npy`` of float32 that may be larger than memory and add its rows to a hash.

    Written, not mapped: a map's pages would count as this process's memory until the system takes them.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(block.astype("<f4", copy=False).data)
            contents.update(block)


def describe(folder: Path, *, dim: int, fingerprint: str, neighbours: str | None = None) -> None:
    """Write ``vectors.json`` beside vectors that no model made, as a canonical pass leaves it; `neighbours` is a hash of given ones."""
    info = {"dim": dim, "parameters": 0, "missing_keys": [], "unexpected_keys": [], "dtype": "fp32", "max_tokens": None}
    body = {"info": info, "fingerprint": fingerprint, "truncated_share": 0.0, "caveats": [], "neighbours": neighbours}
    (folder / "vectors.json").write_text(json.dumps(body))
