"""Searching while rows come and go: one client searches, one thread changes rows at a stated rate, one looks when a change shows.

The rows that come are rows of the corpus, so that they are like those that are there: before the first change some are taken out, and
from then on each insertion puts the one in that has been out for longest, under a number that no row has had before, each deletion takes
a row out, and a replacement does both under one number. There are as many insertions as deletions, so that the collection keeps its size.

*Recall* is against exact search over the rows that were there at that moment, see `harness.churn`. *Freshness* is the time from the
acknowledgement of an insertion until the answer of the first search that finds the row, asked for by its own vector again and again, at
the operating point and the store's own level of consistency; *deletion* is the same until a row that was deleted is found no more. Every
change of these two kinds is looked for, all that are outstanding in one request, but for deletions of rows that had been replaced: before
a replacement shows, its vector does not find the row. What is not seen to happen within `GIVE_UP_S` counts as that long and is told.

Changes are due at the times of a Poisson process, and made one after the other: a store that takes longer than that falls behind, which
is told too. Writer and looker are threads beside the client, as in a program that does all three.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.churn import History, judge
from harness.interfaces import Changeable, Ids, Store, Vectors
from harness.load import Asked, quick_switches
from harness.metrics.similarity import Neighbours
from harness.quantise import Quantiser
from harness.timing import Clock, Until

GIVE_UP_S = 10.0
"""How long a change is looked for: twice what Milvus's *Bounded* consistency lets a search lag behind."""
LOOK_S = 0.002
"""Between two looks: the looker is to see when a change shows, not to be a second client that searches all the time."""
IDLE_S = 0.05
"""Between two looks whether all is over, where nothing is outstanding."""
AT_ONCE = 64
"""Most changes that are looked for in one request."""
LEAST_SEEN = 11
"""Insertions to be looked for at least, so that their median can be told (`harness.statistics.samples_for_percentile`)."""
REMOVED_AT_ONCE = 1_000


