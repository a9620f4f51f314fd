"""The one canonical pass that turns a dataset into vectors, and where their ground truth is read.

Search cells must not depend on batch size or on which device was free, so their vectors come from a single pass per
recipe (weights, preprocessing, dtype, dataset), at a fixed batch size, kept in the cache with their content hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit import AUDITED, audit
from harness.build import build
from harness.corpus import Corpus, canonical_batches, crew_for, embedded, of_role
from harness.datasets.decode import decode
from harness.errors import DataError
from harness.interfaces import CorpusEngine, Metric, Part
from harness.metrics.similarity import Neighbours
from harness.replicate import Report

HERE: Mapping[str, Any] = {"_target_": "harness.corpus.OneProcess"}
"""The engine where none is named."""


def make_vectors(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Embed corpus and queries of a dataset into ``corpus.npy``, ``queries.npy`` and ``vectors.json`` in `folder`.

    Parameters
    ----------
    spec : mapping
        What a process that uses the model is told (`harness.cells.embed_spec`); besides, where there is one, ``engine``: who embeds the
        corpus, and ``shards``: the folder where what that engine keeps for a later run outlasts this one.
    """
    engine: CorpusEngine = build(spec.get("engine", HERE), key="engine")
    corpus = Corpus(spec)
    data = corpus.data
    documents, asked = len(data.corpus), len(data.queries)
    total = documents + asked

    def told(already: int) -> Callable[[int], None]:
        return lambda done: report("vectors", (already + done) / total, total)

    about = _queries(corpus, spec, folder / "queries.npy", told(0))
    kept = truncated = 0
    with _rows(folder / "corpus.npy", documents, corpus.dim) as write:

        def keep(part: Part) -> None:
            nonlocal kept, truncated
            write(part)
            kept += len(part.numbers)
            truncated += part.truncated

        shards = Path(spec.get("shards", folder / "shards"))
        made_by = engine.embed(corpus, keep, device=spec["device"], shards=shards, told=told(asked))
    shutil.rmtree(folder / "shards", ignore_errors=True)
    if kept != documents:
        raise DataError(f"engine={made_by.get('engine')} handed over {kept} vectors of {documents} documents")
    body = {
        **about,
        "fingerprint": _content_hash(folder / "corpus.npy", folder / "queries.npy"),
        "truncated_share": truncated / documents,
        "made_by": dict(made_by),
    }
    (folder / "vectors.json").write_text(json.dumps(body))


def _queries(corpus: Corpus, spec: Mapping[str, Any], path: Path, told: Callable[[int], None]) -> dict[str, Any]:
    """Audit the model and embed the queries in this process; returns what is known of the model, and holds it no longer."""
    data, device = corpus.data, spec["device"]
    model, info = corpus.start()
    items = [decode(data.modality, item) for item in data.corpus[: AUDITED[data.modality]]]
    asked = [decode(data.query_modality, item) for item in data.queries[: AUDITED[data.query_modality]]]
    caveats = audit(model, info, items, asked=spec["dtype"])
    if len(asked) > 1:
        caveats += [caveat for caveat in audit(model, info, asked, asked=spec["dtype"], role="query") if caveat not in caveats]
    batches = canonical_batches(of_role(data, "query"))
    done = 0
    with _rows(path, len(data.queries), model.dim) as write:
        for part in embedded(model, batches, "query", crew_for(model, batches, "query", device)):
            write(part)
            done += len(part.numbers)
            told(done)
    return {
        "info": {**asdict(info), "weights_fingerprint": model.fingerprint()},
        "caveats": [[caveat.code, caveat.text] for caveat in caveats],
    }


@contextmanager
def _rows(path: Path, count: int, dim: int) -> Iterator[Callable[[Part], None]]:
    """Yield what writes vectors into a file of `count` rows, row i being item i.

    The rows are written where they belong, in the order in which they come: neither all vectors nor a map of their file are ever in memory.
    """
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
    first, row_bytes = rows.offset, rows.strides[0]
    del rows  # that made the file
    with path.open("r+b") as file:

        def write(part: Part) -> None:
            for number, row in zip(part.numbers, part.vectors, strict=True):
                os.pwrite(file.fileno(), row.tobytes(), first + number * row_bytes)

        yield write


def _content_hash(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                found.update(chunk)
    return found.hexdigest()


def open_truth(folder: Path, *, metric: Metric, rows: int) -> Neighbours:
    """Return the ground truth that `harness.truth.make_truth` wrote."""
    filtered = folder / "below.json"
    below = json.loads(filtered.read_text()) if filtered.exists() else None
    return Neighbours(ids=np.load(folder / "ids.npy"), scores=np.load(folder / "scores.npy"), metric=metric, rows=rows, below=below)
