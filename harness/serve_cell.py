"""The serve cell: a query embedded and then searched for, in one loop and one process, which is what a user waits for.

Embed and search cells time the two apart, so that any model can be put together with any index without measuring each pair. What that
leaves out is what they do to each other on one machine: caches, frequency, memory bandwidth, threads. This cell is the whole path as it is
run, for the few pairs where that is worth a measurement; both parts are timed in it too, so that a difference shows where it comes from.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.build import build
from harness.data import open_data
from harness.datasets.decode import decode
from harness.embed_cell import embed, load
from harness.interfaces import Ids, Index, Store, Vectors
from harness.quantise import Quantiser
from harness.replicate import Report
from harness.search_cell import _released
from harness.timing import Timed, Until, seconds_of, working_clock

_COLLECTION = "harness_serve"
_WARM_UP = 32
"""Queries before the first measured one; as in search cells."""
_BLOCK = 20


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Measure one replicate; leaves ``result.json`` and ``samples.npz`` in `folder`.

    Parameters
    ----------
    spec : mapping
        ``embed`` and ``search``: what the processes of the two cells are told (`harness.cells`); ``point``: k and search parameters of the
        operating point.
    """
    about, point = spec["search"], spec["point"]
    data = open_data(Path(spec["embed"]["data"]))
    report("load", 0.0)
    model, _ = load(spec["embed"])
    clock = working_clock(model)
    corpus: Vectors = np.load(Path(about["vectors"]) / "corpus.npy", mmap_mode="r")
    quantiser = Quantiser.of(corpus, about["vector_type"])
    index: Index = build(about["index"], key="index")
    store: Store = build(about["store"], key="store")
    (folder / "store").mkdir()
    with _released([store]):
        store.open(folder / "store")
        store.create(
            _COLLECTION, dim=corpus.shape[1], metric=about["metric"], index=index, vector_type=quantiser.vector_type, filtered=False
        )
        step = max(1, int(store.largest_insert * min(1.0, 1024 / corpus.shape[1])))
        for first in range(0, len(corpus), step):
            store.insert(quantiser(corpus[first : first + step]), first)
            report("insert", min(1.0, (first + step) / len(corpus)))
        store.build()
        store.wait_ready(rows=len(corpus), deadline_s=about["deadline_s"])
        numbers = list(range(len(data.queries)))
        random.Random(f"{spec['seed']} {spec['replicate']}").shuffle(numbers)
        parts: dict[str, list[float]] = {"embed_s": [], "search_s": []}

        def one(i: int) -> Ids:
            embed_s, vector = seconds_of(lambda: embed(model, [decode(data.query_modality, data.queries[i])], role="query"), clock=clock)
            search_s, ids = seconds_of(lambda: store.search(quantiser(vector), point["k"], point["search_params"]))
            parts["embed_s"].append(embed_s)
            parts["search_s"].append(search_s)
            found: Ids = ids
            return found

        for step in range(_WARM_UP):
            one(numbers[step % len(numbers)])
        parts = {"embed_s": [], "search_s": []}
        until, whole = Until(min_s=spec["share_s"], min_count=spec["min_requests"]), Timed()
        while not until.met(whole.wall_s, whole.count):
            whole.block(one, [numbers[(whole.count + step) % len(numbers)] for step in range(_BLOCK)], clock=clock)
            report("serve", min(1.0, whole.count / spec["min_requests"]), spec["min_requests"])
    (folder / "result.json").write_text(json.dumps({"count": whole.count, "wall_s": whole.wall_s}))
    arrays: dict[str, Any] = {"serve_s": whole.array(), **{name: np.asarray(values) for name, values in parts.items()}}
    np.savez(folder / "samples.npz", **arrays)
