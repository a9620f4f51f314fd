"""Which cells belong together, and what never competes."""

import numpy as np
import pytest

from harness.choose.candidates import gather
from harness.errors import DataError
from harness.records import Measured
from harness.search_summary import _load_caveats
from tests.choose.cells import MACHINE, embed, folder, point, search, times

ELSEWHERE = {**MACHINE, "cpu": "Another CPU"}
OTHERWISE = {"churn_per_s": None, "selectivity": None, "target_recall": None}
"""The rest of what a search cell says of an operating point's load."""


def names(field):
    return [one.name for one in field.candidates]


def why(field):
    return " | ".join(f"{what}: {reason}" for what, reason in field.left_out)


def test_every_embed_cell_meets_every_operating_point_on_its_vectors(tmp_path):
    field = gather(
        folder(
            tmp_path,
            embed("e0", batch_size=1),
            embed("e1", batch_size=8),
            embed("e2", model="other"),
            search("s0", points=(point(16), point(64)), latencies=(0.002, 0.003)),
            search("s1", index="ivf_flat"),
            search("s2", model="other"),
        )
    )
    pairs = {(one.embed.key, one.search.key, one.number) for one in field.candidates}
    assert pairs == {(e, s, n) for e in ("e0", "e1") for s, n in (("s0", 0), ("s0", 1), ("s1", 0))} | {("e2", "s2", 0)}
    assert len(set(names(field))) == len(pairs)


@pytest.mark.parametrize("differing", [{"dtype": "fp16"}, {"weights": "w1"}, {"attention": "eager"}, {"model": {"_target_": "x.Y"}}])
def test_cells_of_other_vectors_are_not_paired(tmp_path, differing):
    field = gather(folder(tmp_path, embed("e0"), embed("e1", made_from=differing), search("s0")))
    assert [one.embed.key for one in field.candidates] == ["e0"]
    assert "no search cell on its vectors" in why(field)


def test_cells_of_two_machines_are_never_paired(tmp_path):
    with pytest.raises(DataError, match="no embed cell of the same model, weights, precision and data"):
        gather(folder(tmp_path, embed("e0", machine=ELSEWHERE), search("s0")))


def test_cells_of_other_numbers_of_threads_are_not_paired_but_compete(tmp_path):
    one = {**MACHINE, "threads": 1}
    field = gather(folder(tmp_path, embed("e0"), search("s0"), embed("e1", machine=one), search("s1", machine=one)))
    assert {(found.embed.key, found.search.key) for found in field.candidates} == {("e0", "s0"), ("e1", "s1")}
    assert all("threads=" in name for name in names(field))


def test_several_machines_or_datasets_have_to_be_told_apart(tmp_path):
    two = folder(tmp_path / "machines", embed("e0"), search("s0"), embed("e1", machine=ELSEWHERE), search("s1", machine=ELSEWHERE))
    with pytest.raises(DataError, match=r"one machine, and there are [0-9a-f]{12}, [0-9a-f]{12}; say which with --machine"):
        gather(two)
    other = {"made_from": {"data": "d1"}}
    sizes = folder(
        tmp_path / "sizes",
        embed("e0"),
        search("s0"),
        embed("e1", **other),
        search("s1", made_from={"data": "d1"}, data={"name": "texts", "fingerprint": "d1", "corpus": 5000, "queries": 300, "dim": 8}),
    )
    with pytest.raises(DataError, match="there are texts/1000/d0, texts/5000/d1; say which with --dataset"):
        gather(sizes)
    with pytest.raises(DataError, match="--dataset=texts is more than one"):
        gather(sizes, dataset="texts")
    assert [one.search.key for one in gather(sizes, dataset="texts/5000").candidates] == ["s1"]
    with pytest.raises(DataError, match="--dataset=films is none"):
        gather(sizes, dataset="films")


