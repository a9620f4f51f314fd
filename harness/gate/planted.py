"""Small kernels that do a known amount of work, timed in interleaved rounds: what the gate's rule is proved on.

A head that does exactly 5 % more work is made by counting loops, never by sleeping, so the truth is known without measuring it. A round
starts one fresh process for each arm, with one hash seed for all of them and an environment of random length for each (both move where
things lie in memory, which is what makes two processes of the same code differ). It asks each kernel for blocks, and in a block each arm
runs once, in random order. Only one process works at a time; the parent waits on a pipe.

The file is also the worker, run by its path, and imports NumPy and the standard library only, so that a process starts in a fifth of
a second.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

HUNDRED: Final = 100
"""Loop counts are multiples of this, so that any whole percentage more is a whole number of loops."""
BLOCKS: Final = 8
"""Timed samples of each arm and kernel in a round: the optimum by Kalibera and Jones (2013) lies at 5 to 13 for kernels like these."""
WARM_UP: Final = 2
SAMPLE_S: Final = 0.005
ARMS: Final[Mapping[str, int]] = {"base": 0, "again": 0, "head": 5}
"""Percent of extra work: the same code twice, and a head that does exactly 5 % more."""

Loop = Callable[[int], object]


def _encoder() -> Loop:
    """A chain of small matrix products with a ReLU between, as in an encoder's feed-forward layers."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((16, 96), dtype=np.float32)
    layers = [generator.standard_normal((96, 96), dtype=np.float32) / 10 for _ in range(3)]

    def run(loops: int) -> None:
        for _ in range(loops):
            hidden = x
            for layer in layers:
                hidden = np.maximum(hidden @ layer, 0.0)

    return run


def _top_k() -> Loop:
    """Ten nearest of 500 vectors by brute force."""
    generator = np.random.default_rng(1)
    corpus = generator.standard_normal((500, 64), dtype=np.float32)
    queries = generator.standard_normal((4, 64), dtype=np.float32)

    def run(loops: int) -> None:
        for _ in range(loops):
            np.argpartition(queries @ corpus.T, 490, axis=1)

    return run


def _normalise() -> Loop:
    """Layer normalisation: elementwise arithmetic, bound by memory rather than by multiplication."""
    x = np.random.default_rng(2).standard_normal((48, 256), dtype=np.float32)

    def run(loops: int) -> None:
        for _ in range(loops):
            centred = x - x.mean(axis=1, keepdims=True)
            centred /= np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)

    return run


