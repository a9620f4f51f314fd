"""The embed cell: how fast, and with how much memory, a model turns items into vectors.

Each replicate is a fresh process that loads the model, audits it, and then measures, in rounds whose order is shuffled
so that a drift of the machine hits all alike:

- *stages*: one batch after the other through decode, preprocess, transfer, forward and finish, each timed by itself;
- *forward*: batches that are ready on the device, the forward pass alone: the model's throughput;
- *pipeline*: items in, vectors out, the next batches being prepared in a thread meanwhile: what a corpus pass reaches.

After that single queries, batch 1, from the stored item to its vector: what a user waits for. Memory has a process of
its own that imports only what the cell needs. Every replicate works on the same seeded sample of the corpus (every
batch size on a beginning of the same shuffled order), in full batches and full passes, so that no figure depends on which items
came last.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from harness import threads
from harness.audit import audit
from harness.build import build
from harness.data import Batches, open_data
from harness.datasets.decode import decode
from harness.devices import synchronize
from harness.interfaces import STAGES, Data, Item, Model, ModelInfo, Prepared, Vectors, Weights
from harness.memory import peak_rss_bytes
from harness.replicate import Report
from harness.timing import Timed, Until, affordable, seconds_of

BATCHES = (11, 1)
"""Batches timed one by one: enough for a median (11, see `harness.statistics`), or, where that takes too long, a single pass."""
REQUESTS = (130, 64, 11)
"""Single queries where ``min_requests`` take too long: enough for a p95, a p90 or a median."""
_AUDITED = 8
"""Items that the audit embeds one by one as well as together."""


def sample(data: Data, *, items: int, batch_size: int, seed: int) -> Batches:
    """Return the batches that are measured: a seeded choice of documents, rounded up to full batches where there are enough."""
    numbers = list(range(len(data.corpus)))
    random.Random(seed).shuffle(numbers)
    wanted = -(-min(items, len(numbers)) // batch_size) * batch_size
    if wanted > len(numbers):
        wanted = max(len(numbers) // batch_size, 1) * batch_size
    return Batches.of(data, numbers[:wanted], batch_size)


def load(spec: Mapping[str, Any]) -> tuple[Model, ModelInfo]:
    """Build and load the model that a cell's specification names."""
    threads.set_interop(spec["interop_threads"])
    model: Model = build(spec["model"], key="model")
    return model, model.load(
        Weights(**spec["weights"]), device=spec["device"], dtype=spec["dtype"], attention=spec["attention"], compiled=spec["compile"]
    )


