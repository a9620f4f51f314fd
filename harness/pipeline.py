"""Items in, vectors out: how preparing batches and embedding them share the cores that a cell may use.

Where an accelerator (or an endpoint) computes, the forward pass leaves this machine's cores free: worker threads prepare the next batches
meanwhile, one core being left to the thread that feeds the device. Where the forward pass runs on the CPU it takes all `threads`
itself, and a thread that prepares beside it does not fill a gap but takes a core away from it, for which its other threads then wait at
the end of every operator. There the two take turns: a few batches for each thread are prepared side by side, then
embedded one after the other. Either way no more than `threads` cores are asked for, order is kept, and memory does not grow
with the corpus.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from harness.interfaces import Model, Prepared, Served
from harness.timing import Clock, Timed

AHEAD_BYTES = 1 << 30
"""Batches in the making or waiting take at most so much memory, a gibibyte, except that one may always be waited for."""

_TURN = 4
"""Batches a worker prepares in one turn: pictures differ in size, and at its end the workers wait for the one with the largest."""


@dataclass(frozen=True)
class Crew:
    """Who prepares, and when."""

    workers: int
    """Threads that prepare."""
    in_turns: bool
    """Whether preparing and embedding take turns, instead of going on at the same time."""
    turn: int = 1
    """In turns, so many batches for each worker are prepared before they are embedded."""


def crew(model: Model, device: str, *, batch_bytes: int, threads: int | None = None) -> Crew:
    """Return who prepares a model's batches.

    Parameters
    ----------
    batch_bytes : int
        Size of one batch, decoded or prepared, whichever is larger.
    threads : int or None
        CPU threads that may be used; None for what the measuring process was started with.
    """
    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    fitting = AHEAD_BYTES // max(batch_bytes, 1)
    if device == "cpu" and not isinstance(model, Served):
        workers = max(1, min(threads, fitting))
        return Crew(workers, in_turns=True, turn=max(1, min(_TURN, fitting // workers)) if workers > 1 else 1)
    return Crew(workers=max(1, min(threads - 1, fitting - 1)), in_turns=False)


@contextmanager
def prepared_ahead(prepare: Callable[[Any], Prepared], batches: Iterable[Any], how: Crew) -> Iterator[Iterator[Prepared]]:
    """Give the batches prepared, in order.

    In turns, ``how.workers * how.turn`` of them are ready at a time and none is in the making while they are used. Otherwise
    ``how.workers + 1`` are in the making or ready.
    """
    waiting_for = iter(batches)

    def in_turns() -> Iterator[Prepared]:
        while group := list(islice(waiting_for, how.workers * how.turn)):
            yield from list(pool.map(prepare, group))

    def rolling() -> Iterator[Prepared]:
        waiting = deque(pool.submit(prepare, batch) for batch in islice(waiting_for, how.workers + 1))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(prepare, batch) for batch in islice(waiting_for, 1))
            yield ready

    if how.in_turns and how.workers == 1:
        yield map(prepare, waiting_for)  # nothing to do side by side
        return
    pool = ThreadPoolExecutor(how.workers)
    try:
        yield in_turns() if how.in_turns else rolling()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pipeline_pass(
    model: Model,
    prepare: Callable[[Any], Prepared],
    batches: list[Any],
    into: Timed,
    how: Crew,
    *,
    clock: Clock = time.perf_counter_ns,
) -> None:
    """Embed all batches about once from stored items, timing each; the rate does not depend on how many batches a pass has.

    Side by side, one batch goes before the clock starts and as many are in the making when it stops. In turns, only whole groups are
    timed: a pass is rounded up to full groups, and the next pass begins where this one ended, so that no batch comes more often than
    others.
    """
    if how.in_turns:  # no turn longer than the pass
        how = replace(how, turn=min(how.turn, -(-len(batches) // how.workers)))
    first = into.count % len(batches)
    endless = islice(cycle(batches), first, None)
    with prepared_ahead(prepare, endless, how) as stream:
        if not how.in_turns:
            embed_next(model, stream)
        group = how.workers * how.turn if how.in_turns else 1
        count = -(-len(batches) // group) * group
        into.block(lambda _: embed_next(model, stream), range(count), clock=clock)


def embed_next(model: Model, stream: Iterator[Prepared]) -> Any:
    """Embed the next prepared batch."""
    return model.finish(model.forward(model.transfer(next(stream))))


def bounds(stages: Mapping[str, float], *, items: float, workers: int, in_turns: bool) -> tuple[float, float]:
    """Return two rates that follow from a batch's mean stage times, in items a second.

    Parameters
    ----------
    stages : mapping
        Seconds of each stage, one batch after the other: decode and preprocess on one core, transfer, forward and finish with
        the device.
    items : float
        Items in a batch.
    workers, in_turns
        As in `Crew`.

    Returns
    -------
    overlap : float
        The rate if preparation were spread perfectly over the cores at hand. With d = decode + preprocess and
        f = transfer + forward + finish: items / max(d / workers, f) side by side; items / (d / workers + f) in turns, since f
        then needs the same cores.
    device : float
        The rate if nothing had to be prepared: items / f.
    """
    preparing = (stages["decode"] + stages["preprocess"]) / workers
    device = stages["transfer"] + stages["forward"] + stages["finish"]
    return items / (preparing + device if in_turns else max(preparing, device)), items / device
