"""The search cell: how well and how fast an index finds neighbours among the vectors that a model made.

Each replicate is a fresh process that builds the index anew (so that insert, build and recall are repeated as a whole),
lets the store prove that it is ready, warms it up with documents as queries, which are no part of what is measured, and
then measures all operating points in short blocks in an order that is shuffled in every round. All that is reported of
an operating point comes from these same requests: recall from the ids they returned, QPS from the wall time of their
blocks, percentiles from their latencies.

Two more collections are measured in the same rounds. *Round trip*: a near-empty one, what any request to this store
costs. *Floor*: as many rows, in the smallest dimension, under the store's cheapest index at its lowest knob, what the
number of rows costs whatever the index. What lies above the floor is what the choice of index can change.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.build import build
from harness.interfaces import Ids, Index, Ready, Store, Vectors
from harness.memory import peak_rss_bytes
from harness.replicate import Report
from harness.timing import Timed, Until, seconds_of

_FLOOR_DIM = 2
"""Smallest dimension that every store takes."""
_NEAR_EMPTY = 10
"""Rows of the near-empty collection."""
_BLOCK = 20
"""Requests a block: short enough that drift hits all operating points alike, long enough that switching does not count."""
_WARM_UP = 32
"""Requests before the first measured one of each operating point."""


@dataclass
class _Point:
    """One operating point while it is being measured."""

    name: str
    k: int
    params: Mapping[str, int | float]
    store: Store
    queries: Vectors
    order: list[int]
    timed: Timed = field(default_factory=Timed)
    answers: dict[int, Ids] = field(default_factory=dict)

    def one(self, i: int) -> Ids:
        return self.store.search(self.queries[i : i + 1], self.k, self.params)

    def block(self) -> None:
        start = self.timed.count
        numbers = [self.order[(start + step) % len(self.order)] for step in range(_BLOCK)]
        for number, ids in zip(numbers, self.timed.block(self.one, numbers), strict=True):
            self.answers.setdefault(number, ids[0])


@dataclass(frozen=True)
class _Loaded:
    """What loading a collection took."""

    insert_s: float
    build_s: float
    ready_s: float
    ready: Ready


def _load(store: Store, folder: Path, vectors: Vectors, index: Index, spec: Mapping[str, Any], report: Callable[[float], None]) -> _Loaded:
    """Open a store and bring it to where it can be searched, timing each part."""
    folder.mkdir()
    store.open(folder)
    store.create("harness_bench", dim=vectors.shape[1], metric=spec["metric"], index=index, vector_type="fp32", filtered=False)
    step = max(1, int(store.largest_insert * min(1.0, 1024 / vectors.shape[1])))  # the limit is stated for 4-kB vectors
    insert_s = 0.0
    for first in range(0, len(vectors), step):
        part = np.ascontiguousarray(vectors[first : first + step])
        seconds, _ = seconds_of(lambda part=part, first=first: store.insert(part, first))  # type: ignore[misc]
        insert_s += seconds
        report(min(1.0, (first + step) / len(vectors)))
    build_s, _ = seconds_of(store.build)
    ready_s, ready = seconds_of(lambda: store.wait_ready(rows=len(vectors), deadline_s=spec["deadline_s"]))
    return _Loaded(insert_s, build_s, ready_s, ready)


@contextmanager
def _released(stores: Sequence[Store]) -> Iterator[None]:
    """Drop and close the stores at the end; after a failure, errors of that do not hide what came first."""
    try:
        yield
    except BaseException:
        for store in stores:
            for leave in (store.drop, store.close):
                with suppress(Exception):
                    leave()
        raise
    for store in stores:
        store.drop()
        store.close()


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Measure one replicate; leaves ``result.json`` and ``samples.npz`` in `folder`."""
    source = Path(spec["vectors"])
    corpus: Vectors = np.load(source / "corpus.npy", mmap_mode="r")
    queries: Vectors = np.load(source / "queries.npy")
    rng = np.random.default_rng([spec["seed"], spec["replicate"]])
    shuffle = random.Random(f"{spec['seed']} {spec['replicate']}")
    index: Index = build(spec["index"], key="index")
    measured_store: Store = build(spec["store"], key="store")  # asked for its floor; the ones opened are built anew
    stores: list[Store] = []

    def opened(name: str, vectors: Vectors, index: Index) -> tuple[Store, _Loaded]:
        store: Store = build(spec["store"], key="store")
        stores.append(store)
        return store, _load(store, folder / name, vectors, index, spec, lambda share: report(f"insert {name}", share, len(vectors)))

    def build_floor(rows: int, k: int) -> Index:
        return measured_store.floor_index(rows=rows, k=k)

    with _released(stores):
        deepest, rows = max(spec["k"]), len(corpus)
        tiny_queries = np.ascontiguousarray(corpus[:_NEAR_EMPTY])
        tiny, _ = opened("round trip", tiny_queries, build_floor(_NEAR_EMPTY, min(deepest, _NEAR_EMPTY)))
        # The first search of a process imports what its client needs; that is no property of the index measured.
        tiny.search(tiny_queries[:1], 1, build_floor(_NEAR_EMPTY, 1).search_params()[0])
        small = rng.standard_normal((rows, _FLOOR_DIM)).astype(np.float32)
        floor, _ = opened("floor", small, build_floor(rows, deepest))
        main, loaded = opened("index", corpus, index)
        index_bytes = main.index_bytes()

        first_query_s, _ = seconds_of(lambda: main.search(queries[:1], min(spec["k"]), index.search_params()[0]))
        small_queries = rng.standard_normal((min(len(queries), 256), _FLOOR_DIM)).astype(np.float32)

        def point(name: str, k: int, params: Mapping[str, int | float], store: Store, asked: Vectors) -> _Point:
            return _Point(name, k, params, store, asked, _shuffled(len(asked), shuffle))

        points = [point("point", k, params, main, queries) for k in spec["k"] for params in index.search_params()]
        for k in spec["k"]:
            points.append(point("floor", k, build_floor(rows, k).search_params()[0], floor, small_queries))
            few = min(k, _NEAR_EMPTY)
            points.append(point("round_trip", few, build_floor(_NEAR_EMPTY, few).search_params()[0], tiny, queries))
        held_out = np.ascontiguousarray(corpus[rng.integers(len(corpus), size=_WARM_UP)])
        for one in points:
            for i in range(_WARM_UP):
                vector = small_queries[i % len(small_queries)] if one.name == "floor" else held_out[i]
                one.store.search(vector[None], one.k, one.params)
        until = Until(min_s=spec["share_s"], min_count=max(spec["min_requests"], len(queries)))  # every query at least once
        while left := [one for one in points if not until.met(one.timed.wall_s, one.timed.count)]:
            shuffle.shuffle(left)
            for one in left:
                one.block()
            wanted = until.min_count * len(points)
            report("search", sum(min(one.timed.count, until.min_count) for one in points) / wanted, wanted)
        version = main.version()

    measured = [one for one in points if one.name == "point"]
    result = {
        "insert_s": loaded.insert_s,
        "build_s": loaded.build_s,
        "ready_s": loaded.ready_s,
        "ready": asdict(loaded.ready),
        "index_bytes": index_bytes,
        "first_query_s": first_query_s,
        "version": version,
        "floor_index": build_floor(rows, deepest).family,
        "points": [
            {"k": one.k, "search_params": dict(one.params), "wall_s": one.timed.wall_s, "count": one.timed.count} for one in measured
        ],
    }
    arrays: dict[str, Any] = {f"latency_s_{i}": one.timed.array() for i, one in enumerate(measured)}
    arrays |= {f"ids_{i}": np.stack([one.answers[q] for q in range(len(queries))]) for i, one in enumerate(measured)}
    for name in ("floor", "round_trip"):
        of_each_k = (one for one in points if one.name == name)
        arrays |= {f"{name}_s_{k}": one.timed.array() for k, one in zip(spec["k"], of_each_k, strict=True)}
    np.savez(folder / "samples.npz", **arrays)
    (folder / "result.json").write_text(json.dumps(result))


def _shuffled(count: int, order: random.Random) -> list[int]:
    numbers = list(range(count))
    order.shuffle(numbers)
    return numbers


def measure_memory(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Load and search the collection once more in a process of its own, and write down the peak."""
    report("memory", 0.0)
    source = Path(spec["vectors"])
    corpus: Vectors = np.load(source / "corpus.npy", mmap_mode="r")
    queries: Vectors = np.load(source / "queries.npy", mmap_mode="r")
    store: Store = build(spec["store"], key="store")
    index: Index = build(spec["index"], key="index")
    with _released([store]):
        _load(store, folder / "index", corpus, index, spec, lambda share: report("memory", share))
        for params in index.search_params():
            for query in queries[:_WARM_UP]:
                store.search(np.ascontiguousarray(query[None]), max(spec["k"]), params)
    (folder / "result.json").write_text(json.dumps({"peak_rss_bytes": peak_rss_bytes() if store.in_process else None}))
