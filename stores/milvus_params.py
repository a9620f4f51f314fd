"""Milvus's spelling of this project's names, in one place for every store that speaks its protocol.

Milvus writes its parameters in snake_case, with one exception.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.interfaces import Metric

METRIC_TYPES: dict[Metric, str] = {"cosine": "COSINE", "ip": "IP", "l2": "L2"}


def milvus_params(params: Mapping[str, int | float | str]) -> dict[str, int | float | str]:
    """Rename parameters to Milvus's spelling: ``ef_construction`` becomes ``efConstruction``."""
    return {"efConstruction" if name == "ef_construction" else name: value for name, value in params.items()}
