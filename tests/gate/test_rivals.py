"""The rules of others, as they state them."""

import numpy as np
import pytest
from pytest_benchmark.utils import PercentageRegressionCheck
from scipy import stats

from harness.gate.rivals import RIVALS

GENERATOR = np.random.default_rng(0)
BASE = GENERATOR.lognormal(0, 0.05, (40, 8))
HEAD = 1.05 * GENERATOR.lognormal(0, 0.05, (40, 8))


@pytest.mark.parametrize("field", ["median", "mean", "min"])
def test_compare_fail_is_decided_as_pytest_benchmark_decides_it(field):
    check = PercentageRegressionCheck(field, 5)
    statistic = {"median": np.median, "mean": np.mean, "min": np.min}[field]
    expected = [bool(check.fails({field: statistic(head)}, {field: statistic(base)})) for base, head in zip(BASE, HEAD, strict=True)]
    assert RIVALS[f"pytest-benchmark {field}:5%"](BASE, HEAD).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_google_benchmark_reports_the_slower_side_of_a_significant_u_test():
    flags = RIVALS["google/benchmark U test"](BASE, HEAD)
    for base, head, flag in zip(BASE, HEAD, flags, strict=True):
        slower = np.median(head) > np.median(base)
        assert flag == (slower and stats.mannwhitneyu(head, base).pvalue < 0.05)
    assert not RIVALS["google/benchmark U test"](HEAD + 1, BASE).any()


def test_asv_wants_both_a_factor_and_significance():
    assert RIVALS["asv, factor 1.05"](BASE[0], 1.2 * BASE[0] + 1)
    assert not RIVALS["asv, factor 1.1 (default)"](np.linspace(1, 1.01, 8), 1.09 * np.linspace(1, 1.01, 8))
    assert RIVALS["asv, factor 1.05"](np.linspace(1, 1.01, 8), 1.09 * np.linspace(1, 1.01, 8))
    spread = np.linspace(1, 3, 8)
    assert not RIVALS["asv, factor 1.05"](spread, spread + 0.5)


@pytest.mark.parametrize("rule", list(RIVALS))
def test_no_rule_reports_a_speed_up(rule):
    assert not RIVALS[rule](BASE, 0.5 * BASE).any()
