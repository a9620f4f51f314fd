"""``python -m harness gate`` from git references, as a user runs it: what is planted is found and named, what is not changed passes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from harness.errors import SettingsError
from harness.gate.command import Options, _check, _Show, split_files
from harness.gate.decide import decide, second_alpha
from harness.gate.kinds import KINDS
from harness.gate.outcome import Decision
from harness.gate.rounds import Progress, Series
from harness.gate.settings import GateSettings, open_settings
from harness.gate.sides import Asked
from harness.settings import CONF
from tests.conftest import ROOT
from tests.gate import project
from tests.gate.project import commit, git, planted, repository

TINY = ["--gate", "tests/plugins/conf/gate/tiny.yaml", "--config-dir", "tests/plugins/conf"]


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A copy of the sources in git, with branches that plant changes."""
    folder = project.copy_of_the_sources(tmp_path_factory.mktemp("sources") / "repo")
    planted(folder, "worse", project.SLOW_MODEL, project.SLOW_STORE, project.LOW_EF)
    planted(folder, "slow-loop", project.SLOW_LOOP)
    planted(folder, "refactored", project.REFACTORED)
    return folder


@pytest.fixture
def gate(tmp_path, shared_cache):
    def call(*arguments, cwd, timeout=1800, **more):
        return subprocess.run(
            [sys.executable, "-m", "harness", "gate", "--out", str(tmp_path / "out"), *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**project.environment(shared_cache), **more},
        )

    return call


def verdicts(tmp_path):
    """Each case's verdict by the beginning of its cell and its metric."""
    body = json.loads((tmp_path / "out/verdict.json").read_text())
    return {(case["cell"].partition(" ")[0], case["metric"]): case["decision"]["verdict"] for case in body["cases"]}


def nothing_left(repo, shared_cache):
    temporary = shared_cache.parent / "temporary"
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert [path.name for path in temporary.iterdir() if path.name.startswith("harness-gate")] == []


MODEL, EXACT, GRAPH = "hashed_words", "exact/flat", "faiss/hnsw"


def test_a_slower_model_a_slower_store_and_lost_recall_are_each_found_and_named(gate, sources, tmp_path, shared_cache):
    done = gate("--base", "main", "--head", "worse", *TINY, cwd=sources)
    assert done.returncode == 1, done.stderr + done.stdout
    found = verdicts(tmp_path)
    assert found[MODEL, "forward_s"] == "REGRESSION"
    assert found[EXACT, "search_s"] == "REGRESSION"
    assert found[GRAPH, "recall"] == "REGRESSION"
    assert found[EXACT, "recall"] == found[GRAPH, "index_bytes"] == "PASS", "what was not touched is not blamed"
    body = json.loads((tmp_path / "out/verdict.json").read_text())
    slow = next(case for case in body["cases"] if case["metric"] == "search_s")
    assert slow["confirmed"]["verdict"] == "REGRESSION", "it was measured a second time"
    assert "3 regressions" in done.stdout
    rounds = [one for one in json.loads((tmp_path / "out/rounds.json").read_text()) if one["metric"] == "search_s"]
    assert [one["again"] for one in rounds] == [False, True], "every round is kept, the second measurement's too"
    for one, stated in zip(rounds, (slow["first"], slow["confirmed"]), strict=True):
        if "wall time" not in stated["reason"]:
            again = decide(one["log_ratios"], KINDS["search_s"], alpha=0.01 if stated is slow["first"] else second_alpha(4))
            assert (again.verdict, again.change, again.rounds) == (stated["verdict"], stated["change"], stated["rounds"])
    failures = [one.get("name") for one in ET.parse(tmp_path / "out/junit.xml").iter("testcase") if one.find("failure") is not None]
    assert len(failures) == 3
    nothing_left(sources, shared_cache)


def test_a_refactoring_passes(gate, sources, tmp_path, shared_cache):
    done = gate("--base", "main", "--head", "refactored", "--budget", "40s", *TINY, cwd=sources)
    assert done.returncode == 0, done.stderr + done.stdout
    found = verdicts(tmp_path)
    assert "REGRESSION" not in found.values()
    assert found[EXACT, "recall"] == found[GRAPH, "recall"] == "PASS"
    nothing_left(sources, shared_cache)


