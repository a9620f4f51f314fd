"""What planning a large sweep costs, against composing each distinct combination of its choices, which is what cannot be left out.

Without ``--benchmark-enable`` a small sweep is planned, and found to have the cells that it should have.
"""

import time

import numpy as np

from harness.plan import make_plan
from harness.settings import compose_job, composing, expand

CHOICES = ["model=minilm,bge_small_en", "dataset=docstrings", "store=faiss", "index=flat,hnsw,ivf_flat,ivf_sq8,hnsw_sq"]
"""Ten combinations of choices."""
FIXED = ["dataset.corpus=600", "dataset.queries=20"]
LARGE = ["batch_size=range(1,51)", "seed=range(0,10)"]
"""5,000 jobs with the choices above: 1,000 embed and 100 search cells."""
SMALL = ["batch_size=range(1,6)", "seed=range(0,2)"]

GOAL = 1.2


def test_planning_5000_jobs_takes_little_more_than_composing_their_distinct_choices(benchmark, publish, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    axes = LARGE if benchmark.enabled else SMALL
    asked = [*CHOICES, *FIXED, *axes, f"results={tmp_path}"]

    def composing_alone():
        """Compose and check one job of each combination."""
        began = time.perf_counter()
        with composing([]):
            for overrides in expand([*CHOICES, *FIXED], multirun=True):
                compose_job(overrides)
        return time.perf_counter() - began

    def planning():
        began = time.perf_counter()
        plan = make_plan(asked, multirun=True)
        took = time.perf_counter() - began
        seeds, batches = (10, 50) if benchmark.enabled else (2, 5)
        assert len(plan.jobs) == 10 * seeds * batches
        assert [sum(cell.kind == kind for cell in plan.cells) for kind in ("embed", "search")] == [2 * seeds * batches, 10 * seeds]
        return took

    planning()  # data laid out, modules imported
    times = np.asarray([(planning(), composing_alone()) for _ in range(7 if benchmark.enabled else 1)])
    benchmark.pedantic(planning, rounds=1)
    plan_s, composing_s = np.median(times, axis=0)
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    publish(
        plan_of_5000_jobs=f"{plan_s:.2f} s",
        composing_its_10_combinations=f"{composing_s:.2f} s",
        plan_by_its_distinct_compositions=f"{ratio:.2f} (goal {GOAL})",
    )
    if benchmark.enabled:
        assert ratio < 2 * GOAL
