"""Working folders: gone with their owner, and never taken from one who lives."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

from harness.workspace import workspace
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder for temporary files that nobody else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_empty_and_gone_afterwards_with_all_that_is_in_it(here):
    with workspace() as folder:
        assert folder.parent == here
        assert list(folder.iterdir()) == []
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
    assert list(here.iterdir()) == []


def test_a_folder_goes_when_the_work_in_it_fails(here):
    def fail():
        with workspace():
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert list(here.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_live_one_uses_is_not(here):
    code = (
        "import sys\nfrom harness.workspace import workspace\n"
        "with workspace() as folder:\n"
        "    (folder / 'big').write_bytes(bytes(1000))\n    print(folder, flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(here)},
    ) as process:
        theirs = Path(process.stdout.readline().strip())
        with workspace() as mine:
            assert set(here.glob("harness-run-*[!k]")) == {theirs, mine}
        assert theirs.exists()
        process.kill()
        process.wait()
    assert theirs.exists(), "a killed process clears nothing away"
    with workspace() as mine:
        assert list(here.glob("harness-run-*[!k]")) == [mine]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("number", "held"), [(os.getpid(), False), (2**22 + 1, True)], ids=["a live number", "a number of nobody's"])
def test_the_lock_says_who_owns_a_folder_and_not_the_process_number_in_its_name(here, number, held):
    """As where another container numbers its processes apart."""
    folder = here / f"harness-run-{number}-0123abcd"
    folder.mkdir()
    lock = FileLock(f"{folder}.lock")
    lock.acquire()
    if not held:
        lock.release()
    with workspace():
        assert folder.exists() == held
    lock.release()
