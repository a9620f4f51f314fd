"""The frame: a row a thing measured, null where nothing was, the same columns and types whatever is in it."""

import json
import logging
from dataclasses import replace

import pandas as pd
import pytest

from harness import records
from harness.errors import DataError
from harness.frame import FIGURES, IDENTITY, load_results, to_frame
from harness.records import Measured
from tests.report import examples

# What a user's notebook may rely on.
PROMISED = (
    "kind", "key", "status", "error", "model", "weights", "device", "dtype", "batch_size", "dataset", "corpus", "queries", "dim",
    "store", "index", "build_params", "search_params", "k", "concurrency", "recall", "recall_strict", "search_latency_p50_s",
    "search_latency_p95_s", "search_latency_p99_s", "round_trip_p50_s", "floor_p50_s", "qps", "insert_s", "build_s", "index_bytes",
    "throughput_per_s", "pipeline_per_s", "batch_latency_p50_s", "query_embed_p50_s", "query_embed_p99_s", "peak_rss_bytes",
    "ndcg_at_10", "ndcg_at_10_exact",
)  # fmt: skip


def test_the_promised_columns_exist_with_their_intervals():
    frame = to_frame(examples.records())
    assert not set(PROMISED) - set(frame.columns)
    for name in set(PROMISED) - set(IDENTITY):
        assert {f"{name}_lo", f"{name}_hi", f"{name}_n"} <= set(frame.columns)


def test_an_embed_cell_is_one_row_and_a_search_cell_one_for_each_operating_point():
    found = examples.records()
    frame = to_frame(found)
    rows = frame.groupby("key").size().to_dict()
    assert rows == {record.key: max(len(record.points), 1) for record in found}


def test_columns_and_types_do_not_depend_on_what_was_measured():
    full, empty = to_frame(examples.records()), to_frame([])
    assert list(full.columns) == list(empty.columns)
    assert full.dtypes.to_dict() == empty.dtypes.to_dict()
    only_failed = to_frame([record for record in examples.records() if record.status != "ok"])
    assert only_failed.dtypes.to_dict() == full.dtypes.to_dict()


def test_every_number_of_a_record_is_in_the_frame_and_in_no_other_row():
    for record in examples.records():
        frame = to_frame([record])
        for at, figures in enumerate([{**record.metrics, **point.metrics} for point in record.points] or [record.metrics]):
            for name in FIGURES:
                got = frame.loc[at, [name, f"{name}_lo", f"{name}_hi", f"{name}_n"]]
                want = figures.get(name, Measured(None, "", "none"))
                assert [None if pd.isna(one) else one for one in got] == [want.value, want.lo, want.hi, want.n if name in figures else None]


def test_what_was_not_measured_is_null_with_its_reason_and_never_zero():
    frame = to_frame([examples.embed("minilm", "docstrings", 8, 100.0, "e01")])
    assert frame.loc[0, "query_embed_p99_s"] is pd.NA
    assert json.loads(frame.loc[0, "reasons"])["query_embed_p99_s"] == "300 samples, a 99th percentile needs 662"
    assert frame.loc[0, "recall"] is pd.NA
    assert "recall" not in json.loads(frame.loc[0, "reasons"])


def test_a_measured_zero_stays_zero():
    record = examples.record(
        "embed", "minilm", "docstrings", "e01", metrics={"truncated_share": Measured(0.0, "ratio", "lower", 0.0, 0.0, 9)}
    )
    assert to_frame([record]).loc[0, "truncated_share"] == 0.0


def test_a_points_own_figures_come_before_its_cells():
    point = examples.point({"ef": 16}, 0.9, 0.01)
    record = examples.search("minilm", "docstrings", "hnsw", (point,), "a01")
    record.metrics["recall"] = Measured(0.1, "ratio", "higher")
    assert to_frame([record]).loc[0, "recall"] == 0.9


def test_two_caveats_of_one_code_are_both_told():
    record = examples.record("embed", "minilm", "docstrings", "e01", caveats=(("a", "one."), ("a", "two."), ("a", "one."), ("b", "x")))
    frame = to_frame([record])
    assert frame.loc[0, "caveats"] == "a; b"
    texts = json.loads(frame.loc[0, "caveat_texts"])
    assert "one." in texts["a"]
    assert "two." in texts["a"]


def test_the_unit_that_a_throughput_counts_is_named():
    frame = to_frame([examples.embed("minilm", "docstrings", 8, 100.0, "e01"), examples.embed("resnet50", "scenes", 8, 9.0, "e02")])
    assert dict(zip(frame["dataset"], frame["unit"], strict=True)) == {"docstrings": "tokens", "scenes": "images"}


def test_text_that_no_file_can_hold_is_made_writable():
    record = examples.record("embed", "minilm", "docstrings", "e01", status="failed", error="cannot read b\udcffd")
    assert to_frame([record]).loc[0, "error"] == "cannot read b\\udcffd"


