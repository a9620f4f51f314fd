"""One cell's work as calls that somebody else times, through the very loops by which cells are measured.

A gate compares two versions of this program, each in a process of its own, and takes the time from outside. This module is all that it
asks of either version besides a plan, so it stays small and keeps its names: a version without it cannot be compared.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import cache
from harness.build import build
from harness.cells import embed_spec, search_spec
from harness.data import open_data
from harness.datasets.decode import decode
from harness.devices import synchronize
from harness.embed_cell import embed, forward_pass, load, sample
from harness.inputs import bytes_of, bytes_of_items
from harness.interfaces import Ids, Index, Model, Prepared, Store, Vectors
from harness.load import Asked
from harness.pipeline import crew, pipeline_pass
from harness.plan import make_plan
from harness.quantise import Quantiser
from harness.search_cell import _block, _Point, _requests, parts_of
from harness.timing import Timed


def planned(overrides: Sequence[str], *, config_dirs: Sequence[str], results: Path, vectors: bool) -> dict[str, Any]:
    """Return what a cell is in this version, as JSON-like data.

    Parameters
    ----------
    overrides : sequence of str
        Settings of one job, as on the command line.
    config_dirs : sequence of str
        Folders with options of one's own.
    results : Path
        An empty folder, so that nothing measured before is looked at.
    vectors : bool
        Whether to make the vectors that are searched, where there are none yet.

    Returns
    -------
    dict
        ``task``: what is asked of the cell, which both sides must agree on. ``settings``: how this version goes about it.
        ``embed`` and ``search``: what `Embedding` and `Searching` take; ``embed`` is None where vectors are given.
        ``points``: k and search parameters of each operating point. ``titles``: embed cell and search cell in words.

    Raises
    ------
    harness.errors.HarnessError
        When this version does not know a setting, or the job cannot be done.
    """
    plan = make_plan([*overrides, f"results={results}"], multirun=False, config_dirs=config_dirs)
    one = plan.jobs[0]
    job = one.job
    data = open_data(one.search.data_folder)
    given = job.dataset.modality == "vectors"
    told = None if given else {**embed_spec(one.embed), "weights": asdict(job.model.fetch(one.embed.weights))}
    folder: Path | None = one.search.data_folder if given else None
    if vectors and told is not None:
        from harness.vectors import make_vectors

        folder = cache.get("vectors", one.search.recipe, lambda empty: make_vectors(told, empty, lambda *_: None))
    choices = job.choices
    index_words = choices["store"] + "/" + choices["index"]
    return {
        "task": {
            "data": data.fingerprint,
            "weights": one.search.weights.fingerprint,
            "batch_size": job.batch_size,
            "embed_items": job.embed_items,
            "seed": job.seed,
            "k": list(job.k),
            "metric": job.metric,
            "nq": job.nq,
            "filter": list(job.filter),
        },
        "settings": {
            "model": dict(job.nodes["model"]),
            "store": dict(job.nodes["store"]),
            "index": dict(job.nodes["index"]),
            "device": job.device,
            "dtype": job.dtype,
            "attention": job.attention,
            "compile": job.compile,
            "backend": job.backend,
            "vector_type": job.vector_type,
        },
        "embed": told,
        "search": search_spec(one.search, folder or Path()),
        "vectors": None if folder is None else str(folder),
        "points": [{"k": k, "params": dict(params)} for k in job.k for params in job.index.search_params()],
        "titles": {
            "embed": f"{choices['model']} · {job.device} · {job.dtype} · batch {job.batch_size}",
            "search": f"{index_words} · {one.documents} × {job.model.dim}",
        },
        "threads": job.threads,
        "device": job.device,
        "in_process": job.store.in_process,
    }


class Embedding:
    """The model of an embed cell, and what is repeated of it.

    Parameters
    ----------
    spec : mapping
        What `planned` says of it.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._data = open_data(Path(spec["data"]))
        batches = sample(self._data, items=spec["embed_items"], batch_size=spec["batch_size"], seed=spec["seed"])
        self._stored = [[self._data.corpus[i] for i in batch] for batch in batches]
        self._prepared: list[Prepared] = []

    def load(self) -> None:
        """Build and load the model."""
        self._model: Model = load(self._spec)[0]

    def ready(self) -> None:
        """Get the batches onto the device, and everything once through the model."""
        decoded = [decode(self._data.modality, item) for item in self._stored[0]]
        self._prepared = [self._model.transfer(self._prepare(items)) for items in self._stored]
        batch_bytes = max(bytes_of_items(decoded), bytes_of(self._prepared[0]))
        self._crew = crew(self._model, self._spec["device"], batch_bytes=batch_bytes)
        self.forward()
        self.queries(1)

    def _prepare(self, items: Sequence[str]) -> Prepared:
        return self._model.prepare([decode(self._data.modality, item) for item in items])

    def forward(self) -> int:
        """Take all batches, ready on the device, through the model once; returns how many that were."""
        done = Timed()
        forward_pass(self._model, self._prepared, self._spec["device"], done)
        return done.count

    def pipeline(self) -> int:
        """Take all batches from stored items to vectors about once; returns how many that were."""
        done = Timed()
        pipeline_pass(self._model, self._prepare, self._stored, done, self._crew)
        return done.count

    def queries(self, count: int) -> int:
        """Embed so many queries one by one, always from the first on, so that every sample is the same work."""
        for number in range(count):
            item = self._data.queries[number % len(self._data.queries)]
            embed(self._model, [decode(self._data.query_modality, item)], role="query")
        return count

    def vectors(self, count: int) -> Vectors:
        """Return the vectors of the corpus's first items, shape (count, dim), float32."""
        found = embed(self._model, [decode(self._data.modality, item) for item in self._data.corpus[:count]])
        synchronize(self._spec["device"])
        return found


