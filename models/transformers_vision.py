"""Image embedding models from the transformers library: vision encoders with a pooled output.

Pictures are prepared by the checkpoint's own recipe in its PIL version, whether or not torchvision is
installed: the two versions resize differently, and so would the vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import SettingsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import parameters, rules
from models import weights as weights_
from models.loading import loading


@dataclass(frozen=True)
class TransformersVisionModel:
    """Settings of a vision encoder whose ``pooler_output`` is the embedding; `load` does the work.

    Parameters
    ----------
    source : str
        Hub id, e.g. ``microsoft/resnet-50``.
    dim : int
        Dimension of the vectors, checked by the audit.
    gflop_per_item : float
        Arithmetic of one image, in GFLOP, for time estimates only.
    architecture : mapping
        For random weights: ``model_type`` and the other arguments of ``transformers.AutoConfig.for_model``.
    processor : mapping
        For random weights: ``image_processor_type``, the name of a transformers class, and its arguments. Pretrained
        models bring their own recipe.
    revision, weights, path, package, seed
        As for text models, see `models.sentence_transformers.SentenceTransformersModel`.
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    ignored_keys : sequence of str
        Beginnings of keys in the checkpoint that are known to belong to a head that embedding does not use.
    """

    source: str
    dim: int
    gflop_per_item: float
    architecture: Mapping[str, Any]
    processor: Mapping[str, Any]
    revision: str | None = None
    weights: weights_.Choice = "auto"
    path: str | None = None
    package: str | None = None
    normalize: bool = False
    ignored_keys: Sequence[str] = ()
    seed: int = 0
    modality: Literal["image"] = "image"
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    """The encoder and its image processor, once loaded."""

    def __post_init__(self) -> None:
        violations = [
            *rules.common(self),
            *rules.one_of("model.modality", self.modality, ["image"]),
            *rules.mapping_with("model.processor", self.processor, needs="image_processor_type"),
            *rules.boolean("model.normalize", self.normalize),
        ]
        if violations:
            raise SettingsError(violations)
        object.__setattr__(self, "architecture", rules.plain(self.architecture))
        object.__setattr__(self, "processor", rules.plain(self.processor))
        object.__setattr__(self, "ignored_keys", tuple(self.ignored_keys))

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    def locate(self) -> Weights:
        """Decide where the weights come from, see `models.weights.locate`."""
        return weights_.locate(
            self.source, revision=self.revision, package=self.package, path=self.path, choice=self.weights, seed=self.seed
        )

    def fetch(self, weights: Weights) -> Weights:
        """Download what is not here yet, see `models.weights.fetch`."""
        return weights_.fetch(weights, revision=self.revision)

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype` and move the model to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        """
        with loading(weights):
            if weights.kind == "random":
                encoder, processor, report = self._random(dtype)
            else:
                encoder, processor, report = _pretrained(weights, dtype)
        unexpected = (key for key in report.get("unexpected_keys", ()) if not key.startswith(tuple(self.ignored_keys)))
        missing = {*report.get("missing_keys", ()), *(key for key, *_ in report.get("mismatched_keys", ()))}
        encoder.eval()
        info = ModelInfo(
            dim=_dim(encoder.config),
            parameters=parameters.count(encoder),
            missing_keys=tuple(sorted(missing)),
            unexpected_keys=tuple(sorted(unexpected)),
            dtype=parameters.precision(encoder),
        )
        encoder.to(device)
        object.__setattr__(self, "_loaded", _Loaded(encoder, processor))
        return info

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights, see `models.parameters.fingerprint`."""
        return parameters.fingerprint(self._loaded.encoder)

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - an image is one whatever it is for
        """Resize, crop and normalise images, in the model's precision: half the bytes to move for half precision."""
        loaded = self._model
        pixels = loaded.processor(list(items), return_tensors="pt")["pixel_values"].to(loaded.encoder.dtype)
        return Prepared(pixels, count=len(items), units=float(len(items)))

    def transfer(self, prepared: Prepared) -> Prepared:
        """Move the pixels to the device; on a CPU the batch comes back unchanged."""
        device = self._model.encoder.device
        return prepared if device.type == "cpu" else dataclasses.replace(prepared, inputs=prepared.inputs.to(device))

    def forward(self, prepared: Prepared) -> Any:
        """Return the pooled output as a tensor of shape (n, dim).

        A convolutional encoder pools to (n, dim, 1, 1). Flattening keeps the batch dimension where
        ``squeeze()`` would drop it for a batch of one.
        """
        import torch

        with torch.inference_mode():
            vectors = self._model.encoder(pixel_values=prepared.inputs).pooler_output.flatten(1)
            return torch.nn.functional.normalize(vectors.float(), dim=1) if self.normalize else vectors

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the images."""
        vectors: Vectors = outputs.float().cpu().numpy()
        return vectors

    @property
    def _model(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() has to be called before the model is used")
        loaded: _Loaded = self._loaded
        return loaded

    def _random(self, dtype: Dtype) -> tuple[Any, Any, Mapping[str, Any]]:
        """Build the architecture at full size with seeded random weights, and the processor that the settings state."""
        import transformers as library

        transformers: Any = library
        arguments = dict(self.processor)
        name = arguments.pop("image_processor_type")
        processor = getattr(transformers, name, None)
        if processor is None:
            raise ValueError(f"model.processor.image_processor_type must be a class of transformers, got {name!r}")
        with parameters.seeded(self.seed):
            encoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**self.architecture), dtype="float32")
        return encoder.to(parameters.torch_dtype(dtype)), processor(**arguments), {}


@dataclass(frozen=True)
class _Loaded:
    encoder: Any
    processor: Any


def _pretrained(weights: Weights, dtype: Dtype) -> tuple[Any, Any, Mapping[str, Any]]:
    import transformers as library

    transformers: Any = library
    encoder, report = transformers.AutoModel.from_pretrained(
        weights.path, dtype=parameters.torch_dtype(dtype), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    return encoder, transformers.AutoImageProcessor.from_pretrained(weights.path, local_files_only=True, backend="pil"), report


def _dim(config: Any) -> int:
    """Return the width of the last stage, as transformers' configurations name it."""
    return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)
