"""torchvision's ResNet-50: where its weights come from, what of them is believed, and that it is the network it should be.

With a PyTorch that was built without CUDA, torchvision cannot be imported and keeps transformers from being imported, so that it is
not part of the test environment: the test of the vectors installs it into a folder of its own and uses it in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Model, Weights
from models import torchvision_resnet, weights
from models.torchvision_resnet import TorchvisionResNetModel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of the PyTorch Hub, on a machine with torchvision and without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torchvision_resnet, "HUB", "http://127.0.0.1:9/")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put(folder, monkeypatch, content=b"weights", name=None):
    """Write a file that is named after its own digest, and make it the first checkpoint."""
    name = name or f"resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setattr(torchvision_resnet, "FILES", {**torchvision_resnet.FILES, "IMAGENET1K_V1": name})
    return folder / name


def test_it_is_a_model_in_the_sense_of_the_protocol():
    model = TorchvisionResNetModel()
    assert isinstance(model, Model)
    assert (model.modality, model.dim, model.normalized, TorchvisionResNetModel(normalize=True).normalized) == ("image", 2048, False, True)


@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME", None])
def test_checkpoints_lie_where_pytorch_keeps_them(monkeypatch, tmp_path, variable):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    assert torchvision_resnet.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_a_file_that_is_here_is_used_and_the_two_checkpoints_are_told_apart(hub, monkeypatch):
    file = put(hub, monkeypatch)
    model = TorchvisionResNetModel(variant="IMAGENET1K_V1")
    found = model.fetch(model.locate())
    assert (found.kind, found.source, found.path) == ("pretrained", "torchvision resnet50 IMAGENET1K_V1", str(hub))
    other = TorchvisionResNetModel(variant="IMAGENET1K_V2").locate()
    assert other.kind == "random"
    (hub / torchvision_resnet.FILES["IMAGENET1K_V2"]).write_bytes(b"")
    other = TorchvisionResNetModel(variant="IMAGENET1K_V2").locate()
    assert other.kind == "pretrained"
    assert found.source != other.source
    assert found.fingerprint != other.fingerprint
    assert file.name in found.fingerprint


def test_a_file_that_is_not_what_its_name_promises_is_not_loaded(hub, monkeypatch):
    file = put(hub, monkeypatch)
    file.write_bytes(b"something else")
    model = TorchvisionResNetModel(variant="IMAGENET1K_V1")
    with pytest.raises(WeightsError, match=f"{file.name} is not what it should be.*delete it"):
        model.fetch(model.locate())


def test_what_is_not_here_is_downloaded_and_checked(hub, monkeypatch, tmp_path):
    content = b"weights"
    file = put(hub, monkeypatch, content)
    served = tmp_path / "served" / file.name
    served.parent.mkdir()
    file.rename(served)
    monkeypatch.setattr(torchvision_resnet, "HUB", served.parent.as_uri() + "/")
    model = TorchvisionResNetModel(variant="IMAGENET1K_V1", weights="pretrained")
    found = model.locate()
    assert (found.kind, found.path) == ("pretrained", None)
    assert model.fetch(found).path == str(hub)
    assert file.read_bytes() == content
    file.unlink()
    served.write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"the download of .* failed"):
        model.fetch(found)
    assert list(hub.iterdir()) == []


def test_without_the_hub_weights_are_random_and_say_so_or_refused(hub):
    found = TorchvisionResNetModel(seed=3).locate()
    assert (found.kind, found.fingerprint) == ("random", "random, seed 3")
    assert "cannot be reached" in found.note
    assert TorchvisionResNetModel().fetch(found) is found
    assert "asked for" in TorchvisionResNetModel(weights="random").locate().note
    with pytest.raises(WeightsError, match=r"model\.weights=pretrained: no resnet50-11ad3fa6\.pth in"):
        TorchvisionResNetModel(weights="pretrained").locate()


def test_a_hub_that_is_silent_is_given_up_after_the_time_that_the_other_hub_has(hub, monkeypatch):
    monkeypatch.setattr(weights, "PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(torchvision_resnet, "_probe", lambda _: __import__("time").sleep(5) or "")
    assert "did not answer in 0.05 s" in TorchvisionResNetModel().locate().note


def test_without_torchvision_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"not installed: pip install 'embedding-search-harness\[torchvision\]'"):
        TorchvisionResNetModel().locate()


def test_a_torchvision_that_does_not_work_with_this_pytorch_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    random = Weights("random", "torchvision resnet50", None, None, "random, seed 0")
    with pytest.raises(UnsupportedError, match=rf"does not work with PyTorch {torch.__version__.replace('+', '.')}"):
        TorchvisionResNetModel().load(random, device="cpu", dtype="fp32")


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        TorchvisionResNetModel(dim=0, gflop_per_item=0, variant="V3", weights="none", normalize=1, seed=-1, modality="text")
    names = {"dim", "gflop_per_item", "variant", "weights", "normalize", "seed", "modality"}
    assert {message.split(" ")[0] for message in error.value.violations} == {f"model.{name}" for name in names}


CHILD = """
import json, sys, warnings
from pathlib import Path
folder, site, root = map(Path, sys.argv[1:])
sys.path[:0] = [str(root), str(site)]
warnings.simplefilter("ignore")
import torch

original = torch.library.register_fake
def register_fake(name, *args, **kwargs):  # a PyTorch without CUDA lacks torchvision's compiled operators; none of them is used here
    return (lambda function: function) if str(name).startswith("torchvision::") else original(name, *args, **kwargs)
torch.library.register_fake = register_fake
import torchvision
torch.library.register_fake = original

import hashlib
import numpy as np
from PIL import Image
from harness.audit import audit
from harness.errors import UnsupportedError, WeightsError
from models import torchvision_resnet
from models.torchvision_resnet import TorchvisionResNetModel

