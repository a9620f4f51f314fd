"""A model, a dataset and a store that live outside the project, as a user's own would; quick, and with faults on demand.

Nothing in the harness knows them: they come in by ``--config-dir tests/plugins/conf`` alone.
"""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.errors import SettingsError, StoreError
from harness.interfaces import Data, ModelInfo, Prepared, Ready, Weights
from stores.index import FLAT


@dataclass(frozen=True)
class HashedWords:
    """Embeds a text as the normalised sum of its words' pseudo-random vectors; `trouble` makes it fail."""

    modality: str = "text"
    dim: int = 32
    trouble: str = ""
    slow_s: float = 0.0
    normalized: ClassVar[bool] = True
    gflop_per_item: ClassVar[float] = 1e-4

    def locate(self):
        kind = "random" if self.trouble == "random" else "pretrained"
        return Weights(kind=kind, source="tests/hashed-words", path=None, revision="1", fingerprint=f"hashed-words-{self.dim}")

    def fetch(self, weights):
        return weights

    def load(self, weights, *, device, dtype, attention="auto", compiled=False):
        if self.trouble == "has_no_attention" and attention != "auto":
            raise SettingsError([f"attention must be auto for this model, which has none, got {attention}", "and more is wrong"])
        if self.trouble == "load":
            raise RuntimeError("the weights file is broken")
        if self.trouble == "memory":
            raise MemoryError
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "hangs":
            time.sleep(600)
        dim = self.dim + 1 if self.trouble == "wrong_dim" else self.dim
        return ModelInfo(dim=dim, parameters=0, dtype=dtype)

    def fingerprint(self):
        return "0" * 64

    def prepare(self, items, *, role="document"):
        words = [[int.from_bytes(hashlib.sha256(w.encode()).digest()[:4]) for w in text.lower().split()] for text in items]
        return Prepared(inputs=words, count=len(items), units=float(sum(map(len, words))), truncated=0)

    def transfer(self, prepared):
        return prepared

    def forward(self, prepared):
        if self.slow_s:
            time.sleep(self.slow_s)
        out = np.zeros((prepared.count, self.dim), dtype=np.float32)
        for row, words in zip(out, prepared.inputs, strict=True):
            for word in words:
                row += np.random.default_rng(word).standard_normal(self.dim, dtype=np.float32)
        return out

    def finish(self, outputs):
        return outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)


WORDS = ["red", "green", "blue", "small", "large", "round", "old", "new", "fast", "slow", "warm", "cold", "bright", "dark", "soft", "hard"]


@dataclass(frozen=True)
class Sentences:
    """Made-up sentences; query i is a shuffled part of document i."""

    corpus: int = 120
    queries: int = 20
    seed: int = 0
    modality: ClassVar[str] = "text"
    query_modality: ClassVar[str] = "text"

    def identity(self):
        return None

    def materialise(self, folder):
        rng = np.random.default_rng(self.seed)
        corpus = [f"number {i} " + " ".join(rng.choice(WORDS, size=8)) for i in range(self.corpus)]
        queries = [" ".join(rng.permutation(corpus[i].split())[:6]) for i in range(self.queries)]
        fingerprint = hashlib.sha256("\n".join([*corpus, *queries]).encode()).hexdigest()
        return Data("text", "sentences", corpus, queries, {i: {i: 1} for i in range(self.queries)}, fingerprint)


@dataclass
class NullStore:
    """Does nothing and answers at once: what is measured on it is the harness itself. `delay_s` is an injected slowdown."""

    delay_s: float = 0.0
    trouble: str = ""
    name: ClassVar[str] = "null"
    in_process: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("FLAT", "HNSW", "IVF_FLAT")
    metrics: ClassVar[tuple[str, ...]] = ("cosine", "ip", "l2")
    largest_insert: ClassVar[int] = 10_000
    vector_types: ClassVar[tuple[str, ...]] = ("fp32",)
    filters: ClassVar[bool] = False

    def violations(self, *, index, metric, dim, rows, k, vector_type, filtered):
        return [] if index.family in self.families else [f"store=nothing has no index {index.family}; it has {', '.join(self.families)}"]

    def open(self, folder: Path):
        self._rows = 0

    def endpoint(self):
        return None

    def attach(self, endpoint, collection, *, dim, metric, index, vector_type="fp32", filtered=False):
        raise StoreError("store=null runs inside the process that opened it")

    def version(self):
        return "null 1"

    def create(self, collection, *, dim, metric, index, vector_type, filtered):
        self._answer = None

    def insert(self, vectors, first_id):
        if self.trouble == "insert":
            raise RuntimeError("disk full")
        self._rows += len(vectors)

    def build(self):
        if self.trouble == "build_killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def wait_ready(self, *, rows, deadline_s):
        return Ready(rows=self._rows, segments=1, index_state="Finished")

    def search(self, queries, k, params, *, below=None):
        if self.delay_s:
            end = time.perf_counter() + self.delay_s
            while time.perf_counter() < end:
                pass
        if self._answer is None or self._answer.shape[1] != k:
            self._answer = np.arange(k, dtype=np.float64 if self.trouble == "float_ids" else np.int64)[None]
        return self._answer

    def index_bytes(self):
        return None

    def floor_index(self, *, rows, k):
        return FLAT()

    def drop(self):
        pass

    def close(self):
        pass
