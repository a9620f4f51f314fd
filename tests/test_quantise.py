"""Quantised vectors against sentence-transformers' own functions and against what they mean."""

import subprocess
import sys

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from harness.quantise import Quantiser


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)


@pytest.mark.parametrize("vector_type", ["fp32", "fp16", "bf16"])
def test_floating_point_types_are_the_stores_business(vectors, vector_type):
    assert np.array_equal(Quantiser.of(vectors, vector_type)(vectors), vectors)


def test_int8_is_what_sentence_transformers_makes_with_the_corpus_ranges(vectors):
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    quantiser = Quantiser.of(vectors, "int8")
    assert np.array_equal(quantiser(vectors[:7]), quantize_embeddings(vectors, "int8", ranges=ranges)[:7])
    assert quantiser(vectors).dtype == np.int8


def test_int8_keeps_the_order_of_each_dimension_and_cuts_what_lies_outside(vectors):
    quantiser = Quantiser.of(vectors, "int8")
    made = quantiser(vectors)
    for column, values in zip(made.T, vectors.T, strict=True):
        assert np.all(np.diff(column[np.argsort(values)].astype(int)) >= 0)
    outside = quantiser(np.stack([np.full(16, 100.0, np.float32), np.full(16, -100.0, np.float32)]))
    assert outside.tolist() == [[127] * 16, [-128] * 16]


def test_a_constant_dimension_stays_one(vectors):
    vectors[:, 3] = 0.25
    made = Quantiser.of(vectors, "int8")(vectors)
    assert len(set(made[:, 3].tolist())) == 1


def test_ranges_are_of_the_whole_corpus_however_it_is_read(monkeypatch, vectors):
    from harness import quantise

    whole = Quantiser.of(vectors, "int8").ranges
    monkeypatch.setattr(quantise, "_ROWS_AT_ONCE", 7)
    assert np.array_equal(Quantiser.of(vectors, "int8").ranges, whole)


def test_binary_is_the_sign_of_each_dimension(vectors):
    made = Quantiser.of(vectors, "binary")(vectors)
    assert made.shape == (200, 2)
    assert np.array_equal(np.unpackbits(made, axis=1).astype(bool), vectors > 0)


def test_many_rows_are_quantised_as_one_is():
    many = np.random.default_rng(1).standard_normal((20_000, 9)).astype(np.float32)
    quantiser = Quantiser.of(many, "int8")
    made = quantiser(many)
    assert np.array_equal(made, quantize_embeddings(many, "int8", ranges=quantiser.ranges))
    assert np.array_equal(made[[0, 8_191, 8_192, 19_999]], np.concatenate([quantiser(many[i : i + 1]) for i in (0, 8_191, 8_192, 19_999)]))


def test_bits_are_those_of_sentence_transformers(vectors):
    vectors[0, 0] = 0.0
    assert np.array_equal(Quantiser.of(vectors, "binary")(vectors), quantize_embeddings(vectors, "ubinary"))


def test_torch_stays_out_of_it():
    code = (
        "import sys, numpy as np; from harness.quantise import Quantiser; v = np.ones((3, 8), np.float32); "
        "[Quantiser.of(v, kind)(v) for kind in ('int8', 'binary')]; sys.exit(bool({'torch', 'sentence_transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
