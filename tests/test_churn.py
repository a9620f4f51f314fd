"""What an answer is worth while rows change, against every state that the collection may have been in."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.churn import History, judge
from harness.errors import StoreError
from harness.groundtruth import exact_neighbours
from harness.metrics.similarity import Neighbours

ROWS, DIM = 24, 4


@dataclass
class Change:
    """One change of a single writer; it takes effect at some time between its sending and its acknowledgement."""

    sent: int
    acked: int
    effect: int
    gone: tuple[int, int] | None
    """Id and row of the source."""
    new: tuple[int, int] | None


class Story:
    """A random history and what is known of it; changes happen at even times, searches at odd ones."""

    def __init__(self, seed: int, changes: int = 40) -> None:
        self.random = np.random.default_rng(seed)
        self.corpus = self.random.standard_normal((ROWS, DIM)).astype(np.float32)
        self.history = History(ROWS)
        self.changes: list[Change] = []
        live, out, next_id, time = {n: n for n in range(ROWS)}, [], ROWS, 0
        for _ in range(changes):
            sent = time = time + 2 * int(self.random.integers(1, 6))
            acked = time = time + 2 * int(self.random.integers(1, 6))
            effect = int(self.random.choice(np.arange(sent, acked + 1, 2)))
            kind = self.random.choice(["delete", "insert", "replace"]) if out else "delete"
            gone = new = None
            if kind != "insert":
                number = int(self.random.choice(list(live)))
                gone = number, live.pop(number)
            if kind != "delete":
                source = out.pop(0)
                new = (gone[0] if gone else next_id), source
                next_id += gone is None
                live[new[0]] = source
            if gone:
                self.history.went(gone[1], sent, acked)
                out.append(gone[1])
            if new:
                self.history.came(new[1], new[0], sent, acked)
            self.changes.append(Change(sent, acked, effect, gone, new))
        self.end = time

    def search(self) -> tuple[int, int, int]:
        """When a search is sent, looks and is answered."""
        sent = 2 * int(self.random.integers(0, self.end // 2)) + 1
        done = sent + 2 * int(self.random.integers(1, 12))
        return sent, int(self.random.choice(np.arange(sent, done + 1, 2))), done

    def after(self, count: int) -> dict[int, int]:
        """Rows of the source by id once so many changes have taken effect."""
        live = {n: n for n in range(ROWS)}
        for change in self.changes[:count]:
            if change.gone:
                del live[change.gone[0]]
            if change.new:
                live[change.new[0]] = change.new[1]
        return live

    def possible(self, sent: int, done: int) -> list[dict[int, int]]:
        """Every state that the collection may have been in during a search: the changes are made one after the other."""
        least = sum(change.acked < sent for change in self.changes)
        most = sum(change.sent < done for change in self.changes)
        return [self.after(count) for count in range(least, most + 1)]

    def judged(self, answer, query, sent, done, depth):
        truth = exact_neighbours(query, self.corpus, k=ROWS, metric="l2")
        cut = Neighbours(truth.ids[:, :depth], truth.scores[:, :depth], "l2", ROWS)
        return judge(np.asarray(answer), query, self.history, sent, done, corpus=self.corpus, truth=cut)

    def query(self):
        return self.random.standard_normal((1, DIM)).astype(np.float32)

    def nearest(self, query, sources):
        return sorted(sources, key=lambda source: float(np.square(self.corpus[source].astype(float) - query[0]).sum()))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, ROWS + 2), depth=st.sampled_from([3, 12, ROWS]))
def test_an_exact_engine_that_shows_changes_at_once_has_recall_one_whatever_overlaps(seed, k, depth):
    story = Story(seed)
    for _ in range(10):
        sent, looks, done = story.search()
        live = story.after(sum(change.effect < looks for change in story.changes))
        query = story.query()
        number_of = {source: number for number, source in live.items()}
        answer = [number_of[source] for source in story.nearest(query, live.values())][:k]
        found = story.judged(answer + [-1] * (k - len(answer)), query, sent, done, depth)
        assert found.recall in (1.0, None)
        assert found.strict in (1.0, None)
        assert found.gone == 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 10), depth=st.sampled_from([3, 12, ROWS]))
def test_any_answer_is_held_against_what_is_common_to_all_states_that_may_have_been(seed, k, depth):
    story = Story(seed)
    for _ in range(10):
        sent, _, done = story.search()
        states = story.possible(sent, done)
        common = set(states[0].items()).intersection(*(state.items() for state in states))
        any_time = set().union(*states)
        known = sorted(set().union(*(story.after(count) for count in range(sum(change.sent < done for change in story.changes) + 1))))
        answer = story.random.permutation(known)[:k].tolist()
        certain = dict(common)
        doubtful = any_time - set(certain)
        kept = [number for number in answer if number not in doubtful]
        query = story.query()
        nearest = story.nearest(query, certain.values())[: len(kept)]
        found = story.judged(answer, query, sent, done, depth)
        assert found.returned == len(kept)
        assert found.gone == sum(number not in any_time for number in kept)
        if not kept or not nearest:
            assert found.recall is None
        else:
            hits = {certain[number] for number in kept[: len(nearest)] if number in certain} & set(nearest)
            assert found.strict == pytest.approx(len(hits) / len(nearest))


def a_search(history, ids, *, sent=100, done=110):
    corpus = np.eye(4, dtype=np.float32)
    query = np.asarray([[4, 3, 2, 1]], dtype=np.float32)
    truth = exact_neighbours(query, corpus, k=4, metric="ip")
    return judge(np.asarray(ids), query, history, sent, done, corpus=corpus, truth=truth)


def test_a_row_that_is_acknowledged_and_not_found_is_a_miss():
    history = History(4)
    history.went(0, 10, 20)
    assert a_search(history, [1, 2]).recall == 1.0
    history.came(0, 4, 30, 40)
    assert a_search(history, [1, 2]).recall == 0.5
    assert a_search(history, [4, 1]).recall == 1.0


def test_a_row_that_went_and_is_still_returned_is_a_miss_and_counted():
    history = History(4)
    history.went(0, 10, 20)
    found = a_search(history, [0, 1])
    assert (found.recall, found.returned, found.gone) == (0.5, 2, 1)


def test_a_row_that_changes_during_the_search_counts_neither_way():
    history = History(4)
    history.went(0, 90, 105)
    history.came(0, 4, 105, 120)
    for answer in ([0, 1], [4, 1], [1, 2]):
        found = a_search(history, answer)
        assert (found.recall, found.gone) == (1.0, 0)
    assert a_search(history, [0]).recall is None


def test_a_replaced_row_is_its_new_self_once_that_is_acknowledged():
    history = History(4)
    history.went(3, 0, 1)
    history.went(0, 10, 20)
    history.came(3, 0, 10, 20)
    assert a_search(history, [1, 2, 0]).recall == 1.0
    assert a_search(history, [0, 1, 2]).recall == 1.0, "the order of an answer is not judged"
    assert a_search(history, [0, 1]).recall == 0.5


def test_an_id_that_no_row_ever_had_is_an_error():
    history = History(4)
    with pytest.raises(StoreError, match="id 4"):
        a_search(history, [4])
    history.went(0, 0, 1)
    history.came(0, 4, 120, 130)
    with pytest.raises(StoreError, match="until then"):
        a_search(history, [4])
