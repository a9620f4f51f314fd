"""Two-tower models against the libraries' whole forward pass: the same vectors, the same similarities, nothing lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from harness.audit import audit
from harness.errors import DataError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Model, Sound
from models.transformers_dual import TransformersDualModel

TEXTS = ["the Cat and the hat", "The", "A dog that barks loudly, runs off into the woods and is not seen before the evening."]
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = {**TEXT, "image_size": 28, "patch_size": 14}
PROCESSORS = {
    "clip": {"image_processor_type": "CLIPImageProcessorPil", "size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
    "siglip": {"image_processor_type": "SiglipImageProcessorPil", "size": {"height": 28, "width": 28}, "resample": 2},
    "clap": {"feature_extractor_type": "ClapFeatureExtractor", "sampling_rate": 8000, "max_length_s": 2, "hop_length": 80,
             "fft_window_size": 512, "feature_size": 16, "frequency_min": 50, "frequency_max": 3500, "truncation": "rand_trunc"},
}  # fmt: skip
ARCHITECTURES = {
    "clip": {"projection_dim": 12, "text_config": {**TEXT, "max_position_embeddings": 24, "vocab_size": 2000}, "vision_config": VISION},
    "siglip": {
        "text_config": {**TEXT, "max_position_embeddings": 16, "vocab_size": 2000, "projection_size": 16},
        "vision_config": VISION,
    },
    "clap": {
        "projection_dim": 12,
        "text_config": {**TEXT, "max_position_embeddings": 42, "vocab_size": 2000, "pad_token_id": 1, "projection_dim": 12},
        "audio_config": {
            "hidden_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1], "num_attention_heads": [1, 2, 4],
            "num_mel_bins": 16, "spec_size": 64, "window_size": 4, "projection_dim": 12,
        },
    },
}  # fmt: skip
SETTINGS = {
    "clip": {"dim": 12, "max_tokens": 24},
    "siglip": {"dim": 16, "max_tokens": 16, "padding": "max_length", "lowercase": True},
    "clap": {"dim": 12, "max_tokens": 40, "modality": "audio+text"},
}
KINDS = sorted(SETTINGS)


def tiny(kind="clip", **settings):
    own = {"architecture": {"model_type": kind, **ARCHITECTURES[kind]}, "processor": PROCESSORS[kind], **SETTINGS[kind]}
    return TransformersDualModel(**{"source": "org/tiny", "gflop_per_item": 0.01, "weights": "random", **own, **settings})


def load(model, dtype="fp32", **how):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype, **how)


def embed(model, items):
    return model.finish(model.forward(model.transfer(model.prepare(items))))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bpe():
    """CLIP's own kind of tokenizer, with every byte and next to no merges."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[("t", "h"), ("th", "e</w>")])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model of each kind with its tokenizer and recipe, made and saved by the library alone."""
    import transformers

    from models import wordpiece

    folders = {}
    for number, kind in enumerate(KINDS):
        config = transformers.AutoConfig.for_model(kind, **ARCHITECTURES[kind])
        text = config.text_config
        tokenizer = bpe() if kind == "clip" else wordpiece.train(vocab_size=2000, pad_id=text.pad_token_id, max_tokens=16)
        text.eos_token_id, text.bos_token_id = 2, 0  # as in OpenAI's published configuration: not the tokenizer's
        torch.manual_seed(number)
        model = transformers.AutoModel.from_config(config, dtype="float32")
        with torch.no_grad():
            for parameter in model.parameters():  # larger than at the start of a training, so that inputs show in the vectors
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        arguments = dict(PROCESSORS[kind])
        name = arguments.pop("image_processor_type", None) or arguments.pop("feature_extractor_type")
        folders[kind] = tmp_path_factory.mktemp(kind)
        for part in (model, tokenizer, getattr(transformers, name)(**arguments)):
            part.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def mine(saved):
    """Make a model of a kind that reads the saved files."""
    return lambda kind="clip", **settings: tiny(kind, path=str(saved[kind]), weights="auto", **settings)


