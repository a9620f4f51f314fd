"""The gate's rule: what it says, what it assumes, and that it agrees with scipy, brute force and its own promises."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.gate.decide import (
    LOOKS,
    confirm,
    control_alpha,
    decide,
    decide_by_blocks,
    decide_guarded,
    exact,
    harrell_davis,
    log_ratios,
    quality,
    requests_needed,
    second_alpha,
    unpaired,
)
from harness.gate.kinds import KINDS
from harness.gate.outcome import Decision

SECONDS = KINDS["forward_s"]
RECALL = KINDS["recall"]
BYTES = KINDS["index_bytes"]
CHECKSUM = KINDS["vectors"]
BUILDS = KINDS["recall_of_builds"]
RATE = dataclasses.replace(SECONDS, better="higher")
"""A duration's mirror image, for the direction only."""

LEVEL = 0.01 / len(LOOKS)


def noisy(change, rounds, *, spread=0.02, seed=0):
    """Return rounds of a true change under heavy-tailed noise (Student's t with 3 degrees of freedom)."""
    return math.log1p(change) + spread * np.random.default_rng(seed).standard_t(3, rounds)


ratios = st.floats(-1.0, 1.0, allow_nan=False)
rounds_of = st.lists(ratios, min_size=10, max_size=40)
coarse_rounds = st.lists(st.integers(-3, 3).map(lambda k: k / 20), min_size=10, max_size=40)
times = st.floats(1e-6, 1e6, allow_nan=False)


# ------------------------------------------------------------------------------------ what it says


@pytest.mark.parametrize(("change", "verdict"), [(0.2, "REGRESSION"), (0.0, "PASS"), (-0.2, "IMPROVED")])
def test_a_clear_case_is_decided_at_the_first_look(change, verdict):
    assert decide(noisy(change, 10), SECONDS).verdict == verdict


def test_between_looks_it_asks_for_more():
    assert all(decide(noisy(0.2, count), SECONDS) is None for count in (1, 9, 11, 19, 21, 79))


def test_a_noisy_case_goes_on_and_ends_inconclusive_never_passing():
    x = noisy(0.04, 80, spread=0.6)
    assert decide(x[:10], SECONDS) is None
    assert decide(x[:60], SECONDS) is None
    decision = decide(x, SECONDS)
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.rounds_needed > 80
    assert decision.detectable > 0.05
    assert (decision.rounds, decision.looks) == (80, 5)


def test_the_end_of_the_time_is_a_look_of_its_own():
    decision = decide(noisy(0.2, 33), SECONDS, last=True)
    assert decision.verdict == "REGRESSION"
    assert (decision.rounds, decision.looks) == (33, 3)


def test_nine_rounds_can_decide_and_eight_cannot_whatever_they_hold():
    assert decide(np.full(9, 0.5), SECONDS, last=True).verdict == "REGRESSION"
    too_few = decide(np.full(8, 0.5), SECONDS, last=True)
    assert too_few.verdict == "INCONCLUSIVE"
    assert too_few.rounds_needed == 9
    assert "at least 9" in too_few.reason


def test_every_look_could_decide_at_the_level_it_has():
    assert min(LOOKS) >= 1
    assert 2.0 ** -min(LOOKS) < LEVEL
    assert 2.0 ** -min(LOOKS) < second_alpha(200) / len(LOOKS)


def test_a_real_change_below_the_floor_is_no_regression():
    decision = decide(noisy(0.02, 80, spread=0.002), SECONDS)
    assert decision.lo > 0
    assert decision.verdict == "PASS"


def test_no_change_is_proved_not_assumed():
    decision = decide(noisy(0.0, 10), SECONDS)
    assert decision.verdict == "PASS"
    assert decision.hi < SECONDS.target


def test_where_more_is_better_the_change_keeps_the_sign_of_the_number():
    base, head = np.full(10, 100.0), np.linspace(79, 81, 10)
    slower = decide(log_ratios(base, head, RATE), RATE)
    assert slower.verdict == "REGRESSION"
    assert slower.change == pytest.approx(-0.2, abs=0.01)
    assert slower.lo < slower.change < slower.hi < 0
    longer = decide(log_ratios(base, 1 / head * 1e4, SECONDS), SECONDS)
    assert longer.verdict == "REGRESSION"
    assert longer.change == pytest.approx(0.25, abs=0.02)


