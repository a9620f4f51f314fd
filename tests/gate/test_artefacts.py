"""What a gate writes: golden texts that a person has looked at, names that stay names, and limits that hold."""

import csv
import json
import math
import re
from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from harness.errors import HarnessError
from harness.gate.artefacts import github, junit, markdown, page, print_outcome, trends, verdict, words, write_artefacts
from harness.gate.outcome import VERDICTS, Case, Decision
from tests.gate import examples
from tests.gate.examples import AT, CASES, GOLDEN, HOSTILE, OUTCOMES, outcome
from tests.report.test_markdown import MarkdownText
from tests.report.test_page import Parsed

TEXTS = examples.golden()


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch):
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_text_is_the_one_that_was_looked_at(name):
    """Where a change is meant, look at it after ``python -m tests.gate.examples``."""
    assert TEXTS[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_what_looked_like_a_regression_and_stayed_open_is_not_called_none():
    assert words.headline(OUTCOMES["budget-ended"]) == "Performance: no regression reproduced, 1 inconclusive"
    assert words.headline(OUTCOMES["not-reproduced"]) == "Performance: no regression, 1 pass"


def test_every_golden_file_belongs_to_an_outcome_and_every_verdict_has_one():
    assert {path.name for path in GOLDEN.iterdir()} == set(TEXTS)
    assert set(CASES) == set(VERDICTS)


# -------------------------------------------------------------------------------------- the summary


def rendered(text):
    return MarkdownText(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def test_the_first_line_is_one_sentence_with_the_worst_verdict_first():
    first = markdown.summary(OUTCOMES["mixed"]).splitlines()[0]
    assert first.startswith(
        "**Performance: 1 regression, 1 missing, 1 error, 1 not comparable, 1 inconclusive, 1 improved, 1 new, 4 pass**"
    )


def test_what_is_unchanged_is_folded_and_nothing_else():
    text = markdown.summary(OUTCOMES["mixed"])
    above, below = text.split("<details>")
    assert "4 unchanged" in below
    assert " PASS " not in above
    for name in ("REGRESSION", "MISSING", "ERROR", "NOT COMPARABLE", "INCONCLUSIVE", "IMPROVED", "NEW"):
        assert f"| {name}" in above
        assert f"| {name}" not in below


def test_what_is_advisory_is_folded_where_anything_else_is_decided():
    advisory = OUTCOMES["advisory"].cases[0]
    text = markdown.summary(outcome(CASES["REGRESSION"], advisory, CASES["PASS"]))
    above, between, below = text.split("<details>")
    assert "| REGRESSION" in above
    assert "(advisory)" not in above
    assert "1 advisory" in between
    assert "1 unchanged" in below
    alone = markdown.summary(OUTCOMES["advisory"])
    assert "<details>" not in alone
    assert "(advisory)" in alone


def test_a_speed_is_read_beside_its_recall():
    [line] = [
        line for line in markdown.summary(OUTCOMES["faster-with-less-recall"]).splitlines() if "search\\_s" in line or "search_s" in line
    ]
    assert "0.9841 → 0.9503" in line
    assert "no gain: the recall of this cell is a regression" in line


def test_what_all_cells_share_is_said_once_and_names_stay_whole_for_programs():
    other = replace(CASES["PASS"], cell="minilm · cpu · fp32 · batch 8")
    text = markdown.summary(outcome(CASES["REGRESSION"], other))
    assert "(2 cases of minilm · cpu · fp32, base" in text.splitlines()[0]
    assert "| batch 32 | forward_s |" in text
    assert "| batch 8 | forward_s |" in text
    assert 'classname="minilm · cpu · fp32 · batch 8"' in junit.to_xml(outcome(CASES["REGRESSION"], other), AT)


def test_only_intervals_that_are_shown_name_their_level():
    exact = replace(examples.RECALL, decision=Decision("PASS", change=0.0, lo=0.0, hi=0.0, confidence=1.0))
    assert words.change_heading(outcome(exact)) == "change"
    assert words.change_heading(outcome(exact, CASES["PASS"])) == "change [98 % interval]"


def test_bytes_that_differ_in_the_last_digit_are_shown_to_differ():
    base, head = words.amounts(examples.BYTES)
    assert base != head


@pytest.mark.parametrize("count", [10, 10_000])
def test_the_summary_never_exceeds_its_limit_and_says_what_was_cut(count):
    rows = [replace(case, cell=f"{HOSTILE * 20} {number}") for number in range(count) for case in (CASES["REGRESSION"], CASES["PASS"])]
    text = markdown.summary(outcome(*rows, notes=(HOSTILE * 50,) * 500))
    assert len(text.encode("utf-8", "backslashreplace")) <= 60_000
    shown = len(re.findall(r"^\| .*script", text, re.MULTILINE))
    assert shown > 5
    if count == 10_000:
        cut = sum(int(number.replace(",", "")) for number in re.findall(r"^([\d,]+) more rows? would not fit", text, re.MULTILINE))
        assert shown + cut == 20_000
    else:
        assert shown == 20
    assert text.count("<details>") == text.count("</details>") == 1


def test_a_hostile_name_is_text_in_the_summary():
    rows = [replace(case, cell=HOSTILE, metric=HOSTILE, decision=replace(case.decision, reason=HOSTILE)) for case in CASES.values()]
    text = markdown.summary(outcome(*rows, base=HOSTILE, head=HOSTILE, machine=HOSTILE, notes=(HOSTILE,)))
    text = text.encode("utf-8", "backslashreplace").decode()
    seen = rendered(text.replace("<details>", "").replace("</details>", "").replace("<summary>", "").replace("</summary>", ""))
    assert "<script>alert(1)</script>|`x` *b*" in seen.text
    assert not seen.tags & {"script", "em", "code", "a", "s"}
    assert "\x1b" not in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


# ---------------------------------------------------------------------------------------- JUnit


def test_junit_counts_what_it_holds_and_fails_for_what_fails():
    root = ElementTree.fromstring(TEXTS["mixed.xml"])
    [suite] = root
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == len(OUTCOMES["mixed"].cases)
    for attribute, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == sum(case.find(element) is not None for case in cases)
    assert [suite.get(name) for name in ("failures", "errors", "skipped")] == ["2", "1", "3"]


def test_a_contaminated_run_blames_nobody():
    [suite] = ElementTree.fromstring(TEXTS["contaminated.xml"])
    assert suite.get("failures") == "0"
    assert suite.get("errors") == "1"
    assert github.of(OUTCOMES["contaminated"])[0].startswith("::error title=Performance gate::Performance: not to be trusted")
    assert len(github.of(OUTCOMES["contaminated"])) == 1


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=40))
def test_any_name_makes_an_xml_file_that_can_be_read(name):
    one = replace(CASES["REGRESSION"], cell=name, metric=name, decision=replace(CASES["REGRESSION"].decision, reason=name))
    text = junit.to_xml(outcome(one, base=name), AT).encode("utf-8", "backslashreplace")
    [suite] = ElementTree.fromstring(text)
    assert suite.find("testcase").find("failure") is not None


