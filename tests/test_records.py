"""The record on disk: whole or absent, the same when read back, and never a number that is none."""

import gc
import json
import logging
import math
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import records
from harness.records import Measured, Point, Record, RecordError

finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
mapping = st.dictionaries(st.text(max_size=6), plain, max_size=4)
measured = st.builds(
    Measured,
    value=st.none() | finite,
    unit=st.text(max_size=4),
    better=st.sampled_from(["higher", "lower", "none"]),
    lo=st.none() | finite,
    hi=st.none() | finite,
    n=st.integers(0, 10**6),
    replication=st.sampled_from(["process", "query", "build"]),
    reason=st.none() | st.text(max_size=12),
)
metrics = st.dictionaries(st.text(max_size=6), measured, max_size=3)
points = st.builds(
    Point,
    k=st.integers(1, 1000),
    concurrency=st.integers(1, 64),
    search_params=st.dictionaries(st.text(max_size=6), st.integers(-(2**53), 2**53) | finite, max_size=2),
    metrics=metrics,
)
any_record = st.builds(
    Record,
    kind=st.sampled_from(["embed", "search"]),
    key=st.text("0123456789abcdef", min_size=4, max_size=12),
    status=st.sampled_from(["ok", "oom", "failed", "invalid", "skipped"]),
    error=st.none() | st.text(st.characters(), max_size=20),
    settings=mapping,
    labels=mapping,
    data=mapping,
    model=mapping,
    environment=mapping,
    metrics=metrics,
    points=st.lists(points, max_size=2).map(tuple),
    caveats=st.lists(st.tuples(st.text(max_size=6), st.text(max_size=20)), max_size=2).map(tuple),
    started_at=st.just("2026-11-02T10:00:00.000001Z"),
    duration_s=finite,
)


def example(**changes):
    fields = {
        "kind": "embed", "key": "abcd", "status": "ok", "error": None, "settings": {}, "labels": {}, "data": {}, "model": {},
        "environment": {}, "metrics": {}, "started_at": "2026-11-02T10:00:00.000001Z",
    }  # fmt: skip
    return Record(**(fields | changes))


@given(any_record)
def test_a_record_reads_back_as_it_was(record):
    assert records.from_json(records.to_json(record)) == record


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_record)
def test_a_record_on_disk_reads_back_as_it_was(tmp_path, record):
    path = records.write(record, tmp_path)
    assert records.from_json(path.read_text(encoding="utf-8")) == record


def test_a_file_name_that_is_not_utf_8_does_not_lose_the_record(tmp_path):
    record = example(error="cannot read b\udcffd.txt")
    records.write(record, tmp_path)
    assert records.read_all(tmp_path) == [record]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "lo", "setting", "duration"])
def test_what_is_not_a_number_is_refused_and_leaves_no_file(tmp_path, value, where):
    figure = Measured(1.0, "s", "lower")
    record = {
        "value": example(metrics={"x": replace(figure, value=value)}),
        "lo": example(metrics={"x": replace(figure, lo=value)}),
        "setting": example(settings={"a": [value]}),
        "duration": example(duration_s=value),
    }[where]
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        records.write(record, tmp_path)
    assert records.read_all(tmp_path) == []
    assert not [path for path in (tmp_path / "records").iterdir() if path.suffix != ".npz"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_file_that_holds_not_a_number_is_not_read(constant):
    text = records.to_json(example(duration_s=0.125)).replace("0.125", constant)
    with pytest.raises(RecordError, match=constant):
        records.from_json(text)


def body(**changes):
    return json.dumps({**json.loads(records.to_json(example())), **changes})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        (records.to_json(example())[:-40], "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "schema_version"),
        ("3", "schema_version"),
        (body(schema_version=0), "schema_version is 0"),
        (body(schema_version=records.SCHEMA_VERSION + 1), "measure again"),
        (json.dumps({"schema_version": records.SCHEMA_VERSION}), "not a whole record"),
        (body(metrics=None), "not a whole record"),
        (body(metrics={"x": {"value": 1}}), "not a whole record"),
        (body(points=[{"k": 1}]), "not a whole record"),
        (body(caveats=[["only a code"]]), "not a whole record"),
        (body(surprise=1), "not a whole record"),
    ],
)
def test_what_is_not_a_record_is_left_out_with_a_word_and_the_others_are_read(tmp_path, caplog, text, word):
    good = example()
    records.write(good, tmp_path)
    broken = tmp_path / "records" / "broken-1.json"
    broken.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert records.read_all(tmp_path) == [good]
    [line] = caplog.messages
    assert "broken-1.json" in line
    assert word in line
    assert [path for path, _ in records.scan(tmp_path)[1]] == [broken]


def test_bytes_that_are_no_text_and_a_folder_with_a_records_name_are_left_out(tmp_path):
    good = example()
    records.write(good, tmp_path)
    (tmp_path / "records" / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "records" / "folder.json").mkdir()
    found, left_out = records.scan(tmp_path)
    assert found == [good]
    assert sorted(path.name for path, _ in left_out) == ["binary.json", "folder.json"]


def test_a_folder_without_records_has_none(tmp_path):
    assert records.read_all(tmp_path) == []
    assert records.read_all(tmp_path / "absent") == []


