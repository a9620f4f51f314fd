"""A model and a store that write down what the harness does to them, and wait where they are told to.

In the process of a test the events are in `EVENTS`; from other processes they are lines of JSON in the file `log`.
"""

import json
import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import psutil

from harness.errors import StoreError
from harness.interfaces import Ready
from stores.index import FLAT
from tests.plugins.parts import HashedWords, NullStore

EVENTS: list[tuple] = []
_SEEN: list[object] = []
"""Batches that forward passes were given, kept so that no two of them ever have the same `id`."""


@dataclass(frozen=True)
class WatchedModel(HashedWords):
    """Hashed words; every part can be made to take time."""

    log: str = ""
    prepare_s: float = 0.0
    transfer_s: float = 0.0
    finish_s: float = 0.0
    first_s: float = 0.0
    """Extra seconds of the first forward pass, as kernels that are compiled on first use cost."""
    leaks: bool = False
    """Whether a row depends on what stands in the batch beside it."""
    hog_bytes: int = 0
    """Memory that loading takes."""

    def _note(self, *event):
        EVENTS.append(event)
        if self.log:
            with open(self.log, "a") as handle:  # noqa: PTH123
                handle.write(json.dumps([*event, os.getpid(), os.getppid()]) + "\n")

    def fetch(self, weights):
        self._note("fetch")
        return weights

    def load(self, weights, *, device, dtype, attention="auto", compiled=False):
        self._note("load", {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")})
        if self.trouble == "kills_server":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        if self.hog_bytes:
            np.ones(self.hog_bytes, dtype=np.uint8)
        return super().load(weights, device=device, dtype=dtype, attention=attention, compiled=compiled)

    def prepare(self, items, *, role="document"):
        EVENTS.append(("prepare", tuple(items), role))
        time.sleep(self.prepare_s)
        return super().prepare(items, role=role)

    def transfer(self, prepared):
        time.sleep(self.transfer_s)
        return prepared

    def forward(self, prepared):
        if self.first_s and not any(event[0] == "forward" for event in EVENTS):
            time.sleep(self.first_s)
        _SEEN.append(prepared)
        EVENTS.append(("forward", id(prepared)))
        out = super().forward(prepared)
        return out + 0.1 * out.sum(axis=0) if self.leaks else out

    def finish(self, outputs):
        time.sleep(self.finish_s)
        return super().finish(outputs)


@dataclass(frozen=True)
class Roofline(HashedWords):
    """Hashed words with a known knee: a batch takes `fixed_s` or its items' time, whichever is longer; its memory grows with it, really."""

    fixed_s: float = 0.02
    per_item_s: float = 0.005
    bytes_per_item: int = 0
    spare_bytes: int = 0
    """If not 0, how much more memory than after loading the process may have, by a limit that the kernel keeps."""

    def load(self, weights, **how):
        info = super().load(weights, **how)
        if self.spare_bytes:
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            if soft == resource.RLIM_INFINITY:  # a process loads more than once
                resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + self.spare_bytes, hard))
        return info

    def forward(self, prepared):
        until = time.perf_counter() + max(self.fixed_s, self.per_item_s * prepared.count)
        memory = np.ones(self.bytes_per_item * prepared.count, dtype=np.uint8)
        out = np.zeros((prepared.count, self.dim), dtype=np.float32)
        for row, words in zip(out, prepared.inputs, strict=True):
            for word in words:
                row[word % self.dim] += 1.0 + word % 7
        time.sleep(max(0.0, until - time.perf_counter()))
        return out * memory[:1] if len(memory) else out


@dataclass
class WatchedStore(NullStore):
    """Exact search in NumPy that writes down every call; `fails_at` makes that search fail, `never_ready` waits for ever."""

    fails_at: int = 0
    never_ready: bool = False
    families: ClassVar[tuple[str, ...]] = ("FLAT", "HNSW", "IVF_FLAT")

    def open(self, folder):
        self._where = folder.name
        self._parts = []
        EVENTS.append((self._where, "open"))

    def create(self, collection, *, dim, metric, index, vector_type, filtered):
        EVENTS.append((self._where, "create", dim, index.family))

    def insert(self, vectors, first_id):
        EVENTS.append((self._where, "insert", first_id, len(vectors)))
        self._parts.append(vectors.copy())

    def build(self):
        EVENTS.append((self._where, "build"))
        self._rows = np.concatenate(self._parts)

    def wait_ready(self, *, rows, deadline_s):
        EVENTS.append((self._where, "wait_ready", rows))
        if self.never_ready:
            raise StoreError(f"not ready after {deadline_s:g} s: 7 rows pending")
        return Ready(rows=len(self._rows), segments=1, index_state="Finished")

    def search(self, queries, k, params, *, below=None):
        EVENTS.append((self._where, "search", queries.tobytes(), k, dict(params)))
        if self.fails_at and sum(event[1] == "search" for event in EVENTS) == self.fails_at:
            raise StoreError("the store has gone")
        if self.delay_s:
            time.sleep(self.delay_s)
        return np.argsort(-(queries @ self._rows.T), axis=1, kind="stable")[:, :k]

    def floor_index(self, *, rows, k):
        return FLAT()

    def drop(self):
        EVENTS.append((self._where, "drop"))

    def close(self):
        EVENTS.append((self._where, "close"))
