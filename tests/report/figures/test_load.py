"""Latency under load."""

from dataclasses import replace

import pytest

from harness.report.figures.load import latency_load
from tests.report import examples
from tests.report.figures.drawn import hnsw, section_of, traces


def test_latency_rises_with_clients_and_with_rates_each_in_a_picture_of_its_own():
    closed = [examples.point({"ef": 64}, 0.9, 0.01 * clients, concurrency=clients) for clients in (8, 1, 2)]
    opened = [replace(closed[1], concurrency=None, rate_per_s=rate) for rate in (50.0, 100.0)]
    by_clients, by_rate = latency_load(section_of(hnsw(*closed, *opened)))
    assert "closed loop" in by_clients["setting"]
    assert "open loop" in by_rate["setting"]
    [line] = traces(by_clients).values()
    assert (line["x"], line["y"]) == ([1.0, 2.0, 8.0], pytest.approx([10.0, 20.0, 80.0]))
    [line] = traces(by_rate).values()
    assert line["x"] == [50.0, 100.0]


def test_one_load_is_no_curve():
    assert latency_load(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.95, 0.01)))) == []
