"""Weights that are published only as a pickle, turned into safetensors once.

Some models, the multimodal Perceiver among them, were published before safetensors and never again. An ordinary unpickler runs
whatever code a file's author put into it; PyTorch's with ``weights_only`` builds tensors and plain containers and refuses all
else. It is used here and nowhere else, in a process of its own that ends with the conversion.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.errors import WeightsError

NAME = "pytorch_model.bin"
"""What transformers called its checkpoints."""


def convert(file: Path) -> None:
    """Write the tensors of a pickled checkpoint to ``model.safetensors`` beside it, whole or not at all.

    Raises
    ------
    harness.errors.WeightsError
        When the file holds anything else than named tensors, or cannot be read.
    """
    target = file.with_name("model.safetensors")
    done = subprocess.run([sys.executable, "-P", __file__, str(file), str(target)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WeightsError(
            f"{file} is a pickle that cannot be converted to safetensors ({said}); choose a model that publishes safetensors files, "
            "or give a folder with model.path=DIR"
        )


def _convert(file: str, target: str) -> None:
    import torch
    from safetensors.torch import save_file

    loaded = torch.load(file, map_location="cpu", weights_only=True)
    others = [key for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if others:
        raise ValueError(f"it holds other things than named tensors, such as {others[0]!r}")
    part = f"{target}.{os.getpid()}"
    # Copies, because safetensors refuses tensors that share memory, as tied embeddings do.
    save_file({key: value.clone().contiguous() for key, value in loaded.items()}, part, metadata={"format": "pt"})
    Path(part).replace(target)


if __name__ == "__main__":
    _convert(*sys.argv[1:])
