"""The multimodal Perceiver against its own decoding route, and its inputs against hand calculation."""

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
from harness.errors import DataError, SettingsError, UnsupportedError
from harness.interfaces import Clip, Model, Sound
from models import perceiver
from models.perceiver import PerceiverModel

FULL = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "perceiver.yaml"))
TINY = {
    **FULL["architecture"],
    "num_latents": 6,
    "d_latents": 16,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_frames": 4,
    "image_size": 5,  # pictures of 20 × 20
    "output_shape": [1, 4, 20, 20],
    "output_num_channels": 8,
    "initializer_range": 0.1,
}


def tiny(**settings) -> PerceiverModel:
    return PerceiverModel(**{"source": "org/tiny", "dim": 16, "gflop_per_item": 0.1, "architecture": TINY, "weights": "random", **settings})


def load(model, dtype="fp32", **more):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype, **more)


def loaded(dtype="fp32", **settings):
    model = tiny(**settings)
    load(model, dtype)
    return model


def embed(model, items):
    return model.finish(model.forward(model.transfer(model.prepare(items))))


def noise(rng, n, rate):
    return Sound(rng.uniform(-1, 1, n).astype(np.float32), rate)


@pytest.fixture(scope="module")
def clips():
    """With sound and without, wide, tall, of one frame, of one pixel, with a sound that ends early or has no sample, black and silent."""
    rng = np.random.default_rng(0)

    def frames(*shape):
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

    return [
        Clip(frames(30, 20, 20), 25.0, noise(rng, 48_000 * 30 // 25, 48_000)),
        Clip(frames(9, 30, 70), 12.5, noise(rng, 44_100, 44_100)),
        Clip(frames(9, 70, 30), 50.0),
        Clip(frames(1, 40, 40), 25.0, noise(rng, 10, 8_000)),
        Clip(frames(5, 1, 1), 29.97, Sound(np.empty(0, dtype=np.float32), 48_000)),
        Clip(np.zeros((8, 32, 32, 3), dtype=np.uint8), 24.0, Sound(np.zeros(20_000, dtype=np.float32), 48_000)),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny multimodal Perceiver, made and saved by the library alone."""
    from transformers import PerceiverConfig, PerceiverForMultimodalAutoencoding

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    PerceiverForMultimodalAutoencoding(PerceiverConfig(**TINY)).save_pretrained(folder)
    return folder


def mine(folder, **settings):
    return tiny(path=str(folder), weights="auto", **settings)


def test_it_is_a_model_in_the_sense_of_the_protocol():
    assert isinstance(tiny(), Model)
    assert (tiny().modality, tiny().normalized, tiny(normalize=True).normalized) == ("video", False, True)


def test_it_says_that_its_semantics_are_weak():
    assert [caveat.code for caveat in tiny().caveats] == ["weak_semantics"]


@pytest.mark.parametrize("n", [1, 3])
def test_the_vector_is_the_mean_of_the_latents_from_which_the_whole_model_reproduces_the_clip(folder, clips, n):
    from transformers import PerceiverForMultimodalAutoencoding

    model = mine(folder)
    info = load(model)
    assert (info.missing_keys, info.unexpected_keys, info.dim) == ((), (), 16)
    prepared = model.prepare(clips[:n])
    whole = PerceiverForMultimodalAutoencoding.from_pretrained(folder, dtype=torch.float32).eval()
    queries = {"image": torch.arange(32), "audio": torch.arange(16), "label": None}
    with torch.inference_mode():
        outputs = whole(inputs=dict(prepared.inputs), subsampled_output_points=queries, output_hidden_states=True)
    assert outputs.logits["image"].shape == (n, 32, 3)  # it did decode
    latents = outputs.hidden_states[-1].numpy()
    assert latents.shape == (n, 6, 16)
    np.testing.assert_allclose(embed(model, clips[:n]), latents.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_the_label_has_no_influence(clips):
    model = loaded()
    prepared = model.prepare(clips[:2])
    vectors = model.forward(prepared)
    prepared.inputs["label"].fill_(1.0)
    assert torch.equal(model.forward(prepared), vectors)


def test_what_decodes_is_dropped_and_not_counted(folder):
    model = mine(folder)
    info = load(model)
    stored = load_file(folder / "model.safetensors")
    kept = [
        tensor.numel() for key, tensor in stored.items() if not key.startswith(("perceiver.decoder.", "perceiver.output_postprocessor."))
    ]
    assert len(kept) < len(stored)
    assert info.parameters == sum(kept)


def test_a_layer_missing_from_the_checkpoint_is_reported_and_one_of_the_decoder_is_not(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    gone = {
        next(key for key in tensors if key.startswith("perceiver.encoder.")),
        next(key for key in tensors if key.startswith("perceiver.decoder.")),
    }
    save_file({key: value for key, value in tensors.items() if key not in gone}, file, metadata={"format": "pt"})
    assert load(mine(tmp_path / "copy")).missing_keys == tuple(key for key in sorted(gone) if "encoder" in key)


def test_it_passes_the_audit_with_extreme_clips(folder, clips):
    for model in (mine(folder), tiny()):
        audit(model, load(model), clips, asked="fp32")


def test_a_clip_is_seen_and_heard_at_its_middle(clips):
    """4 frames at 25 a second from 30: frames 13 to 16, from 0.52 s on; at 48 kHz that is sample 24,960."""
    model = loaded()
    inputs = model.prepare(clips[:1]).inputs
    assert inputs["image"].shape == (1, 4, 3, 20, 20)
    expected = clips[0].frames[13:17].transpose(0, 3, 1, 2) / 255  # 20 × 20 already
    np.testing.assert_allclose(inputs["image"][0].numpy(), expected, atol=1e-6)
    assert inputs["audio"].shape == (1, 7_680, 1)
    np.testing.assert_array_equal(inputs["audio"][0, :, 0].numpy(), clips[0].sound.samples[24_960 : 24_960 + 7_680])


def test_the_middle_square_of_a_frame_is_what_pillow_makes_of_it(clips):
    model = loaded()
    wide, tall = model.prepare(clips[1:3]).inputs["image"].numpy()
    for seen, clip, box, number in ((wide, clips[1], (20, 0, 50, 30), 3), (tall, clips[2], (0, 20, 30, 50), 0)):
        cut = Image.fromarray(clip.frames[number]).crop(box).resize((20, 20), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(seen[0], np.asarray(cut).transpose(2, 0, 1) / 255, atol=1e-6)


def test_sound_is_resampled_and_ends_in_silence_where_a_clip_does(clips):
    model = loaded()
    tone = Sound(np.sin(2 * np.pi * 500 * np.arange(800) / 16_000).astype(np.float32), 16_000)  # 0.05 s of the 0.16 s
    heard, none = model.prepare([Clip(clips[0].frames[:4], 25.0, tone), Clip(clips[0].frames[:4], 25.0)]).inputs["audio"].numpy()[:, :, 0]
    np.testing.assert_allclose(heard[100:2_300], np.sin(2 * np.pi * 500 * np.arange(100, 2_300) / 48_000), atol=0.01)
    assert not heard[2_400:].any()
    assert not none.any()


def test_what_it_hears_decides_too():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    loud, silent = embed(loaded(), [Clip(frames, 25.0, noise(rng, 7_680, 48_000)), Clip(frames, 25.0)])
    assert np.linalg.norm(loud - silent) > 1e-3 * np.linalg.norm(silent)


def test_a_batch_counts_the_frames_that_the_model_sees_and_the_clips_that_were_cut(clips):
    model = loaded()
    prepared = model.prepare(clips)
    assert (prepared.count, prepared.units) == (6, 24.0)
    assert prepared.truncated == 5  # all but the one of a single frame last longer than 0.16 s
    exact = Clip(clips[0].frames[:4], 25.0)
    assert model.prepare([exact]).truncated == 0
    assert model.transfer(prepared) is prepared


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (Clip(np.zeros((0, 4, 4, 3), dtype=np.uint8), 25.0), "clip 1 of a batch must have frames"),
        (Clip(np.zeros((2, 4, 4, 3), dtype=np.uint8), 0.0), "clip 1 of a batch must have a finite number of frames a second"),
        (
            Clip(np.zeros((2, 4, 4, 3), dtype=np.uint8), 25.0, Sound(np.full(9, np.nan, dtype=np.float32), 8_000)),
            "sound of clip 1 of a batch.*nan",
        ),
        (Image.new("RGB", (4, 4)), "must be a Clip"),
    ],
)
def test_what_is_no_clip_is_refused_by_its_place(clips, clip, said):
    with pytest.raises(DataError, match=said):
        loaded().prepare([clips[0], clip])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("image", lambda value: value * 255, r"image must have shape \(2, 4, 3, 20, 20\) and values in \[0, 1\]"),
        ("image", lambda value: value[:, :3], r"got \(2, 3, 3, 20, 20\)"),
        ("audio", lambda value: value * 2 - 3, r"audio must .* values in \[-1, 1\]"),
        ("audio", lambda value: value * np.nan, "nan"),
        ("label", lambda value: value + 1, r"label must .* values in \[0, 0\]"),
    ],
)
def test_inputs_of_another_shape_or_range_are_refused(clips, name, change, said):
    model = loaded()
    inputs = {key: value.numpy() for key, value in model.prepare(clips[:2]).inputs.items()}
    perceiver._check(inputs, model.preparer)
    with pytest.raises(DataError, match=said):
        perceiver._check({**inputs, name: change(inputs[name])}, model.preparer)


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
    assert {value.dtype for value in half.prepare(clips).inputs.values()} == {{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]}
    vectors = embed(half, clips)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embed(full, clips), rtol=0.1, atol=0.1 if dtype == "bf16" else 0.01)
    audit(half, info, clips, asked=dtype)


def test_attention_other_than_its_own_is_refused(folder):
    assert load(tiny()).attention == load(tiny(), attention="eager").attention == load(mine(folder), attention="eager").attention == "eager"
    for model in (tiny(), mine(folder)):
        with pytest.raises(UnsupportedError, match="attention=sdpa"):
            load(model, attention="sdpa")


@pytest.mark.slow  # the C++ compiler takes a minute or two
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_a_compiled_network_computes_the_same(folder, clips):
    plain, compiled = mine(folder), mine(folder)
    load(plain)
    load(compiled, compiled=True)
    np.testing.assert_allclose(embed(compiled, clips), embed(plain, clips), atol=1e-4)
    assert compiled.fingerprint() == plain.fingerprint()


def test_the_seed_decides_the_random_weights_and_nothing_else_is_touched(clips):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one, same, other = (loaded(seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_says_nothing(folder, capfd):
    load(mine(folder))
    load(tiny())
    assert capfd.readouterr() == ("", "")


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(dim=0, normalize=1, modality="image", gflop_per_item="8")
    wrong = {message.split(" ")[0] for message in error.value.violations}
    assert wrong == {f"model.{name}" for name in ["dim", "normalize", "modality", "gflop_per_item"]}


@pytest.mark.slow  # a gigabyte of memory and 250 GFLOP
def test_the_published_size_its_inputs_and_its_arithmetic(clips):
    from torch.utils.flop_counter import FlopCounterMode

    model = PerceiverModel(**{key: value for key, value in FULL.items() if key != "_target_"} | {"weights": "random"})
    info = load(model)
    prepared = model.prepare(clips[:1])
    assert {key: tuple(value.shape) for key, value in prepared.inputs.items()} == {
        "image": (1, 16, 3, 224, 224),
        "audio": (1, 30_720, 1),
        "label": (1, 700),
    }
    with FlopCounterMode(display=False) as counter:
        vectors = model.finish(model.forward(prepared))
    assert (info.dim, vectors.shape) == (512, (1, 512))
    assert counter.get_total_flops() / 1e9 == pytest.approx(FULL["gflop_per_item"], rel=0.02)
