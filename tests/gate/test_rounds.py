"""The schedule, on an instrument that makes numbers up: what is decided is measured no more, nothing fails that is not reproduced."""

import math
import random

import pytest

from harness.gate.decide import LOOKS
from harness.gate.kinds import KINDS
from harness.gate.rounds import Fault, Seen, schedule

FAST, SLOW, EXACT, MEMORY = ("fast", "search_s"), ("slow", "search_s"), ("fast", "recall"), ("all cells", "peak_rss_bytes")


class Made:
    """Rounds of lognormal noise around stated ratios; `ratio` may depend on the round."""

    def __init__(self, ratios, *, noise=0.01, seed=0, blocks=8, wall=None, wall_noise=None, control=1.0, seconds=1.0):
        self.ratios, self.noise, self.blocks, self.wall, self.control, self.seconds = ratios, noise, blocks, wall, control, seconds
        self.wall_noise = noise if wall_noise is None else wall_noise
        self.rng = random.Random(seed)
        self.asked = []
        self.now = 0.0

    def clock(self):
        return self.now

    def round(self, number, wanted, arms):
        self.now += self.seconds(number) if callable(self.seconds) else self.seconds
        self.asked.append((number, tuple(wanted), tuple(arms)))
        return {key: self.one(key, number, arms) for key in wanted}

    def one(self, key, number, arms):
        ratio = self.ratios[key]
        ratio = ratio(number) if callable(ratio) else ratio
        if isinstance(ratio, Fault):
            return ratio
        if key[1] == "recall":
            return Seen({arm: [ratio if arm == "head" else 0.9] for arm in arms})
        of = {"base": 1.0, "head": ratio, "control": self.control}
        values = {arm: self.noisy(of[arm]) for arm in arms}
        wall = None if self.wall is None else {arm: self.noisy(self.wall if arm == "head" else 1.0, self.wall_noise) for arm in arms}
        return Seen(values, wall)

    def noisy(self, ratio, noise=None):
        return [0.01 * ratio * math.exp(self.rng.gauss(0, self.noise if noise is None else noise)) for _ in range(self.blocks)]


def run(made, keys, **more):
    return schedule(made, {key: KINDS[key[1]] for key in keys}, clock=made.clock, **{"budget_s": 1000.0, **more})


def by_key(result):
    return {(case.cell, case.metric): case for case in result.cases}


def test_what_is_decided_is_not_measured_any_more():
    made = Made({FAST: 1.0, SLOW: lambda number: 1.035 + 0.03 * (-1) ** number}, noise=0.002)
    run(made, [FAST, SLOW])
    counts = {key: sum(key in wanted for _, wanted, _ in made.asked) for key in (FAST, SLOW)}
    assert counts[FAST] == LOOKS[0]
    assert counts[SLOW] > LOOKS[0]


def test_a_regression_is_one_only_when_new_rounds_show_it_again():
    made = Made({FAST: 1.2})
    case = run(made, [FAST]).cases[0]
    assert case.decision.verdict == "REGRESSION"
    assert case.first.verdict == case.confirmed.verdict == "REGRESSION"
    assert len(made.asked) == 2 * LOOKS[0]
    assert len({number for number, _, _ in made.asked}) == len(made.asked), "no round is used twice"


def test_what_is_slow_in_the_first_rounds_alone_passes_and_says_so():
    made = Made({FAST: lambda number: 1.2 if number <= LOOKS[0] else 1.0})
    case = run(made, [FAST]).cases[0]
    assert case.first.verdict == "REGRESSION"
    assert case.decision.verdict == "PASS"
    assert "not reproduced" in case.decision.reason


def test_only_candidates_are_measured_again():
    made = Made({FAST: 1.0, SLOW: 1.2})
    run(made, [FAST, SLOW])
    assert all(wanted == (SLOW,) for _, wanted, _ in made.asked[LOOKS[0] :])


