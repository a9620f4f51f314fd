"""The gate's rule: from rounds to a decision. Pure: nothing is measured, read or printed here.

One number a round enters, the logarithm of head / base in the direction of harm. Everything is read off the sorted *Walsh averages*,
the means of all pairs of rounds: their median is the change (Hodges and Lehmann 1963), and counting those above a value is the
signed-rank test of Wilcoxon (1945) of that value. The interval is that test inverted, and the verdict is read off the interval, so the
two cannot disagree:

- REGRESSION: the whole interval lies above no change, and the change itself above the floor;
- IMPROVED: the mirror image;
- PASS: the whole interval lies below the target (no absence of evidence, but a proof of smallness);
- otherwise more rounds, and at the cap INCONCLUSIVE.

The test is exact and assumes only that a round is as likely to favour one side as the other, which the random order inside a round
provides. Looking several times is paid for by splitting `alpha` and `beta` over the looks (Bonferroni), so that the interval holds at
all looks together with confidence 1 - alpha - beta (a repeated confidence interval, Jennison and Turnbull 1989). A regression counts only
when a second measurement from scratch shows it again, at `second_alpha`, which is laxer; the proof of smallness never is. `confirm` puts
the two measurements together.

Two rules look at more than one number a round. `decide_by_blocks` lets the fastest block of a round accuse as well as the median one, but
acquit nobody. `decide_guarded` is for what processor time tells: wall time must not have grown much either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.gate.kinds import Kind
from harness.gate.outcome import Decision, Verdict
from harness.statistics import paired_difference

LOOKS: Final = (10, 20, 40, 60, 80)
"""Numbers of rounds at which the data are looked at."""
FALSE_ALARMS: Final = 0.01
"""Bound on the probability that a whole gate blames a change that did nothing."""
BETA: Final = 0.01
"""Bound on the probability that a change as large as the target passes."""
REQUESTS_BEYOND: Final = 20
"""Requests of each side and round that must lie beyond a quantile before it is judged: fewer make the estimate the outliers' play."""
GUARD_FLOOR, GUARD_TARGET = 0.10, 0.25
"""Wall time beside processor time: it includes whatever else the machine does, so only a large change of it counts."""

Floats = NDArray[np.float64]


def log_ratios(base: Iterable[float | None], head: Iterable[float | None], kind: Kind) -> Floats:
    """Return for each round log(head / base) in the direction of harm.

    A round that has no positive finite number on both sides becomes NaN, which `decide` answers with ERROR; so does a round that only
    one side has.
    """
    one, other = _numbers(base), _numbers(head)
    count = max(one.size, other.size)
    both = np.full((2, count), math.nan)
    both[0, : one.size], both[1, : other.size] = one, other
    usable = np.isfinite(both).all(axis=0) & (both > 0).all(axis=0)
    ratios = np.full(count, math.nan)
    below, above = both[:, usable].min(axis=0), both[:, usable].max(axis=0)
    ratios[usable] = np.where(both[1, usable] >= both[0, usable], 1, -1) * np.log(above / below)  # exactly antisymmetric
    return _harm(kind) * ratios


