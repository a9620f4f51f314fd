"""Whisper against transformers used directly and pooling by hand in NumPy; the random encoder that its own class loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from harness.audit import audit
from harness.errors import AuditError, DataError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Model, Sound
from models.whisper import WhisperModel
from tests.datasets.samples import real_speech

CONF = Path(__file__).parents[2] / "conf" / "model"
BASE = OmegaConf.to_container(OmegaConf.load(CONF / "whisper_base.yaml"))
TINY = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 20,
    "max_source_positions": 100,  # 2 s
    "max_target_positions": 8,
    "vocab_size": 50,
    "pad_token_id": 47,
    "bos_token_id": 47,
    "eos_token_id": 47,
    "decoder_start_token_id": 48,
    "init_std": 0.2,  # with the usual 0.02 so narrow a decoder hardly hears the encoder
}


def tiny(**settings) -> WhisperModel:
    return WhisperModel(**{"source": "org/tiny", "dim": 16, "gflop_per_item": 0.01, "architecture": TINY, "weights": "random", **settings})


def load(model, dtype="fp32", **more):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype, **more)


def loaded(dtype="fp32", **settings):
    model = tiny(**settings)
    load(model, dtype)
    return model


def embed(model, items):
    return model.finish(model.forward(model.transfer(model.prepare(items))))


@pytest.fixture(scope="module")
def sounds():
    """At the model's rate and others, of an odd number of mel frames, silent, of one sample, and longer than the model hears."""
    rng = np.random.default_rng(0)

    def noise(n, rate):
        return Sound((rng.uniform(-0.5, 0.5, n) * np.sin(np.arange(n) / 40)).astype(np.float32), rate)

    return [
        noise(16_000, 16_000),
        noise(5_123, 8_000),
        noise(160 * 33 + 1, 16_000),
        Sound(np.zeros(9_000, dtype=np.float32), 16_000),
        Sound(np.array([0.3], dtype=np.float32), 44_100),
        noise(3 * 44_100, 44_100),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Whisper with its feature extractor, made and saved by the library alone, as Whisper is published."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    WhisperForConditionalGeneration(WhisperConfig(**TINY)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    return folder


def mine(folder, **settings):
    return tiny(path=str(folder), weights="auto", **settings)


def directly(folder, sounds):
    """Return the library's model, its features for sounds that SciPy resampled, and its attention mask."""
    from scipy.signal import resample_poly
    from transformers import WhisperFeatureExtractor
    from transformers import WhisperModel as LibraryModel

    samples = [resample_poly(sound.samples, 16_000, sound.rate) if sound.rate != 16_000 else sound.samples for sound in sounds]
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    return LibraryModel.from_pretrained(folder, dtype=torch.float32).eval(), inputs["input_features"], inputs["attention_mask"].numpy()


def test_it_is_a_model_in_the_sense_of_the_protocol():
    assert isinstance(tiny(), Model)
    assert (tiny().modality, tiny().normalized, tiny(normalize=True).normalized) == ("audio", False, True)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("pooling", ["sounding", "mean", "decoder"])
def test_the_vector_is_the_librarys_hidden_state_pooled_by_hand(folder, sounds, pooling, n):
    model = mine(folder, pooling=pooling)
    info = load(model)
    assert (info.missing_keys, info.unexpected_keys, info.dim) == ((), (), 16)
    library, features, mask = directly(folder, sounds[:n])
    with torch.inference_mode():
        states = library.encoder(features).last_hidden_state.numpy()
        first = library(features, decoder_input_ids=torch.full((n, 1), 48)).last_hidden_state.numpy()
    assert states.shape == (n, 100, 16)
    frames = mask[:, ::2]
    expected = {
        "sounding": np.stack([states[i][frames[i] == 1].mean(axis=0) for i in range(n)]),
        "mean": states.mean(axis=1),
        "decoder": first[:, 0],
    }[pooling]
    vectors = embed(model, sounds[:n])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def test_the_frames_that_hold_sound_are_those_of_the_librarys_mask(folder, sounds):
    model = mine(folder)
    load(model)
    lengths = [Sound(np.full(n, 0.1, dtype=np.float32), 16_000) for n in (1, 159, 160, 161, 320, 321, 480, 481, 31_999, 32_000)]
    _, _, mask = directly(folder, lengths)
    assert model.prepare(lengths).inputs["frames"].tolist() == mask[:, ::2].sum(axis=1).tolist()


def test_the_class_of_the_encoder_alone_would_load_a_random_one(folder):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    trapped, report = WhisperEncoder.from_pretrained(folder, output_loading_info=True)
    logging.set_verbosity(verbosity)
    assert len(report["missing_keys"]) == len(trapped.state_dict())  # every one
    stored = load_file(folder / "model.safetensors")
    ours = mine(folder)
    load(ours)
    for name, tensor in ours.network.state_dict().items():
        assert torch.equal(tensor, stored[f"model.encoder.{name}"])
    assert not torch.equal(trapped.state_dict()["conv1.weight"], stored["model.encoder.conv1.weight"])


def test_the_decoder_is_loaded_only_where_it_is_used(folder):
    encoder, whole = load(mine(folder)), load(mine(folder, pooling="decoder"))
    stored = load_file(folder / "model.safetensors")
    assert encoder.parameters == sum(tensor.numel() for key, tensor in stored.items() if key.startswith("model.encoder."))
    assert whole.parameters == sum(tensor.numel() for tensor in stored.values())


def test_an_encoder_layer_missing_from_the_checkpoint_is_reported_and_a_decoders_only_where_it_is_used(folder, sounds, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    gone = {"model.encoder.layers.1.fc1.bias", "model.decoder.layers.0.fc1.bias"}
    save_file({key: value for key, value in load_file(file).items() if key not in gone}, file, metadata={"format": "pt"})
    model = mine(tmp_path / "copy")
    info = load(model)
    assert info.missing_keys == ("encoder.layers.1.fc1.bias",)
    with pytest.raises(AuditError, match="left at random"):
        audit(model, info, sounds, asked="fp32")
    assert load(mine(tmp_path / "copy", pooling="decoder")).missing_keys == ("decoder.layers.0.fc1.bias", "encoder.layers.1.fc1.bias")


def test_a_foreign_key_is_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    save_file({**load_file(file), "model.encoder.adapter.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    assert load(mine(tmp_path / "copy")).unexpected_keys == ("model.encoder.adapter.weight",)
    assert load(mine(tmp_path / "copy", ignored_keys=["model.encoder.adapter."])).unexpected_keys == ()


@pytest.mark.parametrize("pooling", ["sounding", "mean", "decoder"])
def test_it_passes_the_audit_with_extreme_sounds(folder, sounds, pooling):
    model = mine(folder, pooling=pooling)
    audit(model, load(model), sounds, asked="fp32")
    model = tiny(pooling=pooling)
    audit(model, load(model), sounds, asked="fp32")


def test_silence_after_a_clip_counts_in_the_plain_mean_only(folder, sounds):
    sounding, plain = mine(folder), mine(folder, pooling="mean")
    load(sounding)
    load(plain)
    short, full = sounds[1], Sound(np.resize(sounds[0].samples, 32_000), 16_000)
    assert not np.allclose(embed(sounding, [short]), embed(plain, [short]), atol=1e-3)
    np.testing.assert_allclose(embed(sounding, [full]), embed(plain, [full]), atol=1e-5)  # there is none after a clip of full length


def test_what_is_beyond_the_models_length_is_cut_and_counted(folder):
    model = mine(folder)
    load(model)
    samples = np.random.default_rng(3).uniform(-0.5, 0.5, 3 * 16_000).astype(np.float32)
    exact, over = Sound(samples[:32_000], 16_000), Sound(samples[:32_001], 16_000)
    prepared = model.prepare([Sound(samples, 16_000), exact, over, Sound(samples[:4_000], 8_000)])
    assert (prepared.count, prepared.truncated) == (4, 2)
    assert prepared.units == pytest.approx(2 + 2 + 2 + 0.5)  # seconds of sound, not of padding
    vectors = embed(model, [Sound(samples, 16_000), exact])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_the_same_sound_at_another_rate_has_nearly_the_same_vector(folder):
    model = mine(folder)
    load(model)

    def chord(rate):
        moments = np.arange(rate) / rate
        return Sound((0.3 * np.sin(2 * np.pi * 300 * moments) + 0.2 * np.sin(2 * np.pi * 1_234 * moments)).astype(np.float32), rate)

    own, high, low = embed(model, [chord(16_000), chord(48_000), chord(8_000)])
    played_at_the_wrong_rate = embed(model, [Sound(chord(48_000).samples, 16_000)])[0]

    def away(vector):
        return np.linalg.norm(vector - own) / np.linalg.norm(own)

    assert max(away(high), away(low)) < away(played_at_the_wrong_rate) / 3


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (Sound(np.empty(0, dtype=np.float32), 16_000), "sound 1 of a batch must have samples"),
        (Sound(np.array([np.nan], dtype=np.float32), 16_000), "sound 1 of a batch.*nan"),
        ("a text", "must be a Sound"),
    ],
)
def test_what_is_no_sound_is_refused_by_its_place(sounds, sound, said):
    with pytest.raises(DataError, match=said):
        loaded().prepare([sounds[0], sound])


def test_normalised_vectors_have_unit_norm_and_the_same_direction(folder, sounds):
    bare, unit = mine(folder), mine(folder, normalize=True)
    load(bare)
    info = load(unit)
    vectors = embed(bare, sounds)
    np.testing.assert_allclose(embed(unit, sounds), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    audit(unit, info, sounds, asked="fp32")


@pytest.mark.parametrize("pooling", ["sounding", "decoder"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_loaded_as_asked_and_comes_back_as_float32(folder, sounds, dtype, pooling):
    full, half = mine(folder, pooling=pooling), mine(folder, pooling=pooling)
    load(full)
    info = load(half, dtype)
    assert info.dtype == dtype
    assert half.prepare(sounds).inputs["features"].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    vectors = embed(half, sounds)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embed(full, sounds), rtol=0.1, atol=0.1 if dtype == "bf16" else 0.02)
    audit(half, info, sounds, asked=dtype)


def test_attention_is_used_or_refused(folder, sounds):
    plain, eager = mine(folder), mine(folder)
    assert load(plain).attention == "sdpa"
    assert load(eager, attention="eager").attention == "eager"
    np.testing.assert_allclose(embed(plain, sounds), embed(eager, sounds), atol=1e-5)
    assert load(tiny(), attention="eager").attention == "eager"
    with pytest.raises(UnsupportedError, match="flash_attention_2"):
        load(mine(folder), attention="flash_attention_2")


@pytest.mark.slow  # the C++ compiler takes a minute or two
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
@pytest.mark.parametrize("pooling", ["sounding", "decoder"])
def test_a_compiled_network_computes_the_same(folder, sounds, pooling):
    plain, compiled = mine(folder, pooling=pooling), mine(folder, pooling=pooling)
    load(plain)
    load(compiled, compiled=True)
    np.testing.assert_allclose(embed(compiled, sounds), embed(plain, sounds), atol=1e-4)
    assert compiled.fingerprint() == plain.fingerprint()


def test_the_seed_decides_the_random_weights():
    one, same, other = (loaded(seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other


def test_an_input_recipe_of_another_length_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chunk_length": 30}))
    with pytest.raises(WeightsError, match=r"20 mel bands × 200 frames.*20 × 3000"):
        load(mine(tmp_path / "copy"))


def test_loading_says_nothing(folder, capfd):
    load(mine(folder))
    load(tiny())
    assert capfd.readouterr() == ("", "")


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(dim=0, normalize=1, pooling="max", modality="text", gflop_per_item="8")
    wrong = {message.split(" ")[0] for message in error.value.violations}
    assert wrong == {f"model.{name}" for name in ["dim", "normalize", "pooling", "modality", "gflop_per_item"]}


@pytest.mark.parametrize(("name", "parameters"), [("tiny", 8.2e6), ("base", 20.6e6), ("small", 88.2e6), ("large_v2", 637e6)])
def test_the_published_sizes_and_their_arithmetic(name, parameters):
    """Radford et al. 2022, table 1: 39, 74, 244 and 1,550 M weights, half of them in the encoder; counted without memory or time."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"whisper_{name}.yaml"))
    model = WhisperModel(**{key: value for key, value in settings.items() if key != "_target_"} | {"weights": "random"})
    with torch.device("meta"):
        info = model.load(model.locate(), device="meta", dtype="fp32")
    assert info.dim == settings["dim"]
    assert info.parameters == pytest.approx(parameters, rel=0.01)
    prepared = model.transfer(model.prepare([Sound(np.full(20_000, 0.1, dtype=np.float32), 16_000)]))
    assert prepared.inputs["features"].shape == (1, 80, 3000)
    with FlopCounterMode(display=False) as counter:
        assert model.forward(prepared).shape == (1, settings["dim"])
    assert counter.get_total_flops() / 1e9 == pytest.approx(settings["gflop_per_item"], rel=0.02)


def test_whisper_base_at_full_size_hears_real_speech():
    from scipy.io import wavfile

    files = [sorted((real_speech() / digit).glob("*.wav"))[0] for digit in "07"]
    sounds = [Sound((data / 32_768).astype(np.float32), rate) for rate, data in map(wavfile.read, files)]
    assert {sound.rate for sound in sounds} == {8_000}
    model = WhisperModel(**{key: value for key, value in BASE.items() if key != "_target_"} | {"weights": "random"})
    assert load(model).dim == 512
    prepared = model.prepare(sounds)
    vectors = model.finish(model.forward(prepared))
    assert prepared.units == pytest.approx(sum(len(sound.samples) for sound in sounds) / 8_000)
    assert vectors.shape == (2, 512)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3 * np.linalg.norm(vectors[0])
