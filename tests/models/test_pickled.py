"""A model that the hub has only as a pickle: converted on arrival, with tensors alone let through."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from harness.errors import WeightsError
from models import pickled
from models.perceiver import PerceiverModel
from tests.models.hub import hub
from tests.models.test_perceiver import TINY


def pickle_of(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_tensors_come_out_as_they_were_even_if_two_share_their_memory(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    stored = {"a": shared, "b": shared, "c": torch.arange(12).reshape(3, 4).T, "d": torch.ones(2, dtype=torch.bfloat16)}
    (tmp_path / pickled.NAME).write_bytes(pickle_of(stored))
    pickled.convert(tmp_path / pickled.NAME)
    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == stored.keys()
    assert all(torch.equal(converted[key], stored[key]) and converted[key].dtype == stored[key].dtype for key in stored)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", pickled.NAME]


class Intruder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_code_in_a_pickle_is_not_run_and_the_file_refused(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / pickled.NAME).write_bytes(pickle_of({"a": torch.ones(1), "b": Intruder(trace)}))
    with pytest.raises(WeightsError, match="cannot be converted to safetensors"):
        pickled.convert(tmp_path / pickled.NAME)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Intruder(trace)))  # an ordinary unpickler runs it
    assert trace.exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_what_is_more_than_named_tensors_is_refused(tmp_path):
    (tmp_path / pickled.NAME).write_bytes(pickle_of({"a": torch.ones(1), "step": 7}))
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle that cannot be converted .*'step'"):
        pickled.convert(tmp_path / pickled.NAME)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_perceiver_is_fetched_from_a_hub_that_has_only_a_pickle_of_it_and_then_found_here(monkeypatch, tmp_path):
    from transformers import PerceiverConfig, PerceiverForMultimodalAutoencoding

    torch.manual_seed(3)
    whole = PerceiverForMultimodalAutoencoding(PerceiverConfig(**TINY))
    whole.config.save_pretrained(tmp_path)
    files = {"config.json": (tmp_path / "config.json").read_bytes(), pickled.NAME: pickle_of(whole.state_dict())}
    model = PerceiverModel(source="org/model", dim=16, gflop_per_item=0.1, architecture=TINY)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub({"org/model": files}) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        fetched = model.fetch(model.locate())
    assert fetched.kind == "pretrained"
    assert "converted to safetensors" in fetched.note
    info = model.load(fetched, device="cpu", dtype="fp32")
    assert info.missing_keys == info.unexpected_keys == ()
    assert all(torch.equal(tensor, whole.perceiver.state_dict()[key]) for key, tensor in model.network.state_dict().items())
    assert model.locate().path == fetched.path  # the next time it is in the cache
