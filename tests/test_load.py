"""Clients against searches that wait where they are told to, and against a server in another process."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from scipy import stats

from harness.errors import StoreError, StoreTimeoutError
from harness.load import Asked, Clients, Traffic, arrivals, highest_rate
from tests.plugins.null_server import NullClient, NullServer

QUERIES = np.arange(40, dtype=np.float32).reshape(20, 2)
SINGLE = [np.asarray([i]) for i in range(20)]
ASKED = Asked(3, {"ef": 10})


def echo(queries, k, params, below):
    """Answer with what identifies the query: its row in QUERIES."""
    return np.repeat((queries[:, :1] / 2).astype(np.int64), k, axis=1)


def clients(search=echo, requests=SINGLE):
    found = Clients(QUERIES, requests, processes=0)
    found.connect(search)
    return found


def test_arrivals_are_a_poisson_process():
    gaps = np.diff(arrivals(50.0, 20_000, np.random.default_rng(0))) / 1e9
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.01


@pytest.mark.parametrize("count", [1, 3])
def test_a_closed_loop_has_as_many_requests_under_way_as_clients(count):
    under_way, most, lock = [0], [0], threading.Lock()

    def search(queries, k, params, below):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.01)
        with lock:
            under_way[0] -= 1
        return echo(queries, k, params, below)

    seen = Traffic()
    clients(search).closed(ASKED, count, 0.3, seen)
    assert most[0] == count
    assert seen.count > 5 * count
    assert seen.latencies.min() >= 0.01
    assert seen.count / seen.wall_s <= count / 0.01


def test_every_query_gets_its_own_answer_and_all_are_asked():
    seen = Traffic()
    clients().closed(ASKED, 2, 0.1, seen)
    assert {number: ids.tolist() for number, ids in seen.answers.items()} == {i: [i] * 3 for i in range(20)}


def test_a_request_may_hold_several_queries():
    requests = [np.asarray([i, i + 1, (i + 2) % 20]) for i in range(0, 18, 3)] + [np.asarray([18, 19, 0])]
    asked = []

    def search(queries, k, params, below):
        asked.append(len(queries))
        return echo(queries, k, params, below)

    seen = Traffic()
    clients(search, requests).closed(ASKED, 1, 0.05, seen)
    assert set(asked) == {3}
    assert seen.count == len(asked)
    assert {number: ids[0] for number, ids in seen.answers.items()} == {i: i for i in range(20)}


def test_what_is_asked_for_reaches_the_store():
    asked = []

    def search(queries, k, params, below):
        asked.append((k, params, below))
        return echo(queries, k, params, below)

    clients(search).closed(Asked(7, {"nprobe": 4}, below=10), 1, 0.01, Traffic())
    assert set(map(repr, asked)) == {"(7, {'nprobe': 4}, 10)"}


def test_an_open_loop_sends_each_request_when_it_is_due():
    seen = Traffic()
    clients().open(ASKED, 500.0, 300, np.random.default_rng(0), seen)
    assert seen.count == 300
    assert seen.lags.min() >= 0
    assert seen.wall_s == pytest.approx(arrivals(500.0, 300, np.random.default_rng(0))[-1] / 1e9, rel=0.2)


def test_a_stall_of_a_second_is_seen_by_all_requests_that_were_due_meanwhile():
    """The open loop counts from when requests were due; the closed loop, as always, sees a single slow request."""
    pause = 1.0

    def stalling():
        began = time.monotonic()
        done = threading.Event()

        def search(queries, k, params, below):
            if time.monotonic() > began + 0.5 and not done.is_set():
                done.set()
                lock.acquire()
                time.sleep(pause)
                lock.release()
            with lock:
                return echo(queries, k, params, below)

        lock = threading.Lock()
        return search

    opened, closed = Traffic(), Traffic()
    clients(stalling()).open(ASKED, 200.0, 700, np.random.default_rng(0), opened)
    clients(stalling()).closed(ASKED, 1, 3.0, closed)
    assert 0.6 * pause < np.quantile(opened.latencies, 0.99) < 1.6 * pause
    assert 0.1 < (opened.latencies > 0.1 * pause).mean() < 0.6  # about 200 of 700 were due in that second
    assert (closed.latencies > 0.1 * pause).sum() == 1


def test_processes_and_threads_see_the_same_of_a_server():
    with NullServer() as server, Clients(QUERIES, SINGLE, processes=2) as apart:
        apart.connect(None, partial(NullClient, server.port))
        seen = Traffic()
        apart.closed(ASKED, 2, 0.3, seen)
        apart.open(ASKED, 200.0, 100, np.random.default_rng(0), seen)
        assert seen.count > 110
        assert seen.errors == {}
        assert set(seen.answers) == set(range(20))
        assert 0 < seen.cpu_share < 2
        assert seen.answers[0].tolist() == [0, 1, 2]


def test_a_stall_of_a_server_shows_in_the_p99_of_client_processes():
    with NullServer() as server, Clients(QUERIES, SINGLE, processes=2) as apart:
        apart.connect(None, partial(NullClient, server.port))
        seen = Traffic()
        timer = threading.Timer(0.5, server.stall, [1.0])
        timer.start()
        apart.open(ASKED, 300.0, 900, np.random.default_rng(0), seen)
        timer.join()
        assert 0.6 < np.quantile(seen.latencies, 0.99) < 1.6


def test_errors_are_counted_by_their_text_and_have_no_latency():
    turn = [0]

    def search(queries, k, params, below):
        turn[0] += 1
        if turn[0] % 5 == 0:
            raise StoreTimeoutError("no answer in 1 s")
        if turn[0] % 7 == 0:
            raise StoreError("busy")
        return echo(queries, k, params, below)

    seen = Traffic()
    clients(search).open(ASKED, 2000.0, 350, np.random.default_rng(0), seen)
    assert seen.errors["no answer in 1 s"] == seen.timeouts == 70
    assert seen.errors["busy"] == 40
    assert seen.count == 240


def test_a_server_that_is_gone_ends_the_run_with_what_it_said():
    def search(queries, k, params, below):
        raise StoreError("connection refused")

    with pytest.raises(StoreError, match=r"no request was answered; .* connection refused"):
        clients(search).closed(ASKED, 2, 60.0, Traffic())


def test_a_server_that_goes_between_two_runs_of_an_operating_point_ends_the_second():
    there = [True]

    def search(queries, k, params, below):
        if not there[0]:
            raise StoreError("connection refused")
        return echo(queries, k, params, below)

    seen, many = Traffic(), clients(search)
    many.closed(ASKED, 2, 0.05, seen)
    there[0] = False
    with pytest.raises(StoreError, match=r"no request was answered; .* connection refused"):
        many.closed(ASKED, 2, 60.0, seen)


def test_requests_that_were_due_after_a_client_gave_up_are_errors():
    turn = [0]

    def search(queries, k, params, below):
        turn[0] += 1
        if turn[0] > 50:
            raise StoreError("gone")
        return echo(queries, k, params, below)

    seen = Traffic()
    clients(search).open(ASKED, 3000.0, 2000, np.random.default_rng(0), seen)
    assert seen.count == 50
    assert sum(seen.errors.values()) == 1950
    assert seen.errors["not sent, after 10 errors in a row"] > 1000


def test_queries_that_ended_in_an_error_are_known():
    def search(queries, k, params, below):
        if np.array_equal(queries[0], QUERIES[7]):
            raise StoreError("no such word")
        return echo(queries, k, params, below)

    seen = Traffic()
    clients(search).closed(ASKED, 2, 0.1, seen)
    assert seen.failed == {7}
    assert set(seen.answers) == set(range(20)) - {7}


def test_answers_slip_behind_their_schedule_only_where_the_queue_grows():
    def slow(queries, k, params, below):
        with lock:
            time.sleep(0.005)
        return echo(queries, k, params, below)

    lock = threading.Lock()
    for seed in range(3):  # 60 requests at random times: a rate of 1 in 3 such runs is 13 % below the stated one, or above
        kept_up = Traffic()
        clients().open(ASKED, 300.0, 60, np.random.default_rng(seed), kept_up)
        assert kept_up.slip < 0.05
    behind = Traffic()
    clients(slow).open(ASKED, 400.0, 200, np.random.default_rng(0), behind)  # 200/s at most, so twice as long
    assert behind.slip > 0.6


def test_a_bug_in_a_store_is_not_counted_as_an_error_of_the_server():
    def search(queries, k, params, below):
        raise KeyError("ef")

    with pytest.raises(KeyError):
        clients(search).closed(ASKED, 2, 60.0, Traffic())


def _refused():
    raise StoreError("wrong token")


def _broken():
    raise KeyError("token")


@pytest.mark.parametrize(("attach", "words"), [(_refused, "wrong token"), (_broken, "a client process failed: KeyError")])
def test_a_client_process_that_cannot_connect_says_why(attach, words):
    with Clients(QUERIES, SINGLE, processes=2) as apart, pytest.raises(StoreError, match=words):
        apart.connect(None, attach)


def test_a_client_process_that_is_killed_is_noticed():
    with NullServer() as server, Clients(QUERIES, SINGLE, processes=2) as apart:
        apart.connect(None, partial(NullClient, server.port))
        timer = threading.Timer(0.2, apart._children[1][0].kill)
        timer.start()
        with pytest.raises(StoreError, match="a client process ended unexpectedly"):
            apart.closed(ASKED, 2, 1.0, Traffic())


@pytest.mark.parametrize("limit", [3.0, 40.0, 1234.5])
def test_the_highest_rate_is_found_to_its_precision(limit):
    tried = []

    def meets(rate):
        tried.append(rate)
        return rate <= limit

    found = highest_rate(meets, start=50.0, lowest=0.1)
    assert found <= limit < found * 1.05
    assert len(tried) <= 14


def test_a_target_that_no_rate_meets_has_no_answer():
    tried = []
    assert highest_rate(lambda rate: tried.append(rate), start=50.0, lowest=4.0) is None
    assert tried == [50.0, 25.0, 12.5, 6.25, 4.0]
