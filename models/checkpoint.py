"""What every model that loads a PyTorch checkpoint has in common: where it comes from, and how it is kept once loaded.

A model of another library adds its own settings, ``load``, ``prepare`` and ``forward``; the rest is here, so that weights are
found, keys judged, attention refused and networks compiled in the same way whatever library loads them.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import SettingsError, UnsupportedError
from harness.interfaces import Attention, Dtype, ModelInfo, Prepared, Vectors, Weights
from models import parameters, rules
from models import weights as weights_


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Settings that say which weights a model has; not a model by itself.

    Parameters
    ----------
    source : str
        Hub id, e.g. ``sentence-transformers/all-MiniLM-L6-v2``.
    modality : str
        What it embeds, documents first: ``text``, ``image+text`` …
    dim : int
        Dimension of the vectors, checked by the audit.
    gflop_per_item : float
        Arithmetic of one typical item, in GFLOP (a multiplication and an addition are two), for time estimates only.
    architecture : mapping
        For random weights: ``model_type`` and the other arguments of ``transformers.AutoConfig.for_model``.
    revision : str or None
        Hub commit, branch or tag; None is the hub's default branch.
    weights : {"auto", "pretrained", "random"}
        Whether random weights are a fallback, refused, or asked for.
    path : str or None
        Folder to load the model from instead.
    package : str or None
        Import name of a package that carries the files, see `models.weights.locate`.
    ignored_keys : sequence of str
        Beginnings of keys in the checkpoint that are known to belong to a head that embedding does not use.
    seed : int
        Seed of random weights.
    """

    source: str
    modality: str
    dim: int
    gflop_per_item: float
    architecture: Mapping[str, Any]
    revision: str | None = None
    weights: weights_.Choice = "auto"
    path: str | None = None
    package: str | None = None
    ignored_keys: Sequence[str] = ()
    seed: int = 0
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    """The network and what prepares its inputs, once loaded."""

    def __post_init__(self) -> None:
        if violations := [*rules.common(self), *self.violations()]:
            raise SettingsError(violations)
        for entry in dataclasses.fields(self):  # OmegaConf's containers become built-in ones, which cannot be changed from outside
            value = getattr(self, entry.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, entry.name, rules.plain(value))
            elif isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, entry.name, tuple(rules.plain(value)))

    def violations(self) -> list[str]:
        """Every rule that a model's own settings break, one sentence each; those above are checked already."""
        return []

    def locate(self) -> Weights:
        """Decide where the weights come from, see `models.weights.locate`."""
        return weights_.locate(
            self.source, revision=self.revision, package=self.package, path=self.path, choice=self.weights, seed=self.seed
        )

    def naming_tokenizer(self, found: Weights) -> Weights:
        """Return `found` with, for random weights, the tokenizer in its fingerprint: another one makes other work of the same text."""
        if found.kind != "random":
            return found
        files = self._tokenizer_files()
        named = weights_.tokenizer_fingerprint(files) if files is not None else f"trained on Python {platform.python_version()}"
        return replace(found, fingerprint=f"{found.fingerprint}, tokenizer {named}")

    def tokenizer(self, *, vocab_size: int, pad_id: int, max_tokens: int) -> Any:
        """Return a tokenizer for random weights: the model's own where its files are here, otherwise a stand-in of about its fineness.

        Raises
        ------
        ValueError
            When the model's own has more tokens than `vocab_size`.
        """
        from models import wordpiece

        files = self._tokenizer_files()
        if files is None:
            return wordpiece.train(vocab_size=vocab_size, pad_id=pad_id, max_tokens=max_tokens)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True)
        if len(tokenizer) > vocab_size:
            raise ValueError(f"model.architecture.vocab_size must be at least {len(tokenizer)}, the tokenizer's, got {vocab_size}")
        return tokenizer

    def _tokenizer_files(self) -> Path | None:
        return weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)

    def fetch(self, weights: Weights) -> Weights:
        """Download what is not here yet, see `models.weights.fetch`."""
        return weights_.fetch(weights, revision=self.revision)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights, see `models.parameters.fingerprint`."""
        return parameters.fingerprint(self.network)

    def transfer(self, prepared: Prepared) -> Prepared:
        """Move the inputs to the device; on a CPU the batch comes back unchanged."""
        device = next(self.network.parameters()).device
        return prepared if device.type == "cpu" else replace(prepared, inputs=moved(prepared.inputs, device))

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the items."""
        vectors: Vectors = outputs.float().cpu().numpy()
        return vectors

    @property
    def network(self) -> Any:
        """The loaded ``torch.nn.Module``."""
        return self._kept[0]

    @property
    def preparer(self) -> Any:
        """What `keep` was given beside the network: a tokenizer, an image processor or whatever `prepare` needs."""
        return self._kept[1]

    @property
    def _kept(self) -> tuple[Any, Any]:
        if self._loaded is None:
            raise RuntimeError("load() has to be called before the model is used")
        kept: tuple[Any, Any] = self._loaded
        return kept

    def keep(
        self,
        network: Any,
        preparer: Any = None,
        *,
        device: str,
        dim: int,
        reports: Iterable[Mapping[str, Any]] = (),
        attention: Attention = "auto",
        compiled: Iterable[Any] = (),
        max_tokens: int | None = None,
    ) -> ModelInfo:
        """Keep what was loaded, in inference mode and on `device`, and say what it turned out to be.

        Parameters
        ----------
        network : torch.nn.Module
            Whose weights are counted and fingerprinted.
        preparer : object
            Whatever `prepare` needs.
        device : str
            Where the network goes.
        dim : int
            Dimension according to the network's own configuration.
        reports : iterable of mappings
            What ``from_pretrained(output_loading_info=True)`` says about keys.
        attention : {"auto", "sdpa", "eager", "flash_attention_2"}
            What was asked for.
        compiled : iterable of torch.nn.Module
            Parts to send through ``torch.compile``, in place: names and weights stay what they are.
        max_tokens : int or None
            Length to which texts are cut.

        Raises
        ------
        harness.errors.UnsupportedError
            When `attention` is not what the network computes with.
        """
        reports = list(reports)
        unexpected = (key for key in _keys(reports, "unexpected_keys") if not key.startswith(tuple(self.ignored_keys)))
        network.eval()
        info = ModelInfo(
            dim=dim,
            parameters=parameters.count(network),
            missing_keys=_keys(reports, "missing_keys", "mismatched_keys"),
            unexpected_keys=tuple(unexpected),
            dtype=parameters.precision(network),
            max_tokens=max_tokens,
            attention=attention_in_force(network, asked=attention),
        )
        network.to(device)
        for part in compiled:
            part.compile()
        object.__setattr__(self, "_loaded", (network, preparer))
        return info


