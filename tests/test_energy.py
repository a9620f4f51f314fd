"""The energy counter of a GPU, by a stand-in for NVIDIA's library: there is no GPU here."""

import sys
import types

import pytest
import torch

from harness import embed_cell, energy
from harness.interfaces import Prepared
from tests.plugins.parts import HashedWords


class NotSupportedError(Exception):
    pass


@pytest.fixture
def library(monkeypatch):
    """NVML with one GPU that has drawn 5 kJ and draws another 30 J for each question."""
    drawn = {"mJ": 5_000_000}

    def consumption(handle):
        assert handle == "GPU-4711"
        drawn["mJ"] += 30_000
        return drawn["mJ"]

    nvml = types.SimpleNamespace(
        NVMLError=NotSupportedError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=consumption,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="4711"))
    return nvml


def test_a_counter_of_millijoules_is_read_as_joules_of_the_device_that_torch_uses(library):
    meter = energy.meter("cuda:0")
    first = meter()
    assert first > 5000
    assert meter() - first == pytest.approx(30)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_have_none_and_say_so(device):
    assert device in energy.meter(device)


def test_without_the_library_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert "[gpu]" in energy.meter("cuda:0")


def test_a_gpu_that_does_not_count_says_so(library, monkeypatch):
    def refuse(handle):
        raise NotSupportedError("Not Supported")

    monkeypatch.setattr(library, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    assert "Not Supported" in energy.meter("cuda:0")


def test_energy_is_that_of_the_passes_between_two_readings(library, monkeypatch):
    monkeypatch.setattr(energy, "LEAST_S", 0.02)
    monkeypatch.setattr(embed_cell, "synchronize", lambda device: None)
    passes = []
    monkeypatch.setattr(HashedWords, "forward", lambda self, prepared: passes.append(1))
    ready = [Prepared([], 1, 1.0)] * 4
    joules, reason = embed_cell._energy(HashedWords(), ready, "cuda:0", 0.0)
    assert reason is None
    assert joules == pytest.approx(30 / (len(passes) / 4))
