"""The models' loading code, run: the vectors are those of the adapter that was measured, on tiny models that the libraries saved."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from harness.build import build
from harness.choose import production
from harness.choose.candidates import Candidate
from tests.choose import cells
from tests.choose.test_production import written
from tests.models import test_transformers_dual as dual
from tests.models import test_transformers_vision as vision

RNG = np.random.default_rng(0)
IMAGES = [Image.fromarray(RNG.integers(0, 256, (height, 60, 3), dtype=np.uint8)) for height in (90, 64, 31)]


def of(settings, *, dim, compiled=False, attention="auto"):
    """A candidate whose model has these settings, searched by brute force."""
    about = {"model": settings, "dtype": "fp32", "attention": attention, "compile": compiled, "store": {"_target_": "stores.exact.Exact"}}
    record = cells.search(points=(cells.point(64),))
    record = type(record)(**{**record.__dict__, "settings": {**record.settings, **about}, "data": {**record.data, "dim": dim}})
    return Candidate(cells.embed(batch_size=2), record, 0, {}, name="chosen")


def adapter(settings):
    model = build({**settings, "gflop_per_item": 1.0}, key="model")
    model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    return model


def plain(model, target, **more):
    """The settings of a model in the tests of its adapter, as a YAML would have them."""
    names = ("source", "dim", "architecture", "processor")
    return {"_target_": target, **{name: getattr(model, name) for name in names}, **more}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2, image_size=28, patch_size=14
    )
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("normalize", [False, True])
def test_images_are_embedded_as_the_adapter_does(vit, tmp_path, pooling, normalize):
    settings = plain(
        vision.tiny(),
        "models.transformers_vision.TransformersVisionModel",
        dim=16,
        path=str(vit),
        pooling=pooling,
        normalize=normalize,
    )
    module, _, _ = written(of(settings, dim=16), tmp_path)
    wanted = vision.embed(adapter(settings), IMAGES)
    model = module.load_model()
    assert module.embed_documents(model, IMAGES) == pytest.approx(wanted, abs=1e-5)
    assert module.embed_query(model, IMAGES[1]) == pytest.approx(wanted[1], abs=1e-5)


def test_images_and_texts_are_embedded_as_the_adapter_does(tmp_path):
    folder = tmp_path / "clip"
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("clip", **dual.ARCHITECTURES["clip"])
    tokenizer = dual.bpe()
    config.text_config.eos_token_id = tokenizer.eos_token_id
    processor = transformers.CLIPImageProcessorPil(**{n: v for n, v in dual.PROCESSORS["clip"].items() if n != "image_processor_type"})
    for part in (transformers.AutoModel.from_config(config, dtype="float32"), tokenizer, processor):
        part.save_pretrained(folder)
    settings = plain(dual.tiny(), "models.transformers_dual.TransformersDualModel", path=str(folder), max_tokens=24, modality="image+text")
    module, _, _ = written(of(settings, dim=12), tmp_path)
    theirs, mine = adapter(settings), module.load_model()
    for items in (IMAGES, dual.TEXTS):
        assert module.embed_documents(mine, items) == pytest.approx(dual.embed(theirs, items), abs=1e-5)
    assert module.embed_query(mine, "a cat").shape == (12,)


def test_sounds_have_no_code():
    settings = {"_target_": "models.transformers_dual.TransformersDualModel", "modality": "audio+text", "source": "org/x"}
    _, notes = production.code(of(settings, dim=12), folder="r", about="t", measured=[])
    assert "sounds need the resampling" in notes[0]
