"""A corpus larger than what may be held: generated, searched exactly, loaded into stores, reported, within a stated memory.

``conf/sweep/million.yaml`` as a person runs it, its processes watched from outside. With ``--benchmark-enable -m slow`` a million rows of
384 dimensions go through FAISS and the real Milvus server; without, ten times as many rows go into a store that keeps none, and may not
cost memory.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.records import read_all
from tests.conftest import PLUGINS, own_environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc, which only Linux has")

ENGINES = ("milvus", "etcd", "minio")
"""Programs that are an engine's own."""


class Peaks:
    """The largest resident set of each process below one, and of those of the harness the most held at once."""

    def __init__(self):
        self.of = {}
        self.harness_at_once = 0

    def look(self, root):
        together = 0
        for process in [root, *root.children(recursive=True)]:
            try:
                words = process.cmdline()
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue
            found = dict(re.findall(r"^(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", status, re.MULTILINE))
            if "VmHWM" not in found or not words:
                continue
            engine = Path(words[0]).name.startswith(ENGINES)
            key = (process.pid, engine)
            self.of[key] = max(self.of.get(key, 0), int(found["VmHWM"]) * 1024)
            together += 0 if engine else int(found["RssAnon"]) * 1024
        self.harness_at_once = max(self.harness_at_once, together)

    @property
    def harness(self):
        """The largest process of the harness."""
        return max(peak for (_, engine), peak in self.of.items() if not engine)


def watched(arguments, folder, every_s):
    """Run the program; returns its seconds, output and peaks."""
    peaks, began = Peaks(), time.monotonic()
    command = [sys.executable, "-m", "harness", *arguments]
    out = (folder / "out.txt").open("w+")
    with out, subprocess.Popen(command, cwd=folder, env=own_environment(folder / "cache"), stdout=out, stderr=subprocess.STDOUT) as run:
        root = psutil.Process(run.pid)
        while run.poll() is None:
            peaks.look(root)
            time.sleep(every_s)
        out.seek(0)
        text = out.read()
    assert run.returncode == 0, text
    return time.monotonic() - began, text, peaks


def test_ten_times_as_many_rows_take_no_more_memory_of_the_harness(tmp_path):
    """The store keeps nothing; so what grows is the harness's own: planning, ground truth, loading, recall, reports."""
    found = {}
    for rows in (100_000, 1_000_000):
        folder = tmp_path / str(rows)
        (folder / "cache").mkdir(parents=True)
        settings = [f"dataset.corpus={rows}", "dataset.dim=64", "dataset.queries=30", "processes=1", "min_duration_s=0.1"]
        settings += ["model=none", "dataset=synthetic", "store=nothing", "index=flat", "workload.min_requests=20", "threads=1"]
        _, _, peaks = watched([*settings, "--config-dir", str(PLUGINS)], folder, every_s=0.02)
        found[rows] = peaks.harness
    corpus = 1_000_000 * 64 * 4
    assert found[1_000_000] - found[100_000] < 0.4 * corpus, {rows: f"{peak / 2**20:.0f} MiB" for rows, peak in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_rows_go_through_faiss_and_the_real_milvus_within_4_gb(benchmark, publish, tmp_path, request):
    """FAISS keeps its index in the harness's process: that is taken off, as the record states its size."""
    if not benchmark.enabled or request.config.option.markexpr != "slow":
        pytest.skip("takes half an hour of a quiet machine; run with --benchmark-enable -m slow")
    (tmp_path / "cache").mkdir()
    seconds, text, peaks = watched(["+sweep=million"], tmp_path, every_s=0.25)
    records = {record.labels["store"]: record for record in read_all(tmp_path / "results/million")}
    assert {record.status for record in records.values()} == {"ok"}
    assert set(records) == {"faiss", "milvus_local"}
    assert "ground truth: 1,000 queries × 1,000,000 rows × 384 dimensions = 3.8e+11 multiply-adds" in text
    index_bytes = records["faiss"].metrics["index_bytes"].value
    cost = records["faiss"].data["ground_truth"]
    benchmark.pedantic(lambda: None)
    publish(
        a_million_rows_took=f"{seconds:.0f} s",
        ground_truth=f"{cost['seconds']:.0f} s in {cost['processes']} processes",
        largest_process_of_the_harness=f"{peaks.harness / 1e9:.2f} GB, {(peaks.harness - index_bytes) / 1e9:.2f} GB without FAISS's index",
        **{
            f"{store}_{name}": f"{record.metrics[name].value:.0f} s"
            for store, record in records.items()
            for name in ("insert_s", "build_s")
        },
    )
    assert peaks.harness - index_bytes < 4e9
