"""Peak memory: what this process held, and nothing that it did not."""

import subprocess
import sys

import numpy as np

from harness.memory import peak_rss_bytes, tree_peak_bytes

BEGIN = "import subprocess, numpy as np; from harness.memory import peak_rss_bytes; before = peak_rss_bytes(); "


def peak_after(code: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code + "; print(before, peak_rss_bytes())"], capture_output=True, text=True, check=True
    )
    before, after = done.stdout.split()
    return int(before), int(after)


def test_memory_that_was_held_and_let_go_is_in_the_peak():
    before, after = peak_after("held = np.ones(200_000_000, dtype=np.uint8); del held")
    assert 190e6 < after - before < 260e6


def test_starting_a_program_does_not_count_this_process_twice():
    before, after = peak_after("held = np.ones(200_000_000, dtype=np.uint8); subprocess.run(['/bin/true'], check=True)")
    assert after - before < 260e6


def test_what_a_large_process_starts_is_not_as_large():
    held = np.ones(300_000_000, dtype=np.uint8)
    before, _ = peak_after("pass")
    assert before < held.nbytes / 2


def test_memory_asked_for_and_never_touched_is_not_held():
    before, after = peak_after("held = np.empty(2_000_000_000, dtype=np.uint8)")
    assert after - before < 50e6


def test_the_unit_is_bytes():
    assert np.log10(peak_rss_bytes()) > 7


def test_what_a_process_has_started_and_still_runs_is_in_the_tree_with_its_own_peak():
    code = "import numpy as np; held = np.ones(150_000_000, dtype=np.uint8); del held; print(flush=True); input()"
    before = tree_peak_bytes()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()  # it has held its memory and let it go
        grown = tree_peak_bytes() - before
        assert 150e6 < grown < 250e6
    finally:
        child.communicate(b"\n")
    assert tree_peak_bytes() - before < 50e6, "it has ended"
