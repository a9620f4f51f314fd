"""Where a search's time goes, and what building takes."""

import pytest

from harness.report.figures.search import build_time, search_parts
from tests.report import examples
from tests.report.figures.drawn import docstrings, hnsw, section_of, traces


def test_the_parts_of_a_search_add_up_to_its_median():
    section = docstrings()
    [figure] = search_parts(section)
    found = traces(figure)
    assert set(found) == {"round trip", "floor", "above the floor"}
    sums = [sum(parts) for parts in zip(*(trace["x"] for trace in found.values()), strict=True)]
    assert sums == pytest.approx([1e3 * row["search_latency_p50_s"] for row in section.search])
    assert found["round trip"]["x"] == pytest.approx([1.1] * len(sums))
    assert found["floor"]["x"] == pytest.approx([9.2 - 1.1] * len(sums))


def test_each_store_has_its_own_axis_of_times():
    other = hnsw(examples.point({"ef": 16}, 0.9, 0.0001), key="a02")
    other.labels["store"] = "faiss"
    found = search_parts(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01)), other))
    assert {figure["setting"] for figure in found} == {"faiss", "milvus_lite"}


def test_a_floor_above_the_latency_leaves_nothing_negative():
    [figure] = search_parts(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.005))))
    assert [trace["x"] for trace in figure["data"]] == [pytest.approx([1.1]), pytest.approx([3.9]), [0.0]]


def test_building_is_inserting_and_then_building_until_ready():
    [figure] = build_time(docstrings())
    found = traces(figure)
    assert {name: trace["x"] for name, trace in found.items()} == {"insert": [3.21] * 3, "build": [2.4, 8.7, 2.4]}
