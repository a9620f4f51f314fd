"""Threads: what is asked for is what torch says is in force, in a real measuring process."""

import json
import os
import subprocess
import sys

import pytest

from harness.cells import environment
from harness.replicate import Replicate


@pytest.fixture(scope="module")
def server():
    replicate = Replicate(preload=["torch"], environment=environment(1))
    yield replicate
    replicate.close()


def in_force(server, folder, interop_threads):
    folder.mkdir(exist_ok=True)
    server.run("tests.tasks:threads_in_force", {"interop_threads": interop_threads}, folder, timeout_s=120)
    return json.loads((folder / "answer").read_text())


def test_both_kinds_of_threads_are_as_asked_for_in_each_child_of_one_server(server, tmp_path):
    assert in_force(server, tmp_path / "a", 2) == {"intra_op": 1, "inter_op": 2}
    assert in_force(server, tmp_path / "b", 5) == {"intra_op": 1, "inter_op": 5}


def test_without_a_number_torch_chooses_and_the_record_says_what(server, tmp_path):
    assert in_force(server, tmp_path, None)["inter_op"] >= 1


def test_where_no_torch_is_used_none_is_imported_and_nothing_is_claimed():
    code = "import sys; from harness import threads; threads.set_interop(None); print(threads.in_force(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["None", "False"]
