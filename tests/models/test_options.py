"""The contract of conf/model: every file there builds for free, and what it builds works.

A new model is one new YAML file; it is tested here without a line being added, unless it is of an architecture whose depth is
written under names that `SMALLER` does not know: then the small model takes as much work as the whole, and a test says so.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from harness.audit import audit
from harness.interfaces import Clip, Model, Sound, modalities

CONF = Path(__file__).parents[2] / "conf" / "model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "none")
"""Every model; `none` embeds nothing."""

SERVED = {"models.openai_api.OpenAIEmbeddingModel"}
"""Models that somebody else runs: nothing to load here; tested against a server in a file of their own."""

EXTRAS = {"models.torchvision_resnet.TorchvisionResNetModel": "torchvision"}
"""Models of a library that the test environment may lack."""

SMALLER = {
    "num_hidden_layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_self_attends_per_block": 1,
    "depths": 1,  # of each stage
    "num_latents": 64,  # of a Perceiver
    "max_source_positions": 250,  # of Whisper: 5 s
    "vocab_size": 60_000,
}
"""What a configuration may say at most, so that a model of one layer is quick; it stays as wide as declared."""

TYPICAL = {"text": " word" * 126}
"""What `gflop_per_item` is the arithmetic of, where items differ in size: a text of 128 tokens, [CLS] and [SEP] included."""


@functools.cache
def body(name):
    own = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    bases = own.pop("defaults", [])
    return {key: value for base in bases for key, value in body(base).items()} | own


LOADED = [name for name in OPTIONS if body(name)["_target_"] not in SERVED]


def needed(name):
    """Skip a test of an option whose library is not installed."""
    package = EXTRAS.get(body(name)["_target_"])
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def smaller(architecture):
    """Return an architecture as wide and hardly as deep, without more tokens than its special tokens need."""
    made = {key: smaller(value) if isinstance(value, dict) else value for key, value in architecture.items()}
    most = {**SMALLER, "vocab_size": max([SMALLER["vocab_size"], *(_ids(made) if "vocab_size" in made else ())])}
    for key in most.keys() & made.keys():
        made[key] = [most[key]] * len(made[key]) if isinstance(made[key], list) else min(made[key], most[key])
    return made


def _ids(architecture):
    return [value + 1 for key, value in architecture.items() if key.endswith("_token_id") and isinstance(value, int)]


def built(name, *, small=False):
    settings = {**body(name), "weights": "random"}
    if small and "architecture" in settings:
        settings["architecture"] = smaller(settings["architecture"])
    return instantiate(settings, _convert_="object")


@contextmanager
def without_memory():
    """Let models load and run on shapes alone, so that the arithmetic of a large one is counted in no time.

    PyTorch's device for that, ``meta``, has no values: moving a network to another device is left out, and a condition on
    values, such as whether a mask hides anything, counts as false.
    """
    import torch

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
        patch.setattr(torch.Tensor, "__bool__", lambda self: False)
        yield


def arithmetic(name, *, small):
    """Count the GFLOP of one typical item with PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    model = built(name, small=small)
    with without_memory():
        model.load(model.locate(), device="meta", dtype="fp32")
    first = modalities(model.modality)[0]
    prepared = model.transfer(model.prepare([TYPICAL.get(first, items(first)[0])]))
    with without_memory(), FlopCounterMode(display=False) as counter:
        model.forward(prepared)
    return counter.get_total_flops() / 1e9


def items(modality):
    rng = np.random.default_rng(1)
    if modality == "text":
        return ["A short text.", "A longer text, so that the first is padded: " + "all these words " * 20, "?"]
    if modality == "image":
        return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in ((240, 320), (300, 200), (40, 40))]
    sounds = [Sound(rng.uniform(-0.5, 0.5, int(rate * s)).astype(np.float32), rate) for rate, s in ((16000, 1.5), (48000, 4), (22050, 0.5))]
    if modality == "audio":
        return sounds
    shapes = ((24, 60, 80), (40, 90, 64), (10, 64, 64))
    frames = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    return [Clip(each, 25.0, sound) for each, sound in zip(frames, (sounds[1], None, sounds[2]), strict=True)]


def test_there_are_models_of_every_modality():
    found = {modality for name in OPTIONS for modality in modalities(body(name)["modality"])}
    assert found == {"text", "image", "audio", "video"}
    assert {"minilm", "resnet50", "clip_vit_l14"} <= set(OPTIONS)


def test_every_option_builds_without_a_heavy_import_a_download_or_a_device():
    code = (
        "import json, sys; from pathlib import Path; from hydra.utils import instantiate; from omegaconf import OmegaConf\n"
        "for path in sys.argv[1:]: instantiate(OmegaConf.load(path), _convert_='object')\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'sentence_transformers', 'tokenizers', 'pandas', 'scipy', 'PIL', 'av',\n"
        "         'huggingface_hub', 'openai', 'onnxruntime', 'openvino'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(CONF / f"{name}.yaml") for name in OPTIONS)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_says_what_it_is_before_it_is_loaded(name):
    first = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert 20 < len(first) < 140
    model = instantiate(body(name), _convert_="object")
    assert isinstance(model, Model)
    assert (model.modality, model.dim) == (body(name)["modality"], body(name)["dim"])
    if name in LOADED:
        assert body(name)["weights"] == "auto"


@pytest.mark.parametrize("name", LOADED)
def test_an_option_made_small_loads_with_random_weights_and_passes_the_audit(name):
    needed(name)
    model = built(name, small=True)
    weights = model.locate()
    assert weights.kind == "random"
    info = model.load(model.fetch(weights), device="cpu", dtype="fp32")
    for modality in modalities(model.modality):
        for role in ("document", "query") if modality == "text" else ("document",):
            audit(model, info, items(modality)[:2], asked="fp32", role=role)


@pytest.mark.parametrize("name", LOADED)
def test_the_declared_arithmetic_is_that_of_the_architecture_and_a_small_one_has_much_less(name):
    needed(name)
    whole = arithmetic(name, small=False)
    assert whole == pytest.approx(body(name)["gflop_per_item"], rel=0.1)
    assert arithmetic(name, small=True) < 0.75 * whole, "add to SMALLER how this architecture calls the number of its layers"


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADED)
def test_an_option_at_full_size_loads_with_random_weights_and_passes_the_audit(name):
    needed(name)
    model = built(name)
    with without_memory():
        parameters = built(name).load(built(name).locate(), device="meta", dtype="fp32").parameters
    needs = 3 * 4 * parameters  # float32, and room for a second copy and the work
    if needs > psutil.virtual_memory().available:
        pytest.skip(f"needs {needs / 1e9:.0f} GB of memory")
    info = model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    for modality in modalities(model.modality):
        audit(model, info, items(modality)[:2], asked="fp32")