def test_several_k_have_to_be_told_apart(tmp_path):
    found = folder(tmp_path, embed(), search(points=(point(64, k=10), point(64, k=100)), latencies=(0.002, 0.003)))
    with pytest.raises(DataError, match="k = 10, 100; choose among one of them with --k"):
        gather(found)
    assert [one.number for one in gather(found, k=100).candidates] == [1]
    with pytest.raises(DataError, match="no operating point was measured at --k=7; there are those at k = 10, 100"):
        gather(found, k=7)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed", "error": "the server vanished"}, "failed: the server vanished"),
        ({"about": {"weights": "random"}}, "random weights"),
        ({"about": {"weights": "served"}}, "behind an endpoint"),
        ({"caveats": (("implausible", "faster than light"),)}, "faster than light"),
    ],
)
def test_what_has_no_honest_result_never_competes(tmp_path, changes, reason):
    field = gather(folder(tmp_path, embed(), search("s0"), search("s1", index="bad", **changes)))
    assert [one.search.key for one in field.candidates] == ["s0"]
    assert reason in why(field)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (point(8, selectivity=0.1), "a filter lets 0.1 of the rows through"),
        (point(8, churn_per_s=50.0), "50 rows a second changed meanwhile"),
        (point(8, nq=16), "16 queries a request"),
        (point(8, concurrency=None), "the highest rate that meets a target"),
        (point(8, concurrency=None, rate_per_s=200.0), "did not keep up with 200 requests/s"),
    ],
)
def test_operating_points_of_other_work_never_compete(tmp_path, odd, reason):
    about = {"concurrency": None, "rate_per_s": 200.0, **OTHERWISE, "k": 10, "search_params": {"ef": 8}}
    caveats = tuple(_load_caveats(about, [{"client_cpu": 0.1, "errors": {}, "slip": 0.5}]))
    assert caveats[0][0] == "overload"
    steady = point(8, concurrency=None, rate_per_s=20.0)
    record = search(points=(point(64), odd, steady), latencies=(0.002, 0.002, 0.002), caveats=caveats)
    field = gather(folder(tmp_path, embed(), record))
    assert [one.number for one in field.candidates] == [0, 2]
    assert reason in why(field)


def test_the_overload_of_one_point_leaves_the_others_at_its_rate(tmp_path):
    about = {"concurrency": None, "rate_per_s": 200.0, **OTHERWISE}
    at = {"concurrency": None, "rate_per_s": 200.0}
    over = [{"client_cpu": 0.1, "errors": {}, "slip": 0.5}]
    caveats = tuple(_load_caveats({**about, "k": 10, "search_params": {"ef": 64}}, over))
    record = search(points=(point(16, **at), point(64, **at), point(640, **at)), latencies=(0.002,) * 3, caveats=caveats)
    field = gather(folder(tmp_path, embed(), record))
    assert [one.number for one in field.candidates] == [0, 2]
    assert "search milvus_lite/hnsw on small vectors ef=64 k=10: did not keep up with 200 requests/s" in why(field)


def test_an_overload_that_an_earlier_version_wrote_is_of_every_point_at_its_rate(tmp_path):
    words = "Of 200 requests/s offered 133/s were answered: the queue grows, and latencies with the length of the run."
    points = tuple(point(ef, concurrency=None, rate_per_s=rate) for ef in (16, 64) for rate in (20.0, 200.0))
    record = search(points=points, latencies=(0.002,) * 4, caveats=(("overload", words),))
    assert [one.number for one in gather(folder(tmp_path, embed(), record)).candidates] == [0, 2]


def test_given_vectors_compete_without_embedding(tmp_path):
    field = gather(folder(tmp_path, search(about={"weights": "given"})))
    assert field.candidates[0].embed is None
    assert field.candidates[0].name.startswith("given vectors")
    alone = [float(np.quantile(one, 0.5)) for one in times(0.002, seed=2)]
    assert field.candidates[0].pairs["latency_p50_s"] == pytest.approx(alone)


