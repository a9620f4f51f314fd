"""What planning a large sweep costs: against composing each distinct combination of its choices, which is what cannot be left out."""

import time

import pytest

from harness.plan import make_plan
from harness.settings import compose_job, composing, expand

SWEEP = [
    "model=minilm,bge_small_en", "dataset=docstrings", "dataset.corpus=600", "dataset.queries=20", "store=faiss",
    "index=flat,hnsw,ivf_flat,ivf_sq8,hnsw_sq", "batch_size=range(1,51)", "seed=range(0,10)",
]  # fmt: skip
"""2 models × 5 indexes × 50 batch sizes × 10 seeds: 5,000 jobs, 10 combinations of choices, 1,000 embed and 100 search cells."""


@pytest.mark.slow
def test_5000_jobs_are_planned_in_a_fraction_of_the_time_that_composing_each_takes(tmp_path, shared_cache, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_plan([*SWEEP[:-2], f"results={tmp_path}"], multirun=True)  # data laid out, modules imported
    with composing([]):
        jobs = expand(SWEEP, multirun=True)
        assert len(jobs) == 5000
        began = time.perf_counter()
        for overrides in jobs[::500]:
            compose_job(overrides)
        each_s = (time.perf_counter() - began) / 10
    began = time.perf_counter()
    plan = make_plan([*SWEEP, f"results={tmp_path}"], multirun=True)
    plan_s = time.perf_counter() - began
    assert len(plan.cells) == 1100
    with capsys.disabled():
        print(f"\nplan of 5,000 jobs: {plan_s:.1f} s; composing one job: {1e3 * each_s:.0f} ms, so all of them {5000 * each_s:.0f} s")
    assert plan_s < 5000 * each_s / 5
