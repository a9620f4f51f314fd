"""Retrieval datasets in the field's own format: BEIR's ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` in one folder.

(N. Thakur et al., "BEIR: A Heterogenous Benchmark for Zero-shot Evaluation of Information Retrieval Models", NeurIPS 2021.) As there, a
document is its title and its text with a space between them. Of a split's queries those count that have a relevant document, which means a
grade above 0; a judgement of 0 says "not relevant". With all documents and all queries the scores are the benchmark's own.

A part can be asked for: the documents that are relevant to the queries asked all stay, and the rest is chosen by the seed. Search
among fewer documents is easier, so a caveat says that the scores are no longer the benchmark's.

A line that is no such record is an error that names it: a benchmark with holes in it is another benchmark. Judgements of documents or
queries that do not exist, and documents without any text, occur in published datasets; they are left out, counted and named.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.datasets.checks import existing_folder, leads_out, whole_number
from harness.datasets.examine import named
from harness.datasets.fingerprint import digest, fingerprint
from harness.errors import DataError, SettingsError
from harness.interfaces import Caveat, Data


@dataclass(frozen=True, kw_only=True)
class Beir:
    """A folder in BEIR's format.

    Parameters
    ----------
    path : str
        The folder; ``~`` is expanded, a relative path counts from the current directory.
    split : str
        Which judgements: ``qrels/<split>.tsv``.
    corpus : int or None
        Documents; None takes all. Delivered exactly, or refused.
    queries : int
        Delivered exactly, or refused; drawn from those that have a relevant document.
    seed : int
        Decides which queries are asked and which other documents are kept.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range or a file is not there; all violations are listed.
    """

    path: str
    split: str = "test"
    corpus: int | None = None
    queries: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            *([] if self.corpus is None else whole_number("corpus", self.corpus, least=1, remedy="null for all documents")),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
        ]
        no_folder = existing_folder("path", self.path, holding="corpus.jsonl, queries.jsonl and qrels/")
        wrong += no_folder
        if not isinstance(self.split, str) or not self.split or Path(self.split).name != self.split:
            wrong.append(f"dataset.split must be the name of a split, got {self.split!r}; write dataset.split=test")
        elif not no_folder:
            wrong += [
                f"dataset.path must hold {path.name}, and {str(self.path)!r} does not; give a folder in BEIR's format"
                for path in self._files[:2]
                if not path.is_file()
            ]
            if not self._files[2].is_file():
                splits = ", ".join(sorted(path.stem for path in (self._root / "qrels").glob("*.tsv")))
                wrong.append(
                    f"dataset.split must be one of {splits or 'those in qrels/, which holds no .tsv file'} "
                    f"in {str(self.path)!r}, got {self.split!r}"
                )
            wrong += [
                f"dataset.path={str(self.path)!r}: {path.name} is a link that leads out of it; put the file itself there"
                for path in self._files
                if path.is_file() and leads_out(self._root, path)
            ]
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Literal["text"]:
        return "text"

    @property
    def query_modality(self) -> Literal["text"]:
        return "text"

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser().resolve()

    @property
    def _files(self) -> tuple[Path, Path, Path]:
        return self._root / "corpus.jsonl", self._root / "queries.jsonl", self._root / "qrels" / f"{self.split}.tsv"

    def identity(self) -> str:
        """SHA-256 over the three files' places, sizes and times of change; reads no contents."""
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self._files]
        return hashlib.sha256(repr(states).encode()).hexdigest()

    def materialise(self, folder: Path) -> Data:  # noqa: ARG002 - the texts themselves are what is stored
        """Read the three files and take what was asked for; writes no files.

        Raises
        ------
        harness.errors.DataError
            If a line is malformed, naming it, or fewer documents or queries are there than asked for.
        """
        corpus_file, queries_file, qrels_file = self._files
        texts = {name: text for name, text, _ in _records(queries_file, title=False)}
        offsets: dict[str, int] = {}
        empty: dict[str, str] = {}
        for name, text, offset in _records(corpus_file, title=True):
            if text:
                offsets[name] = offset
            else:
                empty[name] = "no text"
        judged = _judgements(qrels_file, texts, offsets, empty)
        asked = self._asked([name for name in texts if judged.relevant.get(name) and texts[name]])
        kept = self._kept(offsets, {document for name in asked for document in judged.relevant[name]})
        corpus = _read_at(corpus_file, [offsets[name] for name in kept])
        queries = [texts[name] for name in asked]
        numbers = {name: number for number, name in enumerate(kept)}
        qrels = {
            number: {numbers[document]: grade for document, grade in judged.relevant[name].items()} for number, name in enumerate(asked)
        }
        return Data(
            modality="text",
            name=f"{self._root.name}-{self.split}",
            corpus=tuple(corpus),
            queries=tuple(queries),
            qrels=qrels,
            fingerprint=fingerprint("text", [digest(text.encode()) for text in corpus], [digest(text.encode()) for text in queries], qrels),
            caveats=tuple(self._caveats(judged, empty, len(offsets), corpus, queries)),
            labels={
                "source": str(self._root),
                "split": self.split,
                "documents_in_all": len(offsets),
                "queries_in_all": judged.answerable,
                "judgements": sum(map(len, qrels.values())),
                "unknown_ids": len(judged.unknown),
                "empty_documents": len(empty),
            },
        )

    def _asked(self, answerable: Sequence[str]) -> list[str]:
        """The queries to ask, in the order of the file."""
        if len(answerable) < self.queries:
            raise DataError(
                f"dataset.split={self.split} of {str(self.path)!r} has {len(answerable)} queries with a relevant document, and "
                f"dataset.queries={self.queries} were asked for; "
                + (f"write dataset.queries={len(answerable)} for all of them" if answerable else "choose another split")
            )
        chosen = set(random.Random(f"beir queries {self.seed}").sample(range(len(answerable)), self.queries))
        return [name for number, name in enumerate(answerable) if number in chosen]

    def _kept(self, documents: Mapping[str, int], relevant: set[str]) -> list[str]:
        """The documents to keep, in the order of the file: all relevant ones, and others by the seed up to the number asked for."""
        if self.corpus is None:
            return list(documents)
        if not len(relevant) <= self.corpus <= len(documents):
            raise DataError(
                f"dataset.corpus must be in [{len(relevant)}, {len(documents)}] for {str(self.path)!r} (the documents relevant to the "
                f"{self.queries} queries asked, all documents), got {self.corpus}; null takes all"
            )
        others = [name for name in documents if name not in relevant]
        chosen = relevant.union(random.Random(f"beir corpus {self.seed}").sample(others, self.corpus - len(relevant)))
        return [name for name in documents if name in chosen]

    def _caveats(
        self, judged: _Judged, empty: Mapping[str, str], documents: int, corpus: Sequence[str], queries: Sequence[str]
    ) -> Iterator[Caveat]:
        if len(corpus) < documents or len(queries) < judged.answerable:
            yield Caveat(
                "part_of_dataset",
                f"{len(corpus)} of {documents} documents and {len(queries)} of {judged.answerable} queries, drawn by "
                f"dataset.seed={self.seed}; all documents relevant to these queries are among them. Search among "
                "fewer documents is easier: the scores are not comparable with published ones.",
            )
        if judged.unknown:
            yield Caveat("unknown_ids", f"{len(judged.unknown)} judgements were left out: {named(judged.unknown)}.")
        if empty:
            yield Caveat("empty_documents", f"{len(empty)} documents have neither title nor text and were left out: {named(empty)}.")
        known = set(corpus)
        repeated = sum(text in known for text in queries)
        if repeated:
            yield Caveat(
                "queries_in_corpus",
                f"{repeated} queries are documents too, word for word, and find themselves first; published scores of such datasets "
                "leave a query's own document out.",
            )


