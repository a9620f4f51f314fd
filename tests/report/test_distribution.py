"""A row's distribution from its raw samples."""

from dataclasses import replace

import numpy as np
import pytest

from harness.frame import to_frame
from harness.records import write
from harness.report.distribution import LEVELS, distribution, distributions
from harness.report.rows import anchor, plain
from harness.search_summary import percentile
from harness.statistics import samples_for_percentile
from tests.report import examples


def drawn(*sizes):
    rng = np.random.default_rng(3)
    return [rng.lognormal(-4 + 0.1 * place, 0.5, size) for place, size in enumerate(sizes)]


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_curve_passes_through_the_percentiles_of_the_table(q, processes):
    arrays = drawn(*[700] * processes)
    assert distribution(arrays).quantiles[LEVELS.index(q)] == pytest.approx(percentile(arrays, q).value)


def test_a_level_is_stated_only_where_every_process_has_samples_for_it():
    found = distribution(drawn(700, 130))
    stated = {level: value is not None for level, value in zip(LEVELS, found.quantiles, strict=True)}
    assert stated == {level: samples_for_percentile(level) <= 130 for level in LEVELS}
    assert stated[0.95]
    assert not stated[0.99]
    assert found.n == 830


def test_a_curve_never_falls_and_covers_both_tails():
    found = distribution(drawn(7000, 7000, 7000))
    assert list(found.quantiles) == sorted(found.quantiles)
    assert LEVELS[0] == 0.01
    assert LEVELS[-1] == 0.999


def test_too_few_samples_have_no_distribution():
    assert distribution(drawn(5, 700)) is None
    assert distribution([]) is None


def test_each_row_has_the_samples_of_its_own_operating_point(tmp_path):
    points = tuple(examples.point({"ef": ef}, 0.9, seconds) for ef, seconds in ((256, 0.02), (16, 0.01)))
    record = examples.search("minilm", "docstrings", "hnsw", points, "a01")
    embed = examples.embed("minilm", "docstrings", 8, 100.0, "e02")
    for one in (record, embed):
        write(one, tmp_path)
    rows = plain(to_frame([record, embed]))
    found = distributions(rows, [record, embed], tmp_path)
    assert set(found) == {anchor(row) for row in rows}
    for row in rows:
        kinds = found[anchor(row)]
        if row["kind"] == "embed":
            assert set(kinds) == {"query", "batch"}
            continue
        number = [dict(point.search_params) for point in points].index({"ef": 256} if "256" in row["search_params"] else {"ef": 16})
        pooled = np.concatenate([record.samples[f"latency_s_{number}_{i}"] for i in range(3)])
        np.testing.assert_allclose(np.sort(kinds["search"].pooled), np.sort(pooled))


def test_a_record_without_samples_has_no_distribution_and_damaged_ones_do_not_stop_a_report(tmp_path):
    bare = replace(examples.embed("minilm", "docstrings", 8, 100.0, "e01"), samples={})
    damaged = examples.embed("minilm", "docstrings", 16, 100.0, "e02")
    for one in (bare, damaged):
        write(one, tmp_path)
    [file] = (tmp_path / "records").glob("e02*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert distributions(plain(to_frame([bare, damaged])), [bare, damaged], tmp_path) == {}
