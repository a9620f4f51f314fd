"""What all models of a checkpoint share: inputs moved whole, keys judged, attention told as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from harness.errors import SettingsError, UnsupportedError
from harness.interfaces import Prepared
from models.checkpoint import Checkpoint, attention_arguments, attention_in_force, moved

SETTINGS = {"source": "org/tiny", "modality": "text", "dim": 3, "gflop_per_item": 1.0, "architecture": {"model_type": "bert"}}


@dataclass(frozen=True, kw_only=True)
class Own(Checkpoint):
    """A model with a setting of its own."""

    width: int = 1

    def violations(self):
        return [] if self.width > 0 else [f"model.width must be above 0, got {self.width}"]


def linear():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def vit(attention):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8)
    return ViTModel._from_config(config, attn_implementation=attention)


def test_a_models_own_violations_are_named_beside_those_of_its_checkpoint():
    with pytest.raises(SettingsError) as error:
        Own(**{**SETTINGS, "dim": 0}, width=0)
    assert [message.split(" ")[0] for message in error.value.violations] == ["model.dim", "model.width"]


def test_settings_cannot_be_changed_from_outside():
    given = {"model_type": "bert", "sizes": [1, 2]}
    keys = ["head."]
    model = Own(**{**SETTINGS, "architecture": given}, ignored_keys=keys)
    given["sizes"].append(3)
    keys.append("body.")
    assert model.architecture == {"model_type": "bert", "sizes": [1, 2]}
    assert model.ignored_keys == ("head.",)


def test_every_tensor_of_a_batch_is_moved_and_nothing_else_is_touched():
    batch = ("text", {"ids": torch.zeros(2), "parts": (torch.ones(3), 7)})
    kind, inputs = moved(batch, "meta")
    assert kind == "text"
    assert inputs["ids"].device.type == inputs["parts"][0].device.type == "meta"
    assert inputs["parts"][1] == 7
    assert batch[1]["ids"].device.type == "cpu"


def test_a_batch_goes_where_the_network_is():
    model = Own(**SETTINGS)
    prepared = Prepared({"x": torch.zeros(2, 2)}, count=2, units=2.0)
    model.keep(linear(), device="cpu", dim=3)
    assert model.transfer(prepared) is prepared
    model.keep(linear(), device="meta", dim=3)
    assert model.transfer(prepared).inputs["x"].device.type == "meta"


def test_what_is_kept_is_counted_in_inference_mode_and_fingerprinted():
    model, other = Own(**SETTINGS), Own(**SETTINGS)
    network = linear()
    info = model.keep(network, "a tokenizer", device="cpu", dim=3, max_tokens=9)
    assert (info.dim, info.parameters, info.dtype, info.attention, info.max_tokens) == (3, 2 * 3 + 3 + 3 + 3, "fp32", None, 9)
    assert not network.training
    assert model.preparer == "a tokenizer"
    other.keep(linear(), device="cpu", dim=3)
    assert model.fingerprint() == other.fingerprint()
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert model.fingerprint() != other.fingerprint()


def test_finished_vectors_are_float32_whatever_the_network_computes_in():
    model = Own(**SETTINGS)
    vectors = model.finish(torch.ones(2, 3, dtype=torch.bfloat16))
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 3)


def test_keys_are_gathered_from_all_reports_and_declared_heads_left_out():
    model = Own(**SETTINGS, ignored_keys=["head."])
    reports = [
        {"missing_keys": ["b"], "unexpected_keys": ["head.weight", "neck.weight"]},
        {"missing_keys": {"a"}, "mismatched_keys": [("c", (1, 2), (2, 1))]},
    ]
    info = model.keep(linear(), device="cpu", dim=3, reports=reports)
    assert info.missing_keys == ("a", "b", "c")
    assert info.unexpected_keys == ("neck.weight",)


def test_before_loading_nothing_can_be_embedded():
    with pytest.raises(RuntimeError, match=r"load\(\) has to be called"):
        Own(**SETTINGS).fingerprint()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_in_force_is_what_the_library_was_told(attention):
    assert attention_in_force(vit(attention)) == attention
    assert attention_in_force(vit(attention), asked=attention) == attention


def test_another_attention_than_was_asked_for_is_refused_in_any_part_of_the_network():
    with pytest.raises(UnsupportedError, match="attention=sdpa was asked for, but this model computes with attention=eager"):
        attention_in_force(vit("eager"), asked="sdpa")
    both = torch.nn.ModuleList([vit("eager"), vit("sdpa")])
    assert attention_in_force(both) == "eager+sdpa"
    with pytest.raises(UnsupportedError, match=r"computes with attention=eager\+sdpa"):
        attention_in_force(both, asked="sdpa")


def test_a_network_without_attention_has_none_to_choose():
    assert attention_in_force(linear()) is None
    with pytest.raises(UnsupportedError, match="attention=eager was asked for, but this model has no attention layers"):
        attention_in_force(linear(), asked="eager")


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "bf16"), ("cuda:0", "fp32"), ("mps", "fp16")])
def test_flash_attention_is_refused_where_it_cannot_compute(device, dtype):
    with pytest.raises(UnsupportedError, match=f"needs device=cuda and dtype=fp16 or bf16, got device={device} and dtype={dtype}"):
        attention_arguments("flash_attention_2", device=device, dtype=dtype)


def test_an_attention_is_asked_of_the_library_only_if_somebody_asked_for_it():
    assert attention_arguments("auto", device="cpu", dtype="fp32") == {}
    assert attention_arguments("eager", device="cpu", dtype="fp32") == {"attn_implementation": "eager"}
    assert attention_arguments("flash_attention_2", device="cuda:1", dtype="bf16") == {"attn_implementation": "flash_attention_2"}
