"""How long a person waits for the harness itself, each beside the bare operation that it cannot do without.

Whole processes, timed in turn, see `tests.benchmarks.pairs`. Goals on a quiet machine: a second for ``--help``, a second for
the start of a cell that is not the first. Without ``--benchmark-enable`` everything runs once and is checked to do what it should.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from harness import fingerprint
from harness.build import build
from harness.replicate import Replicate
from tests.benchmarks.pairs import alternated, ratio
from tests.conftest import ROOT

BARE_HYDRA = """
import hydra
@hydra.main(config_path={conf!r}, config_name="config", version_base="1.3")
def main(settings):
    pass
main()
"""

BARE_MODEL = "from tests.benchmarks.test_harness_speed import first_vector; first_vector({}, None, None)"


def first_vector(spec, folder, report):
    """Load MiniLM and embed a text, as a cell begins; runs in a measuring process, and in a bare interpreter."""
    model = build(yaml.safe_load((ROOT / "conf/model/minilm.yaml").read_text()), key="model")
    model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    vector = model.finish(model.forward(model.transfer(model.prepare(["a first text"]))))
    assert vector.shape == (1, 384)
    if folder is not None:
        np.save(folder / "vector.npy", vector)


def seconds_of(command):
    began = time.perf_counter()
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=300
    )
    return time.perf_counter() - began, done.stdout


def test_help_beside_that_of_a_bare_hydra_program(benchmark, publish, tmp_path):
    (tmp_path / "bare.py").write_text(BARE_HYDRA.format(conf=str(ROOT / "conf")))

    def ours():
        seconds, text = seconds_of([sys.executable, "-m", "harness", "--help"])
        assert "python -m harness" in text
        return seconds

    def bare():
        seconds, text = seconds_of([sys.executable, str(tmp_path / "bare.py"), "--help"])
        assert "Powered by Hydra" in text
        return seconds

    times = alternated(bare, ours, pairs=10 if benchmark.enabled else 2)
    benchmark.pedantic(ours, rounds=1)
    alone, with_us = np.median(times, axis=0)
    publish(help_of_the_harness=f"{with_us:.2f} s", help_of_a_bare_hydra_program=f"{alone:.2f} s", help_by_bare_hydra=ratio(times))
    if benchmark.enabled:
        assert with_us < 3 * alone


@pytest.mark.slow
def test_a_later_cell_has_its_first_vector_before_a_bare_interpreter_has_imported_torch(benchmark, publish, tmp_path):
    """From asking for a process to its end, with the model loaded and a text embedded."""
    server = Replicate(preload=fingerprint.packages_imported_by(["models.sentence_transformers", "stores.faiss"]))

    def cell():
        folder = tmp_path / str(time.perf_counter_ns())
        folder.mkdir()
        began = time.perf_counter()
        server.run("tests.benchmarks.test_harness_speed:first_vector", {}, folder, timeout_s=300)
        took = time.perf_counter() - began
        assert (folder / "vector.npy").exists()
        return took

    def torch_alone():
        return seconds_of([sys.executable, "-c", "import torch"])[0]

    def same_without_server():
        return seconds_of([sys.executable, "-c", BARE_MODEL])[0]

    try:
        server.wait_until_ready()
        cell()
        times = alternated(cell, torch_alone, pairs=8 if benchmark.enabled else 2)
        dear = alternated(cell, same_without_server, pairs=4 if benchmark.enabled else 2)
        benchmark.pedantic(cell, rounds=1)
    finally:
        server.close()
    later, torch_s = np.median(times, axis=0)
    publish(
        later_cell_until_its_first_vector_has_come=f"{later:.2f} s",
        import_of_torch_alone=f"{torch_s:.2f} s",
        the_same_in_a_fresh_interpreter=f"{np.median(dear, axis=0)[1]:.2f} s",
    )
    if benchmark.enabled:
        assert later < torch_s