def _words(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return ["".join(chooser.choices("etaoinshrdlu", k=chooser.randint(2, 9))) for _ in range(count)]


def _tokenise() -> Loop:
    """A greedy longest-match word-piece tokeniser in pure Python."""
    pieces = {word[:length] for word in _words(300, 3) for length in (1, 2, 3)}
    text = _words(12, 4)

    def run(loops: int) -> None:
        for _ in range(loops):
            for word in text:
                start = 0
                while start < len(word):
                    stop = min(len(word), start + 3)
                    while stop > start + 1 and word[start:stop] not in pieces:
                        stop -= 1
                    start = stop

    return run


def _sort() -> Loop:
    """Sort 200 numbers."""
    chooser = random.Random(5)
    numbers = [chooser.random() for _ in range(200)]

    def run(loops: int) -> None:
        for _ in range(loops):
            sorted(numbers)

    return run


def _count() -> Loop:
    """Count words in a dict: the kernel that hash seeds move most."""
    words = _words(250, 6)

    def run(loops: int) -> None:
        for _ in range(loops):
            seen: dict[str, int] = {}
            for word in words:
                seen[word] = seen.get(word, 0) + 1

    return run


def _json() -> Loop:
    """Write a record as JSON and read it back."""
    record = {word: [len(word), word, {"value": 1.5}] for word in _words(12, 7)}

    def run(loops: int) -> None:
        for _ in range(loops):
            json.loads(json.dumps(record))

    return run


def _edit_distance() -> Loop:
    """Levenshtein distance of two words by rows, in pure Python."""
    one, two = "embedding", "embeddable"

    def run(loops: int) -> None:
        for _ in range(loops):
            above = list(range(len(two) + 1))
            for i, a in enumerate(one, 1):
                row = [i]
                for j, b in enumerate(two, 1):
                    row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
                above = row

    return run


KERNELS: Final[Mapping[str, Callable[[], Loop]]] = {
    "encoder": _encoder,
    "top_k": _top_k,
    "normalise": _normalise,
    "tokenise": _tokenise,
    "sort": _sort,
    "count": _count,
    "json": _json,
    "edit_distance": _edit_distance,
}


def serve() -> None:
    """Answer lines ``kernel loops`` with ``wall cpu`` in nanoseconds, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer; it then closes the pipe
    kernels = {name: make() for name, make in KERNELS.items()}
    gc.freeze()
    gc.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in iter(sys.stdin.readline, ""):
        name, loops = line.split()
        kernel, count = kernels[name], int(loops)
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        kernel(count)
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        sys.stdout.write(f"{wall} {cpu}\n")
        sys.stdout.flush()


class Worker:
    """One fresh process that runs kernels when asked."""

    def __init__(self, *, hash_seed: int, pad: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = os.environ | threads | {"PYTHONHASHSEED": str(hash_seed), "GATE_PAD": "x" * pad}
        command = [sys.executable, "-P", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker of the self-test ended with exit code {self._process.wait()}")
        return line

    def wait_ready(self) -> None:
        """Block until the process has made its kernels."""
        self._answer()

    def sample(self, kernel: str, loops: int) -> tuple[int, int]:
        """Run `kernel` for so many loops; return wall and processor time in ns."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kernel} {loops}\n")
        self._process.stdin.flush()
        wall, cpu = self._answer().split()
        return int(wall), int(cpu)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def calibrate(*, sample_s: float = SAMPLE_S) -> dict[str, int]:
    """Return for each kernel the loops of base that take about `sample_s`: counted once, used for every arm and round."""
    worker = Worker(hash_seed=0, pad=0)
    try:
        worker.wait_ready()
        loops = {}
        for kernel in KERNELS:
            fastest = min(worker.sample(kernel, HUNDRED)[1] for _ in range(5))
            loops[kernel] = HUNDRED * max(1, round(sample_s * 1e9 / fastest))
    finally:
        worker.close()
    return loops


def measure_round(
    loops: Mapping[str, int], chooser: random.Random, *, arms: Mapping[str, int] = ARMS, blocks: int = BLOCKS
) -> dict[str, list[list[list[int]]]]:
    """Measure one round.

    Returns
    -------
    dict of str to list
        For each kernel ``[arm][block] = [wall ns, cpu ns]``, arms in the order of `arms`.
    """
    hash_seed = chooser.randrange(1, 2**32)
    workers: dict[str, Worker] = {}
    try:
        for arm in chooser.sample(list(arms), len(arms)):
            workers[arm] = Worker(hash_seed=hash_seed, pad=chooser.randrange(4096))
        for worker in workers.values():
            worker.wait_ready()
        times: dict[str, list[list[list[int]]]] = {}
        for kernel in chooser.sample(list(loops), len(loops)):
            samples: dict[str, list[list[int]]] = {arm: [] for arm in arms}
            for _ in range(WARM_UP + blocks):
                for arm in chooser.sample(list(arms), len(arms)):
                    count = loops[kernel] * (HUNDRED + arms[arm]) // HUNDRED
                    samples[arm].append(list(workers[arm].sample(kernel, count)))
            times[kernel] = [samples[arm][WARM_UP:] for arm in arms]
    finally:
        for worker in workers.values():
            worker.close()
    return times


if __name__ == "__main__":
    serve()
