"""The plan: cells shared by jobs, keys, what exists, the estimate and the budget."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness import cache, cells, fingerprint, frame
from harness.data import open_data
from harness.engine import Engine
from harness.errors import SettingsError
from harness.interfaces import Caveat
from harness.plan import _START_S, fewest_to_tune, make_plan, write_manifest
from harness.progress import Progress
from harness.records import Measured, Record, now, write
from harness.statistics import mean_over_queries
from harness.truth import Cost, key_of
from stores.milvus import Milvus
from tests.conftest import PLUGINS, QUICK
from tests.plugins.parts import HashedWords, NullStore


@pytest.fixture
def plan(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))

    def make(*overrides, multirun=False):
        return make_plan([*QUICK, f"results={tmp_path}", *overrides], multirun=multirun, config_dirs=[str(PLUGINS)])

    return make


def keys(plan, kind):
    return [cell.key for cell in plan.cells if cell.kind == kind]


def test_a_sweep_costs_the_sum_of_its_parts_not_their_product(plan):
    sweep = plan("batch_size=1,8,32", "index=flat,hnsw,ivf_flat", multirun=True)
    assert len(sweep.jobs) == 9
    assert len(keys(sweep, "embed")) == 3
    assert len(keys(sweep, "search")) == 3


def test_batch_size_does_not_touch_search_cells_nor_the_index_embed_cells(plan):
    one, other = plan("batch_size=8"), plan("index=hnsw")
    assert keys(one, "search") != []
    assert keys(one, "search") == keys(plan(), "search")
    assert keys(other, "embed") == keys(plan(), "embed")
    assert keys(one, "embed") != keys(plan(), "embed")
    assert keys(other, "search") != keys(plan(), "search")


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("seed=1", {"embed", "search"}),
        ("processes=3", {"embed", "search"}),
        ("min_duration_s=0.2", {"embed", "search"}),
        ("dataset.seed=1", {"embed", "search"}),
        ("dataset.corpus=100", {"embed", "search"}),
        ("model.dim=16", {"embed", "search"}),
        ("threads=1", {"embed", "search"}),
        ("dtype=bf16", {"embed", "search"}),
        ("k=[5]", {"search"}),
        ("metric=l2", {"search"}),
        ("store.delay_s=0.1", {"search"}),
        ("workload.concurrency=[2]", {"search"}),
        ("workload.rate=[50]", {"search"}),
        ("workload.p99_target_s=0.05", {"search"}),
        ("workload.nq=2", {"search"}),
        ("compile=true", {"embed", "search"}),
        ("exclusive=false", {"embed", "search"}),
        ("exclusive=device", {"embed", "search"}),
        ("exclusive=true", set()),
        ("batch_size=4", {"embed"}),
        ("embed_items=16", {"embed"}),
        ("name=other", set()),
        ("timeout_s=7", set()),
    ],
)
def test_a_setting_changes_the_keys_of_the_cells_whose_numbers_it_can_change(plan, override, changes):
    usual, changed = plan("threads=2"), plan("threads=2", override)
    assert {kind for kind in ("embed", "search") if keys(usual, kind) != keys(changed, kind)} == changes


def test_keys_are_the_same_in_another_run(plan):
    assert [cell.key for cell in plan().cells] == [cell.key for cell in plan().cells]


def test_the_machine_is_part_of_the_key_and_its_name_is_not(plan, monkeypatch):
    before = [cell.key for cell in plan().cells]
    assert "host" not in json.dumps(plan().cells[0].parts).lower()
    monkeypatch.setattr(cells, "machine", lambda: {**fingerprint.machine(), "cpu": "another processor"})
    assert not set(before) & {cell.key for cell in plan().cells}


def test_vectors_do_not_depend_on_the_machine_or_the_batch_size(plan, monkeypatch):
    before = plan().cells[0].recipe
    monkeypatch.setattr(cells, "machine", lambda: {**fingerprint.machine(), "cpu": "another processor"})
    assert plan("batch_size=4").cells[0].recipe == before


def test_another_server_or_version_behind_the_same_settings_is_another_search_cell(plan, monkeypatch):
    monkeypatch.setattr(NullStore, "identity", lambda self: {"server": "http://one:19530", "version": "2.5.4"}, raising=False)
    before = plan()
    assert before.cells[1].settings["engine"]["version"] == "2.5.4"
    monkeypatch.setattr(NullStore, "identity", lambda self: {"server": "http://one:19530", "version": "2.6.0"})
    assert keys(plan(), "search") != keys(before, "search")
    assert keys(plan(), "embed") == keys(before, "embed")


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99])
def test_the_fewest_queries_to_tune_on_are_those_whose_interval_can_reach_the_target(target):
    fewest = fewest_to_tune(target)
    assert mean_over_queries(np.ones(fewest)).lo >= target > mean_over_queries(np.ones(math.floor(fewest * 0.9))).lo


def test_the_source_of_the_plug_ins_and_of_the_measuring_code_is_part_of_the_key(plan):
    embed, search = plan().cells
    assert {"tests.plugins.parts", "harness.embed_cell", "harness.timing", "harness.interfaces"} <= set(embed.parts["source"])
    assert {"tests.plugins.parts", "harness.search_cell", "stores.index"} <= set(search.parts["source"])
    assert "harness.cli" not in search.parts["source"]
    assert not any(name.startswith("harness.report") for name in (*embed.parts["source"], *search.parts["source"]))


def an_ok_record(cell):
    return Record(cell.kind, cell.key, "ok", None, {}, {}, {}, {}, {}, {}, started_at=now())


def test_what_is_measured_is_not_missing_and_what_failed_is(plan):
    embed, search = plan().cells
    write(an_ok_record(embed), plan().folder)
    write(replace(an_ok_record(search), status="failed", error="x"), plan().folder)
    again = plan()
    assert [cell.key for cell in again.missing] == [search.key]
    assert len(plan("fresh=true").missing) == 2


def test_a_failure_after_a_success_is_measured_again(plan):
    embed, _ = plan().cells
    write(an_ok_record(embed), plan().folder)
    write(replace(an_ok_record(embed), status="failed", error="x"), plan().folder)
    assert embed.key not in plan().existing


def test_every_mistake_of_every_job_is_reported_once(plan):
    with pytest.raises(SettingsError) as caught:
        plan("batch_size=0,8,-1", "index=flat,hnsw", "dtype=fp9", multirun=True)
    assert len(caught.value.violations) == 3


def test_an_unsupported_combination_is_refused_alone_and_skipped_in_a_sweep(plan):
    with pytest.raises(SettingsError, match="store=exact has no index HNSW"):
        plan("store=exact", "index=hnsw")
    sweep = plan("store=exact", "index=flat,hnsw", multirun=True)
    assert len(sweep.skipped) == 1
    assert len(keys(sweep, "search")) == 1


def test_the_estimate_is_of_what_is_missing(plan):
    assert plan().seconds > 0
    for cell in plan().cells:
        write(an_ok_record(cell), plan().folder)
    assert plan().seconds == 0


def test_the_estimate_has_each_ground_truth_once_for_all_indexes_until_it_is_there(plan):
    def planned():
        return plan("model=none", "dataset=synthetic", "dataset.corpus=20000", "dataset.dim=64", "filter=[null],[null,0.5]",
                    "metric=cosine,l2", "index=flat,hnsw", multirun=True)  # fmt: skip

    first = planned()
    job = first.jobs[0].job
    whole = Cost(job.dataset.queries, 20_000, 64).guess(job.threads)
    cells_alone = sum(first.estimates[cell.key] for cell in first.cells)
    assert len(first.cells) == 8
    assert first.seconds - cells_alone == pytest.approx(_START_S + 2 * 1.5 * whole), "two metrics, all rows and half of them"
    key = key_of(first.cells[0].data_folder, k=100, metric="cosine", below=None)
    cache.get("truth", key, lambda folder: (folder / "ids.npy").write_bytes(b""))
    assert first.seconds - planned().seconds == pytest.approx(whole)


@pytest.mark.parametrize("left", ["", "{", "[]", "{}"])
def test_vectors_that_were_damaged_keep_nobody_from_planning_nor_an_embed_cell_from_its_record(plan, left, monkeypatch):
    recipe = plan().jobs[0].search.recipe
    folder = cache.get("vectors", f"{recipe}", lambda folder: (folder / "vectors.json").write_text(left))
    (folder / "vectors.json").write_text(left)
    damaged = plan()
    assert damaged.truths[damaged.jobs[0].search.key], "it has to be made"
    with Engine(damaged, Progress(0.0, Console(file=io.StringIO()))) as running:
        record = running._record(damaged.jobs[0].embed, "failed", "for want of an hour", now(), 0.0, None)
    assert record.data["vectors_made_by"] is None


def test_a_budget_shrinks_the_corpus_and_says_so(plan):
    slow = ["dataset.corpus=5000", "dataset.queries=50"]
    free = plan(*slow)
    budget = int(free.seconds - 3)
    tight = plan(*slow, f"budget={budget}s")
    assert tight.seconds <= budget
    job = tight.jobs[0].job
    assert 200 <= job.dataset.corpus < 5000
    assert job.shrunk_from == 5000
    assert "budget" in tight.budget_note
    assert plan(*slow, "budget=10h").jobs[0].job.dataset.corpus == 5000


@pytest.mark.parametrize(
    "swept",
    [
        ["metric=cosine,l2", "k=1,10"],
        ["workload.concurrency=[1],[1,2]", "filter=null,0.5"],
        ["seed=0,1", "threads=1,2"],
        ["batch_size=1,8", "embed_items=16,32"],
        ["store=exact", "index=flat,hnsw"],
    ],
    ids=" ".join,
)
def test_a_budget_is_kept_and_used_whatever_is_swept_over(plan, swept):
    """By what the plan's own cells take, of which only those count that are measured."""
    long = ["dataset.corpus=5000", "dataset.queries=50", *swept]
    budget = int(plan(*long, multirun=True).seconds) - 4
    cut = plan(*long, f"budget={budget}s", multirun=True)
    assert budget - 1 < cut.seconds <= budget


