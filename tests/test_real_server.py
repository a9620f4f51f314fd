"""A whole run against the real Milvus server, which the harness starts and stops: one client, several, and an open loop."""

import subprocess
import sys

import psutil
import pytest

from harness import load_results
from tests.conftest import PLUGINS, own_environment

SERVER = ("model=hashed_words", "dataset=sentences", "dataset.corpus=600", "dataset.queries=50", "store=milvus_local", "index=hnsw")
QUICKLY = ("processes=1", "min_duration_s=0.5", "workload.min_requests=60", "embed_items=32")


def servers():
    """Process numbers of all Milvus servers on this machine and of what watches over them; other tests may have one running."""
    lines = {process.pid: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
    return {pid for pid, line in lines.items() if "milvus" in line and "standalone" in line}


@pytest.fixture(scope="module")
def before():
    return servers()


@pytest.fixture(scope="module")
def rows(before, tmp_path_factory, shared_cache):
    """The operating points of the run."""
    pytest.importorskip("milvus", reason="the package milvus, which carries the server, is not installed")
    folder = tmp_path_factory.mktemp("server")
    loads = ("workload.concurrency=[1,3]", "workload.rate=[40]", "filter=[null,0.5]", "index.ef=[100]")
    command = [sys.executable, "-m", "harness", *SERVER, *QUICKLY, *loads, "--config-dir", str(PLUGINS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False, env=own_environment(shared_cache))
    assert done.returncode == 0, done.stdout + done.stderr
    found = load_results(folder / "results/default")
    return found[found.kind == "search"]


def test_every_load_is_a_row_with_figures_of_its_own(rows):
    assert set(rows.status) == {"ok"}
    assert all("2.3.5" in engine for engine in rows.engine)
    loads = rows[["concurrency", "rate_per_s"]].astype(float).fillna(0).drop_duplicates().to_numpy().tolist()
    assert sorted(loads) == [[0, 40], [1, 0], [3, 0]]
    assert len(rows) == 6, "each with the filter and without"
    assert (rows.recall > 0.9).all()
    assert rows.search_latency_p50_s.notna().all()


def test_what_clients_did_is_told_where_there_are_several(rows):
    several = rows[rows.concurrency.isna() | (rows.concurrency > 1)]
    assert (several.errors == 0).all()
    assert several.client_cpu.between(0, 1.5).all()
    opened = rows[rows.rate_per_s.notna()]
    assert opened.send_lag_p99_s.between(0, 5).all()
    assert (opened.qps < 60).all(), "no more was answered than was asked for"
    assert rows[rows.concurrency == 1].client_cpu.isna().all()


def test_the_server_is_told_apart_from_its_client(rows):
    assert (rows.server_rss_bytes > 5e7).all()
    assert rows.peak_rss_bytes.isna().all()
    assert rows.caveats.str.contains("shared_machine").all()
    assert rows.store_load_s.notna().any()


def test_nothing_of_the_server_is_left(before, rows):
    assert servers() <= before