# ------------------------------------------------------------------- that the numbers are those of scipy


@pytest.mark.parametrize("rounds", [10, 20, 37, 60])
def test_p_is_that_of_scipys_exact_signed_rank_test(rounds):
    x = noisy(0.01, rounds, seed=rounds)
    assert decide(x, SECONDS, last=True).p == pytest.approx(stats.wilcoxon(x, alternative="greater", method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("rounds", [10, 20, 37])
def test_the_change_is_the_median_of_all_pairwise_means(rounds):
    x = noisy(0.03, rounds, seed=rounds)
    pairs = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(x, 2)]
    assert decide(x, SECONDS, last=True).change == pytest.approx(math.expm1(np.median(pairs)), rel=1e-12)


@pytest.mark.parametrize("rounds", [10, 20, 37])
def test_the_interval_is_scipys_test_inverted(rounds):
    x = noisy(0.03, rounds, seed=rounds)
    decision = decide(x, SECONDS, last=True)
    lo, hi, nudge = math.log1p(decision.lo), math.log1p(decision.hi), 1e-9

    def p(value, alternative):
        return stats.wilcoxon(x - value, alternative=alternative, method="exact").pvalue

    assert p(lo - nudge, "greater") < LEVEL <= p(lo + nudge, "greater")
    assert p(hi + nudge, "less") < LEVEL <= p(hi - nudge, "less")
    assert decision.confidence == pytest.approx(0.98)


@pytest.mark.parametrize("rounds", [10, 20, 37, 60])
def test_by_signs_p_and_interval_are_those_of_scipys_binomial_test(rounds):
    x = noisy(0.03, rounds, seed=rounds)
    decision = decide(x, SECONDS, last=True, signs=True)

    def p(value, alternative):
        return stats.binomtest(int((x > value).sum()), rounds, alternative=alternative).pvalue

    lo, hi, nudge = math.log1p(decision.lo), math.log1p(decision.hi), 1e-9
    assert decision.p == pytest.approx(p(0, "greater"), rel=1e-9)
    assert decision.change == pytest.approx(math.expm1(np.median(x)), rel=1e-12)
    assert p(lo - nudge, "greater") < LEVEL <= p(lo + nudge, "greater")
    assert p(hi + nudge, "less") < LEVEL <= p(hi - nudge, "less")


def test_by_signs_rounds_that_something_else_disturbs_hide_less():
    """Four rounds of ten are off by anything between a third less and half more, the others show 5 %."""
    generator = np.random.default_rng(12)
    found = {True: 0, False: 0}
    for _ in range(60):
        x = 0.05 + 0.005 * generator.standard_normal(40)
        disturbed = generator.random(40) < 0.4
        x = np.where(disturbed, generator.uniform(-0.4, 0.4, 40), x)
        for signs in found:
            found[signs] += decide(x, SECONDS, last=True, signs=signs).verdict == "REGRESSION"
    assert found[True] > 40
    assert found[False] < found[True] / 2


@pytest.mark.parametrize(("m", "n"), [(10, 10), (12, 7), (25, 30)])
def test_unpaired_p_is_that_of_scipys_exact_rank_sum_test(m, n):
    generator = np.random.default_rng(m)
    base, head = generator.lognormal(0, 0.05, m), generator.lognormal(0.02, 0.05, n)
    expected = stats.mannwhitneyu(head, base, alternative="greater", method="exact").pvalue
    assert unpaired(base, head, SECONDS, enough=True).p == pytest.approx(expected, rel=1e-9)


def test_the_unpaired_interval_is_scipys_test_inverted():
    generator = np.random.default_rng(1)
    base, head = generator.lognormal(0, 0.05, 12), generator.lognormal(0.02, 0.05, 14)
    decision = unpaired(base, head, SECONDS, enough=True)
    lo, hi, nudge = math.log1p(decision.lo), math.log1p(decision.hi), 1e-9

    def p(value, alternative):
        return stats.mannwhitneyu(np.log(head) - value, np.log(base), alternative=alternative, method="exact").pvalue

    assert p(lo - nudge, "greater") < 0.01 <= p(lo + nudge, "greater")
    assert p(hi + nudge, "less") < 0.01 <= p(hi - nudge, "less")


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_harrell_davis_is_that_of_the_other_implementation(q):
    samples = np.random.default_rng(0).lognormal(0, 1, 400)
    assert harrell_davis(samples, q) == pytest.approx(float(stats.mstats.hdquantiles(samples, [q])[0]), rel=1e-9)


def test_a_tail_needs_twenty_requests_beyond_it():
    assert [requests_needed(q) for q in (0.5, 0.95, 0.99)] == [40, 400, 2000]


# ------------------------------------------------------------------------------- what it promises


def test_unchanged_code_is_blamed_and_a_target_is_passed_no_more_often_than_alpha():
    """The worst cases: no floor, and a true change of exactly the target; bound of alpha plus three standard errors."""
    strict = dataclasses.replace(SECONDS, floor=0.0)
    trials, alpha = 400, 0.05
    generator = np.random.default_rng(3)
    blamed = passed = 0
    for _ in range(trials):
        x = 0.05 * generator.laplace(size=80)
        for look in LOOKS:
            if (decision := decide(x[:look], strict, alpha=alpha)) and decision.verdict == "REGRESSION":
                blamed += 1
                break
        for look in LOOKS:
            if (decision := decide(x[:look] + math.log1p(0.05), strict, alpha=alpha)) and decision.verdict == "PASS":
                passed += 1
                break
    allowed = trials * alpha + 3 * math.sqrt(trials * alpha * (1 - alpha))
    assert 0 < blamed < allowed
    assert 0 < passed < allowed


def test_the_interval_holds_at_all_looks_together():
    generator = np.random.default_rng(4)
    trials, missed = 300, 0
    huge = dataclasses.replace(SECONDS, floor=1e9, target=-1 + 1e-9)
    for _ in range(trials):
        x = 0.05 * generator.standard_t(3, 80)
        at_looks = [decide(x[:look], huge, last=True) for look in LOOKS]
        missed += any(not one.lo <= 0 <= one.hi for one in at_looks)
    assert missed <= trials * 0.02 + 3 * math.sqrt(trials * 0.02 * 0.98)


def test_ties_and_rounds_without_difference_never_add_evidence():
    """Against every way of breaking the ties: the rule's p is at least as large."""
    generator = np.random.default_rng(5)
    for _ in range(50):
        x = generator.integers(-2, 4, 12) / 10
        p = decide(x, SECONDS, last=True).p
        broken = [stats.wilcoxon(x + 1e-6 * generator.standard_normal(12), alternative="greater", method="exact").pvalue for _ in range(5)]
        assert p >= max(broken) - 1e-12


def test_rounds_that_do_not_differ_at_all_pass():
    decision = decide(np.zeros(10), SECONDS)
    assert decision.verdict == "PASS"
    assert (decision.change, decision.p) == (0.0, 1.0)


def test_what_is_called_detectable_is_found_about_as_often_as_said():
    generator = np.random.default_rng(6)
    spread, rounds, trials = 0.02, 20, 400
    detectable = np.median([decide(spread * generator.standard_normal(rounds), SECONDS, last=True).detectable for _ in range(100)])
    shifted = (math.log1p(detectable) + spread * generator.standard_normal(rounds) for _ in range(trials))
    found = sum(decide(x, SECONDS, last=True).verdict == "REGRESSION" for x in shifted)
    assert 0.90 <= found / trials <= 0.99


def test_the_rounds_that_an_inconclusive_case_is_said_to_need_mostly_decide_it():
    generator = np.random.default_rng(7)
    short = [decide(0.1 * generator.standard_normal(20), SECONDS, last=True) for _ in range(40)]
    needed = round(np.median([one.rounds_needed for one in short if one.verdict == "INCONCLUSIVE"]))
    decided = sum(decide(0.1 * generator.standard_normal(needed), SECONDS, last=True).verdict != "INCONCLUSIVE" for _ in range(60))
    assert 20 < needed < 400
    assert decided >= 30


def test_two_independent_measurements_bound_the_whole_gate():
    assert second_alpha(24) == pytest.approx(0.0417, abs=1e-4)
    assert second_alpha(1) == 0.05
    assert all(cases * 0.01 * second_alpha(cases) <= 0.01 + 1e-12 for cases in (1, 2, 24, 500))


def test_a_control_of_many_cases_looked_at_both_ways_stays_within_the_bound():
    assert all(2 * cases * control_alpha(cases) == pytest.approx(0.01) for cases in (1, 24, 500))
    steady = decide(np.linspace(-0.01, 0.011, 20), SECONDS, alpha=control_alpha(24), last=True)
    assert steady.verdict == "PASS"
    assert decide(np.linspace(0.04, 0.06, 20), SECONDS, alpha=control_alpha(24), last=True).verdict == "REGRESSION"


# -------------------------------------------------------------------------------- the second measurement


def test_only_what_is_reproduced_is_a_regression():
    first, same = decide(noisy(0.2, 10), SECONDS), decide(noisy(0.2, 10, seed=1), SECONDS, alpha=0.04)
    gone = decide(noisy(0.0, 10, seed=1), SECONDS, alpha=0.04)
    assert confirm(first, same) == same
    assert confirm(first, gone).verdict == "PASS"
    assert "not reproduced" in confirm(first, gone).reason


def test_a_laxer_second_measurement_makes_no_laxer_proof_of_smallness():
    x = noisy(0.02, 10, spread=0.012)
    strict, lax = decide(x, SECONDS, last=True), decide(x, SECONDS, alpha=0.04, last=True)
    assert lax.lo > strict.lo
    assert lax.hi == strict.hi
    assert lax.confidence == pytest.approx(0.95)


def test_a_second_measurement_that_the_budget_ended_is_no_refutation():
    first, short = decide(noisy(0.2, 10), SECONDS), decide(noisy(0.2, 4, seed=1), SECONDS, alpha=0.04, last=True)
    found = confirm(first, short, ended=True)
    assert found.verdict == "INCONCLUSIVE"
    assert "the budget ended before 4 new ones" in found.reason
    assert "not reproduced" not in found.reason
    noise = decide(noisy(0.04, 80, spread=0.6), SECONDS)
    assert "80 new ones neither reproduced nor refuted" in confirm(first, noise).reason


# --------------------------------------------------------------------------- two numbers a round


CALM, ROUGH = {"spread": 0.01}, {"spread": 2.0}


def test_processor_time_passes_only_once_wall_time_is_shown_not_to_have_grown_much():
    calm = noisy(0, 80, **CALM)
    assert decide_guarded(calm[:10], noisy(0, 10, seed=1, **CALM), SECONDS).verdict == "PASS"
    rough = noisy(0, 80, seed=1, **ROUGH)
    assert all(decide_guarded(calm[:look], rough[:look], SECONDS) is None for look in LOOKS[:-1])
    found = decide_guarded(calm, rough, SECONDS)
    assert found.verdict == "INCONCLUSIVE"
    assert "PASS by processor time, but that wall time grew by less than 25% could not be shown" in found.reason
    assert (found.rounds, found.looks) == (80, 5)
    assert abs(found.change) < 0.01


def test_a_speed_up_by_processor_time_is_none_while_wall_time_is_open():
    faster, rough = noisy(-0.2, 80, **CALM), noisy(0, 80, seed=1, **ROUGH)
    assert decide_guarded(faster, noisy(-0.2, 80, seed=1, **CALM), SECONDS).verdict == "IMPROVED"
    assert decide_guarded(faster, rough, SECONDS).verdict == "INCONCLUSIVE"


def test_what_processor_time_showed_early_stands_while_more_rounds_are_measured_for_wall_time():
    x = np.concatenate([noisy(0, 10, **CALM), noisy(0.035, 30, **CALM)])
    wall = np.concatenate([np.linspace(-0.9, 0.9, 10), noisy(0, 30, seed=1, **CALM)])
    assert decide(x[:10], SECONDS).verdict == "PASS"
    assert decide_guarded(x[:10], wall[:10], SECONDS) is None
    later = [one for look in LOOKS[1:3] if (one := decide_guarded(x[:look], wall[:look], SECONDS)) is not None]
    assert later[0] == decide(x[:10], SECONDS)


@pytest.mark.parametrize("processor", [0.0, -0.2])
def test_wall_time_that_grew_much_is_a_regression_whatever_processor_time_says(processor):
    found = decide_guarded(noisy(processor, 10, **CALM), noisy(0.5, 10, seed=1, **CALM), SECONDS)
    assert found.verdict == "REGRESSION"
    assert "wall time grew" in found.reason
    assert found.change == pytest.approx(0.5, abs=0.02)


def test_more_processor_time_needs_no_word_of_the_wall():
    assert decide_guarded(noisy(0.1, 10, **CALM), noisy(0, 10, **ROUGH), SECONDS).verdict == "REGRESSION"


def test_the_fastest_blocks_accuse_where_the_medians_drown_and_acquit_nobody():
    rough = noisy(0, 80, **ROUGH)
    accused = decide_by_blocks(rough, noisy(0.06, 80, seed=1, **CALM), SECONDS)
    assert (accused.verdict, accused.change) == ("REGRESSION", pytest.approx(0.06, abs=0.01))
    assert "fastest block" in accused.reason
    assert decide_by_blocks(rough, noisy(0, 80, seed=1, **CALM), SECONDS).verdict == "INCONCLUSIVE"


def test_a_slowdown_that_spares_the_fastest_blocks_is_found_by_the_medians():
    assert decide_by_blocks(noisy(0.1, 10, **CALM), noisy(0, 10, seed=1, **CALM), SECONDS).verdict == "REGRESSION"
    assert decide_by_blocks(noisy(0, 10, **CALM), noisy(0, 10, seed=1, **CALM), SECONDS).verdict == "PASS"


def test_two_numbers_a_round_blame_unchanged_code_no_more_often_than_one():
    """The worst case: no floor, and two numbers that have nothing to do with each other; bound of alpha plus three standard errors."""
    strict = dataclasses.replace(SECONDS, floor=0.0)
    trials, alpha = 300, 0.05
    generator = np.random.default_rng(11)
    blamed = 0
    for _ in range(trials):
        x, fastest = 0.05 * generator.laplace(size=(2, 80))
        found = (decide_by_blocks(x[:look], fastest[:look], strict, alpha=alpha) for look in LOOKS)
        blamed += any(one is not None and one.verdict == "REGRESSION" for one in found)
    assert 0 < blamed < trials * alpha + 3 * math.sqrt(trials * alpha * (1 - alpha))


def test_the_fastest_blocks_by_processor_time_accuse_too():
    x, wall = noisy(0.04, 80, spread=0.1), noisy(0.06, 80, seed=1, **CALM)
    assert decide_guarded(x[:20], wall[:20], SECONDS) is None
    found = decide_guarded(x[:20], wall[:20], SECONDS, fastest=noisy(0.06, 20, seed=2, **CALM))
    assert (found.verdict, found.change) == ("REGRESSION", pytest.approx(0.06, abs=0.01))


@pytest.mark.parametrize("rule", [decide_guarded, decide_by_blocks])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_round_that_lacks_either_number_is_an_error(rule, spoilt):
    given = [noisy(0, 10, **CALM), noisy(0, 10, seed=1, **CALM)]
    given[spoilt][3] = math.nan
    assert rule(*given, SECONDS).verdict == "ERROR"


# --------------------------------------------------------------------------------------- properties


@settings(deadline=None, max_examples=60)
@given(rounds_of | coarse_rounds)
def test_swapping_the_sides_flips_the_verdict(x):
    flipped = {"REGRESSION": "IMPROVED", "IMPROVED": "REGRESSION"}
    there, back = decide(x, SECONDS, last=True), decide([-value for value in x], SECONDS, last=True)
    for one, other in ((there, back), (back, there)):
        if one.verdict in flipped:
            assert other.verdict == flipped[one.verdict]
    assert (1 + there.lo) * (1 + back.hi) == pytest.approx(1)
    assert (1 + there.change) * (1 + back.change) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(times, times), min_size=10, max_size=30))
