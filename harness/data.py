"""A dataset's contents on disk, so that every measuring process opens the same items instead of making them again."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import cache, texts
from harness.fingerprint import digest, source_of, versions_used_by
from harness.interfaces import Caveat, Data, Dataset, Modality
from harness.texts import Texts


def prepare(dataset: Dataset, node: Mapping[str, Any]) -> Path:
    """Return the folder with a dataset's contents, making it if neither settings, code nor sources are as they were.

    Parameters
    ----------
    dataset : Dataset
        The built dataset.
    node : mapping
        Its settings as in the configuration, ``_target_`` included.
    """
    module = str(node["_target_"]).rpartition(".")[0]
    key = digest(
        {
            "settings": dict(node),
            "source": source_of([module]),
            "versions": versions_used_by([module]),
            "identity": dataset.identity(),
            "layout": 2,
        }
    )
    return cache.get("data", key[:32], lambda folder: lay_out(dataset.materialise(folder), folder))


def lay_out(data: Data, folder: Path) -> None:
    """Write a dataset into the folder that holds its files, for `open_data` to read: texts apart, everything else as JSON."""

    def inside(items: Sequence[str], modality: Modality, name: str) -> list[str] | int:
        if modality == "text":
            texts.write(items, folder / name)
        if modality in ("text", "vectors"):  # they lie beside this
            return len(items)
        return [item.removeprefix(f"{folder}/") for item in items]

    body = {
        "modality": data.modality,
        "query_modality": data.query_modality,
        "name": data.name,
        "corpus": inside(data.corpus, data.modality, "corpus"),
        "queries": inside(data.queries, data.query_modality, "queries"),
        "qrels": None if data.qrels is None else [[q, d, grade] for q, found in data.qrels.items() for d, grade in found.items()],
        "fingerprint": data.fingerprint,
        "caveats": [[caveat.code, caveat.text] for caveat in data.caveats],
        "labels": dict(data.labels),
    }
    (folder / "data.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")


def open_data(folder: Path) -> Data:
    """Return the dataset that `prepare` laid out in a folder."""
    body = json.loads((folder / "data.json").read_text(encoding="utf-8"))

    def stored(items: Any, modality: Modality, name: str) -> Sequence[str]:
        if modality == "vectors":
            return range(items)  # type: ignore[return-value]
        return Texts(folder / name) if modality == "text" else [str(folder / item) for item in items]  # an absolute path stays as it is

    qrels: dict[int, dict[int, int]] | None = None
    if body["qrels"] is not None:
        qrels = {}
        for query, document, grade in body["qrels"]:
            qrels.setdefault(query, {})[document] = grade
    return Data(
        modality=body["modality"],
        name=body["name"],
        corpus=stored(body["corpus"], body["modality"], "corpus"),
        queries=stored(body["queries"], body["query_modality"], "queries"),
        qrels=qrels,
        fingerprint=body["fingerprint"],
        caveats=tuple(Caveat(code, text) for code, text in body["caveats"]),
        labels=body["labels"],
        asked_in=None if body["query_modality"] == body["modality"] else body["query_modality"],
    )


@dataclass(frozen=True)
class Batches:
    """Items in batches; text is grouped by length first, as sentence-transformers' ``encode`` does, so that little is padded."""

    data: Data
    numbers: Sequence[int]
    """Which documents of the corpus, in the order of a corpus pass."""
    batch_size: int

    @classmethod
    def of(cls, data: Data, numbers: Sequence[int], batch_size: int) -> Batches:
        """Return the batches of some documents in the order in which a corpus pass takes them."""
        ordered = np.fromiter(numbers, dtype=np.int64)
        if data.modality == "text":
            lengths = np.fromiter((len(data.corpus[i]) for i in numbers), dtype=np.int64)
            ordered = ordered[np.lexsort((ordered, -lengths))]
        return cls(data, array("q", ordered.tobytes()), batch_size)

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield list(self.numbers[start : start + self.batch_size])
