"""Clients that put a store under load, closed loop and open loop.

*Closed loop*: so many clients, each sends its next request when the last one has been answered. *Open loop*: requests are due at
random times of a stated rate, whether or not earlier ones have been answered, and a request's latency counts from when it was
*due*: a server that stalls for a second shows a second, not one slow request (the omission that Gil Tene named coordinated).

Clients of a server are processes, since one interpreter cannot send several thousand requests a second; clients of an engine in
this process are its threads. Client processes are forked before anything is opened, connect before the start, and begin at an
agreed time of the clock that all processes of a machine share. Raw samples are kept and merged; percentiles are computed from
all of them, never from percentiles.

An error is counted, by its text, and has no latency. A client gives up after `_MOST_ERRORS` errors in a row; what an open loop then does
not send any more counts as errors too.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError, StoreTimeoutError
from harness.interfaces import Ids

Search = Callable[[NDArray[Any], int, Mapping[str, int | float], int | None], Ids]
"""(queries, k, params, below) → ids; what a client calls inside the clock."""

_MOST_ERRORS = 10
_HEAD_START_NS = 20_000_000
"""Between the order to begin and the beginning, so that every client has it in time."""
_IN_FLIGHT = 64
"""Requests that an open loop may have under way in all; a rate of 2,000/s at 5 ms needs 10 (Little's law)."""
_MOST_PROCESSES = 8
"""Client processes; more clients than these share them as threads."""
_SWITCH_S = 5e-4
"""How long a thread may keep the interpreter while others wait; Python's 5 ms would be the latency that is measured."""


@dataclass(frozen=True)
class Asked:
    """What every request of a run asks for: one operating point."""

    k: int
    params: Mapping[str, int | float]
    below: int | None = None


@dataclass
class Traffic:
    """What the clients of one operating point have seen, growing run by run."""

    latency_s: list[NDArray[np.float64]] = field(default_factory=list)
    """From when a request was due (open) or sent (closed) to its answer, of those that were answered."""
    lag_s: list[NDArray[np.float64]] = field(default_factory=list)
    """From when a request was due until it was sent."""
    answers: dict[int, Ids] = field(default_factory=dict)
    """First answer by query."""
    failed: set[int] = field(default_factory=set)
    """Queries of requests that ended in an error."""
    errors: Counter[str] = field(default_factory=Counter)
    timeouts: int = 0
    wall_s: float = 0.0
    """From the start of each run to its last answer, together."""
    busy_s: Counter[int] = field(default_factory=Counter)
    """Processor time by client process; empty where clients are threads beside the engine."""
    slip: float = 0.0
    """Open loop: how far its answers fell behind its schedule by the end, beyond the shortest latency, as a share of its length. Next to
    nothing where the store keeps up, whatever the random number of requests a second came to; where it does not, the queue's growth."""

    @property
    def cpu_share(self) -> float:
        """The busiest client process's share of one core; 0 where clients are threads beside the engine."""
        return max(self.busy_s.values(), default=0.0) / self.wall_s if self.wall_s else 0.0

    @property
    def count(self) -> int:
        """Number of requests answered."""
        return sum(map(len, self.latency_s))

    @property
    def latencies(self) -> NDArray[np.float64]:
        """All latencies, seconds, shape (count,)."""
        return np.concatenate(self.latency_s) if self.latency_s else np.empty(0)

    @property
    def lags(self) -> NDArray[np.float64]:
        """All send lags, seconds."""
        return np.concatenate(self.lag_s) if self.lag_s else np.empty(0)


@dataclass(frozen=True)
class _Share:
    """What one process does in one run."""

    asked: Asked
    first: int
    """Number of its first request; the others follow `stride` apart."""
    stride: int
    clients: int
    """Threads that send, each one request at a time."""
    start_ns: int
    until_ns: int | None = None
    """Closed loop: no request is sent after this."""
    due_ns: NDArray[np.int64] | None = None
    """Open loop: when each request is due, after the start."""


@dataclass
class _Seen:
    """What one process saw in one run; times in nanoseconds after the start."""

    due: NDArray[np.int64]
    sent: NDArray[np.int64]
    done: NDArray[np.int64]
    answered: NDArray[np.bool_]
    answers: dict[int, Ids]
    failed: set[int]
    errors: Counter[str]
    timeouts: int
    unsent: int
    """Requests of an open loop that were due after the client had given up."""
    cpu_s: float


def arrivals(rate_per_s: float, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return when `count` requests of a Poisson process are due, nanoseconds after the start."""
    return np.asarray(np.cumsum(rng.exponential(1e9 / rate_per_s, count)), dtype=np.int64)


def _drive(share: _Share, search: Search, queries: NDArray[Any], requests: Sequence[NDArray[np.int64]]) -> _Seen:
    """Send one process's share of a run from its threads."""
    asked, clock = share.asked, time.perf_counter_ns
    numbers = itertools.count()  # next() of it is one step for the interpreter, so no two threads get the same
    rows: list[tuple[int, int, int, int, bool]] = []
    answers: dict[int, Ids] = {}
    troubles: list[tuple[StoreError, NDArray[np.int64]]] = []  # appending is one step, too; counting would be several
    due = share.due_ns
    gone = threading.Event()

    def client() -> None:
        in_a_row = 0
        if (wait := share.start_ns - clock()) > 0:
            time.sleep(wait / 1e9)
        while not gone.is_set():
            mine = next(numbers)
            if due is not None:
                if mine >= len(due):
                    return
                when = share.start_ns + int(due[mine])
                if (wait := when - clock()) > 0:
                    time.sleep(wait / 1e9)
            elif clock() >= share.until_ns:  # type: ignore[operator]
                return
            request = requests[(share.first + mine * share.stride) % len(requests)]
            vectors = queries[request]
            sent = clock()
            try:
                ids = search(vectors, asked.k, asked.params, asked.below)
            except StoreError as error:
                rows.append((mine, when if due is not None else sent, sent, clock(), False))
                troubles.append((error, request))
                in_a_row += 1
                if in_a_row >= _MOST_ERRORS:
                    gone.set()
                continue
            done = clock()
            in_a_row = 0
            rows.append((mine, when if due is not None else sent, sent, done, True))
            for number, found in zip(request.tolist(), ids, strict=True):
                answers.setdefault(number, found)

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            client()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is raised again by the one who waits for it
            failures.append(error)
            gone.set()

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(share.clients)]
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu_s = time.process_time() - cpu
    if failures:
        raise failures[0]
    table = np.asarray(sorted(rows), dtype=np.int64).reshape(-1, 5)
    return _Seen(
        due=table[:, 1] - share.start_ns,
        sent=table[:, 2] - share.start_ns,
        done=table[:, 3] - share.start_ns,
        answered=table[:, 4].astype(bool),
        answers=answers,
        failed={number for _, request in troubles for number in request.tolist()},
        errors=Counter(str(error) for error, _ in troubles),
        timeouts=sum(isinstance(error, StoreTimeoutError) for error, _ in troubles),
        unsent=0 if due is None else len(due) - len(rows),
        cpu_s=cpu_s,
    )


class Clients:
    """Everybody who sends requests to one collection; use it as a context manager.

    Parameters
    ----------
    queries : ndarray of shape (n, dim)
        All queries, as the store takes them.
    requests : sequence of ndarray of int
        The queries of each request, in the order of sending; it is repeated when it ends.
    processes : int
        How many processes to fork; 0 for threads in this one. They must be forked before this process opens a store.
    """

    def __init__(self, queries: NDArray[Any], requests: Sequence[NDArray[np.int64]], *, processes: int) -> None:
        self._queries, self._requests = queries, requests
        self._search: Search | None = None
        self._children: list[tuple[Any, Connection]] = []
        self._sent = 0
        context = multiprocessing.get_context("fork") if processes else None
        for _ in range(processes):
            assert context is not None
            ours, theirs = context.Pipe()
            parents = [*(pipe for _, pipe in self._children), ours]
            child = context.Process(target=_client_process, args=(theirs, parents, queries, requests), daemon=True)
            child.start()
            theirs.close()
            self._children.append((child, ours))

    @staticmethod
    def processes_for(clients: int) -> int:
        """Return how many processes so many clients of a server are."""
        return min(clients, _MOST_PROCESSES)

    def connect(self, search: Search | None, attach: Callable[[], Search] | None = None) -> None:
        """Make the clients ready: threads use `search`; each process calls `attach` and uses what that returns.

        Raises
        ------
        harness.errors.StoreError
            When a client process cannot connect.
        """
        self._search = search
        for _, pipe in self._children:
            pipe.send(attach)
        for _, pipe in self._children:
            _receive(pipe)

    def closed(self, asked: Asked, clients: int, seconds: float, into: Traffic) -> None:
        """Let so many clients send as fast as they are answered, for so long."""
        until_ns = int(seconds * 1e9)
        used = self._children[:clients]
        parts = max(1, len(used))
        start_ns = time.perf_counter_ns() + _HEAD_START_NS
        shares = [_Share(asked, self._sent + i, parts, _part(clients, i, parts), start_ns, start_ns + until_ns) for i in range(parts)]
        self._add(self._run(used, shares), into, counted_from="sent")

    def open(self, asked: Asked, rate_per_s: float, count: int, rng: np.random.Generator, into: Traffic) -> None:
        """Send so many requests, due at the times of a Poisson process."""
        due = arrivals(rate_per_s, count, rng)
        parts = max(1, len(self._children))
        start_ns = time.perf_counter_ns() + _HEAD_START_NS
        shares = [_Share(asked, self._sent + i, parts, max(1, _IN_FLIGHT // parts), start_ns, due_ns=due[i::parts]) for i in range(parts)]
        self._add(self._run(self._children, shares), into, counted_from="due")

    def _run(self, used: Sequence[tuple[Any, Connection]], shares: Sequence[_Share]) -> list[_Seen]:
        if not self._children:
            assert self._search is not None
            with quick_switches():
                return [_drive(shares[0], self._search, self._queries, self._requests)]
        for (_, pipe), share in zip(used, shares, strict=True):
            pipe.send(share)
        return [_receive(pipe) for _, pipe in used]

    def _add(self, seen: Sequence[_Seen], into: Traffic, *, counted_from: str) -> None:
        self._sent += sum(len(one.sent) for one in seen)
        wall_ns = max((int(one.done.max()) for one in seen if len(one.done)), default=0)
        into.wall_s += wall_ns / 1e9
        errors: Counter[str] = Counter()
        for process, one in enumerate(seen):
            begin = one.due if counted_from == "due" else one.sent
            into.latency_s.append((one.done - begin)[one.answered] / 1e9)
            into.lag_s.append((one.sent - one.due) / 1e9)
            errors.update(one.errors)
            into.failed |= one.failed
            into.timeouts += one.timeouts
            for number, ids in one.answers.items():
                into.answers.setdefault(number, ids)
            if self._children:
                into.busy_s[process] += one.cpu_s  # type: ignore[assignment]
        if errors and not any(one.answered.any() for one in seen):
            text, times = errors.most_common(1)[0]
            raise StoreError(f"no request was answered; {times} failed with: {text}")
        into.errors.update(errors)
        if unsent := sum(one.unsent for one in seen):
            into.errors[f"not sent, after {_MOST_ERRORS} errors in a row"] += unsent
        if counted_from == "due":
            into.slip = _slip(np.concatenate([one.due for one in seen]), np.concatenate([one.done for one in seen]))

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for child, ours in self._children:
            ours.close()
            child.join(1)  # it ends when its pipe closes; one that waits for an answer is not waited for
            if child.is_alive():
                child.kill()
                child.join()


def _slip(due: NDArray[np.int64], done: NDArray[np.int64]) -> float:
    """Return what `Traffic.slip` says of when requests were due and answered; without the last hundredth, which a single pause may hold."""
    length = float(np.quantile(due, 0.99))
    behind = float(np.quantile(done, 0.99)) - length - float((done - due).min())
    return max(0.0, behind / length)


def _part(whole: int, i: int, parts: int) -> int:
    """Return the i-th of so many parts of a whole number, as even as can be."""
    return whole // parts + (i < whole % parts)


def _receive(pipe: Connection) -> Any:
    """Return what a client process answers, raising what it met."""
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise StoreError("a client process ended unexpectedly; another process may have killed it, or memory ran out") from error
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextmanager
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _client_process(pipe: Connection, parents: Sequence[Connection], queries: NDArray[Any], requests: Sequence[NDArray[np.int64]]) -> None:
    """Connect, then do each share that comes until the pipe closes; runs in a client process.

    The parent's ends of the pipes, which forking has copied, are closed first: a pipe closes when nobody holds its end any more.
    """
    for end in parents:
        end.close()
    sys.setswitchinterval(_SWITCH_S)
    search: Search | None = None
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        try:
            if isinstance(message, _Share):
                assert search is not None
                pipe.send(_drive(message, search, queries, requests))
            else:
                search = message()
                pipe.send(None)
        except StoreError as error:
            pipe.send(error)
        except Exception as error:  # noqa: BLE001 - the parent raises it; a traceback here would be lost
            pipe.send(StoreError(f"a client process failed: {type(error).__name__}: {error}"))


def highest_rate(meets: Callable[[float], bool], *, start: float, lowest: float, precision: float = 0.05, probes: int = 20) -> float | None:
    """Return the highest rate that `meets` a target, found by doubling and bisection; None where none of the probes did.

    Parameters
    ----------
    meets : callable
        Tries a rate and says whether the target was met.
    start : float
        First rate to try.
    lowest : float
        No lower rate is tried: at a low rate enough requests take long.
    precision : float
        The answer is met, and a rate this share above it is not.
    probes : int
        Most rates that are tried.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(probes):
        if meets(rate):
            low = rate
        else:
            high = rate
        if low is not None and high is not None and high <= low * (1 + precision):
            break
        if high is None:
            rate *= 2
        elif low is None:
            if rate <= lowest:
                break
            rate = max(rate / 2, lowest)
        else:
            rate = (low * high) ** 0.5
    return low
