"""The charts' data."""

import math
from dataclasses import replace

import pytest

from harness.frame import to_frame
from harness.records import Measured
from harness.report import figures
from harness.report.axis import RecallAxis
from harness.report.rows import anchor, plain, sections
from tests.report import examples


def by_dataset(records):
    return {section.name: section for section in sections(plain(to_frame(records)))}


def section_of(*records):
    return by_dataset(records)["docstrings"]


def traces(figure):
    """Traces by name, bands left out."""
    return {trace["name"]: trace for trace in figure["data"] if not trace["meta"].get("band")}


def bands(figure):
    return {trace["name"]: trace for trace in figure["data"] if trace["meta"].get("band")}


def hnsw(*points, key="a01", **changes):
    return examples.search("minilm", "docstrings", "hnsw", points, key, **changes)


def test_recall_and_latency_are_the_frames_in_milliseconds_on_a_logit_axis():
    [figure] = figures.recall_latency(by_dataset(examples.records())["docstrings"])
    line = traces(figure)["hnsw"]
    axis = RecallAxis.over([0.55, 0.9996])
    assert line["x"] == pytest.approx([axis.at(recall) for recall in (0.8934, 0.9841, 0.9993)])
    assert line["y"] == pytest.approx([9.8, 10.4, 12.5])


def test_a_band_goes_along_the_upper_ends_and_back_along_the_lower_ones():
    [figure] = figures.recall_latency(by_dataset(examples.records())["docstrings"])
    band, line = bands(figure)["hnsw"], traces(figure)["hnsw"]
    assert band["x"] == [*line["x"], *line["x"][::-1]]
    assert band["y"] == pytest.approx([10.29, 10.92, 13.125, 11.875, 9.88, 9.31])
    assert band["legendgroup"] == line["legendgroup"]
    assert "error_y" not in line
    assert line["error_x"]["arrayminus"][0] > 0


def test_a_point_alone_has_bars_instead_of_a_band():
    [figure] = figures.recall_latency(by_dataset(examples.records())["docstrings"])
    assert "flat" not in bands(figure)
    assert traces(figure)["flat"]["error_y"]["array"] == pytest.approx([16.2 * 0.05])


def test_the_99th_percentile_is_a_picture_of_its_own_where_it_is_known():
    point = examples.point({"ef": 64}, 0.9, 0.01)
    known = replace(point, metrics={**point.metrics, "search_latency_p99_s": examples.timing(0.03)})
    found = figures.recall_latency(section_of(hnsw(known)))
    assert [figure["setting"].split(" · ")[0] for figure in found] == ["median latency", "99th percentile"]
    assert traces(found[1])["hnsw"]["y"] == pytest.approx([30.0])


def test_the_front_is_drawn_through_the_points_that_are_on_it():
    [figure] = figures.recall_latency(by_dataset(examples.records())["docstrings"])
    front = traces(figure)["Pareto front"]
    assert front["x"] == sorted(front["x"])
    assert front["y"] == pytest.approx([9.6, 9.8, 10.4, 12.5, 15.8, 16.2])


def test_the_front_of_a_rate_has_the_highest_rates():
    section = section_of(
        hnsw(examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 32}, 0.85, 0.02), examples.point({"ef": 64}, 0.99, 0.02))
    )
    [figure] = figures.recall_rate(section)
    assert traces(figure)["Pareto front"]["y"] == pytest.approx([97.0, 48.5])


def test_random_weights_are_named_in_legend_and_hover_and_have_no_front():
    section = by_dataset(examples.records())["scenes"]
    for figure in (*figures.recall_latency(section), *figures.recall_rate(section), *figures.throughput_batch(section)):
        for name, trace in traces(figure).items():
            assert "random weights" in name
            assert all("random weights" in hover for hover in trace["text"])


def test_each_way_of_asking_has_a_picture_of_its_own():
    points = tuple(examples.point({"ef": 64}, 0.9, 0.01, k=k, concurrency=c) for k in (1, 10) for c in (1, 4))
    found = figures.recall_latency(section_of(hnsw(*points)))
    assert [len(figure["data"]) for figure in found] == [1, 1, 1, 1]
    assert len({figure["setting"] for figure in found}) == 4