def test_memory_is_the_model_s_peak_and_the_index_s_and_unknown_where_one_is(tmp_path):
    assert gather(folder(tmp_path / "a", embed(), search())).candidates[0].figures["memory_bytes"].value == 800e6
    record = search()
    blind = {**record.metrics, "peak_rss_bytes": Measured(None, "bytes", "lower", reason="the store runs elsewhere")}
    found = (
        gather(folder(tmp_path / "b", embed(), type(record)(**{**record.__dict__, "metrics": blind}))).candidates[0].figures["memory_bytes"]
    )
    assert found.value is None
    assert "not known" in found.reason


def test_a_server_s_memory_stands_for_that_of_an_index_out_of_this_process(tmp_path):
    record = search()
    server = {
        "peak_rss_bytes": Measured(None, "bytes", "lower", reason="the store runs elsewhere"),
        "server_rss_bytes": Measured(2e9, "bytes", "lower", 1.9e9, 2.1e9, 3, "build"),
    }
    found = gather(folder(tmp_path, embed(), type(record)(**{**record.__dict__, "metrics": {**record.metrics, **server}})))
    assert found.candidates[0].figures["memory_bytes"].value == 2.5e9


def test_batch_sizes_share_the_latest_samples_of_single_queries(tmp_path):
    early = embed("e0", batch_size=1, query_s=0.020, started_at="2026-11-02T09:00:00.000000Z")
    late = embed("e1", batch_size=32, query_s=0.010, started_at="2026-11-02T11:00:00.000000Z")
    alone = gather(folder(tmp_path / "alone", late, search())).candidates[0].pairs["latency_p50_s"]
    found = gather(folder(tmp_path / "both", early, late, search())).candidates
    assert {one.embed.key for one in found} == {"e0", "e1"}
    assert all(one.pairs["latency_p50_s"] == alone for one in found)


def test_per_query_scores_come_along(tmp_path):
    recalls = np.linspace(0, 1, 300)
    field = gather(folder(tmp_path, embed(), search(samples={"recall_0": recalls})))
    assert field.candidates[0].scores["recall"] == pytest.approx(recalls)


def test_a_folder_of_embed_cells_alone_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no search cell was measured, and a choice is of a model and an index"):
        gather(folder(tmp_path, embed("e0"), embed("e1", model="other")))


@pytest.mark.parametrize("asked", [{}, {"dataset": "texts"}, {"machine": "0"}])
def test_a_folder_of_random_weights_alone_says_that_they_never_compete(tmp_path, asked):
    random = {"about": {"weights": "random"}}
    with pytest.raises(DataError, match="search milvus_lite/hnsw on small vectors: random weights"):
        gather(folder(tmp_path, embed(**random), search(**random)), **asked)


@pytest.mark.parametrize("damaged", ["e0", "s0"])
@pytest.mark.parametrize("how", ["cut short", "rubbish", "empty", "gone"])
def test_damaged_samples_leave_latencies_unknown_and_say_so(tmp_path, damaged, how):
    found = folder(tmp_path, embed("e0"), embed("e1", model="other"), search("s0"), search("s1", model="other"))
    (file,) = (found / "records").glob(f"{damaged}-*.npz")
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut short": content[: len(content) // 2], "rubbish": b"x" * 99, "empty": b""}[how])
    field = gather(found)
    latency = {one.search.key: one.figures["latency_p50_s"] for one in field.candidates}
    assert latency["s1"].value is not None
    assert latency["s0"].value is None
    assert latency["s0"].reason == f"the samples of the {'embed' if damaged == 'e0' else 'search'} cell are not there"
    assert ("its samples cannot be read" in why(field)) == (how != "gone")


def test_a_damaged_record_is_named_and_the_others_are_chosen_from(tmp_path, caplog):
    found = folder(tmp_path, embed("e0"), search("s0"), search("s1", index="other"))
    (file,) = (found / "records").glob("s1-*.json")
    file.write_text(file.read_text().replace("hnsw", "HNSW").replace("other", "another"))
    assert [one.search.key for one in gather(found).candidates] == ["s0"]
    assert f"{file} left out: its checksum does not fit" in caplog.text


def test_a_folder_without_records_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no records"):
        gather(tmp_path)