def rows_taken_out(rows: int) -> int:
    """Return how many rows of a corpus are out at any time: a tenth, a thousand at most."""
    return max(1, min(1_000, rows // 10))


class ChangingStore(Store, Changeable, Protocol):
    """A store whose rows can come and go."""


@dataclass
class Churned:
    """What one operating point was while rows changed; times in seconds."""

    latency_s: NDArray[np.float64]
    wall_s: float
    change_s: NDArray[np.float64]
    """From when a change was sent until it was acknowledged."""
    fresh_s: NDArray[np.float64]
    """From when an insertion was acknowledged until a search found it."""
    deletion_s: NDArray[np.float64]
    """From when a deletion was acknowledged until a search found it no more."""
    unseen: int
    """Changes among these two that were given up."""
    slip: float
    """By how much of its length the changes fell behind their schedule."""
    recall: NDArray[np.float64]
    """Mean over a query's answers, shape (queries,); NaN where all that it ever returned was in doubt."""
    strict: NDArray[np.float64]
    returned: int
    """Ids that were returned, of all answers."""
    gone: int
    """Ids among them of rows that had gone before."""

    def about(self) -> dict[str, Any]:
        """Return what is not samples."""
        return {
            "changes": len(self.change_s),
            "changes_slip": self.slip,
            "unseen": self.unseen,
            "looked_for": len(self.fresh_s) + len(self.deletion_s),
            "returned": self.returned,
            "gone": self.gone,
        }


@dataclass
class _Outstanding:
    """A change that was acknowledged and is looked for."""

    id: int
    vector: NDArray[Any]
    acked: int
    comes: bool


@dataclass
class _Looker:
    """Looks for what has changed until it shows."""

    store: Store
    asked: Asked
    clock: Clock
    outstanding: dict[int, _Outstanding] = field(default_factory=dict)
    """By id, the oldest first; filled by the writer, emptied here, each in one step of the interpreter."""
    news: threading.Event = field(default_factory=threading.Event)
    seen_s: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    unseen: int = 0

    def expect(self, change: _Outstanding) -> None:
        """Look for a change from now on."""
        self.outstanding[change.id] = change
        self.news.set()

    def look(self) -> None:
        """Ask once for what is outstanding."""
        batch = list(self.outstanding.values())[:AT_ONCE]
        answers = self.store.search(np.stack([one.vector for one in batch]), self.asked.k, self.asked.params)
        done = self.clock()
        for one, ids in zip(batch, answers, strict=True):
            took = (done - one.acked) / 1e9
            if shows := (one.id in ids) == one.comes:
                self.seen_s[one.comes].append(took)
            elif took >= GIVE_UP_S:
                self.seen_s[one.comes].append(took)
                self.unseen += 1
            if shows or took >= GIVE_UP_S:
                self.outstanding.pop(one.id, None)


class Churn:
    """The changes of one collection, from one operating point to the next.

    Parameters
    ----------
    store : Store
        Ready, with all rows of the corpus, and `harness.interfaces.Changeable`.
    corpus : ndarray of shape (rows, dim), float32
    quantiser : Quantiser
        What the store takes a vector as.
    truth : Neighbours
        The exact neighbours, among the corpus, of the queries that will be asked.
    upserts : float
        Share of the changes that replace a row; of the others half insert one and half delete one.
    seed : int or str
    """

    def __init__(
        self,
        store: ChangingStore,
        corpus: Vectors,
        quantiser: Quantiser,
        truth: Neighbours,
        *,
        upserts: float,
        seed: str,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self._store, self._corpus, self._quantiser, self._truth = store, corpus, quantiser, truth
        self._upserts, self._random, self._clock = upserts, random.Random(seed), clock
        self.history = History(len(corpus))
        self._in = list(range(len(corpus)))
        self._out: deque[int] = deque()
        self._replacing: set[int] = set()
        """Rows of the corpus that came in the place of another; nobody looks when that shows."""
        self._next_id = len(corpus)
        self._deletes_next = False

    def take_out(self, asked: Asked) -> None:
        """Take the first rows out, and wait until searches no longer find them, as long as a change is looked for."""
        self._random.shuffle(self._in)
        count = rows_taken_out(len(self._corpus))
        self._in, out = self._in[:-count], self._in[-count:]
        for start in range(0, count, REMOVED_AT_ONCE):
            sources = out[start : start + REMOVED_AT_ONCE]
            sent = self._clock()
            self._store.delete(np.asarray(sources, dtype=np.int64))
            acked = self._clock()
            for source in sources:
                self.history.went(source, sent, acked)
        self._out.extend(out)
        some = self._vectors(out[:AT_ONCE])
        began = self._clock()
        while np.isin(self._store.search(some, asked.k, asked.params), out).any() and self._clock() - began < GIVE_UP_S * 1e9:
            time.sleep(LOOK_S)

    def run(
        self, asked: Asked, rate_per_s: float, queries: NDArray[Any], sources: Vectors, requests: Sequence[NDArray[np.int64]], until: Until
    ) -> Churned:
        """Search, one request after the other, while rows change; returns when enough has been asked and enough changes were seen.

        Parameters
        ----------
        asked : Asked
            The operating point.
        rate_per_s : float
            Changes a second.
        queries : ndarray
            All queries, as the store takes them.
        sources : ndarray of shape (n, dim), float32
            The same as the model made them, which the truth is of.
        requests : sequence of ndarray of int
            The queries of each request; each is asked for once at least.
        until : Until
            The least time and count of requests.
        """
        looker = _Looker(self._store, asked, self._clock)
        stop = threading.Event()
        changes: list[tuple[int, int, int]] = []  # due, sent, acknowledged
        log: list[tuple[int, int, int, Ids]] = []  # number of the request, sent, answered, ids
        failures: list[BaseException] = []

        def write() -> None:
            due = self._clock()
            while True:
                due += round(self._random.expovariate(rate_per_s) * 1e9)
                if stop.wait(max(0.0, (due - self._clock()) / 1e9)):
                    return
                changes.append((due, *self._change(looker)))

        def look() -> None:
            while looker.outstanding or not stop.is_set():
                if not looker.outstanding:
                    looker.news.wait(IDLE_S)
                    looker.news.clear()
                    continue
                looker.look()
                if looker.outstanding:
                    time.sleep(LOOK_S)

        def guarded(work: Any) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - a thread's failure is raised again by the one who waits for it
                failures.append(error)
                looker.outstanding.clear()
                stop.set()

        def seen() -> bool:
            return len(changes) >= LEAST_SEEN and (self._upserts == 1 or len(looker.seen_s[True]) >= LEAST_SEEN)

        threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in (write, look)]
        with quick_switches():
            began = self._clock()
            for thread in threads:
                thread.start()
            try:
                while not failures and not (until.met((self._clock() - began) / 1e9, len(log)) and len(log) >= len(requests) and seen()):
                    number = len(log) % len(requests)
                    vectors = queries[requests[number]]
                    sent = self._clock()
                    ids = self._store.search(vectors, asked.k, asked.params)
                    log.append((number, sent, self._clock(), ids))
                wall_s = (self._clock() - began) / 1e9
            except BaseException:
                with suppress(Exception):
                    looker.outstanding.clear()
                raise
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        if failures:
            raise failures[0]
        return self._judged(log, changes, looker, sources, requests, wall_s)

    def _judged(
        self,
        log: Sequence[tuple[int, int, int, Ids]],
        changes: Sequence[tuple[int, int, int]],
        looker: _Looker,
        sources: Vectors,
        requests: Sequence[NDArray[np.int64]],
        wall_s: float,
    ) -> Churned:
        """Work out, when all is over, what the answers were worth."""
        of_query: list[list[tuple[float, float]]] = [[] for _ in range(len(sources))]
        returned = gone = 0
        truth = self._truth
        for number, sent, done, answers in log:
            for query, ids in zip(requests[number].tolist(), answers, strict=True):
                one = Neighbours(truth.ids[query : query + 1], truth.scores[query : query + 1], truth.metric, truth.rows)
                found = judge(ids, sources[query : query + 1], self.history, sent, done, corpus=self._corpus, truth=one)
                returned += found.returned
                gone += found.gone
                if found.recall is not None and found.strict is not None:
                    of_query[query].append((found.recall, found.strict))
        means = np.asarray([np.mean(scores, axis=0) if scores else (np.nan, np.nan) for scores in of_query])
        table = np.asarray(changes, dtype=np.float64).reshape(-1, 3) / 1e9
        return Churned(
            latency_s=np.asarray([done - sent for _, sent, done, _ in log]) / 1e9,
            wall_s=wall_s,
            change_s=table[:, 2] - table[:, 1],
            fresh_s=np.asarray(looker.seen_s[True]),
            deletion_s=np.asarray(looker.seen_s[False]),
            unseen=looker.unseen,
            slip=float(max(0.0, table[-1, 1] - table[-1, 0]) / wall_s),
            recall=means[:, 0],
            strict=means[:, 1],
            returned=returned,
            gone=gone,
        )

    # ------------------------------------------------------------------------------------ the changes

    def _change(self, looker: _Looker) -> tuple[int, int]:
        """Make the next change; returns when it was sent and acknowledged."""
        if self._random.random() < self._upserts:
            return self._replace(looker)
        self._deletes_next = not self._deletes_next
        return self._delete(looker) if self._deletes_next else self._insert(looker)

    def _insert(self, looker: _Looker) -> tuple[int, int]:
        source, number = self._out.popleft(), self._next_id
        self._next_id += 1
        vectors = self._vectors([source])
        sent = self._clock()
        self._store.add(vectors, np.asarray([number], dtype=np.int64))
        acked = self._clock()
        self.history.came(source, number, sent, acked)
        self._in.append(source)
        looker.expect(_Outstanding(number, vectors[0], acked, comes=True))
        return sent, acked

    def _delete(self, looker: _Looker) -> tuple[int, int]:
        source = self._any(looker)
        number = self.history.now(source).id
        sent = self._clock()
        self._store.delete(np.asarray([number], dtype=np.int64))
        acked = self._clock()
        self.history.went(source, sent, acked)
        self._out.append(source)
        if source not in self._replacing:
            looker.expect(_Outstanding(number, self._vectors([source])[0], acked, comes=False))
        self._replacing.discard(source)
        return sent, acked

    def _replace(self, looker: _Looker) -> tuple[int, int]:
        old, new = self._any(looker), self._out.popleft()
        number = self.history.now(old).id
        vectors = self._vectors([new])
        sent = self._clock()
        self._store.upsert(vectors, np.asarray([number], dtype=np.int64))
        acked = self._clock()
        self.history.went(old, sent, acked)
        self.history.came(new, number, sent, acked)
        self._out.append(old)
        self._in.append(new)
        self._replacing.discard(old)
        self._replacing.add(new)
        return sent, acked

    def _any(self, looker: _Looker) -> int:
        """Take some row that is in off the list; not one that is still looked for, which would then never be found."""
        while True:
            place = self._random.randrange(len(self._in))
            if self.history.now(self._in[place]).id not in looker.outstanding:
                self._in[place], self._in[-1] = self._in[-1], self._in[place]
                return self._in.pop()

    def _vectors(self, sources: Sequence[int]) -> NDArray[Any]:
        return self._quantiser(np.asarray(self._corpus[list(sources)]))
