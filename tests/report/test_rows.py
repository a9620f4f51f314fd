"""What may be compared with what, and what a row is called."""

from dataclasses import replace

import pytest

from harness.frame import to_frame
from harness.report import rows as view
from tests.report import examples


def rows_of(records):
    return view.plain(to_frame(records))


POINTS = (examples.point({"ef": 16}, 0.9, 0.010), examples.point({"ef": 64}, 0.99, 0.012))


def hnsw(key="a01", *, points=POINTS, **changes):
    return examples.search("minilm", "docstrings", "hnsw", points, key, **changes)


def test_each_dataset_has_a_section_of_its_own():
    found = view.sections(rows_of(examples.records()))
    assert [section.name for section in found] == ["docstrings", "scenes"]
    for section in found:
        assert {row["dataset"] for row in (*section.embed, *section.search)} == {section.name}


def test_the_same_dataset_in_another_size_is_another_section():
    larger = dict(examples.DATASETS["docstrings"], corpus=50_000, fingerprint="ffff")
    found = view.sections(rows_of([hnsw(), hnsw("a02", data=larger)]))
    assert [section.facts for section in found] == [
        "text, 20,000 documents, 500 queries, 384 dimensions",
        "text, 50,000 documents, 500 queries, 384 dimensions",
    ]
    for section in found:
        assert len(view.compared(section.search)) == 1


def test_rows_are_in_order_of_batch_size_and_search_parameter_as_numbers():
    [section] = view.sections(
        rows_of([
            *(examples.embed("minilm", "docstrings", size, 10.0, f"e0{size % 10}") for size in (128, 8, 32)),
            hnsw(points=tuple(examples.point({"ef": ef}, 0.9, 0.01) for ef in (256, 16, 64))),
        ])
    )  # fmt: skip
    assert [row["batch_size"] for row in section.embed] == [8, 32, 128]
    assert [view.parameters(row["search_params"]) for row in section.search] == ["ef=16", "ef=64", "ef=256"]


def test_random_weights_are_said_in_every_name():
    for row in rows_of(examples.records()):
        for text in (view.model_name(row), view.label(row, (view.INDEX, view.SEARCH)), view.cell_name(row)):
            assert ("random weights" in text) == (row["model"] == "resnet50")


def test_random_weights_take_part_in_no_comparison():
    real, unreal = hnsw(), hnsw("a02", model=dict(examples.MODELS["minilm"], weights="random"))
    compared = view.compared(rows_of([real, unreal]))
    assert [{row["key"] for row in group} for group in compared] == [{"a01"}]


@pytest.mark.parametrize(
    "change",
    [
        {"model": dict(examples.MODELS["minilm"], weights_fingerprint="other")},
        {"model": dict(examples.MODELS["minilm"], dtype="fp16")},
        {"settings": {"metric": "l2"}},
        {"data": dict(examples.DATASETS["docstrings"], fingerprint="other")},
        {"environment": dict(examples.ENVIRONMENT, machine=dict(examples.MACHINE, cpu="another"))},
        {"points": tuple(replace(point, k=100) for point in POINTS)},
        {"points": tuple(replace(point, concurrency=8) for point in POINTS)},
    ],
)
def test_points_over_other_vectors_or_asked_in_another_way_are_not_compared(change):
    assert len(view.compared(rows_of([hnsw(), hnsw("a02", **change)]))) == 2


def test_points_at_a_highest_rate_of_their_own_are_not_compared():
    points = tuple(replace(point, concurrency=None, rate_per_s=None) for point in POINTS)
    assert view.compared(rows_of([hnsw(points=points)])) == []
    at_one_rate = tuple(replace(point, concurrency=None, rate_per_s=100.0) for point in POINTS)
    assert len(view.compared(rows_of([hnsw(points=at_one_rate)]))) == 1


def test_indexes_and_stores_over_the_same_vectors_are_compared():
    other = hnsw("a02")
    other.labels["store"] = "exact"
    assert len(view.compared(rows_of([hnsw(), other]))) == 1


def test_what_varies_is_named_and_what_does_not_is_common():
    found = rows_of(examples.records()[:3])
    assert view.varying(found, view.EMBED_PARTS) == [view.BATCH]
    assert view.constant(found, view.EMBED_PARTS) == ["minilm", "cpu", "fp32"]


def test_two_cells_of_one_name_are_told_apart_by_when_they_were_measured():
    found = rows_of([examples.embed("minilm", "docstrings", 8, 10.0, "e01"), examples.embed("minilm", "docstrings", 8, 11.0, "e02")])
    assert view.varying(found, view.EMBED_PARTS) == [view.MEASURED]


def test_a_caveat_is_listed_once_with_all_its_cells():
    noted = {one.code: one for one in view.caveats(rows_of(examples.records()))}
    assert set(noted) == {"truncated", "store_scans", "random_vectors", "random_weights"}
    assert len(noted["truncated"].cells) == 3
    assert len(noted["store_scans"].cells) == 4
    assert noted["truncated"].text == examples.TRUNCATED[1]


