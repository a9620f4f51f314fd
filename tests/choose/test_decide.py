"""The choice: never a configuration that breaks a constraint, the right front, and a reason for every other candidate."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.choose.decide import OBJECTIVES, choose
from harness.choose.require import requirements
from harness.statistics import paired_difference
from tests.choose import cells
from tests.choose.cells import candidate

LATENCY, THROUGHPUT, QUALITY = OBJECTIVES["latency"], OBJECTIVES["throughput"], OBJECTIVES["quality"]


@st.composite
def intervals(draw, low, high):
    ends = sorted(draw(st.lists(st.floats(low, high), min_size=3, max_size=3)))
    return draw(st.sampled_from([None, (ends[1], ends[0], ends[2]), (ends[1], ends[1], ends[1]), (ends[1], None, None)]))


@st.composite
def pools(draw):
    count = draw(st.integers(1, 12))
    return [
        candidate(
            f"c{i}",
            recall=draw(intervals(0.5, 1.0)),
            ndcg=draw(intervals(0.1, 1.0)),
            p50=draw(intervals(0.001, 0.05)),
            p99=draw(intervals(0.001, 0.1)),
            memory=draw(st.sampled_from([None, 1e8, 1e9, 4e9])),
            throughput=draw(intervals(1.0, 500.0)),
        )
        for i in range(count)
    ]


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "min_recall": st.floats(0.5, 1.0),
        "max_p99": st.sampled_from(["2ms", "10ms", "50ms", "100ms"]),
        "min_ndcg": st.floats(0.1, 0.9),
        "max_memory": st.sampled_from(["200MB", "2GB"]),
    },
)
OBJECTIVE = st.sampled_from([LATENCY, THROUGHPUT, QUALITY])


@given(pools(), ASKED, OBJECTIVE)
@settings(max_examples=100, deadline=None)
def test_what_is_chosen_breaks_no_constraint_by_the_bound_of_any_interval(pool, asked, objective):
    chosen = choose(pool, requirements(**asked), objective).winner
    if chosen is None:
        return
    figures = chosen.figures
    if "min_recall" in asked:
        assert figures["recall"].lo is not None, "a figure without an interval is known to meet nothing"
        assert figures["recall"].lo >= asked["min_recall"]
    if "min_ndcg" in asked:
        assert figures["ndcg_at_10"].lo is not None
        assert figures["ndcg_at_10"].lo >= asked["min_ndcg"]
    if "max_p99" in asked:
        assert figures["latency_p99_s"].hi is not None
        assert figures["latency_p99_s"].hi <= float(asked["max_p99"][:-2]) / 1e3
    if "max_memory" in asked:
        assert figures["memory_bytes"].value <= {"200MB": 2e8, "2GB": 2e9}[asked["max_memory"]]


@given(pools(), ASKED, ASKED, OBJECTIVE)
@settings(max_examples=100, deadline=None)
def test_more_constraints_never_give_a_better_objective(pool, asked, more, objective):
    free = choose(pool, requirements(**asked), objective)
    bound = choose(pool, (*requirements(**asked), *requirements(**more)), objective)
    if bound.winner is not None:
        assert free.winner is not None
        assert objective.rank(bound.winner) >= objective.rank(free.winner)


@given(pools(), ASKED, OBJECTIVE)
@settings(max_examples=100, deadline=None)
def test_the_front_is_what_no_other_beats_by_brute_force(pool, asked, objective):
    found = choose(pool, requirements(**asked), objective)

    def place(one):
        quality = one.figures[found.quality].value
        low = one.figures["latency_p50_s"].value if objective.figure == found.quality else objective.rank(one)
        return None if quality is None or low is None else (quality, low)

    placed = [(one.candidate, place(one.candidate)) for one in found.qualified if place(one.candidate)]
    front = {
        one.name
        for one, (quality, low) in placed
        if not any(q >= quality and other <= low and (q > quality or other < low) for _, (q, other) in placed)
    }
    assert {one.candidate.name for one in found.verdicts if one.on_front} == front


@given(pools(), ASKED, OBJECTIVE, st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(pool, asked, objective, random):
    first = choose(pool, requirements(**asked), objective)
    random.shuffle(pool)
    second = choose(pool, requirements(**asked), objective)
    assert [(one.candidate.name, one.state, one.why) for one in first.verdicts] == [
        (one.candidate.name, one.state, one.why) for one in second.verdicts
    ]


@given(pools(), ASKED, OBJECTIVE)
@settings(max_examples=100, deadline=None)
def test_every_candidate_but_the_chosen_one_is_told_why(pool, asked, objective):
    found = choose(pool, requirements(**asked), objective)
    assert len(found.verdicts) == len(pool)
    assert all(one.why for one in found.verdicts if one.state != "chosen")
    assert sum(one.state == "chosen" for one in found.verdicts) <= 1


def test_the_quickest_that_qualifies_is_chosen_and_the_others_are_told_by_what_they_lost():
    pool = [
        candidate("slow and good", recall=(0.99, 0.98, 0.995), p50=0.020),
        candidate("quick", p50=0.010),
        candidate("quicker and bad", recall=(0.8, 0.75, 0.85), p50=0.005),
        candidate("slow", recall=(0.955, 0.95, 0.97), p50=0.030),
        candidate("perhaps", recall=(0.955, 0.94, 0.97), p50=0.005),
    ]
    found = choose(pool, requirements(min_recall=0.95), LATENCY)
    assert found.winner.name == "quick"
    assert {one.candidate.name: one.state for one in found.verdicts} == {
        "quick": "chosen",
        "slow and good": "beaten",
        "slow": "beaten",
        "perhaps": "undecided",
        "quicker and bad": "violated",
    }
    why = {one.candidate.name: one.why for one in found.verdicts}
    assert why["slow and good"].endswith("on the front: recall 0.990 [0.980, 0.995] instead of 0.960 [0.950, 0.970]")
    assert why["slow"].endswith("dominated by the chosen one")
    assert why["quicker and bad"] == "recall 0.800 [0.750, 0.850] < 0.95"
    assert "raise dataset.queries=" in why["perhaps"]


def test_where_nothing_qualifies_the_nearest_miss_and_its_constraint_are_named():
    pool = [
        candidate("far", recall=(0.5, 0.4, 0.6)),
        candidate("near", recall=(0.93, 0.92, 0.94)),
        candidate("both wrong", recall=(0.94, 0.93, 0.945), memory=4e9),
    ]
    found = choose(pool, requirements(min_recall=0.95, max_memory="2GB"), LATENCY)
    assert found.winner is None
    assert found.nearest.candidate.name == "near"
    assert found.nearest.why == "recall 0.930 [0.920, 0.940] < 0.95"


def test_an_open_constraint_is_nearer_than_a_violated_one():
    pool = [candidate("violated by a hair", recall=(0.949, 0.948, 0.9499)), candidate("open", recall=(0.94, 0.90, 0.96))]
    assert choose(pool, requirements(min_recall=0.95), LATENCY).nearest.candidate.name == "open"


def test_a_candidate_whose_objective_is_not_known_is_not_chosen():
    found = choose([candidate("no labels")], (), QUALITY)
    assert found.winner is None
    assert found.nearest.state == "unknown"
    assert "nDCG@10 through the index is not known" in found.nearest.why


@pytest.mark.parametrize(("figure", "objective"), [("latency_p50_s", LATENCY), ("throughput_per_s", THROUGHPUT)])
def test_two_that_differ_in_each_pair_of_processes_can_be_told_apart_although_their_intervals_overlap(figure, objective):
    best, worse = ((0.010, 0.020, 0.030), (0.0101, 0.0202, 0.0305))
    if objective is THROUGHPUT:
        best, worse = worse, best
    value = "p50" if objective is LATENCY else "throughput"
    pool = [
        candidate(name, **{value: (pairs[1], pairs[0], pairs[2])}, pairs={figure: pairs}) for name, pairs in (("a", best), ("b", worse))
    ]
    assert " differ by more than their processes do: a ratio of " in choose(pool, (), objective).doubt


def test_two_whose_ratio_may_be_one_cannot_be_told_apart():
    pool = [
        candidate("a", p50=0.0100, pairs={"latency_p50_s": (0.0100, 0.0101, 0.0099)}),
        candidate("b", p50=0.0101, pairs={"latency_p50_s": (0.0099, 0.0103, 0.0101)}),
    ]
    assert "cannot be told apart" in choose(pool, (), LATENCY).doubt


def test_quality_is_compared_query_by_query():
    rng = np.random.default_rng(0)
    base = rng.random(300) * 0.8
    scores = {"a": base + 0.02 * rng.random(300), "b": base}
    pool = [candidate(name, ndcg=(float(mine.mean()), 0.35, 0.45), scores={"ndcg_at_10": mine}) for name, mine in scores.items()]
    found = choose(pool, (), QUALITY)
    wanted = paired_difference(scores["a"], scores["b"]).difference
    assert found.winner.name == "a"
    assert (
        found.doubt
        == f"a and b differ by a difference of {wanted.value:+.4f} [{wanted.lo:+.4f}, {wanted.hi:+.4f}] over 300 queries, paired."
    )


def test_another_batch_size_of_the_chosen_one_is_no_rival_and_the_quicker_with_documents_is_chosen():
    slow, quick, other = (candidate(name, p50=p50) for name, p50 in (("slow", 0.01), ("quick", 0.01), ("other", 0.02)))
    rates = {"slow": 50.0, "quick": 200.0}
    twins = [
        replace(
            one,
            search=slow.search,
            embed=replace(slow.embed, key=name, settings={**slow.embed.settings, "batch_size": int(rates[name])}),
            figures={**one.figures, "pipeline_per_s": cells.timing(rates[name], unit="items/s", better="higher")},
        )
        for name, one in (("slow", slow), ("quick", quick))
    ]
    found = choose([*twins, other], (), LATENCY)
    assert found.winner.name == "quick"
    assert found.rival.name == "other"
    assert found.verdicts[1].why.startswith("answers queries as the chosen one does and embeds 50.0/s [")


def test_without_intervals_a_difference_may_be_chance():
    pool = [candidate("a", p50=0.01), candidate("b", p50=0.02)]
    assert choose(pool, (), LATENCY).doubt.startswith("a and b differ by more than their intervals; measured at different times")
    assert math.isfinite(LATENCY.rank(pool[0]))