@pytest.mark.slow
def test_a_slower_search_loop_is_found_in_what_it_loops_over_and_nowhere_else(gate, sources, tmp_path):
    done = gate("--base", "main", "--head", "slow-loop", *TINY, cwd=sources)
    assert done.returncode == 1, done.stderr + done.stdout
    found = verdicts(tmp_path)
    assert found[EXACT, "search_s"] == "REGRESSION"
    assert found[MODEL, "forward_s"] != "REGRESSION"
    assert found[EXACT, "recall"] == "PASS"


@pytest.mark.slow
def test_the_working_tree_with_a_change_that_is_not_committed_is_measured_as_it_is(gate, sources, tmp_path):
    path, before, after = project.SLOW_STORE
    text = (sources / path).read_text()
    try:
        (sources / path).write_text(text.replace(before, after))
        done = gate("--base", "main", "--control", "--only", "search_s", *TINY, cwd=sources)
    finally:
        (sources / path).write_text(text)
    assert done.returncode in (1, 3), done.stderr + done.stdout  # 3: the machine was too busy for the control
    assert verdicts(tmp_path) == {(EXACT, "search_s"): "REGRESSION"}
    body = json.loads((tmp_path / "out/verdict.json").read_text())
    assert "with changes" in body["head"]
    assert body["control"]


@pytest.mark.slow
def test_two_sets_of_settings_are_compared_without_any_reference(gate, sources, tmp_path):
    done = gate("--base-set", "model.dim=64", "--head-set", "model.dim=512", "--only", "forward_s", *TINY, cwd=sources)
    assert done.returncode == 1, done.stderr + done.stdout
    assert verdicts(tmp_path) == {(MODEL, "forward_s"): "REGRESSION"}


def test_a_cell_that_raises_on_head_is_an_error_with_its_sentence(gate, sources, tmp_path):
    planted_text = ("stores/exact.py", "        check_shape(self.name, queries, dim=self._dim)\n", "        raise ValueError('planted')\n")
    if "broken" not in git(sources, "branch").split():
        planted(sources, "broken", planted_text)
    done = gate("--base", "main", "--head", "broken", "--only", "words", "--budget", "15s", *TINY, cwd=sources)
    assert done.returncode == 5, done.stderr + done.stdout
    assert verdicts(tmp_path)[EXACT, "search_s"] == "ERROR"
    assert "planted" in (tmp_path / "out/summary.md").read_text()


def test_a_cell_that_base_measures_and_head_does_not_is_missing(gate, sources, tmp_path):
    text = yaml.safe_load((sources / "tests/plugins/conf/gate/tiny.yaml").read_text())
    del text["cells"]["graph"]
    if "fewer" not in git(sources, "branch").split():
        git(sources, "checkout", "--quiet", "-b", "fewer", "main")
        commit(sources, {"tests/plugins/conf/gate/tiny.yaml": yaml.safe_dump(text)})
    git(sources, "checkout", "--quiet", "fewer")
    try:
        done = gate("--base", "main", "--budget", "1s", *TINY, cwd=sources)
    finally:
        git(sources, "checkout", "--quiet", "main")
    assert done.returncode == 1, done.stderr + done.stdout
    found = verdicts(tmp_path)
    assert found["graph", "recall"] == found["graph", "index_bytes"] == "MISSING"
    assert "nothing can be decided before the 10th; raise --budget to about" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_neither_worktree_nor_process_and_says_what_there_is(sources, tmp_path, shared_cache, number):
    arguments = ["gate", "--out", str(tmp_path / "out"), "--base", "main", "--head", "refactored", "--only", "words", *TINY]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        cwd=sources,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=project.environment(shared_cache),
    )
    while "cases" not in (line := process.stderr.readline()):
        assert line, "it ended before it measured"
    time.sleep(1.0)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    if number == signal.SIGINT:
        assert "inconclusive" in said.lower()
        assert (tmp_path / "out/verdict.json").exists()
    nothing_left(sources, shared_cache)
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if _is_worker_of(pid, sources, shared_cache)]