def test_a_lower_exact_value_is_a_regression_after_two_rounds_and_needs_no_second_measurement():
    made = Made({EXACT: 0.8})
    case = run(made, [EXACT]).cases[0]
    assert case.decision.verdict == "REGRESSION"
    assert case.confirmed is None
    assert len(made.asked) == 2


@pytest.mark.parametrize("ratio", [0.9, 0.8])
def test_one_round_shows_nothing_of_an_exact_value(ratio):
    case = run(Made({EXACT: ratio}, seconds=600.0), [EXACT], budget_s=1000.0).cases[0]
    assert case.decision.verdict == "INCONCLUSIVE"
    assert "1 of the 2 rounds" in case.decision.reason


def test_an_exact_value_that_varies_is_an_error_and_not_a_verdict():
    made = Made({EXACT: lambda number: 0.9 if number == 1 else 0.8})
    assert run(made, [EXACT]).cases[0].decision.verdict == "ERROR"


def test_the_budget_ends_it_as_inconclusive_with_what_there_is():
    made = Made({FAST: 1.0}, noise=1.0, seconds=100.0)
    case = run(made, [FAST], budget_s=1000.0).cases[0]
    assert len(made.asked) <= 10
    assert case.decision.verdict == "INCONCLUSIVE"
    assert made.now <= 1000.0


def test_there_is_a_round_however_small_the_budget():
    made = Made({FAST: 1.0}, seconds=100.0)
    assert run(made, [FAST], budget_s=1.0).cases[0].decision.rounds == 1


def test_no_more_rounds_than_the_last_look_has():
    made = Made({FAST: 1.0}, noise=2.0, seconds=0.0)
    assert run(made, [FAST]).cases[0].decision.verdict == "INCONCLUSIVE"
    assert len(made.asked) == LOOKS[-1]


def test_wall_time_that_doubles_is_found_though_processor_time_stays():
    made = Made({FAST: 1.0}, wall=2.0)
    case = run(made, [FAST]).cases[0]
    assert case.decision.verdict == "REGRESSION"
    assert "wall time" in case.decision.reason


def test_wall_time_that_grows_a_little_is_not_held_against_processor_time():
    made = Made({FAST: 1.0}, wall=1.06)
    assert run(made, [FAST]).cases[0].decision.verdict == "PASS"


def test_a_case_whose_wall_time_stays_open_does_not_pass_by_processor_time_alone():
    made = Made({FAST: 1.0}, wall=1.0, wall_noise=3.0)
    case = run(made, [FAST]).cases[0]
    assert case.decision.verdict == "INCONCLUSIVE"
    assert "wall time" in case.decision.reason
    assert len(made.asked) == LOOKS[-1], "more rounds are measured for it"


class Waiting(Made):
    """Most blocks wait for a processor, some do not."""

    def noisy(self, ratio, noise=None):
        return [one * (1 + 5 * self.rng.random() * (self.rng.random() < 0.7)) for one in super().noisy(ratio, 0.005)]


def test_among_processes_that_wait_a_slowdown_is_found_by_the_fastest_blocks():
    case = run(Waiting({FAST: 1.08}), [FAST]).cases[0]
    assert case.decision.verdict == "REGRESSION"
    assert "fastest block" in case.decision.reason
    assert case.decision.change == pytest.approx(0.08, abs=0.02)
    assert run(Waiting({FAST: 1.0}), [FAST]).cases[0].decision.verdict in ("PASS", "INCONCLUSIVE")


def test_a_second_measurement_that_the_budget_ended_says_so_and_blames_nobody():
    made = Made({FAST: 1.2}, seconds=lambda number: 1.0 if number <= LOOKS[0] else 50.0)
    case = run(made, [FAST], budget_s=100.0).cases[0]
    assert len(made.asked) == LOOKS[0] + 2
    assert case.first.verdict == "REGRESSION"
    assert case.decision.verdict == "INCONCLUSIVE"
    assert "the budget ended before 2 new ones could reproduce or refute it" in case.decision.reason


