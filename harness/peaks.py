"""What a device can compute at most: the denominator of the utilisation, and the line above which a rate is no rate.

Two different questions. `datasheet` is the manufacturer's dense peak, known for the NVIDIA GPUs of the table; what a pass reaches of it is
its model FLOP utilisation. `limit` is a figure that no true rate exceeds: a rate above it was timed by a clock that stopped before the
device had finished.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness.flops import Flops

TFLOPS: tuple[tuple[str, tuple[float, float, float | None, float | None]], ...] = (
    (r"\bV100-SXM", (15.7, 15.7, 125, None)),
    (r"\bT4$", (8.1, 8.1, 65, None)),
    (r"\bA100\b", (19.5, 156, 312, 312)),
    (r"\bA30$", (10.3, 82, 165, 165)),
    (r"\bA40$", (37.4, 74.8, 149.7, 149.7)),
    (r"\bA10$", (31.2, 62.5, 125, 125)),
    (r"\bRTX A6000$", (38.7, 77.4, 154.8, 154.8)),
    (r"\bL4$", (30.3, 60, 121, 121)),
    (r"\bL40S$", (91.6, 183, 362, 362)),
    (r"\bH100 PCIe", (51, 378, 756, 756)),
    (r"\b(H100|H200) NVL", (60, 417, 835, 835)),
    (r"\b(H100|H200|GH200)\b", (67, 494, 989, 989)),
    (r"\bB200\b", (80, 1100, 2250, 2250)),
    (r"\bRTX 3090$", (35.6, 35.6, 71, 71)),
    (r"\bRTX 4090$", (82.6, 82.6, 165.2, 165.2)),
    (r"\bRTX 5090$", (104.8, 104.8, 209.5, 209.5)),
)
"""Dense peaks in TFLOP/s by what torch calls the GPU: fp32 without tensor cores, TF32, fp16 and bf16 with sums in fp32. From NVIDIA's
datasheets of these products, halved where the sheet states them "with sparsity", and for GeForce from the appendices of the
architecture whitepapers (GA102, AD102, Blackwell). Where a chip lacks TF32 the fp32 figure stands; where it has no bf16, None."""

ABOVE_DATASHEET = 1.2
"""GPUs run above the boost clock that datasheets reckon with, GeForce ones by up to an eighth."""

WINOGRAD = 4.0
"""A convolution by Winograd's minimal filtering F(4×4, 3×3) takes a quarter of the multiplications that are counted (A. Lavin and S. Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016), so that a true rate may exceed the peak so many times."""

FASTEST_CLOCK = 6.5e9
"""No processor is sold with a clock above 6.2 GHz; the nominal one of a virtual machine says nothing about the true one."""

PER_CYCLE = (("amx_tile", 4096), ("avx512f", 128), ("fma", 32), ("", 16))
"""Most operations a cycle and core by what /proc/cpuinfo names: twice the 2,048 of Intel's first matrix units; two 512-bit units that
multiply and add sixteen fp32 or thirty-two bf16 numbers; two 256-bit ones; one addition and one multiplication of eight
numbers. Other architectures may hide matrix units (Apple's do) and get the largest."""


INT8_A_FLOAT = 4
"""As many 8-bit numbers stand where one fp32 number does, and the instructions that multiply and add them take as many at once."""


@dataclass(frozen=True)
class Peak:
    """Operations a second."""

    convolution: float
    other: float
    words: str
    """Where the figures come from, for a message."""

    def least_s(self, flops: Flops) -> float:
        """Return how long some operations take at this rate."""
        return flops.convolution / self.convolution + flops.other / self.other


def datasheet(device: str, dtype: str) -> Peak | None:
    """Return the manufacturer's dense peak of a device in the precision that torch computes in; None where it is not in the table.

    For fp32 torch lets cuDNN compute convolutions in TF32 unless told otherwise, and matrix products only if it was told to.
    """
    name = _gpu(device)
    rates = None if name is None else _rates(name)
    if rates is None:
        return None
    import torch

    fp32, tf32, fp16, bf16 = rates
    if dtype != "fp32":
        half = fp16 if dtype == "fp16" else bf16
        return None if half is None else Peak(half * 1e12, half * 1e12, f"{name}, {half:g} TFLOP/s dense {dtype}")
    convolution = tf32 if torch.backends.cudnn.allow_tf32 else fp32
    other = fp32 if torch.get_float32_matmul_precision() == "highest" else tf32
    return Peak(convolution * 1e12, other * 1e12, f"{name}, {convolution:g} TFLOP/s dense for convolutions and {other:g} for the rest")


def limit(device: str, dtype: str) -> Peak | None:
    """Return rates that nothing on this device can exceed; None where that is not known.

    Generous on purpose: an unsynchronised clock is wrong by orders of magnitude, and a true rate must never be called wrong. On a
    GPU the datasheet's peak (of TF32, for fp32), raised by `ABOVE_DATASHEET`; on a CPU all its logical cores at
    `FASTEST_CLOCK` with `PER_CYCLE` operations each, several times what any program reaches. Convolutions may be `WINOGRAD` times as fast.
    """
    if device == "cpu":
        cores, each = os.cpu_count() or 1, _per_cycle() * (INT8_A_FLOAT if dtype == "int8" else 1)
        most = cores * FASTEST_CLOCK * each
        return Peak(WINOGRAD * most, most, f"{cores} cores × {FASTEST_CLOCK / 1e9:g} GHz × {each} operations a cycle")
    name = _gpu(device)
    rates = None if name is None else _rates(name)
    if rates is None:
        return None
    fp32, tf32, fp16, bf16 = rates
    dense = {"fp32": max(fp32, tf32), "fp16": fp16, "bf16": bf16}[dtype]
    if dense is None:
        return None
    most = dense * ABOVE_DATASHEET * 1e12
    return Peak(WINOGRAD * most, most, f"{name}, {ABOVE_DATASHEET:g} × its dense peak for {dtype}")


def _gpu(device: str) -> str | None:
    """Return what torch calls an NVIDIA GPU; None for any other device."""
    if not device.startswith("cuda"):
        return None
    import torch

    return str(torch.cuda.get_device_name(device))


def _rates(name: str) -> tuple[float, float, float | None, float | None] | None:
    if "MIG" in name:  # a part of the GPU, whose share of the peak is not in its name
        return None
    return next((rates for pattern, rates in TFLOPS if re.search(pattern, name)), None)


def _per_cycle(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    most = PER_CYCLE[0][1]
    if not cpuinfo.exists():
        return most
    found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)  # x86 alone calls them so
    flags = set(found[1].split()) if found else None
    return most if flags is None else next(count for flag, count in PER_CYCLE if not flag or flag in flags)
