"""How preparing and embedding share the cores: order, memory, threads, and the bounds that follow from stage times."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import pipeline
from harness.interfaces import Prepared
from harness.pipeline import Crew, bounds, crew, embed_next, pipeline_pass, prepared_ahead
from harness.timing import Timed
from tests.plugins.probes import WatchedModel

BATCHES = [[f"{'word ' * n}{n}"] for n in range(5)]


class Endpoint(WatchedModel):
    def counters(self):
        return {}


def test_on_a_cpu_all_threads_prepare_in_turns_with_the_forward_pass():
    assert crew(WatchedModel(), "cpu", batch_bytes=1000, threads=4) == Crew(workers=4, in_turns=True, turn=4)
    assert crew(WatchedModel(), "cpu", batch_bytes=1000, threads=1) == Crew(workers=1, in_turns=True)


@pytest.mark.parametrize(("model", "device"), [(WatchedModel(), "cuda:0"), (WatchedModel(), "mps"), (Endpoint(), "cpu")])
def test_where_something_else_computes_one_core_feeds_it_and_the_others_prepare_meanwhile(model, device):
    assert crew(model, device, batch_bytes=1000, threads=8) == Crew(workers=7, in_turns=False)
    assert crew(model, device, batch_bytes=1000, threads=1) == Crew(workers=1, in_turns=False)


def test_large_batches_are_prepared_by_fewer_threads_so_that_a_gibibyte_waits_at_most():
    assert crew(WatchedModel(), "cpu", batch_bytes=300 << 20, threads=16) == Crew(3, in_turns=True, turn=1)
    assert crew(WatchedModel(), "cpu", batch_bytes=100 << 20, threads=4) == Crew(4, in_turns=True, turn=2), "eight of 100 MiB wait"
    assert crew(WatchedModel(), "cuda:0", batch_bytes=300 << 20, threads=16).workers == 2, "one more than the workers may wait"
    assert crew(WatchedModel(), "cuda:0", batch_bytes=5 << 30, threads=16).workers == 1


def test_the_threads_are_those_the_measuring_process_was_started_with(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert crew(WatchedModel(), "cpu", batch_bytes=1).workers == 3


@given(st.integers(0, 12), st.integers(1, 5), st.booleans(), st.integers(1, 3))
def test_batches_come_in_order_each_once(count, workers, in_turns, turn):
    def prepare(number):
        time.sleep(0.0005 * (number % 3))  # later ones are ready first
        return number

    with prepared_ahead(prepare, range(count), Crew(workers, in_turns, turn)) as stream:
        assert list(stream) == list(range(count))


@pytest.mark.parametrize(
    ("how", "ahead"), [(Crew(1, False), 2), (Crew(3, False), 4), (Crew(2, True), 2), (Crew(2, True, 3), 6), (Crew(1, True), 1)]
)
def test_no_more_batches_are_prepared_ahead_than_said(how, ahead):
    started = []
    with prepared_ahead(started.append, range(40), how) as stream:
        for used in range(12):
            next(stream)
            time.sleep(0.003)  # long enough for a thread that is not held back to run away
            assert len(started) <= used + 1 + ahead


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_turns_nothing_is_prepared_while_a_batch_is_used(workers):
    running = set()

    def prepare(number):
        running.add(number)
        time.sleep(0.002)
        running.discard(number)
        return number

    with prepared_ahead(prepare, range(12), Crew(workers, in_turns=True)) as stream:
        for _ in stream:
            assert not running
            time.sleep(0.001)


def test_as_many_batches_are_prepared_at_a_time_as_there_are_workers():
    together = threading.Barrier(3)  # breaks unless three wait for each other
    with prepared_ahead(lambda _: together.wait(timeout=10), range(6), Crew(3, in_turns=True)) as stream:
        assert sorted(stream) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("in_turns", [True, False])
def test_a_pipeline_that_is_left_leaves_no_thread_behind(in_turns):
    before = set(threading.enumerate())
    with prepared_ahead(lambda number: time.sleep(0.01), range(9), Crew(2, in_turns)) as stream:
        next(stream)
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("how", [Crew(1, True), Crew(2, True), Crew(1, False)])
def test_a_batch_that_cannot_be_prepared_ends_the_pass(how):
    def broken(items):
        raise OSError("cannot be read")

    with prepared_ahead(broken, [["a"], ["b"]], how) as stream, pytest.raises(OSError, match="cannot be read"):
        embed_next(WatchedModel(), stream)


class Noting(WatchedModel):
    """Writes down which batches were embedded."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "seen", [])

    def transfer(self, prepared):
        self.seen.append(prepared.inputs)
        return prepared

    def forward(self, prepared):
        return prepared

    def finish(self, outputs):
        return outputs


