"""Video embedding models from the transformers library: encoders of a fixed number of frames, pooled over space and time.

Frames are prepared one by one by the checkpoint's own recipe in its PIL version, as pictures are in `models.transformers_vision`;
sound is not heard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.errors import DataError
from harness.interfaces import Attention, Caveat, Clip, Dtype, Item, ModelInfo, Prepared, Role, Weights
from models import frames, parameters, rules
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading, stated_processor

Pooling = Literal["mean", "cls"]

NARROWEST = 20
"""How many times as long as wide a frame may be: it is resized by its shorter edge and only then cropped, in as many times the memory."""


@dataclass(frozen=True, kw_only=True)
class TransformersVideoModel(Checkpoint):
    """Settings of a video encoder, besides those of its checkpoint; `load` does the work.

    A clip is seen as the middle frames of as many equal parts as the network takes frames (its configuration's ``num_frames``), from the
    whole length: see `models.frames.spread`. No clip counts as cut.

    Parameters
    ----------
    processor : mapping
        For random weights: ``image_processor_type``, the name of a transformers class, and its arguments. Pretrained
        models bring their own recipe.
    pooling : {"mean", "cls"}
        What becomes the vector: the mean of the last hidden states over all patches (a class token, where there is one, included), or the
        first of them, the class token of the models that have one.
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    weak_semantics : str
        Why what is near in this model's space need not be alike in content, if so; stands beside its results. Empty if it is not so.
    """

    processor: Mapping[str, Any]
    modality: str = "video"
    pooling: Pooling = "mean"
    normalize: bool = False
    weak_semantics: str = ""

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        return [
            *rules.one_of("model.modality", self.modality, ["video"]),
            *rules.mapping_with("model.processor", self.processor, needs="image_processor_type"),
            *rules.one_of("model.pooling", self.pooling, get_args(Pooling)),
            *rules.boolean("model.normalize", self.normalize),
            *rules.text("model.weak_semantics", self.weak_semantics, empty=True),
        ]

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What a reader must know of any vectors of this model."""
        return (Caveat("weak_semantics", self.weak_semantics),) if self.weak_semantics else ()

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype` and move the model to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.UnsupportedError
            When the network does not have the `attention` that was asked for.
        """
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        with loading(weights, attention=attention):
            if weights.kind == "random":
                encoder, processor, report = self._random(dtype, chosen)
            else:
                encoder, processor, report = _pretrained(weights, dtype, chosen)
        return self.keep(
            encoder,
            processor,
            device=device,
            dim=int(encoder.config.hidden_size),
            reports=[report],
            attention=attention,
            compiled=[encoder] if compiled else [],
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - a clip is one whatever it is for
        """Choose frames, resize, crop and normalise them, in the model's precision.

        Raises
        ------
        harness.errors.DataError
            When a clip cannot be embedded, see `models.frames.checked`, or is more than `NARROWEST` times as long as wide.
        """
        clips = [_checked(item, what=f"clip {number} of a batch") for number, item in enumerate(items)]
        count = self.network.config.num_frames
        seen = [list(clip.frames[frames.spread(len(clip.frames), count)]) for clip in clips]
        # The layout is said, because the library would take a frame of three rows for three channels.
        batch = self.preparer(seen, input_data_format="channels_last", return_tensors="pt")
        return Prepared(batch["pixel_values"].to(self.network.dtype), count=len(clips), units=float(len(clips) * count))

    def forward(self, prepared: Prepared) -> Any:
        """Return the pooled hidden states as a tensor of shape (n, dim), the mean taken in float32."""
        import torch

        with torch.inference_mode():
            states = self.network(pixel_values=prepared.inputs).last_hidden_state.float()
            vectors = states.mean(dim=1) if self.pooling == "mean" else states[:, 0]
            return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors

    def _random(self, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        """Build the architecture at full size with seeded random weights, and the processor that the settings state."""
        import transformers as library

        transformers: Any = library
        processor = stated_processor(self.processor, "image_processor_type")
        with parameters.seeded(self.seed):
            encoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**self.architecture), dtype="float32", **chosen)
        return encoder.to(parameters.torch_dtype(dtype)), processor, {}


def _checked(item: Any, *, what: str) -> Clip:
    clip = frames.checked(item, what=what)
    height, width = clip.frames.shape[1:3]
    if max(height, width) > NARROWEST * min(height, width):
        raise DataError(f"{what} has frames of {width} × {height} pixels: at most {NARROWEST} times as long as wide can be prepared")
    return clip


def _pretrained(weights: Weights, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
    import transformers as library

    transformers: Any = library
    encoder, report = transformers.AutoModel.from_pretrained(
        weights.path, dtype=parameters.torch_dtype(dtype), local_files_only=True, use_safetensors=True, output_loading_info=True, **chosen
    )
    return encoder, transformers.AutoImageProcessor.from_pretrained(weights.path, local_files_only=True, backend="pil"), report
