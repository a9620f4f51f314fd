"""Exact neighbours against brute force in wider arithmetic, scikit-learn and FAISS."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness import groundtruth
from harness.errors import DataError, UnsupportedError
from harness.groundtruth import exact_neighbours, merged
from harness.interfaces import part_of

METRICS = ["cosine", "ip", "l2"]
DATA = Path(os.environ.get("HARNESS_DATA", Path(__file__).parents[2] / "shared" / "data"))


def brute_force(queries, corpus, metric, dtype=np.longdouble):
    """Every score in extended precision; bigger is nearer."""
    q, x = queries.astype(dtype), corpus.astype(dtype)
    if metric == "l2":
        return -np.square(q[:, None, :] - x[None, :, :]).sum(axis=2)
    products = (q[:, None, :] * x[None, :, :]).sum(axis=2)
    if metric == "ip":
        return products
    return products / (np.sqrt(np.square(q).sum(axis=1))[:, None] * np.sqrt(np.square(x).sum(axis=1)))


def first_k(scores, k):
    """Ids by falling score, ties by the lower id (a stable sort)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def vectors(seed, n, dim):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_bytes", [2**12, 2**16, groundtruth.BLOCK_BYTES])
def test_neighbours_are_those_of_brute_force_whatever_the_block_size(metric, block_bytes):
    queries, corpus = vectors(1, 37, 24), vectors(2, 501, 24) * np.linspace(0.1, 30, 501, dtype=np.float32)[:, None]
    expected = brute_force(queries, corpus, metric)
    found = exact_neighbours(queries, corpus, k=7, metric=metric, block_bytes=block_bytes)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float64
    assert found.rows == 501
    np.testing.assert_array_equal(found.ids, first_k(expected, 7))
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, found.ids, axis=1).astype(float), rtol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_growing_longer_from_block_to_block_lose_no_neighbour(metric):
    """The margin depends on the longest row, which here is always still to come."""
    queries, corpus = vectors(3, 5, 8), vectors(4, 400, 8) * np.logspace(-3, 6, 400, dtype=np.float32)[:, None]
    found = exact_neighbours(queries, corpus, k=5, metric=metric, block_bytes=2**12)
    np.testing.assert_array_equal(found.ids, first_k(brute_force(queries, corpus, metric), 5))