def test_swapping_the_sides_of_the_times_flips_the_sign_and_nothing_else(pairs):
    base, head = zip(*pairs, strict=True)
    assert np.array_equal(log_ratios(base, head, SECONDS), -log_ratios(head, base, SECONDS))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(times, times), min_size=10, max_size=30), st.integers(-10, 10))
def test_scaling_both_sides_changes_nothing(pairs, power):
    base, head = np.array(pairs).T
    scale = 2.0**power
    there = decide(log_ratios(base, head, SECONDS), SECONDS, last=True)
    assert decide(log_ratios(scale * base, scale * head, SECONDS), SECONDS, last=True) == there


@settings(deadline=None, max_examples=60)
@given(rounds_of | coarse_rounds, st.randoms(use_true_random=False))
def test_the_order_of_rounds_changes_nothing_at_one_look(x, chooser):
    shuffled = list(x)
    chooser.shuffle(shuffled)
    assert decide(shuffled, SECONDS, last=True) == decide(x, SECONDS, last=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-0.02, 0.1, allow_nan=False), min_size=10, max_size=30), st.floats(0, 1), st.floats(0, 0.1))
def test_a_round_worse_than_all_others_never_turns_a_regression_into_a_pass(x, worse, shift):
    x = [value + shift for value in x]
    assume(decide(x, SECONDS, last=True).verdict == "REGRESSION")
    assert decide([*x, max(map(abs, x)) + worse], SECONDS, last=True).verdict == "REGRESSION"