def decide(
    x: Iterable[float | None],
    kind: Kind,
    *,
    alpha: float = 0.01,
    beta: float = BETA,
    looks: Sequence[int] = LOOKS,
    last: bool = False,
    signs: bool = False,
) -> Decision | None:
    """Decide on a case from its rounds so far, or ask for more.

    Parameters
    ----------
    x : array_like of shape (rounds,)
        One number a round: log(head / base) in the direction of harm (see `log_ratios`), rounds being independent process pairs.
    kind : Kind
        Floor and target.
    alpha : float
        Bound on the probability of a wrong REGRESSION, over all looks.
    beta : float
        Bound on the probability of a wrong PASS or IMPROVED, over all looks.
    looks : sequence of int
        Numbers of rounds at which to look, ascending; at any other number the answer is None.
    last : bool
        There will be no more rounds: this is a look, and what is undecided is INCONCLUSIVE. It must not be used for more looks than
        `looks` has.
    signs : bool
        Test by the signs of the rounds alone and not by their ranks; the change is then the median round. Of rounds that are alike it shows
        less, but where something else disturbs some of them it shows more: a disturbed round counts as one, while its rank would outweigh
        many that are not.

    Returns
    -------
    Decision or None
        None: go on.
    """
    values = _numbers(x)
    if fault := _fault(values):
        return Decision("ERROR", rounds=values.size, reason=fault)
    at_cap = last or values.size >= max(looks)
    if not at_cap and values.size not in looks:
        return None
    levels = alpha / len(looks), beta / len(looks)
    fewest = math.floor(-math.log2(min(levels))) + 1
    if signs:
        pairs, null = np.sort(values), _signs(values.size)
    else:
        first, second = _pairs(values.size)
        pairs, null = np.sort((values[first] + values[second]) / 2), _signed_ranks(values.size)
    decision = _read(pairs, null, kind, levels=levels, confidence=1 - alpha - beta, rounds=values.size, fewest=fewest)
    if decision.verdict == "INCONCLUSIVE" and not at_cap:
        return None
    return replace(decision, looks=sum(look < values.size for look in looks) + 1)


def decide_by_blocks(
    x: Iterable[float | None], fastest: Iterable[float | None], kind: Kind, *, alpha: float = 0.01, beta: float = BETA, last: bool = False
) -> Decision | None:
    """Decide on a case by the median and by the fastest block of each round.

    Where processes wait for a processor, the median over a round's blocks is mostly waiting, while the fastest block has hardly waited; but
    it knows nothing of a slowdown that spares one block of a round. So a regression is what either shows, each at half of `alpha`, while
    only the median can prove a change small. The fastest blocks are judged by their signs, since a round in which no block was spared the
    waiting is far off.

    Parameters
    ----------
    x, fastest : array_like of shape (rounds,)
        One number a round of each: the median over blocks of log(head / base), and that of the fastest block of either side, see `decide`.
    kind, alpha, beta, last
        As in `decide`.
    """
    found = decide(x, kind, alpha=alpha / 2, beta=beta, last=last)
    quick = decide(fastest, kind, alpha=alpha / 2, beta=beta, last=last, signs=True)
    if found is not None and found.verdict in ("REGRESSION", "ERROR"):
        return found
    if quick is not None and quick.verdict == "ERROR":
        return quick
    if quick is not None and quick.verdict == "REGRESSION":
        return replace(quick, reason="the fastest block of each round is slower by more than the floor, and not by chance")
    return found


def decide_guarded(
    x: Iterable[float | None],
    wall: Iterable[float | None],
    kind: Kind,
    *,
    fastest: Iterable[float | None] = (),
    alpha: float = 0.01,
    beta: float = BETA,
    last: bool = False,
) -> Decision | None:
    """Decide on a case by processor time, with wall time as a second test.

    Processor time hides what a program waits for: a lock, the disk, a timer. So it passes only where wall time is also shown to have grown
    by less than `GUARD_TARGET`, for which more rounds are measured than processor time alone would need, and a growth of wall time beyond
    `GUARD_FLOOR` is a regression whatever processor time says. Each of the two is decided at the first look at which it can be, by rounds
    up to there.

    Parameters
    ----------
    x, wall : array_like of shape (rounds,)
        The same rounds by processor time and by wall time, see `decide`.
    kind : Kind
        Floor and target of processor time.
    fastest : array_like of shape (rounds,)
        Processor time of the fastest blocks, see `decide_by_blocks`; empty where a round has only one.
    alpha, beta, last
        As in `decide`, of each of the two tests.
    """
    found = _at_first_look(x, fastest, kind, alpha=alpha, beta=beta, last=last)
    if found is not None and found.verdict in ("REGRESSION", "ERROR"):
        return found
    guard = _at_first_look(wall, (), replace(kind, floor=GUARD_FLOOR, target=GUARD_TARGET), alpha=alpha, beta=beta, last=last)
    if guard is not None and guard.verdict == "ERROR":
        return guard
    if guard is not None and guard.verdict == "REGRESSION":
        cpu = f", processor time did not ({_percent(found.change)})" if found and found.change is not None else ""
        return replace(guard, reason=f"wall time grew{cpu}: it waits longer, for a lock, the disk, a timer or another process")
    if found is None or guard is None:
        return None
    if found.verdict in ("PASS", "IMPROVED") and guard.verdict == "INCONCLUSIVE":
        reason = f"{found.verdict} by processor time, but that wall time grew by less than {GUARD_TARGET:.0%} could not be shown"
        return replace(
            found, verdict="INCONCLUSIVE", rounds=guard.rounds, looks=guard.looks, rounds_needed=guard.rounds_needed, reason=reason
        )
    return found


