"""Sentences that name a best one, and what they may not say."""

import re

from harness.frame import to_frame
from harness.records import Measured, Point
from harness.report.rows import plain, sections
from harness.report.summary import best, findings, overview, unmeasured
from tests.report import examples


def said(*records):
    return " ".join(sentence for section in sections(plain(to_frame(records))) for sentence in findings(section))


def point(ef, recall, latency, spread=0.01):
    return Point(
        10,
        1,
        {"ef": ef},
        {"recall": examples.score(recall, recall - 0.01, recall), "search_latency_p50_s": examples.timing(latency, spread=spread)},
    )


def hnsw(*points, key="a01", **changes):
    return examples.search("minilm", "docstrings", "hnsw", points, key, **changes)


def test_what_was_measured_is_counted_by_cell():
    text = " ".join(overview(plain(to_frame(examples.records()))))
    assert "4 embed cells and 4 search cells with 10 operating points were measured between 2026-11-02 10:01 and 10:08 UTC." in text
    assert "Without a result: 1 failed, 1 ran out of memory and 1 skipped." in text
    assert "resnet50 (random weights)" in text


def test_nothing_measured_is_said():
    assert (
        overview(plain(to_frame([examples.record("embed", "minilm", "docstrings", "e01", status="failed", error="x")])))[0]
        == "No cell was measured."
    )


def test_the_fastest_point_with_enough_recall_is_named_not_the_fastest():
    text = said(hnsw(point(16, 0.90, 0.010), point(64, 0.96, 0.012), point(256, 0.99, 0.020)))
    assert "hnsw · ef=64 has the lowest median latency: 12.0 ms [11.9, 12.1] at a recall of 0.960" in text
    assert "cannot be told apart" not in text


def test_points_whose_intervals_overlap_are_said_to_be_alike():
    text = said(hnsw(point(64, 0.96, 0.0120, 0.05), point(128, 0.97, 0.0121, 0.05), point(256, 0.99, 0.020)))
    assert "the interval overlaps with hnsw · ef=128, so these cannot be told apart" in text


def test_without_intervals_the_difference_may_be_chance():
    bare = Point(10, 1, {"ef": 64}, {"recall": examples.score(0.97, 0.96, 0.98), "search_latency_p50_s": Measured(0.01, "s", "lower", n=1)})
    assert "may be chance" in said(hnsw(bare, point(256, 0.99, 0.020)))


def test_where_no_point_is_good_enough_that_is_said():
    assert "No operating point reached a recall@10 of 0.95; the highest is 0.910" in said(
        hnsw(point(16, 0.90, 0.010), point(64, 0.91, 0.012))
    )


def test_random_weights_are_never_the_best():
    unreal = dict(examples.MODELS["minilm"], weights="random")
    fast = hnsw(point(1, 1.0, 0.0001), point(2, 1.0, 0.0002), key="a02", model=unreal)
    assert "random" not in said(hnsw(point(64, 0.96, 0.012), point(256, 0.99, 0.020)), fast)
    assert said(fast) == ""
    embed = examples.embed("minilm", "docstrings", 8, 900.0, "e03", model=unreal)
    slower = [examples.embed("minilm", "docstrings", size, 10.0 * size, f"e0{size}") for size in (1, 8)]
    assert "with minilm · batch 8." in said(*slower, embed)


def test_one_row_is_not_a_best():
    words = said(examples.embed("minilm", "docstrings", 8, 900.0, "e03"), hnsw(point(64, 0.96, 0.012)))
    assert "highest pipeline" not in words
    assert "Of the operating points" not in words


def test_what_of_a_latency_no_index_can_change_is_told_where_it_is_most_of_it():
    words = said(hnsw(point(16, 0.90, 0.010), point(64, 0.96, 0.012)))
    assert "On milvus_lite, 9.20 of the 12.0 ms [11.9, 12.1] of even the slowest operating point are not the index" in words
    assert "not the index" not in said(hnsw(point(16, 0.90, 0.010), point(64, 0.96, 0.050)))
    assert "not the index" not in said(hnsw(point(16, 0.90, 0.005))), "a floor above the latency says nothing"