def test_load_results_reads_the_newest_record_of_each_cell(tmp_path):
    older, newer = (examples.embed("minilm", "docstrings", 8, rate, "e01") for rate in (10.0, 20.0))
    records.write(older, tmp_path)
    object.__setattr__(newer, "started_at", "2026-11-03T00:00:00.000000Z")
    records.write(newer, tmp_path)
    assert load_results(str(tmp_path))["throughput_per_s"].tolist() == [20.0]


def test_load_results_says_what_a_folder_lacks(tmp_path, caplog):
    with pytest.raises(DataError, match=r"holds no records.*python -m harness"):
        load_results(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text("{")
    with caplog.at_level(logging.WARNING), pytest.raises(DataError):
        load_results(tmp_path)
    assert "x.json left out" in caplog.text


def test_two_devices_of_one_machine_are_one_machine_and_another_kernel_is_another():
    def machine(**changes):
        environment = dict(examples.ENVIRONMENT, machine=dict(examples.MACHINE, **changes), fingerprint=str(changes))
        return to_frame([examples.embed("minilm", "docstrings", 8, 10.0, "e01", environment=environment)]).loc[0, "machine"]

    assert machine() == machine(device="cpu", device_name="CPU") == machine(device="cuda", device_name="Example GPU")
    assert machine(kernel="6.2.0") != machine()
    assert to_frame([examples.embed("minilm", "docstrings", 8, 10.0, "e01", environment={})]).loc[0, "machine"] is pd.NA


def embed_under(key, **settings):
    record = examples.embed("minilm", "docstrings", 8, 10.0, key)
    return replace(record, settings={**record.settings, **settings})


def others(*found):
    told = to_frame(found).set_index("key")["other_settings"]
    return {key: None if pd.isna(text) else json.loads(text) for key, text in told.items()}


def test_settings_without_a_column_are_told_where_cells_of_one_name_differ_in_them():
    long = {"model": {"max_tokens": 256, "pooling": "mean"}, "attention": "auto", "embed_items": 64}
    short = {"model": {"max_tokens": 128, "pooling": "mean"}, "attention": "auto", "embed_items": 64}
    assert others(embed_under("e01", **long), embed_under("e02", **short)) == {
        "e01": {"model.max_tokens": 256},
        "e02": {"model.max_tokens": 128},
    }


def test_a_setting_that_other_columns_tell_is_not_told_twice():
    assert others(*(examples.embed("minilm", "docstrings", size, 10.0, f"e0{size}") for size in (1, 8))) == {"e01": None, "e08": None}


def test_settings_of_cells_of_other_names_are_no_difference():
    other = embed_under("e02", model={"max_tokens": 512})
    other.labels["model"] = "mpnet"
    assert others(embed_under("e01", model={"max_tokens": 256}), other) == {"e01": None, "e02": None}


def test_a_setting_that_an_earlier_version_did_not_state_is_no_difference():
    assert others(embed_under("e01"), embed_under("e02", backend="torch")) == {"e01": None, "e02": None}
    told = others(embed_under("e01"), embed_under("e02", backend="torch"), embed_under("e03", backend="onnx"))
    assert told == {"e01": {"backend": "torch"}, "e02": {"backend": "torch"}, "e03": {"backend": "onnx"}}, "before there was a choice"


def test_a_cell_timed_beside_others_is_told_from_one_timed_alone():
    """Whose settings state nothing, because it is the rule."""
    told = others(embed_under("e01"), embed_under("e02", exclusive=False))
    assert told == {"e01": {"exclusive": True}, "e02": {"exclusive": False}}


def test_what_makes_the_vectors_is_told_over_all_indexes():
    """Else a graph over texts of 256 tokens would be ranked against exact search over texts of 16."""
    found = []
    for key, index, tokens in (("s01", "hnsw", 256), ("s02", "flat", 16)):
        record = embed_under(key, model={"max_tokens": tokens})
        found.append(replace(record, kind="search", labels={**record.labels, "store": "faiss", "index": index, "device": None}))
    assert others(*found) == {"s01": {"model.max_tokens": 256}, "s02": {"model.max_tokens": 16}}


def test_each_operating_point_has_the_reasons_of_its_cell_and_its_own():
    bare, whole = examples.point({"ef": 16}, 0.9, 0.01), examples.point({"ef": 64}, 0.95, 0.02)
    known = replace(whole, metrics={**whole.metrics, "index_bytes": examples.timing(1e6, "bytes")})
    frame = to_frame([examples.search("minilm", "docstrings", "hnsw", (bare, known), "a01")])
    first, second = map(json.loads, frame["reasons"])
    assert first["index_bytes"] == "the store does not tell the size of an index"
    assert "index_bytes" not in second
    assert first["insert_s"] == second["insert_s"] == "one build: how builds differ is not known"