def _at_first_look(
    x: Iterable[float | None], fastest: Iterable[float | None], kind: Kind, *, alpha: float, beta: float, last: bool
) -> Decision | None:
    """Decide as was done at the first look at which that could be, whatever was measured since."""
    values, quick = _numbers(x), _numbers(fastest)

    def after(rounds: int, *, last: bool) -> Decision | None:
        if quick.size:
            return decide_by_blocks(values[:rounds], quick[:rounds], kind, alpha=alpha, beta=beta, last=last)
        return decide(values[:rounds], kind, alpha=alpha, beta=beta, last=last)

    for look in LOOKS:
        if look < values.size and (found := after(look, last=False)) is not None:
            return found
    return after(values.size, last=last)


def second_alpha(cases: int, alpha: float = 0.01) -> float:
    """Return the level of the second measurement of what looked like a regression.

    The two measurements are independent, so the probability that any of `cases` unchanged cases fails both is at most
    ``cases * alpha * second_alpha``, which this keeps to 1 % (`FALSE_ALARMS`). A case that two clocks may accuse counts as four: any of
    them in the first measurement and any in the second.
    """
    return min(0.05, FALSE_ALARMS / (max(cases, 1) * alpha))


def control_alpha(cases: int) -> float:
    """Return the level at which base is compared with a second copy of itself.

    A control is not measured twice and is looked at both ways, so the whole bound is split over its cases. At `alpha` itself 3 to 8 % of
    recorded gates of 24 cases would have called themselves contaminated by chance.
    """
    return FALSE_ALARMS / (2 * max(cases, 1))


def confirm(first: Decision, second: Decision, *, ended: bool = False) -> Decision:
    """Return the verdict on a case that looked like a regression and was measured again from scratch.

    `ended` says that the second measurement came to an end, because the budget had, before it could decide.
    """
    if first.verdict != "REGRESSION" or second.verdict in ("REGRESSION", "ERROR"):
        return second
    looked = f"looked like a regression ({_percent(first.change)}) in {first.rounds} rounds"
    if second.verdict != "INCONCLUSIVE":
        return replace(second, reason=f"{looked} and was not reproduced in {second.rounds} new ones")
    if ended:
        return replace(second, reason=f"{looked}; the budget ended before {second.rounds} new ones could reproduce or refute it")
    return replace(second, reason=f"{looked}, which {second.rounds} new ones neither reproduced nor refuted")