def test_each_model_over_its_own_vectors_has_its_own_front():
    other = dict(examples.MODELS["minilm"], weights_fingerprint="other")
    points = (examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.99, 0.02))
    mpnet = hnsw(*points, key="a02", model=other)
    mpnet.labels["model"] = "mpnet"
    [figure] = figures.recall_latency(section_of(hnsw(*points), mpnet))
    assert set(traces(figure)) == {"Pareto front · minilm", "Pareto front · mpnet", "hnsw · minilm", "hnsw · mpnet"}


def test_of_many_cells_those_at_the_front_have_lines_and_the_rest_is_one_cloud():
    section = section_of(*examples.many(300))
    for figure in (*figures.recall_latency(section), *figures.recall_rate(section)):
        found = traces(figure)
        [cloud] = [trace for name, trace in found.items() if "more cells" in name]
        lines = [trace for name, trace in found.items() if trace["mode"] == "lines+markers"]
        assert len(lines) == figures.LINES
        asked = figure["setting"].split("concurrency ")[1].split()[0]
        points = {anchor(row) for row in section.search if str(row["concurrency"]) == asked}
        assert {name for trace in (*lines, cloud) for name in trace["customdata"]} == points
        fronts = {round(y, 9) for name, trace in found.items() if name.startswith("Pareto") for y in trace["y"]}
        assert fronts <= {round(y, 9) for trace in lines for y in trace["y"]}


def test_throughput_is_drawn_by_rising_batch_size_for_forward_and_pipeline():
    [figure] = figures.throughput_batch(by_dataset(examples.records())["docstrings"])
    found = traces(figure)
    for name in ("minilm, forward alone", "minilm, pipeline"):
        assert found[name]["x"] == [1, 8, 32]
    assert set(found) == {"minilm, forward alone", "minilm, pipeline", "knee"}


def test_the_knee_is_ringed_where_there_is_one():
    rates = {1: 70.0, 8: 190.0, 32: 191.0}
    section = section_of(*(examples.embed("minilm", "docstrings", size, rate, f"e{size:02d}") for size, rate in rates.items()))
    [figure] = figures.throughput_batch(section)
    knee = traces(figure)["knee"]
    assert (knee["x"], knee["y"]) == ([8], [190.0])


def test_latency_rises_with_clients_and_with_rates_each_in_a_picture_of_its_own():
    closed = [examples.point({"ef": 64}, 0.9, 0.01 * clients, concurrency=clients) for clients in (8, 1, 2)]
    opened = [replace(closed[1], concurrency=None, rate_per_s=rate) for rate in (50.0, 100.0)]
    by_clients, by_rate = figures.latency_load(section_of(hnsw(*closed, *opened)))
    assert "closed loop" in by_clients["setting"]
    assert "open loop" in by_rate["setting"]
    [line] = traces(by_clients).values()
    assert (line["x"], line["y"]) == ([1.0, 2.0, 8.0], pytest.approx([10.0, 20.0, 80.0]))
    [line] = traces(by_rate).values()
    assert line["x"] == [50.0, 100.0]


def test_one_load_is_no_curve():
    assert figures.latency_load(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.95, 0.01)))) == []


def test_the_parts_of_a_search_add_up_to_its_median():
    section = by_dataset(examples.records())["docstrings"]
    [figure] = figures.search_parts(section)
    found = traces(figure)
    assert set(found) == {"round trip", "floor", "above the floor"}
    sums = [sum(parts) for parts in zip(*(trace["x"] for trace in found.values()), strict=True)]
    assert sums == pytest.approx([1e3 * row["search_latency_p50_s"] for row in section.search])
    assert found["round trip"]["x"] == pytest.approx([1.1] * len(sums))
    assert found["floor"]["x"] == pytest.approx([9.2 - 1.1] * len(sums))


def test_each_store_has_its_own_axis_of_times():
    other = hnsw(examples.point({"ef": 16}, 0.9, 0.0001), key="a02")
    other.labels["store"] = "faiss"
    found = figures.search_parts(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01)), other))
    assert {figure["setting"] for figure in found} == {"faiss", "milvus_lite"}


def test_a_floor_above_the_latency_leaves_nothing_negative():
    [figure] = figures.search_parts(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.005))))
    assert [trace["x"] for trace in figure["data"]] == [pytest.approx([1.1]), pytest.approx([3.9]), [0.0]]


def test_the_stages_of_a_batch_are_told_for_one_item_and_as_shares():
    section = by_dataset(examples.records())["docstrings"]
    items, shares = figures.batch_parts(section)
    assert traces(items)["forward"]["x"] == pytest.approx([1e3 / rate for rate in (71.3, 189.0, 243.5)])
    assert [sum(parts) for parts in zip(*(trace["x"] for trace in shares["data"]), strict=True)] == pytest.approx([100.0] * 3)


