"""Is a loaded model's output what it claims to be? Asked before anything is timed.

A number about a model that silently left a layer at random, computes in another precision or lets padding
leak into its vectors is worse than no number: it looks right. Each rule here has been broken by a released
library or model. A failed audit ends the cell as ``invalid``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.errors import AuditError
from harness.interfaces import Caveat, Dtype, Item, Modality, Model, ModelInfo, Role, Vectors

AUDITED: Mapping[Modality, int] = {"text": 8, "image": 8, "audio": 4, "video": 2}
"""Items that are embedded one by one as well as together, by what they are: a film can take a gigabyte in the network."""

ALONE_TOLERANCE: dict[Dtype, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 4e-1}
"""Largest ‖in a batch − alone‖ / ‖alone‖. Other batch shapes take other kernels, which add in another order, and deep
networks multiply that: about 1e-6 in float32 (1e-4 where a GPU computes convolutions in TF32), 1e-3 in float16, 1e-2
in bfloat16 were seen. Padding that leaks or rows that change places give 0.1 to 1. In int8 what flows through the network may be
scaled by the largest number of the whole batch: 0.12 on average and 0.26 at most were seen with ONNX Runtime's dynamic quantisation of
MiniLM, 0.02 with OpenVINO's compressed weights, where the same network in fp32 gives 1e-6; a caveat then says how much."""

BATCH_DEPENDENT = 1e-2
"""Above that a reader is told that vectors depend on their batch by more than rounding."""

NORM_TOLERANCE: dict[Dtype, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 1e-4}
"""Largest |norm − 1| of a vector that claims unit norm: a few units of the precision in which it was divided."""

CONSTANT: dict[Dtype, float] = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1.6e-2, "int8": 1.6e-2}
"""Vectors closer than that, relative to their norm, differ by rounding only: two machine epsilons, in float32 eight."""

NEAR_DUPLICATE = 0.99
"""Mean cosine between the vectors of different items above which they hardly tell items apart."""


def audit(model: Model, info: ModelInfo, items: Sequence[Item], *, asked: Dtype, role: Role = "document") -> list[Caveat]:
    """Check a loaded model on some items; return what a reader should know although it is no failure.

    Parameters
    ----------
    model : Model
        Loaded.
    info : ModelInfo
        What `Model.load` returned.
    items : sequence of Item
        At least two, different from each other, of different lengths where there are lengths: padding is tested by them.
    asked : {"fp32", "fp16", "bf16"}
        The precision that was asked for.
    role : {"document", "query"}
        What the items are embedded as.

    Raises
    ------
    harness.errors.AuditError
        When the weights, the precision or the vectors are not what they should be, or one item is all there is to tell by.
    """
    if len(items) < 2:
        raise AuditError(f"an audit needs at least two different items, got {len(items)}; take a larger dataset")
    _check_load(model, info, asked)
    vectors = _embed(model, items, role)
    _check_values(model, vectors, asked)
    return [*_batch_dependent(_check_alone(model, items, vectors, asked, role), len(items), asked), *_near_duplicates(vectors)]


def _check_load(model: Model, info: ModelInfo, dtype: Dtype) -> None:
    if info.dtype != dtype:
        raise AuditError(f"dtype={dtype} was asked for, but the model's weights are in {info.dtype or 'no floating-point type'}")
    if info.missing_keys:
        raise AuditError(
            f"{_listed(info.missing_keys)} not in the checkpoint and would have been left at random: "
            "the checkpoint is of another architecture, or model.source needs another class of model"
        )
    if info.unexpected_keys:
        raise AuditError(
            f"{_listed(info.unexpected_keys)} in the checkpoint but not in the model. "
            "If they belong to a head that an embedding does not use, say so in model.ignored_keys"
        )
    if info.dim != model.dim:
        raise AuditError(f"model.dim={model.dim} is declared, but the loaded model says {info.dim}; correct model.dim")


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
    return f"{len(keys)} weight{' is' if len(keys) == 1 else 's are'} ({shown})"


