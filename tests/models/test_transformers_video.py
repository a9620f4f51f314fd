"""Video models against transformers and Pillow used directly: which frames, how they are prepared, what is pooled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.audit import audit
from harness.errors import DataError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Clip, Model, Sound
from models.transformers_video import TransformersVideoModel

CONF = Path(__file__).parents[2] / "conf" / "model"
OPTIONS = sorted(path.stem for path in CONF.glob("videomae*.yaml"))
BASE = OmegaConf.to_container(OmegaConf.load(CONF / "videomae_base.yaml"))
TINY = {
    "model_type": "videomae",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
    "num_frames": 4,
    "image_size": 32,
    "patch_size": 16,
    "use_mean_pooling": False,
    "initializer_range": 0.1,
}
PROCESSOR = {**BASE["processor"], "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
DECODER = ["decoder.", "encoder_to_decoder.", "mask_token"]


def tiny(**settings) -> TransformersVideoModel:
    defaults = {"source": "org/tiny", "dim": 16, "gflop_per_item": 0.01, "architecture": TINY, "processor": PROCESSOR, "weights": "random"}
    return TransformersVideoModel(**{**defaults, **settings})


def load(model, dtype="fp32", **more):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype, **more)


def loaded(dtype="fp32", **settings):
    model = tiny(**settings)
    load(model, dtype)
    return model


def embed(model, items):
    return model.finish(model.forward(model.transfer(model.prepare(items))))


@pytest.fixture(scope="module")
def clips():
    """Long, wide, tall, of one frame, of one pixel, three rows high (channels, to a library that guesses), and black."""
    rng = np.random.default_rng(0)
    shapes = [(30, 40, 60), (9, 33, 70), (4, 70, 33), (1, 40, 40), (5, 1, 1), (4, 3, 7)]
    noise = [Clip(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), 25.0) for shape in shapes]
    return [*noise, Clip(np.zeros((8, 32, 32, 3), dtype=np.uint8), 24.0, Sound(np.zeros(9, dtype=np.float32), 8_000))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny VideoMAE as it is published: with the part that fills in patches, and its input recipe in the old spelling."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    VideoMAEForPreTraining(VideoMAEConfig(**TINY)).save_pretrained(folder)
    recipe = {**PROCESSOR, "size": 32, "crop_size": 32, "feature_extractor_type": "VideoMAEFeatureExtractor"}
    del recipe["image_processor_type"]
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe))
    return folder


def mine(folder, **settings):
    return tiny(path=str(folder), weights="auto", **{"ignored_keys": DECODER, **settings})


def by_pillow(clip, numbers):
    """Prepare some frames as published: the shorter edge to 32, bilinear, the middle 32 × 32, normalised."""
    mean, std = np.array(PROCESSOR["image_mean"]), np.array(PROCESSOR["image_std"])
    seen = []
    for number in numbers:
        frame = Image.fromarray(clip.frames[number])
        shorter = min(frame.size)
        width, height = (int(32 * side / shorter) for side in frame.size)
        left, top = (width - 32) // 2, (height - 32) // 2
        cut = frame.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32))
        seen.append(((np.asarray(cut) / 255 - mean) / std).transpose(2, 0, 1))
    return np.stack(seen).astype(np.float32)


def test_it_is_a_model_in_the_sense_of_the_protocol():
    assert isinstance(tiny(), Model)
    assert (tiny().modality, tiny().normalized, tiny(normalize=True).normalized) == ("video", False, True)


def test_weak_semantics_are_said_where_they_are_declared():
    assert tiny().caveats == ()
    (caveat,) = tiny(weak_semantics="Trained for something else.").caveats
    assert (caveat.code, caveat.text) == ("weak_semantics", "Trained for something else.")


@pytest.mark.parametrize("n", [1, 3])
def test_the_vector_is_the_mean_of_the_librarys_hidden_states(folder, clips, n):
    from transformers import VideoMAEModel

    model = mine(folder)
    info = load(model)
    assert (info.missing_keys, info.unexpected_keys, info.dim) == ((), (), 16)
    numbers = [[3, 11, 18, 26], [1, 3, 5, 7], [0, 1, 2, 3]]  # the middle ones of four equal parts of 30, 9 and 4 frames
    pixels = torch.from_numpy(np.stack([by_pillow(clip, chosen) for clip, chosen in zip(clips[:n], numbers, strict=False)]))
    with torch.inference_mode():
        states = VideoMAEModel.from_pretrained(folder, dtype=torch.float32).eval()(pixels).last_hidden_state.numpy()
    assert states.shape == (n, 2 * 2 * 2, 16)  # two tubelets of two frames, 2 × 2 patches
    vectors = embed(model, clips[:n])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, states.mean(axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("own", [True, False])
def test_frames_are_prepared_as_pillow_does_it(folder, clips, own):
    model = mine(folder) if own else tiny()
    load(model)
    pixels = model.prepare(clips).inputs.numpy()
    assert pixels.shape == (len(clips), 4, 3, 32, 32)
    np.testing.assert_allclose(pixels[3], by_pillow(clips[3], [0, 0, 0, 0]), atol=1e-5)  # one frame: four times
    np.testing.assert_allclose(pixels[4], by_pillow(clips[4], [0, 1, 3, 4]), atol=1e-5)
    np.testing.assert_allclose(pixels[5], by_pillow(clips[5], [0, 1, 2, 3]), atol=1e-5)  # three rows are not three channels


def test_a_class_token_is_pooled_where_a_model_has_one(clips):
    timesformer = {
        "model_type": "timesformer",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_frames": 4,
        "image_size": 32,
        "patch_size": 16,
        "initializer_range": 0.1,
    }
    first, mean = loaded(architecture=timesformer, pooling="cls"), loaded(architecture=timesformer)
    prepared = first.prepare(clips)
    with torch.inference_mode():
        states = first.network(pixel_values=prepared.inputs).last_hidden_state.numpy()
    assert states.shape == (len(clips), 1 + 4 * 2 * 2, 16)
    np.testing.assert_allclose(embed(first, clips), states[:, 0], atol=1e-6)
    np.testing.assert_allclose(embed(mean, clips), states.mean(axis=1), atol=1e-5)


def test_a_head_that_is_declared_unused_is_no_failure_and_an_undeclared_one_is(folder):
    assert load(mine(folder)).unexpected_keys == ()
    unexpected = load(mine(folder, ignored_keys=[])).unexpected_keys
    assert unexpected
    assert all(key.startswith(tuple(DECODER)) for key in unexpected)


def test_the_classifier_of_a_fine_tuned_model_is_no_failure(clips, tmp_path):
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    torch.manual_seed(6)
    VideoMAEForVideoClassification(VideoMAEConfig(**{**TINY, "use_mean_pooling": True}, num_labels=3)).save_pretrained(tmp_path)
    VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    declared = OmegaConf.load(CONF / "videomae_base_kinetics.yaml").ignored_keys
    model = mine(tmp_path, ignored_keys=list(declared))
    audit(model, load(model), clips, asked="fp32")


def test_a_layer_missing_from_the_checkpoint_is_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    gone = next(key for key in tensors if "encoder.layer.1.output" in key)
    save_file({key: value for key, value in tensors.items() if key != gone}, file, metadata={"format": "pt"})
    assert load(mine(tmp_path / "copy")).missing_keys == (gone.removeprefix("videomae."),)


def test_it_passes_the_audit_with_extreme_clips(folder, clips):
    for model in (mine(folder), tiny()):
        audit(model, load(model), clips, asked="fp32")


def test_a_batch_counts_the_frames_that_the_model_sees(clips):
    model = loaded()
    prepared = model.prepare(clips)
    assert (prepared.count, prepared.units, prepared.truncated) == (len(clips), 4.0 * len(clips), 0)
    assert model.transfer(prepared) is prepared


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (Clip(np.zeros((0, 4, 4, 3), dtype=np.uint8), 25.0), "clip 1 of a batch must have frames"),
        (Clip(np.zeros((1, 1, 21, 3), dtype=np.uint8), 25.0), "clip 1 of a batch has frames of 21 × 1 pixels"),
        (Image.new("RGB", (4, 4)), "must be a Clip"),
    ],
)
def test_what_cannot_be_prepared_is_refused_by_its_place(clips, clip, said):
    with pytest.raises(DataError, match=said):
        loaded().prepare([clips[0], clip])


def test_normalised_vectors_have_unit_norm_and_the_same_direction(clips):
    bare, unit = loaded(), tiny(normalize=True)
    info = load(unit)
    vectors = embed(bare, clips)
    np.testing.assert_allclose(embed(unit, clips), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    audit(unit, info, clips, asked="fp32")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_loaded_as_asked_and_comes_back_as_float32(folder, clips, dtype):
    full, half = mine(folder), mine(folder)
    load(full)
    info = load(half, dtype)
    assert info.dtype == dtype
    vectors = embed(half, clips)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embed(full, clips), rtol=0.1, atol=0.1 if dtype == "bf16" else 0.01)
    audit(half, info, clips, asked=dtype)


def test_attention_is_used_or_refused(folder, clips):
    plain, eager = mine(folder), mine(folder)
    assert load(plain).attention == "sdpa"
    assert load(eager, attention="eager").attention == "eager"
    np.testing.assert_allclose(embed(plain, clips), embed(eager, clips), atol=1e-5)
    with pytest.raises(UnsupportedError, match="flash_attention_2"):
        load(tiny(), attention="flash_attention_2")


@pytest.mark.slow  # the C++ compiler takes a minute or two
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_a_compiled_network_computes_the_same(folder, clips):
    plain, compiled = mine(folder), mine(folder)
    load(plain)
    load(compiled, compiled=True)
    np.testing.assert_allclose(embed(compiled, clips), embed(plain, clips), atol=1e-4)
    assert compiled.fingerprint() == plain.fingerprint()


def test_the_seed_decides_the_random_weights():
    one, same, other = (loaded(seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other


def test_loading_says_nothing(folder, capfd):
    load(mine(folder))
    load(tiny())
    assert capfd.readouterr() == ("", "")


def test_an_input_recipe_that_does_not_exist_is_said():
    with pytest.raises(WeightsError, match="image_processor_type"):
        load(tiny(processor={"image_processor_type": "NoSuchProcessor"}))


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(dim=0, normalize=1, processor={}, modality="image", pooling="max", weak_semantics=None)
    wrong = {message.split(" ")[0] for message in error.value.violations}
    assert wrong == {
        f"model.{name}" for name in ["dim", "normalize", "processor.image_processor_type", "modality", "pooling", "weak_semantics"]
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_the_published_size_and_its_arithmetic(name, clips):
    """Tong et al. 2022, VideoMAE, table 6: ViT-B of 87 M weights, 180 G multiply-adds a clip; counted without memory or time."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    model = TransformersVideoModel(**{key: value for key, value in settings.items() if key != "_target_"} | {"weights": "random"})
    with torch.device("meta"):
        info = model.load(model.locate(), device="meta", dtype="fp32")
    assert (info.dim, info.parameters) == (768, pytest.approx(86.2e6, rel=0.01))
    prepared = model.transfer(model.prepare(clips[:1]))
    assert prepared.inputs.shape == (1, 16, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        assert model.forward(prepared).shape == (1, 768)
    assert counter.get_total_flops() / 1e9 == pytest.approx(settings["gflop_per_item"], rel=0.02)
