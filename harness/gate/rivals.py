"""What the rules that others gate with say on the same rounds: the comparison that the self-test prints.

Each gets what it gets in real use, the samples of one process on each side, here of one round; they were taken in alternation, which is
kinder to these rules than the two separate runs that they usually compare. The rules are restated from the projects' documentation:

- pytest-benchmark ``--benchmark-compare-fail=median:5%`` (also ``mean``, ``min``): the statistic grew by more than 5 %;
- asv (`asv compare`, `asv continuous`): Mann-Whitney's p below 0.002 and the median changed by more than ``factor`` (default 1.1);
- google/benchmark ``compare.py``: Mann-Whitney's p below 0.05, here on the slower side only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Flags = NDArray[np.bool_]


def _grew(statistic: Callable[..., Samples], by: float) -> Callable[[Samples, Samples], Flags]:
    return lambda base, head: np.asarray(statistic(head, axis=-1) > (1 + by) * statistic(base, axis=-1))


def _rank_test(base: Samples, head: Samples) -> Samples:
    from scipy.stats import mannwhitneyu

    return np.asarray(mannwhitneyu(head, base, alternative="two-sided", axis=-1).pvalue)


def _asv(factor: float) -> Callable[[Samples, Samples], Flags]:
    return lambda base, head: _grew(np.median, factor - 1)(base, head) & (_rank_test(base, head) < 0.002)


def _google(base: Samples, head: Samples) -> Flags:
    return (_rank_test(base, head) < 0.05) & (np.median(head, axis=-1) > np.median(base, axis=-1))


RIVALS: Final[Mapping[str, Callable[[Samples, Samples], Flags]]] = {
    "pytest-benchmark median:5%": _grew(np.median, 0.05),
    "pytest-benchmark mean:5%": _grew(np.mean, 0.05),
    "pytest-benchmark min:5%": _grew(np.min, 0.05),
    "asv, factor 1.1 (default)": _asv(1.1),
    "asv, factor 1.05": _asv(1.05),
    "google/benchmark U test": _google,
}
"""By name, a function of samples ``base`` and ``head`` of shape (…, samples) that says where the rule reports a slowdown, shape (…)."""
