"""Pictures against recall."""

import math
import re
from dataclasses import replace

import pytest

from harness.records import Measured
from harness.report.axis import RecallAxis
from harness.report.figures.parts import LINES
from harness.report.figures.recall import quality_lost, recall_latency, recall_memory, recall_rate
from harness.report.rows import anchor
from tests.report import examples
from tests.report.figures.drawn import bands, by_dataset, docstrings, hnsw, section_of, traces


def test_recall_and_latency_are_the_frames_in_milliseconds_on_a_logit_axis():
    [figure] = recall_latency(docstrings())
    line = traces(figure)["hnsw"]
    axis = RecallAxis.over([0.55, 0.9996])
    assert line["x"] == pytest.approx([axis.at(recall) for recall in (0.8934, 0.9841, 0.9993)])
    assert line["y"] == pytest.approx([9.8, 10.4, 12.5])


def test_a_band_goes_along_the_upper_ends_and_back_along_the_lower_ones():
    [figure] = recall_latency(docstrings())
    band, line = bands(figure)["hnsw"], traces(figure)["hnsw"]
    assert band["x"] == [*line["x"], *line["x"][::-1]]
    assert band["y"] == pytest.approx([10.29, 10.92, 13.125, 11.875, 9.88, 9.31])
    assert band["legendgroup"] == line["legendgroup"]
    assert "error_y" not in line
    assert line["error_x"]["arrayminus"][0] > 0


def test_a_point_alone_has_bars_instead_of_a_band():
    [figure] = recall_latency(docstrings())
    assert "flat" not in bands(figure)
    assert traces(figure)["flat"]["error_y"]["array"] == pytest.approx([16.2 * 0.05])


def test_the_99th_percentile_is_a_picture_of_its_own_where_it_is_known():
    point = examples.point({"ef": 64}, 0.9, 0.01)
    known = replace(point, metrics={**point.metrics, "search_latency_p99_s": examples.timing(0.03)})
    found = recall_latency(section_of(hnsw(known)))
    assert [figure["setting"].split(" · ")[0] for figure in found] == ["median latency", "99th percentile"]
    assert traces(found[1])["hnsw"]["y"] == pytest.approx([30.0])


def test_the_front_is_drawn_through_the_points_that_are_on_it():
    [figure] = recall_latency(docstrings())
    front = traces(figure)["Pareto front"]
    assert front["x"] == sorted(front["x"])
    assert front["y"] == pytest.approx([9.6, 9.8, 10.4, 12.5, 15.8, 16.2])


def test_the_front_of_a_rate_has_the_highest_rates():
    section = section_of(
        hnsw(examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 32}, 0.85, 0.02), examples.point({"ef": 64}, 0.99, 0.02))
    )
    [figure] = recall_rate(section)
    assert traces(figure)["Pareto front"]["y"] == pytest.approx([97.0, 48.5])


def test_each_way_of_asking_has_a_picture_of_its_own():
    points = tuple(examples.point({"ef": 64}, 0.9, 0.01, k=k, concurrency=c) for k in (1, 10) for c in (1, 4))
    found = recall_latency(section_of(hnsw(*points)))
    assert [len(figure["data"]) for figure in found] == [1, 1, 1, 1]
    assert len({figure["setting"] for figure in found}) == 4


def test_each_model_over_its_own_vectors_has_its_own_front():
    other = dict(examples.MODELS["minilm"], weights_fingerprint="other")
    points = (examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.99, 0.02))
    mpnet = hnsw(*points, key="a02", model=other)
    mpnet.labels["model"] = "mpnet"
    [figure] = recall_latency(section_of(hnsw(*points), mpnet))
    assert set(traces(figure)) == {"Pareto front · minilm", "Pareto front · mpnet", "hnsw · minilm", "hnsw · mpnet"}