def test_memory_is_drawn_against_recall_only_where_it_is_known():
    assert figures.recall_memory(section_of(hnsw(examples.point({"ef": 16}, 0.9, 0.01)))) == []
    known = hnsw(examples.point({"ef": 16}, 0.9, 0.01))
    known = replace(known, metrics={**known.metrics, "index_bytes": Measured(31e6, "bytes", "lower", n=3, replication="build")})
    [figure] = figures.recall_memory(section_of(known))
    assert traces(figure)["hnsw"]["y"] == pytest.approx([31.0])


def test_building_is_insert_build_and_ready():
    [figure] = figures.build_time(by_dataset(examples.records())["docstrings"])
    found = traces(figure)
    assert {name: trace["x"] for name, trace in found.items()} == {"insert": [3.21] * 3, "build": [2.4, 8.7, 2.4], "ready": [0.4] * 3}


def test_what_an_index_costs_in_quality_is_the_difference_to_exact_search():
    [figure] = figures.quality_lost(by_dataset(examples.records())["docstrings"])
    assert traces(figure)["hnsw"]["y"] == pytest.approx([0.712 * (1 - recall) for recall in (0.8934, 0.9841, 0.9993)])
    assert figures.quality_lost(by_dataset(examples.records())["scenes"]) == [], "random weights have no quality"


def test_names_are_text_in_charts():
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["model"] = "<b>m</b> & %{x}"
    section = section_of(record)
    for figure in (*figures.throughput_batch(section), *figures.batch_parts(section)):
        shown = [trace["name"] for trace in figure["data"]] + [text for trace in figure["data"] for text in trace.get("text", [])]
        shown += [note["text"] for note in figure["layout"].get("annotations", [])]
        assert not any("<b>m" in words or "%{x" in words for words in shown)
        assert any("&lt;b&gt;m&lt;/b&gt; &amp; &#37;{x}" in words for words in shown)


def test_a_point_without_an_interval_has_no_error_bar_and_one_without_a_value_no_point():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    bare = Measured(0.01, "s", "lower", n=1, reason="one process")
    points = (
        replace(point, metrics={**point.metrics, "search_latency_p50_s": bare}),
        replace(point, search_params={"ef": 32}, metrics={**point.metrics, "search_latency_p50_s": examples.missing("s", "too few")}),
    )
    [figure] = figures.recall_latency(section_of(hnsw(*points)))
    assert traces(figure)["hnsw"]["y"] == [10.0]
    assert traces(figure)["hnsw"]["error_y"]["array"] == [0.0]


def test_an_interval_that_reaches_below_zero_stays_on_the_logarithmic_axis():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    wide = Measured(0.01, "s", "lower", -0.01, 0.03, 2)
    [figure] = figures.recall_latency(section_of(hnsw(replace(point, metrics={**point.metrics, "search_latency_p50_s": wide}))))
    trace = traces(figure)["hnsw"]
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] > 0
    assert all(math.isfinite(end) for end in figure["layout"]["yaxis"]["range"])


def test_an_interval_far_wider_than_its_value_does_not_flatten_the_picture():
    wild = Measured(20.0, "1/s", "higher", 0.001, 1e6, 2)
    record = examples.record("embed", "minilm", "docstrings", "e01", metrics={"throughput_per_s": wild})
    [figure] = figures.throughput_batch(section_of(record))
    assert figure["layout"]["yaxis"]["range"][1] < 100


def test_one_point_alone_has_no_front():
    [figure] = figures.recall_latency(section_of(examples.search("minilm", "docstrings", "flat", (examples.point({}, 1.0, 0.01),), "a01")))
    assert set(traces(figure)) == {"flat"}
    assert "front" not in figure["caption"]


def test_nothing_measured_has_no_picture():
    section = section_of(examples.record("search", "minilm", "docstrings", "a01", index="flat"))
    assert figures.pictures(section) == []


def test_every_point_says_which_row_it_is():
    section = by_dataset(examples.records())["docstrings"]
    known = {anchor(row) for row in (*section.search, *section.embed)}
    for picture in figures.pictures(section):
        for figure in picture.figures:
            for trace in figure["data"]:
                if trace.get("hoverinfo") != "skip":
                    assert len(trace["customdata"]) == len(trace["x"])
                    assert set(trace["customdata"]) <= known
