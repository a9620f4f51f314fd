"""The check that every store makes before rows reach its engine.

Engines do not refuse bad rows reliably: with one NaN row among three, Milvus Lite's HNSW answered with
two rows and no error. A wrong number would follow, so bad rows are refused here, by all stores alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError
from harness.interfaces import Index, Metric, Store, VectorType

METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")

DTYPES: Mapping[VectorType, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float32),
    "bf16": np.dtype(np.float32),
    "int8": np.dtype(np.int8),
    "binary": np.dtype(np.uint8),
}
"""What rows and queries come as for each type; a store converts to half precision itself."""

LARGEST_FP16 = float(np.finfo(np.float16).max)


def check_rows(store: str, vectors: NDArray[Any], *, dim: int, metric: Metric, first_id: int, vector_type: VectorType = "fp32") -> None:
    """Refuse rows that no index could rank.

    Parameters
    ----------
    store : str
        Name for the message.
    vectors : ndarray of shape (n, dim), float32
        For int8 and binary as `check_shape` wants them.
    dim : int
        Dimension of the collection.
    metric : str
        A vector of length zero has no cosine.
    first_id : int
        Id of the first row, so that the message can name the bad one.
    vector_type : str, optional
        What the collection stores a row as. Bits stand for -1 and 1 each, so no row of them has length zero.

    Raises
    ------
    harness.errors.StoreError
        When the shape or dtype differs, an id is negative, or a row is not finite or has no direction.
    """
    check_shape(store, vectors, dim=dim, vector_type=vector_type)
    if first_id < 0:
        raise StoreError(f"store={store}: ids must be >= 0, got first_id={first_id}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = first_id + int(np.flatnonzero(~finite)[0])
        raise StoreError(f"store={store}: row {row} holds NaN or infinity and cannot be ranked; check the model that made it")
    if vector_type == "fp16" and vectors.size and float(np.abs(vectors).max()) > LARGEST_FP16:
        row = first_id + int(np.flatnonzero(np.abs(vectors).max(axis=1) > LARGEST_FP16)[0])
        raise StoreError(f"store={store}: row {row} holds a number beyond fp16's {LARGEST_FP16:g}; use vector_type=bf16 or fp32")
    if metric == "cosine" and vector_type != "binary":
        zero = ~vectors.any(axis=1)
        if zero.any():
            row = first_id + int(np.flatnonzero(zero)[0])
            raise StoreError(f"store={store}: row {row} is all zeros and has no cosine; drop it or use metric=ip or metric=l2")


def check_shape(store: str, vectors: NDArray[Any], *, dim: int, vector_type: VectorType = "fp32") -> None:
    """Refuse anything but a matrix of the collection's dimension and type; cheap enough for every search.

    float32 of shape (n, dim), for int8 int8, for binary uint8 of shape (n, dim / 8).

    Raises
    ------
    harness.errors.StoreError
        When the shape or dtype differs.
    """
    dtype = DTYPES[vector_type]
    columns = dim // 8 if vector_type == "binary" else dim
    if vectors.ndim != 2 or vectors.shape[1] != columns or vectors.dtype != dtype:
        raise StoreError(f"store={store}: vectors must be {dtype} of shape (n, {columns}), got {vectors.dtype} of shape {vectors.shape}")


def unsupported(
    store: Store, *, index: Index, metric: Metric, dim: int, k: Sequence[int], vector_type: VectorType, filtered: bool
) -> list[str]:
    """What a store has not got of a combination, naming what it has.

    Returns
    -------
    list of str
        One sentence each; empty if the store has it all.
    """
    found = []
    if index.family not in store.families:
        found.append(f"store={store.name} has no index {index.family}; it has {', '.join(store.families)}")
    if metric not in store.metrics:
        found.append(f"store={store.name} has no metric {metric}; it has {', '.join(store.metrics)}")
    if vector_type not in store.vector_types:
        found.append(f"store={store.name} has no vector_type {vector_type}; it has {', '.join(store.vector_types)}")
    if filtered and not store.filters:
        found.append(f"store={store.name} has no search with a filter; take it out of the workload or choose another store")
    if dim < 1:
        found.append(f"store={store.name}: dim must be >= 1, got {dim}")
    if vector_type == "binary" and dim % 8:
        found.append(f"store={store.name}: vector_type=binary packs 8 dimensions into a byte, and dim={dim} is no multiple of 8")
    found += [f"store={store.name}: k must be >= 1, got {each}" for each in k if each < 1]
    return found
