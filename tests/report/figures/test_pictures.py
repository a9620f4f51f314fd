"""What holds for every picture."""

from harness.report.figures import pictures
from harness.report.figures.embedding import batch_parts, throughput_batch
from harness.report.figures.recall import recall_latency, recall_rate
from harness.report.rows import anchor
from tests.report import examples
from tests.report.figures.drawn import by_dataset, docstrings, section_of, traces


def test_random_weights_are_named_in_legend_and_hover_and_have_no_front():
    section = by_dataset(examples.records())["scenes"]
    for figure in (*recall_latency(section), *recall_rate(section), *throughput_batch(section)):
        for name, trace in traces(figure).items():
            assert "random weights" in name
            assert all("random weights" in hover for hover in trace["text"])


def test_names_are_text_in_charts():
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["model"] = "<b>m</b> & %{x}"
    section = section_of(record)
    for figure in (*throughput_batch(section), *batch_parts(section)):
        shown = [trace["name"] for trace in figure["data"]] + [text for trace in figure["data"] for text in trace.get("text", [])]
        shown += [note["text"] for note in figure["layout"].get("annotations", [])]
        assert not any("<b>m" in words or "%{x" in words for words in shown)
        assert any("&lt;b&gt;m&lt;/b&gt; &amp; &#37;{x}" in words for words in shown)


def test_nothing_measured_has_no_picture():
    section = section_of(examples.record("search", "minilm", "docstrings", "a01", index="flat"))
    assert pictures(section) == []


def test_every_point_says_which_row_it_is():
    section = docstrings()
    known = {anchor(row) for row in (*section.search, *section.embed)}
    for picture in pictures(section):
        for figure in picture.figures:
            for trace in figure["data"]:
                if trace.get("hoverinfo") != "skip":
                    assert len(trace["customdata"]) == len(trace["x"])
                    assert set(trace["customdata"]) <= known