@settings(deadline=None, max_examples=60)
@given(rounds_of, st.integers(0, 9), st.sampled_from([math.nan, math.inf, -math.inf, None, "0.1", True]))
def test_a_round_that_is_no_number_is_an_error_never_a_verdict(x, place, bad):
    spoilt = [*x[:place], bad, *x[place + 1 :]]
    for last in (False, True):
        decision = decide(spoilt, SECONDS, last=last)
        assert decision.verdict == "ERROR"
        assert f"round {place}" in decision.reason


@settings(deadline=None, max_examples=60)
@given(st.lists(times, min_size=10, max_size=20), st.integers(0, 9), st.sampled_from([0.0, -1.0, math.nan, math.inf, None]))
def test_zero_negative_or_missing_times_are_an_error(base, place, bad):
    spoilt = [*base[:place], bad, *base[place + 1 :]]
    for x in (log_ratios(base, spoilt, SECONDS), log_ratios(spoilt, base, SECONDS)):
        assert decide(x, SECONDS, last=True).verdict == "ERROR"


def test_rounds_that_only_one_side_has_are_an_error():
    assert decide(log_ratios([1.0] * 12, [2.0] * 10, SECONDS), SECONDS, last=True).verdict == "ERROR"


def test_no_rounds_at_all_are_an_error():
    assert decide([], SECONDS, last=True).verdict == "ERROR"


