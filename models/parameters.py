"""What a loaded PyTorch module holds: how many weights, which ones, in which precision.

The fingerprint is over the numbers themselves, after loading, so that it tells apart what a file name or a
commit cannot: a layer that was left at random, a checkpoint loaded in another precision, another seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.interfaces import Dtype


def torch_dtype(dtype: Dtype) -> Any:
    """Return PyTorch's object for `dtype`."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]


def precision(module: Any) -> str:
    """Return the precision of a module's floating-point parameters, ``fp32`` or, if they differ, ``bf16+fp32``."""
    import torch

    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
    found = {names.get(parameter.dtype, str(parameter.dtype)) for parameter in module.parameters() if parameter.is_floating_point()}
    return "+".join(sorted(found))


def count(module: Any) -> int:
    """Return the number of weights; one that two layers share counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def fingerprint(module: Any) -> str:
    """Return the SHA-256 over the name, type, shape and bytes of every parameter and stored buffer, hexadecimal.

    Buffers belong to it because batch normalisation keeps its trained statistics there. Reads about
    1 GB/s, through the CPU.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's generator with `seed`, and leave the generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
