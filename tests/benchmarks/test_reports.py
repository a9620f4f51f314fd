"""What reading and reporting thousands of records costs: against parsing the JSON of the same files, which cannot be left out.

The records are as large as real ones, with the versions and sources that a cell notes. Without ``--benchmark-enable`` there are few,
and only what is made is checked.
"""

import json
import os
import time
from dataclasses import replace

import pytest

from harness.frame import load_results
from harness.records import write
from harness.report import write_reports
from tests.benchmarks.pairs import alternated, ratio
from tests.report import examples
from tests.report.chromium import needs_a_browser, started, visit

RECORDS = 10_000
FEW_ROWS, MANY_ROWS = 50, 5_000
ENVIRONMENT = examples.ENVIRONMENT | {
    "versions": {f"a-library-of-{number}": f"{number}.0.1" for number in range(60)},
    "source": {f"harness.module_{number}": f"{number:064x}" for number in range(30)},
}


@pytest.fixture
def unsynced(monkeypatch):
    """Thousands of files are written quicker where none of them has to survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def results(benchmark, tmp_path, unsynced):
    found = examples.many(4 * RECORDS if benchmark.enabled else 100)
    for record, _ in zip(found, range(RECORDS), strict=False):
        write(replace(record, environment=ENVIRONMENT), tmp_path)
    return tmp_path


def processor_s(work, *arguments):
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def parsed(folder):
    return [json.loads(path.read_bytes()) for path in sorted((folder / "records").glob("*.json"))]


def test_results_are_loaded_in_about_the_time_that_their_json_is_parsed_in(benchmark, publish, results):
    assert set(load_results(results)["key"]) == {body["key"] for body in parsed(results)}
    times = alternated(
        lambda: processor_s(parsed, results), lambda: processor_s(load_results, results), pairs=5 if benchmark.enabled else 1
    )
    benchmark.pedantic(load_results, args=(results,), rounds=1)
    if benchmark.enabled:
        found = ratio(times)
        publish(loading_by_parsing_alone=found, processor_seconds_of_loading=f"{min(each for _, each in times):.2f}")
        assert found.lo < 2.5


def test_all_reports_are_written_in_a_few_times_that(benchmark, publish, results):
    benchmark.pedantic(write_reports, args=(results,), rounds=1)
    if benchmark.enabled:
        times = alternated(lambda: processor_s(parsed, results), lambda: processor_s(write_reports, results), pairs=2)
        publish(reporting_by_parsing_alone=ratio(times), processor_seconds_of_reporting=f"{min(each for _, each in times):.2f}")
        assert min(each / alone for alone, each in times) < 20


@pytest.fixture(scope="module")
def browser():
    with started() as driver:
        yield driver


def opening_s(browser, page):
    """From before the script's first line until the tables and the charts in sight are there."""
    visit(browser, page)
    took = browser.execute_script("return performance.getEntriesByType('measure').map((one) => [one.name, one.duration])")
    return dict(took)["ready"] / 1e3


@pytest.mark.browser
@needs_a_browser
def test_a_page_of_thousands_of_rows_opens_in_a_few_times_what_one_of_fifty_takes(benchmark, publish, browser, tmp_path, unsynced):
    pages = []
    for rows in (FEW_ROWS, MANY_ROWS if benchmark.enabled else 2 * FEW_ROWS):
        for record in examples.many(rows):
            write(record, tmp_path / str(rows))
        pages.append(write_reports(tmp_path / str(rows))["html"])
    few, many = pages
    times = alternated(lambda: opening_s(browser, few), lambda: opening_s(browser, many), pairs=6 if benchmark.enabled else 1)
    benchmark.pedantic(opening_s, args=(browser, many), rounds=1)
    assert min(min(pair) for pair in times) > 0
    if benchmark.enabled:
        found = ratio(times)
        publish(opening_5000_rows_by_50=found, seconds_of_5000_rows=f"{min(each for _, each in times):.2f}")
        assert found.lo < 5
