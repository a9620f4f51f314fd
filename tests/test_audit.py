"""Every rule of the audit, broken on purpose, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.audit import ALONE_TOLERANCE, audit
from harness.errors import AuditError
from harness.interfaces import ModelInfo, Prepared

DIM = 16
TEXTS = ["one", "two words", "three words now", "and a sentence that is longer than the others", ""]
INFO = ModelInfo(dim=DIM, parameters=100, dtype="fp32")


@dataclass(frozen=True)
class HashModel:
    """A right model in a few lines: a text's vector comes from its words alone. The fields break it."""

    normalized: bool = True
    dim: int = DIM
    scale: float = 1.0
    constant: bool = False
    leak: float = 0.0
    """How much of the batch's longest text gets into every vector, as padding does that is not masked."""
    shift: int = 0
    """Rows change places by so many."""
    nan_at: int | None = None
    zero_at: int | None = None
    drop_singleton: bool = False
    """``squeeze()``: a batch of one loses its first axis."""
    last_only: bool = False
    """Only the last item of the batch comes back."""
    kind: Any = np.float32
    count_wrong: int = 0
    units: float | None = None
    collapse: float = 0.0
    """Weight of a vector that all items share."""
    modality: str = "text"
    gflop_per_item: float = 1.0
    seen: list = field(default_factory=list)

    def prepare(self, items, *, role="document"):
        self.seen.append(role)
        units = sum(len(item.split()) + 1 for item in items) if self.units is None else self.units
        return Prepared(list(items), count=len(items) + self.count_wrong, units=float(units))

    def transfer(self, prepared):
        return prepared

    def forward(self, prepared):
        items = prepared.inputs
        longest = max(len(item) for item in items)
        rows = []
        for item in items:
            row = np.random.default_rng(0 if self.constant else list(item.encode())).standard_normal(DIM)
            row = row / np.linalg.norm(row) + self.collapse + self.leak * (longest - len(item))
            rows.append(row / np.linalg.norm(row) * self.scale)
        return np.roll(np.array(rows), self.shift, axis=0)

    def finish(self, outputs):
        vectors = outputs.astype(self.kind)
        if self.nan_at is not None and len(vectors) > self.nan_at:
            vectors[self.nan_at, 3] = np.nan
        if self.zero_at is not None and len(vectors) > self.zero_at:
            vectors[self.zero_at] = 0
        if self.last_only:
            return vectors[-1:]
        return vectors.squeeze() if self.drop_singleton else vectors


def test_a_right_model_passes_without_a_caveat():
    assert audit(HashModel(), INFO, TEXTS, asked="fp32") == []
    assert audit(HashModel(normalized=False, scale=30.0), INFO, TEXTS, asked="fp32") == []