def unpaired(
    base: Iterable[float | None], head: Iterable[float | None], kind: Kind, *, enough: bool, alpha: float = 0.01, beta: float = BETA
) -> Decision:
    """Decide on values of independent processes that were not measured in common rounds.

    The test of Mann and Whitney (1947) takes the place of Wilcoxon's, with all differences head - base in the place of the Walsh
    averages. It cannot tell a slower version from a slower hour: interleaved rounds are better evidence.

    Parameters
    ----------
    base, head : array_like of shape (processes,)
        One positive value a process, in the metric's own unit.
    kind : Kind
        Floor, target and direction.
    enough : bool
        Whether the two sides may be compared for a verdict (same machine, enough processes). Otherwise the answer is advisory:
        INCONCLUSIVE, with what the verdict would have been as the reason.
    alpha, beta : float
        Bounds on the probability of a wrong REGRESSION, and of a wrong PASS or IMPROVED.
    """
    one, other = _numbers(base), _numbers(head)
    rounds = min(one.size, other.size)
    for values in (one, other):
        if fault := _fault(values) or ("" if (values > 0).all() else "a value is zero or negative: a ratio needs positive ones"):
            return Decision("ERROR", rounds=rounds, reason=fault)
    differences = np.sort(_harm(kind) * np.subtract.outer(np.log(other), np.log(one)).ravel())
    null = _rank_sums(one.size, other.size)
    fewest = next(n for n in itertools.count(1) if 1 / math.comb(2 * n, n) < min(alpha, beta))
    decision = _read(differences, null, kind, levels=(alpha, beta), confidence=1 - alpha - beta, rounds=rounds, fewest=fewest)
    if enough:
        return decision
    return replace(
        decision, verdict="INCONCLUSIVE", advisory=True, reason=f"evidence is too weak for a verdict, which would be {decision.verdict}"
    )


def exact(base: Sequence[object], head: Sequence[object], kind: Kind) -> Decision:
    """Decide on a metric that must be the same every time: recall of a deterministic build, bytes, a checksum.

    One value a round on each side; a side whose values vary is an ERROR, since then the metric is not what it was declared to be.
    """
    rounds = min(len(base), len(head))
    for side, values in (("base", base), ("head", head)):
        if not len(values) or any(value is None or (isinstance(value, float) and not math.isfinite(value)) for value in values):
            return Decision("ERROR", rounds=rounds, reason=f"{side} has rounds without a number")
        if any(value != values[0] for value in values):
            return Decision("ERROR", rounds=rounds, reason=f"declared exact, but {side} gave {_different(values)}")
    one, other = base[0], head[0]
    if kind.unit == "checksum":
        if one == other:
            return Decision("PASS", rounds=rounds)
        return Decision("REGRESSION", rounds=rounds, reason=f"the checksum changed from {one} to {other}: the output is another one")
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return Decision("ERROR", rounds=rounds, reason=f"a number is needed, got {one!r} and {other!r}")
    difference = other - one
    relative = kind.unit != "ratio"
    if relative and one == 0 and difference != 0:
        return Decision("ERROR", rounds=rounds, reason="base is zero: a ratio needs a positive number")
    change = difference / one if relative and one else float(difference)
    harm = _harm(kind) * difference
    verdict: Verdict = "REGRESSION" if harm > kind.target else "IMPROVED" if -harm > kind.target else "PASS"
    reason = "" if verdict == "PASS" else f"{one:g} became {other:g}, which is exact"
    return Decision(verdict, change=change, lo=change, hi=change, confidence=1.0, rounds=rounds, reason=reason)


