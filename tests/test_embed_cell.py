"""The embed cell against a model that writes down what is done to it."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import embed_cell
from harness.data import open_data
from harness.interfaces import Data
from tests import cells
from tests.plugins.parts import HashedWords
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


# --------------------------------------------------------------------------------- what is kept on the device


class Arrays(WatchedModel):
    """Inputs that can be seen: as many bytes as a text has characters, rounded up to tens."""

    def prepare(self, items, *, role="document"):
        prepared = super().prepare(items, role=role)
        longest = -(-max(map(len, items)) // 10) * 10
        return replace(prepared, inputs=(np.zeros((len(items), longest), dtype=np.uint8), prepared.inputs))


def test_all_batches_are_kept_ready_where_they_fit():
    data = texts(40)
    stored = [[data.corpus[i] for i in batch] for batch in embed_cell.sample(data, items=40, batch_size=4, seed=0)]
    ready = embed_cell._ready(Arrays(), data, stored)
    assert [one.inputs[1] for one in ready] == [Arrays().prepare(items).inputs[1] for items in stored]


@pytest.mark.parametrize(("limit", "kept"), [(1500, [0, 4, 9]), (1, [0, 9])])
def test_of_batches_that_do_not_fit_some_are_kept_evenly_spread(monkeypatch, limit, kept):
    monkeypatch.setattr(embed_cell, "_READY_BYTES", limit)
    data = texts(40)
    stored = [[data.corpus[i] + "x" * 76 for i in range(start, start + 4)] for start in range(0, 40, 4)]  # 300 bytes and more each
    ready = embed_cell._ready(Arrays(), data, stored)
    assert [one.inputs[1] for one in ready] == [Arrays().prepare(stored[number]).inputs[1] for number in kept]


def test_figures_hold_where_not_all_batches_are_kept_ready(data, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_cell, "_READY_BYTES", 1)
    monkeypatch.setattr("tests.plugins.probes.Arrays", Arrays, raising=False)
    monkeypatch.setattr(Arrays, "forward", lambda self, prepared: HashedWords.forward(self, replace(prepared, inputs=prepared.inputs[1])))
    spec = cells.embed_spec(data, target="tests.plugins.probes.Arrays", settings={"slow_s": 0.002})
    found = cells.measured("embed", spec, tmp_path / "cell")
    assert found.result["items"] == 8, "the first and the last batch"
    assert found.result["throughput_per_s"] == pytest.approx(4 / found.samples["forward_s"].mean(), rel=0.1)
    assert found.result["pipeline_per_s"] < 4 / 0.002


def test_one_batch_stands_for_all_of_its_shape():
    data = texts(40)
    stored = [[data.corpus[i]] for i in range(40)]
    groups = embed_cell._by_shape(embed_cell._ready(Arrays(), data, stored))
    assert sum(map(len, groups)) == 40
    assert len(groups) == len({-(-len(text) // 10) for text in data.corpus})


def test_operations_of_all_batches_are_counted_by_one_of_each_shape(monkeypatch):
    import torch

    calls = []

    class Multiplies(Arrays):
        def forward(self, prepared):
            calls.append(1)
            array = torch.zeros(prepared.inputs[0].shape)
            return array @ array.T

    data = texts(40)
    ready = embed_cell._ready(Multiplies(), data, [[data.corpus[i], data.corpus[i]] for i in range(40)])
    found = embed_cell._counted(Multiplies().forward, embed_cell._by_shape(ready))
    assert found.total == sum(2 * 2 * 2 * one.inputs[0].shape[1] for one in ready)
    assert len(calls) == len({one.inputs[0].shape for one in ready})


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