def _embed(model: Model, items: Sequence[Item], role: Role) -> Vectors:
    """Embed `items` as one batch and check what can be said of any result: type, shape, counts."""
    prepared = model.prepare(items, role=role)
    if prepared.count != len(items):
        raise AuditError(f"prepare() was given {len(items)} items and says that it prepared {prepared.count}")
    if not prepared.units > 0:
        raise AuditError(f"prepare() must count the batch in its modality's own unit, got {prepared.units}")
    vectors: Any = model.finish(model.forward(model.transfer(prepared)))
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        kind = f"an array of {vectors.dtype}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise AuditError(f"finish() must return a float32 array, got {kind}")
    if vectors.shape != (len(items), model.dim):
        raise AuditError(f"the vectors of {len(items)} items must have shape ({len(items)}, model.dim={model.dim}), got {vectors.shape}")
    return vectors


def _check_values(model: Model, vectors: Vectors, dtype: Dtype) -> None:
    if not np.isfinite(vectors).all():
        rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise AuditError(
            f"the vectors of {len(rows)} of {len(vectors)} items hold NaN or infinity, first item {rows[0]}; "
            f"{'float16 overflows above 65,504: try dtype=bf16' if dtype == 'fp16' else 'the weights or the input recipe are wrong'}"
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not norms.all():
        raise AuditError(f"the vector of item {int(np.argmin(norms))} is all zeros: it has no direction to search by")
    spread = np.linalg.norm(vectors - vectors[0].astype(np.float64), axis=1).max() / norms[0]
    if spread <= CONSTANT[dtype]:
        raise AuditError(
            f"{len(vectors)} different items have the same vector (they differ by {spread:.1g} of its length): the input is ignored"
        )
    away = np.abs(norms - 1.0).max()
    if model.normalized and away > NORM_TOLERANCE[dtype]:
        raise AuditError(f"the model claims unit norm, but norms are {norms.min():.4g} … {norms.max():.4g}; correct model.normalized")
    if not model.normalized and away <= NORM_TOLERANCE[dtype]:
        raise AuditError(
            "the model claims that its vectors are not normalised, but every norm is 1; correct its normalized or normalize setting"
        )


def _check_alone(model: Model, items: Sequence[Item], vectors: Vectors, dtype: Dtype, role: Role) -> float:
    """Row i of a batch is item i, and is what it is whatever stands in the batch beside it; returns the largest difference."""
    largest = 0.0
    for number, item in enumerate(items):
        alone = _embed(model, [item], role)[0].astype(np.float64)
        difference = np.linalg.norm(vectors[number] - alone) / np.linalg.norm(alone)
        largest = max(largest, float(difference))
        if not difference <= ALONE_TOLERANCE[dtype]:
            raise AuditError(
                f"item {number} has another vector in a batch of {len(items)} than alone: they differ by {difference:.2g} of its length, "
                f"{ALONE_TOLERANCE[dtype]:g} is allowed for {dtype}. Padding leaks into it, or rows have changed places"
            )
    return largest


def _batch_dependent(largest: float, items: int, dtype: Dtype) -> list[Caveat]:
    if dtype != "int8" or largest <= BATCH_DEPENDENT:  # in other precisions it is their rounding, which the tolerance knows
        return []
    text = (
        f"An item's vector depends on what stands in its batch: of {items} items, one embedded alone differs from itself in a batch by "
        f"{largest:.2g} of its length. int8 scales what flows through the network, and a query comes alone; nDCG says what that costs."
    )
    return [Caveat("batch_dependent", text)]


def _near_duplicates(vectors: Vectors) -> list[Caveat]:
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    n = len(unit)
    mean = float((np.square(unit.sum(axis=0)).sum() - n) / (n * (n - 1)))  # the mean of unit @ unit.T off its diagonal
    if mean <= NEAR_DUPLICATE:
        return []
    text = (
        f"The vectors of {n} different items are nearly the same (mean cosine {mean:.4f}): nearest neighbours among them say little. "
        "Random weights do that; with pretrained weights, check the input recipe."
    )
    return [Caveat("near_duplicate_vectors", text)]
