"""The ratio of pairs, on made-up times whose ratio is known."""

import numpy as np
import pytest

from tests.benchmarks.pairs import alternated, ratio


def made_up(rng, *, true, pairs=24, noise=0.03):
    """Times of a machine whose speed wanders by a factor of two, which both of a pair share."""
    speed = np.exp(0.35 * np.sin(np.arange(pairs) / 4) + rng.normal(0, 0.1, pairs))
    return list(zip(speed * np.exp(rng.normal(0, noise, pairs)), true * speed * np.exp(rng.normal(0, noise, pairs)), strict=True))


@pytest.mark.parametrize("true", [0.9, 1.0, 1.1])
def test_intervals_cover_the_true_ratio_about_95_times_in_100(true):
    rng = np.random.default_rng(7)
    found = [ratio(made_up(rng, true=true)) for _ in range(1000)]
    covered = sum(one.lo <= true <= one.hi for one in found)
    assert 930 <= covered <= 970


def test_a_wandering_speed_that_a_pair_shares_is_not_in_the_interval():
    found = ratio(made_up(np.random.default_rng(1), true=1.0))
    assert found.hi - found.lo < 0.06


def test_a_loss_of_a_tenth_is_told_from_none():
    assert ratio(made_up(np.random.default_rng(2), true=0.9)).hi < 0.97
    assert ratio(made_up(np.random.default_rng(3), true=1.0)).lo > 0.97


def test_ratios_are_of_throughput_first_by_second():
    found = ratio([(1.0, 2.0), (2.0, 4.0), (1.0, 2.0001)])
    assert found.value == pytest.approx(2.0, rel=1e-4)
    assert found.pairs == 3


def test_every_other_pair_begins_with_the_second_and_each_stays_in_its_column():
    calls = []

    def one(name, seconds):
        def call():
            calls.append(name)
            return seconds

        return call

    assert alternated(one("a", 1.0), one("b", 2.0), pairs=4) == [(1.0, 2.0)] * 4
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
