"""The embed cell: how fast, and with how much memory, a model turns items into vectors.

Each replicate is a fresh process that loads the model, audits it, and then measures, in rounds whose order is shuffled
so that a drift of the machine hits all alike:

- *stages*: one batch after the other through decode, preprocess, transfer, forward and finish, each timed by itself;
- *forward*: batches that are ready on the device, the forward pass alone: the model's throughput;
- *pipeline*: items in, vectors out, preparation shared out over the cores (`harness.pipeline`): what a corpus pass reaches.

After that single queries, batch 1, from the stored item to its vector: what a user waits for; and on a GPU that counts
it, energy. Memory has a process of its own that imports only what the cell needs. Every replicate works on the same seeded
sample of the corpus (every batch size on a beginning of the same shuffled order), in full batches and full passes, so that no figure
depends on which items came last. What is compiled is compiled before, and how long that took is a figure by itself.
"""

from __future__ import annotations

import json
import os
import random
import time
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import energy, flops, peaks, threads
from harness.audit import AUDITED, audit
from harness.build import build
from harness.data import Batches, open_data
from harness.datasets.decode import decode
from harness.devices import synchronize
from harness.errors import AuditError
from harness.inputs import bytes_of, bytes_of_items, shape_of
from harness.interfaces import STAGES, Data, Exportable, Item, Model, ModelInfo, Prepared, Served, Vectors, Weights
from harness.memory import tree_peak_bytes
from harness.pipeline import crew, pipeline_pass
from harness.replicate import Report
from harness.timing import Clock, Timed, Until, affordable, seconds_of, working_clock

BATCHES = (11, 1)
"""Batches timed one by one: enough for a median (11, see `harness.statistics`), or, where that takes too long, a single pass."""
REQUESTS = (130, 64, 11)
"""Single queries where ``min_requests`` take too long: enough for a p95, a p90 or a median."""
QUERY_TIMES = 8
"""Up to so many times as long as other figures take is spent on ``min_requests`` single queries: their p99 is what an end-to-end limit is
checked against (`choose --max-p99`), and nothing else can tell it."""
_READY_BYTES = 1 << 30
"""Batches kept ready on the device for the forward passes take at most so much of its memory, a gibibyte; two are kept in any case."""


