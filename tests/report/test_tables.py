"""What stands in the tables, whatever they are printed on."""

from harness.frame import to_frame
from harness.records import Measured
from harness.report.rows import plain, sections
from harness.report.tables import ABSENT, table_of, whole_table
from tests.report import examples


def cells_of(kind, records, make=table_of):
    """Cells by heading, for a table of one row."""
    table = make(kind, plain(to_frame(records)))
    [row] = table.rows
    return {f"{column.group} {column.heading}".strip(): cell for column, cell in zip(table.columns, row, strict=True)}


def test_a_figure_stands_with_its_interval_and_what_it_rests_on():
    cells = cells_of("embed", [examples.embed("minilm", "docstrings", 8, 100.0, "e01")])
    forward = cells["Throughput forward (items/s)"]
    assert (forward.text, forward.interval, forward.note, forward.sort) == ("100", "[95, 105]", "n = 3 processes", 100.0)


def test_an_interval_over_one_process_is_marked():
    cells = cells_of("embed", [examples.embed("minilm", "docstrings", 8, 100.0, "e01", n=1)])
    assert cells["Throughput forward (items/s)"].interval == "[95, 105]†"
    assert cells["Throughput forward (items/s)"].note == "n = 1 process"


def test_an_interval_over_the_samples_of_one_process_is_marked_too():
    figure = Measured(0.01, "s", "lower", 0.009, 0.011, 300, reason="within one process")
    cells = cells_of("embed", [examples.record("embed", "minilm", "docstrings", "e01", metrics={"query_embed_p50_s": figure})])
    assert cells["One query p50 (ms)"].interval == "[9.0, 11.0]†"
    assert cells["One query p50 (ms)"].note == "n = 300 samples; within one process"


def test_a_build_is_one_build_and_not_one_process():
    point = examples.point({}, 1.0, 0.01)
    cells = cells_of("search", [examples.search("minilm", "docstrings", "flat", (point,), "a01")])
    assert cells["Build build (s)"].interval == ""
    assert cells["Build build (s)"].note == "n = 1 build; one build: how builds differ is not known"


def test_a_null_is_a_dash_with_its_reason_and_sorts_as_nothing():
    cells = cells_of("embed", [examples.embed("minilm", "docstrings", 8, 100.0, "e01")], whole_table)
    p99 = cells["One query p99 (ms)"]
    assert (p99.text, p99.note, p99.sort) == ("–", "300 samples, a 99th percentile needs 662", None)


def test_a_figure_that_only_other_rows_have_says_so():
    bare = examples.record("embed", "minilm", "docstrings", "e01", metrics={"load_s": Measured(1.0, "s", "lower")})
    table = table_of("embed", plain(to_frame([bare, examples.embed("minilm", "docstrings", 32, 9.0, "e02")])))
    assert {cell.note for cell in table.rows[0] if cell.text == "–"} == {ABSENT}


def test_columns_that_nobody_measured_are_left_out():
    bare = examples.record("embed", "minilm", "docstrings", "e01", metrics={"load_s": Measured(1.0, "s", "lower")})
    assert [column.title for column in table_of("embed", plain(to_frame([bare]))).columns] == ["model", "batch size", "load"]


def test_a_figure_that_no_row_has_is_no_column_but_its_reason_is_told():
    table = table_of("embed", plain(to_frame([examples.embed("minilm", "docstrings", 8, 100.0, "e01")])))
    assert "device" not in [column.title for column in table.columns if column.group]
    assert "Memory device: a CPU has no memory of its own" in table.nulls()


def test_the_whole_table_has_every_figure_and_shows_the_main_ones_that_somebody_measured():
    table = whole_table("search", plain(to_frame([record for record in examples.records() if record.key in ("a05", "b06")])))
    columns = {column.name: column for column in table.columns}
    assert columns["recall"].shown
    assert columns["search_params"].shown
    assert not columns["recall_strict"].shown
    assert not columns["index_bytes"].shown, "the store does not tell it"
    assert not columns["store"].shown, "all rows have the same"
    assert not columns["build_params"].shown, "no index has two builds"
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1


def test_the_modalitys_own_unit_is_named():
    assert "Throughput forward (tokens/s)" in cells_of("embed", [examples.embed("minilm", "docstrings", 8, 100.0, "e01")])
    assert "Throughput forward (images/s)" in cells_of("embed", [examples.embed("resnet50", "scenes", 8, 100.0, "e01")])


def test_quality_against_labels_is_not_under_the_heading_of_recall():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    table = table_of("search", plain(to_frame([examples.search("minilm", "docstrings", "hnsw", (point,), "a01")])))
    groups = {column.title: column.group for column in table.columns}
    assert groups["recall"] == "Index fidelity"
    assert groups["nDCG@10"] == groups["recall@10"] == "Quality against labels"


def test_numbers_of_workers_are_rows_by_rising_number_with_their_rate_and_efficiency():
    rows = plain(to_frame([examples.workers(n, 50.0 * n**0.9, n**-0.1, f"w0{n}") for n in (4, 1, 2)]))
    [section] = sections(rows)
    table = table_of("corpus", section.corpus)
    assert [column.heading for column in table.columns] == ["model", "workers", "corpus (items/s)", "scaling"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["minilm", "1", "50.0", "1.000"],
        ["minilm", "2", "93.3", "0.933"],
        ["minilm", "4", "174", "0.871"],
    ]
    assert [row[3].interval for row in table.rows] == ["", "[0.886, 0.980]", "[0.827, 0.914]"]
    assert "one worker" in table.rows[0][3].note
    assert [row["other_settings"] for row in section.corpus] == [None] * 3, "the number of workers is told once"
