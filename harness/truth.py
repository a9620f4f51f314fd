"""Makes the ground truth of a search cell: checked, where the vectors brought one along; in parts, where searching takes long.

How a corpus is cut depends on its size alone, not on who works on it. The neighbours in each part are a folder of the cache, written
under another name, renamed when whole and compared with its checksums when read, so whoever goes on after a kill does only what is
missing, with as many processes as there then are. Merged, they are what one search of the whole corpus finds, bit for bit
(`harness.groundtruth.merged`), wherever each was computed.

A corpus of one part is searched in the process that asks. The parts of a larger one are shared by processes with a thread or more each,
because comparing scores is done in one thread; together they have the threads of the cell and no more. A GPU, where the cell has one,
does the parts one after the other.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from harness import cache
from harness.errors import AuditError
from harness.fingerprint import digest, source_of
from harness.groundtruth import exact_neighbours, merged
from harness.interfaces import Ids, Metric, Vectors
from harness.metrics.recall import recall_at_k
from harness.metrics.similarity import Neighbours, scores_of
from harness.progress import in_words
from harness.replicate import Replicate, Report

_KIND = "truth_part"
_COST = "cost.json"

_PART = 2**36
"""Multiply-adds below which a part is not worth keeping or sharing: some seconds on a core, which starting a process takes too."""

_MOST_PARTS = 64
"""A kill loses a 64th of the work at most in each process, and the neighbours of all parts together stay few."""

_MOST_WORKERS = 8
"""Processes at most, each of which takes some 300 MB; they share the threads between them."""

_PER_S = 1.5e10
"""Multiply-adds a second on one thread of a present server, comparing included: for an estimate where none has been made before."""

_A_WEEK_S = 7 * 86400.0
"""No part takes that long; whoever waits for the whole has a time limit."""

_SAMPLE = 64
"""Queries on which given neighbours are compared with exact search."""


@dataclass(frozen=True)
class Cost:
    """What ground truth costs: a multiply-add for each query, row and dimension."""

    queries: int
    rows: int
    dim: int

    @property
    def multiply_adds(self) -> int:
        """The work, whatever does it."""
        return self.queries * self.rows * self.dim

    @property
    def parts(self) -> list[range]:
        """The rows of each part."""
        count = max(1, min(_MOST_PARTS, self.rows, self.multiply_adds // _PART))
        size = -(-self.rows // count)
        return [range(start, min(start + size, self.rows)) for start in range(0, self.rows, size)]

    def guess(self, threads: int) -> float:
        """Estimate how long it takes, in seconds, by arithmetic alone."""
        return self.multiply_adds / (_PER_S * threads)

    def seconds(self, threads: int, device: str) -> float:
        """Estimate how long it takes, by the rate of the largest one in the cache that was made with as many threads on such a device."""
        rate = _rate_seen(threads, device)
        return self.multiply_adds / rate if rate else self.guess(threads)

    def words(self, threads: int, device: str) -> str:
        """Return the cost as a person is told it before it begins."""
        return (
            f"ground truth: {self.queries:,} queries × {self.rows:,} rows × {self.dim:,} dimensions = {self.multiply_adds:.1e} "
            f"multiply-adds, about {in_words(self.seconds(threads, device))}"
        )


def key_of(vectors: Path, *, k: int, metric: Metric, below: int | None) -> str:
    """Return the name under which ground truth is kept: of what vectors it is, what was asked, and what finds it.

    Parameters
    ----------
    vectors : Path
        A folder with corpus, queries and ``vectors.json``.
    k, metric, below
        See `make_truth`.
    """
    about = json.loads((vectors / "vectors.json").read_text())
    found = {"vectors": about["fingerprint"], "neighbours": about.get("neighbours"), "k": k, "metric": metric, "below": below}
    return digest({**found, "source": source_of([__name__])})[:32]


def make_truth(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Find the exact nearest ``spec["k"]`` documents of every query into ``ids.npy`` and ``scores.npy`` in `folder`.

    What that took goes into ``cost.json``, see `cost_of`.

    Parameters
    ----------
    spec : mapping
        ``vectors`` (a folder), ``k``, ``metric`` and ``below`` say what is looked for; ``key`` under which name parts are kept (without
        one they are not); ``threads`` and ``device`` what may work on it.
    folder : Path
        Existing, for the files.
    report : Report
        Told how far it is and how long it will take by the rate seen.

    Raises
    ------
    harness.errors.AuditError
        When neighbours that came with the vectors are not what exact search finds.
    """
    report("ground truth", 0.0)
    queries, corpus = _opened(spec)
    if spec["below"] is not None:
        (folder / "below.json").write_text(json.dumps(spec["below"]))
    given = Path(spec["vectors"]) / "given.npy"
    if spec["below"] is None and given.exists() and (ids := np.load(given)).shape[1] >= spec["k"]:
        truth = _checked(ids[:, : spec["k"]], queries, corpus, spec["metric"])
    else:
        began = time.monotonic()
        truth, about = _searched(spec, queries, corpus, report)
        (folder / _COST).write_text(json.dumps({**about, "seconds": time.monotonic() - began}))
    np.save(folder / "ids.npy", truth.ids)
    np.save(folder / "scores.npy", truth.scores)


