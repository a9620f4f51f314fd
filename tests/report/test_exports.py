"""What other programs read: JSON lines, and results as pytest-benchmark writes them, read by pytest-benchmark itself."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from harness.frame import to_frame
from harness.records import current, read_all, write
from harness.report import write_reports
from harness.report.exports import json_lines, statistics
from harness.report.rows import plain
from tests.report import examples


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "default"
    for record in examples.records():
        write(record, folder)
    return write_reports(folder)


def test_a_line_is_a_row_without_what_is_null_and_parameters_are_objects(written):
    lines = [json.loads(line) for line in written["jsonl"].read_text(encoding="utf-8").splitlines()]
    rows = plain(to_frame(current(read_all(written["jsonl"].parent))))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        told = {
            name: json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, dict) else value
            for name, value in line.items()
        }
        assert told == {name: value for name, value in row.items() if value is not None}
    assert {"ef": 16} in [line.get("search_params") for line in lines]


def test_pandas_reads_the_lines(written):
    frame = pd.read_json(written["jsonl"], lines=True)
    assert len(frame) == len(pd.read_csv(written["csv"]))
    assert set(frame["model"]) == {"minilm", "resnet50"}


def test_a_name_with_a_line_break_stays_on_one_line():
    record = examples.embed("minilm", "docstrings", 8, 100.0, "e01")
    record.labels["model"] = "two\nlines\u2028three"
    assert len(json_lines(plain(to_frame([record]))).encode().split(b"\n")) == 2


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=40))
def test_statistics_are_those_of_pytest_benchmark(data):
    oracle = Stats()
    for one in data:
        oracle.update(one)
    found = statistics(np.asarray(data))
    for name, value in oracle.as_dict().items():
        if name in ("outliers", "stddev_outliers", "iqr_outliers"):
            continue  # counted at bounds that the two compute with other roundings; exact in the test below
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_outliers_are_those_of_pytest_benchmark():
    data = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0, 0.1]
    oracle = Stats()
    for one in data:
        oracle.update(one)
    assert statistics(np.asarray(data))["outliers"] == oracle.outliers == "1;2"


def test_each_row_with_samples_is_a_benchmark_of_its_own_name(written):
    body = json.loads(written["benchmark"].read_text(encoding="utf-8"))
    names = [one["fullname"] for one in body["benchmarks"]]
    assert len(names) == len(set(names)) == 4 + 4 + 10  # queries and batches of four embed cells; ten operating points
    search = next(one for one in body["benchmarks"] if "hnsw-ef=64" in one["name"] and "minilm-" in one["name"])
    assert search["extra_info"]["recall"] == 0.9841
    assert search["params"]["index"] == "hnsw"
    assert search["stats"]["rounds"] == 1800
    assert search["stats"]["median"] == pytest.approx(0.0104, rel=0.1)


def test_pytest_benchmark_compares_two_reports(written, tmp_path):
    other = tmp_path / "other.json"
    body = json.loads(written["benchmark"].read_text(encoding="utf-8"))
    for one in body["benchmarks"]:
        one["stats"] |= {name: 2 * one["stats"][name] for name in ("min", "max", "mean", "median")}
    other.write_text(json.dumps(body), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        str(written["benchmark"]),
        str(other),
        "--columns=median,rounds",
        "--csv=out.csv",
    ]
    done = subprocess.run([*command, "--group-by=fullname"], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Failed" not in done.stderr
    assert "(2.00)" in done.stdout
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) == 2 * len(body["benchmarks"])
