"""``batch_size=auto`` and running out of memory, in whole runs: a model with a known knee, and one whose memory grows with its batch."""

import json
import re

import pytest

from harness import load_results
from harness.errors import SettingsError
from harness.plan import make_plan
from harness.records import Measured, Record, now, write
from tests.conftest import PLUGINS, QUICK

ROOFLINE = ["model=roofline", *QUICK[1:], "embed_items=16"]
HUNGRY = [
    *ROOFLINE,
    "processes=1",
    "model.fixed_s=0.1",
    "model.per_item_s=0",
    "model.bytes_per_item=10_000_000",
    "model.spare_bytes=500_000_000",
]
"""Batches of up to 32 fit, 64 (640 MB) do not."""


def records(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "results/default/records").glob("*.json"))]


def by_batch_size(folder):
    return {record["settings"]["batch_size"]: record for record in records(folder) if record["kind"] == "embed"}


@pytest.fixture
def plan(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))

    def make(*overrides, multirun=False):
        return make_plan([*ROOFLINE, f"results={tmp_path}", *overrides], multirun=multirun, config_dirs=[str(PLUGINS)])

    return make


def outcome(cell, rate=None, status="ok"):
    metrics = {} if rate is None else {"throughput_per_s": Measured(rate, "items/s", "higher")}
    return Record(cell.kind, cell.key, status, None, cell.settings, cell.labels, {}, {}, {}, metrics, started_at=now())


# ------------------------------------------------------------------------------------------- the plan


def test_auto_plans_every_power_of_two_up_to_the_corpus_as_the_cells_that_a_sweep_has(plan):
    curve = plan("batch_size=auto", "dataset.corpus=120").jobs[0].curve
    assert [cell.job.batch_size for cell in curve] == [1, 2, 4, 8, 16, 32, 64]
    assert curve[3].key == plan("batch_size=8", "dataset.corpus=120").jobs[0].embed.key
    assert plan("batch_size=auto", "dataset.corpus=128").jobs[0].curve[-1].job.batch_size == 128


def test_the_search_cell_is_the_same_as_with_any_batch_size(plan):
    assert plan("batch_size=auto").jobs[0].search.key == plan("batch_size=4").jobs[0].search.key


def test_what_has_been_measured_of_a_curve_is_taken_and_its_end_ends_it(plan):
    whole = plan("batch_size=auto")
    for cell, rate in zip(whole.jobs[0].curve, [10, 20, 20.1, 20.2], strict=False):
        write(outcome(cell, rate), whole.folder)
    after = plan("batch_size=auto")
    assert [cell.job.batch_size for cell in after.cells if cell.kind == "embed"] == [1, 2, 4, 8]
    assert [cell.kind for cell in after.missing] == ["search"]
    assert after.seconds < whole.seconds
    assert len(plan("batch_size=auto", "fresh=true").missing) == 8


def test_a_gap_in_a_curve_leaves_its_end_open(plan):
    whole = plan("batch_size=auto")
    curve = whole.jobs[0].curve
    for cell, rate in ((curve[0], 10), (curve[2], 10), (curve[3], 10)):
        write(outcome(cell, rate), whole.folder)
    assert [cell.job.batch_size for cell in plan("batch_size=auto").missing if cell.kind == "embed"] == [2, 16, 32, 64]


@pytest.mark.parametrize(("status", "missing"), [("oom", []), ("failed", [4, 8, 16, 32, 64]), ("invalid", [4, 8, 16, 32, 64])])
def test_running_out_of_memory_is_the_end_of_a_curve_and_a_failure_is_tried_again(plan, status, missing):
    whole = plan("batch_size=auto")
    curve = whole.jobs[0].curve
    write(outcome(curve[0], 10), whole.folder)
    write(outcome(curve[1], 20), whole.folder)
    write(outcome(curve[2], status=status), whole.folder)
    assert [cell.job.batch_size for cell in plan("batch_size=auto").missing if cell.kind == "embed"] == missing


def test_a_batch_asked_for_by_itself_that_did_not_fit_is_tried_again(plan):
    first = plan("batch_size=64")
    write(outcome(first.jobs[0].embed, status="oom"), first.folder)
    assert first.jobs[0].embed.key in {cell.key for cell in plan("batch_size=64").missing}