def test_machines_are_not_ranked_against_each_other():
    other = dict(examples.ENVIRONMENT, machine=dict(examples.MACHINE, cpu="another"))
    text = said(
        examples.embed("minilm", "docstrings", 1, 10.0, "e01"),
        examples.embed("minilm", "docstrings", 8, 20.0, "e02"),
        examples.embed("minilm", "docstrings", 1, 100.0, "e03", environment=other),
        examples.embed("minilm", "docstrings", 8, 200.0, "e04", environment=other),
    )
    assert len(set(re.findall(r"with minilm · batch 8 on machine ([0-9a-f]{8})\.", text))) == 2


def test_an_interval_within_one_process_is_marked_in_sentences():
    text = said(examples.embed("minilm", "docstrings", 1, 10.0, "e01", n=1), examples.embed("minilm", "docstrings", 8, 20.0, "e02", n=1))
    assert "]†" in text


def bests(*records):
    [section] = sections(plain(to_frame(records)))
    return best(section)


def test_the_fastest_at_each_recall_is_named_with_what_cannot_be_told_apart():
    found = bests(hnsw(point(16, 0.90, 0.0100), point(64, 0.96, 0.0120), point(128, 0.97, 0.0121), point(256, 0.995, 0.0200)))
    assert [(one.target, one.name, one.alike) for one in found] == [
        ("recall@10 ≥ 0.90", "hnsw · ef=16", ""),
        ("recall@10 ≥ 0.95", "hnsw · ef=64", "hnsw · ef=128"),
        ("recall@10 ≥ 0.99", "hnsw · ef=256", ""),
    ]
    assert found[1].latency == "12.0 ms [11.9, 12.1]"
    assert {one.context for one in found} == {""}


def test_a_recall_that_nobody_reaches_is_said_with_the_highest():
    last = bests(hnsw(point(16, 0.90, 0.010), point(64, 0.97, 0.012)))[-1]
    assert (last.name, last.recall) == ("", "none; the highest is 0.970")


def test_models_and_loads_are_told_apart_and_random_weights_are_no_candidate():
    other = dict(examples.MODELS["minilm"], weights_fingerprint="other")
    mpnet = hnsw(point(16, 0.99, 0.010), point(64, 0.999, 0.012), key="a02", model=other)
    mpnet.labels["model"] = "mpnet"
    unreal = hnsw(point(1, 1.0, 0.0001), point(2, 1.0, 0.0002), key="a03", model=dict(examples.MODELS["minilm"], weights="random"))
    found = bests(hnsw(point(16, 0.99, 0.020), point(64, 0.999, 0.022)), mpnet, unreal)
    assert [one.context for one in found] == ["minilm"] * 3 + ["mpnet"] * 3


def test_where_the_index_dominates_that_is_said():
    assert "On milvus_lite, the index dominates the median latencies" in said(hnsw(point(16, 0.90, 0.050), point(64, 0.96, 0.090)))
    assert "takes 10 % to 18 % of them" in said(hnsw(point(16, 0.90, 0.050), point(64, 0.96, 0.090)))
    assert "is 18 % to 92 % of the median latencies" in said(hnsw(point(16, 0.90, 0.010), point(64, 0.96, 0.050)))


def test_what_was_not_measured_is_counted_by_reason():
    found = unmeasured(plain(to_frame(examples.records())))
    assert found[0].rows == max(one.rows for one in found)
    told = {(one.figure, one.reason): one.rows for one in found}
    assert told["Build: size", "the store does not tell the size of an index"] == 10
    assert told["One query: p99", "300 samples, a 99th percentile needs 662"] == 4


def test_groups_over_vectors_of_other_settings_are_told_apart():
    records = [
        hnsw(point(16, 0.99, 0.010), point(64, 0.999, 0.012), key=key, settings={"metric": "cosine", "model": {"max_tokens": tokens}})
        for key, tokens in (("a01", 128), ("a02", 256))
    ]
    assert [one.context for one in bests(*records)] == ["model.max_tokens=128"] * 3 + ["model.max_tokens=256"] * 3
    assert ", model.max_tokens=256, hnsw · ef=16 has the lowest median latency" in said(*records)


def test_two_stores_of_one_name_are_told_apart_in_a_ranking():
    records = [
        hnsw(point(16, 0.99, latency), key=key, settings={"metric": "cosine", "store": {"uri": key}})
        for key, latency in (("a01", 0.010), ("a02", 0.020))
    ]
    assert bests(*records)[0].name == "hnsw · ef=16 · store.uri=a01"
