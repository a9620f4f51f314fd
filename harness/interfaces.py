"""The plug-in points: what a model, a dataset, a store and an index have to offer.

Standard library and NumPy only. ``models``, ``stores``, ``harness.datasets`` and ``harness.metrics``
know this module and ``harness.errors`` and nothing else of the engine; the engine knows the Protocols
here and never imports ``models`` or ``stores``: a YAML ``_target_`` names them, so that a user's own
class in their own package is loaded exactly as ours is.

Construction is free: a constructor stores settings, checks them and imports nothing heavy, so that
every YAML can be built with no download, GPU or server. ``load()`` and ``open()`` do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Modality = Literal["text", "image", "audio", "video", "vectors"]
Metric = Literal["cosine", "ip", "l2"]
Dtype = Literal["fp32", "fp16", "bf16", "int8"]
"""Precision of a network; ``int8`` is what a runtime besides torch makes of it: weights in 8 bits, vectors in float32."""
Backend = Literal["torch", "onnx", "openvino"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]
VectorType = Literal["fp32", "fp16", "bf16", "int8", "binary"]
Role = Literal["document", "query"]
WeightsKind = Literal["pretrained", "local", "random", "served", "given"]

STAGES = ("decode", "preprocess", "transfer", "forward", "finish")
"""What a batch goes through from stored items to vectors, in order; each is timed by itself."""

UNITS: Mapping[Modality, str] = {"text": "tokens", "image": "images", "audio": "audio seconds", "video": "frames", "vectors": "vectors"}
"""Each modality's own unit, in which throughput is given besides items."""

PARTS = 1000
"""A row belongs to one of so many parts; a filter lets the first few of them through, see `part_of`."""

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Item = Any
"""A decoded item: ``str`` for text, ``PIL.Image.Image`` in mode RGB for an image, `Sound` for audio, `Clip` for video."""


@dataclass(frozen=True)
class Sound:
    """Decoded audio in one channel."""

    samples: Vectors
    """Shape (n,), in [-1, 1]."""
    rate: int
    """Samples a second, as recorded; a model resamples to its own."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Clip:
    """A decoded video."""

    frames: NDArray[np.uint8]
    """Shape (frames, height, width, 3), RGB."""
    frames_per_s: float
    sound: Sound | None = None


def modalities(declared: str) -> tuple[Modality, ...]:
    """Return what a model embeds into one space, from what it declares: ``image+text`` is ``("image", "text")``, documents first."""
    return tuple(declared.split("+"))  # type: ignore[arg-type]


def part_of(ids: Ids) -> Ids:
    """Return the part, 0 … PARTS - 1, that each row belongs to: spread evenly and independent of the rows' order and content.

    The multiplier is 2**32 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    """
    return (ids * 2654435761 % 2**32) * PARTS // 2**32


@dataclass(frozen=True)
class Caveat:
    """Something a reader must know before trusting a number: what was seen and why it matters."""

    code: str
    """Short and stable, for filtering: ``random_vectors``, ``truncated``, ``unreadable_files`` …"""
    text: str
    """One or two sentences: what was seen, why it matters, what to do."""


# ----------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Weights:
    """Where a model's weights come from; decided before loading, part of every result."""

    kind: WeightsKind
    source: str
    """What a reader would look for: hub id, package or folder; of served ones the endpoint's address, without credentials, and model."""
    path: str | None
    """Local folder to load from; None for random and served weights and for those still to be downloaded."""
    revision: str | None
    """Hub commit, package version or None."""
    fingerprint: str
    """Hash that changes when the weights do: commit, package version, file contents, or the seed."""
    note: str = ""
    """Why these and not others, e.g. "hub not reachable, no local copy: random weights"."""


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model turned out to be."""

    dim: int
    parameters: int | None
    """Number of weights; None where they are out of sight, behind an endpoint."""
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    dtype: str = "fp32"
    max_tokens: int | None = None
    attention: str | None = None
    """The attention implementation that the library settled on; None for a network without attention."""
    runtime: str | None = None
    """Which runtime besides torch computes, e.g. ``onnxruntime 1.31.1``; None where torch does."""
    threads: Mapping[str, int] | None = None
    """That runtime's threads: ``intra_op`` inside an operator, ``inter_op`` for operators side by side."""
    export_s: float | None = None
    """Seconds that exporting the network to that runtime took, once; `Model.load` finds it exported."""


