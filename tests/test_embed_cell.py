"""The embed cell against a model that writes down what is done to it."""

import json
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import embed_cell
from harness.data import open_data
from harness.interfaces import Data
from tests import cells
from tests.plugins.probes import EVENTS, WatchedModel


def texts(count, modality="text"):
    return Data(modality, "made", [f"{'word ' * (i * 7 % 13)}{i}" for i in range(count)], ["a query"], None, "0" * 64)


@pytest.fixture
def data(tmp_path):
    return cells.lay_out(tmp_path / "data")


# ------------------------------------------------------------------------------------------- the sample


@given(st.integers(2, 200), st.integers(1, 100), st.integers(1, 40), st.integers(0, 5), st.sampled_from(["text", "image"]))
def test_a_sample_is_full_batches_of_different_documents(documents, items, batch_size, seed, modality):
    batches = list(embed_cell.sample(texts(documents, modality), items=items, batch_size=batch_size, seed=seed))
    numbers = [number for batch in batches for number in batch]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(documents))
    if batch_size <= documents:
        assert {len(batch) for batch in batches} == {batch_size}
        assert len(numbers) >= min(items, documents - documents % batch_size)
        assert len(numbers) < items + batch_size


@given(st.integers(50, 200), st.integers(0, 5))
def test_every_batch_size_measures_the_same_items(documents, seed):
    chosen = {
        size: {number for batch in embed_cell.sample(texts(documents), items=32, batch_size=size, seed=seed) for number in batch}
        for size in (1, 8, 32)
    }
    assert chosen[1] == chosen[8] == chosen[32]


def test_another_seed_is_another_sample():
    first, second = (sorted(embed_cell.sample(texts(100), items=10, batch_size=10, seed=seed).numbers) for seed in (0, 1))
    assert first != second


def test_texts_of_like_length_share_a_batch_and_pictures_stay_in_the_sample_s_order():
    data = texts(40)
    lengths = [[len(data.corpus[i]) for i in batch] for batch in embed_cell.sample(data, items=40, batch_size=8, seed=0)]
    assert [length for batch in lengths for length in batch] == sorted([len(text) for text in data.corpus], reverse=True)
    order = list(range(40))
    random.Random(0).shuffle(order)
    assert list(embed_cell.sample(texts(40, "image"), items=40, batch_size=8, seed=0).numbers) == order


# ------------------------------------------------------------------------------------- preparing ahead


def test_batches_prepared_ahead_come_in_order_over_and_again_and_never_more_than_two_ahead():
    class Slow(WatchedModel):
        started = 0

        def prepare(self, items, *, role="document"):
            type(self).started += 1
            return super().prepare(items, role=role)

    model, data = Slow(), texts(10)
    stored = [[data.corpus[i], data.corpus[i + 1]] for i in range(0, 10, 2)]
    EVENTS.clear()
    with embed_cell._prepared_ahead(model, data, stored) as stream:
        for number in range(12):
            prepared = next(stream)
            time.sleep(0.005)  # long enough for a thread that is not held back to run away
            assert Slow.started <= number + 1 + 2
            assert len(prepared.inputs[0]) == len(stored[number % 5][0].split())
    assert [event[1] for event in EVENTS][:12] == [tuple(stored[number % 5]) for number in range(12)]


def test_a_pipeline_that_is_left_leaves_no_thread_behind():
    before = set(threading.enumerate())
    with embed_cell._prepared_ahead(WatchedModel(prepare_s=0.01), texts(4), [["a"], ["b"]]) as stream:
        next(stream)
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) == before


def test_a_batch_that_cannot_be_prepared_ends_the_pass():
    class Broken(WatchedModel):
        def prepare(self, items, *, role="document"):
            raise OSError("cannot be read")

    with (
        embed_cell._prepared_ahead(Broken(), texts(4), [["a"], ["b"]]) as stream,
        pytest.raises(OSError, match="cannot be read"),
    ):
        embed_cell._embed_next(Broken(), stream)


# ------------------------------------------------------------------------------------------- a replicate


def test_a_replicate_leaves_figures_that_agree_with_each_other(data, tmp_path):
    found = cells.measured("embed", cells.embed_spec(data, settings={"slow_s": 0.001}), tmp_path / "cell")
    result, samples = found.result, found.samples
    assert result["items"] == 16
    assert len(samples["forward_s"]) % 4 == 0, "whole passes only"
    assert result["throughput_per_s"] == pytest.approx(4 / samples["forward_s"].mean(), rel=0.1)
    documents = open_data(data)
    batches = embed_cell.sample(documents, items=16, batch_size=4, seed=0)
    words = np.mean([len(documents.corpus[i].split()) for batch in batches for i in batch])
    assert result["units_per_s"] == pytest.approx(result["throughput_per_s"] * words)
    assert sum(result["stages"].values()) <= samples["batch_s"].mean()
    assert result["info"]["dim"] == 32


def test_units_and_truncation_are_those_of_the_sample(data, tmp_path):
    class Cut(WatchedModel):
        def prepare(self, items, *, role="document"):
            prepared = super().prepare(items, role=role)
            return type(prepared)(prepared.inputs, prepared.count, units=7.0 * len(items), truncated=1)

    import tests.plugins.probes as probes

    probes.Cut = Cut
    try:
        found = cells.measured("embed", cells.embed_spec(data, target="tests.plugins.probes.Cut"), tmp_path / "cell")
    finally:
        del probes.Cut
    assert found.result["units_per_s"] == pytest.approx(7 * found.result["throughput_per_s"])
    assert found.result["truncated_share"] == 0.25


def test_stages_reported_while_it_runs_are_fractions(data, tmp_path):
    seen = []
    cells.measured("embed", cells.embed_spec(data), tmp_path / "cell", report=lambda *stage: seen.append(stage))
    assert [name for name, _ in dict.fromkeys((name, 0) for name, *_ in seen)] == ["load", "audit", "embed", "query"]
    assert all(0 <= fraction <= 1 for _, fraction, *_ in seen)


def test_the_memory_pass_embeds_the_longest_batches_and_a_query(data, tmp_path):
    (tmp_path / "cell").mkdir()
    EVENTS.clear()
    embed_cell.measure_memory(cells.embed_spec(data), tmp_path / "cell", lambda *_: None)
    prepared = [event for event in EVENTS if event[0] == "prepare"]
    assert [role for *_, role in prepared] == ["document"] * 3 + ["query"]
    longest = next(iter(embed_cell.sample(open_data(data), items=16, batch_size=4, seed=0)))
    assert prepared[0][1] == tuple(open_data(data).corpus[i] for i in longest)
    result = json.loads((tmp_path / "cell/result.json").read_text())
    assert result["peak_rss_bytes"] > 1e7
    assert result["device_peak_bytes"] is None
