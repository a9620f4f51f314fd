"""The fingerprint of a module is that of its numbers, names, shapes and types."""

from __future__ import annotations

import pytest
import torch

from models.parameters import count, fingerprint, precision, seeded


def module():
    with seeded(0):
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_the_same_numbers_have_the_same_fingerprint():
    assert fingerprint(module()) == fingerprint(module())
    assert len(fingerprint(module())) == 64


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight"])
def test_every_number_counts(name):
    changed = module()
    changed.state_dict()[name].view(-1)[-1] += 1e-6
    assert fingerprint(changed) != fingerprint(module())


def test_shape_and_precision_count():
    def flat(*shape):
        layer = torch.nn.ParameterDict({"a": torch.nn.Parameter(torch.zeros(shape))})
        return fingerprint(layer)

    assert flat(2, 3) != flat(3, 2) != flat(6)
    assert fingerprint(module().to(torch.bfloat16)) != fingerprint(module())


def test_a_weight_shared_by_two_layers_counts_once():
    one, two = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
    assert count(torch.nn.Sequential(one, two)) == 18
    two.weight = one.weight
    assert count(torch.nn.Sequential(one, two)) == 9


def test_mixed_precision_is_named_as_such():
    assert precision(module()) == "fp32"
    assert precision(module().half()) == "fp16"
    mixed = module()
    mixed[0].to(torch.bfloat16)
    assert precision(mixed) == "bf16+fp32"