def test_of_many_cells_those_at_the_front_have_lines_and_the_rest_is_one_cloud():
    section = section_of(*examples.many(300))
    for figure in (*recall_latency(section), *recall_rate(section)):
        found = traces(figure)
        [cloud] = [trace for name, trace in found.items() if "more cells" in name]
        lines = [trace for name, trace in found.items() if trace["mode"] == "lines+markers"]
        assert len(lines) == LINES
        asked = figure["setting"].split("concurrency ")[1].split()[0]
        points = {anchor(row) for row in section.search if str(row["concurrency"]) == asked}
        assert {name for trace in (*lines, cloud) for name in trace["customdata"]} == points
        fronts = {round(y, 9) for name, trace in found.items() if name.startswith("Pareto") for y in trace["y"]}
        assert fronts <= {round(y, 9) for trace in lines for y in trace["y"]}


def test_memory_is_drawn_against_recall_only_where_it_is_known():
    assert recall_memory(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01)))) == []
    known = hnsw(examples.point({"ef": 16}, 0.9, 0.01))
    known = replace(known, metrics={**known.metrics, "index_bytes": Measured(31e6, "bytes", "lower", n=3, replication="build")})
    [figure] = recall_memory(section_of(known))
    assert traces(figure)["hnsw"]["y"] == pytest.approx([31.0])


def test_what_an_index_costs_in_quality_is_the_difference_to_exact_search():
    [figure] = quality_lost(docstrings())
    assert traces(figure)["hnsw"]["y"] == pytest.approx([0.712 * (1 - recall) for recall in (0.8934, 0.9841, 0.9993)])
    assert quality_lost(by_dataset(examples.records())["scenes"]) == [], "random weights have no quality"


def test_a_point_without_an_interval_has_no_error_bar_and_one_without_a_value_no_point():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    bare = Measured(0.01, "s", "lower", n=1, reason="one process")
    points = (
        replace(point, metrics={**point.metrics, "search_latency_p50_s": bare}),
        replace(point, search_params={"ef": 32}, metrics={**point.metrics, "search_latency_p50_s": examples.missing("s", "too few")}),
    )
    [figure] = recall_latency(section_of(hnsw(*points)))
    assert traces(figure)["hnsw"]["y"] == [10.0]
    assert traces(figure)["hnsw"]["error_y"]["array"] == [0.0]


def test_an_interval_that_reaches_below_zero_stays_on_the_logarithmic_axis():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    wide = Measured(0.01, "s", "lower", -0.01, 0.03, 2)
    [figure] = recall_latency(section_of(hnsw(replace(point, metrics={**point.metrics, "search_latency_p50_s": wide}))))
    trace = traces(figure)["hnsw"]
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] > 0
    assert all(math.isfinite(end) for end in figure["layout"]["yaxis"]["range"])


def test_one_point_alone_has_no_front():
    [figure] = recall_latency(section_of(examples.search("minilm", "docstrings", "flat", (examples.point({}, 1.0, 0.01),), "a01")))
    assert set(traces(figure)) == {"flat"}
    assert "front" not in figure["caption"]


def test_vectors_made_under_other_settings_have_a_front_of_their_own():
    points = (examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.99, 0.02))
    records = [
        replace(hnsw(*points, key=key), settings={"metric": "cosine", "model": {"max_tokens": tokens}})
        for key, tokens in (("a01", 128), ("a02", 256))
    ]
    [figure] = recall_latency(section_of(*records))
    fronts = [name for name in traces(figure) if name.startswith("Pareto front")]
    assert fronts == ["Pareto front · model.max_tokens=128", "Pareto front · model.max_tokens=256"]


def test_of_very_many_points_away_from_the_front_each_so_manyth_is_drawn_and_the_caption_counts_them(monkeypatch):
    monkeypatch.setattr("harness.report.figures.parts.CLOUD", 20)
    section = section_of(*examples.many(300))
    whole = {figure["setting"]: figure for figure in (*recall_latency(section), *quality_lost(section))}
    assert whole
    for figure in whole.values():
        [(name, cloud)] = [(name, trace) for name, trace in traces(figure).items() if "more cells" in name]
        assert 10 <= len(cloud["x"]) <= 20
        shown, points = map(int, re.search(r"Grey: (\d+) of (\d+) points of the cells away", figure["caption"]).groups())
        assert shown == len(cloud["x"])
        assert points > 2 * shown
        assert int(name.split()[0]) >= points / 2, "the legend counts all cells that have no line"
