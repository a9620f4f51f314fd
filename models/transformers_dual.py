"""Two-tower models from the transformers library: pictures or sounds, and texts, embedded into one space.

CLIP, SigLIP and CLAP: an item goes through the tower of its own kind, is projected into the common space and divided by its
norm, so that a text finds a picture by the cosine they were trained with. Each tower is the library's own ``get_…_features``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.errors import SettingsError
from harness.interfaces import Attention, Dtype, Item, Modality, ModelInfo, Prepared, Role, Sound, Weights
from models import parameters, rules, sound
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading, stated_processor

Padding = Literal["longest", "max_length"]

PROCESSORS: Mapping[str, str] = {"image": "image_processor_type", "audio": "feature_extractor_type"}
"""The key under which transformers' files name the class that prepares the items of a tower."""


@dataclass(frozen=True, kw_only=True)
class TransformersDualModel(Checkpoint):
    """Settings of a two-tower model, besides those of its checkpoint; `load` does the work. Vectors have unit norm.

    Parameters
    ----------
    modality : {"image+text", "audio+text"}
        The towers; a batch goes through the one of its items.
    processor : mapping
        For random weights: ``image_processor_type`` or ``feature_extractor_type``, the name of a transformers class, and its
        arguments. Pretrained models bring their own recipe.
    max_tokens : int
        Length to which texts are cut, special tokens included; at most what the text tower has positions for.
    padding : {"longest", "max_length"}
        Whether texts are padded to the longest of a batch, which a mask then hides, or to `max_tokens`, and padding is read like
        words: so SigLIP was trained, which takes the vector of the last place.
    lowercase : bool
        Whether texts are put into lower case first; SigLIP 2 was trained so, and its published tokenizer does not do it.
    """

    processor: Mapping[str, Any]
    max_tokens: int
    modality: str = "image+text"
    padding: Padding = "longest"
    lowercase: bool = False

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        found = [
            *rules.one_of("model.modality", self.modality, [f"{first}+text" for first in PROCESSORS]),
            *rules.integer("model.max_tokens", self.max_tokens, minimum=3),  # two of them say where a text begins and ends
            *rules.one_of("model.padding", self.padding, get_args(Padding)),
            *rules.boolean("model.lowercase", self.lowercase),
        ]
        first = self.modality.partition("+")[0] if isinstance(self.modality, str) else ""
        return found + rules.mapping_with("model.processor", self.processor, needs=PROCESSORS.get(first, PROCESSORS["image"]))

    @property
    def normalized(self) -> bool:
        """Both towers were trained by the cosine of their vectors."""
        return True

    def locate(self) -> Weights:
        """Decide where the weights come from; with random ones the tokenizer is part of what is used."""
        return self.naming_tokenizer(super().locate())

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load both towers in exactly `dtype` and move them to `device`.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.SettingsError
            When `max_tokens` is more than the text tower can take, the model mixes random parts of a sound into its input,
            or it has not the `attention` that was asked for.
        """
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        with loading(weights, attention=attention):
            network, preparers, report = self._random(chosen) if weights.kind == "random" else self._pretrained(weights, dtype, chosen)
        self._check(network.config)
        precision = parameters.torch_dtype(dtype)
        if weights.kind == "random":
            network = network.to(precision)
        towers = [getattr(network, f"{tower}_model") for tower in ("text", "vision", "audio") if hasattr(network, f"{tower}_model")]
        return self.keep(
            network,
            preparers,
            device=device,
            dim=_dim(network.config),
            reports=[report],
            attention=attention,
            compiled=towers if compiled else [],
            max_tokens=self.max_tokens,
        )

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - the tower goes by the kind of item
        """Prepare the items of a batch, all of one modality, for the tower of that modality.

        Raises
        ------
        TypeError
            When the items are of several modalities, or of one that the model has no tower for.
        """
        kinds = {_kind(item) for item in items}
        if len(kinds) != 1 or not kinds <= set(self.modality.split("+")):
            raise TypeError(f"a batch must be of one modality of {self.modality}, got {', '.join(sorted(kinds)) or 'no items'}")
        kind = kinds.pop()
        return {"text": self._texts, "image": self._images, "audio": self._sounds}[kind](items)

    def forward(self, prepared: Prepared) -> Any:
        """Return the projected vectors of one tower, each of norm 1, as a tensor of shape (n, dim), float32."""
        import torch

        kind, inputs = prepared.inputs
        with torch.inference_mode():
            features = getattr(self.network, f"get_{kind}_features")(**inputs).pooler_output
            return torch.nn.functional.normalize(features.float(), dim=1)

    def _texts(self, items: Sequence[str]) -> Prepared:
        tokenizer, _ = self.preparer
        texts = [text.lower() for text in items] if self.lowercase else list(items)
        batch = tokenizer(
            texts,
            padding=self.padding,
            padding_side="right",  # as all of them were trained; Gemma's tokenizer, which SigLIP 2 uses, pads a generator's left
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        )
        names = ["input_ids", "attention_mask"] if self.padding == "longest" else ["input_ids"]
        return Prepared(
            ("text", {name: batch[name] for name in names}),
            count=len(items),
            units=float(batch["attention_mask"].sum()),
            truncated=sum(1 for encoding in batch.encodings if encoding.overflowing),
        )

    def _images(self, items: Sequence[Any]) -> Prepared:
        _, processor = self.preparer
        pixels = processor(list(items), return_tensors="pt")["pixel_values"].to(self.network.dtype)
        return Prepared(("image", {"pixel_values": pixels}), count=len(items), units=float(len(items)))

    def _sounds(self, items: Sequence[Sound]) -> Prepared:
        """Make spectrograms of the model's length: shorter sounds are repeated, of longer ones the beginning is taken.

        The published recipe takes a random part of a longer sound, so that its vector would be another one each time.
        """
        _, extractor = self.preparer
        rate, seconds = extractor.sampling_rate, extractor.nb_max_samples / extractor.sampling_rate
        heard = [sound.resampled(sound.checked(item), rate, seconds=seconds) for item in items]
        mels = extractor(heard, sampling_rate=rate, truncation="rand_trunc", return_tensors="pt")["input_features"]
        return Prepared(
            ("audio", {"input_features": mels.to(self.network.dtype)}),
            count=len(items),
            units=sum(map(len, heard)) / rate,
            truncated=sum(item.seconds > seconds for item in items),
        )

    def _check(self, config: Any) -> None:
        positions = config.text_config.max_position_embeddings
        if config.text_config.model_type == "clap_text_model":
            positions -= config.text_config.pad_token_id + 1  # RoBERTa numbers places from the one after the padding token's id
        if self.max_tokens > positions:
            raise SettingsError(f"model.max_tokens must be at most {positions}, the places of the text tower, got {self.max_tokens}")
        if getattr(getattr(config, "audio_config", None), "enable_fusion", False):
            raise SettingsError(
                f"model.source={self.source} fuses random parts of long sounds, so that the same sound has another vector each time; "
                "take a checkpoint without fusion, such as laion/clap-htsat-unfused"
            )

    def _random(self, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        """Build the architecture at full size with seeded random weights in float32, with its tokenizer and processor."""
        import transformers as library

        transformers: Any = library
        processor = stated_processor(self.processor, PROCESSORS[self.modality.partition("+")[0]])
        config = transformers.AutoConfig.for_model(**self.architecture)
        text = config.text_config
        tokenizer = self.tokenizer(vocab_size=text.vocab_size, pad_id=text.pad_token_id or 0, max_tokens=self.max_tokens)
        # CLIP's text vector is that of the token which ends the text: with a stand-in tokenizer that is another one.
        text.eos_token_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        with parameters.seeded(self.seed):
            network = transformers.AutoModel.from_config(config, dtype="float32", **chosen)
        return network, (tokenizer, processor), {}

    def _pretrained(self, weights: Weights, dtype: Dtype, chosen: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        import transformers as library

        transformers: Any = library
        network, report = transformers.AutoModel.from_pretrained(
            weights.path,
            dtype=parameters.torch_dtype(dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **chosen,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(weights.path, local_files_only=True)
        if self.modality == "image+text":
            processor = transformers.AutoImageProcessor.from_pretrained(weights.path, local_files_only=True, backend="pil")
        else:
            processor = transformers.AutoFeatureExtractor.from_pretrained(weights.path, local_files_only=True)
        return network, (tokenizer, processor), report


def _kind(item: Item) -> Modality:
    """Return the modality of a decoded item by its type; a picture is what is neither text nor sound."""
    if isinstance(item, str):
        return "text"
    return "audio" if isinstance(item, Sound) else "image"


def _dim(config: Any) -> int:
    """Return the dimension of the common space, as transformers' configurations name it."""
    return int(config.projection_dim if hasattr(config, "projection_dim") else config.text_config.projection_size)
