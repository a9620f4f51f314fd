"""What is said of the real loop beside what was computed, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.choose import verify
from harness.choose.candidates import PERCENTILES, gather
from harness.cli import main
from harness.fingerprint import digest
from harness.plan import make_plan, write_manifest
from harness.records import now, write
from harness.summary import percentile
from tests.choose import cells
from tests.conftest import PLUGINS, QUICK


def compared(path, factor):
    """The sentences about a loop that takes `factor` times as long as the sums of what was measured apart."""
    one = gather(cells.folder(path, cells.embed(), cells.search())).candidates[0]
    apart = [np.sort(a + b) for a, b in zip(cells.times(0.01, seed=1), cells.times(0.002, seed=2), strict=True)]
    real = [factor * samples for samples in apart]
    figures = {f"serve_{name}": percentile(real, q) for name, q in PERCENTILES.items()}
    record = replace(one.search, kind="serve", metrics=figures)
    return list(verify._compared(one, record, {f"serve_s_{i}": samples for i, samples in enumerate(real)}))


def test_a_loop_that_takes_what_was_computed_agrees(tmp_path):
    median, tail = compared(tmp_path, 1.0)
    assert "no difference shown" in median
    assert ": median " in median
    assert ": p99 " in tail


def test_a_slower_loop_is_said_to_be_slower_and_by_how_much(tmp_path):
    median, _ = compared(tmp_path, 1.3)
    assert "ratio 1.30" in median
    assert median.endswith("the loop takes longer than was computed.")


def test_what_cannot_be_measured_again_is_an_error_after_the_choice_is_written(tmp_path, capsys):
    folder = cells.folder(tmp_path, cells.embed(), cells.search())
    assert main(["choose", str(folder), "--verify"]) == 1
    said = capsys.readouterr()
    assert "no manifest in" in said.err
    assert "Not verified in a real loop: small · hnsw · ef=64." in said.out
    assert json.loads((folder / "choice.json").read_text())["winner"] == "e0+s0.0"


def test_given_vectors_have_no_loop(tmp_path):
    one = gather(cells.folder(tmp_path, cells.search(about={"weights": "given"}))).candidates[0]
    (words,), failed = verify.verified(tmp_path, [one])
    assert words == f"Not verified in a real loop: {one.name}."
    assert "no query to embed" in str(failed)


def test_what_cannot_be_verified_does_not_take_away_what_was(tmp_path):
    folder = cells.folder(
        tmp_path, cells.embed(), cells.search(points=(cells.point(16), cells.point(64, concurrency=4)), latencies=(0.002, 0.002))
    )
    alone, beside = gather(folder).candidates
    real = [np.sort(a + b) for a, b in zip(cells.times(0.01, seed=1), cells.times(0.002, seed=2), strict=True)]
    figures = {f"serve_{name}": percentile(real, q) for name, q in PERCENTILES.items()}
    samples = {f"serve_s_{i}": one for i, one in enumerate(real)}
    key = digest(verify.loop_settings(alone))[:20]
    write(replace(alone.search, kind="serve", key=key, metrics=figures, points=(), samples=samples), folder)
    words, failed = verify.verified(folder, [alone, beside])
    assert [one.partition(",")[0] for one in words[:2]] == ["Real loop"] * 2
    assert words[2] == f"Not verified in a real loop: {beside.name}."
    assert "under another load" in str(failed)


def test_a_damaged_manifest_is_passed_over(tmp_path, capsys):
    folder = cells.folder(tmp_path, cells.embed(), cells.search())
    (folder / "manifests").mkdir()
    (folder / "manifests" / "x.json").write_text('{"jobs": [')
    assert main(["choose", str(folder), "--verify"]) == 1
    assert "no manifest in" in capsys.readouterr().err


def test_nothing_is_measured_where_nothing_qualifies(tmp_path, capsys):
    folder = cells.folder(tmp_path, cells.embed(), cells.search())
    assert main(["choose", str(folder), "--verify", "--min-recall", "0.999"]) == 1
    said = capsys.readouterr()
    assert "measuring" not in said.out + said.err
    assert "manifest" not in said.err


@pytest.mark.parametrize("budget", [[], ["budget=42s"]])
def test_a_cell_is_found_again_by_its_run_s_manifest_also_where_a_budget_had_cut_its_corpus(tmp_path, shared_cache, monkeypatch, budget):
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    asked = [*QUICK, f"results={tmp_path}", "dataset.corpus=5000", "dataset.queries=50", "metric=cosine,l2", *budget]
    plan = make_plan(asked, multirun=True, config_dirs=[str(PLUGINS)])
    write_manifest(plan, now())
    assert (plan.jobs[0].documents < 5000) == bool(budget)
    for cell in plan.cells:
        record = replace(cells.EMBED, kind=cell.kind, key=cell.key, data={"corpus": plan.jobs[0].documents})
        assert verify._again(plan.folder, record, [str(PLUGINS)]).key == cell.key
