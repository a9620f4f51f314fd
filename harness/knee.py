"""Where a model's throughput stops rising with the batch size: what ``batch_size=auto`` looks for.

Batch sizes 1, 2, 4 … are measured in this order, each as a cell like any other, until the curve has ended. It ends

- where memory ran out, or a cell has no result;
- where the last doubling is shown to gain no more than `SHARE`: the whole interval of the ratio of the two rates lies below it;
- where neither of the last two doublings gained more than that by its middle value, whatever their intervals.

One doubling whose interval is wide therefore never ends the curve by chance, and a flat curve costs at most one doubling more than it
has to. The knee is the smallest batch size measured from which no larger one is more than `SHARE` faster, by the middle values. While the
largest batch is the fastest by more than that and memory has not ended the curve, no knee has been found and none is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.records import Measured, Record

SHARE = 0.05
"""A doubling that gains less is not worth the latency and memory it costs; the intervals of three processes are about as wide."""
FIGURE = "throughput_per_s"
"""The rate whose knee is looked for: the forward pass, which is what the batch size is for."""


@dataclass(frozen=True)
class Rise:
    """How much faster a larger batch is, as a ratio of rates; 1.05 is 5 % faster."""

    value: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Knee:
    """The batch size beyond which little is gained."""

    record: Record
    next: Record | None
    """The next larger batch that was measured, None where memory ran out there."""

    @property
    def batch_size(self) -> int:
        """Items a batch."""
        return int(self.record.settings["batch_size"])

    @property
    def words(self) -> str:
        """What was found, in a sentence."""
        labels, figure = self.record.labels, self.record.metrics[FIGURE]
        what = f"{labels['model']} on {labels['device']}, {self.record.settings['dtype']}: throughput knee at batch {self.batch_size}"
        if self.next is None:
            return f"{what} ({figure.value:,.4g} items/s; memory ran out at the next)"
        gain = rise(figure, self.next.metrics[FIGURE])
        interval = "" if gain.lo is None or gain.hi is None else f" ({gain.lo - 1:+.0%} … {gain.hi - 1:+.0%})"
        larger = self.next.settings["batch_size"]
        return f"{what} ({figure.value:,.4g} items/s; batch {larger} changes that by {gain.value - 1:+.0%}{interval})"


def rise(smaller: Measured, larger: Measured) -> Rise:
    """Return the ratio of two rates with its 95 % interval, None where either rate has none.

    The rates' logarithms are independent, and their intervals' halves combine as the root of the sum of squares (MOVER: Zou and Donner,
    "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008).
    """
    assert smaller.value is not None
    assert larger.value is not None
    ratio = larger.value / smaller.value
    if smaller.lo is None or smaller.hi is None or larger.lo is None or larger.hi is None:
        return Rise(ratio, None, None)
    below = math.hypot(math.log(larger.value / larger.lo), math.log(smaller.hi / smaller.value))
    above = math.hypot(math.log(larger.hi / larger.value), math.log(smaller.value / smaller.lo))
    return Rise(ratio, ratio * math.exp(-below), ratio * math.exp(above))


def ended(curve: Sequence[Record]) -> bool:
    """Say whether a curve, given by rising batch size, needs no larger batch."""
    if not curve:
        return False
    if curve[-1].status != "ok":
        return True
    rises = [rise(a.metrics[FIGURE], b.metrics[FIGURE]) for a, b in pairwise(curve[-3:])]
    if rises and (high := rises[-1].hi) is not None and high <= 1 + SHARE:
        return True
    return len(rises) == 2 and all(one.value <= 1 + SHARE for one in rises)


def knee(curve: Iterable[Record]) -> Knee | None:
    """Return the knee of the embed cells of one model, device, dtype and dataset; None where the curve does not show one."""
    by_size = sorted(curve, key=lambda record: int(record.settings["batch_size"]))
    measured = [record for record in by_size if record.status == "ok" and _rate(record)]
    if not measured:
        return None
    fastest = max(map(_rate, measured))
    number = next(i for i, record in enumerate(measured) if fastest <= (1 + SHARE) * _rate(record))
    if number + 1 < len(measured):
        return Knee(measured[number], measured[number + 1])
    beyond = [r for r in by_size if r.status == "oom" and r.settings["batch_size"] > measured[number].settings["batch_size"]]
    return Knee(measured[number], None) if beyond else None


def curves(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the embed cells that differ in nothing but their batch size, by rising batch size."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "embed" and isinstance(record.settings.get("batch_size"), int):
            groups.setdefault(_but_batch(record), []).append(record)
    for group in groups.values():
        yield sorted(group, key=lambda record: int(record.settings["batch_size"]))


def batch_sizes(records: Iterable[Record]) -> dict[str, int]:
    """Return the knee's batch size for the key of every embed cell whose curve has one."""
    return {record.key: found.batch_size for curve in curves(records) if (found := knee(curve)) for record in curve}


def _but_batch(record: Record) -> str:
    settings = {name: value for name, value in record.settings.items() if name != "batch_size"}
    about = [record.labels, settings, record.data.get("fingerprint"), record.environment.get("fingerprint")]
    return json.dumps(about, sort_keys=True, default=str)


def _rate(record: Record) -> float:
    figure = record.metrics.get(FIGURE)
    return 0.0 if figure is None or figure.value is None else figure.value
