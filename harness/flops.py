"""How much arithmetic a forward pass is, counted while it runs.

``torch.utils.flop_counter`` sees every operator and knows the formula of matrix products, convolutions and attention; a multiplication
and an addition are two operations. Everything else (normalisation, activations, look-ups) is not counted, which is the field's habit, and
neither is a kernel that torch has no formula for (FlashAttention's own package): then the count is too low, never too high.
Counting costs time for every operator, so it is done outside any clock.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)  # fmt: skip
"""Attention operators for which torch 2.13 has no formula: those of CPUs and of Apple's GPUs."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, convolutions apart: devices compute these in other precisions and by shorter ways."""

    convolution: float
    other: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.convolution + self.other


def count(call: Callable[[], Any]) -> Flops | None:
    """Return the operations of one call; None where torch is not what computes.

    A compiled network is run operator by operator while it is counted, as fused kernels have no formula.
    """
    if "torch" not in sys.modules:
        return None
    import torch
    from torch.utils import flop_counter

    aten, formula = torch.ops.aten, cast(Any, flop_counter.sdpa_flop_count)
    ours = {getattr(aten, name): lambda q, k, v, *_, **__: formula(q, k, v) for name in _ATTENTION if hasattr(aten, name)}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `torch.compile")  # the counter's hooks on modules, which are taken off again
        counter = flop_counter.FlopCounterMode(display=False, custom_mapping=ours)
        torch.backends.mha.set_fastpath_enabled(False)  # torch's own encoder layers as one operator, which has no formula
        try:
            with torch.compiler.set_stance("force_eager"), counter:
                call()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
    by_operator = counter.get_flop_counts().get("Global", {})
    convolution = sum(flops for operator, flops in by_operator.items() if "convolution" in str(operator))
    total = sum(by_operator.values())
    return Flops(float(convolution), float(total - convolution)) if total else None
