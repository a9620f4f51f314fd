"""Which rows belong together, and what keeps two from being compared."""

import pytest

from harness.compare.match import match, obstacle, other_definition, other_machine
from harness.compare.rows import chosen, read_side
from tests.compare import made


def sides(tmp_path, base, head):
    return [read_side(made.folder_of(tmp_path / name, *records)).rows for name, records in (("base", base), ("head", head))]


def test_rows_are_matched_on_settings_and_the_others_listed_on_both_sides(tmp_path):
    base, head = sides(
        tmp_path,
        [made.embed(), made.embed(batch_size=32), made.search(knobs=({"ef": 16}, {"ef": 64}))],
        [made.embed(), made.embed(batch_size=64), made.search(knobs=({"ef": 64}, {"ef": 128}))],
    )
    found = match(base, head)
    assert sorted(pair.base.name for pair in found.pairs) == sorted(pair.head.name for pair in found.pairs)
    assert sorted(pair.base.part for pair in found.pairs) == ["build", "embed", "point"]
    assert [(one.row.row["batch_size"], one.row.row["search_params"]) for one in found.only_base] == [(32, None), (None, '{"ef": 16}')]
    assert [(one.row.row["batch_size"], one.row.row["search_params"]) for one in found.only_head] == [(64, None), (None, '{"ef": 128}')]
    assert {one.why for one in found.only_base} == {
        "the nearest row of the other side has batch_size=64",
        "the nearest row of the other side has search_params.ef=128",
    }


@pytest.mark.parametrize("name", ["compile", "attention", "embed_items"])
def test_a_setting_outside_the_columns_makes_another_row(tmp_path, name):
    base, head = sides(tmp_path, [made.embed(settings={name: 1})], [made.embed(settings={name: 2})])
    found = match(base, head)
    assert not found.pairs
    assert len(found.only_base) == len(found.only_head) == 1


def test_how_long_was_measured_makes_no_other_row(tmp_path):
    base, head = sides(tmp_path, [made.embed(processes=3)], [made.embed(processes=5, settings={"min_duration_s": 9.0})])
    assert len(match(base, head).pairs) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"fingerprint": "f" * 64}}, "other data"),
        (
            {"weights": {"weights": "random", "weights_fingerprint": "0" * 64}},
            "other weights: pretrained a1b2a1b2a1b2 / random 000000000000",
        ),
        ({"weights": {"weights_fingerprint": "0" * 64}}, "other weights"),
    ],
)
def test_other_circumstances_are_matched_and_not_compared(tmp_path, change, reason):
    base, head = sides(tmp_path, [made.embed()], [made.embed(**change)])
    [pair] = match(base, head).pairs
    assert pair.obstacle.startswith(reason)


def test_a_cell_that_failed_is_not_compared_and_says_why(tmp_path):
    base, head = sides(tmp_path, [made.embed()], [made.failed(made.embed(), "RuntimeError: no")])
    [pair] = match(base, head).pairs
    assert pair.obstacle == "head is failed: RuntimeError: no"


def test_vectors_of_random_weights_are_not_searched_for_a_comparison(tmp_path):
    weights = {"weights": {"weights": "random"}}
    base, head = sides(tmp_path, [made.search(**weights), made.embed(**weights)], [made.search(**weights), made.embed(**weights)])
    obstacles = {pair.base.part: pair.obstacle for pair in match(base, head).pairs}
    assert obstacles["embed"] == ""
    assert "random weights" in obstacles["point"]
    assert "random weights" in obstacles["build"]


def test_the_machine_is_compared_part_by_part_and_never_by_its_name(tmp_path):
    base, head = sides(tmp_path, [made.embed()], [made.embed(machine={"cores": 4})])
    [pair] = match(base, head).pairs
    assert pair.obstacle == ""
    assert other_machine(pair.base, pair.head) == "other machine: cores 2 / 4"
    assert other_machine(pair.base, pair.base) == ""


@pytest.mark.parametrize(
    ("module", "figures"),
    [
        ("harness.timing", {"search_latency_p50_s"}),
        ("harness.metrics.recall", {"recall"}),
        ("harness.metrics.labels", {"ndcg_at_10"}),
    ],
)
def test_only_the_figures_that_a_source_defines_are_another_metric(tmp_path, module, figures):
    base, head = sides(tmp_path, [made.search()], [made.search(source={module: "x" * 64})])
    [pair] = [pair for pair in match(base, head).pairs if pair.base.part == "point"]
    found = {
        figure
        for figure in ("search_latency_p50_s", "recall", "ndcg_at_10", "index_bytes")
        if other_definition(figure, pair.base, pair.head)
    }
    assert found == figures


def test_settings_that_differ_on_purpose_match_what_is_otherwise_alike(tmp_path):
    base = read_side(
        made.folder_of(tmp_path, made.search(), made.search(store="milvus_lite"), made.search(index="ivf_flat", knobs=({"nprobe": 16},)))
    ).rows
    stores = match(chosen(base, {"store": "faiss", "index": "hnsw"}), chosen(base, {"store": "milvus_lite"}), varied=["store"])
    assert sorted(pair.base.part for pair in stores.pairs) == ["build", "point"]
    assert {pair.head.row["store"] for pair in stores.pairs} == {"milvus_lite"}
    indexes = match(chosen(base, {"index": "hnsw", "store": "faiss"}), chosen(base, {"index": "ivf_flat"}), varied=["index"])
    assert sorted(pair.base.part for pair in indexes.pairs) == ["build", "point"]
    assert not indexes.only_base


