"""The command as a person runs it: on results that were really measured, and on stated ones."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console

from harness.choose.command import Asked, decide, run
from harness.choose.require import between
from harness.choose.show import as_json, markdown, notes, print_answer
from harness.cli import main
from harness.errors import SettingsError
from tests.choose import cells
from tests.conftest import PLUGINS, QUICK, ROOT, own_environment


@pytest.fixture
def folder(tmp_path):
    """Two models, an index at two operating points each, one of which is not good enough."""
    records = []
    for number, (model, query_s) in enumerate((("small", 0.010), ("large", 0.030))):
        records.append(cells.embed(f"e{number}", model, query_s=query_s))
        points = (
            cells.point(16, (0.90, 0.88, 0.92), ndcg=(0.5, 0.45, 0.55)),
            cells.point(64, (0.98, 0.96, 0.99), ndcg=(0.6 + number / 10, 0.55, 0.8)),
        )
        records.append(cells.search(f"s{number}", model, points=points, latencies=(0.002, 0.003)))
    return cells.folder(tmp_path / "results", *records)


def test_the_quickest_that_is_good_enough_is_chosen_and_written_down(folder, capsys):
    assert run(folder, Asked(min_recall=0.95, max_p99="30ms")) == 0
    said = capsys.readouterr().out
    assert "take small" in " ".join(said.split())
    body = json.loads((folder / "choice.json").read_text())
    assert body["winner"] == "e0+s0.1"
    assert {one["key"]: one["state"] for one in body["candidates"]} == {
        "e0+s0.1": "chosen",
        "e0+s0.0": "violated",
        "e1+s1.0": "violated",
        "e1+s1.1": "violated",
    }
    assert "p99 end to end" in next(one["why"] for one in body["candidates"] if one["key"] == "e1+s1.1")
    assert (folder / "choice.md").read_text().startswith("# Choice\n\n**Of 4 candidates, 1 ")
    assert "SEARCH_PARAMS = {'ef': 64}" in (folder / "production.py").read_text()


def test_quality_chooses_another_than_latency(folder):
    assert decide(folder, Asked(objective="quality")).choice.winner.embed.key == "e1"
    assert decide(folder, Asked(objective="latency")).choice.winner.embed.key == "e0"


def test_nothing_that_qualifies_is_exit_code_1_with_the_nearest_miss(folder, capsys):
    assert main(["choose", str(folder), "--min-recall", "0.95"]) == 0
    assert (folder / "production.py").exists()
    assert main(["choose", str(folder), "--min-recall", "0.999"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "None of 4 candidates is known to have recall ≥ 0.999. The nearest is" in said
    assert "recall 0.980 [0.960, 0.990] < 0.999" in said
    assert not (folder / "production.py").exists()
    assert json.loads((folder / "choice.json").read_text())["winner"] is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Asked(), True),
        (Asked(max_p99="1s", objective="throughput"), True),
        (Asked(min_recall=0.5), False),
        (Asked(min_ndcg=0.1), False),
        (Asked(objective="quality"), False),
    ],
)
def test_who_asks_for_no_quality_is_told_what_is_had(folder, asked, told):
    words = "Neither --min-recall nor --min-ndcg was asked for: the chosen one has recall 0.900 [0.880, 0.920]."
    assert (words in notes(decide(folder, asked))) == told


def test_cost_without_prices_says_how_to_write_them(folder, capsys):
    assert main(["choose", str(folder), "--objective", "cost"]) == 2
    assert "--objective cost needs --prices FILE, your own prices: copy " in capsys.readouterr().err


def test_a_month_s_cost_is_the_objective_where_it_is_known_for_what(folder, capsys):
    prices = str(ROOT / "conf" / "prices.example.yaml")
    assert main(["choose", str(folder), "--objective", "cost", "--prices", prices, "--corpus", "10M", "--rate", "50"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cost a month" in said
    assert "used to 50% of the rate" in said
    assert json.loads((folder / "choice.json").read_text())["objective"]["figure"] == "cost_per_month"


def test_every_mistake_is_told_at_once(folder):
    with pytest.raises(SettingsError) as error:
        decide(folder, Asked(objective="beauty", min_recall=2.0, max_p99="soon", corpus="many", rate=-1.0, k=0))
    text = str(error.value)
    for said in (
        "--objective must be one of latency",
        "--min-recall",
        "--max-p99",
        "--corpus must be a whole number in [1, 1e+15] such as 250000",
        "--rate must be",
        "--k must be a whole number ≥ 1, got 0",
        "add --prices",
    ):
        assert said in text


@pytest.mark.parametrize("width", range(60, 131, 5))
def test_no_figure_is_cut_off_whatever_the_terminal_s_width(folder, width):
    out = io.StringIO()
    answer = decide(folder, Asked(min_recall=0.95))
    print_answer(answer, Console(file=out, width=width))
    table = out.getvalue().partition("The front")[2].partition("Why not")[0].splitlines()
    for figure in ("recall", "latency_p50_s"):
        assert f"{between(figure, answer.choice.winner.figures[figure]).strip()} " in "\n".join(f"{line} " for line in table)
    ends = [line.rstrip()[-1] for line in table if "[" in line]
    assert ends
    assert set(ends) == {"]"}


def test_names_from_outside_stay_text(folder):
    record = cells.search("s9", "small", index="<script>|x\n`", latencies=(0.001,))
    cells.folder(folder, record)
    page = markdown(decide(folder, Asked(objective="latency")))
    assert "<script>" not in page
    assert "&lt;script&gt;\\|x" in page
    json.loads(as_json(decide(folder, Asked(objective="latency"))))


@pytest.fixture(scope="module")
def measured(tmp_path_factory, shared_cache):
    """Where a quick run over two stores was really made."""
    here = tmp_path_factory.mktemp("measured")
    job = [word for word in QUICK if not word.startswith(("store=", "index="))]
    done = subprocess.run(
        [sys.executable, "-m", "harness", "-m", *job, "store=exact,faiss", "index=flat", "--config-dir", str(PLUGINS)],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=own_environment(shared_cache),
    )
    assert done.returncode == 0, done.stderr
    return here


@pytest.fixture
def run_of_two(measured, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(measured / "results" / "default", tmp_path / "results" / "default")


def test_a_real_run_is_chosen_from_and_verified_in_one_loop(harness, run_of_two):
    done = harness("choose", "results/default", "--min-recall", "0.9", "--verify")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Real loop, " in said
    assert "there is no template for tests.plugins.parts.HashedWords" in said
    body = json.loads((run_of_two / "choice.json").read_text())
    assert len(body["candidates"]) == 2
    assert sum("Real loop" in note for note in body["notes"]) == 4
    kinds = {json.loads(path.read_text())["kind"] for path in (run_of_two / "records").glob("*.json")}
    assert kinds == {"embed", "search", "serve"}
    again = harness("choose", "results/default", "--min-recall", "0.9", "--verify")
    assert again.returncode == 0
    assert len(list((run_of_two / "records").glob("*.json"))) == 5, "what was verified is not measured again"
    assert harness("report", "results/default", plugins=False).returncode == 0
    assert harness("choose", "results/default", "--max-p99", "1s").returncode == 1, "20 requests support no p99"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_a_verification_that_was_stopped_remains(harness, run_of_two, shared_cache, tmp_path, how):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    own = {"TMPDIR": str(temporary)}
    stopped = subprocess.Popen(
        [sys.executable, "-m", "harness", "choose", "results/default", "--verify", "--config-dir", str(PLUGINS)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(shared_cache) | own,
    )
    end = time.monotonic() + 120
    while not list(temporary.glob("harness-run-*/0")):
        assert time.monotonic() < end, "nothing was measured"
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.01)
    family = psutil.Process(stopped.pid).children(recursive=True)
    stopped.send_signal(how)
    _, words = stopped.communicate(timeout=60)
    assert stopped.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[how]
    assert "Traceback" not in words
    assert psutil.wait_procs(family, timeout=20)[1] == []
    if how == signal.SIGKILL:
        assert list(temporary.glob("harness-run-*")), "a killed process clears nothing away"
        assert harness("choose", "results/default", "--verify", env=own).returncode == 0
    assert list(temporary.glob("harness-*")) == []
