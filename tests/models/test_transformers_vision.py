"""Image models against NumPy and Pillow: the pooled output, the input recipe, random weights at full size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.audit import audit
from harness.errors import AuditError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Model
from models.transformers_vision import TransformersVisionModel

CONF = Path(__file__).parents[2] / "conf" / "model" / "resnet50.yaml"
RESNET50 = OmegaConf.to_container(OmegaConf.load(CONF))
TINY = {"model_type": "resnet", "layer_type": "bottleneck", "embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2]}
PROCESSOR = {**RESNET50["processor"], "size": {"shortest_edge": 56}}


def tiny(**settings) -> TransformersVisionModel:
    defaults = {"source": "org/tiny", "dim": 24, "gflop_per_item": 0.01, "architecture": TINY, "processor": PROCESSOR, "weights": "random"}
    return TransformersVisionModel(**{**defaults, **settings})


def embed(model, items):
    return model.finish(model.forward(model.transfer(model.prepare(items))))


def load(model, dtype="fp32", **how):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype, **how)


def loaded_fingerprint(model):
    load(model)
    return model.fingerprint()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in ((90, 70), (64, 64), (31, 200))]
    return [*noise, Image.new("RGB", (80, 60), (200, 30, 10))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny classifier with its input recipe, made and saved by the library alone, as ResNet-50 is published."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    model = ResNetForImageClassification(ResNetConfig(**TINY, num_labels=3))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that a trained model would have
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    model.save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.875, resample=2).save_pretrained(folder)
    return folder


def mine(folder, **settings):
    return tiny(path=str(folder), weights="auto", **{"ignored_keys": ["classifier."], **settings})


def test_it_is_a_model_in_the_sense_of_the_protocol():
    assert isinstance(tiny(), Model)
    assert (tiny().modality, tiny().normalized, tiny(normalize=True).normalized) == ("image", False, True)


@pytest.mark.parametrize("n", [1, 3])
def test_the_embedding_is_the_last_feature_map_averaged_over_space(folder, images, n):
    from transformers import AutoImageProcessor, ResNetModel

    model = mine(folder)
    load(model)
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)(images[:n], return_tensors="pt")[
        "pixel_values"
    ]
    with torch.inference_mode():
        features = ResNetModel.from_pretrained(folder, dtype=torch.float32)(pixels).last_hidden_state.numpy()
    assert features.shape == (n, 24, 7, 7)
    vectors = embed(model, images[:n])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, features.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_a_head_that_is_declared_unused_is_no_failure_and_an_undeclared_one_is(folder, images):
    model = mine(folder)
    info = load(model)
    assert info.missing_keys == info.unexpected_keys == ()
    audit(model, info, images, asked="fp32")
    info = load(mine(folder, ignored_keys=[]))
    assert info.unexpected_keys == ("classifier.1.bias", "classifier.1.weight")
    with pytest.raises(AuditError, match=r"model\.ignored_keys"):
        audit(mine(folder, ignored_keys=[]), info, images, asked="fp32")


def test_a_layer_missing_from_the_checkpoint_is_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    gone = sorted(key for key in tensors if "stages.1.layers.1.layer.0.convolution" in key)
    assert gone
    save_file({key: value for key, value in tensors.items() if key not in gone}, file, metadata={"format": "pt"})
    assert load(mine(tmp_path / "copy")).missing_keys == tuple(key.removeprefix("resnet.") for key in gone)


def test_batch_statistics_belong_to_the_fingerprint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith("running_mean"))
    save_file({**tensors, name: tensors[name] + 0.1}, file, metadata={"format": "pt"})
    assert loaded_fingerprint(mine(folder)) != loaded_fingerprint(mine(tmp_path / "copy"))


def test_the_checkpoints_own_input_recipe_is_used_and_not_the_one_for_random_weights(folder, images):
    own, stated = mine(folder), tiny()
    load(own)
    load(stated)
    assert not torch.equal(own.prepare(images).inputs, stated.prepare(images).inputs)  # one is bilinear, the other bicubic


def test_the_stated_recipe_is_resize_crop_and_normalise_as_pillow_does_it(images):
    model = tiny()
    load(model)
    mean, std = np.array(PROCESSOR["image_mean"]), np.array(PROCESSOR["image_std"])
    pixels = model.prepare(images).inputs.numpy()
    assert pixels.shape == (len(images), 3, 56, 56)
    for image, ours in zip(images, pixels, strict=True):
        shorter = min(image.size)
        width, height = (int(64 * side / shorter) for side in image.size)  # 56 / 0.875 = 64
        left, top = (width - 56) // 2, (height - 56) // 2
        cut = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 56, top + 56))
        expected = ((np.asarray(cut) / 255 - mean) / std).transpose(2, 0, 1)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_normalised_vectors_have_unit_norm_and_the_same_direction(folder, images):
    bare, unit = mine(folder), mine(folder, normalize=True)
    load(bare)
    info = load(unit)
    vectors = embed(bare, images)
    np.testing.assert_allclose(embed(unit, images), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    audit(unit, info, images, asked="fp32")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_loaded_as_asked_and_comes_back_as_float32(folder, images, dtype):
    full, half = mine(folder), mine(folder)
    load(full)
    info = load(half, dtype)
    assert info.dtype == dtype
    assert half.prepare(images).inputs.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    vectors = embed(half, images)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embed(full, images), rtol=0.1, atol=0.02)
    audit(half, info, images, asked=dtype)


def test_a_batch_counts_its_images_and_stays_where_it_is_on_a_cpu(images):
    model = tiny()
    load(model)
    prepared = model.prepare(images)
    assert (prepared.count, prepared.units, prepared.truncated) == (len(images), float(len(images)), 0)
    assert model.transfer(prepared) is prepared


def test_the_seed_decides_the_random_weights_and_nothing_else_is_touched():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one, same, other = (loaded_fingerprint(tiny(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module", params=["vit", "dinov2", "dinov2_with_registers"])
def transformer(request, tmp_path_factory):
    """A tiny vision transformer with its input recipe, made and saved by the library alone."""
    import transformers

    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(5)
    size = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.AutoConfig.for_model(request.param, **size, image_size=42, patch_size=14)
    model = transformers.AutoModel.from_config(config, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 42, "width": 42}, resample=2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_a_transformers_tokens_are_pooled_as_asked(transformer, images, pooling):
    from transformers import AutoModel, ViTImageProcessorPil

    model = mine(transformer, pooling=pooling)
    info = load(model)
    pixels = ViTImageProcessorPil(size={"height": 42, "width": 42}, resample=2)(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = AutoModel.from_pretrained(transformer, dtype=torch.float32)(pixels)
    tokens = theirs.last_hidden_state.numpy()
    assert tokens.shape[1] == 1 + 9 + (4 if "registers" in transformer.name else 0)
    expected = {"pooler": theirs.pooler_output.numpy(), "cls": tokens[:, 0], "mean": tokens[:, -9:].mean(axis=1)}[pooling]
    np.testing.assert_allclose(embed(model, images), expected, rtol=1e-5, atol=1e-5)
    audit(model, info, images, asked="fp32")


@pytest.mark.parametrize("transformer", ["vit"], indirect=True)  # only this one has such a layer
def test_a_pooling_layer_that_tokens_bypass_is_neither_missed_nor_counted(transformer, tmp_path):
    shutil.copytree(transformer, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if not key.startswith("pooler.")}, file, metadata={"format": "pt"})
    whole, headless = load(mine(transformer, pooling="pooler")), load(mine(tmp_path / "copy", pooling="cls"))
    assert headless.missing_keys == ()
    assert load(mine(tmp_path / "copy", pooling="pooler")).missing_keys == ("pooler.dense.bias", "pooler.dense.weight")
    assert headless.parameters == load(mine(transformer, pooling="cls")).parameters == whole.parameters - 24 * 24 - 24


def test_a_convolutional_network_has_no_tokens_to_pool(folder):
    with pytest.raises(SettingsError, match=r"model\.pooling must be pooler for a resnet.*got cls"):
        load(mine(folder, pooling="cls"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_that_is_asked_for_is_in_force(transformer, images, attention):
    model, other = mine(transformer, pooling="cls"), mine(transformer, pooling="cls")
    assert load(model, attention=attention).attention == attention
    assert load(other).attention in ("sdpa", "eager")
    np.testing.assert_allclose(embed(model, images), embed(other, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_a_network_without_attention_refuses_to_choose_one(folder, attention):
    assert load(mine(folder)).attention is None
    with pytest.raises(UnsupportedError, match=f"attention={attention} .*attention=auto|attention={attention} needs"):
        load(mine(folder), attention=attention)
    with pytest.raises(UnsupportedError, match=f"attention={attention}"):
        load(tiny(), attention=attention)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_a_network_is_compiled_if_asked_and_only_then(folder):
    for asked in (True, False):
        model = mine(folder)
        load(model, compiled=asked)
        assert (model.network._compiled_call_impl is not None) is asked


@pytest.mark.slow  # the C++ compiler takes a minute or two
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_a_compiled_network_gives_the_same_vectors_and_keeps_its_weights(folder, images):
    plain, compiled = mine(folder), mine(folder)
    one, two = load(plain), load(compiled, compiled=True)
    assert (one.parameters, plain.fingerprint()) == (two.parameters, compiled.fingerprint())
    np.testing.assert_allclose(embed(compiled, images), embed(plain, images), rtol=1e-4, atol=1e-5)


def test_loading_says_nothing(folder, capfd):
    load(mine(folder))
    load(tiny())
    assert capfd.readouterr() == ("", "")


def test_resnet50_at_full_size_builds_without_any_file(images):
    settings = {key: value for key, value in RESNET50.items() if key != "_target_"}
    model = TransformersVisionModel(**{**settings, "weights": "random"})
    info = load(model)
    # torchvision's ResNet-50 has 25,557,032 weights, of which 2048 × 1000 + 1000 are the classifier.
    assert (info.dim, info.parameters) == (2048, 25_557_032 - 2_049_000)
    prepared = model.prepare(images[:1])
    assert prepared.inputs.shape == (1, 3, 224, 224)
    assert model.finish(model.forward(prepared)).shape == (1, 2048)


def test_an_input_recipe_that_does_not_exist_is_said():
    with pytest.raises(WeightsError, match="image_processor_type"):
        load(tiny(processor={"image_processor_type": "NoSuchProcessor"}))


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(dim=0, normalize=1, processor={}, modality="text", gflop_per_item="8", seed=1.5, package="", pooling="max")
    wrong = {message.split(" ")[0] for message in error.value.violations}
    assert wrong == {
        f"model.{name}"
        for name in ["dim", "normalize", "processor.image_processor_type", "modality", "gflop_per_item", "seed", "package", "pooling"]
    }
