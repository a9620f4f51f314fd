"""The gate on pytest-benchmark's files, made-up ones and one that pytest-benchmark itself wrote."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from harness.errors import DataError
from harness.gate.benchmarks import KIND, benchmark_outcome, files_needed
from harness.gate.decide import FALSE_ALARMS, decide
from harness.gate.outcome import EXIT_NOT_COMPARABLE, EXIT_OK, EXIT_REGRESSION
from harness.gate.stored import Timings, settled

MACHINE = {
    "node": "host",
    "machine": "x86_64",
    "system": "Linux",
    "release": "6.1.0",
    "cpu": {"brand_raw": "Example", "count": 2, "hz_actual": [1, 0]},
}


def file_of(path, number, *, scale=1.0, names=("a", "b"), minute=0, machine=None, seed=0, data=True):
    rng = np.random.default_rng([seed, number])
    speed = scale * np.exp(0.01 * rng.standard_normal())
    benchmarks = [
        {
            "fullname": f"test_x.py::{name}",
            "name": name,
            "stats": {"median": 1.0, **({"data": list(0.01 * speed * np.exp(0.05 * rng.standard_normal(40)))} if data else {})},
        }
        for name in names
    ]
    body = {
        "machine_info": {**MACHINE, **(machine or {})},
        "commit_info": {"id": f"{seed}" * 40, "dirty": False},
        "benchmarks": benchmarks,
        "datetime": (datetime(2026, 11, 2, tzinfo=UTC) + timedelta(minutes=minute)).isoformat(),
        "version": "5.3.1",
    }
    path.write_text(json.dumps(body))
    return path


def sides(tmp_path, count, *, alternate=True, scale=1.0, names=("a", "b"), base_names=("a", "b"), **more):
    """Files of both sides; one minute a file, in turns or one side after the other."""
    base = [file_of(tmp_path / f"base{i}.json", i, seed=1, minute=2 * i if alternate else i, names=base_names) for i in range(count)]
    more["names"] = names
    head = [
        file_of(tmp_path / f"head{i}.json", i, seed=2, scale=scale, minute=2 * i + (-1) ** i * 0.5 if alternate else count + i, **more)
        for i in range(count)
    ]
    return base, head


@pytest.mark.parametrize("alternate", [True, False])
def test_twelve_files_a_side_find_a_slowdown(tmp_path, alternate):
    found = benchmark_outcome(*sides(tmp_path, 12, alternate=alternate, scale=1.1))
    assert {case.decision.verdict for case in found.cases} == {"REGRESSION"}
    assert found.exit_code == EXIT_REGRESSION
    assert ("alternation" in found.how) is alternate
    assert bool(found.notes) is not alternate
    assert found.cases[0].decision.change == pytest.approx(0.1, abs=0.02)
    assert (found.base, found.head) == ("12 files of 111111111111", "12 files of 222222222222")


@pytest.mark.parametrize("alternate", [True, False])
def test_the_same_code_passes(tmp_path, alternate):
    found = benchmark_outcome(*sides(tmp_path, 16, alternate=alternate))
    assert {case.decision.verdict for case in found.cases} == {"PASS"}
    assert found.exit_code == EXIT_OK


def test_a_file_is_one_round_however_many_samples_it_holds(tmp_path):
    found = benchmark_outcome(*sides(tmp_path, 12))
    assert {case.decision.rounds for case in found.cases} == {12}
    medians = [np.median(json.loads((tmp_path / f"base{i}.json").read_text())["benchmarks"][0]["stats"]["data"]) for i in range(12)]
    assert found.cases[0].base == pytest.approx(np.median(medians))


@pytest.mark.parametrize("alternate", [True, False])
def test_below_ten_files_nothing_is_decided(tmp_path, alternate):
    found = benchmark_outcome(*sides(tmp_path, 9, alternate=alternate, scale=2.0))
    assert {(case.decision.verdict, case.decision.advisory) for case in found.cases} == {("INCONCLUSIVE", True)}
    assert found.advisory
    assert found.exit_code == EXIT_OK


MANY = tuple(f"n{number}" for number in range(11))


def test_of_so_many_benchmarks_that_ten_files_prove_nothing_none_passes_and_it_is_said_how_many_more_are_needed(tmp_path):
    short = benchmark_outcome(*sides(tmp_path, 10, scale=2.0, names=MANY, base_names=MANY))
    assert {(case.decision.verdict, case.decision.advisory) for case in short.cases} == {("INCONCLUSIVE", True)}
    assert {case.decision.reason for case in short.cases} == {"10 files a side; with 11 benchmarks a verdict takes 11: 1 more"}
    same = benchmark_outcome(*sides(tmp_path, 10, names=MANY, base_names=MANY))
    assert "PASS" not in same.counts
    enough = benchmark_outcome(*sides(tmp_path, 11, scale=2.0, names=MANY, base_names=MANY))
    assert enough.counts == {"REGRESSION": 11}


@pytest.mark.parametrize("benchmarks", [1, 10, 11, 20, 21, 300])
def test_the_files_needed_are_the_fewest_whose_smallest_p_lies_below_the_level(benchmarks):
    level = FALSE_ALARMS / benchmarks

    def smallest_p(rounds):
        return stats.wilcoxon(np.arange(1.0, rounds + 1), alternative="greater", method="exact").pvalue

    needed = files_needed(benchmarks)
    assert smallest_p(needed) < level
    assert needed == 10 or smallest_p(needed - 1) >= level


def test_a_level_that_so_few_rounds_cannot_reach_is_told_apart_from_chance():
    x = np.full(10, 0.3)

    def rule(alpha):
        return decide(x, KIND, alpha=alpha, looks=(10,), last=True)

    cases = settled([Timings(f"b{number}", "median", KIND, [1.0] * 10, [1.35] * 10, True, "", rule) for number in range(40)])
    assert {case.decision.verdict for case in cases} == {"INCONCLUSIVE"}
    assert cases[0].decision.reason == "looks like a regression, but among 40 timings 10 a side cannot prove one: 2 more are needed"
    assert cases[0].decision.rounds_needed == 12


def in_order(tmp_path, firsts):
    """Files of rounds in which now the one and now the other side comes first."""
    base = [file_of(tmp_path / f"b{i}.json", i, seed=1, minute=2 * i) for i in range(len(firsts))]
    head = [file_of(tmp_path / f"h{i}.json", i, seed=2, minute=2 * i + (0.5 if first == "b" else -0.5)) for i, first in enumerate(firsts)]
    return benchmark_outcome(base, head)


@pytest.mark.parametrize(
    ("firsts", "paired"),
    [("bh" * 6, True), ("bhhb" * 3, True), ("bbbhbbbhbbbh", True), ("b" * 12, False), ("h" * 12, False), ("b" * 10 + "hh", False)],
)
def test_rounds_are_pairs_only_where_either_side_came_first_often_enough(tmp_path, firsts, paired):
    found = in_order(tmp_path, firsts)
    assert ("alternation" in found.how) is paired
    assert bool(found.notes) is not paired
    if not paired:
        assert f"the base came first in {firsts.count('b')} of 12 rounds" in found.notes[0]


def test_a_single_pair_is_no_alternation(tmp_path):
    found = in_order(tmp_path, "b")
    assert "alternation" not in found.how
    assert {case.decision.verdict for case in found.cases} == {"INCONCLUSIVE"}


def test_the_order_of_the_names_does_not_matter(tmp_path):
    base, head = sides(tmp_path, 12, scale=1.1)
    assert benchmark_outcome(base, head) == benchmark_outcome(sorted(base, key=str), sorted(head, key=str, reverse=True))


def test_what_one_side_lacks_is_missing_or_new(tmp_path):
    base, head = sides(tmp_path, 12, names=("b", "c"))
    found = {case.cell: case.decision.verdict for case in benchmark_outcome(base, head).cases}
    assert found == {"test_x.py::a": "MISSING", "test_x.py::b": "PASS", "test_x.py::c": "NEW"}


def test_another_machine_is_not_comparable_and_its_clock_and_name_are_no_other_machine(tmp_path):
    other = {"cpu": {"brand_raw": "Another", "count": 2}}
    found = benchmark_outcome(*sides(tmp_path, 12, machine=other))
    assert {case.decision.verdict for case in found.cases} == {"NOT COMPARABLE"}
    assert "cpu.brand_raw Another / Example" in found.cases[0].decision.reason
    assert found.exit_code == EXIT_NOT_COMPARABLE
    across = benchmark_outcome(*sides(tmp_path, 12, machine=other), across_machines=True)
    assert {(case.decision.verdict, case.decision.advisory) for case in across.cases} == {("INCONCLUSIVE", True)}
    same = {"node": "another host", "cpu": {"brand_raw": "Example", "count": 2, "hz_actual": [2, 0]}}
    assert {case.decision.verdict for case in benchmark_outcome(*sides(tmp_path, 12, machine=same)).cases} == {"PASS"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds no benchmarks"),
        ('{"benchmarks": []}', "holds no benchmarks"),
        ('{"benchmarks": [{"fullname": "a", "stats": {}}]}', "is not a file of pytest-benchmark"),
        ('{"benchmarks": [{"fullname": "a", "stats": {"data": [0.0]}}], "datetime": "2026-11-02"}', "is no duration"),
        ('{"benchmarks": [{"fullname": "a", "stats": {"median": 1}}], "datetime": "2026-11-02"}', "--benchmark-save-data"),
        ('{"benchmarks": [{"fullname": "a", "stats": {"data": [NaN]}}], "datetime": "2026-11-02"}', "is no duration"),
    ],
)
def test_a_file_that_is_not_one_is_refused(tmp_path, text, message):
    good, bad = file_of(tmp_path / "good.json", 0), tmp_path / "bad.json"
    bad.write_text(text)
    with pytest.raises(DataError, match=rf"bad\.json.*{message}"):
        benchmark_outcome([good], [bad])


def test_every_file_that_is_not_one_is_named(tmp_path):
    for name in ("x.json", "y.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"x\.json.*\n.*y\.json"):
        benchmark_outcome([tmp_path / "x.json"], [tmp_path / "y.json"])
    with pytest.raises(DataError, match="both sides"):
        benchmark_outcome([], [tmp_path / "x.json"])


def test_what_pytest_benchmark_writes_is_read(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_sum(benchmark, n):\n    benchmark(sum, range(100 * n))\n"
    )
    files = [tmp_path / "base.json", tmp_path / "head.json"]
    for file in files:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
        more = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=5", f"--benchmark-json={file}", str(tmp_path / "test_it.py")]
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # which switches timing off
        subprocess.run([*command, *more], cwd=tmp_path, env=alone, check=True, capture_output=True, timeout=120)
    found = benchmark_outcome([files[0]], [files[1]])
    assert {case.cell for case in found.cases} == {"test_it.py::test_sum[1]", "test_it.py::test_sum[2]"}
    assert {case.decision.verdict for case in found.cases} == {"INCONCLUSIVE"}
    assert found.cases[0].base == pytest.approx(np.median(json.loads(files[0].read_text())["benchmarks"][0]["stats"]["data"]))