@pytest.mark.parametrize("metric", METRICS)
def test_order_is_right_where_float32_cannot_tell_rows_apart(metric):
    """A collapsed corpus: one direction, each row a few units in the last place from it."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=64).astype(np.float32)
    corpus = base + base * rng.integers(-2, 3, size=(600, 64)) * np.float32(2**-23)
    corpus = corpus.astype(np.float32)
    queries = (base + 0.1 * rng.normal(size=(6, 64))).astype(np.float32)
    wide = brute_force(queries, corpus, metric)
    narrow = brute_force(queries, corpus, metric, dtype=np.float32)
    assert not np.array_equal(first_k(narrow, 10), first_k(wide, 10)), "the case must be one that float32 gets wrong"
    for block_bytes in (2**12, groundtruth.BLOCK_BYTES):
        found = exact_neighbours(queries, corpus, k=10, metric=metric, block_bytes=block_bytes)
        expected = np.take_along_axis(wide, first_k(wide, 10), axis=1)
        np.testing.assert_allclose(found.scores, expected.astype(float), rtol=1e-14, atol=1e-14 * np.abs(wide).max().astype(float))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), k=st.integers(1, 12), metric=st.sampled_from(["ip", "l2"]))
def test_ties_go_to_the_lower_id_and_nothing_is_lost(data, k, metric):
    """Small whole numbers: ties abound and every arithmetic is exact, so ids are determined."""
    dim = data.draw(st.integers(1, 4))
    whole = st.integers(-2, 2).map(float)
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(1, 5)), dim), elements=whole))
    corpus = data.draw(arrays(np.float32, (data.draw(st.integers(1, 60)), dim), elements=whole))
    found = exact_neighbours(queries, corpus, k=k, metric=metric, block_bytes=2**12)
    expected = brute_force(queries, corpus, metric)
    np.testing.assert_array_equal(found.ids, first_k(expected, min(k, len(corpus))))
    np.testing.assert_array_equal(found.scores, np.take_along_axis(expected, found.ids, axis=1).astype(float))


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_of_a_row_are_ranked_by_id_across_blocks(metric):
    corpus = np.tile(vectors(6, 11, 33), (40, 1))
    found = exact_neighbours(vectors(7, 3, 33), corpus, k=45, metric=metric, block_bytes=2**12)
    for ids, scores in zip(found.ids, found.scores, strict=True):
        assert ids[:40].tolist() == list(range(ids[0] % 11, 440, 11))
        assert np.ptp(scores[:40]) == 0


@pytest.mark.parametrize(("metric", "name"), [("cosine", "cosine"), ("l2", "sqeuclidean")])
def test_neighbours_agree_with_scikit_learn(metric, name):
    from sklearn.neighbors import NearestNeighbors

    queries, corpus = vectors(8, 50, 48), vectors(9, 2000, 48)
    distances, ids = (
        NearestNeighbors(n_neighbors=10, metric=name, algorithm="brute").fit(corpus.astype(float)).kneighbors(queries.astype(float))
    )
    found = exact_neighbours(queries, corpus, k=10, metric=metric)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, 1 - distances if metric == "cosine" else -distances, atol=1e-10)


@pytest.mark.parametrize(("metric", "index"), [("ip", "IndexFlatIP"), ("l2", "IndexFlatL2")])
def test_neighbours_agree_with_faiss(metric, index):
    import faiss

    queries, corpus = vectors(10, 50, 48), vectors(11, 2000, 48)
    flat = getattr(faiss, index)(48)
    flat.add(corpus)
    scores, ids = flat.search(queries, 10)
    found = exact_neighbours(queries, corpus, k=10, metric=metric)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores if metric == "ip" else -scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("metric", METRICS)
def test_scaling_all_vectors_changes_no_neighbour(metric, factor):
    queries, corpus = vectors(12, 9, 16), vectors(13, 300, 16)
    expected = exact_neighbours(queries, corpus, k=5, metric=metric)
    found = exact_neighbours(queries * np.float32(factor), corpus * np.float32(factor), k=5, metric=metric, block_bytes=2**12)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_a_corpus_smaller_than_k_gives_all_its_rows():
    found = exact_neighbours(vectors(14, 4, 8), vectors(15, 3, 8), k=10, metric="l2")
    assert found.ids.shape == found.scores.shape == (4, 3)
    assert np.sort(found.ids, axis=1).tolist() == [[0, 1, 2]] * 4


def test_half_precision_sources_are_searched_as_they_are():
    queries, corpus = vectors(16, 9, 16).astype(np.float16), vectors(17, 300, 16).astype(np.float16)
    found = exact_neighbours(queries, corpus, k=5, metric="cosine")
    np.testing.assert_array_equal(found.ids, first_k(brute_force(queries, corpus, "cosine"), 5))


@pytest.mark.parametrize("collapsed", [False, True])
def test_memory_is_bounded_by_the_block_size_and_the_file_stays_on_disk(tmp_path, collapsed):
    corpus = vectors(18, 40_000, 64)
    if collapsed:  # every row ties with every other
        corpus[:] = corpus[0]
        corpus = corpus[:8000]
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    queries, block_bytes = vectors(19, 64, 64), 2**20
    exact_neighbours(queries[:2], mapped[:100], k=10, metric="cosine")  # imports and first-call costs
    tracemalloc.start()
    exact_neighbours(queries, mapped, k=10, metric="cosine", block_bytes=block_bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * block_bytes
    assert collapsed or peak < corpus.nbytes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("below", [1, 10, 500, 1000])
@pytest.mark.parametrize("block_bytes", [2**12, groundtruth.BLOCK_BYTES])
def test_with_a_filter_only_rows_of_the_first_parts_count(metric, below, block_bytes):
    queries, corpus = vectors(30, 20, 16), vectors(31, 4_000, 16)
    found = exact_neighbours(queries, corpus, k=15, metric=metric, below=below, block_bytes=block_bytes)
    passing = np.flatnonzero(part_of(np.arange(4_000)) < below)
    assert abs(len(passing) - 4 * below) <= 2, "the filter lets its share of the rows pass"
    assert found.eligible == len(passing)
    expected = brute_force(queries, corpus[passing], metric)
    np.testing.assert_array_equal(found.ids, passing[first_k(expected, 15)])
    assert found.ids.shape == (20, min(15, len(passing)))
    assert found.rows == 4_000


def test_a_filter_that_lets_no_row_pass_is_refused():
    with pytest.raises(DataError, match="leaves none of 2 rows"):
        exact_neighbours(vectors(32, 3, 8), vectors(33, 2, 8)[:2], k=1, metric="ip", below=0)


IN_A_FRESH_PROCESS = """
import sys, numpy as np
from pathlib import Path
from harness.groundtruth import exact_neighbours, merged
from harness.interfaces import part_of
def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
queries = np.load(sys.argv[1])
corpus = np.load(sys.argv[2], mmap_mode="r")
exact_neighbours(queries, corpus[:3000], k=20, metric="cosine", memory_bytes=2**22)  # what the first call takes once
before = peak()
found = exact_neighbours(queries, corpus, k=20, metric="cosine", memory_bytes=int(sys.argv[4]))
print(peak() - before)
np.save(sys.argv[3], found.ids)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc, which only Linux has")
def test_a_corpus_larger_than_the_memory_limit_is_searched_within_it(tmp_path):
    """The peak is the process's own (VmHWM), which counts pages of the mapped file too."""
    rng, limit = np.random.default_rng(34), 24 * 2**20
    corpus = np.lib.format.open_memmap(tmp_path / "corpus.npy", mode="w+", dtype=np.float32, shape=(400_000, 64))
    base = rng.standard_normal((4_000, 64), dtype=np.float32)
    for start in range(0, len(corpus), 4_000):
        corpus[start : start + 4_000] = base * np.float32(1 + start / len(corpus)) + 0.1 * rng.standard_normal(
            (4_000, 64), dtype=np.float32
        )
    corpus.flush()
    queries = rng.standard_normal((100, 64), dtype=np.float32)
    np.save(tmp_path / "queries.npy", queries)
    assert corpus.nbytes > 4 * limit
    paths = [str(tmp_path / name) for name in ("queries.npy", "corpus.npy", "ids.npy")]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *paths, str(limit)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < limit, f"the peak rose by {int(done.stdout) / 2**20:.0f} MiB"
    ids = np.load(tmp_path / "ids.npy")
    scores = queries @ (corpus / np.linalg.norm(corpus, axis=1, keepdims=True)).T
    kth = np.sort(scores, axis=1)[:, -20]
    assert (np.take_along_axis(scores, ids, axis=1) >= kth[:, None] - 1e-4).all()


