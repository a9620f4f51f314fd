"""Any dataset that the `datasets` library reads: of the hub, or a local folder, Parquet, JSON-lines or CSV file.

One column holds the documents: texts, or pictures, sounds or videos as the library stores them, whose bytes are written to files and
decoded by `harness.datasets.decode` as all others are, never by the library. What is relevant is told by one of two columns:

- `label`: some rows are drawn as queries, and the documents of a query's label are relevant to it (`harness.datasets.labelled`);
- `query`: a text, or a list of texts of which the first counts (captions), that asks for the row's own document. Rows with one document,
  or with one query, are one document, and one query with several relevant documents.

Without either, rows are drawn as queries and there are no qrels. Rows that cannot be used are counted and named by their number.

Streamed, rows come in their order and reading stops when there are enough, so that a large dataset is not downloaded whole; the rows
read are the first ones, which a caveat says. Otherwise the seed decides which rows are taken.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.datasets.checks import leads_out, whole_number
from harness.datasets.examine import examine, named
from harness.datasets.fingerprint import digest, fingerprint
from harness.datasets.labelled import Found, caveats, lengths, qrels_by_label, seconds_of
from harness.errors import DataError, SettingsError
from harness.interfaces import Caveat, Data, Modality

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
"""The library's reader for a single local file, by its suffix."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """Rows of a dataset that the `datasets` library reads.

    Parameters
    ----------
    path : str
        Name on the hub (``owner/name``), or a local folder or file.
    name : str or None
        The configuration, where the dataset has several.
    split : str
        Which split; a single local file is any.
    revision : str or None
        Commit, tag or branch on the hub; a commit makes runs comparable.
    streaming : bool
        Whether to read rows in their order over the network instead of downloading the split.
    modality : {"text", "image", "audio", "video"}
        What the documents are.
    column : str
        The column that holds them.
    label, query : str or None
        The column that tells what is relevant, at most one of them.
    limit : int or None
        Look at the first so many rows only.
    corpus : int or None
        Delivered exactly, or refused; None takes all (but those drawn as queries, where queries are drawn from the rows).
    queries : int
        Delivered exactly, or refused.
    seed : int
        Decides which rows are taken and which of them are asked.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range; all of them are listed.
    """

    path: str
    name: str | None = None
    split: str = "test"
    revision: str | None = None
    streaming: bool = False
    modality: Modality = "text"
    column: str = "text"
    label: str | None = None
    query: str | None = None
    limit: int | None = None
    corpus: int | None = None
    queries: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            *([] if self.corpus is None else whole_number("corpus", self.corpus, least=1, remedy="null for all rows")),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
            *([] if self.limit is None else whole_number("limit", self.limit, least=2, remedy="null for all rows")),
        ]
        for key in ("path", "split", "column"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                wrong.append(f"dataset.{key} must be a text, got {getattr(self, key)!r}; write dataset.{key}=…")
        for key in ("name", "revision", "label", "query"):
            if getattr(self, key) is not None and (not isinstance(getattr(self, key), str) or not getattr(self, key)):
                wrong.append(f"dataset.{key} must be a text or null, got {getattr(self, key)!r}")
        streaming: object = self.streaming
        if not isinstance(streaming, bool):
            wrong.append(f"dataset.streaming must be true or false, got {self.streaming!r}")
        if self.modality not in ("text", "image", "audio", "video"):
            wrong.append(f"dataset.modality must be text, image, audio or video, got {self.modality!r}")
        if self.label is not None and self.query is not None:
            wrong.append(f"dataset.label={self.label} and dataset.query={self.query} exclude each other; give one of them")
        if not wrong and self.query is not None and self.corpus is not None and self.queries > self.corpus:
            wrong.append(
                f"dataset.queries must be at most dataset.corpus={self.corpus}, got {self.queries}; every query needs its document"
            )
        if wrong:
            raise SettingsError(wrong)

    @property
    def query_modality(self) -> Modality:
        """Text where a column holds the queries, otherwise that of the documents, since some of them are the queries."""
        return self.modality if self.query is None else "text"

    @property
    def _local(self) -> Path | None:
        """The folder or file, None for a name on the hub."""
        path = Path(self.path).expanduser()
        return path.resolve() if path.exists() else None

    def identity(self) -> Any:
        """The revision, or for local files their names, sizes and times of change; reads no contents and asks no server."""
        if self._local is None:
            return {"revision": self.revision}
        whole = hashlib.sha256()
        for path in [self._local] if self._local.is_file() else sorted(self._local.rglob("*")):
            if path.is_file():
                whole.update(os.fsencode(path) + f"\0{path.stat().st_size} {path.stat().st_mtime_ns}\0".encode())
        return whole.hexdigest()

    def materialise(self, folder: Path) -> Data:
        """Read as many rows as are needed; pictures, sounds and videos are written into `folder`.

        Raises
        ------
        harness.errors.DataError
            If the dataset or a column cannot be had, or too few usable rows are left.
        """
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            rows = _Rows(self.query, self.label, self.modality, folder, self._local)
            wanted = None if self.corpus is None else self.corpus + (self.queries if self.query is None else 0)
            for number, row in self._rows(cache):
                rows.add(number, row)
                if len(rows.usable) == wanted:
                    break
        return self._with_pairs(rows) if self.query is not None else self._with_labels(rows)

    def _rows(self, cache: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield numbers and rows: document, label and query under these names."""
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                "dataset=huggingface needs the datasets library; install it with pip install 'embedding-search-harness[huggingface]'"
            ) from error
        datasets.disable_progress_bars()
        try:
            source: Any = datasets.load_dataset(
                **self._source(), name=self.name, split=self.split, streaming=self.streaming, cache_dir=cache if self._local else None
            )
            source = self._columns(source, datasets)
            if self.streaming:
                yield from enumerate(source if self.limit is None else itertools.islice(source, self.limit))
            else:
                order = list(range(min(len(source), self.limit or len(source))))
                random.Random(f"huggingface {self.seed}").shuffle(order)
                for number in order:
                    yield number, source[number]
        except DataError:
            raise
        except Exception as error:  # the library lets through whatever its readers, the network and the file system raise
            raise DataError(
                f"dataset.path={self.path!r} (name={self.name}, split={self.split}) cannot be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error

    def _source(self) -> dict[str, Any]:
        local = self._local
        if local is None:
            return {"path": self.path, "revision": self.revision}
        if local.is_dir():
            return {"path": str(local)}
        if local.suffix not in BUILDERS:
            raise DataError(f"dataset.path={self.path!r}: a single file must be one of {', '.join(BUILDERS)}")
        more = {"sep": "\t"} if local.suffix == ".tsv" else {}
        return {"path": BUILDERS[local.suffix], "data_files": {self.split: str(local)}, **more}

    def _columns(self, source: Any, datasets: Any) -> Any:
        """The columns that matter under names of our own, media as bytes, class numbers as names."""
        wanted = {"document": self.column, "label": self.label, "query": self.query}
        chosen = {ours: theirs for ours, theirs in wanted.items() if theirs is not None}
        features = source.features or dict.fromkeys(next(iter(source), {}))  # a stream may not know its columns before the first row
        lacking = [
            f"dataset.{'column' if ours == 'document' else ours}={theirs}" for ours, theirs in chosen.items() if theirs not in features
        ]
        if lacking:
            raise DataError(f"dataset.path={self.path!r} has no column {' nor '.join(lacking)}; it has {', '.join(features)}")
        kind, classes = features[self.column], features[self.label] if self.label else None
        if isinstance(kind, datasets.Image | datasets.Audio | datasets.Video):
            source = source.cast_column(self.column, type(kind)(decode=False))
        names = classes.names if isinstance(classes, datasets.ClassLabel) else None

        def ours(row: Mapping[str, Any]) -> dict[str, Any]:
            picked = {name: row[column] for name, column in chosen.items()}
            if names is not None:
                picked["label"] = names[picked["label"]] if picked["label"] is not None and picked["label"] >= 0 else None
            return picked

        return _Renamed(source.select_columns(sorted(set(chosen.values()))), ours)

    def _with_labels(self, rows: _Rows) -> Data:
        """Some rows are the queries."""
        usable = rows.usable
        if len(usable) < (self.queries + 1 if self.corpus is None else self.corpus + self.queries):
            raise self._too_few(rows, len(usable), "rows")
        random.Random(f"huggingface split {self.seed}").shuffle(usable)  # a stream's rows come in their own order
        queries = usable[: self.queries]
        corpus = usable[self.queries :]
        qrels, without = qrels_by_label(corpus, queries)
        labels = {item.label for item in usable} if self.label else set()
        return self._data(rows, corpus, [(item.stored, item.content) for item in queries], qrels, labels, without)

    def _with_pairs(self, rows: _Rows) -> Data:
        """The queries are a column of their own."""
        corpus, answerable = rows.usable, sorted(rows.asking)
        if len(answerable) < self.queries or (self.corpus is not None and len(corpus) < self.corpus):
            raise self._too_few(rows, len(answerable), "queries")
        asked = random.Random(f"huggingface queries {self.seed}").sample(answerable, self.queries)
        qrels = {number: dict.fromkeys(rows.asking[text], 1) for number, text in enumerate(asked)}
        return self._data(rows, corpus, [(text, digest(text.encode())) for text in asked], qrels, set(), 0)

    def _data(
        self,
        rows: _Rows,
        corpus: Sequence[Found],
        queries: Sequence[tuple[str, bytes]],
        qrels: Mapping[int, Mapping[int, int]] | None,
        labels: set[str | None],
        without: int,
    ) -> Data:
        asked_in: Modality | None = "text" if self.query is not None and self.modality != "text" else None
        copies = {} if self.query is not None else rows.copies
        found = list(caveats("rows", left_out=rows.left_out, copies=copies, adapted=rows.adapted, labels=labels, without=without))
        if self._local is None and self.revision is None:
            found.append(
                Caveat(
                    "unpinned_revision", "No dataset.revision was given, so that another day may bring other data; give the commit's hash."
                )
            )
        if self.streaming:
            found.append(
                Caveat(
                    "first_rows", f"Streamed: the data are from the first {rows.read} rows of the split, in the order they are stored in."
                )
            )
        return Data(
            modality=self.modality,
            name=f"{Path(self.path).stem}-{self.split}",
            corpus=tuple(item.stored for item in corpus),
            queries=tuple(stored for stored, _ in queries),
            qrels=qrels,
            fingerprint=fingerprint(
                self.modality, [item.content for item in corpus], [content for _, content in queries], qrels, asked_in=asked_in
            ),
            caveats=tuple(found),
            labels={
                "source": str(self._local or self.path),
                "config": self.name,
                "split": self.split,
                "revision": self.revision,
                "rows_read": rows.read,
                "rows_left_out": len(rows.left_out),
                "copies": len(rows.copies),
                "classes": len(labels - {None}),
                "queries_without_relevant": without,
                **lengths(corpus),
            },
            asked_in=asked_in,
        )

    def _too_few(self, rows: _Rows, usable: int, what: str) -> DataError:
        wanted = "at least one document" if self.corpus is None else f"dataset.corpus={self.corpus}"
        text = (
            f"dataset.path={self.path!r} (split={self.split}) has {len(rows.usable)} usable documents and {usable} usable {what} in the "
            f"{rows.read} rows looked at, and dataset.queries={self.queries} and {wanted} were asked for; lower them"
        )
        text += ", or raise dataset.limit" if self.limit else ""
        return DataError(text + (f". {len(rows.left_out)} rows were left out: {named(rows.left_out)}" if rows.left_out else ""))


@dataclass
class _Renamed:
    """A dataset of the library whose rows are brought to our names when they are read."""

    source: Any
    ours: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self.ours(self.source[number])
        return row

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return map(self.ours, self.source)


@dataclass
class _Rows:
    """What has been read so far."""

    query: str | None
    label: str | None
    modality: Modality
    folder: Path
    local: Path | None
    read: int = 0
    usable: list[Found] = field(default_factory=list)
    asking: dict[str, list[int]] = field(default_factory=dict)
    """For each query's text the places of its documents in `usable`."""
    left_out: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    _place: dict[bytes, int] = field(default_factory=dict)

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        """Take a row's document, unless it is unusable or known, and note who asks for it."""
        self.read += 1
        name = f"row {number}"
        try:
            found, remark = self._found(number, row)
        except DataError as error:
            self.left_out[name] = str(error)
            return
        place = self._place.setdefault(found.content, len(self.usable))
        if place == len(self.usable):
            self.usable.append(found)
            if remark:
                self.adapted[name] = remark
        else:
            self.copies[name] = "same as an earlier row"
            if self.modality != "text":
                Path(found.stored).unlink()
        if self.query is not None:
            text = _first_text(row["query"])
            if text and place not in self.asking.setdefault(text, []):
                self.asking[text].append(place)

    def _found(self, number: int, row: Mapping[str, Any]) -> tuple[Found, str]:
        label = None if self.label is None or row["label"] in (None, "") else str(row["label"])
        value = row["document"]
        if self.modality == "text":
            if not isinstance(value, str):
                raise DataError(f"no text but {type(value).__name__}")
            text = value.strip()
            if not text:
                raise DataError("nothing but white space")
            try:
                return Found(text, label, digest(text.encode())), ""
            except UnicodeEncodeError as error:
                raise DataError("not valid Unicode") from error
        content, origin = self._content(value)
        path = self.folder / f"row-{number:08}{_suffix(origin)}"
        path.write_bytes(content)
        try:
            item, remark = examine(self.modality, path)
        except DataError as error:
            path.unlink()
            raise DataError(str(error).removeprefix(f"{path}: ")) from error
        return Found(str(path), label, digest(content), seconds_of(item)), remark

    def _content(self, value: Any) -> tuple[bytes, str]:
        """The bytes of a file as the library gives them: themselves, with a name, or a local file's name alone."""
        if isinstance(value, bytes):
            return value, ""
        held, origin = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
        if isinstance(held, bytes) and held:
            return held, str(origin or "")
        if isinstance(origin, str) and origin and self.local is not None:
            # Only a local dataset may name files: a foreign one has no business with those of this machine.
            beside = self.local if self.local.is_dir() else self.local.parent
            if leads_out(beside, beside / origin):
                raise DataError(f"{origin}: it lies outside the dataset's folder")
            try:
                return (beside / origin).read_bytes(), origin
            except OSError as error:
                raise DataError(f"{origin}: {error.strerror or error}") from error
        raise DataError(f"no file's content but {type(value).__name__}")


def _first_text(value: Any) -> str:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return next((text.strip() for text in values if isinstance(text, str) and text.strip()), "")


def _suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 6 else ""