def cost_of(folder: Path) -> dict[str, Any] | None:
    """Return what a ground truth took when it was made; None for one that came with the vectors, or of an earlier version."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / _COST).read_text())
        return found
    return None


def make_part(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Find the exact neighbours among the rows from ``start`` to ``stop`` into ``ids.npy`` and ``scores.npy`` in `folder`."""
    queries, corpus = _opened(spec)
    found = exact_neighbours(
        queries,
        corpus,
        k=spec["k"],
        metric=spec["metric"],
        below=spec["below"],
        rows=range(spec["start"], spec["stop"]),
        device=spec["device"],
        report=partial(report, "part"),
    )
    np.save(folder / "ids.npy", found.ids)
    np.save(folder / "scores.npy", found.scores)


def forget_parts(key: str) -> None:
    """Remove the parts of a ground truth that is whole."""
    for path in (cache.root() / _KIND).glob(f"{key}-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ searching


def _searched(spec: Mapping[str, Any], queries: Vectors, corpus: Vectors, report: Report) -> tuple[Neighbours, dict[str, Any]]:
    """Return the neighbours by exact search, and what worked on it."""
    cost = Cost(len(queries), *corpus.shape)
    threads, device = spec.get("threads", 1), spec.get("device", "cpu")
    about = {"queries": cost.queries, "rows": cost.rows, "dim": cost.dim, "multiply_adds": cost.multiply_adds, "threads": threads}
    parts = cost.parts if "key" in spec else []
    if len(parts) < 2:
        k, metric, below = min(spec["k"], len(corpus)), spec["metric"], spec["below"]
        truth = exact_neighbours(queries, corpus, k=k, metric=metric, below=below, report=partial(report, "ground truth"))
        return truth, {**about, "device": "cpu", "processes": 1, "parts": 1, "kept_parts": 0}  # done before a GPU is awake
    left = [part for part in parts if cache.sound(_KIND, _name(spec, part)) is None]
    workers = min(threads, _MOST_WORKERS, len(left)) if device == "cpu" else 1
    _search_parts(left, {**spec, "device": device}, _TimeLeft(report, len(left)), workers=workers, threads=threads)
    truth = merged((_read(part, spec, len(corpus)) for part in parts), k=spec["k"])
    return truth, {**about, "device": device, "processes": workers, "parts": len(parts), "kept_parts": len(parts) - len(left)}


def _search_parts(parts: Sequence[range], spec: Mapping[str, Any], told: _TimeLeft, *, workers: int, threads: int) -> None:
    """Find the neighbours in each part and keep them; the first failure ends it, with what has been found kept."""

    def keep(part: range, search: Callable[[Mapping[str, Any], Path, Report], None]) -> None:
        wanted = {**spec, "start": part.start, "stop": part.stop}
        cache.get(_KIND, _name(spec, part), lambda folder: search(wanted, folder, told.of(part)))
        told.of(part)("part", 1.0)

    if workers < 2:
        for part in parts:
            keep(part, make_part)
        return
    share = str(threads // workers)
    surroundings = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, "OPENBLAS_NUM_THREADS": share}
    idle: SimpleQueue[Replicate] = SimpleQueue()

    def elsewhere(part: range) -> None:
        server = idle.get()
        try:
            keep(
                part,
                lambda wanted, folder, report: server.run("harness.truth:make_part", wanted, folder, timeout_s=_A_WEEK_S, report=report),
            )
        finally:
            idle.put(server)

    with ExitStack() as stack:
        for _ in range(workers):
            idle.put(stack.enter_context(closing(Replicate(preload=["harness.truth"], environment=surroundings))))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            for _ in pool.map(elsewhere, parts):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _TimeLeft:
    """Puts together how far the parts are, for whoever waits."""

    def __init__(self, report: Report, parts: int) -> None:
        self._report, self._parts = report, parts
        self._done: dict[int, float] = {}
        self._lock = threading.Lock()
        self._began = self._told = time.monotonic()

    def of(self, part: range) -> Report:
        """Return what the search of one part is to tell."""

        def report(_stage: str, fraction: float, _total: int = 0) -> None:
            with self._lock:
                self._done[part.start] = fraction
                now, done = time.monotonic(), sum(self._done.values()) / self._parts
                if done and now > self._told + 1.0:
                    self._told = now
                    self._report(f"ground truth, {in_words((now - self._began) * (1 / done - 1))} to go", done)

        return report


def _opened(spec: Mapping[str, Any]) -> tuple[Vectors, Vectors]:
    """Return queries and corpus."""
    vectors = Path(spec["vectors"])
    return np.load(vectors / "queries.npy"), np.load(vectors / "corpus.npy", mmap_mode="r")


def _name(spec: Mapping[str, Any], part: range) -> str:
    return f"{spec['key']}-{part.start}-{part.stop}"


def _read(part: range, spec: Mapping[str, Any], rows: int) -> Neighbours:
    folder = cache.root() / _KIND / _name(spec, part)
    metric: Metric = spec["metric"]
    return Neighbours(np.load(folder / "ids.npy"), np.load(folder / "scores.npy"), metric, rows, spec["below"])


def _rate_seen(threads: int, device: str) -> float | None:
    """Return the multiply-adds a second of the largest ground truth in the cache that was made in one go and took a second at least."""
    found = [about for folder in (cache.root() / "truth").glob("[!.]*") if (about := cost_of(folder)) is not None]
    alike = [about for about in found if (about["threads"], about["device"], about["kept_parts"]) == (threads, device, 0)]
    largest = max((about for about in alike if about["seconds"] > 1), key=lambda about: int(about["multiply_adds"]), default=None)
    return None if largest is None else float(largest["multiply_adds"]) / float(largest["seconds"])


# ---------------------------------------------------------------------------------------- given neighbours


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
