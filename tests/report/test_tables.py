"""What stands in the tables, whatever they are printed on."""

from harness.frame import to_frame
from harness.records import Measured
from harness.report.rows import plain
from harness.report.tables import ABSENT, embed_table, search_table, whole_embed_table, whole_search_table
from tests.report import examples


def cells_of(records, make):
    """Cells by heading, for a table of one row."""
    table = make(plain(to_frame(records)))
    [row] = table.rows
    return {f"{column.group} {column.heading}".strip(): cell for column, cell in zip(table.columns, row, strict=True)}


def test_a_figure_stands_with_its_interval_and_what_it_rests_on():
    cells = cells_of([examples.embed("minilm", "docstrings", 8, 100.0, "e01")], embed_table)
    forward = cells["Throughput forward (items/s)"]
    assert (forward.text, forward.interval, forward.note, forward.sort) == ("100", "[95, 105]", "n = 3 processes", 100.0)


def test_an_interval_over_one_process_is_marked():
    cells = cells_of([examples.embed("minilm", "docstrings", 8, 100.0, "e01", n=1)], embed_table)
    assert cells["Throughput forward (items/s)"].interval == "[95, 105]†"
    assert cells["Throughput forward (items/s)"].note == "n = 1 process"


def test_an_interval_over_the_samples_of_one_process_is_marked_too():
    figure = Measured(0.01, "s", "lower", 0.009, 0.011, 300, reason="within one process")
    cells = cells_of([examples.record("embed", "minilm", "docstrings", "e01", metrics={"query_embed_p50_s": figure})], embed_table)
    assert cells["One query p50 (ms)"].interval == "[9.0, 11.0]†"
    assert cells["One query p50 (ms)"].note == "n = 300 samples; within one process"


def test_a_build_is_one_build_and_not_one_process():
    point = examples.point({}, 1.0, 0.01)
    cells = cells_of([examples.search("minilm", "docstrings", "flat", (point,), "a01")], search_table)
    assert cells["Build build (s)"].interval == ""
    assert cells["Build build (s)"].note == "n = 1 build; one build: how builds differ is not known"


def test_a_null_is_a_dash_with_its_reason_and_sorts_as_nothing():
    cells = cells_of([examples.embed("minilm", "docstrings", 8, 100.0, "e01")], whole_embed_table)
    p99 = cells["One query p99 (ms)"]
    assert (p99.text, p99.note, p99.sort) == ("–", "300 samples, a 99th percentile needs 662", None)


def test_a_figure_that_only_other_rows_have_says_so():
    bare = examples.record("embed", "minilm", "docstrings", "e01", metrics={"load_s": Measured(1.0, "s", "lower")})
    table = embed_table(plain(to_frame([bare, examples.embed("minilm", "docstrings", 32, 9.0, "e02")])))
    assert {cell.note for cell in table.rows[0] if cell.text == "–"} == {ABSENT}


def test_columns_that_nobody_measured_are_left_out():
    bare = examples.record("embed", "minilm", "docstrings", "e01", metrics={"load_s": Measured(1.0, "s", "lower")})
    assert [column.title for column in embed_table(plain(to_frame([bare]))).columns] == ["model", "batch size", "load"]


def test_a_figure_that_no_row_has_is_no_column_but_its_reason_is_told():
    table = embed_table(plain(to_frame([examples.embed("minilm", "docstrings", 8, 100.0, "e01")])))
    assert "device" not in [column.title for column in table.columns if column.group]
    assert "Memory device: a CPU has no memory of its own" in table.nulls()


def test_the_whole_table_has_every_figure_and_shows_the_main_ones_that_somebody_measured():
    table = whole_search_table(plain(to_frame([record for record in examples.records() if record.key in ("a05", "b06")])))
    columns = {column.name: column for column in table.columns}
    assert columns["recall"].shown
    assert columns["search_params"].shown
    assert not columns["recall_strict"].shown
    assert not columns["index_bytes"].shown, "the store does not tell it"
    assert not columns["store"].shown, "all rows have the same"
    assert not columns["build_params"].shown, "no index has two builds"
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1


def test_the_modalitys_own_unit_is_named():
    assert "Throughput forward (tokens/s)" in cells_of([examples.embed("minilm", "docstrings", 8, 100.0, "e01")], embed_table)
    assert "Throughput forward (images/s)" in cells_of([examples.embed("resnet50", "scenes", 8, 100.0, "e01")], embed_table)


def test_quality_against_labels_is_not_under_the_heading_of_recall():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    table = search_table(plain(to_frame([examples.search("minilm", "docstrings", "hnsw", (point,), "a01")])))
    groups = {column.title: column.group for column in table.columns}
    assert groups["recall"] == "Index fidelity"
    assert groups["nDCG@10"] == groups["recall@10"] == "Quality against labels"
