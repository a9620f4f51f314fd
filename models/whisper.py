"""Audio embeddings from Whisper: the hidden states of its encoder, or the first one of its decoder, as one vector.

Whisper was trained to transcribe, not to embed; its encoder's states are the usual audio features taken from it. Its input is
always as long as its positions last, 30 s for every published size: shorter sounds are followed by silence, which is most of
the input for a typical clip and would be most of a mean over all frames.

The encoder is never loaded by its own class: ``WhisperEncoder.from_pretrained`` finds none of the published keys under the names it
expects and returns a random network with only a logged line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.errors import WeightsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Weights
from models import parameters, rules, sound
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading

Pooling = Literal["sounding", "mean", "decoder"]

RATE = 16_000
"""Samples a second that every Whisper was trained on (Radford et al. 2022, section 2.2)."""

HOP = 160
"""Samples from one mel frame to the next, 10 ms (ibid.)."""

STRIDE = 2
"""Mel frames from one encoder frame to the next: the second convolution's stride. An encoder frame stands for 20 ms."""

DECODER = ("model.decoder.", "decoder.")
"""How the decoder's keys begin, in published checkpoints and in those of the bare model."""


@dataclass(frozen=True, kw_only=True)
class WhisperModel(Checkpoint):
    """Settings of a Whisper as an audio embedding model, besides those of its checkpoint; `load` does the work.

    Parameters
    ----------
    pooling : {"sounding", "mean", "decoder"}
        What becomes the vector. ``sounding``: the mean of the encoder's last hidden states over the frames that hold sound; a frame
        of 20 ms does if any sample of its first mel frame is the clip's. ``mean``: over all frames, the silence after the clip included.
        ``decoder``: the decoder's last hidden state, after its final layer norm, at the start-of-transcript token, which is the
        only token it is given; what Whisper tells the language from. It attends to all frames. Only this one loads the decoder.
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    """

    modality: str = "audio"
    pooling: Pooling = "sounding"
    normalize: bool = False

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        return [
            *rules.one_of("model.modality", self.modality, ["audio"]),
            *rules.one_of("model.pooling", self.pooling, get_args(Pooling)),
            *rules.boolean("model.normalize", self.normalize),
        ]

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype` and move what `pooling` needs to `device`: the encoder, or the whole model.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read, do not fit, or state an input recipe of another length or another number of mel bands
            than the network takes.
        """
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        # A decoder that is thrown away is not even read: it is half of a large Whisper and would count in the peak of memory.
        shortened = {} if self.pooling == "decoder" else {"decoder_layers": 0}
        with loading(weights, attention=attention):
            if weights.kind == "random":
                model, extractor = self._random(dtype, shortened, chosen)
                report: Mapping[str, Any] = {}
            else:
                model, extractor, report = _pretrained(weights, dtype, {**shortened, **chosen})
        config = model.config
        expected = (config.num_mel_bins, config.max_source_positions * STRIDE, RATE)
        if (extractor.feature_size, extractor.nb_max_frames, extractor.sampling_rate) != expected:
            raise WeightsError(
                f"the model in {weights.path} takes {expected[0]} mel bands × {expected[1]} frames at {RATE} Hz, but its "
                f"preprocessor_config.json makes {extractor.feature_size} × {extractor.nb_max_frames} at {extractor.sampling_rate} Hz; "
                "correct one of the two files"
            )
        network = model if self.pooling == "decoder" else model.get_encoder()
        return self.keep(
            network,
            extractor,
            device=device,
            dim=int(config.d_model),
            reports=[report if self.pooling == "decoder" else _without_decoder(report)],
            attention=attention,
            compiled=[network] if compiled else (),
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - a sound is one whatever it is for
        """Resample, cut to the model's length, and compute log-mel features in the model's precision.

        Raises
        ------
        harness.errors.DataError
            When a sound cannot be embedded, see `models.sound.checked`.
        """
        import torch

        extractor = self.preparer
        sounds = [sound.checked(item, what=f"sound {number} of a batch") for number, item in enumerate(items)]
        heard = [sound.resampled(each, RATE, seconds=extractor.chunk_length) for each in sounds]
        features = extractor(heard, sampling_rate=RATE, return_tensors="pt")["input_features"].to(self.network.dtype)
        # As many as attention_mask[:, ::2] of the feature extractor has ones: a mel frame, then a frame, for every one begun.
        frames = torch.tensor([math.ceil(math.ceil(len(samples) / HOP) / STRIDE) for samples in heard])
        return Prepared(
            {"features": features, "frames": frames},
            count=len(sounds),
            units=float(sum(min(each.seconds, extractor.chunk_length) for each in sounds)),
            truncated=sum(each.seconds > extractor.chunk_length for each in sounds),
        )

    def forward(self, prepared: Prepared) -> Any:
        """Return the pooled hidden states as a tensor of shape (n, dim); means are taken in float32."""
        import torch

        network, features, frames = self.network, prepared.inputs["features"], prepared.inputs["frames"]
        with torch.inference_mode():
            if self.pooling == "decoder":
                start = torch.full((len(features), 1), network.config.decoder_start_token_id, device=features.device)
                vectors = network(features, decoder_input_ids=start, use_cache=False).last_hidden_state[:, 0].float()
            else:
                states = network(features).last_hidden_state.float()
                if self.pooling == "sounding":
                    sounding = torch.arange(states.shape[1], device=states.device) < frames[:, None]
                    vectors = (states * sounding[:, :, None]).sum(1) / frames[:, None]
                else:
                    vectors = states.mean(1)
            return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors

    def _random(self, dtype: Dtype, shortened: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[Any, Any]:
        """Build the architecture at full size with seeded random weights, and the feature extractor of that size."""
        import transformers as library

        transformers: Any = library
        config = transformers.AutoConfig.for_model(**{**self.architecture, **shortened})
        seconds = config.max_source_positions * STRIDE * HOP // RATE
        extractor = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)
        with parameters.seeded(self.seed):
            model = transformers.AutoModel.from_config(config, dtype="float32", **chosen)
        return model.to(parameters.torch_dtype(dtype)), extractor


def _pretrained(weights: Weights, dtype: Dtype, arguments: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
    import transformers as library

    transformers: Any = library
    model, report = transformers.AutoModel.from_pretrained(
        weights.path,
        dtype=parameters.torch_dtype(dtype),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        **arguments,
    )
    return model, transformers.WhisperFeatureExtractor.from_pretrained(weights.path, local_files_only=True), report


def _without_decoder(report: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return a loading report without what it says of the decoder, whose weights an encoder does not use."""
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {
        kind: [key for key in report.get(kind, ()) if not (key if isinstance(key, str) else key[0]).startswith(DECODER)] for kind in kinds
    }