def test_cells_without_a_result_are_kept_apart_from_the_tables():
    found = rows_of(examples.records())
    assert {row["status"] for row in view.unfinished(found)} == {"skipped", "oom", "failed"}
    assert all(row["status"] == "ok" for section in view.sections(found) for row in (*section.embed, *section.search))


def test_every_row_has_an_anchor_of_its_own_that_stays_the_same():
    found = rows_of(examples.many(300))
    anchors = [view.anchor(row) for row in found]
    assert len(set(anchors)) == len(anchors)
    assert anchors == [view.anchor(row) for row in rows_of(examples.many(300))]


def test_a_front_of_a_rate_takes_the_higher_one():
    rows = rows_of(
        [
            hnsw(
                points=(
                    examples.point({"ef": 16}, 0.9, 0.01),
                    examples.point({"ef": 32}, 0.8, 0.02),
                    examples.point({"ef": 64}, 0.99, 0.02),
                )
            )
        ]
    )
    assert [row["recall"] for row in view.front(rows, "qps")] == [0.9, 0.99]


def test_near_a_front_is_what_nobody_of_its_recall_beats_by_a_tenth():
    latencies = {0.90: 0.0100, 0.91: 0.0108, 0.92: 0.0200, 0.95: 0.0104, 0.99: 0.0300}
    points = tuple(examples.point({"ef": number}, recall, seconds) for number, (recall, seconds) in enumerate(latencies.items(), 1))
    [section] = view.sections(rows_of([hnsw(points=points)]))
    brute = {
        recall
        for recall, seconds in latencies.items()
        if all(seconds <= 1.1 * other for better, other in latencies.items() if better >= recall)
    }
    assert {row["recall"] for row in section.search if id(row) in section.near} == brute == {0.90, 0.91, 0.95, 0.99}
    assert {row["recall"] for row in section.search if id(row) in section.fronts} == {0.90, 0.95, 0.99}


def test_of_too_many_rows_those_on_a_front_are_kept_in_their_order():
    [section] = view.sections(rows_of(examples.many(300)))
    kept = section.foremost(section.search, 40)
    assert len(kept) == 40
    assert [row for row in section.search if id(row) in set(map(id, kept))] == kept
    assert {id(row) for row in section.search if id(row) in section.fronts} <= set(map(id, kept))


def under(key, **settings):
    return hnsw(key, settings={"metric": "cosine", **settings})


@pytest.mark.parametrize(
    ("one", "other", "groups"),
    [
        ({"model": {"max_tokens": 128}}, {"model": {"max_tokens": 256}}, 2),
        ({"attention": "sdpa"}, {"attention": "eager"}, 2),
        ({"backend": "torch"}, {"backend": "onnx"}, 2),
        ({"model": {"max_tokens": 128}}, {}, 1),  # of an earlier version, which did not state it
        ({"store": {"uri": "a"}}, {"store": {"uri": "b"}}, 1),
        ({"processes": 3}, {"processes": 5}, 1),
    ],
)
def test_only_settings_that_make_other_vectors_keep_points_apart(one, other, groups):
    rows = rows_of([under("a01", **one), under("a02", **other)])
    assert len(view.compared(rows)) == groups
    assert len(set(map(view.cell_name, rows))) == 2 or not other, "but all of them are told"


def test_a_cell_of_each_kind_is_called_by_what_tells_it_from_others():
    found = [
        examples.embed("minilm", "docstrings", 8, 100.0, "e01"),
        examples.search("minilm", "docstrings", "hnsw", (), "a01"),
        replace(examples.search("minilm", "docstrings", "flat", (), "a02"), kind="serve"),
        examples.workers(2, 93.3, 0.93, "w02"),
    ]
    names = {row["kind"]: view.cell_name(row) for row in view.plain(to_frame(found))}
    assert "batch 8" in names["embed"]
    assert "hnsw" in names["search"]
    assert "flat" in names["serve"]
    assert "workers 2" in names["corpus"]


def test_the_weights_of_a_model_are_told_where_its_name_stands_for_several():
    other = dict(examples.MODELS["minilm"], weights_fingerprint="ffff" * 16)
    mpnet = hnsw("a02", model=other)
    mpnet.labels["model"] = "mpnet"
    assert view.WEIGHTS not in view.varying(rows_of([hnsw(), mpnet]), view.CELL)
    assert view.WEIGHTS in view.varying(rows_of([hnsw(), hnsw("a02", model=other)]), view.CELL)


def test_what_is_null_is_none_and_takes_no_place_and_a_column_that_does_not_exist_is_an_error():
    [row, *_] = rows_of([hnsw()])
    assert row["throughput_per_s"] is None
    assert "throughput_per_s" not in row
    assert row["recall"] == 0.9
    assert isinstance(row["k"], int)
    with pytest.raises(KeyError, match="recal"):
        row["recal"]


def test_a_section_reduced_to_few_rows_has_the_fronts_of_the_whole():
    [section] = view.sections(rows_of(examples.many(300)))
    few = section.reduced(60)
    assert len(few.search) == 60
    assert len(few.embed) == min(60, len(section.embed))
    assert {id(row) for row in few.search if id(row) in few.fronts} == {id(row) for row in section.search if id(row) in section.fronts}