# ------------------------------------------------------------------------- sides that were not paired


def test_unpaired_processes_can_decide_where_they_may():
    generator = np.random.default_rng(8)
    base = generator.lognormal(0, 0.01, 12)
    assert unpaired(base, 1.1 * generator.lognormal(0, 0.01, 12), SECONDS, enough=True).verdict == "REGRESSION"
    assert unpaired(base, 0.9 * generator.lognormal(0, 0.01, 12), SECONDS, enough=True).verdict == "IMPROVED"
    assert unpaired(base, generator.lognormal(0, 0.01, 12), SECONDS, enough=True).verdict == "PASS"


def test_too_little_evidence_is_shown_and_never_decides():
    decision = unpaired([1.0, 1.01, 1.02, 1.0, 1.01], [1.5, 1.51, 1.52, 1.5, 1.51], SECONDS, enough=False)
    assert decision.advisory
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.change == pytest.approx(0.5, abs=0.02)
    assert "REGRESSION" in decision.reason


def test_three_processes_a_side_can_never_decide():
    decision = unpaired([1.0, 1.1, 1.2], [5.0, 5.1, 5.2], SECONDS, enough=True)
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.lo is None


@pytest.mark.parametrize("bad", [[1.0, 0.0], [1.0, math.nan], []])
def test_unpaired_values_that_are_none_are_an_error(bad):
    assert unpaired(bad, [1.0, 2.0], SECONDS, enough=True).verdict == "ERROR"
    assert unpaired([1.0, 2.0], bad, SECONDS, enough=True).verdict == "ERROR"


