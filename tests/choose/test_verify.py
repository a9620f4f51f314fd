"""What is said of the real loop beside what was computed, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.choose import verify
from harness.choose.candidates import PERCENTILES, gather
from harness.cli import main
from harness.errors import HarnessError
from harness.summary import percentile
from tests.choose import cells


def compared(path, factor):
    """The sentences about a loop that takes `factor` times as long as the sums of what was measured apart."""
    one = gather(cells.folder(path, cells.embed(), cells.search())).candidates[0]
    apart = [np.sort(a + b) for a, b in zip(cells.times(0.01, seed=1), cells.times(0.002, seed=2), strict=True)]
    real = [factor * samples for samples in apart]
    figures = {f"serve_{name}": percentile(real, q) for name, q in PERCENTILES.items()}
    record = replace(one.search, kind="serve", metrics=figures)
    return list(verify._compared(one, record, {f"serve_s_{i}": samples for i, samples in enumerate(real)}))


def test_a_loop_that_takes_what_was_computed_agrees(tmp_path):
    median, tail = compared(tmp_path, 1.0)
    assert "no difference shown" in median
    assert ": median " in median
    assert ": p99 " in tail


def test_a_slower_loop_is_said_to_be_slower_and_by_how_much(tmp_path):
    median, _ = compared(tmp_path, 1.3)
    assert "ratio 1.30" in median
    assert median.endswith("the loop takes longer than was computed.")


def test_what_cannot_be_measured_again_is_an_error_after_the_choice_is_written(tmp_path, capsys):
    folder = cells.folder(tmp_path, cells.embed(), cells.search())
    assert main(["choose", str(folder), "--verify"]) == 1
    said = capsys.readouterr()
    assert "no manifest in" in said.err
    assert "Not verified in a real loop." in said.out
    assert json.loads((folder / "choice.json").read_text())["winner"] == "e0+s0.0"


def test_given_vectors_have_no_loop(tmp_path):
    one = gather(cells.folder(tmp_path, cells.search(about={"weights": "given"}))).candidates[0]
    with pytest.raises(HarnessError, match="no query to embed"):
        verify.verified(tmp_path, [one])
