"""ResNet-50 from torchvision with the weights of the PyTorch Hub, of which there are two.

The network is that of `models.transformers_vision` with ``microsoft/resnet-50``; the weights are not. Vectors of one checkpoint
mean nothing to another, so that source and fingerprint name which it was, and V1 and V2 have different input recipes, too.

The weights are pickles. They are read by PyTorch's restricted unpickler, which makes tensors and nothing else, and only if the
file has the SHA-256 that its name promises; the library itself looks at that when it downloads and never again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args
from urllib.request import Request, urlopen

from harness.errors import SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Attention, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import parameters, rules
from models import weights as weights_
from models.checkpoint import attention_in_force

Variant = Literal["IMAGENET1K_V1", "IMAGENET1K_V2"]

FILES: Mapping[str, str] = MappingProxyType({"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"})
"""File names at the hub (``torchvision.models.ResNet50_Weights``); what stands behind the dash begins the file's SHA-256."""

HUB = "https://download.pytorch.org/models/"

MISSING = "model=resnet50_torchvision needs torchvision{why}: pip install 'embedding-search-harness[torchvision]', or take model=resnet50"


@dataclass(frozen=True, kw_only=True)
class TorchvisionResNetModel:
    """Settings of torchvision's ResNet-50 without its classifier; `load` does the work.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, checked by the audit.
    gflop_per_item : float
        Arithmetic of one image, in GFLOP, for time estimates only.
    variant : {"IMAGENET1K_V1", "IMAGENET1K_V2"}
        The checkpoint, and the input recipe that belongs to it: V2 was trained longer, with a newer recipe.
    weights : {"auto", "pretrained", "random"}
        Whether random weights are a fallback, refused, or asked for.
    normalize : bool
        Whether the vectors are divided by their norm, on the device; cosine search is indifferent to it.
    seed : int
        Seed of random weights.
    """

    dim: int = 2048
    gflop_per_item: float = 8.2
    variant: Variant = "IMAGENET1K_V2"
    weights: weights_.Choice = "auto"
    normalize: bool = False
    seed: int = 0
    modality: Literal["image"] = "image"
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    """The network and its input recipe, once loaded."""

    def __post_init__(self) -> None:
        violations = [
            *rules.integer("model.dim", self.dim, minimum=1),
            *rules.positive("model.gflop_per_item", self.gflop_per_item),
            *rules.one_of("model.variant", self.variant, get_args(Variant)),
            *rules.one_of("model.weights", self.weights, weights_.CHOICES),
            *rules.boolean("model.normalize", self.normalize),
            *rules.integer("model.seed", self.seed, minimum=0),
            *rules.one_of("model.modality", self.modality, ["image"]),
        ]
        if violations:
            raise SettingsError(violations)

    @property
    def normalized(self) -> bool:
        """Vectors have unit norm exactly if `normalize` makes them so."""
        return self.normalize

    def locate(self) -> Weights:
        """Decide where the weights come from: the PyTorch Hub's folder on this machine, its server, or a seed.

        Raises
        ------
        harness.errors.UnsupportedError
            When torchvision is not installed.
        harness.errors.WeightsError
            When pretrained weights were insisted on and cannot be had.
        """
        if importlib.util.find_spec("torchvision") is None:
            raise UnsupportedError(MISSING.format(why=", which is not installed"))
        source = f"torchvision resnet50 {self.variant}"
        unlearned = Weights("random", source, None, None, f"random, seed {self.seed}")
        if self.weights == "random":
            return replace(unlearned, note="random weights were asked for (model.weights=random)")
        name = FILES[self.variant]
        learned = Weights("pretrained", source, None, self.variant, f"{source} {name}")
        if (hub_folder() / name).is_file():
            return replace(learned, path=str(hub_folder()), note="from the PyTorch Hub's folder on this machine")
        if (answer := weights_.within(weights_.PROBE_TIMEOUT_S, lambda: _probe(HUB + name))) == "":
            return replace(learned, note="to be downloaded from the PyTorch Hub")
        reason = f"{HUB}: {answer}" if answer is not None else f"{HUB} did not answer in {weights_.PROBE_TIMEOUT_S:g} s"
        why = f"no {name} in {hub_folder()}, and the PyTorch Hub cannot be reached ({reason})"
        if self.weights == "pretrained":
            raise WeightsError(f"model.weights=pretrained: {why}. Connect to it, put the file there, or use auto.")
        return replace(unlearned, note=f"{why}: seeded random weights; speed and memory are real, the vectors are not")

    def fetch(self, weights: Weights) -> Weights:
        """Download the file if it is not here yet, and look whether it is what its name promises.

        Raises
        ------
        harness.errors.WeightsError
            When the download fails or the file has another SHA-256.
        """
        if weights.kind == "random":
            return weights
        file = hub_folder() / FILES[self.variant]
        if weights.path is None:
            from torch.hub import download_url_to_file

            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                download_url_to_file(HUB + file.name, str(file), hash_prefix=_promised(file), progress=False)
            except (OSError, RuntimeError) as error:
                raise WeightsError(f"the download of {HUB}{file.name} failed ({error}); try again, or put it into {file.parent}") from error
            return replace(weights, path=str(file.parent), note="downloaded from the PyTorch Hub")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if not found.startswith(_promised(file)):
            raise WeightsError(f"{file} is not what it should be: its SHA-256 begins with {found[:8]}; delete it and run again")
        return weights

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:
        """Load in exactly `dtype`, without the classifier, and move the network to `device`.

        Raises
        ------
        harness.errors.UnsupportedError
            When torchvision cannot be imported, or an `attention` was asked for, which it has not.
        harness.errors.WeightsError
            When the file cannot be read or does not fit.
        """
        import torch

        try:
            models: Any = importlib.import_module("torchvision.models")
        except (ImportError, RuntimeError) as error:  # built for another PyTorch, it lacks operators
            why = f", and the one installed does not work with PyTorch {torch.__version__} ({error})"
            raise UnsupportedError(MISSING.format(why=why)) from error
        with parameters.seeded(self.seed):
            network = models.resnet50(weights=None)
        if weights.kind != "random":
            file = Path(weights.path or hub_folder()) / FILES[self.variant]
            try:
                network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
            except (OSError, RuntimeError, pickle.UnpicklingError) as error:
                raise WeightsError(f"{file} could not be loaded: {str(error).strip().splitlines()[0]}") from error
        dim = network.fc.in_features
        network.fc = torch.nn.Identity()
        network.eval().to(parameters.torch_dtype(dtype))
        info = ModelInfo(
            dim=dim,
            parameters=parameters.count(network),
            dtype=parameters.precision(network),
            attention=attention_in_force(network, asked=attention),
        )
        network.to(device)
        if compiled:
            network.compile()
        recipe = models.ResNet50_Weights[self.variant].transforms()
        object.__setattr__(self, "_loaded", (network, recipe))
        return info

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights, see `models.parameters.fingerprint`."""
        return parameters.fingerprint(self._loaded[0])

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:  # noqa: ARG002 - an image is one whatever it is for
        """Resize, crop and normalise images by the checkpoint's own recipe, in the model's precision."""
        import torch

        network, recipe = self._loaded
        pixels = torch.stack([recipe(image) for image in items]).to(network.conv1.weight.dtype)
        return Prepared(pixels, count=len(items), units=float(len(items)))

    def transfer(self, prepared: Prepared) -> Prepared:
        """Move the pixels to the device; on a CPU the batch comes back unchanged."""
        device = self._loaded[0].conv1.weight.device
        return prepared if device.type == "cpu" else replace(prepared, inputs=prepared.inputs.to(device))

    def forward(self, prepared: Prepared) -> Any:
        """Return the last feature map averaged over space, as a tensor of shape (n, dim)."""
        import torch

        with torch.inference_mode():
            vectors = self._loaded[0](prepared.inputs)
            return torch.nn.functional.normalize(vectors.float(), dim=1) if self.normalize else vectors

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the images."""
        vectors: Vectors = outputs.float().cpu().numpy()
        return vectors


def hub_folder() -> Path:
    """Return where the PyTorch Hub keeps checkpoints, as ``torch.hub.get_dir`` says, which takes seconds to import."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"


def _promised(file: Path) -> str:
    return file.stem.rpartition("-")[2]


def _probe(address: str) -> str:
    """Return an empty string if there is a file at an `address`, otherwise why not."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=weights_.PROBE_TIMEOUT_S):  # noqa: S310 - the address is ours, https
            return ""
    except OSError as error:
        return str(error) or type(error).__name__