def _is_worker_of(process, sources, shared_cache):
    try:
        words = (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return False
    return any(word.endswith("gate/worker.py") for word in words) and any("harness-gate" in word for word in words)


def told(console_width, series, **more):
    """What a person sees of a gate's progress, on a terminal and without one."""
    progress = Progress(**{"confirming": False, "rounds": 12, "series": series, "elapsed_s": 60.0, "left_s": 90.0, **more})
    texts = []
    for terminal in (True, False):
        out = Console(file=io.StringIO(), force_terminal=terminal, width=console_width)
        with _Show(out) as show:
            show._last = float("-inf")
            show(progress)
        texts.append(out.file.getvalue())
    return texts


def test_progress_shows_rounds_the_present_interval_and_the_time_left():
    open_ = Series(("faiss/hnsw", "search_s"), KINDS["search_s"], base=[1.0] * 12, head=[1.1] * 12, x=[0.09, 0.1] * 6)
    done = Series(("exact/flat", "search_s"), KINDS["search_s"], decision=Decision("PASS"))
    for text in told(200, [open_, done]):
        assert "round 12, 1 of 2 cases open, at most 90 s left" in text
        assert "+10.0% [+9.4%, +10.5%]" in text
        assert "exact/flat" not in text
    assert all("measuring again what looks like a regression" in text for text in told(200, [open_], confirming=True))


# ------------------------------------------------------------------------------------- pytest-benchmark

SUITE = {
    "tests/test_speed.py": (
        "from work import work\n\n\n"
        "def test_work(benchmark):\n    benchmark.pedantic(work, args=(200,), rounds=5, iterations=20, warmup_rounds=1)\n\n\n"
        "def test_more(benchmark):\n    benchmark.pedantic(work, args=(400,), rounds=5, iterations=20, warmup_rounds=1)\n"
    ),
    "work.py": "def work(n):\n    return sum(i * i for i in range(n))\n",
}


@pytest.fixture
def suite(tmp_path):
    folder = repository(tmp_path / "suite", {**SUITE, ".gitignore": "__pycache__/\n"})
    git(folder, "tag", "before")
    return folder


def test_a_round_of_pytest_is_a_run_on_each_side_and_its_medians(suite, tmp_path):
    from harness.gate.pytest_rounds import Benchmarks
    from harness.gate.sides import Side

    commit(suite, {"tests/test_speed.py": SUITE["tests/test_speed.py"].replace("test_more", "test_new"), "work.py": SUITE["work.py"]})
    old = repository(tmp_path / "old", SUITE)
    (tmp_path / "files").mkdir()
    made = Benchmarks({"base": Side("b", old, sys.executable), "head": Side("h", suite, sys.executable)}, ["tests"], tmp_path / "files")
    keys, settled = made.discover()
    assert keys == [("tests/test_speed.py::test_work", "median")]
    assert {case.cell.rpartition("::")[2]: case.decision.verdict for case in settled} == {"test_more": "MISSING", "test_new": "NEW"}
    seen = made.round(1, keys, ("base", "head"))[keys[0]]
    assert set(seen.values) == set(seen.fastest) == {"base", "head"}
    assert all(0 < seen.fastest[arm] <= seen.values[arm][0] for arm in seen.values)
    assert all(0 < value < 1 for values in seen.values.values() for value in values)


@pytest.mark.slow
def test_somebody_elses_suite_is_gated_by_the_same_statistics(suite, gate, tmp_path):
    commit(suite, {"work.py": "def work(n):\n    return sum(i * i for i in range(2 * n if n < 300 else n))\n"})
    done = gate("--base", "before", "--pytest", "tests", "--only", "test_work", "--budget", "30m", cwd=suite)
    assert done.returncode == 1, done.stderr + done.stdout
    found = {key[0].rpartition("::")[2]: verdict for key, verdict in verdicts(tmp_path).items()}
    assert found == {"test_work": "REGRESSION"}


# ------------------------------------------------------------------------------------ the command line


def files(folder, *names):
    for name in names:
        (folder / name).write_text("{}")
    return [str(folder / name) for name in names]


def names(sides):
    return tuple([path.name for path in side] for side in sides)


def test_two_patterns_are_a_side_each(tmp_path):
    files(tmp_path, "base1.json", "base2.json", "head1.json")
    assert names(split_files([f"{tmp_path}/base*.json", f"{tmp_path}/head*.json"], [])) == (["base1.json", "base2.json"], ["head1.json"])


def test_what_the_shell_made_of_two_patterns_is_told_apart_by_name(tmp_path):
    given = files(tmp_path, "base-1.json", "base-2.json", "head-1.json", "head-2.json")
    assert names(split_files(given, [])) == (["base-1.json", "base-2.json"], ["head-1.json", "head-2.json"])


def test_names_that_do_not_tell_the_sides_apart_are_refused_unless_the_second_side_is_named(tmp_path):
    given = files(tmp_path, "1.json", "2.json", "3.json")
    with pytest.raises(SettingsError, match="not clear which files"):
        split_files(given, [])
    assert names(split_files(given[:2], given[2:])) == (["1.json", "2.json"], ["3.json"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.json is neither"):
        split_files([*files(tmp_path, "a.json"), f"{tmp_path}/nothing.json"], [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(budget="soon"), "--budget must be a time such as 90s"),
        (Options(given=("a", "b"), sides=Asked(base="main")), "leave out --base"),
        (Options(head_files=("a",)), "--head-files needs the base's files"),
        (Options(pytest=("tests",), sides=Asked(base_set=("a=1",))), "--pytest has none"),
        (Options(self_test=3, control=True), "give it alone"),
    ],
)
def test_what_contradicts_itself_is_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        _check(options)


def test_a_mistake_ends_with_2_and_a_sentence(gate, tmp_path):
    folder = repository(tmp_path / "empty", {})
    done = gate("--base", "nowhere", cwd=folder)
    assert done.returncode == 2
    assert "error: --base nowhere names no commit here" in done.stderr
    done = gate("--gate", "nothing", "--base", "main", cwd=folder)
    assert done.returncode == 2
    assert "--gate nothing is not an option; it has" in done.stderr


def test_stored_folders_go_to_the_comparison_of_stored_results(gate, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    done = gate(str(tmp_path / "a"), str(tmp_path / "b"), cwd=tmp_path)
    assert done.returncode in (2, 4), done.stderr
    assert "Traceback" not in done.stderr


# --------------------------------------------------------------------------------------------- settings


def test_every_gate_that_comes_along_can_be_read_and_begins_with_what_it_is():
    paths = sorted((CONF / "gate").glob("*.yaml"))
    assert paths
    for path in paths:
        assert open_settings(path.stem).all_cells()
        assert path.read_text().startswith("# ")


def test_several_threads_make_recall_a_matter_of_many_builds():
    cells = {"a": {"set": "index=hnsw", "metrics": ["recall"]}}
    assert GateSettings(cells=cells).all_cells()[0].metrics == ("recall",)
    several = GateSettings(cells=cells, threads=2).all_cells()[0]
    assert several.metrics == ("recall_of_builds",)
    assert "threads=2" in several.overrides


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"budget": "5"}, "gate.budget must be a time such as 90s, 5m or 1h, got '5'"),
        ({"threads": True}, "gate.threads must be a whole number ≥ 1, got True"),
        ({"block_ms": float("nan")}, "gate.block_ms must be a number > 0, got nan"),
        ({"cells": {}}, "gate.cells must name at least one cell"),
        ({"cells": {"a": {"set": "x", "metrics": ["speed"]}}}, "gate.cells.a.metrics: 'speed' is not one of forward_s"),
        ({"cells": {"a": {"set": "x", "metrics": ["recall"]}}}, "gate.cells.a.set: 'x' is not key=value"),
        ({"floors": {"speed": 0.1}}, "gate.floors.speed is not a metric"),
        ({"floors": {"search_s": 0.1}}, "the floor of search_s must be below its target, got 0.1 and 0.05"),
    ],
)
def test_a_gate_that_breaks_a_rule_is_refused_with_the_rule(wrong, words):
    with pytest.raises(SettingsError) as caught:
        GateSettings(**{"cells": {"a": {"set": "index=flat", "metrics": ["recall"]}}, **wrong})
    assert words in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(SettingsError) as caught:
        GateSettings(cells={}, budget="x", blocks=1, memory="yes")
    assert len(caught.value.violations) == 4


