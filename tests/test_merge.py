"""Merging: every whole record arrives with its samples, nothing is overwritten, what is damaged is named and left."""

from dataclasses import replace

import numpy as np
import pytest

from harness import records
from harness.errors import DataError, HarnessError
from harness.merge import merge
from tests.test_records import example


def folder(path, *found):
    for record in found:
        records.write(record, path)
    return path


def test_records_of_two_machines_are_in_one_folder_with_their_samples(tmp_path):
    one = example(key="a" * 20, samples={"latency_s": np.linspace(0, 1, 5)})
    two = example(key="b" * 20)
    merged = merge([folder(tmp_path / "one", one), folder(tmp_path / "two", two)], tmp_path / "both")
    assert (merged.brought, merged.there, merged.left_out) == (2, 0, ())
    assert {record.key for record in records.read_all(tmp_path / "both")} == {one.key, two.key}
    np.testing.assert_array_equal(records.samples(one, tmp_path / "both")["latency_s"], one.samples["latency_s"])
    assert records.read_all(tmp_path / "one") == [one], "the source stays as it was"


def test_merging_again_brings_nothing_and_changes_nothing(tmp_path):
    one = folder(tmp_path / "one", example())
    merge([one], tmp_path / "both")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "both/records").iterdir()}
    assert merge([one], tmp_path / "both").there == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "both/records").iterdir()} == before


def test_a_folder_can_be_merged_into_one_that_has_records(tmp_path):
    earlier, later = example(started_at="2026-01-01T00:00:00.000000Z"), example(started_at="2026-01-02T00:00:00.000000Z")
    both = folder(tmp_path / "both", earlier)
    assert merge([folder(tmp_path / "one", later)], both).brought == 1
    assert records.read_all(both) == [earlier, later]


def test_line_ends_that_git_has_changed_are_no_damage(tmp_path):
    path = records.write(example(), tmp_path / "one")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert merge([tmp_path / "one"], tmp_path / "both").left_out == ()
    assert records.read_all(tmp_path / "both") == records.read_all(tmp_path / "one")


def damaged_json(path):
    text = path.read_text()
    assert text.count('"status": "ok"') == 1
    path.write_text(text.replace('"status": "ok"', '"status": "no"'))


def damaged_samples(path):
    content = bytearray(path.with_suffix(".npz").read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.with_suffix(".npz").write_bytes(content)


def older_schema(path):
    path.write_text(records.to_json(replace(example(), schema_version=records.SCHEMA_VERSION - 1)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damaged_json, "checksum"), (damaged_samples, ""), (older_schema, "schema_version"), (lambda path: path.write_text("{"), "not JSON")],
    ids=["json", "samples", "older schema", "half"],
)
def test_what_is_damaged_is_named_and_left_out_and_the_rest_is_brought(tmp_path, damage, words):
    bad = records.write(example(key="b" * 20, samples={"x": np.random.default_rng(0).random(1000)}), tmp_path / "one")
    good = example(key="a" * 20)
    records.write(good, tmp_path / "one")
    damage(bad)
    merged = merge([tmp_path / "one"], tmp_path / "both")
    assert merged.brought == 1
    [(path, reason)] = merged.left_out
    assert path == bad
    assert words in reason
    assert records.read_all(tmp_path / "both") == [good]
    assert bad.exists()


def test_another_record_of_the_same_name_is_not_overwritten(tmp_path):
    both, one = folder(tmp_path / "both", example(duration_s=1.0)), folder(tmp_path / "one", example(duration_s=2.0))
    merged = merge([one], both)
    assert merged.brought == 0
    assert "another record of that name" in merged.left_out[0][1]
    assert records.read_all(both) == [example(duration_s=1.0)]


def test_a_folder_without_records_is_refused_before_anything_is_brought(tmp_path):
    one = folder(tmp_path / "one", example())
    with pytest.raises(DataError, match="nowhere: no records"):
        merge([one, tmp_path / "nowhere"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path):
    (tmp_path / "both").write_text("a file")
    with pytest.raises(HarnessError, match="cannot be written"):
        merge([folder(tmp_path / "one", example())], tmp_path / "both")


def test_the_command_says_what_it_brought_and_fails_where_something_was_left_out(harness, tmp_path):
    folder(tmp_path / "one", example(key="a" * 20))
    (folder(tmp_path / "two", example(key="b" * 20)) / "records/broken.json").write_text("{")
    done = harness("merge", "one", "two", "--into", "both", plugins=False)
    assert done.returncode == 1
    assert "both: 2 records brought, 0 were there already" in done.stdout
    assert "left out: two/records/broken.json: not JSON" in done.stderr
    assert harness("merge", "one", "--into", "both", plugins=False).returncode == 0
    wrong = harness("merge", "nowhere", "--into", "both", plugins=False)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