def moved(value: Any, device: Any) -> Any:
    """Return `value` with every tensor in it on `device`: a tensor, or mappings and tuples of them, all the way down."""
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    return value.to(device) if hasattr(value, "to") else value


def attention_arguments(attention: Attention, *, device: str, dtype: Dtype) -> dict[str, str]:
    """Return the keyword argument that asks transformers for `attention`; none for ``auto``, which leaves it to the library.

    Raises
    ------
    harness.errors.UnsupportedError
        When FlashAttention is asked for where it does not compute: it is written for CUDA in 16 bits.
    """
    if attention == "flash_attention_2" and not (device.startswith("cuda") and dtype in ("fp16", "bf16")):
        raise UnsupportedError(
            f"attention=flash_attention_2 needs device=cuda and dtype=fp16 or bf16, got device={device} and dtype={dtype}; "
            "take attention=sdpa, which has a fast kernel for most devices"
        )
    return {} if attention == "auto" else {"attn_implementation": attention}


def attention_in_force(network: Any, *, asked: Attention = "auto") -> str | None:
    """Return the attention implementation that a transformers network computes with, ``eager+sdpa`` if its towers differ.

    None for a network without attention. transformers names an implementation in the configuration of convolutional
    networks too, so that what counts is whether there are attention layers.

    Raises
    ------
    harness.errors.UnsupportedError
        When another one than ``auto`` was asked for and it is not in force in the whole network.
    """
    modules = list(network.modules())
    has_attention = any("Attention" in type(module).__name__ for module in modules)
    named = (getattr(getattr(module, "config", None), "_attn_implementation", None) for module in modules)
    configured = {str(name) for name in named if name is not None}
    found = "+".join(sorted(configured)) if has_attention and configured else None
    if asked != "auto" and found != asked:
        has = f"computes with attention={found}" if found else "has no attention layers to choose for"
        raise UnsupportedError(f"attention={asked} was asked for, but this model {has}; take attention=auto")
    return found


def _keys(reports: Iterable[Mapping[str, Any]], *kinds: str) -> tuple[str, ...]:
    """Return the sorted keys of some `kinds` in loading reports; mismatched ones come with their shapes."""
    return tuple(
        sorted({key if isinstance(key, str) else str(key[0]) for report in reports for kind in kinds for key in report.get(kind, ())})
    )