def graph(links, *, knobs=({"ef": 16}, {"ef": 64}), **more):
    """A search cell whose index has so many links a row."""
    index = {"_target_": "stores.index.HNSW", "M": links, "ef_construction": 200, "ef": [one["ef"] for one in knobs]}
    return made.search(knobs=knobs, key=f"s-{links}", settings={"index": index}, **more)


def said(pairs):
    """Part, links and knob of both rows of each pair."""
    names = ("index.M", "search_params.ef")
    return sorted((one.base.part, *(side.identity.get(name) for side in (one.base, one.head) for name in names)) for one in pairs)


def test_a_knob_that_differs_on_purpose_frees_nothing_else_of_its_index(tmp_path):
    rows = read_side(made.folder_of(tmp_path, graph(16), graph(32))).rows
    found = match(chosen(rows, {"ef": "16"}), chosen(rows, {"ef": "64"}), varied=["ef"])
    assert said(found.pairs) == [("point", 16, 16, 16, 64), ("point", 32, 16, 32, 64)]
    assert not found.only_base
    assert not found.only_head, "the builds are the same ones and not compared with themselves"


def test_a_build_setting_that_differs_on_purpose_leaves_the_knob_to_be_equal(tmp_path):
    rows = read_side(made.folder_of(tmp_path, graph(16), graph(32, knobs=({"ef": 64}, {"ef": 256})))).rows
    found = match(chosen(rows, {"M": "16"}), chosen(rows, {"M": "32"}), varied=["M"])
    assert said(found.pairs) == [("build", 16, None, 32, None), ("point", 16, 64, 32, 64)]
    assert [one.row.identity["search_params.ef"] for one in (*found.only_base, *found.only_head)] == [16, 256]


def test_which_other_values_a_knob_had_makes_no_other_row(tmp_path):
    base, head = sides(tmp_path, [graph(16)], [graph(16, knobs=({"ef": 64}, {"ef": 256}))])
    assert said(match(base, head).pairs) == [("build", 16, None, 16, None), ("point", 16, 64, 16, 64)]


def test_a_setting_of_the_model_that_differs_on_purpose_excuses_no_other_weights(tmp_path):
    def pooled(how, **weights):
        settings = {"model": {"_target_": "models.minilm", "pooling": how, "source": "a/b"}}
        return made.embed(key=f"e-{how}", settings=settings, weights=weights)

    def pair(*records, varied="pooling"):
        rows = read_side(made.folder_of(tmp_path / str(len(list(tmp_path.iterdir()))), *records)).rows
        [found] = match(chosen(rows, {"pooling": "mean"}), chosen(rows, {"pooling": "cls"}), varied=[varied]).pairs
        return found

    assert pair(pooled("mean"), pooled("cls")).obstacle == ""
    assert pair(pooled("mean"), pooled("cls", weights_fingerprint="9" * 64)).obstacle.startswith("other weights")
    assert pair(pooled("mean"), pooled("cls", weights_fingerprint="9" * 64), varied="model").obstacle == ""


def test_where_the_setting_says_which_weights_others_are_the_point(tmp_path):
    def of(source, mark):
        settings = {"model": {"_target_": "models.minilm", "source": source}}
        return made.embed(key=f"e-{mark}", settings=settings, weights={"weights_fingerprint": mark * 64})

    rows = read_side(made.folder_of(tmp_path, of("a/b", "1"), of("c/d", "2"))).rows
    [pair] = match(chosen(rows, {"source": "a/b"}), chosen(rows, {"source": "c/d"}), varied=["source"]).pairs
    assert pair.obstacle == ""


def test_several_partners_are_not_guessed_at(tmp_path):
    rows = read_side(
        made.folder_of(
            tmp_path, made.search(knobs=({"ef": 16}, {"ef": 64})), made.search(index="ivf_flat", knobs=({"nprobe": 4}, {"nprobe": 16}))
        )
    ).rows
    found = match(chosen(rows, {"index": "hnsw"}), chosen(rows, {"index": "ivf_flat"}), varied=["index"])
    assert [pair.base.part for pair in found.pairs] == ["build"]
    assert len(found.only_base) == len(found.only_head) == 2
    assert "name one of each" in found.only_base[0].why


def test_other_weights_are_the_point_where_two_models_are_compared(tmp_path):
    other = made.embed(model="mpnet", key="e-mpnet", weights={"weights_fingerprint": "9" * 64})
    rows = read_side(made.folder_of(tmp_path, made.embed(), other)).rows
    [pair] = match(chosen(rows, {"model": "minilm"}), chosen(rows, {"model": "mpnet"}), varied=["model"]).pairs
    assert pair.obstacle == ""
    assert obstacle(pair.base, pair.head) != ""


def test_of_two_machines_on_one_side_the_same_one_is_taken(tmp_path):
    base, head = sides(
        tmp_path,
        [made.embed(key="e1", seed=1, machine={"cores": 4}), made.embed(key="e2", seed=2)],
        [made.embed(key="e1", machine={"cores": 4})],
    )
    [pair] = match(base, head).pairs
    assert pair.base.record.key == "e1"
