"""Which rows were there while rows came and went, and how much of the exact answer of that moment a search found.

A change takes effect at some time between its sending and its acknowledgement, a search looks at some time between its sending and its
answer; nobody outside the engine knows when. So for each search a row is one of these:

- *certain*: acknowledged before the search was sent, and no change of it sent before the answer came;
- *gone*: its removal was acknowledged before the search was sent;
- *in doubt*: a change of it overlaps the search. Such rows count neither way: they are taken out of the answer, which leaves j of k
  ids, and what is left is held against the j nearest certain rows.

An exact engine whose changes are visible when they are acknowledged scores 1 by this, whatever the overlaps: what it saw is the
certain rows and some of those in doubt, so its answer without the latter is the j nearest certain rows. A row that is acknowledged and not
visible yet is a miss, and so is one that is gone and still returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.errors import StoreError
from harness.groundtruth import exact_neighbours
from harness.interfaces import Ids, Vectors
from harness.metrics.recall import recall_at_k, strict_recall_at_k
from harness.metrics.similarity import Neighbours

BEFORE, NEVER = -(2**62), 2**62
"""Times of the clock, in nanoseconds, before and after all others."""

State = Literal["certain", "gone", "in doubt", "not yet"]


@dataclass
class Version:
    """One row of the source under one id, from when to when."""

    source: int
    """Number of the row whose vector it has."""
    id: int
    born_sent: int = BEFORE
    born_acked: int = BEFORE
    died_sent: int = NEVER
    died_acked: int = NEVER

    def state(self, sent: int, done: int) -> State:
        """Return what it is to a search that was sent and answered at these times."""
        if self.died_acked <= sent:
            return "gone"
        if self.born_sent >= done:
            return "not yet"
        return "certain" if self.born_acked <= sent and self.died_sent >= done else "in doubt"


class History:
    """Every version of every row that changed; the others are certain at all times under their own numbers.

    Written by one thread while searches run, and read when they have ended.

    Parameters
    ----------
    rows : int
        Rows 0 … rows - 1 are there from the beginning, each under its own number.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._of_id: dict[int, list[Version]] = {}
        self._of_source: dict[int, list[Version]] = {}

    def now(self, source: int) -> Version:
        """Return the version under which a row of the source is there; of one that is not, its last one."""
        if source not in self._of_source:
            self._keep(Version(source, source))
        return self._of_source[source][-1]

    def came(self, source: int, number: int, sent: int, acked: int) -> None:
        """Note that a row of the source came under an id."""
        self.now(source)
        self._keep(Version(source, number, sent, acked))

    def went(self, source: int, sent: int, acked: int) -> None:
        """Note that a row of the source went."""
        version = self.now(source)
        version.died_sent, version.died_acked = sent, acked

    def _keep(self, version: Version) -> None:
        self._of_source.setdefault(version.source, []).append(version)
        self._of_id.setdefault(version.id, []).append(version)

    def is_certain(self, source: int, sent: int, done: int) -> bool:
        """Say whether a row of the source was certainly there all through a search, under whichever id."""
        versions = self._of_source.get(source)
        return versions is None or any(one.state(sent, done) == "certain" for one in versions)

    def returned(self, number: int, sent: int, done: int) -> tuple[State, int]:
        """Return what an id that a search answered with was at that moment, and, if certain, the row of the source that it stood for.

        Raises
        ------
        harness.errors.StoreError
            When no row had that id until the answer came.
        """
        versions = self._of_id.get(number)
        if versions is None and 0 <= number < self.rows:
            return "certain", number
        states = [(one.state(sent, done), one.source) for one in versions or ()]
        for wanted in ("in doubt", "certain", "gone"):
            for state, source in states:
                if state == wanted:
                    return state, source
        raise StoreError(f"a search returned id {number}, which no row has had until then: the ids are not those that were inserted")


@dataclass(frozen=True)
class Judged:
    """What one query's answer was worth at its moment."""

    recall: float | None
    """Share of the nearest certain rows found, ties counting as found; None where all that was returned was in doubt."""
    strict: float | None
    """The same by number alone."""
    returned: int
    """Ids returned, those in doubt left out."""
    gone: int
    """Ids among them whose row had gone before the search was sent."""


def judge(ids: Ids, query: Vectors, history: History, sent: int, done: int, *, corpus: Vectors, truth: Neighbours) -> Judged:
    """Hold one query's answer against exact search over the rows that were certainly there.

    Parameters
    ----------
    ids : ndarray of shape (k,), int64
        The answer, best first, -1 where fewer than k were found.
    query : ndarray of shape (1, dim)
    history : History
        Complete, for all changes that were sent before `done`.
    sent, done : int
        When the search was sent and answered, by the clock of the history.
    corpus : ndarray of shape (rows, dim), float32
        The source vectors, of rows that are there and of rows that are not.
    truth : Neighbours
        The query's exact neighbours among all of `corpus`, shape (1, depth), however many there are; where they do not reach as far as
        is needed, the query is searched for anew.

    Returns
    -------
    Judged
    """
    found, gone = [], 0
    for number in ids.tolist():
        state, source = ("certain", -1) if number < 0 else history.returned(number, sent, done)
        if state == "in doubt":
            continue
        found.append(source if state == "certain" else -1)
        gone += state == "gone"
    returned = sum(source >= 0 for source in found) + gone
    nearest = _nearest(query, history, sent, done, len(found), corpus, truth) if found else None
    if nearest is None:
        return Judged(None, None, returned, gone)
    answer, k = np.asarray([found], dtype=np.int64), nearest.ids.shape[1]
    return Judged(
        recall=float(recall_at_k(answer, nearest, k=k, queries=query, corpus=corpus)[0]),
        strict=float(strict_recall_at_k(answer, nearest, k=k)[0]),
        returned=returned,
        gone=gone,
    )


def _nearest(query: Vectors, history: History, sent: int, done: int, wanted: int, corpus: Vectors, truth: Neighbours) -> Neighbours | None:
    """Return the nearest rows among those that were certainly there, as many as wanted or as there were; None if there were none."""
    there = [place for place, source in enumerate(truth.ids[0].tolist()) if history.is_certain(source, sent, done)][:wanted]
    if len(there) < wanted and truth.ids.shape[1] < len(corpus):
        rows = np.asarray([source for source in range(len(corpus)) if history.is_certain(source, sent, done)], dtype=np.int64)
        if not len(rows):
            return None
        exact = exact_neighbours(query, corpus[rows], k=wanted, metric=truth.metric)
        return Neighbours(rows[exact.ids], exact.scores, truth.metric, len(corpus))
    return Neighbours(truth.ids[:, there], truth.scores[:, there], truth.metric, len(corpus)) if there else None
