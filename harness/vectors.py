"""The one canonical pass that turns a dataset into vectors, and the exact neighbours of its queries.

Search cells must not depend on batch size or on which device was free, so their vectors come from a single pass per
recipe (weights, preprocessing, dtype, dataset), at a fixed batch size, kept in the cache with their content hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit import AUDITED, audit
from harness.data import Batches, open_data
from harness.datasets.decode import decode
from harness.embed_cell import load
from harness.errors import AuditError
from harness.groundtruth import exact_neighbours
from harness.inputs import bytes_of, bytes_of_items
from harness.interfaces import Data, Ids, Item, Metric, Modality, Model, Prepared, Role, Vectors
from harness.metrics.recall import recall_at_k
from harness.metrics.similarity import Neighbours, scores_of
from harness.pipeline import crew, prepared_ahead
from harness.replicate import Report

CANONICAL_BATCH: Mapping[Modality, int] = {"text": 32, "image": 32, "audio": 8, "video": 1}
"""Batch size of the canonical pass; large enough to be quick anywhere, small enough for any memory: a film can take a gigabyte."""


def make_vectors(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Embed corpus and queries of a dataset into ``corpus.npy``, ``queries.npy`` and ``vectors.json`` in `folder`."""
    data = open_data(Path(spec["data"]))
    model, info = load(spec)
    items = [decode(data.modality, item) for item in data.corpus[: AUDITED[data.modality]]]
    asked = [decode(data.query_modality, item) for item in data.queries[: AUDITED[data.query_modality]]]
    caveats = audit(model, info, items, asked=spec["dtype"])
    if len(asked) > 1:
        caveats += [caveat for caveat in audit(model, info, asked, asked=spec["dtype"], role="query") if caveat not in caveats]
    documents, device = len(data.corpus), spec["device"]
    total = documents + len(data.queries)

    def progress(already: int) -> Callable[[int], None]:
        return lambda done: report("vectors", (already + done) / total, total)

    truncated = _write(model, data, "document", device, folder / "corpus.npy", progress(0))
    _write(model, data, "query", device, folder / "queries.npy", progress(documents))
    body = {
        "info": {**asdict(info), "weights_fingerprint": model.fingerprint()},
        "fingerprint": _content_hash(folder / "corpus.npy", folder / "queries.npy"),
        "truncated_share": truncated / documents,
        "caveats": [[caveat.code, caveat.text] for caveat in caveats],
    }
    (folder / "vectors.json").write_text(json.dumps(body))


def _write(model: Model, data: Data, role: Role, device: str, path: Path, progress: Callable[[int], None]) -> int:
    """Embed all items of one role into a file, row i being item i; returns how many were truncated.

    The rows are written where they belong, in the order in which the batches come: neither all vectors nor a map of their file are
    ever in memory.
    """
    items, modality = (data.corpus, data.modality) if role == "document" else (data.queries, data.query_modality)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(items), model.dim))
    first, row_bytes = rows.offset, rows.strides[0]
    del rows  # that made the file
    batches = Batches.of(replace(data, corpus=items, modality=modality), range(len(items)), CANONICAL_BATCH[modality])

    def decoded(numbers: list[int]) -> list[Item]:
        return [decode(modality, items[i]) for i in numbers]

    def prepare(numbers: list[int]) -> Prepared:
        return model.prepare(decoded(numbers), role=role)

    first_batch = decoded(next(iter(batches)))
    how = crew(model, device, batch_bytes=max(bytes_of_items(first_batch), bytes_of(model.prepare(first_batch, role=role))))
    del first_batch
    done = truncated = 0
    with path.open("r+b") as file, prepared_ahead(prepare, batches, how) as stream:
        for numbers, prepared in zip(batches, stream, strict=True):
            found = model.finish(model.forward(model.transfer(prepared)))
            for number, row in zip(numbers, found, strict=True):
                os.pwrite(file.fileno(), row.tobytes(), first + number * row_bytes)
            truncated += prepared.truncated
            done += len(numbers)
            progress(done)
    return truncated


def _content_hash(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                found.update(chunk)
    return found.hexdigest()


def make_truth(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Find the exact nearest ``spec["k"]`` documents of every query into ``ids.npy`` and ``scores.npy`` in `folder`."""
    report("ground truth", 0.0)
    vectors = Path(spec["vectors"])
    corpus = np.load(vectors / "corpus.npy", mmap_mode="r")
    queries = np.load(vectors / "queries.npy")
    if spec["below"] is not None:
        (folder / "below.json").write_text(json.dumps(spec["below"]))
    given = vectors / "given.npy"
    if spec["below"] is None and given.exists() and (ids := np.load(given)).shape[1] >= spec["k"]:
        truth = _checked(ids[:, : spec["k"]], queries, corpus, spec["metric"])
        np.save(folder / "ids.npy", truth.ids)
        np.save(folder / "scores.npy", truth.scores)
        return
    truth = exact_neighbours(queries, corpus, k=min(spec["k"], len(corpus)), metric=spec["metric"], below=spec["below"])
    np.save(folder / "ids.npy", truth.ids)
    np.save(folder / "scores.npy", truth.scores)


_SAMPLE = 64
"""Queries on which given neighbours are compared with exact search."""


def _checked(ids: Ids, queries: Vectors, corpus: Vectors, metric: Metric) -> Neighbours:
    """Return given neighbours with their scores, after a sample of them has been found to be what exact search finds.

    Raises
    ------
    harness.errors.AuditError
        When it is not: the neighbours are of another metric, of other vectors, or old.
    """
    k = ids.shape[1]
    if (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        raise AuditError("the neighbours that came with the vectors name a row twice for the same query; leave dataset.neighbours_path out")
    sample = np.sort(np.random.default_rng(0).permutation(len(queries))[:_SAMPLE])
    exact = exact_neighbours(queries[sample], corpus, k=k, metric=metric)
    right = recall_at_k(ids[sample], exact, k=k, queries=queries[sample], corpus=corpus)
    if right.min() < 1.0:
        raise AuditError(
            f"the neighbours that came with the vectors are not those of exact search under metric={metric}: on {len(sample)} queries "
            f"they hold {right.mean():.1%} of them; set the metric that they are of, or leave dataset.neighbours_path out"
        )
    scores = np.stack([scores_of(query, np.asarray(corpus[row]), metric) for query, row in zip(queries, ids, strict=True)])
    order = np.lexsort((ids, -scores), axis=1)
    return Neighbours(np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1), metric, len(corpus))


def open_truth(folder: Path, *, metric: Metric, rows: int) -> Neighbours:
    """Return the ground truth that `make_truth` wrote."""
    filtered = folder / "below.json"
    below = json.loads(filtered.read_text()) if filtered.exists() else None
    return Neighbours(ids=np.load(folder / "ids.npy"), scores=np.load(folder / "scores.npy"), metric=metric, rows=rows, below=below)