def test_what_a_killed_process_leaves_behind_is_not_read(tmp_path):
    records.write(example(samples={"x": np.arange(3)}), tmp_path)
    whole = next((tmp_path / "records").glob("*.json")).read_bytes()
    (tmp_path / "records" / ".abcd-later.json.123.tmp").write_bytes(whole[:100])
    (tmp_path / "records" / ".abcd-later.123.tmp.npz").write_bytes(b"half")
    assert records.scan(tmp_path) == ([example()], [])


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    records.write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write_atomically(path, b"new, but only half of it arrives")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_samples_are_stored_before_the_record_and_read_back(tmp_path, monkeypatch):
    record = example(samples={"latency_s": np.linspace(0, 1, 5), "ids": [3, 1]})
    order = []
    true_replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (order.append(to.suffix), true_replace(self, to))[1])
    records.write(record, tmp_path)
    assert order == [".npz", ".json"]
    [read] = records.read_all(tmp_path)
    found = records.samples(read, tmp_path)
    np.testing.assert_array_equal(found["latency_s"], record.samples["latency_s"])
    np.testing.assert_array_equal(found["ids"], [3, 1])


def test_a_record_without_samples_has_none(tmp_path):
    records.write(example(), tmp_path)
    assert records.samples(example(), tmp_path) == {}


def test_measuring_again_adds_a_file_and_keeps_the_first(tmp_path):
    first, second = example(), example(started_at="2026-11-02T11:00:00.000001Z")
    assert records.write(first, tmp_path) != records.write(second, tmp_path)
    assert records.read_all(tmp_path) == [first, second]


def at(hour, status="ok", key="abcd"):
    return example(key=key, status=status, started_at=f"2026-11-02T{hour:02d}:00:00.000001Z")


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([at(1), at(2)], at(2)),
        ([at(2), at(1)], at(2)),
        ([at(1), at(2, "failed")], at(2, "failed")),
        ([at(1, "failed"), at(2)], at(2)),
    ],
)
def test_the_newest_record_is_shown_whatever_its_status(found, chosen):
    assert records.newest(found) == [chosen]


def test_each_cell_is_shown_once():
    assert records.newest([at(1), at(1, key="beef"), at(2)]) == [at(2), at(1, key="beef")]


def test_now_is_utc_with_microseconds():
    assert records.now().endswith("Z")
    assert len(records.now()) == len("2026-11-02T10:00:00.000001Z")


def test_a_reader_is_shown_the_latest_of_the_same_settings_data_and_machine_whatever_its_key():
    first = Record(
        "embed", "a" * 20, "ok", None, {"batch_size": 1}, {}, {"fingerprint": "d"}, {}, {"fingerprint": "m"}, {}, started_at="2026-01-01"
    )
    after_an_upgrade = replace(first, key="b" * 20, started_at="2026-01-02")
    failed_later = replace(first, key="c" * 20, status="failed", error="x", started_at="2026-01-03")
    elsewhere = replace(first, key="d" * 20, environment={"fingerprint": "another machine"})
    other_batch = replace(first, key="e" * 20, settings={"batch_size": 2})
    shown = records.current([first, after_an_upgrade, failed_later, elsewhere, other_batch])
    assert {record.key[0] for record in shown} == {"c", "d", "e"}


@given(any_record, st.data())
def test_any_changed_byte_of_a_record_on_disk_is_found(record, data):
    whole = records._sealed(records.to_json(record).encode("utf-8", "backslashreplace"))
    assert records.from_json(whole.decode()) == record
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([data.draw(st.integers(32, 126).filter(lambda byte: byte != whole[place]))]) + whole[place + 1 :]
    try:
        text = changed.decode()
    except UnicodeDecodeError:
        return  # which is found by reading it as text
    with pytest.raises(RecordError):
        records.from_json(text)


def test_a_record_that_was_edited_is_left_out_with_a_word(tmp_path):
    path = records.write(example(duration_s=0.125), tmp_path)
    path.write_text(path.read_text().replace("0.125", "0.120"))
    assert records.scan(tmp_path) == ([], [(path, "its checksum does not fit: it was damaged, or edited, after it had been written")])


def test_a_record_written_before_there_were_checksums_is_read(tmp_path):
    path = records.write(example(), tmp_path)
    path.write_text(records.to_json(example()))
    assert records.read_all(tmp_path) == [example()]


@given(
    st.sampled_from(["<f8", ">f8", "<f4", "<i8", "|b1", "<U3"]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from("CF"),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_are_what_numpy_reads(tmp_path, dtype, shape, order):
    array = np.asarray(np.arange(int(np.prod(shape))).reshape(shape).astype(dtype), order=order)
    record = example(samples={"latency_s_0": array, "other": np.arange(3)})
    path = records.write(record, tmp_path).with_suffix(".npz")
    with np.load(path) as archive:
        wanted = archive["latency_s_0"]
    found = records.samples(record, tmp_path)
    assert set(found) == {"latency_s_0", "other"}
    assert (found["latency_s_0"].dtype, found["latency_s_0"].shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found["latency_s_0"], wanted)
    assert found["latency_s_0"].flags.writeable
    assert set(records.samples(record, tmp_path, beginning=("latency_s_",))) == {"latency_s_0"}


def test_samples_of_python_objects_are_refused(tmp_path):
    record = example()
    path = records.write(record, tmp_path).with_suffix(".npz")
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Python objects"):
        records.samples(record, tmp_path)


def test_damaged_samples_are_an_error_and_no_other_numbers(tmp_path):
    record = example(samples={"x": np.arange(1000.0)})
    path = records.write(record, tmp_path).with_suffix(".npz")
    content = path.read_bytes()
    for at in range(60, len(content) - 200, 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises((ValueError, zipfile.BadZipFile, zlib.error)):
            records.samples(record, tmp_path)


def test_the_collector_of_cycles_is_as_it_was_after_reading(tmp_path):
    records.write(example(), tmp_path)
    assert gc.isenabled()
    records.scan(tmp_path)
    assert gc.isenabled()
    gc.disable()
    try:
        records.scan(tmp_path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_file_with_the_line_ends_of_another_system_is_the_same_record(tmp_path):
    path = records.write(example(), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert records.scan(tmp_path) == ([example()], [])
