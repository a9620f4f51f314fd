"""The recipe of every text option: tiny checkpoints of its architecture, made and saved by the libraries alone, embedded three ways.

The same vectors have to come from this project, from ``SentenceTransformer.encode``, and from the network called directly
and pooled by hand; and the prompts, pooling and dimensions are those that the authors publish.
"""

from __future__ import annotations

import functools
import itertools
import resource

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.audit import audit
from harness.errors import SettingsError, UnsupportedError
from models import wordpiece
from tests.conftest import ROOT

CONF = ROOT / "conf" / "model"

# As the authors' model cards have it: hub id, dimension, pooling, query prompt, document prompt, tokens, weights.
PUBLISHED = {
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", 384, "mean", "", "", 256, 22_713_216),
    "mpnet": ("sentence-transformers/all-mpnet-base-v2", 768, "mean", "", "", 384, 109_486_464),
    "bge_small_en": (
        "BAAI/bge-small-en-v1.5",
        384,
        "cls",
        "Represent this sentence for searching relevant passages: ",
        "",
        512,
        33_360_000,
    ),
    "bge_base_en": (
        "BAAI/bge-base-en-v1.5",
        768,
        "cls",
        "Represent this sentence for searching relevant passages: ",
        "",
        512,
        109_482_240,
    ),
    "bge_m3": ("BAAI/bge-m3", 1024, "cls", "", "", 8192, 567_754_752),
    "e5_base": ("intfloat/e5-base-v2", 768, "mean", "query: ", "passage: ", 512, 109_482_240),
    "multilingual_e5_small": ("intfloat/multilingual-e5-small", 384, "mean", "query: ", "passage: ", 512, 117_653_760),
    "gte_base": ("Alibaba-NLP/gte-modernbert-base", 768, "cls", "", "", 8192, 149_014_272),
    "nomic_embed_v1_5": ("nomic-ai/nomic-embed-text-v1.5", 768, "mean", "search_query: ", "search_document: ", 2048, 136_731_648),
    "qwen3_embedding_0_6b": (
        "Qwen/Qwen3-Embedding-0.6B",
        1024,
        "lasttoken",
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "",
        8192,
        595_776_512,
    ),
    "embeddinggemma_300m": (
        "google/embeddinggemma-300m",
        768,
        "mean",
        "task: search result | query: ",
        "title: none | text: ",
        2048,
        307_581_696,
    ),
}
SMALLER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
    "sliding_window": 8,
    "local_attention": 8,
}
FROM_PADDING = ("mpnet", "xlm-roberta")
"""Count positions from the padding token's id, 1, on, so that two of them are never used."""
OWN_NORMALIZE = {"gte_base": False, "nomic_embed_v1_5": False}
"""Checkpoints published without a module that normalises; the others have one."""
TEXTS = ["A lock that the same thread may take again.", "?", "word " * 300, "when the iterable is empty, return the start value " * 2, "a"]

NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if "SentenceTransformersModel" in path.read_text(encoding="utf-8"))
TYPES = ("minilm", "mpnet", "bge_m3", "gte_base", "nomic_embed_v1_5", "qwen3_embedding_0_6b", "embeddinggemma_300m")
"""One option of each architecture."""


