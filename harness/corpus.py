"""Documents in, vectors out, in canonical batches: the loop that every corpus engine runs, in this process or in a worker's.

Which items share a batch can change the last digits of their vectors, because of padding and of how a library splits its work. So the
batches of a corpus are cut here, once and for all: an engine hands out runs of whole batches and never cuts them anew.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.build import build
from harness.data import Batches, open_data
from harness.datasets.decode import decode
from harness.embed_cell import load
from harness.inputs import bytes_of, bytes_of_items
from harness.interfaces import CorpusWork, Data, Exportable, Item, Modality, Model, ModelInfo, Part, Prepared, Role
from harness.pipeline import Crew, crew, prepared_ahead

CANONICAL_BATCH: Mapping[Modality, int] = {"text": 32, "image": 32, "audio": 8, "video": 1}
"""Batch size of the canonical pass; large enough to be quick anywhere, small enough for any memory: a film can take a gigabyte."""


def of_role(data: Data, role: Role) -> Data:
    """Return the dataset with the items of one role, documents or queries, as its corpus."""
    return data if role == "document" else replace(data, corpus=data.queries, modality=data.query_modality)


def canonical_batches(data: Data, numbers: Iterable[int] | None = None) -> Batches:
    """Return the batches of a corpus, or of some of its documents, in the order in which they are embedded."""
    chosen = range(len(data.corpus)) if numbers is None else list(numbers)
    return Batches.of(data, chosen, CANONICAL_BATCH[data.modality])


def crew_for(model: Model, batches: Batches, role: Role, device: str) -> Crew:
    """Return who prepares these batches, from what the first of them takes."""
    first = [decode(batches.data.modality, batches.data.corpus[i]) for i in next(iter(batches))]
    return crew(model, device, batch_bytes=max(bytes_of_items(first), bytes_of(model.prepare(first, role=role))))


def embedded(model: Model, batches: Batches, role: Role, how: Crew) -> Iterator[Part]:
    """Yield the vectors of each batch in turn."""
    data = batches.data

    def prepare(numbers: list[int]) -> Prepared:
        items: list[Item] = [decode(data.modality, data.corpus[i]) for i in numbers]
        return model.prepare(items, role=role)

    with prepared_ahead(prepare, batches, how) as stream:
        for numbers, prepared in zip(batches, stream, strict=True):
            yield Part(numbers, model.finish(model.forward(model.transfer(prepared))), prepared.truncated)


class Corpus:
    """Taking the documents of one corpus through one model; what `harness.interfaces.CorpusWork` promises to engines.

    Parameters
    ----------
    spec : mapping
        What a process that uses the model is told (`harness.cells.embed_spec`), its weights being on this machine.
    numbers : sequence of int, optional
        The documents, where these are not all.
    """

    def __init__(self, spec: Mapping[str, Any], *, numbers: Sequence[int] | None = None) -> None:
        self._spec, self._chosen = dict(spec), None if numbers is None else list(numbers)
        self._loaded: tuple[Model, ModelInfo] | None = None
        self._how: Crew | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the description alone."""
        return {"_spec": self._spec, "_chosen": None, "_loaded": None, "_how": None}

    @cached_property
    def data(self) -> Data:
        """The dataset, which lies on disk."""
        return open_data(Path(self._spec["data"]))

    @cached_property
    def _batches(self) -> Batches:
        return canonical_batches(self.data, self._chosen)

    @property
    def numbers(self) -> Sequence[int]:
        """Documents in the order in which they are embedded; whole batches follow each other."""
        return self._batches.numbers

    @property
    def batch_size(self) -> int:
        """Documents in each batch but the last."""
        return CANONICAL_BATCH[self.data.modality]

    @property
    def dim(self) -> int:
        """Of the vectors, as the model declares it."""
        return int(build(self._spec["model"], key="model").dim)

    @property
    def modules(self) -> Sequence[str]:
        """Of this loop, of the model, and of what computes where that is not torch."""
        model, backend = build(self._spec["model"], key="model"), self._spec.get("backend", "torch")
        runtime = [model.backends[backend]] if backend != "torch" and isinstance(model, Exportable) else []
        return [__name__, str(self._spec["model"]["_target_"]).rpartition(".")[0], *runtime]

    def start(self) -> tuple[Model, ModelInfo]:
        """Load the model, unless that has been done."""
        if self._loaded is None:
            self._loaded = load(self._spec)
        return self._loaded

    def weights(self) -> str:
        """Return the SHA-256 over the loaded weights."""
        model, _ = self.start()
        return model.fingerprint()

    def embed(self, numbers: Sequence[int]) -> Iterator[Part]:
        """Yield the vectors of some documents, a run of whole batches, batch by batch."""
        model, _ = self.start()
        batches = Batches(self.data, numbers, self.batch_size)
        if self._how is None:
            self._how = crew_for(model, batches, "document", self._spec["device"])
        return embedded(model, batches, "document", self._how)

    def release(self) -> None:
        """Let go of the model, so that workers of this machine find its memory free."""
        self._loaded = None
        if str(self._spec["device"]).startswith("cuda"):
            import gc

            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def elsewhere(self, device: str) -> CorpusWork:
        """Return this for another process, where the device may bear another name."""
        return Corpus({**self._spec, "device": device})


@dataclass(frozen=True)
class OneProcess:
    """The engine that is there always: this process, batch after batch."""

    def violations(self, *, device: str) -> list[str]:  # noqa: ARG002
        """Nothing can be missing."""
        return []

    def embed(
        self,
        work: CorpusWork,
        keep: Callable[[Part], None],
        *,
        device: str,  # noqa: ARG002
        shards: Path,  # noqa: ARG002
        told: Callable[[int], None],
    ) -> Mapping[str, Any]:
        """Hand over the vectors in the order of the batches; see `harness.interfaces.CorpusEngine`."""
        work.start()
        done, began = 0, time.perf_counter()
        for part in work.embed(work.numbers):
            keep(part)
            done += len(part.numbers)
            told(done)
        return {"engine": "local", "items": done, "seconds": time.perf_counter() - began}


def whole_batches(work: CorpusWork, items: int) -> list[Sequence[int]]:
    """Return the documents of a corpus in runs of whole batches, each of about so many documents, one batch at least."""
    step = max(1, items // work.batch_size) * work.batch_size
    numbers = array("q", work.numbers)
    return [numbers[first : first + step] for first in range(0, len(numbers), step)]