def quality(base_scores: ArrayLike, head_scores: ArrayLike, kind: Kind, *, alpha: float = 0.01, beta: float = BETA) -> Decision:
    """Decide on scores of queries that builds answered which differ from one to the next, such as recall of a parallel HNSW build.

    The query is the unit: scores are averaged over builds first, then compared query by query (`harness.statistics.paired_difference`).
    PASS proves that the mean loss is smaller than the margin (`Kind.target`); REGRESSION proves a loss, and the loss itself exceeds the
    margin. Where hardly any query differs, the bounds allow for losses too rare to have been seen, so that a few hundred queries that
    all agree do not prove a small margin.

    Parameters
    ----------
    base_scores, head_scores : array_like of shape (queries,) or (builds, queries)
        Scores in [0, 1] of the same queries in the same order on both sides.
    kind : Kind
        Margin (absolute) and direction.
    alpha, beta : float
        Bounds on the probability of a wrong REGRESSION, and of a wrong PASS or IMPROVED.
    """
    sides = [np.atleast_2d(np.asarray(scores, dtype=np.float64)) for scores in (base_scores, head_scores)]
    queries = sides[0].shape[1]
    if queries != sides[1].shape[1]:
        return Decision("ERROR", reason=f"base has {queries} queries and head {sides[1].shape[1]}: they cannot be paired")
    if queries < 2 or not all(side.size and np.isfinite(side).all() and side.min() >= 0 and side.max() <= 1 for side in sides):
        return Decision("ERROR", rounds=queries, reason="a query has no score in [0, 1], or there are fewer than two")
    base, head = (side.mean(axis=0) for side in sides)
    sign, margin = -_harm(kind), kind.target
    sides_of_gain = (head, base) if sign > 0 else (base, head)
    found, for_pass = (paired_difference(*sides_of_gain, confidence=1 - 2 * level) for level in (alpha, beta))
    gain, most, least, p = found.difference.value, found.difference.hi, for_pass.difference.lo, found.p_value
    assert gain is not None  # and neither is the rest, with two queries or more
    assert most is not None
    assert least is not None
    assert p is not None
    verdict: Verdict = "INCONCLUSIVE"
    reason = f"neither a loss nor one below {margin:g} could be shown"
    if most < 0 and gain < -margin:
        verdict, reason = "REGRESSION", "worse by more than the margin, and not by chance"
    elif least > 0 and gain > margin:
        verdict, reason = "IMPROVED", "better by more than the margin, and not by chance"
    elif least > -margin:
        verdict, reason = "PASS", ""
    lo, hi = sorted((sign * least, sign * most))
    p = p / 2 if gain < 0 else 1 - p / 2
    return Decision(verdict, change=sign * gain, lo=lo, hi=hi, confidence=1 - alpha - beta, p=p, rounds=queries, looks=1, reason=reason)


def harrell_davis(samples: ArrayLike, q: float) -> float:
    """Return the quantile by Harrell and Davis (1982): a mean of all order statistics, steadier in the tail than one of them."""
    from scipy.stats import quantile

    values = np.asarray(samples, dtype=np.float64)
    return float(quantile(values, q, method="harrell-davis"))  # type: ignore[call-overload]  # the stubs do not know this method


def requests_needed(q: float) -> int:
    """Return how many requests of each side and round the quantile needs to be judged and not only shown: 400 for p95, 2,000 for p99."""
    return math.ceil(REQUESTS_BEYOND / (1 - q) - 1e-9)