def test_a_memory_limit_too_small_to_work_in_is_refused():
    with pytest.raises(ValueError, match="memory_bytes"):
        exact_neighbours(vectors(35, 3, 8), vectors(36, 5, 8), k=1, metric="ip", memory_bytes=2**14)


def test_a_private_copy_of_a_file_keeps_what_was_changed_in_it(tmp_path):
    np.save(tmp_path / "corpus.npy", vectors(37, 3_000, 16))
    corpus, queries = np.load(tmp_path / "corpus.npy", mmap_mode="c"), vectors(38, 4, 16)
    corpus[2_000] = 100 * queries[0]
    found = exact_neighbours(queries, corpus, k=1, metric="ip", block_bytes=2**12)
    assert found.ids[0, 0] == 2_000
    assert (corpus[2_000] == 100 * queries[0]).all()


def test_a_zero_vector_has_no_cosine():
    queries, corpus = vectors(20, 3, 8), vectors(21, 50, 8)
    corpus[41] = 0
    with pytest.raises(DataError, match="corpus vector 41 is zero"):
        exact_neighbours(queries, corpus, k=2, metric="cosine", block_bytes=2**12)
    with pytest.raises(DataError, match="query vector 41 is zero"):
        exact_neighbours(corpus, queries, k=2, metric="cosine", block_bytes=2**12)
    for metric in ("ip", "l2"):
        found = exact_neighbours(queries, corpus, k=50, metric=metric)
        np.testing.assert_array_equal(found.ids, first_k(brute_force(queries, corpus, metric), 50))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_vectors_that_float32_cannot_multiply_are_refused(value):
    queries, corpus = vectors(22, 3, 8), vectors(23, 50, 8)
    corpus[7, 3] = value
    with pytest.raises(DataError, match="corpus vector 7"):
        exact_neighbours(queries, corpus, k=2, metric="ip")
    with pytest.raises(DataError, match="query vector 7"):
        exact_neighbours(corpus, queries, k=2, metric="l2")


