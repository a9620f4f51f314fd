"""No model: the vectors are given, and only searching them is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.interfaces import Weights


@dataclass(frozen=True)
class NoModel:
    """What stands in a model's place where a dataset holds vectors; it embeds nothing and has no embed cell.

    Parameters
    ----------
    dim : int
        Taken from the dataset; not to be set.
    """

    dim: int = 0
    modality: Literal["vectors"] = "vectors"

    @property
    def normalized(self) -> bool:
        """Nothing is promised about vectors that somebody else has made."""
        return False

    @property
    def gflop_per_item(self) -> float:
        """Nothing is computed."""
        return 0.0

    def locate(self) -> Weights:
        """There are no weights."""
        return Weights("given", "vectors that were given", None, None, "given")

    def fetch(self, weights: Weights) -> Weights:
        """Nothing to bring."""
        return weights