said = {}
enum = torchvision.models.ResNet50_Weights
said["addresses"] = {key: enum[key].url for key in enum.__members__}
said["ours"] = {key: torchvision_resnet.HUB + name for key, name in torchvision_resnet.FILES.items()}

torch.manual_seed(1)
whole = torchvision.models.resnet50()
for module in whole.modules():
    if isinstance(module, torch.nn.BatchNorm2d):  # statistics that a trained model would have
        module.running_mean.uniform_(-0.1, 0.1)
        module.running_var.uniform_(0.8, 1.2)
hub = torchvision_resnet.hub_folder()
hub.mkdir(parents=True)
torch.save(whole.state_dict(), folder / "state.pth")
torch.save(whole.state_dict(), hub / "made.pth")
name = f"resnet50-{hashlib.sha256((hub / 'made.pth').read_bytes()).hexdigest()[:8]}.pth"
(hub / "made.pth").rename(hub / name)

rng = np.random.default_rng(0)
images = [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in ((240, 320), (300, 230), (64, 64))]
for variant in torchvision_resnet.FILES:
    torchvision_resnet.FILES = {**torchvision_resnet.FILES, variant: name}
    model = TorchvisionResNetModel(variant=variant)
    info = model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    audit(model, info, images, asked="fp32")
    said[variant] = [info.dim, info.parameters, info.dtype, info.attention]
    pixels = model.prepare(images).inputs
    np.savez(folder / f"{variant}.npz", pixels=pixels.numpy(), vectors=model.finish(model.forward(model.prepare(images))))
    half = TorchvisionResNetModel(variant=variant, normalize=True)
    audit(half, half.load(half.fetch(half.locate()), device="cpu", dtype="bf16"), images, asked="bf16")
try:
    model.load(model.locate(), device="cpu", dtype="fp32", attention="sdpa")
except UnsupportedError as error:
    said["attention"] = str(error)
class Evil:
    def __reduce__(self):
        return (Path.touch, (folder / "run",))
torch.save({"conv1.weight": Evil()}, hub / name)
try:
    model.load(model.locate(), device="cpu", dtype="fp32")
except WeightsError as error:
    said["pickle"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """What a process with torchvision says, and the folder where it left pixels, vectors and weights."""
    folder = tmp_path_factory.mktemp("torchvision")
    pinned = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torchvision==")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), *pinned]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"torchvision cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    environment = {**os.environ, "TORCH_HOME": str(folder / "home")}
    command = [sys.executable, "-c", CHILD, str(folder), str(folder / "site"), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # installs torchvision
def test_the_checkpoints_are_those_that_torchvision_names(child):
    addresses = child[1]["addresses"]
    addresses.pop("DEFAULT")
    assert addresses == child[1]["ours"]


@pytest.mark.slow
def test_its_vectors_are_those_of_transformers_resnet50_with_the_same_weights(child):
    """Both compute the same network: float32 sums in another order, so equal to 1e-4 of the vectors' length."""
    from transformers import ResNetConfig, ResNetModel

    folder, said = child
    theirs = ResNetModel(ResNetConfig()).eval()
    state = torch.load(folder / "state.pth", weights_only=True)
    theirs.load_state_dict({_renamed(key): value for key, value in state.items() if not key.startswith("fc.")})
    for variant in torchvision_resnet.FILES:
        with np.load(folder / f"{variant}.npz") as saved:
            with torch.inference_mode():
                expected = theirs(torch.from_numpy(saved["pixels"])).pooler_output.flatten(1).numpy()
            assert saved["vectors"].shape == (3, 2048)
            assert np.linalg.norm(saved["vectors"] - expected) / np.linalg.norm(expected) < 1e-4
        assert said[variant] == [2048, 25_557_032 - 2_049_000, "fp32", None]


@pytest.mark.slow
def test_each_checkpoint_has_its_own_input_recipe(child):
    """V1 resizes the shorter side to 256, V2 to 232; both by Pillow's bilinear filter; both crop 224 × 224 from the middle."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for variant, shorter in (("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)):
        width, height = int(320 * shorter / 240), shorter
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        cut = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
        expected = ((np.asarray(cut) / 255 - mean) / std).transpose(2, 0, 1)
        with np.load(child[0] / f"{variant}.npz") as saved:
            np.testing.assert_allclose(saved["pixels"][0], expected, atol=1e-5)


@pytest.mark.slow
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(child):
    assert "could not be loaded" in child[1]["pickle"]
    assert not (child[0] / "run").exists()


@pytest.mark.slow
def test_it_has_no_attention_to_choose(child):
    assert child[1]["attention"].startswith("attention=sdpa was asked for, but this model has no attention layers")


def test_the_extra_and_the_pinned_pytorch_belong_together():
    """Each release of torchvision works with exactly one of PyTorch: 0.28 with 2.13."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torchvision==0.28.0" in lines
    assert version("torch").partition("+")[0] == "2.13.0"


def _renamed(key):
    """Return the name that transformers has for one of torchvision's weights."""
    parts = key.split(".")
    kinds = {"conv": "convolution", "bn": "normalization"}
    if parts[0] in ("conv1", "bn1"):
        return ".".join(["embedder.embedder", kinds[parts[0][:-1]], *parts[1:]])
    stage, block = int(parts[0].removeprefix("layer")) - 1, parts[1]
    front = f"encoder.stages.{stage}.layers.{block}"
    if parts[2] == "downsample":
        return ".".join([front, "shortcut", ["convolution", "normalization"][int(parts[3])], *parts[4:]])
    kind, number = parts[2][:-1], int(parts[2][-1]) - 1
    return ".".join([front, "layer", str(number), kinds[kind], *parts[3:]])