@dataclass(frozen=True)
class Prepared:
    """A batch ready for the device: what `Model.prepare` makes and `Model.transfer` moves."""

    inputs: Any
    """Whatever the model's own `forward` takes."""
    count: int
    """Number of items, n."""
    units: float
    """The batch in its modality's own unit (`UNITS`): real tokens without padding, images, seconds of sound, frames that the model sees."""
    truncated: int = 0
    """How many of the items were cut to the model's maximum length."""


@runtime_checkable
class Model(Protocol):
    """An embedding model, split so that its stages can be timed apart and overlapped.

    ``prepare`` is CPU work on decoded items (tokenise, resize, normalise); ``transfer`` moves the
    inputs to the device (returns them unchanged on a CPU); ``forward`` computes on the device and
    may return before the device has finished; ``finish`` brings the result back.

    A model that embeds several modalities into one space tells by the items' type which of its
    towers they go through; the items of one batch are of one modality.
    """

    @property
    def modality(self) -> str:
        """What it embeds: ``text``, ``image`` …, or several joined by ``+``, what its documents are first: ``image+text``."""

    @property
    def dim(self) -> int:
        """Declared dimension, checked against the loaded model by the audit."""

    @property
    def normalized(self) -> bool:
        """Whether the vectors are meant to have unit norm."""

    @property
    def gflop_per_item(self) -> float:
        """Arithmetic of one typical item's forward pass, for time estimates only."""

    def locate(self) -> Weights:
        """Decide where the weights come from, without loading them and within 5 seconds."""

    def fetch(self, weights: Weights) -> Weights:
        """Bring the files to this machine if they are not here yet; returns weights whose `path` is set.

        Called once before measuring, so that no download ever falls into a load time. Weights that
        need no file (random ones) come back unchanged.
        """

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load onto `device` ("cpu", "cuda:0", "mps") in exactly `dtype`, in inference mode.

        `attention` other than ``auto`` is used or refused, never replaced. With `compiled` the network goes
        through ``torch.compile``, which works at the first forward pass of each shape.
        """

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights, hexadecimal; called after `load`, outside any clock."""

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared: ...

    def transfer(self, prepared: Prepared) -> Prepared: ...

    def forward(self, prepared: Prepared) -> Any: ...

    def finish(self, outputs: Any) -> Vectors:
        """Return vectors of shape (n, dim), float32, in the order of the items."""


@runtime_checkable
class Exportable(Protocol):
    """What a model offers besides `Model` if runtimes other than torch can run its network: its ``load`` takes a ``backend``, too.

    The network is loaded in fp32 by torch, exported once, and kept; `forward` is then the runtime's run.
    """

    @property
    def backends(self) -> Mapping[str, str]:
        """The runtimes, by the name of the module that knows them: its source and its libraries are part of a cell's key."""

    def refused(self, *, backend: Backend, device: str, dtype: Dtype, attention: Attention, compiled: bool) -> list[str]:
        """Return a sentence for each thing asked for that the runtime cannot do, or lacks here; loads nothing."""

    def forward_by_torch(self, prepared: Prepared) -> Any:
        """Take a batch that is prepared for a runtime through the same network as torch's operators, whose arithmetic can be counted.

        What comes of it has no meaning.
        """


@runtime_checkable
class Served(Protocol):
    """What a model that computes behind an endpoint offers besides `Model`: what went by that is not the endpoint's work.

    Its `forward` sends a request and waits for the answer, and where the endpoint asks to slow down or fails for the moment
    it sends the request again. That is no part of how fast the endpoint embeds, so whoever times calls reads the counters
    before and after, outside the clock, and takes the growth of ``waited_s`` off the time of the calls between.
    """

    def counters(self) -> Mapping[str, float]:
        """Return running totals since `Model.load`, which never go down; quick, and asks nothing of the endpoint.

        ``requests``: answers that were used, so that ``requests`` over the corrected time is requests a second.
        ``retries``: attempts that came to nothing and were repeated, for whatever reason; ``rate_limited``: those among
        them that the endpoint refused for coming too fast. ``waited_s``: seconds that those attempts took and the pauses
        after them, wall-clock inside `forward`; with several threads the sum over them. ``billed_tokens``: tokens as the
        endpoint counts them in its answers, 0 where it does not. What `Model.load` sent is not counted.

        Tokens are known only from the answers: `Prepared.units` of a served model counts words, which stand for nothing but
        "some"; a rate in tokens comes from the growth of ``billed_tokens``, and is null where that stays 0.
        """


