"""Which devices this machine has, and waiting for one to finish.

Asking needs torch, which takes seconds to import; the question is therefore put to a short-lived process, and not at
all where the installed build of torch can only use the CPU.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from harness.errors import SettingsError, UnsupportedError

_QUESTION = """
import json, torch
found = {"cpu": "CPU"}
for i in range(torch.cuda.device_count()):
    found[f"cuda:{i}"] = torch.cuda.get_device_name(i)
if torch.backends.mps.is_available():
    found["mps"] = "Apple GPU"
print(json.dumps(found))
"""


@cache
def available() -> Mapping[str, str]:
    """Return the devices that torch can use here, name to description, e.g. ``{"cpu": "CPU", "cuda:0": "NVIDIA L4"}``."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return {"cpu": "CPU"}
    if version.endswith("+cpu"):
        return {"cpu": "CPU"}
    answer = subprocess.run([sys.executable, "-P", "-c", _QUESTION], capture_output=True, text=True, check=False, timeout=120)
    if answer.returncode != 0:
        raise SettingsError(f"torch {version} cannot be imported, so devices are unknown: {answer.stderr.strip().splitlines()[-1:]}")
    found: dict[str, str] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found


def resolve(device: str) -> str:
    """Return the device to use for a setting ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    harness.errors.SettingsError
        When the word is none of these.
    harness.errors.UnsupportedError
        When this machine has no such device.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise SettingsError(f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}")
    found = available()
    if device == "auto":
        return next((name for name in found if name != "cpu"), "cpu")
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in found:
        raise UnsupportedError(
            f"device={device}: this machine has {', '.join(found)} (as torch {_torch()} sees it); choose one of these or device=auto"
        )
    return wanted


def _torch() -> str:
    return importlib.metadata.version("torch")


_ARITHMETIC = {"fp16": ("avx512_fp16", "amx_fp16", "fphp", "asimdhp"), "bf16": ("avx512_bf16", "amx_bf16", "bf16")}
"""By dtype, the flags of which a processor with such arithmetic has one (x86-64 and ARM, as Linux spells them)."""


def emulated_on_cpu(dtype: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether this processor states its abilities and arithmetic in `dtype` is not among them."""
    try:
        stated = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return False
    return dtype in _ARITHMETIC and stated is not None and not set(_ARITHMETIC[dtype]) & set(stated[1].split())


def synchronize(device: str) -> None:
    """Wait until the accelerator has finished all it was given; nothing to wait for on a CPU."""
    if device != "cpu":
        import torch

        torch.accelerator.synchronize(torch.device(device))