# ---------------------------------------------------------------------------------- verdict.json


def test_the_verdict_file_holds_every_case_and_no_number_that_is_none():
    endless = replace(CASES["INCONCLUSIVE"], decision=replace(CASES["INCONCLUSIVE"].decision, lo=-math.inf, hi=math.nan))
    body = json.loads(verdict.to_json(outcome(endless, CASES["REGRESSION"]), AT), parse_constant=pytest.fail)
    assert [case["decision"]["verdict"] for case in body["cases"]] == ["REGRESSION", "INCONCLUSIVE"]
    assert body["cases"][1]["decision"]["lo"] is None
    assert (body["exit_code"], body["counts"]) == (1, {"INCONCLUSIVE": 1, "REGRESSION": 1})


# ----------------------------------------------------------------------------------- annotations


def test_an_annotation_stays_on_its_line_whatever_it_says():
    one = replace(CASES["REGRESSION"], cell=HOSTILE, metric=HOSTILE)
    [line] = github.of(outcome(one))
    assert "\n" not in line
    assert "\r" not in line
    head, _, message = line.removeprefix("::error title=").partition("::")
    assert "%3A%3Aerror title=x%3A%3Ay%250A%2C" in head
    assert "%250A" in message


def test_no_more_annotations_than_are_shown():
    assert len(github.of(outcome(*[CASES["REGRESSION"]] * 50, *[CASES["NOT COMPARABLE"]] * 50))) == 20


