"""What every engine inside this process answers when another process wants to reach it: that it cannot be reached.

A class takes these two as its methods; there is nothing else that such stores share.
"""

from __future__ import annotations

from typing import Any

from harness.errors import StoreError
from harness.interfaces import Index, Metric, VectorType


def no_endpoint(self: Any) -> str | None:  # noqa: ARG001
    """None: it is this process."""
    return None


def refuse_to_attach(
    self: Any,
    endpoint: str,  # noqa: ARG001
    collection: str,  # noqa: ARG001
    *,
    dim: int,  # noqa: ARG001
    metric: Metric,  # noqa: ARG001
    index: Index,  # noqa: ARG001
    vector_type: VectorType = "fp32",  # noqa: ARG001
    filtered: bool = False,  # noqa: ARG001
) -> None:
    """Refuse: what one process holds, no other can search."""
    raise StoreError(f"store={self.name} runs inside the process that opened it; search it from threads of that process")
