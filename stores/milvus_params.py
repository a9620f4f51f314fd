"""Milvus's spelling of this project's names, in one place for every store that speaks its protocol.

Milvus writes its parameters in snake_case, with one exception, and truth values in lower case: told ``True``, a 2.3 server
accepts the index and then fails to build it, again and again.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.interfaces import Metric, VectorType

METRIC_TYPES: dict[Metric, str] = {"cosine": "COSINE", "ip": "IP", "l2": "L2"}

BINARY_FAMILIES = {"FLAT": "BIN_FLAT", "IVF_FLAT": "BIN_IVF_FLAT"}
"""Milvus's own names of the families that it has for binary vectors."""


def milvus_params(params: Mapping[str, int | float | str]) -> dict[str, int | float | str]:
    """Rename parameters to Milvus's spelling: ``ef_construction`` becomes ``efConstruction``, ``True`` becomes ``"true"``."""
    return {
        "efConstruction" if name == "ef_construction" else name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
    }


def metric_type(metric: Metric, vector_type: VectorType = "fp32") -> str:
    """Return Milvus's name of a metric; rows of -1 and 1 rank by the number of bits that differ under each of the three."""
    return "HAMMING" if vector_type == "binary" else METRIC_TYPES[metric]


def index_type(family: str, vector_type: VectorType = "fp32") -> str:
    """Return Milvus's name of a family."""
    return BINARY_FAMILIES.get(family, family) if vector_type == "binary" else family
