"""How often the intervals cover, live: the same cells measured again and again in fresh processes.

    python -m tests.benchmarks.live_coverage FOLDER [REPEATS] [OVERRIDE …]

Every repetition is a whole run of the program (``fresh=true``), so its processes share nothing with those of another; records are
append-only, so all of them lie in one folder. For each timing the long-run value is the geometric mean over all repetitions, and
what is printed is the share of repetitions whose 95 % interval contains it, with that share's own (Clopper-Pearson) interval.
A machine that changes its speed for minutes at a time lowers the share: three processes within a run cannot see that.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from harness import run
from harness.records import Measured, Record, read_all

TIMINGS = (
    "throughput_per_s",
    "pipeline_per_s",
    "batch_latency_p50_s",
    "query_embed_p50_s",
    "search_latency_p50_s",
    "search_latency_p95_s",
    "qps",
)


def figures(record: Record) -> dict[str, Measured]:
    """Return a record's timings that have an interval, operating points told apart by their search parameters."""
    found = {f"{record.kind} {name}": figure for name, figure in record.metrics.items()}
    for point in record.points:
        found |= {f"{record.kind} {name} {dict(point.search_params)}": figure for name, figure in point.metrics.items()}
    return {name: figure for name, figure in found.items() if name.split()[1] in TIMINGS and figure.lo is not None}


def coverage(records: list[Record]) -> dict[str, tuple[int, int]]:
    """Return for each timing how many intervals cover the long-run value, and of how many."""
    by_name: dict[str, list[Measured]] = {}
    for record in records:
        for name, figure in figures(record).items():
            by_name.setdefault(name, []).append(figure)
    counts = {}
    for name, repeated in by_name.items():
        long_run = float(np.exp(np.mean(np.log([figure.value for figure in repeated]))))
        counts[name] = (sum(figure.lo <= long_run <= figure.hi for figure in repeated), len(repeated))
    return counts


def main(folder: str, repeats: int = 20, *overrides: str) -> None:
    """Repeat, then print a line a timing and one for all."""
    where = Path(folder)
    for number in range(repeats):
        run(f"results={where.parent}", f"name={where.name}", "fresh=true", *overrides)
        print(f"repetition {number + 1} of {repeats}", flush=True)
    counts = coverage([record for record in read_all(where) if record.status == "ok"])
    for name, (hit, of) in counts.items():
        print(f"{name}: {hit} of {of}")
    hits, total = sum(hit for hit, _ in counts.values()), sum(of for _, of in counts.values())
    bounds = binomtest(hits, total).proportion_ci(0.95)
    print(f"all: {hits} of {total} = {hits / total:.1%} [{bounds.low:.1%}, {bounds.high:.1%}], figures of one run taken as independent")


if __name__ == "__main__":
    main(sys.argv[1], *([int(sys.argv[2])] if len(sys.argv) > 2 else []), *sys.argv[3:])
