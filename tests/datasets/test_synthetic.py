"""Generated vectors: the same every time, whatever their number, and with neighbours worth looking for."""

import tracemalloc

import numpy as np
import pytest

from harness.data import open_data, prepare
from harness.datasets.synthetic import SyntheticVectors
from harness.errors import SettingsError


def made(folder, **settings):
    folder.mkdir()
    data = SyntheticVectors(**{"queries": 20, "dim": 24, **settings}).materialise(folder)
    return data, np.load(folder / "corpus.npy"), np.load(folder / "queries.npy")


def test_there_are_as_many_as_asked_for_and_they_say_what_they_are(tmp_path):
    data, corpus, queries = made(tmp_path / "a", corpus=5000)
    assert (corpus.shape, queries.shape) == ((5000, 24), (20, 24))
    assert corpus.dtype == queries.dtype == np.float32
    assert np.isfinite(corpus).all()
    assert (len(data.corpus), len(data.queries), data.modality, data.qrels) == (5000, 20, "vectors", None)
    assert data.labels["synthetic"] is True
    assert [caveat.code for caveat in data.caveats] == ["synthetic_vectors"]


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one_with_the_same_queries(tmp_path):
    _, large, asked = made(tmp_path / "large", corpus=9000)
    for rows in (1, 255, 257, 4096, 4097):
        _, small, same = made(tmp_path / str(rows), corpus=rows)
        assert np.array_equal(small, large[:rows])
        assert np.array_equal(same, asked)


def test_seeds_decide_and_no_row_comes_twice(tmp_path):
    first, corpus, queries = made(tmp_path / "first", corpus=5000)
    again, same, _ = made(tmp_path / "again", corpus=5000)
    other, another, _ = made(tmp_path / "other", corpus=5000, seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert np.array_equal(corpus, same)
    assert not np.array_equal(corpus, another)
    assert len(np.unique(np.concatenate([corpus, queries]), axis=0)) == 5020


def test_the_nearest_rows_stand_out_from_the_rest_as_they_do_not_in_white_noise(tmp_path):
    def nearness(corpus, queries):
        distances = np.linalg.norm(corpus[None] - queries[:, None], axis=2)
        return float(np.median(distances.min(axis=1) / np.median(distances, axis=1)))

    _, corpus, queries = made(tmp_path / "a", corpus=20_000, dim=256)
    rng = np.random.default_rng(0)
    assert nearness(corpus, queries) < 0.6
    assert nearness(rng.standard_normal(corpus.shape, dtype=np.float32), rng.standard_normal(queries.shape, dtype=np.float32)) > 0.8


def test_memory_does_not_depend_on_how_many_there_are(tmp_path):
    peaks = []
    for rows in (8_000, 8_000, 40_000):  # the first time takes what is taken once
        tracemalloc.start()
        made_in = tmp_path / f"{rows} {len(peaks)}"
        made_in.mkdir()
        SyntheticVectors(corpus=rows, queries=20, dim=256).materialise(made_in)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1] < 40_000 * 256 * 4 / 2


def test_what_was_laid_out_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    settings = {"corpus": 300, "queries": 5, "dim": 8, "seed": 3}
    data = open_data(prepare(SyntheticVectors(**settings), {"_target_": "harness.datasets.synthetic.SyntheticVectors", **settings}))
    assert (len(data.corpus), len(data.queries), data.modality, data.query_modality) == (300, 5, "vectors", "vectors")
    assert [caveat.code for caveat in data.caveats] == ["synthetic_vectors"]


def test_wrong_settings_are_named_all_at_once():
    with pytest.raises(SettingsError) as told:
        SyntheticVectors(corpus=0, queries=True, dim=1, seed=-1)
    assert [text.split(" ")[0] for text in told.value.violations] == [f"dataset.{key}" for key in ("corpus", "queries", "dim", "seed")]
