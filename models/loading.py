"""What every load needs around it: no chatter from the libraries, and failures said as ours.

transformers draws a progress bar for every checkpoint, prints a table of keys that did not match, and on
a machine without torchvision says for dozens of image processors that it falls back to PIL. What of it
matters here is collected in `ModelInfo` and judged by the audit; the rest hides the harness's own lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.errors import UnsupportedError, WeightsError
from harness.interfaces import Attention, Weights


@contextmanager
def loading(weights: Weights, *, attention: Attention = "auto") -> Iterator[None]:
    """Silence the libraries below errors while a model loads, and raise what they raise as `WeightsError`.

    Running out of memory stays what it is: it is no fault of the weights, and the cell has a status for it.
    `attention` is what was asked for: a library that refuses it does so while loading.

    Raises
    ------
    harness.errors.WeightsError
        When the files cannot be read or do not fit the architecture.
    harness.errors.UnsupportedError
        When the model or this installation lacks the `attention` that was asked for.
    """
    import torch
    from safetensors import SafetensorError

    try:
        with _quiet():
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "alloc" in str(error):  # how PyTorch says that the CPU has no memory left
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if attention != "auto" and isinstance(error, ValueError | ImportError) and "attention" in first.lower():
            refusal = first.partition(". ")[0].removesuffix(".")
            raise UnsupportedError(f"attention={attention} cannot be used here: {refusal}. Take attention=auto or another one") from error
        raise WeightsError(f"the model in {weights.path or weights.source} ({weights.kind}) could not be loaded: {first}") from error


def stated_processor(settings: Mapping[str, Any], key: str) -> Any:
    """Return the transformers processor that `settings` state: its class under `key`, and its arguments.

    Raises
    ------
    ValueError
        When transformers has no such class.
    """
    import transformers

    arguments = dict(settings)
    name = arguments.pop(key)
    kind = getattr(transformers, name, None)
    if kind is None:
        raise ValueError(f"model.processor.{key} must be a class of transformers, got {name!r}")
    return kind(**arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging as library_logging

    transformers_logging: Any = library_logging
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    others = logging.getLogger("sentence_transformers")
    level = others.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    others.setLevel(logging.ERROR)
    try:
        yield
    finally:
        others.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