def test_a_budget_counts_all_that_a_curve_may_need(plan):
    long = ["batch_size=auto", "dataset.corpus=4000", "dataset.queries=50", "model.fixed_s=0", "min_duration_s=6"]
    free = plan(*long)
    cut = plan(*long, f"budget={int(free.seconds) - 20}s")
    assert cut.seconds <= int(free.seconds) - 20
    assert cut.jobs[0].documents < 4000
    assert len(cut.jobs[0].curve) < len(free.jobs[0].curve)


def test_a_word_that_is_neither_auto_nor_a_number_is_refused(plan):
    with pytest.raises(SettingsError, match="batch_size must be auto or a whole number ≥ 1, got 'Auto'"):
        plan("batch_size=Auto")


# ------------------------------------------------------------------------------------------ whole runs


def test_auto_doubles_until_the_rate_rises_no_more_names_the_knee_and_the_second_run_measures_nothing(harness, tmp_path):
    done = harness(*ROOFLINE, "batch_size=auto")
    assert done.returncode == 0, done.stderr
    assert "1 job, at most 7 embed + 1 search cells; 0 measured already, 8 to measure, at most " in done.stderr
    found = by_batch_size(tmp_path)
    assert sorted(found) == [2**power for power in range(len(found))]
    assert len(found) >= 4
    assert {record["status"] for record in found.values()} == {"ok"}
    rates = {size: found[size]["metrics"]["throughput_per_s"]["value"] for size in sorted(found)}
    assert rates[2] / rates[1] > 1.5
    assert rates[4] / rates[2] > 1.5
    knee = next(size for size in rates if all(rates[larger] <= 1.05 * rates[size] for larger in rates if larger > size))
    assert knee >= 4
    assert f"throughput knee at batch {knee} (" in done.stdout
    before = len(records(tmp_path))
    again = harness(*ROOFLINE, "batch_size=auto")
    assert again.returncode == 0
    assert f"{len(found)} embed + 1 search cells; {len(found) + 1} measured already, 0 to measure" in again.stderr
    assert f"throughput knee at batch {knee} (" in again.stdout
    assert len(records(tmp_path)) == before
    assert list(load_results(tmp_path / "results/default").batch_size.dropna()) == sorted(found)


def test_a_plan_with_auto_shows_every_batch_size_that_may_be_needed(harness):
    shown = harness("plan", *ROOFLINE, "batch_size=auto").stdout
    assert re.findall(r"batch (\d+): about \d+ s$", shown, re.MULTILINE) == ["1", "2"]
    assert re.findall(r"batch (\d+): about \d+ s, if the rate still rises$", shown, re.MULTILINE) == ["4", "8", "16", "32", "64"]


@pytest.mark.slow
def test_a_curve_ends_where_memory_does_which_is_a_result(harness, tmp_path):
    done = harness(*HUNGRY, "batch_size=auto")
    assert done.returncode == 0, done.stderr
    assert {size: record["status"] for size, record in by_batch_size(tmp_path).items()} == {
        1: "ok", 2: "ok", 4: "ok", 8: "ok", 16: "ok", 32: "ok", 64: "oom",
    }  # fmt: skip
    assert "memory ran out: Unable to allocate" in by_batch_size(tmp_path)[64]["error"]
    assert "throughput knee at batch 32 (" in done.stdout
    assert "memory ran out at the next" in done.stdout
    assert "0 to measure" in harness(*HUNGRY, "batch_size=auto").stderr


def test_larger_batches_of_a_model_that_ran_out_of_memory_are_skipped_and_the_sweep_goes_on(harness, tmp_path):
    done = harness("-m", *HUNGRY, "batch_size=64,100,8")
    assert done.returncode == 1
    found = by_batch_size(tmp_path)
    assert {size: record["status"] for size, record in found.items()} == {64: "oom", 100: "skipped", 8: "ok"}
    assert found[100]["error"].startswith("memory ran out at batch_size=64, so this larger batch of the same was not tried")
    assert "2 of 4 cells have no result" in done.stderr
    assert {record["status"] for record in records(tmp_path) if record["kind"] == "search"} == {"ok"}
