"""What a device can do at most: utilisation by the datasheet, and a limit that no true rate exceeds."""

import time

import pytest
import torch

from harness import peaks
from harness.flops import Flops

GPUS = {
    "Tesla T4": (8.1, 65, None),
    "NVIDIA A10": (31.2, 125, 125),
    "NVIDIA A100-SXM4-80GB": (19.5, 312, 312),
    "NVIDIA A100 80GB PCIe": (19.5, 312, 312),
    "NVIDIA H100 80GB HBM3": (67, 989, 989),
    "NVIDIA H100 PCIe": (51, 756, 756),
    "NVIDIA H100 NVL": (60, 835, 835),
    "NVIDIA H200": (67, 989, 989),
    "NVIDIA L4": (30.3, 121, 121),
    "NVIDIA L40S": (91.6, 362, 362),
    "NVIDIA GeForce RTX 4090": (82.6, 165.2, 165.2),
}


@pytest.fixture
def gpu(monkeypatch):
    def named(name):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return "cuda:0"

    return named


@pytest.mark.parametrize(("name", "tflops"), GPUS.items())
def test_a_gpu_is_known_by_its_name_and_its_peak_is_dense(gpu, name, tflops):
    for dtype, expected in zip(("fp32", "fp16", "bf16"), tflops, strict=True):
        peak = peaks.datasheet(gpu(name), dtype)
        assert (None if peak is None else peak.other) == (None if expected is None else expected * 1e12)


@pytest.mark.parametrize(
    "name", ["NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA T400", "AMD Instinct MI300X"]
)
def test_a_gpu_that_is_like_another_by_name_only_has_no_peak(gpu, name):
    assert peaks.datasheet(gpu(name), "fp32") is None
    assert peaks.limit(gpu(name), "fp32") is None


def test_in_fp32_convolutions_may_be_computed_in_tf32_and_products_only_if_torch_was_told(gpu, monkeypatch):
    a100 = gpu("NVIDIA A100-SXM4-80GB")
    assert (peaks.datasheet(a100, "fp32").convolution, peaks.datasheet(a100, "fp32").other) == (156e12, 19.5e12)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peaks.datasheet(a100, "fp32").other == 156e12


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_limit_lies_above_the_peak(gpu, name, dtype):
    peak, limit = peaks.datasheet(gpu(name), dtype), peaks.limit(gpu(name), dtype)
    assert (peak is None) == (limit is None)
    if peak is not None:
        assert limit.other > peak.other
        assert limit.convolution > 2 * peak.convolution


def test_a_cpu_has_a_limit_and_no_peak():
    assert peaks.datasheet("cpu", "fp32") is None
    assert peaks.limit("cpu", "fp32").other > 1e9
    assert peaks.datasheet("mps", "fp32") is peaks.limit("mps", "fp32") is None


def test_a_cpu_may_do_four_times_as_many_operations_in_int8():
    assert peaks.limit("cpu", "int8").other == 4 * peaks.limit("cpu", "fp32").other


def test_a_large_product_on_this_cpu_stays_below_its_limit():
    a = torch.randn(512, 512)
    best = min(_seconds(lambda: a @ a) for _ in range(20))
    assert best > peaks.limit("cpu", "fp32").least_s(Flops(0, 2 * 512**3))


def _seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("flags\t\t: fpu sse2 fma avx2\n", 32),
        ("flags\t\t: fpu fma avx2 avx512f avx512_bf16\n", 128),
        ("flags\t\t: fma avx512f amx_tile\n", 4096),
        ("flags\t\t: fpu sse2\n", 16),
        ("Features\t: fp asimd sve\n", 4096),
    ],
)
def test_operations_a_cycle_follow_from_the_processors_flags(tmp_path, text, most):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}")
    assert peaks._per_cycle(tmp_path / "cpuinfo") == most


def test_a_processor_that_tells_nothing_gets_the_largest(tmp_path):
    assert peaks._per_cycle(tmp_path / "none") == 4096


def test_least_time_is_each_kinds_operations_by_its_rate():
    assert peaks.Peak(convolution=4.0, other=2.0, words="").least_s(Flops(8.0, 3.0)) == 3.5