def numbered(number):
    return Prepared(number, 1, 1.0)


@pytest.mark.parametrize(
    ("workers", "turn", "timed_a_pass"), [(1, 1, 5), (2, 1, 6), (2, 2, 8), (2, 9, 6), (3, 1, 6), (4, 1, 8), (4, 9, 8), (7, 1, 7)]
)
def test_in_turns_whole_groups_are_timed_and_no_batch_comes_more_often_than_another(workers, turn, timed_a_pass):
    model, timed = Noting(), Timed()
    for passes in range(1, 5):
        pipeline_pass(model, numbered, list(range(5)), timed, Crew(workers, in_turns=True, turn=turn))
        assert timed.count == len(model.seen) == passes * timed_a_pass
        assert model.seen == [number % 5 for number in range(timed.count)]


def test_side_by_side_a_pass_is_timed_with_the_pipeline_full():
    model, timed = Noting(), Timed()
    for passes in range(1, 4):
        pipeline_pass(model, numbered, list(range(5)), timed, Crew(2, in_turns=False))
        assert timed.count == 5 * passes
        assert model.seen[-6:] == [0, 1, 2, 3, 4, 0], "one goes before the clock starts"


STAGES = {"decode": 0.006, "preprocess": 0.002, "transfer": 0.001, "forward": 0.004, "finish": 0.001}


@pytest.mark.parametrize(
    ("workers", "in_turns", "batch_s"),
    [(1, True, 0.008 + 0.006), (2, True, 0.004 + 0.006), (1, False, 0.008), (2, False, 0.006), (4, False, 0.006)],
)
def test_the_overlap_bound_is_what_the_stages_leave(workers, in_turns, batch_s):
    overlap, device = bounds(STAGES, items=32, workers=workers, in_turns=in_turns)
    assert overlap == pytest.approx(32 / batch_s)
    assert device == pytest.approx(32 / 0.006)


@given(st.lists(st.floats(1e-6, 10), min_size=5, max_size=5), st.integers(1, 64), st.booleans())
def test_more_workers_never_lower_the_bound_and_none_is_above_the_device(seconds, workers, in_turns):
    stages = dict(zip(STAGES, seconds, strict=True))
    few, device = bounds(stages, items=8, workers=workers, in_turns=in_turns)
    many, _ = bounds(stages, items=8, workers=workers + 1, in_turns=in_turns)
    assert few <= many * (1 + 1e-12)
    assert many <= device * (1 + 1e-12)
    one_after_the_other = 8 / sum(stages.values())
    assert few >= one_after_the_other * (1 - 1e-12)


def test_the_bound_is_reached_by_parts_that_only_wait():
    """Four workers that wait 8 ms for each batch and a device that takes 6 ms: the device decides."""
    model = WatchedModel(slow_s=0.006)

    def prepare(items):
        time.sleep(0.008)
        return Prepared([[1]], 1, 1.0)

    timed = Timed()
    pipeline_pass(model, prepare, BATCHES * 4, timed, Crew(4, in_turns=False))
    assert timed.wall_s / timed.count >= 0.006
    assert min(timed.seconds) < 0.008, "preparing is not waited for"
    assert pipeline.AHEAD_BYTES == 2**30