def test_a_budget_that_cannot_be_met_is_refused(plan):
    with pytest.raises(SettingsError, match="budget=1s cannot be met"):
        plan("dataset.corpus=5000", "budget=1s")


def test_the_manifest_lists_the_keys_of_every_job(plan):
    sweep = plan("index=flat,hnsw", multirun=True)
    body = json.loads(Path(write_manifest(sweep, now())).read_text())
    assert [job["cells"] for job in body["jobs"]] == [[one.embed.key, one.search.key] for one in sweep.jobs]


def test_jobs_of_one_sweep_share_one_name(plan):
    with pytest.raises(SettingsError, match="name and results must be the same"):
        plan("name=a,b", multirun=True)


def test_a_budget_comes_to_the_same_corpus_whatever_has_been_measured(plan):
    slow = ["dataset.corpus=5000", "dataset.queries=50", "budget=34s"]
    first = plan(*slow)
    speed = {"pipeline_per_s": Measured(1e-3, "items/s", "higher")}
    write(replace(an_ok_record(first.cells[0]), labels={"model": "hashed_words", "device": "cpu"}, metrics=speed), first.folder)
    assert plan(*slow).jobs[0].job.dataset.corpus == first.jobs[0].job.dataset.corpus < 5000


def test_a_budget_leaves_a_document_for_each_query(plan):
    tight = plan("dataset.corpus=5000", "dataset.queries=300", "model.slow_s=0", "budget=33s")
    assert tight.jobs[0].job.dataset.corpus >= 300


