"""Kernels with a known amount of work: that they run in processes of their own, and that 5 % more work is 5 % more."""

import random

import pytest

from harness.gate import planted


@pytest.mark.parametrize("name", list(planted.KERNELS))
def test_a_kernel_runs_as_many_loops_as_asked(name):
    kernel = planted.KERNELS[name]()
    kernel(0)
    kernel(3)


def test_loop_counts_can_grow_by_any_whole_percentage():
    loops = planted.calibrate(sample_s=1e-4)
    assert set(loops) == set(planted.KERNELS)
    assert all(count > 0 and count % 100 == 0 for count in loops.values())


def test_a_round_times_every_arm_in_every_block_by_two_clocks():
    times = planted.measure_round({"sort": 100, "json": 100}, random.Random(0), blocks=3)
    assert set(times) == {"sort", "json"}
    for arms in times.values():
        assert len(arms) == len(planted.ARMS)
        assert all(len(blocks) == 3 for blocks in arms)
        assert all(wall > 0 and cpu > 0 for blocks in arms for wall, cpu in blocks)


def test_an_arm_is_asked_for_exactly_its_extra_work(monkeypatch):
    asked = []

    class Counting:
        """A worker that notes what it is asked for."""

        def __init__(self, *, hash_seed, pad):
            self.hash_seed = hash_seed

        def wait_ready(self):
            """Be ready."""

        def sample(self, kernel, loops):
            """Take a nanosecond a loop."""
            asked.append((self.hash_seed, loops))
            return loops, loops

        def close(self):
            """Be gone."""

    monkeypatch.setattr(planted, "Worker", Counting)
    times = planted.measure_round({"sort": 400}, random.Random(0), arms={"base": 0, "head": 5, "more": 7})
    assert [blocks[0][0] for blocks in times["sort"]] == [400, 420, 428]
    assert len({seed for seed, _ in asked}) == 1
    assert len(asked) == 3 * (planted.WARM_UP + planted.BLOCKS)


def test_a_worker_that_dies_is_an_error_and_not_a_time():
    worker = planted.Worker(hash_seed=0, pad=0)
    worker.wait_ready()
    with pytest.raises(RuntimeError, match="exit code"):
        worker.sample("no such kernel", 1)
    worker.close()
