"""Text embedding models that the sentence-transformers library loads.

The library's ``encode`` sorts, batches, pads and truncates in one call and says nothing of the truncation;
here its parts are called one by one, in the items' own order, so that each stage can be timed, and what was
cut is counted. Pooling and normalisation are the model's own modules and run on the device.
"""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from harness.errors import SettingsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import parameters, rules
from models import weights as weights_
from models.loading import loading

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(frozen=True)
class SentenceTransformersModel:
    """Settings of a text embedding model; `load` does the work.

    Parameters
    ----------
    source : str
        Hub id, e.g. ``sentence-transformers/all-MiniLM-L6-v2``.
    dim : int
        Dimension of the vectors, checked by the audit.
    gflop_per_item : float
        Arithmetic of one typical text, in GFLOP, for time estimates only.
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
    normalized : bool
        Whether the vectors have unit norm, checked by the audit; for random weights it also adds the module that does it.
    pooling : str
        For random weights: how token vectors become one; pretrained models bring their own.
    query_prompt, document_prompt : str
        Text put before every query or document; counted in tokens like the rest.
    max_tokens : int or None
        Length to which texts are cut, special tokens included; None is the model's own.
    ignored_keys : sequence of str
        Beginnings of keys in the checkpoint that are known to belong to a head that embedding does not use.
    seed : int
        Seed of random weights.
    """

    source: str
    dim: int
    gflop_per_item: float
    architecture: Mapping[str, Any]
    revision: str | None = None
    weights: weights_.Choice = "auto"
    path: str | None = None
    package: str | None = None
    normalized: bool = True
    pooling: Pooling = "mean"
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int | None = None
    ignored_keys: Sequence[str] = ()
    seed: int = 0
    modality: Literal["text"] = "text"
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    """The ``SentenceTransformer``, once loaded."""

    def __post_init__(self) -> None:
        violations = [
            *rules.common(self),
            *rules.one_of("model.modality", self.modality, ["text"]),
            *rules.boolean("model.normalized", self.normalized),
            *rules.one_of("model.pooling", self.pooling, get_args(Pooling)),
            *rules.text("model.query_prompt", self.query_prompt, empty=True),
            *rules.text("model.document_prompt", self.document_prompt, empty=True),
        ]
        if self.max_tokens is not None:
            violations += rules.integer("model.max_tokens", self.max_tokens, minimum=3)  # two of them are [CLS] and [SEP]
        if violations:
            raise SettingsError(violations)
        object.__setattr__(self, "architecture", rules.plain(self.architecture))
        object.__setattr__(self, "ignored_keys", tuple(self.ignored_keys))

    def locate(self) -> Weights:
        """Decide where the weights come from, see `models.weights.locate`; with random ones the tokenizer is part of what is used."""
        found = weights_.locate(
            self.source, revision=self.revision, package=self.package, path=self.path, choice=self.weights, seed=self.seed
        )
        if found.kind != "random":
            return found
        files = weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)
        tokenizer = weights_.tokenizer_fingerprint(files) if files is not None else f"trained on Python {platform.python_version()}"
        return replace(found, fingerprint=f"{found.fingerprint}, tokenizer {tokenizer}")

    def fetch(self, weights: Weights) -> Weights:
        """Download what is not here yet, see `models.weights.fetch`."""
        return weights_.fetch(weights, revision=self.revision)

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype` and move the model to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.SettingsError
            When `max_tokens` is more than the model can take.
        """
        reports: list[Mapping[str, Any]] = []
        with loading(weights):
            model = self._random(dtype) if weights.kind == "random" else self._pretrained(weights, dtype, reports)
        own = model.max_seq_length
        positions = getattr(model.config, "max_position_embeddings", None) if model.config is not None else None
        if self.max_tokens is not None:
            if positions is not None and self.max_tokens > positions:
                raise SettingsError(f"model.max_tokens must be at most the model's {positions} positions, got {self.max_tokens}")
            model.max_seq_length = self.max_tokens
        model.eval()
        info = ModelInfo(
            dim=model.get_embedding_dimension() or 0,
            parameters=parameters.count(model),
            missing_keys=_keys(reports, "missing_keys", "mismatched_keys"),
            unexpected_keys=tuple(key for key in _keys(reports, "unexpected_keys") if not key.startswith(tuple(self.ignored_keys))),
            dtype=parameters.precision(model),
            max_tokens=self.max_tokens if self.max_tokens is not None else own,
        )
        model.to(device)
        object.__setattr__(self, "_loaded", model)
        return info

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights, see `models.parameters.fingerprint`."""
        return parameters.fingerprint(self._loaded)

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:
        """Tokenise texts, padded to the longest of them, with the prompt of their `role`."""
        prompt = self.query_prompt if role == "query" else self.document_prompt
        features = self._model.preprocess(list(items), prompt=prompt or None, task=role)
        # Static embeddings have no mask: the token ids of all texts stand in one row, without padding.
        tokens = int(features["attention_mask"].sum()) if "attention_mask" in features else int(features["input_ids"].numel())
        encodings = getattr(features, "encodings", None) or ()
        truncated = sum(1 for encoding in encodings if encoding.overflowing)
        return Prepared(_Batch(dict(features), role), count=len(items), units=float(tokens), truncated=truncated)

    def transfer(self, prepared: Prepared) -> Prepared:
        """Move the token ids and masks to the device; on a CPU the batch comes back unchanged."""
        device = self._model.device
        if device.type == "cpu":
            return prepared
        batch: _Batch = prepared.inputs
        moved = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.features.items()}
        return dataclasses.replace(prepared, inputs=_Batch(moved, batch.role))

    def forward(self, prepared: Prepared) -> Any:
        """Run all modules of the model: transformer, pooling, normalisation."""
        import torch

        batch: _Batch = prepared.inputs
        with torch.inference_mode():
            # A copy, because the modules write their results into the dict they are given.
            return self._model(dict(batch.features), task=batch.role)["sentence_embedding"]

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the texts."""
        vectors: Vectors = outputs.float().cpu().numpy()
        return vectors

    @property
    def _model(self) -> Any:
        if self._loaded is None:
            raise RuntimeError("load() has to be called before the model is used")
        return self._loaded

    def _pretrained(self, weights: Weights, dtype: Dtype, reports: list[Mapping[str, Any]]) -> Any:
        from sentence_transformers import SentenceTransformer

        precision = parameters.torch_dtype(dtype)
        with _loading_reports(reports):
            model = SentenceTransformer(
                weights.path, device="cpu", local_files_only=True, model_kwargs={"dtype": precision, "use_safetensors": True}
            )
        return _cast(model, precision)

    def _random(self, dtype: Dtype) -> Any:
        """Build the architecture at full size with seeded random weights, and the tokenizer that can be had."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
        from transformers import AutoConfig, AutoTokenizer

        from models import wordpiece

        config = AutoConfig.for_model(**self.architecture)
        longest = self.max_tokens if self.max_tokens is not None else int(getattr(config, "max_position_embeddings", 512))
        files = weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)
        if files is not None:
            tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True)
        else:
            tokenizer = wordpiece.train(vocab_size=config.vocab_size, pad_id=config.pad_token_id or 0, max_tokens=longest)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"model.architecture.vocab_size must be at least {len(tokenizer)}, the tokenizer's, got {config.vocab_size}")
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            with parameters.seeded(self.seed), _built_from_config():
                transformer = modules.Transformer(folder, max_seq_length=longest, processor_kwargs={"local_files_only": True})
        pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=self.pooling)
        parts = [transformer, pooling, modules.Normalize()] if self.normalized else [transformer, pooling]
        return _cast(SentenceTransformer(modules=parts, device="cpu", local_files_only=True), parameters.torch_dtype(dtype))


@dataclass(frozen=True)
class _Batch:
    """A tokenised batch and what it is for; models that embed queries differently route by the role."""

    features: dict[str, Any]
    role: Role


def _cast(model: Any, precision: Any) -> Any:
    """Bring parameters to `precision`; buffers of models that are in it already (rotary frequencies) stay in float32."""
    wrong = [parameter for parameter in model.parameters() if parameter.is_floating_point() and parameter.dtype != precision]
    return model.to(precision) if wrong else model


def _keys(reports: Sequence[Mapping[str, Any]], *kinds: str) -> tuple[str, ...]:
    """Return the sorted keys of some `kinds` in the loading reports; mismatched ones come with their shapes."""
    return tuple(sorted({key if isinstance(key, str) else str(key[0]) for report in reports for kind in kinds for key in report[kind]}))


@contextmanager
def _loading_reports(reports: list[Mapping[str, Any]]) -> Iterator[None]:
    """Collect what ``from_pretrained`` reports about keys while sentence-transformers calls it.

    The library discards the report and a layer missing from a checkpoint is then silently random, so for the
    time of one load the method is wrapped to ask for the report (``output_loading_info``) and keep it.
    """
    import transformers

    library: Any = transformers.PreTrainedModel
    original = library.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        model, report = original.__func__(cls, *args, **{**kwargs, "output_loading_info": True})
        reports.append(report)
        return model

    library.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        library.from_pretrained = original


@contextmanager
def _built_from_config() -> Iterator[None]:
    """Let sentence-transformers build a model from its configuration, where it only knows how to load one.

    Writing random weights to a disk and reading them back would work too, with twice the memory.
    """
    import transformers

    library: Any = transformers.PreTrainedModel
    original = library.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, _: Any, /, *, config: Any, **__: Any) -> Any:
        return cls(config).eval()

    library.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        library.from_pretrained = original