def test_what_computes_the_figures_is_part_of_the_key(plan):
    embed, search = plan().cells
    assert {"harness.statistics", "harness.summary"} <= set(embed.parts["source"])
    figures = {"harness.metrics.recall", "harness.metrics.labels", "harness.groundtruth", "harness.statistics", "harness.summary"}
    assert figures <= set(search.parts["source"])
    assert {"ir-measures", "scipy"} <= set(search.parts["versions"])


def served(monkeypatch):
    """Turn the tests' model into one that is served by an endpoint."""
    monkeypatch.setattr(HashedWords, "counters", dict, raising=False)
    real = HashedWords.locate
    monkeypatch.setattr(HashedWords, "locate", lambda model: replace(real(model), kind="served", source="http://localhost:1/v1 words"))


def test_a_model_behind_an_endpoint_has_no_device_of_this_machine_and_is_not_set_beside_it(plan, monkeypatch):
    here = plan().jobs[0]
    served(monkeypatch)
    there = plan().jobs[0]
    assert there.job.device == "cpu"  # of the client
    assert there.embed.labels["device"] == there.embed.settings["device"] == "endpoint"
    assert "on endpoint" in there.embed.title
    assert there.embed.parts["machine"]["device_name"] == "http://localhost:1/v1 words"
    machines = [frame._machine({"machine": one.embed.parts["machine"]}) for one in (here, there)]
    assert machines[0] != machines[1]
    assert here.search.parts["machine"] == there.search.parts["machine"]  # the store is on this one


