"""The files of a report: whole, the same numbers in each, and a clear word where they cannot be made."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import DataError, HarnessError
from harness.frame import to_frame
from harness.records import newest, read_all, write
from harness.report import to_step_summary, write_reports
from harness.report.markdown import markdown
from harness.report.rows import plain
from tests.report import examples


@pytest.fixture
def folder(tmp_path):
    for record in examples.records():
        write(record, tmp_path / "default")
    return tmp_path / "default"


def test_six_files_are_written_and_nothing_else(folder):
    written = write_reports(str(folder))
    assert {kind: path.name for kind, path in written.items()} == {
        "html": "report.html",
        "markdown": "report.md",
        "csv": "results.csv",
        "parquet": "results.parquet",
        "jsonl": "results.jsonl",
        "benchmark": "benchmark.json",
    }
    assert {path.name for path in folder.iterdir()} == {"records", *(path.name for path in written.values())}


def test_the_parquet_file_is_the_frame(folder):
    frame = to_frame(newest(read_all(folder)))
    pd.testing.assert_frame_equal(pd.read_parquet(write_reports(folder)["parquet"]), frame)


def test_the_csv_file_is_the_frame(folder):
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e55")
    record.labels["model"] = 'a "quoted", name\nover two lines; = 1+1'
    write(record, folder)
    frame = to_frame(newest(read_all(folder)))
    path = write_reports(folder)["csv"]
    read = pd.read_csv(path, dtype=frame.dtypes.to_dict(), keep_default_na=False, na_values=[""], engine="python")
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_reports_are_made_again_over_old_ones(folder):
    before = write_reports(folder)["csv"].read_text()
    write(examples.embed("minilm", "docstrings", 64, 300.0, "e55"), folder)
    after = write_reports(folder)["csv"].read_text()
    assert len(after.splitlines()) == len(before.splitlines()) + 1


def test_a_broken_record_is_named_in_the_reports_and_the_others_are_shown(folder):
    (folder / "records" / "broken-1.json").write_text('{"schema_version": 0}')
    written = write_reports(folder)
    for kind in ("html", "markdown"):
        text = written[kind].read_text()
        assert "broken-1.json: schema" in text
        assert "ivf" in text


def test_a_folder_without_records_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="python -m harness"):
        write_reports(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"1 file there could not be read, the first is x\.json: not JSON"):
        write_reports(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_said_to_be_one(folder):
    folder.chmod(0o500)
    try:
        with pytest.raises(HarnessError, match=r"report\.html cannot be written \(Permission denied\); make the folder writable"):
            write_reports(folder)
    finally:
        folder.chmod(0o700)


def test_a_file_that_cannot_be_written_is_named_with_the_reason(folder):
    (folder / "report.html").mkdir()
    with pytest.raises(HarnessError, match=r"report\.html cannot be written \(Is a directory\); make the folder writable"):
        write_reports(folder)
    assert not list(folder.glob(".*"))


def test_records_of_failures_alone_make_a_report(tmp_path):
    write(examples.record("embed", "minilm", "docstrings", "e01", status="failed", error="it broke"), tmp_path)
    written = write_reports(tmp_path)
    assert "it broke" in written["html"].read_text()
    assert "it broke" in written["markdown"].read_text()


def test_names_that_are_not_utf_8_do_not_stop_a_report(tmp_path):
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["dataset"] = "d\udcff"
    record.labels["model"] = "m\udcff"
    write(record, tmp_path)
    for path in write_reports(tmp_path).values():
        assert path.stat().st_size > 0


def test_in_a_github_workflow_the_markdown_is_appended_to_the_steps_page(folder, tmp_path, monkeypatch):
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    written = write_reports(folder)["markdown"]
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    to_step_summary(written)
    assert page.read_text() == "before\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    to_step_summary(written)
    assert page.read_text(encoding="utf-8") == "before\n" + written.read_text(encoding="utf-8") + "\n"


def test_a_report_of_a_large_sweep_stays_short_enough_for_a_pull_request(tmp_path):
    records = list(examples.many(300))
    text = markdown("sweep", plain(to_frame(records)), records)
    assert "40 of 2" in text
    assert "results.csv` has all" in text
    assert len(text) < 65_536  # GitHub's limit for a comment


def test_importing_the_report_imports_nothing_heavy():
    """`import harness.cli` imports this; a second spent here is spent by every `--help`."""
    code = "import sys, harness.report; print(sorted({'pandas', 'plotly', 'jinja2', 'rich', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2], timeout=60
    )
    assert done.stdout.strip() == "[]"