# --------------------------------------------------------------------------------------- datasets


@dataclass(frozen=True)
class Data:
    """A dataset laid out on disk, small to pass between processes; made by `Dataset.materialise`.

    Qrels map a query's number to its relevant documents' numbers and grades. Corpus and queries are
    numbered 0 … n-1 in file order.
    """

    modality: Modality
    name: str
    corpus: Sequence[str]
    """Text: the text itself. Anything else: the path of a file."""
    queries: Sequence[str]
    qrels: Mapping[int, Mapping[int, int]] | None
    fingerprint: str
    """SHA-256 over the contents (for images the decoded source bytes), order and qrels."""
    caveats: tuple[Caveat, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the data for a reader: where it came from, sizes, counts of what was left out."""
    asked_in: Modality | None = None
    """The modality of the queries where it is another one than the documents'."""

    @property
    def query_modality(self) -> Modality:
        """The modality of the queries."""
        return self.asked_in or self.modality


@runtime_checkable
class Dataset(Protocol):
    """A source of items, queries and, where there are any, relevance labels."""

    @property
    def modality(self) -> Modality:
        """What the documents are."""

    @property
    def query_modality(self) -> Modality:
        """What the queries are; another modality than the documents' for search across them."""

    @property
    def corpus(self) -> int | None:
        """Number of documents asked for; None for all there are, known only after `materialise`."""

    @property
    def queries(self) -> int:
        """Number of queries asked for."""

    def identity(self) -> Any:
        """Return, as JSON-like data, all that decides about the contents besides settings and code.

        The installed packages for docstrings, names, sizes and times for a folder of files; None where there is
        nothing. Quick: it is asked at every start, to know whether an earlier `materialise` still holds.
        """

    def materialise(self, folder: Path) -> Data:
        """Make or read the data; files it has to write go into `folder`, which is empty.

        Raises
        ------
        harness.errors.DataError
            When nothing usable is left.
        """


# --------------------------------------------------------------------------------- whole corpora


@dataclass(frozen=True)
class Part:
    """Vectors of some documents of a corpus."""

    numbers: Sequence[int]
    """Which documents."""
    vectors: Vectors
    """Shape (n, dim), row i being document ``numbers[i]``."""
    truncated: int = 0
    """How many of them were cut to the model's longest input."""


class CorpusWork(Protocol):
    """The documents of one corpus and the model that embeds them, as an engine is handed it."""

    @property
    def numbers(self) -> Sequence[int]:
        """All documents in the order in which they are embedded; from the first on, each `batch_size` of them are one batch."""

    @property
    def batch_size(self) -> int: ...

    @property
    def dim(self) -> int:
        """Of the vectors."""

    @property
    def modules(self) -> Sequence[str]:
        """Those whose source and libraries the vectors depend on, the model's among them: wherever it is done they have to be the same."""

    def start(self) -> Any:
        """Load the model, unless it is loaded; `embed` does so too."""

    def weights(self) -> str:
        """Return the SHA-256 over the weights, loading the model first, unless it is loaded."""

    def embed(self, numbers: Sequence[int]) -> Iterator[Part]:
        """Yield the vectors of some documents, batch by batch in their order; these are to be whole batches of `numbers`."""

    def release(self) -> None:
        """Let go of the model in this process, where others will do the work."""

    def elsewhere(self, device: str) -> CorpusWork:
        """Return the same for another process, small enough to be sent, which loads the model onto `device` there."""


@runtime_checkable
class CorpusEngine(Protocol):
    """Who takes the documents of a corpus through a model: this process, or workers here and on other machines.

    A batch holds the same documents whoever takes it, so that the engine is no part of what the vectors are; the record says who it was.
    """

    def violations(self, *, device: str) -> list[str]:
        """What is missing on this machine for it to work, one sentence each. Quick: it is asked whenever a plan is made."""

    def embed(
        self, work: CorpusWork, keep: Callable[[Part], None], *, device: str, shards: Path, told: Callable[[int], None]
    ) -> Mapping[str, Any]:
        """Hand the vectors of every document to `keep`, each once, in any order; returns, as JSON-like data, who made them.

        Parameters
        ----------
        work : CorpusWork
            What is to be done.
        keep : callable
            Takes a part and writes it down.
        device : str
            Where the model computes, as this process calls it.
        shards : Path
            Where the engine may keep what is made, for a run that goes on after this one was killed. The folder is this corpus's own.
        told : callable
            Takes the number of documents that are done so far.

        Returns
        -------
        mapping
            ``engine``: its name; ``items`` and ``seconds``: how many documents this call embedded, and in which time, from the first
            of them on with every model loaded; and what else a reader should know.
        """


# ----------------------------------------------------------------------------- indexes and stores


@runtime_checkable
class Index(Protocol):
    """Settings of an index family: build parameters, search parameters and their ranges.

    A frozen dataclass. Milvus's and FAISS's spellings of the parameters are the stores' business.
    """

    @property
    def family(self) -> str:
        """``FLAT``, ``HNSW``, ``IVF_FLAT`` …, as Milvus writes it."""

    @property
    def knob(self) -> str | None:
        """The search parameter that trades recall for time, or None; its field holds a list of values."""

    def violations(self, *, rows: int, dim: int, k: Sequence[int]) -> list[str]:
        """Every rule that these settings break for such a corpus, one sentence each; empty if none."""

    def build_params(self) -> dict[str, int | float | str]:
        """Build parameters in this project's spelling, e.g. ``{"M": 16, "ef_construction": 200}``."""

    def search_params(self) -> list[dict[str, int | float]]:
        """One dict for each operating point, e.g. ``[{"ef": 16}, {"ef": 64}]``; ``[{}]`` if no knob."""

    def knob_range(self, *, rows: int, dim: int, k: int) -> tuple[int, int] | None:
        """The knob's lowest and highest sensible value for such a corpus, recall rising in between; None if there is no knob."""

    def at(self, value: int) -> dict[str, int | float]:
        """The search parameters of the operating point with the knob at `value`, the others as they are set."""


@dataclass(frozen=True)
class Ready:
    """What a store proved when it said that a collection is ready to be searched."""

    rows: int
    segments: int | None
    index_state: str
    detail: str = ""
    times: Mapping[str, float] = field(default_factory=dict)
    """Seconds that parts of inserting, building and getting ready took, by name (``files``, ``import``, ``flush``, ``build``, ``compact``,
    ``load``, ``wait``), where the engine lets them be told apart."""


@runtime_checkable
class Store(Protocol):
    """A vector store. One collection at a time per `create`; ids are the rows' numbers, 0 … n-1.

    The order of calls is ``open, create, insert (several times), build, wait_ready, search …, drop,
    close``; ``create … drop`` may be repeated. Library exceptions leave as `harness.errors.StoreError`.
    """

    @property
    def name(self) -> str: ...

    @property
    def in_process(self) -> bool:
        """Whether the engine runs inside the measuring process (its memory is then the process's)."""

    @property
    def families(self) -> tuple[str, ...]: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def vector_types(self) -> tuple[VectorType, ...]:
        """What a row's vector can be stored as."""

    @property
    def filters(self) -> bool:
        """Whether a search can be restricted to the rows of some parts (`part_of`)."""

    @property
    def largest_insert(self) -> int:
        """Most rows to hand to one `insert` call for 4-kB vectors."""

    def violations(
        self,
        *,
        index: Index,
        metric: Metric,
        dim: int,
        rows: int,
        k: Sequence[int],
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> list[str]:
        """What of this combination the store cannot do, one sentence each, naming what it has."""

    def open(self, folder: Path) -> None:
        """Connect or start; everything it writes goes below `folder`, which is empty."""

    def endpoint(self) -> str | None:
        """What another process hands to `attach` to search this store's collections; holds no secret.

        None for an engine inside this process, which no other process can reach. Valid from `open` until `close`.
        """

    def attach(
        self,
        endpoint: str,
        collection: str,
        *,
        dim: int,
        metric: Metric,
        index: Index,
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> None:
        """Connect, instead of `open … wait_ready`, to a collection that another process has made ready; for searching only.

        The store is built from the same settings as the one whose `endpoint` this is, and the arguments are those of that
        one's `create`. `close` then leaves the collection as it is.

        Raises
        ------
        harness.errors.StoreError
            When there is no such collection, or the engine runs inside the process that opened it.
        """

    def version(self) -> str:
        """The engine's own version, e.g. ``milvus-lite 3.2.2``."""

    def create(
        self,
        collection: str,
        *,
        dim: int,
        metric: Metric,
        index: Index,
        vector_type: VectorType = "fp32",
        filtered: bool = False,
    ) -> None:
        """Create a collection whose rows store their vector as `vector_type` and, if `filtered`, their part."""

    def insert(self, vectors: NDArray[Any], first_id: int) -> None:
        """Add rows with ids ``first_id … first_id + n - 1``.

        Vectors have shape (n, dim), float32; int8 for the vector type int8; for binary uint8 of shape (n, dim / 8), eight
        dimensions packed into a byte, as NumPy's ``packbits`` does. For fp16 and bf16 the store converts. Queries come alike.
        """

    def build(self) -> None:
        """Flush and build the index; returns when the engine has accepted or finished the build."""

    def wait_ready(self, *, rows: int, deadline_s: float) -> Ready:
        """Wait until the engine itself states that all `rows` are indexed and loaded.

        Raises
        ------
        harness.errors.StoreError
            When that has not come by the deadline; says what was still pending.
        """

    def search(self, queries: NDArray[Any], k: int, params: Mapping[str, int | float], *, below: int | None = None) -> Ids:
        """Return the ids of the nearest rows, shape (n_queries, k), best first, -1 where fewer were found.

        With `below`, only rows whose part is smaller count. Called inside the clock, by several threads at once
        where the load says so: no connecting, retrying or logging here.
        """

    def index_bytes(self) -> int | None:
        """Size of the index as the engine tells it, None where it does not."""

    def floor_index(self, *, rows: int, k: int) -> Index:
        """The cheapest index the store has with its knob as low as k allows, for measuring the store's own floor."""

    def drop(self) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class LocalServer(Protocol):
    """What a store may offer besides when its engine is a server that runs on this machine."""

    def server_rss_bytes(self) -> int | None:
        """Resident memory of the server's processes now; None where they cannot be seen, as on another machine."""


@runtime_checkable
class Identified(Protocol):
    """What a store offers whose engine neither its settings nor the libraries that it imports name: a server somewhere."""

    def identity(self) -> Any:
        """Return, as JSON-like data, which engine would be reached (address, version); None where nobody answers. Quick; never raises.

        It is part of a search cell's key, so that the figures of two servers, or of two versions, are not mixed.
        """


@runtime_checkable
class Verified(Protocol):
    """What a store may offer besides: what of it was really run against the engine, not only translated for it."""

    @property
    def verified(self) -> Mapping[str, tuple[str, ...]]:
        """Index families by engine version, as the contract tests run them; families that are not named are only declared."""


@runtime_checkable
class Changeable(Protocol):
    """What a store may offer besides: rows that come, go and are replaced while the collection is searched.

    Each call returns when the engine has acknowledged the change; how soon searches see it is the engine's affair, and is measured.
    Calls come after `Store.wait_ready`, from one thread one after the other, while other threads search. Errors leave as
    `harness.errors.StoreError`.
    """

    def add(self, vectors: NDArray[Any], ids: Ids) -> None:
        """Insert rows, of vectors as `Store.insert` takes them, under ids that no row has had before."""

    def upsert(self, vectors: NDArray[Any], ids: Ids) -> None:
        """Give the rows of these ids, each once, other vectors."""

    def delete(self, ids: Ids) -> None:
        """Take the rows of these ids out."""