def test_what_an_endpoint_decides_by_itself_is_refused_alone_and_skipped_in_a_sweep(plan, monkeypatch):
    served(monkeypatch)
    with pytest.raises(SettingsError) as caught:
        plan("device=cuda", "dtype=bf16", "compile=true", "attention=eager")
    assert [text.partition(":")[0] for text in caught.value.violations] == ["device=cuda", "dtype=bf16", "attention=eager", "compile=true"]
    assert "served by an endpoint, which decides that itself; leave device out" in caught.value.violations[0]
    sweep = plan("device=auto,cpu,cuda", multirun=True)
    assert len(keys(sweep, "embed")) == 1
    assert [one.skip.kind for one in sweep.skipped] == ["embed"]


def test_a_search_cell_makes_its_vectors_on_the_device_of_its_own_job(plan):
    """Not on that of the first job with the same search cell, which may not be there."""
    for one in plan("device=cuda,cpu", multirun=True).jobs:
        assert one.search.job is one.job
        assert cells.embed_spec(one.search)["device"] == one.job.device


@pytest.mark.parametrize(
    ("override", "changes"),
    [("attention=eager", {"embed", "search"}), ("compile=true", {"embed", "search"}), ("interop_threads=2", {"embed"})],
)
def test_how_the_network_is_computed_is_part_of_the_key(plan, override, changes):
    assert {kind for kind in ("embed", "search") if keys(plan(), kind) != keys(plan(override), kind)} == changes


def test_what_a_reader_must_know_of_a_model_is_in_the_records_of_both_kinds(plan, monkeypatch):
    weak = Caveat("weak", "Its vectors say little.")
    monkeypatch.setattr(HashedWords, "caveats", (weak,), raising=False)
    made = plan()
    with Engine(made, Progress(0.0, Console(file=io.StringIO()))) as engine:
        for cell in made.cells:
            assert ("weak", "Its vectors say little.") in engine._caveats(cell, open_data(cell.data_folder), {})


def test_rates_too_low_for_the_time_limit_are_refused_with_what_they_would_take(plan):
    with pytest.raises(SettingsError) as caught:
        plan("workload=open", "workload.rate=[0.1,50]", "workload.min_requests=100", "timeout_s=900")
    assert caught.value.violations == (
        "workload.rate=[0.1,50] with 100 requests at each of 1 operating points takes 1002 s a process, which timeout_s=900 ends before; "
        "raise the lowest rate or timeout_s, or lower workload.min_requests",
    )
    assert plan("workload=open", "workload.rate=[0.1,50]", "workload.min_requests=100", "timeout_s=1100").missing
    changing = ["store=exact", "workload=churn", "workload.churn_per_s=[0.1]", "workload.churn_upserts=0"]
    with pytest.raises(SettingsError, match=r"churn_per_s=\[0\.1\] with 11 insertions at each of 1 operating points takes 220 s"):
        plan(*changing, "timeout_s=200")
    assert plan(*changing, "timeout_s=300").missing


def test_rows_that_are_taken_out_leave_k(plan):
    few = ["store=exact", "workload=churn", "dataset.corpus=64", "dataset.queries=16"]
    with pytest.raises(SettingsError, match="k must be ≤ 58 of 64, got 60"):
        plan(*few, "k=[60]")
    assert plan(*few, "k=[58]").missing


def test_what_a_server_says_of_its_version_holds_for_every_job_of_the_sweep(plan, monkeypatch):
    monkeypatch.setattr(Milvus, "_connect", lambda self, uri, **_: setattr(self, "_version", "2.3.5"))
    monkeypatch.setattr(Milvus, "version", lambda self: "milvus 2.3.5")
    asked = ["store=milvus", "index=ivf_pq", "index.m=8", "filter=[0.5]", "dataset.corpus=400", "dataset.queries=50"]
    sweep = plan(*asked, "seed=1,2", multirun=True)
    assert [len(one.job.unsupported) for one in sweep.jobs] == [1, 1]
    assert "a server before 2.4 answers filtered searches under IVF_PQ wrongly" in sweep.jobs[1].job.unsupported[0]


@pytest.mark.parametrize("override", ["workload.churn_per_s=[5]", "workload.churn_upserts=0.5"])
def test_how_rows_change_is_part_of_the_key_of_a_search_cell(plan, override):
    usual, changed = plan("store=exact", "workload=churn"), plan("store=exact", "workload=churn", override)
    assert keys(usual, "embed") == keys(changed, "embed")
    assert keys(usual, "search") != keys(changed, "search")