def embed(model: Model, items: Sequence[Item], *, role: Any = "document") -> Vectors:
    """Return the vectors of some decoded items, the three parts in a row; `finish` waits for the device."""
    return model.finish(model.forward(model.transfer(model.prepare(items, role=role))))


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Measure one replicate; leaves ``result.json`` and ``samples.npz`` in `folder`."""
    data = open_data(Path(spec["data"]))
    batches = list(sample(data, items=spec["embed_items"], batch_size=spec["batch_size"], seed=spec["seed"]))
    report("load", 0.0)
    load(spec)  # imports and page cache: whatever the server had imported before, the load that is timed finds the same
    load_s, (model, info) = seconds_of(lambda: load(spec))
    device = spec["device"]
    stored = [[data.corpus[i] for i in batch] for batch in batches]
    first_batch_s, _ = seconds_of(lambda: embed(model, [decode(data.modality, item) for item in stored[0]]))
    first_query_s, _ = seconds_of(lambda: embed(model, [decode(data.query_modality, data.queries[0])], role="query"))
    report("audit", 0.0)
    distinct = list(dict.fromkeys(item for batch in stored for item in batch))
    audited = distinct[:: max(1, len(distinct) // _AUDITED)][:_AUDITED]  # long and short ones: padding shows between them
    caveats = audit(model, info, [decode(data.modality, item) for item in audited], asked=spec["dtype"])

    prepared = [model.transfer(model.prepare([decode(data.modality, item) for item in items])) for items in stored]
    warm_up = prepared if data.modality == "text" else [prepared[0], prepared[-1]]  # every shape once

    def warm() -> None:
        for ready in warm_up:
            model.finish(model.forward(ready))
        synchronize(device)

    warm_s, _ = seconds_of(warm)
    until = Until(min_s=spec["share_s"], min_count=1)
    enough = Until(min_s=spec["share_s"], min_count=affordable(BATCHES, warm_s / len(warm_up), within_s=spec["max_s"]))

    stages: dict[str, Timed] = {name: Timed() for name in (*STAGES, "batch")}
    forward, pipeline = Timed(), Timed()

    def stages_pass() -> None:
        stages["batch"].block(lambda i: _stage_by_stage(model, data, stored[i], device, stages), range(len(stored)))

    passes: dict[str, tuple[Callable[[], None], Callable[[], bool]]] = {
        "forward": (lambda: forward_pass(model, prepared, device, forward), lambda: until.met(forward.wall_s, forward.count)),
        "stages": (stages_pass, lambda: enough.met(stages["batch"].wall_s, stages["batch"].count)),
        "pipeline": (lambda: pipeline_pass(model, data, stored, pipeline), lambda: until.met(pipeline.wall_s, pipeline.count)),
    }
    order = random.Random(f"{spec['seed']} {spec['replicate']}")
    while left := [name for name, (_, done) in passes.items() if not done()]:
        order.shuffle(left)
        for name in left:
            passes[name][0]()
        report("embed", min(1.0, (forward.wall_s + pipeline.wall_s) / (2 * until.min_s + 1e-9)))

    query = _queries(model, data, spec, order, report)
    items_a_pass = sum(ready.count for ready in prepared)
    passes_done = forward.count / len(prepared)
    result = {
        "info": {**asdict(info), "weights_fingerprint": model.fingerprint(), "threads": threads.in_force()},
        "caveats": [[caveat.code, caveat.text] for caveat in caveats],
        "load_s": load_s,
        "first_batch_s": first_batch_s,
        "first_query_s": first_query_s,
        "throughput_per_s": items_a_pass * passes_done / forward.wall_s,
        "units_per_s": sum(ready.units for ready in prepared) * passes_done / forward.wall_s,
        "pipeline_per_s": items_a_pass * (pipeline.count / len(stored)) / pipeline.wall_s,
        "truncated_share": sum(ready.truncated for ready in prepared) / items_a_pass,
        "items": items_a_pass,
        "stages": {name: sum(stages[name].seconds) / stages[name].count for name in STAGES},
    }
    (folder / "result.json").write_text(json.dumps(result))
    arrays: dict[str, Any] = {"forward_s": forward.array(), "batch_s": stages["batch"].array(), "query_s": query.array()}
    np.savez(folder / "samples.npz", **arrays)


def forward_pass(model: Model, prepared: Sequence[Prepared], device: str, into: Timed) -> None:
    """Take all batches, ready on the device, through the model once: what `throughput_per_s` is made of."""

    def one(i: int) -> None:
        model.forward(prepared[i])
        synchronize(device)

    into.block(one, range(len(prepared)))


def _stage_by_stage(model: Model, data: Data, items: Sequence[str], device: str, into: Mapping[str, Timed]) -> None:
    """Take one batch through all stages, timing each; the device is waited for on both sides of the forward pass."""
    decoded = into["decode"].block(lambda _: [decode(data.modality, item) for item in items], [0])[0]
    prepared = into["preprocess"].block(lambda _: model.prepare(decoded), [0])[0]

    def transfer(_: int) -> Prepared:
        moved = model.transfer(prepared)
        synchronize(device)
        return moved

    def forward(_: int) -> Any:
        outputs = model.forward(moved)
        synchronize(device)
        return outputs

    moved = into["transfer"].block(transfer, [0])[0]
    outputs = into["forward"].block(forward, [0])[0]
    into["finish"].block(lambda _: model.finish(outputs), [0])


def pipeline_pass(model: Model, data: Data, stored: Sequence[Sequence[str]], into: Timed) -> None:
    """Embed all batches once from stored items, preparation overlapped, timing each batch.

    One batch goes before the clock starts and two more are in the making when it stops, so that the pipeline is as full at the end as
    at the beginning and the rate does not depend on how many batches a pass has.
    """
    with _prepared_ahead(model, data, stored) as stream:
        _embed_next(model, stream)
        into.block(lambda _: _embed_next(model, stream), range(len(stored)))


def _embed_next(model: Model, stream: Iterator[Prepared]) -> None:
    """Embed the next prepared batch of a pipeline."""
    model.finish(model.forward(model.transfer(next(stream))))


@contextmanager
def _prepared_ahead(model: Model, data: Data, stored: Sequence[Sequence[str]], *, ahead: int = 2) -> Iterator[Iterator[Prepared]]:
    """Give the batches prepared, in order and over again, with `ahead` more in the making; memory does not grow with the corpus."""

    def prepare(items: Sequence[str]) -> Prepared:
        return model.prepare([decode(data.modality, item) for item in items])

    def stream() -> Iterator[Prepared]:
        batches = cycle(stored)
        waiting = deque(worker.submit(prepare, next(batches)) for _ in range(ahead))
        while True:
            ready = waiting.popleft().result()
            waiting.append(worker.submit(prepare, next(batches)))
            yield ready

    worker = ThreadPoolExecutor(1)
    try:
        yield stream()
    finally:
        worker.shutdown(wait=True, cancel_futures=True)


def _queries(model: Model, data: Data, spec: Mapping[str, Any], order: random.Random, report: Report) -> Timed:
    """Time single queries, one after the other, over all distinct queries in turn."""
    numbers = list(range(len(data.queries)))
    order.shuffle(numbers)

    def one(i: int) -> Vectors:
        return embed(model, [decode(data.query_modality, data.queries[i])], role="query")

    warm = Timed()  # single queries have shapes of their own
    warm.block(one, numbers[:8])
    count = affordable((spec["min_requests"], *REQUESTS), warm.wall_s / warm.count, within_s=spec["max_s"])
    until = Until(min_s=spec["share_s"], min_count=count)
    timed = Timed()
    while not until.met(timed.wall_s, timed.count):
        timed.block(one, [numbers[(timed.count + step) % len(numbers)] for step in range(min(16, count))])
        report("query", min(1.0, timed.count / count), count)
    return timed


def measure_memory(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Load, embed three batches (of text, the longest) and one query, and write down the peak; runs in a process of its own."""
    report("memory", 0.0)
    data = open_data(Path(spec["data"]))
    batches = list(sample(data, items=spec["embed_items"], batch_size=spec["batch_size"], seed=spec["seed"]))[:3]
    model, _ = load(spec)
    for batch in batches:
        embed(model, [decode(data.modality, data.corpus[i]) for i in batch])
    embed(model, [decode(data.query_modality, data.queries[0])], role="query")
    synchronize(spec["device"])
    device_peak = None
    if spec["device"].startswith("cuda"):
        import torch

        device_peak = torch.cuda.max_memory_allocated(spec["device"])
    (folder / "result.json").write_text(json.dumps({"peak_rss_bytes": peak_rss_bytes(), "device_peak_bytes": device_peak}))
