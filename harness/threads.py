"""The threads that torch computes with, set before any work and read back, so that a record says what was in force.

The threads inside an operator (intra-op) come from the environment that a measuring process starts with, see `harness.cells.environment`.
Those for operators side by side (inter-op) have no such variable: torch has to be told, once, before it has used them. Networks run eagerly
take one operator after the other and do not use them; scripted ones may.
"""

from __future__ import annotations

import sys


def set_interop(count: int | None) -> None:
    """Give torch so many threads for operators side by side; None leaves it as torch has it."""
    if count is None:
        return
    import torch

    if torch.get_num_interop_threads() != count:  # telling it twice is an error, also the same number
        torch.set_num_interop_threads(count)


def in_force() -> dict[str, int] | None:
    """Return the threads torch says it uses in this process; None where it has not been imported."""
    torch = sys.modules.get("torch")
    return None if torch is None else {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()}