def settings(name, **changes):
    return {**OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")), **changes}


def small(name):
    """The option's architecture with the same parts, smaller."""
    architecture = settings(name)["architecture"]
    architecture |= {key: value for key, value in SMALLER.items() if key in architecture}
    return {**architecture, "max_position_embeddings": 66 if architecture["model_type"] in FROM_PADDING else 64}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Make and save the small checkpoint of an option with the libraries alone, once; returns its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import AutoConfig, AutoModel

    made = {}

    def make(name):
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(name)
        config = AutoConfig.for_model(**small(name), initializer_range=0.2)
        torch.manual_seed(4)
        network = AutoModel.from_config(config).eval()
        network.save_pretrained(folder / "network")
        tokenizer = wordpiece.train(vocab_size=1000, pad_id=config.pad_token_id or 0, max_tokens=64)
        _, _, pooling, *_ = PUBLISHED[name]
        tokenizer.padding_side = "left" if pooling == "lasttoken" else "right"
        tokenizer.save_pretrained(folder / "network")
        parts = [modules.Transformer(str(folder / "network"), model_kwargs={"dtype": torch.float32})]
        parts.append(modules.Pooling(32, pooling_mode=pooling))
        for width, dim in ((32, 48), (48, 32)) if settings(name).get("dense") else ():
            parts.append(modules.Dense(width, dim, bias=False, activation_function=torch.nn.Identity()))
        if OWN_NORMALIZE.get(name, True):
            parts.append(modules.Normalize())
        SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
        made[name] = folder / "model"
        return made[name]

    return make


def option(name, folder, **changes):
    matryoshka = [16, 8] if settings(name).get("matryoshka") else []
    body = settings(name, path=str(folder), dim=32, max_tokens=64, **({"matryoshka": matryoshka} if matryoshka else {}))
    return instantiate({**body, "package": None, **changes}, _convert_="object")


def load(model, **asked):
    return model.load(model.fetch(model.locate()), **{"device": "cpu", "dtype": "fp32", **asked})


def embed(model, items, role="document"):
    return model.finish(model.forward(model.transfer(model.prepare(items, role=role))))


def by_hand(folder, texts, pooling, *, layer_norm=False, dim=None):
    """The vectors by the network called directly, one text at a time without padding, and a few lines of torch."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    network = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            tokens = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        vector = {"mean": tokens.mean(dim=0), "cls": tokens[0], "lasttoken": tokens[-1]}[pooling]
        for dense in sorted(folder.glob("*_Dense")):
            vector = load_file(dense / "model.safetensors")["linear.weight"] @ vector
        if layer_norm:
            vector = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
        vector = vector[:dim]
        found.append((vector / vector.norm()).numpy())
    return np.stack(found)


def test_every_text_option_is_here():
    assert set(PUBLISHED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_is_the_published_one(name):
    source, dim, pooling, query, document, tokens, _ = PUBLISHED[name]
    model = instantiate(settings(name), _convert_="object")
    assert (model.source, model.dim, model.pooling) == (source, dim, pooling)
    assert (model.query_prompt, model.document_prompt, model.max_tokens) == (query, document, tokens)
    assert model.normalized


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_has_as_many_weights_as_the_published_checkpoint(name):
    from transformers import AutoConfig, AutoModel

    body = settings(name)
    config = AutoConfig.for_model(**body["architecture"])
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    dims = [config.hidden_size, *body.get("dense", [])]
    assert count + sum(a * b for a, b in itertools.pairwise(dims)) == PUBLISHED[name][-1]


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_the_librarys_and_those_made_by_hand(name, checkpoint):
    from sentence_transformers import SentenceTransformer

    folder = checkpoint(name)
    _, _, pooling, query, document, *_ = PUBLISHED[name]
    model = option(name, folder)
    info = load(model)
    assert (info.dim, info.max_tokens, info.missing_keys, info.unexpected_keys) == (32, 64, (), ())
    direct = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    for role, prompt in (("query", query), ("document", document)):
        vectors = embed(model, TEXTS, role)
        texts = [prompt + text for text in TEXTS]
        hand = by_hand(folder, texts, pooling, layer_norm=model.layer_norm)
        np.testing.assert_allclose(vectors, hand, atol=1e-5, rtol=0)
        if not model.layer_norm:
            expected = direct.encode(TEXTS, prompt=prompt, batch_size=2, normalize_embeddings=True)
            np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)
        assert np.abs(hand - hand.mean(axis=0)).max() > 0.01  # vectors that differ from text to text, or this would show little
    audit(model, info, TEXTS, asked="fp32")


@pytest.mark.parametrize("name", [name for name in NAMES if settings(name).get("matryoshka")])
@pytest.mark.parametrize("dim", [16, 8])
def test_matryoshka_vectors_are_cut_and_normalised_anew(name, dim, checkpoint):
    from sentence_transformers import SentenceTransformer

    folder = checkpoint(name)
    _, _, pooling, _, document, *_ = PUBLISHED[name]
    model = option(name, folder, dim=dim)
    info = load(model)
    vectors = embed(model, TEXTS)
    assert info.dim == dim
    texts = [document + text for text in TEXTS]
    np.testing.assert_allclose(vectors, by_hand(folder, texts, pooling, layer_norm=model.layer_norm, dim=dim), atol=1e-5, rtol=0)
    if not model.layer_norm:
        direct = SentenceTransformer(str(folder), device="cpu", local_files_only=True, truncate_dim=dim)
        np.testing.assert_allclose(vectors, direct.encode(TEXTS, prompt=document, normalize_embeddings=True), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    audit(model, info, TEXTS, asked="fp32")


def test_a_dimension_that_the_model_was_not_trained_to_be_cut_to_is_not_made_up(checkpoint):
    model = option("qwen3_embedding_0_6b", checkpoint("qwen3_embedding_0_6b"), dim=12)
    assert load(model).dim == 32  # the audit sees that 12 were declared


@pytest.mark.parametrize("name", TYPES)
def test_a_text_has_the_same_vector_alone_and_beside_longer_ones(name, checkpoint):
    """The padding of a batch, left or right, leaks into nothing: not into a mean, and not into the place of the last token."""
    model = option(name, checkpoint(name))
    load(model)
    together = embed(model, TEXTS)
    np.testing.assert_allclose(together, np.vstack([embed(model, [text]) for text in TEXTS]), atol=1e-5, rtol=0)


def sees_ahead(folder):
    """Whether the first token's state depends on the token after it."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    with torch.inference_mode():
        first = [network(input_ids=torch.tensor([[5, last]])).last_hidden_state[0, 0] for last in (6, 7)]
    return (first[0] - first[1]).abs().max().item() > 1e-4


def test_embeddinggemma_looks_both_ways_and_qwen3_only_back(checkpoint):
    assert sees_ahead(checkpoint("embeddinggemma_300m"))
    assert not sees_ahead(checkpoint("qwen3_embedding_0_6b"))


def test_the_random_form_looks_the_same_ways(tmp_path):
    for name, ahead in (("embeddinggemma_300m", True), ("qwen3_embedding_0_6b", False)):
        model = option(name, None, path=None, weights="random", architecture=small(name), **({"dense": [48, 32]} if ahead else {}))
        load(model)
        model.network[0].model.save_pretrained(tmp_path / name)
        assert sees_ahead(tmp_path / name) == ahead


@pytest.mark.parametrize("name", TYPES)
def test_the_random_form_has_the_same_parts_as_the_checkpoint(name, checkpoint):
    pretrained = option(name, checkpoint(name))
    info = load(pretrained)
    dense = {"dense": [48, 32]} if settings(name).get("dense") else {}
    random = option(name, None, path=None, weights="random", architecture=small(name), **dense)
    built = load(random)
    assert (built.dim, built.parameters, built.max_tokens, built.attention) == (info.dim, info.parameters, info.max_tokens, info.attention)
    assert {key: value.shape for key, value in random.network.state_dict().items()} == {
        key: value.shape for key, value in pretrained.network.state_dict().items()
    }
    audit(random, built, TEXTS, asked="fp32")


@pytest.mark.parametrize("name", TYPES)
def test_the_attention_that_is_asked_for_is_in_force_or_refused(name, checkpoint):
    model = option(name, checkpoint(name))
    auto = load(model)
    vectors = embed(model, TEXTS)
    assert load(model, attention="eager").attention == "eager"
    np.testing.assert_allclose(embed(model, TEXTS), vectors, atol=1e-5, rtol=0)
    if auto.attention == "eager":
        with pytest.raises(UnsupportedError, match="attention=sdpa cannot be used here"):
            load(model, attention="sdpa")
    else:
        assert load(model, attention="sdpa").attention == auto.attention == "sdpa"
    with pytest.raises(UnsupportedError, match="attention=flash_attention_2 needs device=cuda and dtype=fp16 or bf16"):
        load(model, attention="flash_attention_2")


@pytest.mark.parametrize("name", ["qwen3_embedding_0_6b", "embeddinggemma_300m"])
def test_half_precision_keeps_the_rotary_frequencies_in_float32(name, checkpoint):
    dense = {"dense": [48, 32]} if settings(name).get("dense") else {}
    random = option(name, None, path=None, weights="random", architecture=small(name), **dense)
    for model in (random, option(name, checkpoint(name))):
        assert load(model, dtype="bf16").dtype == "bf16"
        frequencies = [value for key, value in model.network.named_buffers() if "inv_freq" in key]
        assert frequencies
        assert {value.dtype for value in frequencies} == {torch.float32}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own compiler uses it
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])  # captured only, or compiled to C++
def test_compiled_networks_give_the_same_vectors_for_texts_of_every_length(checkpoint, backend, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    model = option("minilm", checkpoint("minilm"))
    load(model)
    batches = [TEXTS, TEXTS[:2], TEXTS[1:4], ["some more words to read"] * 7]
    expected, fingerprint = [embed(model, batch) for batch in batches], model.fingerprint()
    info = load(model, compiled=True)
    assert (info.parameters, model.fingerprint()) == (sum(p.numel() for p in model.network.parameters()), fingerprint)
    counters.clear()
    np.testing.assert_allclose(embed(model, batches[0]), expected[0], atol=1e-5, rtol=0)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    for batch, vectors in zip(batches, expected, strict=True):
        np.testing.assert_allclose(embed(model, batch), vectors, atol=1e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] == compiled  # another length is not another compilation


# ----------------------------------------------------------------------- checkpoints that say less


def test_a_pooling_other_than_the_checkpoints_own_is_refused(checkpoint):
    with pytest.raises(SettingsError, match=r"model\.pooling=mean, but the checkpoint says cls; set that, or null"):
        load(option("bge_small_en", checkpoint("bge_small_en"), pooling="mean"))


def test_without_a_pooling_the_checkpoints_own_is_taken(checkpoint):
    folder = checkpoint("bge_small_en")
    model = option("bge_small_en", folder, pooling=None)
    load(model)
    np.testing.assert_allclose(embed(model, TEXTS), by_hand(folder, TEXTS, "cls"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "lasttoken", "mean", None])
def test_a_network_without_modules_is_pooled_as_the_settings_say(checkpoint, pooling):
    folder = checkpoint("minilm").parent / "network"
    model = option("minilm", folder, pooling=pooling)
    load(model)
    np.testing.assert_allclose(embed(model, TEXTS), by_hand(folder, TEXTS, pooling or "mean"), atol=1e-5, rtol=0)


def test_a_pooler_that_the_checkpoint_lacks_is_left_out_since_nothing_looks_at_it(checkpoint, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint("minilm"), tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    without = {key: value for key, value in tensors.items() if not key.startswith("pooler.")}
    assert len(without) == len(tensors) - 2
    save_file(without, file, metadata={"format": "pt"})
    model = option("minilm", tmp_path / "copy")
    info = load(model)
    assert info.missing_keys == ()
    assert not any("pooler" in key for key in model.network.state_dict())
    np.testing.assert_allclose(embed(model, TEXTS), by_hand(checkpoint("minilm"), TEXTS, "mean"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mpnet", "bge_m3"])
def test_positions_that_padding_takes_are_not_promised(name, checkpoint):
    model = option(name, checkpoint(name), max_tokens=None)
    assert load(model).max_tokens == 64
    embed(model, TEXTS)  # one of them is longer than all positions
    with pytest.raises(SettingsError, match="at most the model's 64 positions, got 65"):
        load(option(name, checkpoint(name), max_tokens=65))


def test_vectors_are_left_as_they_are_where_no_unit_norm_is_asked_for(checkpoint):
    from sentence_transformers import SentenceTransformer

    folder = checkpoint("gte_base")
    model = option("gte_base", folder, normalized=False)
    load(model)
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(embed(model, TEXTS), expected, atol=1e-4, rtol=1e-5)
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).min() > 0.1


def test_a_dimension_that_a_checkpoint_asks_to_be_cut_to_is_not_taken_behind_our_back(checkpoint, tmp_path):
    from sentence_transformers import SentenceTransformer

    direct = SentenceTransformer(str(checkpoint("minilm")), device="cpu", local_files_only=True, truncate_dim=16)
    direct.save_pretrained(str(tmp_path / "cut"), create_model_card=False)
    model = option("minilm", tmp_path / "cut")
    assert load(model).dim == 32
    assert embed(model, TEXTS).shape == (len(TEXTS), 32)


# ------------------------------------------------------------------------------------- at full size


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_full_size_is_built_with_random_weights_and_embeds(name):
    """Up to 2.4 GB of weights, in bfloat16 half of that."""
    dtype = "bf16" if PUBLISHED[name][-1] > 200e6 else "fp32"
    model = instantiate(settings(name, weights="random", package=None), _convert_="object")
    info = load(model, dtype=dtype)
    assert (info.dim, info.parameters, info.dtype) == (PUBLISHED[name][1], PUBLISHED[name][-1], dtype)
    audit(model, info, TEXTS, asked=dtype)
    print(name, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most so far")


@pytest.mark.slow
def test_nomics_published_configuration_is_read_without_the_code_that_it_names(tmp_path):
    """It names its sizes as GPT-2 does and points to code on the hub; transformers' own network takes its own defaults, which are
    those sizes, and the code, which cannot be had here, is not run."""
    import json

    from transformers import AutoConfig, AutoModel

    network = AutoModel.from_config(AutoConfig.for_model(**settings("nomic_embed_v1_5")["architecture"])).eval()
    network.save_pretrained(tmp_path)
    wordpiece.train(vocab_size=30528, max_tokens=2048).save_pretrained(tmp_path)
    sizes = {"n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 8192, "rotary_emb_base": 1000, "vocab_size": 30528}
    code = {name: f"nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.{kind}" for name, kind in (("AutoModel", "NomicBertModel"),)}
    code["AutoConfig"] = "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig"
    published = {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "activation_function": "swiglu",
        "auto_map": code,
        **sizes,
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    model = option("nomic_embed_v1_5", tmp_path, dim=768, matryoshka=[], layer_norm=False)
    info = load(model)
    assert (info.parameters, info.missing_keys, info.unexpected_keys) == (136_731_648, (), ())
    features = model.prepare(TEXTS).inputs[0]
    mask = features["attention_mask"][..., None]
    with torch.inference_mode():
        tokens = network(input_ids=features["input_ids"], attention_mask=features["attention_mask"]).last_hidden_state
    expected = torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)
    np.testing.assert_allclose(embed(model, TEXTS), expected.numpy(), atol=1e-5, rtol=0)
