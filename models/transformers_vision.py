"""Image embedding models from the transformers library: vision encoders with a pooled output.

Pictures are prepared by the checkpoint's own recipe in its PIL version, whether or not torchvision is
installed: the two versions resize differently, and so would the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.errors import SettingsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Weights
from models import parameters, rules
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading, stated_processor

Pooling = Literal["pooler", "cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class TransformersVisionModel(Checkpoint):
    """Settings of a vision encoder, besides those of its checkpoint; `load` does the work.

    Parameters
    ----------
    processor : mapping
        For random weights: ``image_processor_type``, the name of a transformers class, and its arguments. Pretrained
        models bring their own recipe.
    pooling : {"pooler", "cls", "mean"}
        What becomes the vector: the encoder's own ``pooler_output``; or, of the tokens after the last normalisation, the
        first, or the mean of all others, which are the patches and, where a model has them, registers.
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    """

    processor: Mapping[str, Any]
    modality: str = "image"
    pooling: Pooling = "pooler"
    normalize: bool = False

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        return [
            *rules.one_of("model.modality", self.modality, ["image"]),
            *rules.mapping_with("model.processor", self.processor, needs="image_processor_type"),
            *rules.one_of("model.pooling", self.pooling, get_args(Pooling)),
            *rules.boolean("model.normalize", self.normalize),
        ]

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype` and move the model to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.SettingsError
            When the network has no tokens to pool, or not the `attention` that was asked for.
        """
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        with loading(weights, attention=attention):
            if weights.kind == "random":
                encoder, processor, report = self._random(dtype, chosen)
            else:
                encoder, processor, report = _pretrained(weights, dtype, chosen)
        if self.pooling != "pooler":
            if hasattr(encoder.config, "hidden_sizes"):
                raise SettingsError(
                    f"model.pooling must be pooler for a {encoder.config.model_type}, which has no tokens, got {self.pooling}"
                )
            report = _without_pooler(encoder, report)
        return self.keep(
            encoder,
            processor,
            device=device,
            dim=_dim(encoder.config),
            reports=[report],
            attention=attention,
            compiled=[encoder] if compiled else [],
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - an image is one whatever it is for
        """Resize, crop and normalise images, in the model's precision: half the bytes to move for half precision."""
        pixels = self.preparer(list(items), return_tensors="pt")["pixel_values"].to(self.network.dtype)
        return Prepared(pixels, count=len(items), units=float(len(items)))

    def forward(self, prepared: Prepared) -> Any:
        """Return the pooled output as a tensor of shape (n, dim).

        A convolutional encoder pools to (n, dim, 1, 1). Flattening keeps the batch dimension where
        ``squeeze()`` would drop it for a batch of one.
        """
        import torch

        with torch.inference_mode():
            outputs = self.network(pixel_values=prepared.inputs)
            if self.pooling == "pooler":
                vectors = outputs.pooler_output.flatten(1)
            elif self.pooling == "cls":
                vectors = outputs.last_hidden_state[:, 0]
            else:
                before = 1 + getattr(self.network.config, "num_register_tokens", 0)
                vectors = outputs.last_hidden_state[:, before:].mean(dim=1)
            return torch.nn.functional.normalize(vectors.float(), dim=1) if self.normalize else vectors

    def _random(self, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        """Build the architecture at full size with seeded random weights, and the processor that the settings state."""
        import transformers as library

        transformers: Any = library
        processor = stated_processor(self.processor, "image_processor_type")
        with parameters.seeded(self.seed):
            encoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**self.architecture), dtype="float32", **chosen)
        return encoder.to(parameters.torch_dtype(dtype)), processor, {}


def _pretrained(weights: Weights, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
    import transformers as library

    transformers: Any = library
    encoder, report = transformers.AutoModel.from_pretrained(
        weights.path, dtype=parameters.torch_dtype(dtype), local_files_only=True, use_safetensors=True, output_loading_info=True, **chosen
    )
    return encoder, transformers.AutoImageProcessor.from_pretrained(weights.path, local_files_only=True, backend="pil"), report


def _without_pooler(encoder: Any, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take out a pooling layer that tokens do not go through, so that it is neither computed nor counted nor missed."""
    if getattr(encoder, "pooler", None) is None:
        return report
    encoder.pooler = None
    return {**report, "missing_keys": [key for key in report.get("missing_keys", ()) if not key.startswith("pooler.")]}


def _dim(config: Any) -> int:
    """Return the width of the last stage, as transformers' configurations name it."""
    return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)
