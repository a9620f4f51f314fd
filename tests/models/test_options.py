"""The contract of conf/model: every file there builds for free, and what it builds works.

A new model is one new YAML file; it is tested here without a line being added.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from harness.audit import audit
from harness.interfaces import Model

CONF = Path(__file__).parents[2] / "conf" / "model"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
SHALLOW = {"num_hidden_layers": 1, "depths": 1}
"""One layer (a stage) instead of many: quick, and as wide as declared."""


def settings(name, **overrides):
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), overrides))


def shallow(name):
    body = settings(name, weights="random")
    architecture = body["architecture"]
    for key in SHALLOW.keys() & architecture.keys():
        architecture[key] = [1] * len(architecture[key]) if isinstance(architecture[key], list) else 1
    return instantiate(body, _convert_="object")


def items(modality):
    if modality == "text":
        return ["A short text.", "A longer text, so that the first is padded: " + "all these words " * 20, "?"]
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in ((240, 320), (300, 200), (40, 40))]


def test_there_are_models():
    assert {"minilm", "resnet50"} <= set(OPTIONS)


def test_every_option_builds_without_a_heavy_import_a_download_or_a_device():
    code = (
        "import json, sys; from pathlib import Path; from hydra.utils import instantiate; from omegaconf import OmegaConf\n"
        "for path in sys.argv[1:]: instantiate(OmegaConf.load(path), _convert_='object')\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'tokenizers', 'pandas', 'scipy', 'PIL', 'huggingface_hub'}\n"
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
    assert 20 < len(first) < 120
    model = instantiate(settings(name), _convert_="object")
    assert isinstance(model, Model)
    body = settings(name)
    assert (model.modality, model.dim) == (body["modality"], body["dim"])
    assert body["weights"] == "auto"
    assert body["path"] is None


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_made_shallow_loads_with_random_weights_and_passes_the_audit(name):
    model = shallow(name)
    weights = model.locate()
    assert weights.kind == "random"
    info = model.load(model.fetch(weights), device="cpu", dtype="fp32")
    for role in ("document", "query"):
        audit(model, info, items(model.modality), asked="fp32", role=role)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_declared_arithmetic_is_that_of_the_architecture(name):
    """Within a third of what PyTorch counts for an item of the stated size; it is used for time estimates only."""
    from torch.utils.flop_counter import FlopCounterMode

    body = settings(name, weights="random")
    model = instantiate(body, _convert_="object")
    model.load(model.locate(), device="cpu", dtype="fp32")
    item = " word" * 126 if model.modality == "text" else items("image")[0]
    prepared = model.prepare([item])
    with FlopCounterMode(display=False) as counter:
        model.forward(prepared)
    assert counter.get_total_flops() / 1e9 == pytest.approx(body["gflop_per_item"], rel=1 / 3)