# ----------------------------------------------------------------------------------- exact metrics


def test_any_loss_of_an_exact_metric_is_a_regression():
    worse = exact([0.95, 0.95], [0.949, 0.949], RECALL)
    assert worse.verdict == "REGRESSION"
    assert worse.change == pytest.approx(-0.001)
    assert exact([0.95], [0.96], RECALL).verdict == "IMPROVED"
    assert exact([0.95, 0.95], [0.95, 0.95], RECALL).verdict == "PASS"


def test_bytes_are_compared_as_a_ratio_and_fewer_are_better():
    grown = exact([1000, 1000], [1100, 1100], BYTES)
    assert (grown.verdict, grown.change) == ("REGRESSION", pytest.approx(0.1))
    assert exact([1000], [900], BYTES).verdict == "IMPROVED"


def test_a_metric_declared_exact_that_varies_is_an_error():
    for base, head in (([0.95, 0.94], [0.95, 0.95]), ([0.95, 0.95], [0.95, 0.94])):
        decision = exact(base, head, RECALL)
        assert decision.verdict == "ERROR"
        assert "declared exact" in decision.reason


@pytest.mark.parametrize("bad", [[], [None], [math.nan], ["many"]])
def test_an_exact_metric_without_a_number_is_an_error(bad):
    assert exact(bad, [0.9], RECALL).verdict == "ERROR"
    assert exact([0.9], bad, RECALL).verdict == "ERROR"