def test_vectors_that_vanish_in_float32_are_refused():
    with pytest.raises(DataError, match="scale them up"):
        exact_neighbours(vectors(24, 3, 8) * np.float32(1e-20), vectors(25, 3, 8), k=2, metric="ip")


def test_empty_or_unlike_inputs_are_refused():
    for queries, corpus in [((0, 8), (3, 8)), ((3, 8), (0, 8)), ((3, 8), (3, 9)), ((8,), (3, 8))]:
        with pytest.raises(DataError, match="one dimension"):
            exact_neighbours(np.ones(queries, np.float32), np.ones(corpus, np.float32), k=1, metric="ip")
    with pytest.raises(ValueError, match="k must be"):
        exact_neighbours(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), k=0, metric="ip")


@pytest.mark.skipif(not (DATA / "minilm-100k.npy").is_file(), reason="minilm-100k.npy not found; set HARNESS_DATA to its folder")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_neighbours_of_real_embeddings_agree_with_brute_force(metric):
    """Real text has near-duplicates and many exact ones, which random vectors lack."""
    corpus = np.load(DATA / "minilm-100k.npy", mmap_mode="r")
    queries = np.load(DATA / "minilm-2k-queries.npy")[:60].astype(np.float32)
    found = exact_neighbours(queries, corpus, k=100, metric=metric)
    wide = np.asarray(corpus, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    product = queries.astype(np.float64) @ wide.T
    if metric == "cosine":
        scores = product / (np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * lengths)
    else:
        scores = 2 * product - lengths**2 - np.square(queries.astype(np.float64)).sum(axis=1)[:, None]
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :100], atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(scores, found.ids, axis=1), found.scores, atol=1e-12)
    tied = found.scores[:, 1:] == found.scores[:, :-1]
    assert np.all(found.ids[:, 1:][tied] > found.ids[:, :-1][tied])
    assert all(len(set(row)) == 100 for row in found.ids.tolist())


# ------------------------------------------------------------------------------------- parts, and a GPU's way


@settings(deadline=None, max_examples=60)
@given(data=st.data(), k=st.integers(1, 12), metric=st.sampled_from(METRICS), below=st.sampled_from([None, 300, 700]))
def test_parts_merged_are_what_one_search_finds_bit_for_bit(data, k, metric, below):
    """Few different rows, so that equal ones and ties lie on both sides of every border; parts may have nothing that counts."""
    dim = data.draw(st.integers(1, 4))
    kinds = data.draw(arrays(np.float32, (data.draw(st.integers(1, 6)), dim), elements=st.integers(-2, 2).map(float)))
    which = data.draw(arrays(np.int64, data.draw(st.integers(2, 60)), elements=st.integers(0, len(kinds) - 1)))
    corpus = np.concatenate([kinds[which], np.ones((len(which), 1), np.float32)], axis=1)  # none is zero
    queries = np.ones((3, dim + 1), np.float32) * np.float32([[1], [-1], [0.5]])
    queries[1, 0] = 3
    borders = sorted({0, len(corpus), *data.draw(st.lists(st.integers(0, len(corpus)), max_size=6))})
    how = {"k": k, "metric": metric, "below": below, "block_bytes": 2**12}
    parts = [exact_neighbours(queries, corpus, rows=range(a, b), **how) for a, b in itertools.pairwise(borders)]
    if not sum(part.ids.shape[1] for part in parts):
        with pytest.raises(DataError, match="leaves none"):
            merged(iter(parts), k=k)
        with pytest.raises(DataError, match="leaves none"):
            exact_neighbours(queries, corpus, **how)
        return
    found, whole = merged(iter(parts), k=k), exact_neighbours(queries, corpus, **how)
    assert found.ids.tobytes() == whole.ids.tobytes()
    assert found.scores.tobytes() == whole.scores.tobytes()
    assert (found.metric, found.rows, found.below, found.eligible) == (whole.metric, whole.rows, whole.below, whole.eligible)
    passing = np.flatnonzero(part_of(np.arange(len(corpus))) < (1000 if below is None else below))
    if metric != "cosine":  # which rounds
        np.testing.assert_array_equal(found.ids, passing[first_k(brute_force(queries, corpus[passing], metric), k)])


