"""Text embedding models that the sentence-transformers library loads.

The library's ``encode`` sorts, batches, pads and truncates in one call and says nothing of the truncation;
here its parts are called one by one, in the items' own order, so that each stage can be timed, and what was
cut is counted. Pooling and normalisation are the model's own modules and run on the device.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from harness.errors import SettingsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Weights
from models import parameters, rules
from models import weights as weights_
from models.checkpoint import Checkpoint
from models.loading import loading

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersModel(Checkpoint):
    """Settings of a text embedding model, besides those of its checkpoint; `load` does the work.

    Parameters
    ----------
    normalized : bool
        Whether the vectors have unit norm, checked by the audit; for random weights it also adds the module that does it.
    pooling : str
        For random weights: how token vectors become one; pretrained models bring their own.
    query_prompt, document_prompt : str
        Text put before every query or document; counted in tokens like the rest.
    max_tokens : int or None
        Length to which texts are cut, special tokens included; None is the model's own.
    """

    modality: str = "text"
    normalized: bool = True
    pooling: Pooling = "mean"
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int | None = None

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        found = [
            *rules.one_of("model.modality", self.modality, ["text"]),
            *rules.boolean("model.normalized", self.normalized),
            *rules.one_of("model.pooling", self.pooling, get_args(Pooling)),
            *rules.text("model.query_prompt", self.query_prompt, empty=True),
            *rules.text("model.document_prompt", self.document_prompt, empty=True),
        ]
        if self.max_tokens is not None:
            found += rules.integer("model.max_tokens", self.max_tokens, minimum=3)  # two of them are [CLS] and [SEP]
        return found

    def locate(self) -> Weights:
        """Decide where the weights come from, see `models.weights.locate`; with random ones the tokenizer is part of what is used."""
        found = super().locate()
        if found.kind != "random":
            return found
        files = weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)
        tokenizer = weights_.tokenizer_fingerprint(files) if files is not None else f"trained on Python {platform.python_version()}"
        return replace(found, fingerprint=f"{found.fingerprint}, tokenizer {tokenizer}")

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
        return self.keep(
            model,
            device=device,
            dim=model.get_embedding_dimension() or 0,
            reports=reports,
            attention=attention,
            max_tokens=self.max_tokens if self.max_tokens is not None else own,
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:
        """Tokenise texts, padded to the longest of them, with the prompt of their `role`."""
        prompt = self.query_prompt if role == "query" else self.document_prompt
        features = self.network.preprocess(list(items), prompt=prompt or None, task=role)
        # Static embeddings have no mask: the token ids of all texts stand in one row, without padding.
        tokens = int(features["attention_mask"].sum()) if "attention_mask" in features else int(features["input_ids"].numel())
        encodings = getattr(features, "encodings", None) or ()
        truncated = sum(1 for encoding in encodings if encoding.overflowing)
        return Prepared((dict(features), role), count=len(items), units=float(tokens), truncated=truncated)

    def forward(self, prepared: Prepared) -> Any:
        """Run all modules of the model: transformer, pooling, normalisation."""
        import torch

        features, role = prepared.inputs  # models that embed queries differently route by the role
        with torch.inference_mode():
            # A copy, because the modules write their results into the dict they are given.
            return self.network(dict(features), task=role)["sentence_embedding"]

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


def _cast(model: Any, precision: Any) -> Any:
    """Bring parameters to `precision`; buffers of models that are in it already (rotary frequencies) stay in float32."""
    wrong = [parameter for parameter in model.parameters() if parameter.is_floating_point() and parameter.dtype != precision]
    return model.to(precision) if wrong else model


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
