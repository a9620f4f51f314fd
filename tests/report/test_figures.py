"""The charts' data."""

import math

from hypothesis import given
from hypothesis import strategies as st

from harness.frame import to_frame
from harness.records import Measured
from harness.report.figures import log_ticks, recall_latency, throughput_batch
from harness.report.rows import plain, sections
from tests.report import examples


def by_dataset(records):
    return {section.name: section for section in sections(plain(to_frame(records)))}


def traces(figure):
    return {trace["name"]: trace for trace in figure["data"]}


def test_recall_and_latency_are_the_frames_in_milliseconds_with_error_bars():
    [figure] = recall_latency(by_dataset(examples.records())["docstrings"])
    hnsw = traces(figure)["hnsw"]
    assert hnsw["x"] == [0.8934, 0.9841, 0.9993]
    assert [round(y, 9) for y in hnsw["y"]] == [9.8, 10.4, 12.5]
    assert [round(y + up, 6) for y, up in zip(hnsw["y"], hnsw["error_y"]["array"], strict=True)] == [10.29, 10.92, 13.125]
    assert [round(y - down, 6) for y, down in zip(hnsw["y"], hnsw["error_y"]["arrayminus"], strict=True)] == [9.31, 9.88, 11.875]


def test_the_front_is_drawn_through_the_points_that_are_on_it():
    [figure] = recall_latency(by_dataset(examples.records())["docstrings"])
    front = traces(figure)["Pareto front"]
    assert front["x"] == [0.55, 0.8934, 0.9841, 0.9993, 0.9996, 1.0]
    assert front["y"] == sorted(front["y"])


def test_random_weights_are_named_in_legend_and_hover_and_have_no_front():
    section = by_dataset(examples.records())["scenes"]
    for figure in (*recall_latency(section), *throughput_batch(section)):
        for name, trace in traces(figure).items():
            assert "random weights" in name
            assert all("random weights" in hover for hover in trace["text"])


def test_each_k_and_concurrency_has_a_picture_of_its_own():
    points = tuple(examples.point({"ef": 64}, 0.9, 0.01, k=k, concurrency=c) for k in (1, 10) for c in (1, 4))
    section = by_dataset([examples.search("minilm", "docstrings", "hnsw", points, "a01")])["docstrings"]
    assert [len(figure["data"]) for figure in recall_latency(section)] == [1, 1, 1, 1]
    assert len({figure["title"] for figure in recall_latency(section)}) == 4


def test_each_model_over_its_own_vectors_has_its_own_front():
    other = dict(examples.MODELS["minilm"], weights_fingerprint="other")
    points = (examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.99, 0.02))
    mpnet = examples.search("minilm", "docstrings", "hnsw", points, "a02", model=other)
    mpnet.labels["model"] = "mpnet"
    [figure] = recall_latency(by_dataset([examples.search("minilm", "docstrings", "hnsw", points, "a01"), mpnet])["docstrings"])
    assert set(traces(figure)) == {"Pareto front · minilm", "Pareto front · mpnet", "hnsw · minilm", "hnsw · mpnet"}


def test_throughput_is_drawn_by_rising_batch_size_for_forward_and_pipeline():
    [figure] = throughput_batch(by_dataset(examples.records())["docstrings"])
    found = traces(figure)
    assert set(found) == {"minilm, forward alone", "minilm, pipeline"}
    for trace in found.values():
        assert trace["x"] == [1, 8, 32]


def test_names_are_text_in_charts():
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["model"] = "<b>m</b> & %{x}"
    [figure] = throughput_batch(by_dataset([record])["docstrings"])
    for name, trace in traces(figure).items():
        assert "<b>m" not in name
        assert "&lt;b&gt;m&lt;/b&gt; &amp; &#37;{x}" in name
        assert "&lt;b&gt;m&lt;/b&gt; &amp; &#37;{x}" in trace["text"][0]


def test_a_point_without_an_interval_has_no_error_bar_and_one_without_a_value_no_point():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    bare = Measured(0.01, "s", "lower", n=1, reason="one process")
    points = (
        examples.Point(10, 1, {"ef": 16}, {**point.metrics, "search_latency_p50_s": bare}),
        examples.Point(10, 1, {"ef": 32}, {**point.metrics, "search_latency_p50_s": examples.missing("s", "too few")}),
    )
    [figure] = recall_latency(by_dataset([examples.search("minilm", "docstrings", "hnsw", points, "a01")])["docstrings"])
    assert traces(figure)["hnsw"]["y"] == [10.0]
    assert traces(figure)["hnsw"]["error_y"]["array"] == [0.0]


def test_an_interval_that_reaches_below_zero_stays_on_the_logarithmic_axis():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    wide = Measured(0.01, "s", "lower", -0.01, 0.03, 2)
    points = (examples.Point(10, 1, {"ef": 16}, {**point.metrics, "search_latency_p50_s": wide}),)
    [figure] = recall_latency(by_dataset([examples.search("minilm", "docstrings", "hnsw", points, "a01")])["docstrings"])
    trace = traces(figure)["hnsw"]
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] > 0
    assert all(math.isfinite(end) for end in figure["layout"]["yaxis"]["range"])


def test_an_interval_far_wider_than_its_value_does_not_flatten_the_picture():
    wild = Measured(20.0, "1/s", "higher", 0.001, 1e6, 2)
    record = examples.record("embed", "minilm", "docstrings", "e01", metrics={"throughput_per_s": wild})
    [figure] = throughput_batch(by_dataset([record])["docstrings"])
    assert figure["layout"]["yaxis"]["range"][1] < 100


def test_one_point_alone_has_no_front():
    section = by_dataset([examples.search("minilm", "docstrings", "flat", (examples.point({}, 1.0, 0.01),), "a01")])["docstrings"]
    [figure] = recall_latency(section)
    assert set(traces(figure)) == {"flat"}
    assert "front" not in figure["caption"]


@given(st.floats(1e-4, 1e5), st.floats(1.2, 1e5))
def test_a_logarithmic_axis_has_ticks_inside_its_range_and_not_too_many(low, factor):
    high = low * factor
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 40
    assert all(low * 0.999999 <= tick <= high * 1.000001 for tick in ticks)


def test_nothing_measured_has_no_picture():
    [section] = sections(plain(to_frame([examples.record("search", "minilm", "docstrings", "a01", index="flat")])))
    assert recall_latency(section) == []
    assert throughput_batch(section) == []
