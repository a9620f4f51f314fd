"""Ground truth in parts: the same as in one go, shared by processes, and gone on with after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cache, truth
from harness.errors import CellError, DataError
from harness.groundtruth import exact_neighbours
from harness.truth import Cost, cost_of, forget_parts, make_truth
from harness.vectors import open_truth
from tests.conftest import ROOT

ROWS, DIM, QUERIES = 6_000, 16, 30
PART = QUERIES * DIM * 1_000
"""Makes six parts of them."""


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """A folder of vectors, a cache that nobody else has, and parts small enough for there to be several."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(truth, "_PART", PART)
    monkeypatch.setattr(cache, "_sound", set())
    rng = np.random.default_rng(0)
    folder = tmp_path / "vectors"
    folder.mkdir()
    corpus = rng.integers(-3, 4, size=(ROWS, DIM)).astype(np.float32)
    corpus[ROWS // 2 :] = corpus[: ROWS // 2]  # every row has a twin in another part
    corpus[:, 0] = 4  # none is zero
    np.save(folder / "corpus.npy", corpus)
    np.save(folder / "queries.npy", rng.standard_normal((QUERIES, DIM), dtype=np.float32))
    return folder


def order(vectors, **more):
    return {"vectors": str(vectors), "k": 50, "metric": "cosine", "below": None, "key": "k" * 32, "threads": 1, "device": "cpu", **more}


def made(spec, tmp_path, told=None):
    """Make a ground truth; returns the folder."""
    folder = tmp_path / f"truth {time.monotonic_ns()}"
    folder.mkdir()
    make_truth(spec, folder, lambda *words: None if told is None else told.append(words))
    return folder


def is_that_of_one_search(folder, spec):
    corpus, queries = (np.load(Path(spec["vectors"]) / f"{name}.npy") for name in ("corpus", "queries"))
    found = open_truth(folder, metric=spec["metric"], rows=len(corpus))
    expected = exact_neighbours(queries, corpus, k=spec["k"], metric=spec["metric"], below=spec["below"])
    return found.ids.tobytes() == expected.ids.tobytes() and found.scores.tobytes() == expected.scores.tobytes()


def parts_kept(tmp_path):
    """Return the parts that are whole, with when each was written."""
    whole = (tmp_path / "cache/truth_part").glob("[!.]*/files.json")
    return {path.parent.name: (path.parent / "ids.npy").stat().st_mtime_ns for path in whole}


@pytest.mark.parametrize(
    ("more", "processes"),
    [({}, 1), ({"threads": 2}, 2), ({"device": "cpu:0", "threads": 2}, 1), ({"metric": "l2", "below": 200}, 1)],
    ids=["one process", "two processes", "torch", "filter"],
)
def test_truth_in_parts_is_that_of_one_search_bit_for_bit(vectors, tmp_path, more, processes):
    spec = order(vectors, **more)
    folder = made(spec, tmp_path)
    assert is_that_of_one_search(folder, spec)
    cost = cost_of(folder)
    assert cost.pop("seconds") > 0
    assert cost == {
        "queries": QUERIES, "rows": ROWS, "dim": DIM, "multiply_adds": QUERIES * ROWS * DIM, "parts": 6, "kept_parts": 0,
        "threads": spec["threads"], "processes": processes, "device": spec["device"],
    }  # fmt: skip
    assert len(parts_kept(tmp_path)) == 6


def test_little_work_is_done_in_one_go_and_keeps_no_parts(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "_PART", 2 * PART * ROWS)
    spec = order(vectors, device="cpu:0", threads=2)
    folder = made(spec, tmp_path)
    assert is_that_of_one_search(folder, spec)
    assert (cost_of(folder)["parts"], cost_of(folder)["device"]) == (1, "cpu")
    assert parts_kept(tmp_path) == {}


KILLED = """
import json, sys, time
from pathlib import Path
from harness import cache, truth
truth._PART = int(sys.argv[1])
get = cache.get
def slowly(*arguments):
    time.sleep(0.3)
    return get(*arguments)
cache.get = slowly
truth.make_truth(json.loads(sys.argv[2]), Path(sys.argv[3]), lambda *_: None)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_killed_truth_goes_on_with_what_is_missing_and_leaves_no_process(vectors, tmp_path, threads):
    spec = order(vectors, threads=threads)
    (tmp_path / "killed").mkdir()
    arguments = [sys.executable, "-c", KILLED, str(PART), json.dumps(spec), str(tmp_path / "killed")]
    with subprocess.Popen(arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True) as run:
        deadline = time.monotonic() + 60
        while len(parts_kept(tmp_path)) < 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        helpers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGKILL)
        run.wait()
    psutil.wait_procs(helpers, timeout=10)
    assert (len(helpers) >= 2) == (threads == 2)
    assert not [one for one in helpers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    before = parts_kept(tmp_path)
    assert 2 <= len(before) < 6
    assert not (tmp_path / "killed/ids.npy").exists()

    folder = made(order(vectors, threads=3 - threads), tmp_path)  # with another number of processes
    assert is_that_of_one_search(folder, spec)
    assert cost_of(folder)["kept_parts"] == len(before)
    after = parts_kept(tmp_path)
    assert len(after) == 6
    assert before.items() <= after.items(), "what was there was not made again"


def test_a_damaged_part_is_found_and_made_again(vectors, tmp_path, monkeypatch):
    made(order(vectors), tmp_path)
    before = parts_kept(tmp_path)
    damaged = tmp_path / "cache/truth_part" / sorted(before)[2]
    content = bytearray((damaged / "ids.npy").read_bytes())
    content[-3] ^= 1
    (damaged / "ids.npy").write_bytes(content)
    monkeypatch.setattr(cache, "_sound", set())  # as in another process
    folder = made(order(vectors), tmp_path)
    assert is_that_of_one_search(folder, order(vectors))
    assert cost_of(folder)["kept_parts"] == 5
    assert {name for name, when in parts_kept(tmp_path).items() if before[name] != when} == {damaged.name}


@pytest.mark.parametrize("threads", [1, 2])
def test_what_goes_wrong_in_a_part_is_said_and_the_parts_found_are_kept(vectors, tmp_path, threads):
    corpus = np.load(vectors / "corpus.npy")
    corpus[5_500, 3] = np.nan
    np.save(vectors / "corpus.npy", corpus)
    with pytest.raises((DataError, CellError), match="corpus vector 5500 is not finite"):
        made(order(vectors, threads=threads), tmp_path)
    assert len(parts_kept(tmp_path)) == 5


def test_parts_of_a_whole_truth_are_removed_and_those_of_others_stay(vectors, tmp_path):
    made(order(vectors), tmp_path)
    made(order(vectors, key="other"), tmp_path)
    forget_parts("k" * 32)
    assert {name.rsplit("-", 2)[0] for name in parts_kept(tmp_path)} == {"other"}
    forget_parts("other")
    assert list((tmp_path / "cache/truth_part").iterdir()) == []
    forget_parts("never made")


@given(queries=st.integers(1, 20_000), rows=st.integers(1, 10**8), dim=st.integers(1, 4_096))
def test_parts_hold_every_row_once_and_are_few(queries, rows, dim):
    parts = Cost(queries, rows, dim).parts
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == rows
    assert len(parts) <= 64
    assert all(len(part) > 0 for part in parts)
    assert len(parts) == 1 or queries * len(parts[0]) * dim >= 2**36


def test_what_it_will_cost_is_told_by_arithmetic_first_and_by_the_rate_seen_when_there_is_one(vectors, tmp_path):
    cost = Cost(1_000, 10_000_000, 384)
    assert cost.words(2, "cpu").startswith("ground truth: 1,000 queries × 10,000,000 rows × 384 dimensions = 3.8e+12 multiply-adds, about")
    assert cost.seconds(4, "cpu") == pytest.approx(cost.seconds(2, "cpu") / 2)
    seen = {"multiply_adds": 3.84e12, "seconds": 64.0, "threads": 2, "device": "cpu", "kept_parts": 0}
    for number, about in enumerate([seen, {**seen, "multiply_adds": 1e9, "seconds": 60.0}, {**seen, "seconds": 1.0, "kept_parts": 5}]):
        (tmp_path / f"cache/truth/{number}").mkdir(parents=True)
        (tmp_path / f"cache/truth/{number}/cost.json").write_text(json.dumps(about))
    assert cost.seconds(2, "cpu") == pytest.approx(64.0)
    assert cost.words(2, "cpu").endswith("about 64 s")
    assert cost.seconds(1, "cpu") != pytest.approx(64.0)


def test_the_time_to_go_is_by_the_rate_seen(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(truth.time, "monotonic", lambda: now[0])
    left = truth._TimeLeft(lambda stage, fraction, total=0: told.append((stage, fraction)), 4)
    left.of(range(0, 10))("part", 0.5)
    assert told == []  # too early for a rate
    now[0] += 10
    left.of(range(10, 20))("part", 0.5)
    now[0] += 0.5
    left.of(range(10, 20))("part", 0.6)
    now[0] += 9.5
    left.of(range(0, 10))("part", 1.0)
    left.of(range(10, 20))("part", 1.0)
    now[0] += 2
    left.of(range(10, 20))("part", 1.0)
    assert told == [("ground truth, 30 s to go", 0.25), ("ground truth, 30 s to go", 0.4), ("ground truth, 22 s to go", 0.5)]


def test_a_record_says_what_its_ground_truth_took_and_that_vectors_were_generated(harness, tmp_path):
    small = ["dataset.corpus=300", "dataset.queries=20", "dataset.dim=16", "processes=1", "min_duration_s=0.1", "workload.min_requests=20"]
    done = harness("model=none", "dataset=synthetic", "store=exact", "index=flat", *small, plugins=False)
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results/default/records").glob("*.json"))
    cost = record["data"]["ground_truth"]
    assert (cost["queries"], cost["rows"], cost["dim"], cost["multiply_adds"]) == (20, 300, 16, 20 * 300 * 16)
    assert cost["seconds"] > 0
    assert "synthetic_vectors" in [code for code, _ in record["caveats"]]
    assert record["data"]["about_synthetic"] is True
    assert record["points"][0]["metrics"]["recall"]["value"] == 1.0
