"""Video embeddings from the multimodal Perceiver IO: the mean of the latents into which it squeezes frames and sound.

It was trained to reproduce its input (Jaegle et al. 2021, Perceiver IO, section 4.3: Kinetics-700-2020), never to put like beside like.
What is near in its space looks and sounds alike in every detail of two thirds of a second; it need not be about the same thing.

Nothing is decoded: reproducing a clip takes 800,000 decoder queries and gives the same latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import DataError
from harness.interfaces import Attention, Caveat, Clip, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import frames, parameters, rules, sound
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading

FRAMES_PER_S = 25
"""Of the videos it was trained on; 16 of their frames, and 16 × 1,920 samples of sound at 48 kHz, last 0.64 s (the authors' notebook)."""

PATCH = 4
"""Pixels a side of a patch: the configuration's ``image_size`` counts patches, 56 for pictures of 224 × 224."""

UNUSED = ("perceiver.decoder.", "perceiver.output_postprocessor.")
"""How the keys begin of what reproduces the input and an embedding does not use."""

WEAK = Caveat(
    "weak_semantics",
    "This model was trained to reproduce its input, not to put clips with the same content near each other: "
    "its speed and memory are meaningful, its retrieval quality is low. For search take a model trained to compare or to classify.",
)


@dataclass(frozen=True, kw_only=True)
class PerceiverModel(Checkpoint):
    """Settings of a multimodal Perceiver as a video embedding model, besides those of its checkpoint; `load` does the work.

    A clip is seen as 16 frames at 25 a second from its middle, the middle square of each made 224 × 224 (Pillow's bilinear
    filter), with the sound of the same 0.64 s at 48 kHz: as the model was trained, and always the same ones. Longer clips count
    as cut. A clip that is too short stands still at its last frame and is silent; one without sound is silent. The class label,
    a third input, is left empty: the network masks it whatever it says.

    Parameters
    ----------
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    """

    modality: str = "video"
    normalize: bool = False

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        return [*rules.one_of("model.modality", self.modality, ["video"]), *rules.boolean("model.normalize", self.normalize)]

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What a reader must know of any vectors of this model."""
        return (WEAK,)

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype`, drop what decodes, and move the rest to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.UnsupportedError
            When `attention` is another than ``eager``, the only one it has.
        """
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        with loading(weights, attention=attention):
            report: Mapping[str, Any] = {}
            if weights.kind == "random":
                whole = self._random(dtype, chosen)
            else:
                whole, report = _pretrained(weights, dtype, chosen)
        network = whole.perceiver
        network.decoder = network.output_postprocessor = None
        network.requires_grad_(
            requires_grad=False
        )  # it hands on a view of its latents, which PyTorch's counter of arithmetic cannot follow else
        # The preprocessor mixes in a mask in float32; without this, half precision ends in the first layer that is in it.
        network.input_preprocessor.register_forward_hook(_in_precision_of(network))
        return self.keep(
            network,
            _Shape.of(network.config),
            device=device,
            dim=int(network.config.d_latents),
            reports=[_without_decoder(report)],
            attention=attention,
            compiled=[network.encoder] if compiled else [],
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - a clip is one whatever it is for
        """Choose frames and sound, crop, resize and resample them, in the model's precision.

        Raises
        ------
        harness.errors.DataError
            When a clip or its sound cannot be embedded, see `models.frames.checked` and `models.sound.checked`.
        """
        import torch

        shape: _Shape = self.preparer
        clips = [frames.checked(item, what=f"clip {number} of a batch") for number, item in enumerate(items)]
        seen = [_excerpt(clip, shape, what=f"clip {number} of a batch") for number, clip in enumerate(clips)]
        inputs = {
            "image": np.stack([pixels for pixels, _ in seen]),
            "audio": np.stack([samples for _, samples in seen]),
            "label": np.zeros((len(clips), shape.labels), dtype=np.float32),
        }
        _check(inputs, shape)
        precision = next(self.network.parameters()).dtype
        return Prepared(
            {key: torch.from_numpy(value).to(precision) for key, value in inputs.items()},
            count=len(clips),
            units=float(len(clips) * shape.frames),
            truncated=sum(len(clip.frames) / clip.frames_per_s > shape.seconds for clip in clips),
        )

    def forward(self, prepared: Prepared) -> Any:
        """Return the mean over the latents as a tensor of shape (n, dim), taken in float32."""
        import torch

        with torch.inference_mode():
            vectors = self.network(inputs=prepared.inputs).last_hidden_state.float().mean(dim=1)
            return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors

    def _random(self, dtype: Dtype, chosen: Mapping[str, Any]) -> Any:
        """Build the architecture at full size with seeded random weights."""
        import transformers as library

        transformers: Any = library
        config = transformers.AutoConfig.for_model(**self.architecture, **chosen)
        with parameters.seeded(self.seed):
            whole = transformers.PerceiverForMultimodalAutoencoding(config)
        return whole.to(parameters.torch_dtype(dtype))


@dataclass(frozen=True)
class _Shape:
    """What one clip has to look like to the network."""

    frames: int
    side: int
    """Pixels."""
    samples: int
    labels: int

    @classmethod
    def of(cls, config: Any) -> _Shape:
        """Read it from the network's configuration."""
        return cls(config.num_frames, config.image_size * PATCH, config.num_frames * config.audio_samples_per_frame, config.num_labels)

    @property
    def seconds(self) -> float:
        return self.frames / FRAMES_PER_S

    @property
    def rate(self) -> int:
        """Samples of sound a second."""
        return self.samples * FRAMES_PER_S // self.frames


def _excerpt(clip: Clip, shape: _Shape, *, what: str) -> tuple[Vectors, Vectors]:
    """Return the pixels of shape (frames, 3, side, side) in [0, 1] and the sound of shape (samples, 1) in [-1, 1] of a clip's middle."""
    from PIL import Image

    numbers, start_s = frames.excerpt(len(clip.frames), clip.frames_per_s, count=shape.frames, rate=FRAMES_PER_S)
    height, width = clip.frames.shape[1:3]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    pixels = np.empty((shape.frames, 3, shape.side, shape.side), dtype=np.float32)
    for place, number in enumerate(numbers):
        if place and number == numbers[place - 1]:
            pixels[place] = pixels[place - 1]
            continue
        picture = Image.fromarray(clip.frames[number, top : top + square, left : left + square])
        resized = picture.resize((shape.side, shape.side), Image.Resampling.BILINEAR)
        pixels[place] = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255
    samples = np.zeros((shape.samples, 1), dtype=np.float32)
    if clip.sound is not None and len(clip.sound.samples):  # a track without samples is silence
        heard = sound.resampled(
            sound.checked(clip.sound, what=f"the sound of {what}"), shape.rate, seconds=shape.samples / shape.rate, start_s=start_s
        )
        samples[: len(heard), 0] = heard.clip(-1, 1)  # filters overshoot
    return pixels, samples


def _check(inputs: Mapping[str, Any], shape: _Shape) -> None:
    """Refuse what is not exactly what the network was trained on: it would compute with other sizes, and mean nothing.

    Raises
    ------
    harness.errors.DataError
        Naming the input.
    """
    n = len(inputs["label"])
    expected = {
        "image": ((n, shape.frames, 3, shape.side, shape.side), 0.0, 1.0),
        "audio": ((n, shape.samples, 1), -1.0, 1.0),
        "label": ((n, shape.labels), 0.0, 0.0),
    }
    for name, (form, low, high) in expected.items():
        value = inputs[name]
        if value.shape != form or not (value.min() >= low and value.max() <= high):
            raise DataError(
                f"the Perceiver's {name} must have shape {form} and values in [{low:g}, {high:g}], "
                f"got {value.shape} in [{value.min():g}, {value.max():g}]"
            )


def _in_precision_of(network: Any) -> Any:
    """Return a hook that brings what a preprocessor returns to the network's precision."""

    def hook(_: Any, __: Any, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (outputs[0].to(network.embeddings.latents.dtype), *outputs[1:])

    return hook


def _pretrained(weights: Weights, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    import transformers as library

    transformers: Any = library
    whole, report = transformers.PerceiverForMultimodalAutoencoding.from_pretrained(
        weights.path, dtype=parameters.torch_dtype(dtype), local_files_only=True, use_safetensors=True, output_loading_info=True, **chosen
    )
    return whole, report


def _without_decoder(report: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return a loading report without what it says of parts that are dropped."""
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {
        kind: [key for key in report.get(kind, ()) if not (key if isinstance(key, str) else key[0]).startswith(UNUSED)] for kind in kinds
    }
