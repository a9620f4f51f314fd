"""One side: rows, names, repeats and times."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from harness.compare.rows import arrays, chosen, read_side, time_of
from harness.errors import DataError, SettingsError
from tests.compare import made

KNOBS = ({"ef": 16}, {"ef": 64}, {"ef": 256})


@pytest.fixture
def side(tmp_path):
    return read_side(made.folder_of(tmp_path, made.embed(), made.embed(batch_size=32), made.search(knobs=KNOBS)))


def test_a_search_cell_is_its_build_and_each_operating_point(side):
    assert sorted(row.part for row in side.rows) == ["build", "embed", "embed", "point", "point", "point"]


def test_each_operating_point_has_its_own_samples_whatever_the_order_of_the_frame(side):
    points = [row for row in side.rows if row.part == "point"]
    assert {row.number: row.row["search_params"] for row in points} == {0: '{"ef": 16}', 1: '{"ef": 64}', 2: '{"ef": 256}'}
    for row in points:
        [raw] = row.raw("recall_")
        assert np.mean(raw[f"recall_{row.number}"]) == pytest.approx(row.measured["recall"].value)


def test_no_two_rows_of_a_side_have_one_identity_or_one_name(side):
    identities = [tuple(sorted((name, repr(value)) for name, value in row.identity.items())) for row in side.rows]
    assert len(set(identities)) == len(side.rows)
    assert len({(row.part, row.name) for row in side.rows}) == len(side.rows)


def test_a_build_whose_rows_can_be_filtered_is_another_build(tmp_path):
    plain, also = made.search(key="s-1"), made.search(key="s-2", settings={"filter": [None, 0.1]})
    only = made.search(key="s-3", settings={"filter": [0.1]})
    rows = [row for row in read_side(made.folder_of(tmp_path, plain, also, only)).rows if row.part == "build"]
    by_key = {row.record.key: row for row in rows}
    assert by_key["s-1"].identity != by_key["s-2"].identity
    assert by_key["s-2"].identity == by_key["s-3"].identity, "what is asked of it does not change what is built"
    assert "filtered=False" in by_key["s-1"].name
    assert "filtered=True" in by_key["s-2"].name
    assert len(chosen(rows, {"filtered": "true"})) == 2


def test_a_list_that_a_build_depends_on_makes_another_build(tmp_path):
    def of(key, levels):
        settings = {"index": {"_target_": "mine.Levels", "levels": levels, "ef": [64]}}
        record = made.search(key=key, settings=settings)
        record.labels["build_params"] = {"levels": levels}
        return record

    rows = [row for row in read_side(made.folder_of(tmp_path, of("s-1", [1, 2]), of("s-2", [1, 3]))).rows if row.part == "build"]
    assert sorted(row.identity["index.levels"] for row in rows) == ["[1, 2]", "[1, 3]"]
    assert all("index.ef" not in row.identity for row in rows)


def test_a_cell_measured_again_brings_the_processes_of_all_its_records(tmp_path):
    made.folder_of(tmp_path, made.embed(seed=1, processes=3), made.embed(seed=2, processes=4))
    [row] = read_side(tmp_path).rows
    assert len(row.repeats) == 2
    assert len(arrays(row, "query_s")) == 7
    assert row.record.started_at.startswith("2026-11-02T10:02")


@pytest.mark.parametrize("kind", ["corpus", "serve"])
def test_records_of_other_kinds_are_named_and_are_no_builds(tmp_path, kind):
    side = read_side(made.folder_of(tmp_path, made.embed(), replace(made.embed(key="c-1"), kind=kind)))
    assert [row.part for row in side.rows] == ["embed"]
    assert side.left_out == ("1 record of scaling or of choose --verify: not compared",)


def test_a_failure_after_a_success_is_the_state_of_things(tmp_path):
    made.folder_of(tmp_path, made.embed(seed=1), made.failed(made.embed(seed=2)))
    [row] = read_side(tmp_path).rows
    assert row.record.status == "failed"


def test_one_folder_is_split_at_a_time(tmp_path):
    made.folder_of(tmp_path, made.embed(seed=1), made.embed(seed=20, batch_size=32))
    at = time_of("2026-11-02T10:10", "--before")
    assert at == datetime(2026, 11, 2, 10, 10, tzinfo=UTC)
    assert [row.row["batch_size"] for row in read_side(tmp_path, until=at).rows] == [8]
    assert [row.row["batch_size"] for row in read_side(tmp_path, since=at).rows] == [32]
    with pytest.raises(DataError, match="before 2020-01-01"):
        read_side(tmp_path, until=datetime(2020, 1, 1, tzinfo=UTC))


def test_what_is_no_time_is_refused():
    with pytest.raises(SettingsError, match=r"--after must be a time such as .*, got 'yesterday'"):
        time_of("yesterday", "--after")


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    made.folder_of(tmp_path, made.embed())
    (tmp_path / "records" / "x-1.json").write_text('{"schema_version": 1}')
    assert "schema_version is 1" in read_side(tmp_path).left_out[0]


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no records"):
        read_side(tmp_path)


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({"store": "faiss"}, 4),
        ({"ef": "64"}, 2),
        ({"ef": "64.0", "k": "10"}, 2),
        ({"k": "11"}, 1),
        ({"index.M": "16"}, 4),
        ({"batch_size": "32"}, 1),
        ({"model": "x"}, 0),
    ],
)
def test_rows_are_chosen_by_any_setting(side, conditions, count):
    assert len(chosen(side.rows, conditions)) == count


def test_a_setting_that_no_row_has_is_refused(side):
    with pytest.raises(SettingsError, match=r"no row has a setting a; there are .*store"):
        chosen(side.rows, {"a": "b"})