def test_a_control_that_differs_is_flagged():
    quiet = run(Made({FAST: 1.0}), [FAST], control=True)
    assert [case.decision.verdict for case in quiet.control] == ["PASS"]
    loud = run(Made({FAST: 1.0}, control=1.2), [FAST], control=True)
    assert [case.decision.verdict for case in loud.control] == ["REGRESSION"]


def test_the_control_is_left_out_of_the_second_measurement():
    made = Made({FAST: 1.2})
    run(made, [FAST], control=True)
    assert {arms for _, _, arms in made.asked[: LOOKS[0]]} == {("base", "head", "control")}
    assert {arms for _, _, arms in made.asked[LOOKS[0] :]} == {("base", "head")}


def test_a_fault_of_the_head_is_an_error_and_one_of_base_alone_is_new():
    made = Made({FAST: Fault("head", "it broke"), SLOW: Fault("base", "it broke")})
    found = by_key(run(made, [FAST, SLOW]))
    assert found[FAST].decision.verdict == "ERROR"
    assert "it broke" in found[FAST].decision.reason
    assert found[SLOW].decision.verdict == "NEW"
    assert len(made.asked) == 1


def test_a_case_that_a_round_did_not_reach_is_asked_for_again():
    made = Made({FAST: 1.0, SLOW: 1.0})
    whole = made.round
    made.round = lambda number, wanted, arms: {key: seen for key, seen in whole(number, wanted, arms).items() if key == FAST or number % 2}
    found = by_key(run(made, [FAST, SLOW]))
    assert found[SLOW].decision.rounds == LOOKS[0]
    assert len(made.asked) == 2 * LOOKS[0] - 1


def test_rounds_that_bring_nothing_come_to_an_end():
    made = Made({FAST: 1.0}, seconds=0.0)
    made.round = lambda number, wanted, arms: {}
    case = run(made, [FAST]).cases[0]
    assert case.decision.verdict == "INCONCLUSIVE"


class Interrupted(Made):
    def __init__(self, at, *arguments, **more):
        super().__init__(*arguments, **more)
        self.at = at

    def round(self, number, wanted, arms):
        if number == self.at:
            raise KeyboardInterrupt
        return super().round(number, wanted, arms)


@pytest.mark.parametrize("at", [1, 5])
def test_interrupted_while_measuring_leaves_inconclusive_cases(at):
    result = run(Interrupted(at, {FAST: 1.0}), [FAST])
    assert result.interrupted
    assert result.cases[0].decision.verdict == "INCONCLUSIVE"


def test_interrupted_before_it_was_reproduced_nothing_is_blamed():
    result = run(Interrupted(LOOKS[0] + 3, {FAST: 1.2}), [FAST])
    assert result.interrupted
    assert result.cases[0].first.verdict == "REGRESSION"
    assert result.cases[0].decision.verdict == "INCONCLUSIVE"
    assert "second time" in result.cases[0].decision.reason


def test_memory_that_grows_is_a_regression():
    assert run(Made({MEMORY: 1.3}, blocks=1, noise=0.005), [MEMORY]).cases[0].decision.verdict == "REGRESSION"


def test_too_few_requests_for_a_quantile_are_shown_and_never_decide():
    made = Made({("fast", "search_p95_s"): 2.0})
    whole = made.one
    made.one = lambda key, number, arms: Seen(whole(key, number, arms).values, too_few="too few requests")
    case = run(made, [("fast", "search_p95_s")]).cases[0]
    assert case.decision.verdict == "INCONCLUSIVE"
    assert case.decision.advisory
    assert case.decision.change > 0.5


def test_progress_tells_rounds_and_what_is_open():
    told = []
    run(Made({FAST: 1.0, SLOW: 1.2}), [FAST, SLOW], tell=told.append)
    assert [one.rounds for one in told] == [*range(1, 11), *range(1, 11)]
    assert [one.confirming for one in told] == [False] * 10 + [True] * 10
    assert all(one.left_s <= 1000.0 for one in told)