def test_another_checksum_is_a_regression_without_a_number():
    assert exact(["ab", "ab"], ["ab"], CHECKSUM).verdict == "PASS"
    changed = exact(["ab"], ["cd"], CHECKSUM)
    assert (changed.verdict, changed.change) == ("REGRESSION", None)
    assert "from ab to cd" in changed.reason


# --------------------------------------------------------------------------------- quality of builds


def recalls(queries, mean, *, builds=3, seed=0):
    """Return recall@10 of each query in several builds."""
    return np.random.default_rng(seed).binomial(10, mean, (builds, queries)) / 10


def test_the_same_quality_passes_and_a_loss_is_found():
    base = recalls(2000, 0.95)
    assert quality(base, recalls(2000, 0.95, seed=1), BUILDS).verdict == "PASS"
    worse = quality(base, recalls(2000, 0.93, seed=1), BUILDS)
    assert worse.verdict == "REGRESSION"
    assert worse.change == pytest.approx(-0.02, abs=0.01)
    assert quality(recalls(2000, 0.93, seed=1), base, BUILDS).verdict == "IMPROVED"


def test_quality_is_judged_by_scipys_paired_test_over_queries():
    base, head = recalls(500, 0.95), recalls(500, 0.94, seed=1)
    test = stats.ttest_rel(head.mean(axis=0), base.mean(axis=0))
    decision = quality(base, head, BUILDS)
    expected = test.confidence_interval(0.98)
    assert (decision.lo, decision.hi) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert decision.p == pytest.approx(stats.ttest_rel(head.mean(axis=0), base.mean(axis=0), alternative="less").pvalue)


def test_a_loss_of_the_margin_passes_no_more_often_than_alpha():
    """One query in ten loses 0.1, one in twenty gains it; bound of alpha plus three standard errors."""
    generator = np.random.default_rng(9)
    trials, base = 200, np.full(1000, 0.8)
    draws = (generator.choice([-0.1, 0.1, 0.0], 1000, p=[0.1, 0.05, 0.85]) for _ in range(trials))
    passed = sum(quality(base, base + drawn, BUILDS).verdict == "PASS" for drawn in draws)
    assert passed <= trials * 0.01 + 3 * math.sqrt(trials * 0.01 * 0.99)


def test_a_hundred_queries_that_all_agree_do_not_prove_a_small_margin():
    same = np.full(100, 0.9)
    assert quality(same, same, BUILDS).verdict == "INCONCLUSIVE"
    many = np.full(2000, 0.9)
    assert quality(many, many, BUILDS).verdict == "PASS"


def test_queries_that_do_not_match_or_have_no_score_are_an_error():
    assert quality([0.9, 0.8], [0.9, 0.8, 0.7], BUILDS).verdict == "ERROR"
    assert quality([0.9, math.nan], [0.9, 0.8], BUILDS).verdict == "ERROR"
    assert quality([], [], BUILDS).verdict == "ERROR"
    assert isinstance(quality([0.9, 2.0], [0.9, 0.8], BUILDS), Decision)