@pytest.mark.parametrize("metric", METRICS)
def test_parts_of_ordinary_vectors_merged_are_what_one_search_finds_bit_for_bit(metric):
    queries, corpus = vectors(40, 70, 24), vectors(41, 5_000, 24)
    whole = exact_neighbours(queries, corpus, k=20, metric=metric)
    borders = [0, 7, 1_300, 4_999, 5_000]
    found = merged((exact_neighbours(queries, corpus, k=20, metric=metric, rows=range(a, b)) for a, b in itertools.pairwise(borders)), k=20)
    assert found.ids.tobytes() == whole.ids.tobytes()
    assert found.scores.tobytes() == whole.scores.tobytes()
    np.testing.assert_array_equal(found.ids, first_k(brute_force(queries, corpus, metric), 20))


BY_TORCH = "cpu:0"
"""A device that is not called ``cpu``, so that torch computes the products, and that every machine has."""


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_bytes", [2**12, groundtruth.BLOCK_BYTES])
@pytest.mark.parametrize("below", [None, 100])
def test_torch_finds_what_numpy_finds_bit_for_bit(metric, block_bytes, below):
    queries, corpus = vectors(42, 40, 24), vectors(43, 3_000, 24).astype(np.float16)
    how = {"k": 15, "metric": metric, "below": below, "block_bytes": block_bytes}
    found, expected = exact_neighbours(queries, corpus, device=BY_TORCH, **how), exact_neighbours(queries, corpus, **how)
    assert found.ids.tobytes() == expected.ids.tobytes()
    assert found.scores.tobytes() == expected.scores.tobytes()


def test_torch_takes_a_block_of_ties_in_halves_and_a_file_that_cannot_be_written_to(tmp_path):
    """Every row ties with every other: all of a block is promising, more than may be listed at once."""
    np.save(tmp_path / "corpus.npy", np.tile(vectors(44, 1, 8), (9_000, 1)))
    corpus = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    found = exact_neighbours(vectors(45, 3, 8), corpus, k=4, metric="ip", block_bytes=2**14, device=BY_TORCH)
    assert found.ids.tolist() == [[0, 1, 2, 3]] * 3


def test_a_device_that_rounds_products_is_refused(monkeypatch):
    import torch

    full = torch.full
    monkeypatch.setattr(torch, "full", lambda shape, value, device: full(shape, 1.0, device=device))  # what TF32 keeps of the value
    with pytest.raises(UnsupportedError, match="NVIDIA_TF32_OVERRIDE"):
        exact_neighbours(vectors(46, 3, 8), vectors(47, 5, 8), k=1, metric="ip", device=BY_TORCH)


@pytest.mark.parametrize("rows", [None, range(1_000, 2_500)])
def test_how_far_it_is_rises_to_one(rows):
    told = []
    exact_neighbours(vectors(48, 4, 8), vectors(49, 4_000, 8), k=1, metric="ip", rows=rows, block_bytes=2**12, report=told.append)
    assert len(told) > 5
    assert told == sorted(told)
    assert 0 < told[0] < 0.5
    assert told[-1] == 1.0
