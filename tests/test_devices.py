"""Which devices there are, which one is meant, and waiting for it."""

import importlib.metadata
import subprocess
import sys

import pytest

from harness import devices
from harness.errors import SettingsError, UnsupportedError

TWO_GPUS = {"cpu": "CPU", "cuda:0": "NVIDIA L4", "cuda:1": "NVIDIA L4"}
APPLE = {"cpu": "CPU", "mps": "Apple GPU"}


@pytest.fixture(autouse=True)
def forgotten():
    devices.available.cache_clear()
    yield
    devices.available.cache_clear()


def have(monkeypatch, found):
    monkeypatch.setattr(devices, "available", lambda: found)


@pytest.mark.parametrize(
    ("found", "asked", "resolved"),
    [
        (TWO_GPUS, "auto", "cuda:0"),
        (TWO_GPUS, "cuda", "cuda:0"),
        (TWO_GPUS, "cuda:1", "cuda:1"),
        (TWO_GPUS, "cpu", "cpu"),
        (APPLE, "auto", "mps"),
        (APPLE, "mps", "mps"),
        ({"cpu": "CPU"}, "auto", "cpu"),
        ({"cpu": "CPU"}, "cpu", "cpu"),
    ],
)
def test_a_device_is_resolved_to_one_that_is_there(monkeypatch, found, asked, resolved):
    have(monkeypatch, found)
    assert devices.resolve(asked) == resolved


@pytest.mark.parametrize(("found", "asked"), [(TWO_GPUS, "cuda:2"), ({"cpu": "CPU"}, "cuda"), (TWO_GPUS, "mps"), (APPLE, "cuda:0")])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch, found, asked):
    have(monkeypatch, found)
    with pytest.raises(UnsupportedError) as caught:
        devices.resolve(asked)
    assert f"device={asked}" in str(caught.value)
    assert ", ".join(found) in str(caught.value)


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "cuda:1:1", "", "CPU", 0, None, True, "cuda:0\n"])
def test_a_word_that_is_no_device_is_a_mistake_and_not_unsupported(monkeypatch, word):
    have(monkeypatch, TWO_GPUS)
    with pytest.raises(SettingsError, match="device must be auto, cpu, cuda, cuda:N or mps") as caught:
        devices.resolve(word)
    assert not isinstance(caught.value, UnsupportedError)


def test_a_build_of_torch_for_the_cpu_is_not_even_asked(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0+cpu")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert devices.available() == {"cpu": "CPU"}


def test_without_torch_there_is_the_cpu(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert devices.available() == {"cpu": "CPU"}


def test_the_question_put_to_torch_is_answered_by_the_torch_that_is_here(monkeypatch):
    """Whatever the build: the question is valid and its answer begins with the processor."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.13.0")
    found = devices.available()
    assert next(iter(found)) == "cpu"
    assert all(isinstance(text, str) for text in found.values())


def test_a_torch_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    monkeypatch.setattr(devices, "_QUESTION", "raise ImportError('libcudart.so is missing')")
    with pytest.raises(SettingsError, match=r"torch 9.9 cannot be imported.*libcudart.so is missing"):
        devices.available()


def test_waiting_for_the_cpu_imports_nothing():
    code = "import sys; from harness.devices import synchronize; synchronize('cpu'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_waiting_for_an_accelerator_asks_torch(monkeypatch):
    import torch

    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    devices.synchronize("cuda:1")
    assert waited == [torch.device("cuda:1")], "the device that computes, not the one torch takes by itself"


@pytest.mark.parametrize(
    ("dtype", "line", "emulated"),
    [
        ("fp16", "flags\t\t: fpu avx512f avx512_bf16", True),
        ("fp16", "flags\t\t: fpu avx512f avx512_fp16", False),
        ("bf16", "flags\t\t: fpu avx512f avx512_bf16", False),
        ("bf16", "flags\t\t: fpu avx2", True),
        ("fp16", "Features\t: fp asimd fphp asimdhp", False),
        ("fp32", "flags\t\t: fpu", False),
        ("fp16", "model name\t: a processor that says nothing", False),
    ],
)
def test_arithmetic_that_the_processor_does_not_list_is_emulated(tmp_path, dtype, line, emulated):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\npower management:\n")
    assert devices.emulated_on_cpu(dtype, tmp_path / "cpuinfo") is emulated
    assert not devices.emulated_on_cpu(dtype, tmp_path / "nowhere")