@dataclass
class _Judged:
    """What the qrels say about documents and queries that exist."""

    relevant: dict[str, dict[str, int]] = field(default_factory=dict)
    """Grades above 0, by query and document."""
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def answerable(self) -> int:
        """How many queries have a relevant document."""
        return len(self.relevant)


def _records(path: Path, *, title: bool) -> Iterator[tuple[str, str, int]]:
    """Yield id, text and the line's place in bytes of every record."""
    seen: set[str] = set()
    with path.open("rb") as lines:
        offset = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                name, text = _record(line, f"{path}:{number}", title=title)
                if name in seen:
                    raise DataError(f"{path}:{number}: _id {name!r} occurs a second time; ids must be unique")
                seen.add(name)
                yield name, text, offset
            offset += len(line)


def _record(line: bytes, place: str, *, title: bool) -> tuple[str, str]:
    try:
        record: Any = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise DataError(f"{place}: no JSON in UTF-8 ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: not a JSON object; a record has _id and text")
    name, text, head = record.get("_id"), record.get("text"), record.get("title") or ""
    if isinstance(name, bool) or not isinstance(name, str | int) or str(name) == "":
        raise DataError(f"{place}: _id must be a text, got {name!r}")
    if not isinstance(text, str) or not isinstance(head, str):
        raise DataError(f"{place}: text (and title, if there is one) must be a text, got {text if isinstance(head, str) else head!r}")
    return str(name), (f"{head} {text}" if title else text).strip()


def _read_at(path: Path, offsets: Sequence[int]) -> list[str]:
    with path.open("rb") as lines:
        texts = []
        for offset in offsets:
            lines.seek(offset)
            texts.append(_record(lines.readline(), str(path), title=True)[1])
    return texts


def _judgements(path: Path, queries: Mapping[str, str], documents: Mapping[str, int], empty: Mapping[str, str]) -> _Judged:
    """Read qrels: query, document and grade, a tab between them; the first line may be a heading."""
    judged = _Judged()
    grades: dict[tuple[str, str], int] = {}
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and len(fields) == 3 and not _is_whole(fields[2])):
            continue
        if len(fields) != 3 or not _is_whole(fields[2]):
            raise DataError(f"{path}:{number}: must be a query's id, a document's id and a whole grade with tabs between, got {line!r}")
        query, document, grade = fields[0], fields[1], int(fields[2])
        if grades.setdefault((query, document), grade) != grade:
            raise DataError(f"{path}:{number}: a second grade for query {query!r} and document {document!r}; there must be one")
        place = f"{path.name}:{number}"
        if query not in queries:
            judged.unknown[place] = f"no query {query!r}"
        elif document not in documents:
            judged.unknown[place] = f"document {document!r} has no text" if document in empty else f"no document {document!r}"
        elif grade > 0 and queries[query]:
            judged.relevant.setdefault(query, {})[document] = grade
    return judged


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})") from error


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()