class Searching:
    """The collection of a search cell, and what is repeated of it.

    Parameters
    ----------
    spec : mapping
        What `planned` says of it.
    vectors : Path
        Folder with ``corpus.npy`` and ``queries.npy``.
    folder : Path
        Empty; the store's files go there.
    """

    def __init__(self, spec: Mapping[str, Any], vectors: Path, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        self._corpus: Vectors = np.load(vectors / "corpus.npy", mmap_mode="r")
        self._quantiser = Quantiser.of(self._corpus, spec["vector_type"])
        self._queries: NDArray[Any] = self._quantiser(np.load(vectors / "queries.npy"))
        self._numbers = _requests(len(self._queries), spec["nq"], random.Random(spec["seed"]))
        self._index: Index = build(spec["index"], key="index")
        self._store: Store = build(spec["store"], key="store")
        self._below = parts_of(spec["filter"][0])
        self._seconds: dict[tuple[Any, ...], list[float]] = {}

    def open(self) -> None:
        """Open the store and create the collection."""
        self._store.open(self._folder)
        self._store.create(
            "gate",
            dim=self._corpus.shape[1],
            metric=self._spec["metric"],
            index=self._index,
            vector_type=self._quantiser.vector_type,
            filtered=self._below is not None,
        )
        step = max(1, int(self._store.largest_insert * min(1.0, 1024 / self._corpus.shape[1])))  # the limit is stated for 4-kB vectors
        self._parts = [(first, self._quantiser(self._corpus[first : first + step])) for first in range(0, len(self._corpus), step)]

    def insert(self) -> None:
        """Insert the corpus."""
        for first, part in self._parts:
            self._store.insert(part, first)
        self._parts = []

    def build(self) -> None:
        """Build the index, until the store says that it is ready."""
        self._store.build()
        self._store.wait_ready(rows=len(self._corpus), deadline_s=self._spec["deadline_s"])

    def block(self, k: int, params: Mapping[str, int | float], size: int) -> int:
        """Send so many requests of an operating point by the search cell's own loop, always from the first query on."""
        point = _Point("point", Asked(k, dict(params), self._below))
        _block(point, self._store, self._queries, self._numbers, size)
        self._seconds.setdefault((k, *sorted(params.items())), []).extend(point.timed.seconds)
        return point.timed.count

    def latencies(self, k: int, params: Mapping[str, int | float]) -> list[float]:
        """Return the seconds that each request of an operating point took so far, and forget them."""
        return self._seconds.pop((k, *sorted(params.items())), [])

    def ids(self, k: int, params: Mapping[str, int | float]) -> Ids:
        """Return the answers to all queries, asked one at a time, shape (queries, k)."""
        below = {} if self._below is None else {"below": self._below}
        return np.concatenate([self._store.search(query[None], k, params, **below) for query in self._queries])

    def index_bytes(self) -> int | None:
        """Return the size of the index, None where the engine does not tell it."""
        return self._store.index_bytes()

    def close(self) -> None:
        """Drop the collection and close the store."""
        self._store.drop()
        self._store.close()