def sample(data: Data, *, items: int, batch_size: int, seed: int) -> Batches:
    """Return the batches that are measured: a seeded choice of documents, rounded up to full batches where there are enough."""
    numbers = array("q", range(len(data.corpus)))
    random.Random(seed).shuffle(numbers)
    wanted = -(-min(items, len(numbers)) // batch_size) * batch_size
    if wanted > len(numbers):
        wanted = max(len(numbers) // batch_size, 1) * batch_size
    return Batches.of(data, numbers[:wanted], batch_size)


def load(spec: Mapping[str, Any]) -> tuple[Model, ModelInfo]:
    """Build and load the model that a cell's specification names."""
    threads.set_interop(spec["interop_threads"])
    model: Model = build(spec["model"], key="model")
    runtime = {} if _by_torch(spec) else {"backend": spec["backend"]}  # which only those take that have one
    return model, model.load(
        Weights(**spec["weights"]),
        device=spec["device"],
        dtype=spec["dtype"],
        attention=spec["attention"],
        compiled=spec["compile"],
        **runtime,
    )


def _by_torch(spec: Mapping[str, Any]) -> bool:
    """Say whether torch computes, or what a model without a choice computes with."""
    return bool(spec.get("backend", "torch") == "torch")


def embed(model: Model, items: Sequence[Item], *, role: Any = "document") -> Vectors:
    """Return the vectors of some decoded items, the three parts in a row; `finish` waits for the device."""
    return model.finish(model.forward(model.transfer(model.prepare(items, role=role))))


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Measure one replicate; leaves ``result.json`` and ``samples.npz`` in `folder`."""
    compiled = spec["compile"]
    if compiled:
        _compile_anew(folder)
    data = open_data(Path(spec["data"]))
    batches = list(sample(data, items=spec["embed_items"], batch_size=spec["batch_size"], seed=spec["seed"]))
    report("load", 0.0)
    load(spec)  # imports and page cache: whatever the server had imported before, the load that is timed finds the same
    load_s, loaded = seconds_of(lambda: load(spec))
    model: Model = loaded[0]
    info: ModelInfo = loaded[1]
    device, clock = spec["device"], working_clock(model)
    stored = [[data.corpus[i] for i in batch] for batch in batches]
    first_batch_s = first_query_s = compile_s = None
    if not compiled:
        first_batch_s, _ = seconds_of(lambda: embed(model, [decode(data.modality, item) for item in stored[0]]), clock=clock)
        first_query_s, _ = seconds_of(lambda: embed(model, [decode(data.query_modality, data.queries[0])], role="query"), clock=clock)
    prepared = _ready(model, data, stored)
    shapes = _by_shape(prepared)
    query = model.transfer(model.prepare([decode(data.query_modality, data.queries[0])], role="query"))

    def every_shape() -> None:
        for ready in (*(alike[0] for alike in shapes), query):
            model.finish(model.forward(ready))
        synchronize(device)

    if compiled:
        report("compile", 0.0)
        first_s, _ = seconds_of(every_shape)
        compile_s = first_s - seconds_of(every_shape)[0]
    report("audit", 0.0)
    distinct = list(dict.fromkeys(item for batch in stored for item in batch))
    several = AUDITED[data.modality]
    audited = distinct[:: max(1, len(distinct) // several)][:several]  # long and short ones: padding shows between them
    caveats = audit(model, info, [decode(data.modality, item) for item in audited], asked=spec["dtype"])
    forward_counted = model.forward_by_torch if isinstance(model, Exportable) and not _by_torch(spec) else model.forward
    counted = _counted(forward_counted, shapes) if spec["replicate"] == 0 else None  # the same in every process
    warm_s, _ = seconds_of(every_shape, clock=clock)

    until = Until(min_s=spec["share_s"], min_count=1)
    enough = Until(min_s=spec["share_s"], min_count=affordable(BATCHES, warm_s / (len(shapes) + 1), within_s=spec["max_s"]))
    stages: dict[str, Timed] = {name: Timed() for name in (*STAGES, "batch")}
    forward, pipeline = Timed(), Timed()
    decoded_bytes = bytes_of_items([decode(data.modality, item) for item in stored[0]])
    how = crew(model, device, batch_bytes=max(decoded_bytes, bytes_of(prepared[0])))
    sent = _Sent(model)

    def prepare(items: Sequence[str]) -> Prepared:
        return model.prepare([decode(data.modality, item) for item in items])

    def stages_pass() -> None:
        stages["batch"].block(lambda i: _stage_by_stage(model, data, stored[i], device, stages, clock), range(len(stored)), clock=clock)

    def one_forward_pass() -> None:
        with sent:
            forward_pass(model, prepared, device, forward, clock=clock)

    passes: dict[str, tuple[Callable[[], None], Callable[[], bool]]] = {
        "forward": (one_forward_pass, lambda: until.met(forward.wall_s, forward.count)),
        "stages": (stages_pass, lambda: enough.met(stages["batch"].wall_s, stages["batch"].count)),
        "pipeline": (
            lambda: pipeline_pass(model, prepare, stored, pipeline, how, clock=clock),
            lambda: until.met(pipeline.wall_s, pipeline.count),
        ),
    }
    order = random.Random(f"{spec['seed']} {spec['replicate']}")
    while left := [name for name, (_, done) in passes.items() if not done()]:
        order.shuffle(left)
        for name in left:
            passes[name][0]()
        report("embed", min(1.0, (forward.wall_s + pipeline.wall_s) / (2 * until.min_s + 1e-9)))

    items_a_pass = sum(ready.count for ready in prepared)
    rate = items_a_pass * (forward.count / len(prepared)) / forward.wall_s
    arithmetic = None if counted is None else _arithmetic(counted, items_a_pass, rate, device, spec["dtype"])
    asked = _queries(model, data, spec, order, report, clock)
    joules, no_joules = _energy(model, prepared, device, spec["share_s"])
    served = sent.totals(forward.wall_s)
    result = {
        "info": {**asdict(info), "weights_fingerprint": model.fingerprint(), "threads": info.threads or threads.in_force()},
        "caveats": [[caveat.code, caveat.text] for caveat in caveats],
        "load_s": load_s,
        "first_batch_s": first_batch_s,
        "first_query_s": first_query_s,
        "compile_s": compile_s,
        "export_s": info.export_s,
        "throughput_per_s": rate,
        "units_per_s": rate * sum(ready.units for ready in prepared) / items_a_pass if served is None else served["tokens_per_s"] or None,
        "pipeline_per_s": pipeline.count * len(stored[0]) / pipeline.wall_s,
        "truncated_share": None if served is not None else sum(ready.truncated for ready in prepared) / items_a_pass,
        "items": items_a_pass,
        "batch_items": len(stored[0]),
        "stages": {name: sum(stages[name].seconds) / stages[name].count for name in STAGES},
        "crew": asdict(how),
        "arithmetic": arithmetic,
        "energy_j_per_item": None if joules is None else joules / items_a_pass,
        "energy_reason": no_joules,
        "requests": served,
    }
    (folder / "result.json").write_text(json.dumps(result))
    arrays: dict[str, Any] = {"forward_s": forward.array(), "batch_s": stages["batch"].array(), "query_s": asked.array()}
    np.savez(folder / "samples.npz", **arrays)


def _compile_anew(folder: Path) -> None:
    """Let torch keep what it compiles in this process's folder: in the usual one, each process would find what the first has compiled."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")


def _ready(model: Model, data: Data, stored: Sequence[Sequence[str]]) -> list[Prepared]:
    """Return batches that are ready on the device: all of them where they fit into `_READY_BYTES`, else as many, evenly spread."""

    def one(number: int) -> Prepared:
        return model.transfer(model.prepare([decode(data.modality, item) for item in stored[number]]))

    first = one(0)
    fitting = max(2, _READY_BYTES // max(bytes_of(first), 1))
    numbers = np.unique(np.linspace(0, len(stored) - 1, min(fitting, len(stored))).round().astype(int)).tolist()
    return [first, *(one(number) for number in numbers[1:])]


def _by_shape(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """Return the batches in groups whose inputs have the same shapes, so that one of each can stand for all."""
    groups: dict[Hashable, list[Prepared]] = {}
    for ready in prepared:
        groups.setdefault(shape_of(ready), []).append(ready)
    return list(groups.values())


def _counted(forward: Callable[[Prepared], Any], shapes: Sequence[Sequence[Prepared]]) -> flops.Flops | None:
    """Return the operations of the forward passes over all batches, one of each shape being counted."""
    convolution = other = 0.0
    for first, *more in shapes:
        found = flops.count(partial(forward, first))
        if found is None:
            return None
        convolution += found.convolution * (1 + len(more))
        other += found.other * (1 + len(more))
    return flops.Flops(convolution, other)


def _arithmetic(counted: flops.Flops, items: int, rate: float, device: str, dtype: str) -> dict[str, float | None]:
    """Return what the counted operations say of a rate.

    Raises
    ------
    harness.errors.AuditError
        When the rate implies more operations a second than the device can do, so that the clock cannot have waited for it.
    """
    most, peak = peaks.limit(device, dtype), peaks.datasheet(device, dtype)
    took_s = items / rate
    if most is not None and took_s < most.least_s(counted):
        raise AuditError(
            f"{items} items took {took_s:.3g} s, which for the {counted.total / 1e9:,.4g} GFLOP counted in their forward passes is "
            f"{counted.total / took_s / 1e12:,.4g} TFLOP/s; device={device} needs at least {most.least_s(counted):.3g} s ({most.words}). "
            "The clock stopped before the work was done: forward() has to leave its work where torch.accelerator.synchronize waits for it"
        )
    return {
        "flop_per_item": counted.total / items,
        "peak_s_per_item": None if peak is None else peak.least_s(counted) / items,
    }


def _energy(model: Model, prepared: Sequence[Prepared], device: str, share_s: float) -> tuple[float | None, str | None]:
    """Return the joules that one forward pass over all batches takes, or the reason why they are not known."""
    meter = energy.meter(device)
    if isinstance(meter, str):
        return None, meter
    passes, until = Timed(), Until(min_s=max(share_s, energy.LEAST_S), min_count=1)
    before = meter()
    while not until.met(passes.wall_s, passes.count):
        forward_pass(model, prepared, device, passes)
    return (meter() - before) / (passes.count / len(prepared)), None


class _Sent:
    """What a model behind an endpoint has counted since this was made, and, as a context manager, inside the forward passes."""

    def __init__(self, model: Model) -> None:
        self._model: Served | None = model if isinstance(model, Served) else None
        self._began = self._now()
        self._inside = dict.fromkeys(("requests", "billed_tokens"), 0.0)

    def _now(self) -> dict[str, float]:
        return {} if self._model is None else dict(self._model.counters())

    def __enter__(self) -> None:
        now = self._now()
        self._inside = {name: inside - now.get(name, 0.0) for name, inside in self._inside.items()}

    def __exit__(self, *_: object) -> None:
        now = self._now()
        self._inside = {name: inside + now.get(name, 0.0) for name, inside in self._inside.items()}

    def totals(self, forward_s: float) -> dict[str, float] | None:
        """Return the counters' growth, and requests and billed tokens a second of forward passes; None for a model that computes here."""
        if self._model is None:
            return None
        rates = {"per_s": self._inside["requests"] / forward_s, "tokens_per_s": self._inside["billed_tokens"] / forward_s}
        return {name: value - self._began[name] for name, value in self._now().items()} | rates


def forward_pass(model: Model, prepared: Sequence[Prepared], device: str, into: Timed, *, clock: Clock = time.perf_counter_ns) -> None:
    """Take all batches, ready on the device, through the model once: what `throughput_per_s` is made of."""

    def one(i: int) -> None:
        model.forward(prepared[i])
        synchronize(device)

    into.block(one, range(len(prepared)), clock=clock)


def _stage_by_stage(model: Model, data: Data, items: Sequence[str], device: str, into: Mapping[str, Timed], clock: Clock) -> None:
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

    moved: Prepared = into["transfer"].block(transfer, [0])[0]
    outputs = into["forward"].block(forward, [0], clock=clock)[0]
    into["finish"].block(lambda _: model.finish(outputs), [0])


def _queries(model: Model, data: Data, spec: Mapping[str, Any], order: random.Random, report: Report, clock: Clock) -> Timed:
    """Time single queries, one after the other, over all distinct queries in turn."""
    numbers = list(range(len(data.queries)))
    order.shuffle(numbers)

    def one(i: int) -> Vectors:
        return embed(model, [decode(data.query_modality, data.queries[i])], role="query")

    warm = Timed()  # single queries have shapes of their own
    warm.block(one, numbers[:8], clock=clock)
    count = affordable((spec["min_requests"], *REQUESTS), warm.wall_s / warm.count, within_s=QUERY_TIMES * spec["max_s"])
    until = Until(min_s=spec["share_s"], min_count=count)
    timed = Timed()
    while not until.met(timed.wall_s, timed.count):
        timed.block(one, [numbers[(timed.count + step) % len(numbers)] for step in range(min(16, count))], clock=clock)
        report("query", min(1.0, timed.count / count), count)
    return timed


def measure_memory(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Load, embed three batches (of text, the longest) and one query, and write down the peak; runs in a process of its own."""
    report("memory", 0.0)
    if spec["compile"]:
        _compile_anew(folder)
    data = open_data(Path(spec["data"]))
    batches = list(sample(data, items=spec["embed_items"], batch_size=spec["batch_size"], seed=spec["seed"]))[:3]
    model, _ = load(spec)
    for batch in batches:
        embed(model, [decode(data.modality, data.corpus[i]) for i in batch])
    embed(model, [decode(data.query_modality, data.queries[0])], role="query")
    synchronize(spec["device"])
    device_peak = reserved = None
    if spec["device"].startswith("cuda"):
        import torch

        device_peak = torch.cuda.max_memory_allocated(spec["device"])
        reserved = torch.cuda.max_memory_reserved(spec["device"])
    result = {"peak_rss_bytes": tree_peak_bytes(), "device_peak_bytes": device_peak, "device_reserved_bytes": reserved}
    (folder / "result.json").write_text(json.dumps(result))