@pytest.fixture(scope="module")
def library(saved):
    """Load the library's own model of a kind."""
    from transformers import AutoModel

    return lambda kind="clip": AutoModel.from_pretrained(saved[kind], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in ((40, 70), (28, 28), (90, 30))]


@pytest.fixture(scope="module")
def sounds():
    rng = np.random.default_rng(0)
    lengths = ((8000, 0.5), (8000, 2.0), (16000, 1.3), (44100, 3.0))  # samples a second, seconds
    return [Sound(rng.uniform(-0.5, 0.5, int(rate * seconds)).astype(np.float32), rate) for rate, seconds in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_model_in_the_sense_of_the_protocol(kind):
    model = tiny(kind)
    assert isinstance(model, Model)
    assert (model.modality, model.normalized) == (SETTINGS[kind].get("modality", "image+text"), True)


def test_both_towers_of_clip_give_what_its_whole_forward_pass_gives(mine, library, saved, images):
    from transformers import AutoImageProcessor, AutoTokenizer

    model = mine()
    load(model)
    texts = AutoTokenizer.from_pretrained(saved["clip"])(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(saved["clip"], backend="pil")(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = library()(**texts, pixel_values=pixels)
        scale = library().logit_scale.exp()
    pictures, words = embed(model, images), embed(model, TEXTS)
    assert pictures.dtype == words.dtype == np.float32
    np.testing.assert_allclose(pictures, theirs.image_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(words, theirs.text_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(words @ pictures.T, (theirs.logits_per_text / scale).numpy(), atol=1e-6)


def test_the_text_vector_of_clip_is_that_of_the_token_that_ends_the_text_by_hand(mine, library):
    model, clip = mine(), library()
    load(model)
    tokenizer = bpe()
    for text, vector in zip(TEXTS, embed(model, TEXTS), strict=True):
        ids = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
        with torch.inference_mode():
            hidden = clip.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            expected = clip.text_projection(hidden).numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)


def test_with_random_weights_the_text_vector_is_that_of_the_stand_in_tokenizers_last_token():
    model = tiny()
    load(model)
    prepared = model.prepare(TEXTS)
    inputs = prepared.inputs[1]
    last = inputs["attention_mask"].sum(dim=1) - 1
    with torch.inference_mode():
        hidden = model.network.text_model(**inputs).last_hidden_state[torch.arange(len(TEXTS)), last]
        expected = model.network.text_projection(hidden).numpy()
    np.testing.assert_allclose(model.finish(model.forward(prepared)), unit(expected), atol=1e-6)
    assert len(set(last.tolist())) > 1


def test_both_towers_of_siglip_give_what_its_whole_forward_pass_gives_for_lower_case_padded_to_the_end(mine, library, saved, images):
    from transformers import AutoImageProcessor, AutoTokenizer

    model = mine("siglip")
    load(model)
    lower = [text.lower() for text in TEXTS]
    tokenizer = AutoTokenizer.from_pretrained(saved["siglip"])
    ids = tokenizer(lower, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    pixels = AutoImageProcessor.from_pretrained(saved["siglip"], backend="pil")(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = library("siglip")(input_ids=ids, pixel_values=pixels)
    np.testing.assert_allclose(embed(model, images), theirs.image_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(embed(model, TEXTS), theirs.text_embeds.numpy(), atol=1e-6)
    assert set(model.prepare(TEXTS).inputs[1]) == {"input_ids"}  # the library reads padding like words when it gets no mask
    np.testing.assert_array_equal(model.prepare(TEXTS[:1]).inputs[1]["input_ids"][0], ids[0])


def test_lower_case_is_made_before_tokenising(mine):
    from tokenizers import normalizers

    vectors = {}
    for lowercase in (True, False):
        model = mine("siglip", lowercase=lowercase)
        load(model)
        model.preparer[0].backend_tokenizer.normalizer = normalizers.NFC()  # a tokenizer that keeps capitals
        vectors[lowercase] = embed(model, ["Hat", "hat"])
    assert np.array_equal(vectors[True][0], vectors[True][1])
    assert not np.allclose(vectors[False][0], vectors[False][1])


def test_both_towers_of_clap_give_what_its_whole_forward_pass_gives(mine, library, saved, sounds):
    from transformers import AutoFeatureExtractor, AutoTokenizer

    model = mine("clap")
    load(model)
    plain = [sound for sound in sounds if sound.rate == 8000]  # neither resampled nor cut
    mels = AutoFeatureExtractor.from_pretrained(saved["clap"])([sound.samples for sound in plain], sampling_rate=8000, return_tensors="pt")
    texts = AutoTokenizer.from_pretrained(saved["clap"])(TEXTS, padding=True, truncation=True, max_length=40, return_tensors="pt")
    with torch.inference_mode():
        theirs = library("clap")(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], **mels)
    np.testing.assert_allclose(embed(model, plain), theirs.audio_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(embed(model, TEXTS), theirs.text_embeds.numpy(), atol=1e-6)


def test_of_a_long_sound_the_beginning_is_taken_each_time_and_the_cut_is_counted(mine, sounds):
    model = mine("clap")
    load(model)
    long = Sound(np.concatenate([sounds[1].samples, sounds[0].samples]), 8000)
    np.testing.assert_allclose(embed(model, [long, long])[1], embed(model, [long])[0], atol=1e-6)
    np.testing.assert_allclose(embed(model, [long]), embed(model, [sounds[1]]), atol=1e-6)
    prepared = model.prepare(sounds)
    assert (prepared.count, prepared.truncated) == (4, 1)
    assert prepared.units == pytest.approx(0.5 + 2.0 + 1.3 + 2.0, abs=1e-3)


def test_a_sound_is_resampled_to_the_models_rate(mine):
    model = mine("clap")
    load(model)
    wave = {rate: Sound(np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate).astype(np.float32) / 2, rate) for rate in (8000, 16000, 44100)}
    vectors = embed(model, list(wave.values()))
    as_if = embed(model, [Sound(wave[16000].samples, 8000)])  # the mistake: twice as slow and an octave lower
    assert np.abs(vectors - vectors[0]).max() < 0.2 * np.abs(as_if - vectors[0]).max()


def test_a_sound_that_cannot_be_one_is_said(mine):
    model = mine("clap")
    load(model)
    with pytest.raises(DataError, match=r"\[-1, 1\]"):
        model.prepare([Sound(np.full(8000, 3000.0, np.float32), 8000)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_each_tower_passes_the_audit_in_every_precision(mine, kind, dtype, images, sounds):
    model, full = mine(kind), mine(kind)
    info = load(model, dtype)
    load(full)
    assert (info.dtype, info.missing_keys, info.unexpected_keys) == (dtype, (), ())
    assert info.max_tokens == SETTINGS[kind]["max_tokens"]
    for items in (sounds if kind == "clap" else images, TEXTS):
        audit(model, info, items, asked=dtype)
        np.testing.assert_allclose(embed(model, items), embed(full, items), atol=0.05)


def test_texts_are_counted_in_real_tokens_and_those_that_were_cut(mine):
    for kind, longest in (("clip", 24), ("siglip", 16)):
        model = mine(kind)
        load(model)
        tokenizer = model.preparer[0]
        lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
        prepared = model.prepare(TEXTS)
        assert max(lengths) > longest > min(lengths)
        assert prepared.truncated == sum(length > longest for length in lengths)
        assert prepared.units == sum(min(length, longest) for length in lengths)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_attention_that_is_asked_for_is_in_force_and_gives_the_same_vectors(mine, attention, images):
    model, other = mine(), mine()
    assert load(model, attention=attention).attention == attention
    load(other)
    for items in (images, TEXTS):
        np.testing.assert_allclose(embed(model, items), embed(other, items), atol=1e-5)


def test_an_attention_that_a_model_lacks_is_refused_and_not_replaced(mine):
    with pytest.raises(UnsupportedError, match="attention=sdpa cannot be used here: ClapModel"):
        load(mine("clap"), attention="sdpa")
    with pytest.raises(UnsupportedError, match="attention=flash_attention_2 needs device=cuda"):
        load(mine(), attention="flash_attention_2")


@pytest.mark.slow  # the C++ compiler takes a minute or two
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_compiled_towers_give_the_same_vectors_and_keep_their_weights(mine, images):
    plain, compiled = mine(), mine()
    one, two = load(plain), load(compiled, compiled=True)
    assert (one.parameters, plain.fingerprint()) == (two.parameters, compiled.fingerprint())
    for items in (images, TEXTS):
        np.testing.assert_allclose(embed(compiled, items), embed(plain, items), atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by torch, on importing its own compiler
def test_each_tower_is_compiled_if_asked_and_only_then(mine):
    for asked in (True, False):
        model = mine()
        load(model, compiled=asked)
        towers = (model.network.text_model, model.network.vision_model)
        assert [tower._compiled_call_impl is not None for tower in towers] == [asked, asked]


def test_a_batch_of_two_modalities_or_of_one_without_a_tower_is_refused(mine, images, sounds):
    model = mine()
    load(model)
    for items in ([images[0], "a text"], sounds[:1], []):
        with pytest.raises(TypeError, match="one modality of image\\+text"):
            model.prepare(items)


def test_old_checkpoints_position_ids_are_no_weights(mine, saved, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(saved["clip"], tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    ids = {f"{tower}_model.embeddings.position_ids": torch.arange(5)[None] for tower in ("text", "vision")}
    save_file({**load_file(file), **ids}, file, metadata={"format": "pt"})
    assert load(tiny(path=str(tmp_path / "copy"), weights="auto", ignored_keys=tuple(ids))).unexpected_keys == ()


def test_a_model_that_mixes_random_parts_of_a_sound_is_refused(saved, tmp_path):
    import shutil

    shutil.copytree(saved["clap"], tmp_path / "fused")
    file = tmp_path / "fused" / "config.json"
    body = json.loads(file.read_text(encoding="utf-8"))
    body["audio_config"]["enable_fusion"] = True
    file.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(SettingsError, match="clap-htsat-unfused"):
        load(tiny("clap", path=str(tmp_path / "fused"), weights="auto"))


@pytest.mark.parametrize(("kind", "most"), [("clip", 24), ("siglip", 16), ("clap", 40)])
def test_more_tokens_than_the_text_tower_has_places_for_are_refused(mine, kind, most):
    with pytest.raises(SettingsError, match=f"model.max_tokens must be at most {most}, .*got {most + 1}"):
        load(mine(kind, max_tokens=most + 1))


def test_the_longest_text_fits(mine):
    for kind in KINDS:
        model = mine(kind)
        load(model)
        assert np.isfinite(embed(model, ["word " * 200])).all()


def test_the_seed_and_the_tokenizer_decide_what_random_weights_are(saved):
    fingerprints = []
    for seed in (1, 1, 2):
        model = tiny(seed=seed)
        load(model)
        fingerprints.append(model.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert tiny().locate().fingerprint.startswith("random, seed 0, tokenizer trained on Python")


def test_a_recipe_that_does_not_exist_is_said():
    with pytest.raises(WeightsError, match="image_processor_type"):
        load(tiny(processor={"image_processor_type": "NoSuchProcessor"}))


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(dim=0, modality="audio+text", max_tokens=True, padding="none", lowercase="yes", source="")
    assert {message.split(" ")[0] for message in error.value.violations} == {
        f"model.{name}" for name in ["dim", "max_tokens", "padding", "lowercase", "source", "processor.feature_extractor_type"]
    }
    with pytest.raises(SettingsError, match=r"model\.modality must be one of image\+text, audio\+text, got 'video\+text'"):
        tiny(modality="video+text")