# ----------------------------------------------------------------------------------- the GitHub action


def action():
    return yaml.safe_load((ROOT / "docs/github-action/action.yml").read_text())


def steps():
    return {step["name"]: step for step in action()["runs"]["steps"] if "run" in step}


def run_step(step, folder, **variables):
    """Run a step as the runner does: bash, stopping at the first error, files for what it sets."""
    found = {name: folder / name for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
    for path in found.values():
        path.touch()
    environment = {**os.environ, **{name: str(path) for name, path in found.items()}, "GIT_CONFIG_GLOBAL": os.devnull, **variables}
    assert set(step["env"]) <= set(environment), "every variable that the step uses is set here"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder / "clone",
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    set_to = {name: dict(line.split("=", 1) for line in path.read_text().splitlines()) for name, path in found.items()}
    return done, set_to


@pytest.fixture
def clone(tmp_path):
    """A shallow clone of a branch, as a CI job has it."""
    origin = repository(tmp_path / "origin", {"a": "1"})
    git(origin, "checkout", "--quiet", "-b", "feature")
    commit(origin, {"a": "2"})
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=feature", f"file://{origin}", "clone")
    return tmp_path


def test_the_actions_first_step_fetches_the_base_where_it_is_missing(clone):
    step = steps()["Fetch what to compare with"]
    main = git(clone / "origin", "rev-parse", "main")
    done, told = run_step(step, clone, BASE="origin/main")
    assert done.returncode == 0, done.stderr
    assert told["GITHUB_ENV"] == {"HARNESS_GATE_BASE": main}
    assert git(clone / "clone", "cat-file", "-t", main) == "commit"


@pytest.mark.parametrize(("code", "fail", "ends"), [(0, "false", 0), (1, "false", 1), (3, "false", 0), (3, "true", 3), (5, "false", 5)])
def test_the_actions_gate_step_ends_as_the_gate_does_but_for_an_untrusted_machine(clone, code, fail, ends):
    fake = clone / "python"
    fake.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {clone}/arguments\nexit {code}\n')
    fake.chmod(0o755)
    variables = {
        "PYTHON": str(fake),
        "OUT": "gate results",
        "ARGUMENTS": "--control --budget 10m",
        "FAIL_WHEN_UNTRUSTED": fail,
        "HARNESS_GATE_BASE": "abc",
    }
    done, told = run_step(steps()["Measure"], clone, **variables)
    assert done.returncode == ends, done.stderr
    assert told["GITHUB_OUTPUT"] == {"exit-code": str(code)}
    arguments = (clone / "arguments").read_text().splitlines()
    assert arguments == ["-m", "harness", "gate", "--base", "abc", "--out", "gate results", "--control", "--budget", "10m"]
    assert ("::warning" in done.stdout) == (code == 3 and fail == "false")


def test_both_steps_in_a_row_gate_a_pull_request_for_real(sources, tmp_path, shared_cache):
    """A clone of one branch as a job has it, what the first step sets handed to the second, the real gate on what needs no clock."""
    git(tmp_path, "clone", "--quiet", "--single-branch", "--branch=worse", f"file://{sources}", "clone")
    surroundings = project.environment(shared_cache)
    done, told = run_step(steps()["Fetch what to compare with"], tmp_path, **surroundings, BASE="origin/main")
    assert done.returncode == 0, done.stderr
    variables = {
        **told["GITHUB_ENV"],
        "PYTHON": sys.executable,
        "OUT": "out",
        "ARGUMENTS": f"--only recall {' '.join(TINY)}",
        "FAIL_WHEN_UNTRUSTED": "false",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    done, told = run_step(steps()["Measure"], tmp_path, **surroundings, **variables)
    assert done.returncode == 1, done.stderr + done.stdout
    assert told["GITHUB_OUTPUT"]["exit-code"] == "1"
    assert "1 regression" in (tmp_path / "summary.md").read_text()
    cases = json.loads((tmp_path / "clone/out/verdict.json").read_text())["cases"]
    assert {case["cell"].partition(" ")[0]: case["decision"]["verdict"] for case in cases} == {EXACT: "PASS", GRAPH: "REGRESSION"}


def test_the_action_names_only_inputs_steps_and_outputs_that_there_are():
    """What the runner would put in for an unknown name is an empty string, without a word."""
    about = action()
    text = (ROOT / "docs/github-action/action.yml").read_text()
    used = set(re.findall(r"\binputs\.([a-z-]+)", text))
    assert used == set(about["inputs"])
    by_id = {step["id"]: step for step in about["runs"]["steps"] if "id" in step}
    for name, output in re.findall(r"\bsteps\.([a-z-]+)\.outputs\.([a-z-]+)", text):
        assert f'echo "{output}=' in by_id[name]["run"]
    for step in about["runs"]["steps"]:
        assert ("run" in step) == ("shell" in step), "a composite action has to name the shell of every script"


def test_the_action_uses_only_options_that_the_gate_has():
    text = (ROOT / "docs/github-action/action.yml").read_text()
    said = subprocess.run([sys.executable, "-m", "harness", "gate", "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for option in ("--base", "--out", "--control", "--budget"):
        assert option in text
        assert option in said