def test_the_role_reaches_the_model():
    model = HashModel()
    audit(model, INFO, TEXTS, asked="fp32", role="query")
    assert set(model.seen) == {"query"}


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (replace(INFO, dtype="bf16"), "dtype=fp32 was asked for"),
        (replace(INFO, dtype="bf16+fp32"), "bf16\\+fp32"),
        (replace(INFO, missing_keys=("layer.1.weight",)), r"1 weight is \(layer\.1\.weight\) not in the checkpoint"),
        (replace(INFO, missing_keys=tuple("abcd")), r"4 weights are \(a, b, c …\)"),
        (replace(INFO, unexpected_keys=("head.weight",)), r"model\.ignored_keys"),
        (replace(INFO, dim=DIM + 1), rf"model\.dim={DIM} is declared"),
    ],
    ids=["dtype", "mixed dtype", "missing key", "missing keys", "unexpected key", "dim"],
)
def test_what_loading_found_is_judged(info, said):
    with pytest.raises(AuditError, match=said):
        audit(HashModel(), info, TEXTS, asked="fp32")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (HashModel(dim=DIM * 2), "shape"),
        (HashModel(last_only=True), r"must have shape \(5, model\.dim=16\), got \(1, 16\)"),
        (HashModel(drop_singleton=True), r"must have shape \(1, model\.dim=16\), got \(16,\)"),
        (HashModel(kind=np.float64), "float32 array, got an array of float64"),
        (HashModel(nan_at=2), "NaN or infinity, first item 2"),
        (HashModel(zero_at=1), "item 1 is all zeros"),
        (HashModel(constant=True), "different items have the same vector"),
        (HashModel(leak=0.01), "another vector in a batch of 5 than alone"),
        (HashModel(shift=1), "changed places"),
        (HashModel(scale=1.001), "claims unit norm"),
        (HashModel(normalized=False), "claims that its vectors are not normalised"),
        (HashModel(count_wrong=1), "says that it prepared 6"),
        (HashModel(units=0.0), "in its modality"),
        (HashModel(units=float("nan")), "in its modality"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_output_that_is_not_what_it_claims_to_be_fails(broken, said):
    info = replace(INFO, dim=broken.dim)
    with pytest.raises(AuditError, match=said):
        audit(broken, info, TEXTS, asked="fp32")


def test_a_list_instead_of_an_array_fails():
    class Lists(HashModel):
        def finish(self, outputs):
            return outputs.tolist()

    with pytest.raises(AuditError, match="got list"):
        audit(Lists(), INFO, TEXTS, asked="fp32")


def test_float16_overflow_gets_its_own_advice():
    with pytest.raises(AuditError, match="dtype=bf16"):
        audit(HashModel(nan_at=0), replace(INFO, dtype="fp16"), TEXTS, asked="fp16")


def test_near_duplicates_are_a_caveat_and_the_same_vector_is_an_error():
    caveats = audit(HashModel(collapse=5.0), INFO, TEXTS, asked="fp32")
    assert [caveat.code for caveat in caveats] == ["near_duplicate_vectors"]
    with pytest.raises(AuditError, match="same vector"):
        audit(HashModel(collapse=1e8), INFO, TEXTS, asked="fp32")


def test_the_mean_cosine_of_the_caveat_is_the_mean_over_all_pairs():
    model = HashModel(collapse=5.0)
    (caveat,) = audit(model, INFO, TEXTS, asked="fp32")
    vectors = model.finish(model.forward(model.prepare(TEXTS))).astype(np.float64)
    pairs = [vectors[i] @ vectors[j] for i in range(len(TEXTS)) for j in range(i)]
    assert f"mean cosine {np.mean(pairs):.4f}" in caveat.text


def test_one_item_is_not_enough_to_tell():
    with pytest.raises(AuditError, match="at least two"):
        audit(HashModel(), INFO, TEXTS[:1], asked="fp32")


def test_int8_may_depend_on_the_batch_and_a_reader_is_told_by_how_much():
    info = replace(INFO, dtype="int8")
    assert audit(HashModel(), info, TEXTS, asked="int8") == []
    (caveat,) = audit(HashModel(leak=0.001), info, TEXTS, asked="int8")
    together, alone = (embed(HashModel(leak=0.001), items) for items in (TEXTS, TEXTS[-1:]))
    assert caveat.code == "batch_dependent"
    assert (
        f"of 5 items, one embedded alone differs from itself in a batch by {np.linalg.norm(together[-1] - alone[0]):.2g} of" in caveat.text
    )
    with pytest.raises(AuditError, match="rows have changed places"):
        audit(HashModel(shift=1), info, TEXTS, asked="int8")
    with pytest.raises(AuditError, match=r"0\.001 is allowed for fp32"):
        audit(HashModel(leak=0.001), INFO, TEXTS, asked="fp32")


def embed(model, items):
    return model.finish(model.forward(model.prepare(items)))


@given(st.sampled_from(["fp32", "fp16", "bf16"]), st.floats(min_value=0.0, max_value=3.0))
def test_the_tolerance_between_batch_and_alone_is_the_stated_one(asked, part):
    """A vector moved by a known part of the tolerance passes up to 1 and fails above."""

    @dataclass(frozen=True)
    class Moved(HashModel):
        by: float = 0.0

        def finish(self, outputs):
            vectors = outputs.astype(np.float32)
            if len(vectors) > 1:
                vectors[0] *= 1 + self.by
            return vectors

    model = Moved(normalized=False, scale=7.0, by=part * ALONE_TOLERANCE[asked])
    if 0.99 < part < 1.01:  # float32 rounds here
        return
    if part < 1:
        audit(model, replace(INFO, dtype=asked), TEXTS, asked=asked)
    else:
        with pytest.raises(AuditError, match="than alone"):
            audit(model, replace(INFO, dtype=asked), TEXTS, asked=asked)