def _read(pairs: Floats, null: Floats, kind: Kind, *, levels: tuple[float, float], confidence: float, rounds: int, fewest: int) -> Decision:
    """Read the verdict off sorted Walsh averages, rounds or differences; `null` has the probability of so many or more beyond the truth.

    `levels` are those of the proofs of harm and of smallness. Pairs that equal the value count for neither side: at ties the test is
    conservative (as if each had been broken against the claim), where the textbook null with mid-ranks would only be approximate.
    """
    from scipy.special import ndtri

    floor, target = math.log1p(kind.floor), math.log1p(kind.target)
    change = float(pairs[(pairs.size - 1) // 2] + pairs[pairs.size // 2]) / 2
    p = float(min(1.0, null[int((pairs > 0).sum())]))
    beyond_lo, beyond_hi = (_critical(null, level) for level in levels)
    if beyond_lo is None or beyond_hi is None:
        reason = f"{rounds} rounds cannot show anything, whatever they hold: at least {fewest} are needed"
        return Decision("INCONCLUSIVE", change=_ratio(change, kind), p=p, rounds=rounds, looks=1, rounds_needed=fewest, reason=reason)
    lo, hi = float(pairs[-beyond_lo]), float(pairs[beyond_hi - 1])
    to_harm, to_small, at_power = (float(z) for z in ndtri([1 - levels[0], 1 - levels[1], 0.95]))
    error = (hi - lo) / (to_harm + to_small)  # the standard error that an interval of this width has where it is normal
    detectable = max((to_harm + at_power) * error, floor + at_power * error)
    verdict: Verdict
    needed_rounds = None
    if lo > 0 and change > floor:
        verdict, reason = "REGRESSION", "worse by more than the floor, and not by chance"
    elif hi < 0 and change < -floor:
        verdict, reason = "IMPROVED", "better by more than the floor, and not by chance"
    elif hi < target:
        verdict, reason = "PASS", ""
    else:
        verdict, reason = "INCONCLUSIVE", f"neither harm nor a change below {kind.target:.0%} could be shown"
        distance = max(target - change, change if change > floor else 0.0)  # to whichever can be shown sooner, at a power of 80 %
        if distance > 0:
            needed_rounds = max(rounds + 1, math.ceil(rounds * ((max(to_harm, to_small) + at_power / 2) * error / distance) ** 2))
    ends = sorted((_ratio(lo, kind), _ratio(hi, kind)))
    return Decision(
        verdict,
        change=_ratio(change, kind),
        lo=ends[0],
        hi=ends[1],
        confidence=confidence,
        p=p,
        rounds=rounds,
        looks=1,
        detectable=math.expm1(detectable),
        rounds_needed=needed_rounds,
        reason=reason,
    )


@lru_cache(maxsize=256)
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and the second of every pair of n rounds, each with itself too."""
    return np.triu_indices(n)


def _or_more(probabilities: Floats) -> Floats:
    """Return for each count the probability of it or more."""
    return np.cumsum(probabilities[::-1])[::-1]


@lru_cache(maxsize=256)
def _signed_ranks(n: int) -> Floats:
    """Return the probability that ranks 1 … n, each in or out by a fair coin, add up to so much or more: the signed-rank test's null."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] = counts[rank:] + counts[:-rank]
        counts /= 2
    return _or_more(counts)


@lru_cache(maxsize=256)
def _signs(n: int) -> Floats:
    """Return the probability of so many heads or more among n fair coins: the null of the sign test."""
    return _or_more(np.array([math.comb(n, heads) for heads in range(n + 1)], dtype=np.float64) / 2.0**n)


@lru_cache(maxsize=256)
def _rank_sums(m: int, n: int) -> Floats:
    """Return the probability of so many pairs or more in which the second of two samples is larger: the null of Mann and Whitney's U."""
    ways = np.zeros((n + 1, m * n + 1))
    ways[0, 0] = 1.0
    for smaller in range(m + n):
        for chosen in range(min(n, smaller + 1), 0, -1):
            below = smaller - (chosen - 1)
            if 0 <= below <= m:
                ways[chosen, below:] += ways[chosen - 1, : m * n + 1 - below]
    return _or_more(ways[n] / ways[n].sum())


def _critical(null: Floats, level: float) -> int | None:
    """Return the smallest count whose probability, with all larger ones, is below `level`; None where there is none."""
    below = int(null.size - np.searchsorted(null[::-1], level))  # it falls from 1
    return below if below < null.size else None


def _harm(kind: Kind) -> int:
    """Return the sign that turns a growing number into growing harm."""
    return 1 if kind.better == "lower" else -1


def _ratio(harm: float, kind: Kind) -> float:
    """Return a log ratio in the direction of harm as a ratio less one in the direction of the metric's own unit."""
    return math.expm1(_harm(kind) * harm)


def _percent(change: float | None) -> str:
    return "" if change is None else f"{change:+.1%}"


def _different(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in sorted(set(values), key=str)[:3])


def _numbers(values: Iterable[object] | Floats) -> Floats:
    """Return numbers as a vector; whatever is no number (None, text, a bool) is NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64).reshape(-1)
    real = (
        value if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) else math.nan for value in values
    )
    return np.array([float(value) for value in real], dtype=np.float64)


def _fault(values: Floats) -> str:
    """Say what makes rounds unusable; nothing where they are fine."""
    if not values.size:
        return "there are no rounds"
    bad = np.flatnonzero(~np.isfinite(values))
    return f"{bad.size} of {values.size} rounds have no usable number, the first is round {bad[0]}" if bad.size else ""
