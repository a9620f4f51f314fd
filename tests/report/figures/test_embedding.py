"""Throughput against batch size, and the stages of a batch."""

from dataclasses import replace

import pytest

from harness.records import Measured
from harness.report.figures.embedding import batch_parts, throughput_batch
from tests.report import examples
from tests.report.figures.drawn import docstrings, section_of, traces


def test_throughput_is_drawn_by_rising_batch_size_for_forward_and_pipeline():
    [figure] = throughput_batch(docstrings())
    found = traces(figure)
    for name in ("minilm, forward alone", "minilm, pipeline"):
        assert found[name]["x"] == [1, 8, 32]
    assert set(found) == {"minilm, forward alone", "minilm, pipeline", "knee"}


def test_the_knee_is_ringed_where_there_is_one():
    rates = {1: 70.0, 8: 190.0, 32: 191.0}
    section = section_of(*(examples.embed("minilm", "docstrings", size, rate, f"e{size:02d}") for size, rate in rates.items()))
    [figure] = throughput_batch(section)
    knee = traces(figure)["knee"]
    assert (knee["x"], knee["y"]) == ([8], [190.0])


def test_the_stages_of_a_batch_are_told_for_one_item_and_as_shares():
    section = docstrings()
    items, shares = batch_parts(section)
    assert traces(items)["forward"]["x"] == pytest.approx([1e3 / rate for rate in (71.3, 189.0, 243.5)])
    assert [sum(parts) for parts in zip(*(trace["x"] for trace in shares["data"]), strict=True)] == pytest.approx([100.0] * 3)


def test_an_interval_far_wider_than_its_value_does_not_flatten_the_picture():
    wild = Measured(20.0, "1/s", "higher", 0.001, 1e6, 2)
    record = examples.record("embed", "minilm", "docstrings", "e01", metrics={"throughput_per_s": wild})
    [figure] = throughput_batch(section_of(record))
    assert figure["layout"]["yaxis"]["range"][1] < 100


OTHER_WEIGHTS = {"model": dict(examples.MODELS["minilm"], weights_fingerprint="ffff" * 16)}


def embed(size, key, **settings):
    record = examples.embed("minilm", "docstrings", size, 10.0 * size, key)
    return replace(record, settings={**record.settings, **settings})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": {"max_tokens": 128}}, {"model": {"max_tokens": 256}}),
        ({"attention": "sdpa"}, {"attention": "eager"}),
        ({"compile": False}, {"compile": True}),
        ({"backend": "torch"}, {"backend": "onnx"}),
        ({"processes": 3}, {"processes": 5}),
    ],
)
def test_a_line_joins_only_what_differs_in_batch_size_alone(one, other):
    section = section_of(embed(8, "e01", **one), embed(32, "e02", **one), embed(8, "e03", **other), embed(32, "e04", **other))
    [figure] = throughput_batch(section)
    lines = {name: trace["x"] for name, trace in traces(figure).items()}
    assert lines.pop("knee", None) is None
    assert list(lines.values()) == [[8, 32]] * 4, "forward pass and pipeline of each"
    [name] = {**one, **other}
    words = f"{name}={one[name]}".replace("False", "false") if name != "model" else "model.max_tokens=128"
    assert sum(words in line for line in lines) == 2


def test_batch_sizes_of_which_each_has_other_settings_are_points_and_no_line():
    section = section_of(embed(8, "e01", compile=False), embed(32, "e02", compile=True))
    [figure] = throughput_batch(section)
    assert sorted(trace["x"] for trace in traces(figure).values()) == [[8], [8], [32], [32]]


def test_two_weights_under_one_name_are_two_lines_that_are_told_apart():
    section = section_of(
        *(embed(size, f"e{size:02d}", weights="one") for size in (8, 32)),
        *(replace(embed(size, f"f{size:02d}", weights="other"), **OTHER_WEIGHTS) for size in (8, 32)),
    )
    [figure] = throughput_batch(section)
    found = traces(figure)
    assert [trace["x"] for trace in found.values()] == [[8, 32]] * 4
    assert sum("weights ffffffff" in name for name in found) == 2


def test_bars_of_other_settings_have_names_of_their_own():
    section = section_of(embed(8, "e01", compile=False), embed(8, "e02", compile=True))
    for figure in batch_parts(section):
        names = [note["text"].split("  <b>")[0] for note in figure["layout"]["annotations"]]
        assert len(set(names)) == 2
        assert any("compile=true" in name for name in names)