def test_annotations_are_printed_on_github_alone(monkeypatch):
    for where, expected in ((None, False), ("true", True)):
        if where:
            monkeypatch.setenv("GITHUB_ACTIONS", where)
        out = StringIO()
        print_outcome(OUTCOMES["mixed"], Console(file=out, force_terminal=False))
        assert ("\n::error title=REGRESSION" in out.getvalue()) is expected
        assert out.getvalue().startswith("**Performance: 1 regression")


# -------------------------------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_the_terminal_says_every_verdict_within_its_width(name, width):
    out = StringIO()
    print_outcome(OUTCOMES[name], Console(file=out, force_terminal=True, color_system=None, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("Performance")
    said = " ".join(" ".join(lines).split())
    for case in OUTCOMES[name].cases:
        if case.decision.verdict != "PASS":
            assert case.decision.verdict.split()[0] in said
    assert f"Exit code {OUTCOMES[name].exit_code}" in said


def test_a_name_cannot_move_the_cursor():
    out = StringIO()
    rows = [replace(case, cell=HOSTILE, metric=HOSTILE) for case in CASES.values()]
    print_outcome(outcome(*rows, base=HOSTILE), Console(file=out, force_terminal=True, color_system=None, width=120))
    assert "\x1b[31m" not in out.getvalue()


# ----------------------------------------------------------------------------------------- trend


def series(path):
    return list(csv.DictReader(StringIO(path.read_text())))


def test_the_series_grows_under_one_header(tmp_path):
    path = tmp_path / "deep" / "trend.csv"
    for at in (AT, "2026-11-03T10:30:00.000000Z"):
        trends.append(OUTCOMES["mixed"], path, at)
    rows = series(path)
    assert path.read_text().count("time,commit,cell,metric,value,lo,hi") == 1
    measured = [case for case in OUTCOMES["mixed"].cases if case.head is not None]
    assert len(rows) == 2 * len(measured)
    assert {row["time"] for row in rows} == {AT, "2026-11-03T10:30:00.000000Z"}
    assert {row["commit"] for row in rows} == {"8d10f2e"}
    [row] = [row for row in rows[: len(measured)] if row["metric"] == "forward_s" and float(row["value"]) > 0.043]
    assert float(row["value"]) == pytest.approx(0.0412 * 1.068)
    assert float(row["lo"]) == pytest.approx(0.0412 * 1.048)
    assert float(row["hi"]) == pytest.approx(0.0412 * 1.088)


def test_half_a_line_of_a_crash_is_dropped(tmp_path):
    path = tmp_path / "trend.csv"
    trends.append(OUTCOMES["pass"], path, AT)
    whole = path.read_text()
    path.write_text(whole + "2026-11-03T10:30,8d1")
    trends.append(OUTCOMES["pass"], path, AT)
    assert path.read_text() == whole + whole.split("\n", 1)[1]


def test_a_spreadsheet_runs_nothing_of_the_series(tmp_path):
    one = replace(CASES["PASS"], cell="=HYPERLINK(1)\n2", metric="@x")
    trends.append(outcome(one, head="+1"), tmp_path / "trend.csv", AT)
    [row] = series(tmp_path / "trend.csv")
    assert (row["commit"], row["cell"], row["metric"]) == ("'+1", "'=HYPERLINK(1) 2", "'@x")


def test_pandas_turns_the_series_into_one_column_a_cell_and_metric(tmp_path):
    import pandas as pd

    for day in range(1, 4):
        trends.append(OUTCOMES["mixed"], tmp_path / "trend.csv", f"2026-11-0{day}T10:30:00.000000Z")
    wide = pd.read_csv(tmp_path / "trend.csv", parse_dates=["time"]).pivot_table(index="time", columns=["cell", "metric"], values="value")
    assert wide.shape[0] == 3
    assert (examples.HNSW, "search_p95_s") in wide.columns


# ------------------------------------------------------------------------------------------ page


def test_the_page_draws_a_row_for_each_change_with_its_interval():
    parsed = Parsed(page.page(OUTCOMES["mixed"], AT))
    ratios, differences = json.loads(parsed.scripts["charts"])
    drawn = {trace["name"]: trace for trace in ratios["data"]}
    assert drawn["REGRESSION"]["x"] == pytest.approx([6.8])
    assert drawn["REGRESSION"]["error_x"]["array"] == pytest.approx([2.0])
    assert drawn["REGRESSION"]["error_x"]["arrayminus"] == pytest.approx([2.0])
    assert sum(len(trace["x"]) for name, trace in drawn.items() if not name.startswith("target")) == 6
    assert differences["data"][0]["x"] == pytest.approx([-0.0003])
    assert len(ratios["layout"]["annotations"]) == 6


def test_an_interval_without_an_end_leaves_the_picture_and_the_file_stays_json():
    endless = replace(CASES["INCONCLUSIVE"], decision=replace(CASES["INCONCLUSIVE"].decision, lo=-math.inf, hi=None))
    [figure] = json.loads(Parsed(page.page(outcome(endless), AT)).scripts["charts"], parse_constant=pytest.fail)
    lo, hi = figure["layout"]["xaxis"]["range"]
    assert lo < 3.0 < hi


def test_a_hostile_name_is_text_on_the_page_and_nothing_is_fetched():
    rows = [replace(case, cell=HOSTILE, metric=HOSTILE, decision=replace(case.decision, reason=HOSTILE)) for case in CASES.values()]
    html = page.page(outcome(*rows, base=HOSTILE, machine=HOSTILE), AT)
    parsed = Parsed(html)
    assert "<script>alert(1)</script>" not in html
    assert "<script>alert(1)</script>" in " ".join(parsed.words)
    assert all(not {"src", "srcset", "action"} & set(attributes) for _, attributes in parsed.elements)
    assert [attributes["href"] for _, attributes in parsed.elements if "href" in attributes] == ["data:,"]


# ----------------------------------------------------------------------------------------- files


def test_all_files_are_written_and_the_summary_is_appended_for_github(tmp_path, monkeypatch):
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    written = write_artefacts(OUTCOMES["mixed"], tmp_path / "gate", trend=tmp_path / "trend.csv", at=AT)
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in written.items()} == {
        "trend": "trend.csv",
        "verdict": "gate/verdict.json",
        "summary": "gate/summary.md",
        "junit": "gate/junit.xml",
        "report": "gate/report.html",
    }
    assert all(path.stat().st_size > 0 for path in written.values())
    assert step.read_text() == "before\n" + TEXTS["mixed.md"] + "\n"


def test_names_that_no_encoding_holds_do_not_stop_the_files(tmp_path):
    one = replace(CASES["REGRESSION"], cell=HOSTILE, metric=HOSTILE, decision=replace(CASES["REGRESSION"].decision, reason=HOSTILE))
    written = write_artefacts(outcome(one, base=HOSTILE, head=HOSTILE), tmp_path)
    assert all(path.read_text(encoding="utf-8") for path in written.values())
    ElementTree.parse(written["junit"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="file"):
        write_artefacts(OUTCOMES["pass"], tmp_path / "file" / "gate")


# ----------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("unit", "base", "head", "said"),
    [
        ("s", 0.0412, 0.0440, ("41.2 ms", "44.0 ms")),
        ("s", 3.2e-5, 3.3e-5, ("32.0 µs", "33.0 µs")),
        ("s", 0.9, 1.1, ("0.900 s", "1.10 s")),
        ("bytes", 612e6, 0.0, ("612 MB", "0 MB")),
        ("ratio", 0.98412, 1.0, ("0.9841", "1.0000")),
        ("checksum", 255.0, None, ("ff", "–")),
        ("s", None, math.inf, ("–", "–")),
    ],
)
def test_both_sides_are_written_in_one_unit(unit, base, head, said):
    assert words.amounts(Case("cell", "metric", "duration", unit, base, head, Decision("PASS"))) == said


def test_a_number_is_never_written_as_another_unit_than_its_cases():
    assert words.change(CASES["REGRESSION"]) == "+6.8 %"
    assert words.change(examples.LOST) == "-0.0338"
    assert words.change(examples.BYTES) == "+1e-05 %"
    assert words.interval(examples.LOST) == "", "what is exact has no interval"
