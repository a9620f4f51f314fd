"""Processes to measure in: real ones, really killed."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import CellError
from harness.replicate import Replicate, _judge, _memory_counters, describe_exit, memory_ran_out

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server():
    replicate = Replicate()
    yield replicate
    replicate.close()


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process has ended (or is a zombie that nobody has collected yet)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_child_gets_its_specification_reports_stages_and_leaves_files(server, tmp_path):
    stages = []
    server.run("tests.tasks:succeed", {"value": 42}, tmp_path, timeout_s=60, report=lambda *stage: stages.append(stage))
    assert (tmp_path / "answer").read_text() == "42"
    assert stages == [("half", 0.5, 0)]
    assert "a library talks" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("task", "status", "words"),
    [
        ("raise_bug", "failed", "ValueError: a bug (in tasks.py, line"),
        ("raise_audit", "invalid", "the vectors are constant"),
        ("raise_store", "failed", "the store has gone"),
        ("run_out_of_memory", "oom", "memory ran out"),
        ("run_out_of_memory_in_a_library", "oom", "DefaultCPUAllocator"),
        ("run_out_of_memory_behind_another_error", "oom", "memory ran out: the store refused"),
        ("kill_itself", "failed", "killed by SIGKILL"),
        ("exit_silently", "failed", "exit code 7"),
        ("no_such_task", "failed", "no_such_task"),
    ],
)
def test_a_child_that_fails_says_how_and_the_server_goes_on(server, tmp_path, task, status, words):
    with pytest.raises(CellError) as caught:
        server.run(f"tests.tasks:{task}", {}, tmp_path, timeout_s=60)
    assert caught.value.status == status
    assert words in str(caught.value)
    (tmp_path / "next").mkdir()
    server.run("tests.tasks:succeed", {"value": 1}, tmp_path / "next", timeout_s=60)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB)"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Error in void faiss::f(): std::bad_alloc"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, memory):
    assert memory_ran_out(error) is memory


def test_an_error_that_is_its_own_cause_is_looked_at_once():
    """As pymilvus raises them: `raise e from e`."""
    error = RuntimeError("too many pings")
    error.__cause__ = error
    assert memory_ran_out(error) is False


def test_running_out_of_an_accelerators_memory_is_told_by_torchs_own_error():
    import torch

    assert memory_ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))


def test_a_child_that_the_kernel_killed_for_lack_of_memory_is_told_from_one_killed_otherwise(tmp_path):
    for killed, status in ((True, "oom"), (False, "failed")):
        with pytest.raises(CellError) as caught:
            _judge(-signal.SIGKILL, killed, tmp_path, "a task")
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("membership", "counters"),
    [
        ("0::/\n", ["memory.events"]),
        ("0::/user.slice/a:b.scope\n", ["user.slice/a:b.scope/memory.events"]),
        ("4:cpu,memory:/docker/abc\n1:cpu:/\n0::/\n", ["memory.events", "memory/docker/abc/memory.oom_control"]),
        (None, []),
    ],
)
def test_kills_are_counted_where_the_control_group_of_this_process_counts_them(tmp_path, membership, counters):
    if membership is not None:
        (tmp_path / "cgroup").write_text(membership)
    assert _memory_counters(tmp_path / "cgroup", tmp_path) == [tmp_path / path for path in counters]


def test_the_last_words_of_a_killed_child_are_in_the_error(server, tmp_path):
    with pytest.raises(CellError, match="last words"):
        server.run("tests.tasks:kill_itself", {}, tmp_path, timeout_s=60)


def test_a_child_that_hangs_is_killed_with_what_it_started(server, tmp_path):
    with pytest.raises(CellError, match="timeout_s=3") as caught:
        server.run("tests.tasks:hang", {}, tmp_path, timeout_s=3)
    assert caught.value.status == "failed"
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    (tmp_path / "next").mkdir()
    server.run("tests.tasks:succeed", {"value": 1}, tmp_path / "next", timeout_s=60)


def test_a_server_that_is_killed_takes_its_child_along_and_is_reported(tmp_path):
    replicate = Replicate()
    try:
        with pytest.raises(CellError, match="ended unexpectedly"):
            replicate.run("tests.tasks:kill_its_server", {}, tmp_path, timeout_s=60)
        assert not replicate.alive
        assert gone(int((tmp_path / "pids").read_text()))
        with pytest.raises(CellError):
            replicate.run("tests.tasks:succeed", {"value": 1}, tmp_path, timeout_s=60)
    finally:
        replicate.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_running_when_the_parent_is_killed(tmp_path, how):
    script = (
        "from pathlib import Path; from harness.replicate import Replicate\n"
        f"Replicate().run('tests.tasks:hang', {{}}, Path({str(tmp_path)!r}), timeout_s=600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < end, "the child did not start"
        time.sleep(0.05)
    time.sleep(0.2)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3  # the server, its child and what the child has started
    parent.send_signal(how)
    parent.wait()
    assert all(gone(process.pid) for process in family)


def test_the_parent_sleeps_while_a_child_works(server, tmp_path):
    before = time.process_time()
    with pytest.raises(CellError):
        server.run("tests.tasks:hang", {}, tmp_path, timeout_s=2)
    assert time.process_time() - before < 0.2  # processor time of two seconds of waiting


def test_replicates_differ_in_their_hash_seed_and_children_of_one_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # a fixed seed would make all replicates alike
    answers = []
    for number in range(2):
        replicate = Replicate()
        try:
            of_one = []
            for child in range(2):
                folder = tmp_path / f"{number}-{child}"
                folder.mkdir()
                replicate.run("tests.tasks:hash_of_a_word", {}, folder, timeout_s=60)
                of_one.append((folder / "answer").read_text())
        finally:
            replicate.close()
        assert of_one[0] == of_one[1]
        answers.append(of_one[0])
    assert answers[0] != answers[1]


def test_a_server_starts_with_the_variables_given_and_the_modules_to_preload(tmp_path):
    replicate = Replicate(preload=["json.tool", "no_such_module_anywhere"], environment={"OMP_NUM_THREADS": "7"})
    try:
        replicate.run("tests.tasks:environment", {}, tmp_path, timeout_s=60)
        assert (tmp_path / "answer").read_text() == "7"
        replicate.run("tests.tasks:loaded_modules", {}, tmp_path, timeout_s=60)
        assert "json.tool" in (tmp_path / "answer").read_text().split()
    finally:
        replicate.close()


def test_exits_are_described_in_words():
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert describe_exit(-250) == "killed by signal 250"


def test_nothing_stays_open_after_closing(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(3):
        replicate = Replicate()
        folder = tmp_path / str(number)
        folder.mkdir()
        replicate.run("tests.tasks:succeed", {"value": 1}, folder, timeout_s=60)
        replicate.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
