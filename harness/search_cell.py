"""The search cell: how well and how fast an index finds neighbours among the vectors that a model made.

Each replicate is a fresh process that builds the index anew (so that insert, build and recall are repeated as a whole),
lets the store prove that it is ready, warms it up with documents as queries, which are no part of what is measured, and
then measures all operating points: those of one client in short blocks, those of several clients in stretches of load, in an
order that is shuffled in every round; open loops after that, each in one run, since a queue needs time to grow. All
that is reported of an operating point comes from these same requests: recall from the ids they returned, QPS from the wall time of
their blocks, percentiles from their latencies.

With ``target_recall`` the first replicate looks for the smallest value of the knob whose recall, by the lower end of its interval
on one half of the queries, reaches the target; every replicate then measures there, on the other half.

Two more collections are measured in the same rounds, by one client. *Round trip*: a near-empty one, what any request to this store
costs. *Floor*: as many rows, in the smallest dimension, under the store's cheapest index at its lowest knob, what the
number of rows costs whatever the index. What lies above the floor is what the choice of index can change.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import numpy as np
from numpy.typing import NDArray

from harness.build import build
from harness.churn_cell import Churn, Churned
from harness.groundtruth import exact_neighbours
from harness.interfaces import PARTS, Changeable, Ids, Index, LocalServer, Ready, Store, Vectors
from harness.load import Asked, Clients, Search, Traffic, highest_rate
from harness.memory import give_back, peak_rss_bytes
from harness.metrics.similarity import Neighbours
from harness.quantise import Quantiser
from harness.replicate import Report
from harness.timing import Timed, Until, seconds_of
from harness.tuning import smallest_knob
from harness.vectors import open_truth

_FLOOR_DIM = 2
"""Smallest dimension that every store takes."""
_NEAR_EMPTY = 10
"""Rows of the near-empty collection."""
_BLOCK = 20
"""Requests a block at least: short enough that drift hits all operating points alike."""
_BLOCK_S = 0.02
"""A block of quick requests has more of them: the first after a switch find the caches cold, as none does in a loop of one point."""
_BLOCKS = 20
"""Blocks that an operating point has at least, whatever they hold, so that it is interleaved with the others."""
_STRETCH_S = 0.25
"""A stretch of closed load by several clients: as a block, but clients begin and end within milliseconds of each other."""
_STRETCH_LATENCIES = 40
"""A stretch is so many latencies long at least, once they are known: at its end clients wait for each other, half a latency or more."""
_WARM_UP = 32
"""Requests before the first measured one of each operating point."""
_COLLECTION = "harness_bench"


@dataclass
class _Point:
    """One operating point while it is being measured."""

    name: str
    """``point``, or ``floor`` or ``round_trip`` for the collections beside it."""
    asked: Asked
    clients: int | None = 1
    """Clients of a closed loop; None for an open one."""
    rate_per_s: float | None = None
    """Rate of an open loop; None with `clients` None: the highest that meets the target is looked for."""
    churn_per_s: float | None = None
    """Changes a second to the rows meanwhile; None where they stay as they are."""
    selectivity: float | None = None
    target_recall: float | None = None
    timed: Timed = field(default_factory=Timed)
    traffic: Traffic = field(default_factory=Traffic)
    answers: dict[int, Ids] = field(default_factory=dict)
    highest_rate_per_s: float | None = None
    distances: float | None = None
    churned: Churned | None = None

    @property
    def serial(self) -> bool:
        return self.clients == 1

    @property
    def count(self) -> int:
        return len(self.latencies) if self.churned else self.timed.count if self.serial else self.traffic.count

    @property
    def wall_s(self) -> float:
        return (self.churned or (self.timed if self.serial else self.traffic)).wall_s

    @property
    def latencies(self) -> NDArray[np.float64]:
        if self.churned:
            return self.churned.latency_s
        return self.timed.array() if self.serial else self.traffic.latencies

    def asked_already(self, number: int) -> bool:
        return number in self.traffic.answers or number in self.traffic.failed

    @property
    def stretch_s(self) -> float:
        """How long the next stretch has to be, so that the requests under way at its end, which count in part only, are few."""
        return _STRETCH_LATENCIES * float(self.latencies.mean()) if self.count else 0.0

    def requests_in(self, seconds: float) -> int:
        """How many requests, one after the other, take about so long; 0 as long as none was timed."""
        return int(seconds * self.count / self.wall_s) if self.count else 0

    def about(self) -> dict[str, Any]:
        """Return what the record says of this point besides its samples."""
        traffic = self.traffic
        return {
            "k": self.asked.k,
            "search_params": dict(self.asked.params),
            "concurrency": self.clients,
            "rate_per_s": self.rate_per_s,
            "churn_per_s": self.churn_per_s,
            "churn": None if self.churned is None else self.churned.about(),
            "selectivity": self.selectivity,
            "target_recall": self.target_recall,
            "wall_s": self.wall_s,
            "count": self.count,
            "errors": dict(traffic.errors),
            "timeouts": traffic.timeouts,
            "client_cpu": traffic.cpu_share or None,
            "slip": traffic.slip,
            "send_lag_p99_s": float(np.quantile(traffic.lags, 0.99)) if self.clients is None and len(traffic.lags) else None,
            "highest_rate_per_s": self.highest_rate_per_s,
            "distance_computations": self.distances,
        }


@dataclass(frozen=True)
class _Loaded:
    """What loading a collection took."""

    insert_s: float
    build_s: float
    """From the last insertion until the store has proven that it is ready: many stores build after the call to build has returned."""
    ready_s: float
    """The part of that after the call."""
    ready: Ready


def _load(
    store: Store,
    folder: Path,
    vectors: NDArray[Any],
    index: Index,
    spec: Mapping[str, Any],
    report: Callable[[float], None],
    quantiser: Quantiser,
    filtered: bool,
    dim: int,
    deadline_s: float,
) -> _Loaded:
    """Open a store and bring it to where it can be searched, timing each part; quantising is not part of any.

    What was read of a memory-mapped file is given back, so that it is not in the memory figure.
    """
    folder.mkdir()
    store.open(folder)
    store.create(_COLLECTION, dim=dim, metric=spec["metric"], index=index, vector_type=quantiser.vector_type, filtered=filtered)
    step = max(1, int(store.largest_insert * min(1.0, 1024 / dim)))  # the limit is stated for 4-kB vectors
    insert_s = 0.0
    for first in range(0, len(vectors), step):
        part = quantiser(vectors[first : first + step])
        seconds, _ = seconds_of(lambda part=part, first=first: store.insert(part, first))  # type: ignore[misc]
        insert_s += seconds
        give_back(vectors)
        report(min(1.0, (first + step) / len(vectors)))
    call_s, _ = seconds_of(store.build)
    ready_s, ready = seconds_of(lambda: store.wait_ready(rows=len(vectors), deadline_s=deadline_s))
    return _Loaded(insert_s, call_s + ready_s, ready_s, ready)


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


def _attached(node: Mapping[str, Any], endpoint: str, collection: Mapping[str, Any], index: Mapping[str, Any]) -> Search:
    """Connect to a collection that another process has made; runs in a client process."""
    store: Store = build(node, key="store")
    store.attach(endpoint, _COLLECTION, index=build(index, key="index"), **collection)
    return _search_of(store)


def _search_of(store: Store) -> Search:
    def search(queries: NDArray[Any], k: int, params: Mapping[str, int | float], below: int | None) -> Ids:
        return store.search(queries, k, params, below=below)

    return search


def parts_of(selectivity: float | None) -> int | None:
    """Return below which part a row must lie for this share of the rows to pass; None without a filter."""
    return None if selectivity is None else round(selectivity * PARTS)


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Measure one replicate; leaves ``result.json`` and ``samples.npz`` in `folder`."""
    source = Path(spec["vectors"])
    corpus: Vectors = np.load(source / "corpus.npy", mmap_mode="r")
    queries: Vectors = np.load(source / "queries.npy")
    rng = np.random.default_rng([spec["seed"], spec["replicate"]])
    shuffle = random.Random(f"{spec['seed']} {spec['replicate']}")
    index: Index = build(spec["index"], key="index")
    quantiser = Quantiser.of(corpus, spec["vector_type"])
    filtered = any(share is not None for share in spec["filter"])
    measured_store: Store = build(spec["store"], key="store")  # asked for its floor; the ones opened are built anew
    tuning, asked = _halves(len(queries), spec)
    stored_queries = quantiser(queries[asked])
    requests = _requests(len(asked), spec["nq"], shuffle)
    several = max([*spec["concurrency"], *(2 for _ in spec["rate"]), 2 if spec["p99_target_s"] else 1])
    stores: list[Store] = []
    patience_s = spec["deadline_s"]  # of all waits together

    def opened(name: str, vectors: Vectors, index: Index, quantiser: Quantiser, filtered: bool) -> tuple[Store, _Loaded]:
        nonlocal patience_s
        store: Store = build(spec["store"], key="store")
        stores.append(store)

        def told(share: float) -> None:
            report(f"insert {name}", share, len(vectors))

        loaded = _load(store, folder / name, vectors, index, spec, told, quantiser, filtered, vectors.shape[1], patience_s)
        patience_s = max(0.0, patience_s - loaded.ready_s)
        return store, loaded

    def build_floor(rows: int, k: int) -> Index:
        return measured_store.floor_index(rows=rows, k=k)

    plain = Quantiser("fp32")
    processes = 0 if measured_store.in_process or several == 1 else Clients.processes_for(several)
    with Clients(stored_queries, requests, processes=processes) as clients, _released(stores):
        deepest, rows = max(spec["k"]), len(corpus)
        tiny_queries = np.ascontiguousarray(corpus[:_NEAR_EMPTY])
        tiny, _ = opened("round trip", tiny_queries, build_floor(_NEAR_EMPTY, min(deepest, _NEAR_EMPTY)), plain, False)
        # The first search of a process imports what its client needs; that is no property of the index measured.
        tiny.search(tiny_queries[:1], 1, build_floor(_NEAR_EMPTY, 1).search_params()[0])
        small = rng.standard_normal((rows, _FLOOR_DIM)).astype(np.float32)
        floor, _ = opened("floor", small, build_floor(rows, deepest), plain, False)
        rss_before = _server_rss(floor)
        main, loaded = opened("index", corpus, index, quantiser, filtered)
        rss_after = _server_rss(main)
        index_bytes = main.index_bytes()

        first_query_s, _ = seconds_of(lambda: main.search(stored_queries[:1], min(spec["k"]), index.search_params()[0]))
        small_queries = rng.standard_normal((min(len(queries), 256), _FLOOR_DIM)).astype(np.float32)
        if several > 1:
            endpoint = main.endpoint()
            how = {"dim": corpus.shape[1], "metric": spec["metric"], "vector_type": quantiser.vector_type, "filtered": filtered}
            attach = None if endpoint is None else partial(_attached, spec["store"], endpoint, how, spec["index"])
            clients.connect(_search_of(main), attach)

        tuned = spec.get("tuned")
        if spec["target_recall"] and tuned is None:
            report("tune", 0.0)
            tuned = _tune(main, index, queries[tuning], quantiser, tuning, spec, rows=rows, dim=corpus.shape[1])
        points = _points(spec, index, tuned)
        beside = []
        for k in spec["k"]:
            beside.append(_Point("floor", Asked(k, build_floor(rows, k).search_params()[0])))
            few = min(k, _NEAR_EMPTY)
            beside.append(_Point("round_trip", Asked(few, build_floor(_NEAR_EMPTY, few).search_params()[0])))

        held_out = quantiser(corpus[rng.integers(len(corpus), size=_WARM_UP)])
        at = {
            "point": (main, stored_queries, held_out, requests),
            "floor": (floor, small_queries, small_queries, _requests(len(small_queries), spec["nq"], shuffle)),
            "round_trip": (tiny, queries, np.ascontiguousarray(corpus[: len(held_out)]), _requests(len(queries), spec["nq"], shuffle)),
        }
        for one in (*points, *beside):
            store, _, warm, _ = at[one.name]
            for i in range(_WARM_UP):
                store.search(warm[i % len(warm)][None], one.asked.k, one.asked.params, **_below(one.asked))

        until = Until(min_s=spec["share_s"], min_count=max(spec["min_requests"], len(requests)))

        def done(one: _Point) -> bool:
            return until.met(one.wall_s, one.count) and (one.serial or all(map(one.asked_already, range(len(asked)))))

        changing = [one for one in points if one.churn_per_s is not None]
        closed = [*beside, *(one for one in points if one.clients is not None and one.churn_per_s is None)]
        opens = [one for one in points if one.clients is None]
        total = until.min_count * (len(closed) + len(opens) + len(changing))

        def progress() -> None:
            report("search", sum(min(one.count, until.min_count) for one in (*closed, *opens, *changing)) / total, total)

        while left := [one for one in closed if not done(one)]:
            shuffle.shuffle(left)
            for one in left:
                if one.serial:
                    store, vectors, _, numbered = at[one.name]
                    all_in_all = max(until.min_count, one.requests_in(spec["share_s"]))
                    size = max(_BLOCK, min(one.requests_in(_BLOCK_S), all_in_all // _BLOCKS))
                    _block(one, store, vectors, numbered, size)
                else:
                    assert one.clients is not None
                    clients.closed(one.asked, one.clients, max(_STRETCH_S, spec["share_s"] / 8, one.stretch_s), one.traffic)
                progress()
        shuffle.shuffle(opens)
        for one in opens:
            _open_loop(one, clients, until, spec, rng)
            progress()
        for one in points:
            if one.churn_per_s is None:
                one.distances = _distances(main, stored_queries, one.asked)
            if not one.serial:
                one.answers = _completed(one, main, stored_queries)
        if changing:  # last, for the collection is another one afterwards
            shuffle.shuffle(changing)
            churn = _churn(main, corpus, queries, quantiser, asked, spec)
            churn.take_out(changing[0].asked)
            for one in changing:
                assert one.churn_per_s is not None
                one.churned = churn.run(one.asked, one.churn_per_s, stored_queries, queries[asked], requests, until)
                progress()
        version = main.version()
        server = None if main.in_process else urldefrag(main.endpoint() or "").url or None

    result = {
        "insert_s": loaded.insert_s,
        "build_s": loaded.build_s,
        "ready_s": loaded.ready_s,
        "ready": asdict(loaded.ready),
        "index_bytes": index_bytes,
        "server_rss_before_bytes": rss_before,
        "server_rss_bytes": rss_after,
        "first_query_s": first_query_s,
        "version": version,
        "server": server,
        "floor_index": build_floor(rows, deepest).family,
        "asked": asked.tolist(),
        "tuned": tuned,
        "nq": spec["nq"],
        "points": [one.about() for one in points],
    }
    arrays: dict[str, Any] = {f"latency_s_{i}": one.latencies for i, one in enumerate(points)}
    for i, one in enumerate(points):
        if one.churned is None:
            arrays[f"ids_{i}"] = np.stack([one.answers[q] for q in range(len(asked))])
        else:
            arrays |= {f"{name}_{i}": values for name, values in vars(one.churned).items() if isinstance(values, np.ndarray)}
    for name in ("floor", "round_trip"):
        of_each_k = (one for one in beside if one.name == name)
        arrays |= {f"{name}_s_{k}": one.timed.array() for k, one in zip(spec["k"], of_each_k, strict=True)}
    np.savez(folder / "samples.npz", **arrays)
    (folder / "result.json").write_text(json.dumps(result))


def _below(asked: Asked) -> dict[str, int]:
    """Return the filter as a store takes it; a store without filters is not bothered with the word."""
    return {} if asked.below is None else {"below": asked.below}


def _halves(count: int, spec: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the queries that the knob is tuned on and of those that are measured: all, where nothing is tuned."""
    if not spec["target_recall"]:
        return np.empty(0, dtype=np.int64), np.arange(count)
    order = np.random.default_rng(spec["seed"]).permutation(count)  # the same in every replicate
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _requests(count: int, nq: int, order: random.Random) -> list[NDArray[np.int64]]:
    """Return the queries of each request: every query in turn, in a shuffled order, the last request filled up from its beginning."""
    numbers = list(range(count))
    order.shuffle(numbers)
    return [np.asarray([numbers[(start + i) % count] for i in range(nq)]) for start in range(0, count, nq)]


def _points(spec: Mapping[str, Any], index: Index, tuned: Sequence[Mapping[str, Any]] | None) -> list[_Point]:
    """Return the operating points: every k, value of the knob and filter, under every load."""
    found = []
    for selectivity in spec["filter"]:
        for k in spec["k"]:
            wanted = [(params, None) for params in index.search_params()]
            if tuned is not None:
                wanted = [
                    (one["search_params"], one["target_recall"])
                    for one in tuned
                    if (one["k"], one["selectivity"]) == (k, selectivity) and one["search_params"] is not None
                ]
            for params, target in wanted:
                asked = Asked(k, params, parts_of(selectivity))
                about: dict[str, Any] = {"selectivity": selectivity, "target_recall": target}
                found += [_Point("point", asked, clients, **about) for clients in spec["concurrency"]]
                found += [_Point("point", asked, None, rate, **about) for rate in spec["rate"]]
                found += [_Point("point", asked, churn_per_s=rate, **about) for rate in spec["churn_per_s"]]
                if spec["p99_target_s"]:
                    found.append(_Point("point", asked, None, None, **about))
    return found


def _tune(
    store: Store,
    index: Index,
    queries: Vectors,
    quantiser: Quantiser,
    numbers: NDArray[np.int64],
    spec: Mapping[str, Any],
    *,
    rows: int,
    dim: int,
) -> list[dict[str, Any]]:
    """Return, for every filter, k and target, the search parameters that reach it, or None with the best recall there is."""
    vectors = Path(spec["vectors"])
    found = []
    stored = quantiser(queries)
    for selectivity in spec["filter"]:
        for k in spec["k"]:
            asked = partial(Asked, k, below=parts_of(selectivity))

            def answers(params: Mapping[str, int | float], asked: Any = asked) -> Ids:
                one = asked(params)
                return np.concatenate([store.search(q[None], one.k, one.params, **_below(one)) for q in stored])

            found += [
                {"k": k, "selectivity": selectivity, **one}
                for one in smallest_knob(
                    answers,
                    index,
                    spec["target_recall"],
                    k=k,
                    rows=rows,
                    dim=dim,
                    truth=Path(spec["truth"][str(parts_of(selectivity))]),
                    metric=spec["metric"],
                    vectors=vectors,
                    numbers=numbers,
                )
            ]
    return found


def _block(one: _Point, store: Store, queries: NDArray[Any], requests: Sequence[NDArray[np.int64]], size: int = _BLOCK) -> None:
    """Send the next few requests, one after the other."""
    start = one.timed.count
    numbers = [(start + step) % len(requests) for step in range(size)]
    vectors = [_part(queries, requests[number]) for number in numbers]
    below = _below(one.asked)
    k, params = one.asked.k, one.asked.params

    def request(step: int) -> Ids:
        return store.search(vectors[step], k, params, **below)

    for number, ids in zip(numbers, one.timed.block(request, range(size)), strict=True):
        for query, found in zip(requests[number].tolist(), ids, strict=True):
            one.answers.setdefault(query, found)


def _part(queries: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return the queries of a request; one alone stays where it lies, as in a loop over the rows: a copy is worse aligned."""
    return queries[numbers[0] : numbers[0] + 1] if len(numbers) == 1 else queries[numbers]


def _open_loop(one: _Point, clients: Clients, until: Until, spec: Mapping[str, Any], rng: np.random.Generator) -> None:
    """Measure an open loop at its rate, or look for the highest rate that meets the target and keep what was measured there."""
    if one.rate_per_s is not None:
        clients.open(one.asked, one.rate_per_s, _enough(one.rate_per_s, until), rng, one.traffic)
        return
    best: dict[float, Traffic] = {}

    def meets(rate: float) -> bool:
        seen = Traffic()
        clients.open(one.asked, rate, _enough(rate, until), rng, seen)
        if met := not seen.errors and float(np.quantile(seen.latencies, 0.99)) <= spec["p99_target_s"]:
            best[rate] = seen
        else:
            best.setdefault(0.0, seen)
        return met

    alone = Traffic()
    while not until.met(alone.wall_s, alone.count):
        clients.closed(one.asked, 1, _STRETCH_S, alone)
    if float(np.quantile(alone.latencies, 0.99)) > spec["p99_target_s"]:
        one.traffic = alone  # what takes too long with nobody else there does so at any rate
        return
    start = 0.5 * alone.count / alone.wall_s
    one.highest_rate_per_s = highest_rate(meets, start=start, lowest=start / 64)
    one.traffic = best[one.highest_rate_per_s or 0.0]


def _enough(rate_per_s: float, until: Until) -> int:
    """Return how many requests at a rate meet both minima."""
    return max(until.min_count, int(rate_per_s * until.min_s))


def _completed(one: _Point, store: Store, queries: NDArray[Any]) -> dict[int, Ids]:
    """Return an answer to every query; what the clients did not get to, or got an error for, is asked once more outside any clock."""
    found = dict(one.traffic.answers)
    for number in range(len(queries)):
        if number not in found:
            found[number] = store.search(queries[number][None], one.asked.k, one.asked.params, **_below(one.asked))[0]
    return found


def _distances(store: Store, queries: NDArray[Any], asked: Asked) -> float | None:
    """Return how many distances an average query takes, where the store can count them."""
    count = getattr(store, "distance_computations", None)
    return None if count is None or asked.below is not None else count(queries, asked.k, asked.params)


def _churn(
    store: Store, corpus: Vectors, queries: Vectors, quantiser: Quantiser, asked: NDArray[np.int64], spec: Mapping[str, Any]
) -> Churn:
    """Return what changes the rows of the collection measured."""
    assert isinstance(store, Changeable)  # settings have seen to it
    truth = open_truth(Path(spec["truth"][str(None)]), metric=spec["metric"], rows=len(corpus))
    nearest = Neighbours(truth.ids[asked], truth.scores[asked], truth.metric, truth.rows)
    depth = min(len(corpus), 2 * max(spec["k"]) + 20)  # some of the nearest are not there
    if truth.ids.shape[1] < depth:
        nearest = exact_neighbours(queries[asked], corpus, k=depth, metric=spec["metric"])
    seed = f"{spec['seed']} {spec['replicate']}"
    return Churn(store, corpus, quantiser, nearest, upserts=spec["churn_upserts"], seed=seed)


def _server_rss(store: Store) -> int | None:
    return store.server_rss_bytes() if isinstance(store, LocalServer) else None


def measure_memory(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Load and search the collection once more in a process of its own, and write down the peak."""
    report("memory", 0.0)
    source = Path(spec["vectors"])
    store: Store = build(spec["store"], key="store")
    index: Index = build(spec["index"], key="index")
    if not store.in_process:
        (folder / "result.json").write_text(json.dumps({"peak_rss_bytes": None}))
        return
    corpus: Vectors = np.load(source / "corpus.npy", mmap_mode="r")
    queries: Vectors = np.load(source / "queries.npy", mmap_mode="r")
    quantiser = Quantiser.of(corpus, spec["vector_type"])
    filtered = any(share is not None for share in spec["filter"])
    with _released([store]):
        told = partial(report, "memory")
        _load(store, folder / "index", corpus, index, spec, told, quantiser, filtered, corpus.shape[1], spec["deadline_s"])
        requests = _requests(len(queries), spec["nq"], random.Random(0))[:_WARM_UP]
        for share, params in product(spec["filter"], index.search_params()):
            one = Asked(max(spec["k"]), params, parts_of(share))
            for request in requests:
                store.search(quantiser(queries[request]), one.k, one.params, **_below(one))
    (folder / "result.json").write_text(json.dumps({"peak_rss_bytes": peak_rss_bytes()}))
