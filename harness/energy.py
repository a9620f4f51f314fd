"""How much energy a GPU has drawn, as its own counter says; NVIDIA's, since Volta, of the whole board.

The counter is cumulative, so nothing is sampled and no thread runs beside what is measured. It is renewed some ten times a second, so an
interval should be seconds long.
"""

from __future__ import annotations

from collections.abc import Callable

LEAST_S = 2.0
"""An interval this long is wrong by a twentieth at most if the counter is renewed every tenth of a second."""


def meter(device: str) -> Callable[[], float] | str:
    """Return a function that tells the joules drawn so far, or the reason why there is none."""
    if not device.startswith("cuda"):
        return f"device={device} has no energy counter that is read"
    try:
        import pynvml
    except ImportError:
        return "NVIDIA's management library is not installed; pip install 'embedding-search-harness[gpu]'"
    import torch

    try:
        pynvml.nvmlInit()
        # torch numbers the devices that are visible, the library those that are there: the UUID is the same for both.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return f"the GPU does not tell the energy it draws ({error})"
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # millijoules
