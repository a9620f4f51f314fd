"""Projections against SciPy's regression, exact power laws, and FAISS's own sizes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.build import build
from harness.cli import main
from harness.errors import DataError
from harness.project import fit, index_arithmetic, project, required_knob
from harness.records import Measured, Point
from harness.search_summary import _load_caveats
from tests.choose import cells


@given(
    st.floats(0.1, 100),
    st.floats(-0.5, 1.5),
    st.lists(st.integers(10, 10**6), min_size=3, max_size=6, unique=True).filter(lambda sizes: max(sizes) > 4 * min(sizes)),
)
@settings(max_examples=60, deadline=None)
def test_an_exact_power_law_is_found_and_projected(factor, exponent, sizes):
    values = [factor * n**exponent for n in sizes]
    _, b, (guess,) = fit(sizes, values, [10**8])
    assert b == pytest.approx(exponent, abs=1e-4)
    assert guess.value == pytest.approx(factor * (10.0**8) ** exponent, rel=1e-2)
    assert (guess.lo, guess.hi) == (None, None), "without scatter nothing is known of it"
    assert guess.beyond == 10**8 / max(sizes)


def test_the_line_is_scipy_s_and_the_interval_the_textbook_s():
    sizes, values = [1000, 3000, 10_000, 30_000], [1.1, 3.0, 11.5, 29.0]
    factor, exponent, (guess,) = fit(sizes, values, [10**6])
    x, y = np.log(sizes), np.log(values)
    line = stats.linregress(x, y)
    assert (exponent, np.log(factor)) == pytest.approx((line.slope, line.intercept))
    design = np.column_stack([np.ones(4), x])
    residuals = y - design @ [line.intercept, line.slope]
    at = np.array([1.0, np.log(10**6)])
    error = np.sqrt(residuals @ residuals / 2 * (1 + at @ np.linalg.inv(design.T @ design) @ at))
    half = stats.t.ppf(0.975, 2) * error
    assert (np.log(guess.lo), np.log(guess.hi)) == pytest.approx((np.log(guess.value) - half, np.log(guess.value) + half))


def test_a_prediction_interval_covers_a_new_measurement_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    sizes, hits = [1000, 3000, 10_000, 30_000, 100_000], 0
    for _ in range(400):
        made = 2 * np.asarray([*sizes, 10**6], dtype=float) ** 0.9 * np.exp(0.1 * rng.standard_normal(6))
        guess = fit(sizes, made[:5], [10**6])[2][0]
        hits += guess.lo <= made[5] <= guess.hi
    assert 0.92 <= hits / 400 <= 0.98


def test_memory_has_a_part_of_its_own_beside_its_rows():
    """50 MB and 400 bytes a document: as a power of the size, ten million documents would seem to fit into 60 MB."""
    sizes = [500, 1500, 4500, 13_500]
    start, growth, (guess,) = fit(sizes, [50e6 + 400 * n for n in sizes], [10**7], straight=True)
    assert (start, growth, guess.value) == pytest.approx((50e6, 400.0, 4.05e9))
    noisy = [50e6 + 400 * n + e for n, e in zip(sizes, (1e5, -2e5, 1e5, 5e4), strict=True)]
    line, found = stats.linregress(sizes, noisy), fit(sizes, noisy, [10**7], straight=True)
    assert found[:2] == pytest.approx((line.intercept, line.slope))
    assert found[2][0].lo < found[2][0].value < found[2][0].hi


@pytest.mark.parametrize("straight", [False, True])
def test_identical_times_are_no_proof_that_another_would_be_the_same(straight):
    _, growth, (guess,) = fit([1000, 3000, 9000], [2.5, 2.5, 2.5], [10**6], straight=straight)
    assert (growth, guess.value) == pytest.approx((0.0, 2.5))
    assert (guess.lo, guess.hi) == (None, None)


def test_two_sizes_are_refused():
    with pytest.raises(DataError, match="at least 3 corpus sizes, got 2"):
        fit([1000, 1000, 2000], [1, 1, 2], [10**6])


INDEXES = [
    ("FLAT", {}), ("HNSW", {"M": 16}), ("HNSW", {"M": 4}), ("HNSW_SQ", {"M": 16}), ("HNSW_SQ", {"M": 16, "refine": True}),
    ("HNSW_PQ", {"M": 8, "m": 16, "nbits": 4}), ("IVF_FLAT", {"nlist": 16, "nprobe": [1]}), ("IVF_SQ8", {"nlist": 16, "nprobe": [1]}),
    ("IVF_PQ", {"nlist": 16, "nprobe": [1], "m": 16, "nbits": 4}), ("SCANN", {"nlist": 16, "nprobe": [1]}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "params"), INDEXES, ids=lambda value: str(value))
def test_the_arithmetic_is_what_faiss_would_write_to_a_file(family, params, tmp_path):
    index = build(
        {"_target_": f"stores.index.{family}", **({"ef_construction": 40} if family.startswith("HNSW") else {}), **params}, key="index"
    )
    store = build({"_target_": "stores.faiss.Faiss"}, key="store")
    store.open(tmp_path)
    store.create("x", dim=64, metric="l2", index=index)
    store.insert(np.random.default_rng(0).standard_normal((6_000, 64), dtype=np.float32), 0)
    store.build()
    each, fixed = index_arithmetic(index, dim=64)
    assert store.index_bytes() == pytest.approx(each * 6_000 + fixed, rel=0.02)
    store.close()


def test_a_family_without_a_formula_has_none():
    assert index_arithmetic(build({"_target_": "stores.index.DISKANN"}, key="index"), dim=64) is None


def curve(*pairs, target=None):
    points = [Point(10, 1, {"ef": ef}, {"recall": cells.score(recall, recall, recall)}, target_recall=target) for ef, recall in pairs]
    return cells.search(points=points)


def test_the_knob_is_read_off_between_what_was_measured():
    assert required_knob(curve((16, 0.90), (64, 0.98)), 10, 0.94) == pytest.approx(32.0)  # half way on a logarithmic axis
    assert required_knob(curve((16, 0.96), (64, 0.98)), 10, 0.95) is None, "a lower value may do as well"
    assert required_knob(curve((16, 0.5), (64, 0.6)), 10, 0.95) is None
    assert required_knob(curve((23, 0.951), target=0.95), 10, 0.95) == 23


def measured(size, factor=1.0):
    """A cell of some corpus: loading grows as n, searching as n^0.25, the knob as n^0.5."""
    scale = size / 1000
    points = [
        Point(10, 1, {"ef": ef}, {"recall": cells.score(recall, recall, recall), "search_latency_p50_s": cells.timing(0.002 * scale**0.25)})
        for ef, recall in ((round(16 * scale**0.5), 0.90), (round(64 * scale**0.5), 0.98))
    ]
    points = [Point(100, 1, {"ef": 64}, points[1].metrics), *points]
    record = cells.search(f"s{size}", points=points, made_from={"data": f"d{size}"})
    each, fixed = index_arithmetic(build(record.settings["index"], key="index"), dim=8)
    metrics = {
        **{name: cells.timing(scale) for name in ("insert_s", "build_s", "ready_s")},
        "index_bytes": Measured(factor * (each * size + fixed), "bytes", "lower", n=3, replication="build"),
    }
    return type(record)(**{**record.__dict__, "metrics": metrics, "data": {**record.data, "corpus": size}})


def test_each_figure_is_projected_with_how_far_that_is(tmp_path):
    (found,) = project(cells.folder(tmp_path, *(measured(n) for n in (1000, 4000, 16_000))), [10**6], min_recall=0.94)
    lines = {line.title: line for line in found.lines}
    assert lines["insert and build"].guesses[0].value == pytest.approx(2000.0, rel=1e-6)
    assert lines["search p50, ef=64 k=100, 1 client"].growth == pytest.approx(0.25, abs=1e-6)
    assert lines["ef for recall@10 ≥ 0.94"].growth == pytest.approx(0.5, abs=0.05)
    assert lines["insert and build"].guesses[0].beyond == 62.5
    assert "it took 1.00 times that, which agrees" in found.arithmetic
    assert found.index_bytes[0][0] == 10**6


def test_arithmetic_that_the_measurement_contradicts_is_told(tmp_path):
    (found,) = project(cells.folder(tmp_path, *(measured(n, factor=1.5) for n in (1000, 4000, 16_000))), [10**6])
    assert "1.50 times that, which does not agree: rely on the fit" in found.arithmetic


def test_fewer_than_three_sizes_are_refused_with_those_there_are(tmp_path):
    with pytest.raises(DataError, match=r"measured at 3 corpus sizes or more \(small · texts · milvus_lite · hnsw .*: 1,000, 4,000\)"):
        project(cells.folder(tmp_path, measured(1000), measured(4000)), [10**6])


def test_of_many_configurations_of_too_few_sizes_those_of_most_are_named(tmp_path):
    others = [replace(measured(1000), key=f"o{n}", labels={**measured(1000).labels, "index": f"other{n}"}) for n in range(5)]
    with pytest.raises(DataError, match=r"\(small · texts · milvus_lite · hnsw .*?: 1,000, 4,000; .*; and 3 more configurations\)"):
        project(cells.folder(tmp_path, measured(1000), measured(4000), *others), [10**6])


def test_cells_of_one_name_that_differ_in_more_than_size_say_in_what(tmp_path):
    records = [
        replace(one, environment={**one.environment, "fingerprint": f"f{n}"}, settings={**one.settings, "seed": n})
        for n, one in enumerate(map(measured, (1000, 4000, 16_000)))
    ]
    with pytest.raises(
        DataError, match=r"those of small · texts · .* differ in more than size \(machine, seed\) and so make no line; measure"
    ):
        project(cells.folder(tmp_path, *records), [10**6])


def test_corpora_of_other_contents_make_no_line(tmp_path):
    records = [replace(one, data={**one.data, "name": f"set{n}"}) for n, one in enumerate(map(measured, (1000, 4000, 16_000)))]
    with pytest.raises(DataError, match=r"differ in more than size \(data\) and so make no line"):
        project(cells.folder(tmp_path, *records), [10**6])


def test_random_weights_are_not_projected(tmp_path):
    odd = [type(one)(**{**one.__dict__, "model": {"weights": "random"}}) for one in map(measured, (1000, 4000, 16_000))]
    with pytest.raises(DataError, match="no search cell"):
        project(cells.folder(tmp_path, *odd), [10**6])


def test_the_command_prints_and_writes_and_warns_of_far_extrapolation(tmp_path, capsys):
    folder = cells.folder(tmp_path, *(measured(n) for n in (1000, 4000, 16_000)))
    assert main(["project", str(folder), "--corpus", "100k,10M"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "625× measured" in said
    assert "Measure a larger corpus before you rely on it" in said
    assert json.loads((folder / "projection.json").read_text())["corpora"] == [100_000, 10_000_000]
    assert main(["project", str(folder), "--corpus", "many"]) == 2


def test_identical_times_say_that_there_is_no_interval(tmp_path, capsys):
    same = [type(one)(**{**one.__dict__, "metrics": measured(1000).metrics}) for one in map(measured, (1000, 4000, 16_000))]
    assert main(["project", str(cells.folder(tmp_path, *same)), "--corpus", "100k"]) == 0
    assert "no scatter, no interval" in " ".join(capsys.readouterr().out.split())
    lines = {line["figure"]: line for line in json.loads((tmp_path / "projection.json").read_text())["growths"][0]["lines"]}
    assert lines["load_s"]["guesses"][0]["lo"] is None


@pytest.mark.parametrize("corpus", ["", "0", "0.4", "10M,", "1e6", "-5", "10M;100M"])
def test_sizes_that_are_none_are_refused(tmp_path, capsys, corpus):
    assert main(["project", str(tmp_path), f"--corpus={corpus}"]) == 2
    assert "--corpus must be a whole number in [1, 1e+15] such as 250000, 10M or 1B, got " in capsys.readouterr().err


def test_a_number_with_commas_is_told_from_a_list(tmp_path, capsys):
    assert main(["project", str(tmp_path), "--corpus=1,000,000"]) == 2
    assert "got '000' in '1,000,000', where commas separate sizes" in capsys.readouterr().err


def test_memory_whose_interval_ends_at_nothing_is_a_number_all_the_same(tmp_path, capsys):
    sizes = {1000: 60e6, 4000: 40e6, 16_000: 60e6}
    found = [replace(one, metrics={**one.metrics, "peak_rss_bytes": cells.once(sizes[one.data["corpus"]])}) for one in map(measured, sizes)]
    assert main(["project", str(cells.folder(tmp_path, *found)), "--corpus", "32k"]) == 0
    line, below = (part for part in capsys.readouterr().out.splitlines() if "60.0 MB …" in part or "[0 MB" in part)
    wanted = fit(list(sizes), list(sizes.values()), [32_000], straight=True)[2][0]
    assert f"{wanted.value / 1e6:.1f} MB" in line
    assert "[0 MB," in below


def test_a_prediction_that_may_be_anything_shows_no_number_and_a_small_one_is_not_zero(tmp_path, capsys):
    found = []
    for n, scatter in ((1000, 1.0), (1100, 3.0), (1200, 0.5)):
        one = measured(n)
        seconds = {name: cells.timing(0.002 * scatter) for name in ("insert_s", "build_s", "ready_s")}
        found.append(replace(one, metrics={**one.metrics, **seconds}))
    folder = cells.folder(tmp_path, *found)
    assert main(["project", str(folder), "--corpus", "1M"]) == 0
    said = capsys.readouterr().out
    loading = next(line for line in said.splitlines() if "insert and build" in line)
    assert "4.00 ms … 2.00 ms" in loading
    assert "–" in loading
    assert "within more than a factor of 100" in " ".join(said.split())
    assert "0.0 s" not in said


def test_a_size_within_the_data_and_one_asked_for_twice_are_answered_once(tmp_path, capsys):
    folder = cells.folder(tmp_path, *(measured(n) for n in (1000, 4000, 16_000)))
    assert main(["project", str(folder), "--corpus", "2k,2000"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0.125× measured" in said
    assert "Measure a larger corpus" not in said
    assert json.loads((folder / "projection.json").read_text())["corpora"] == [2000]


def test_latencies_of_an_overload_grow_with_the_run_and_are_not_projected(tmp_path):
    """A rate that was kept up with is; one that was not, at any size, has a point less."""
    records = []
    for n in (1000, 4000, 16_000):
        one = measured(n)
        latency = {"search_latency_p50_s": cells.timing(0.002), "recall": cells.score(0.9, 0.9, 0.9)}
        points = tuple(Point(10, None, {"ef": 64}, latency, rate_per_s=rate) for rate in (10.0, 500.0))
        load = {"concurrency": None, "rate_per_s": 500.0, "churn_per_s": None, "selectivity": None, "target_recall": None}
        load |= {"k": 10, "search_params": {"ef": 64}}
        caveats = tuple(_load_caveats(load, [{"client_cpu": 0.1, "errors": {}, "slip": 0.5}]))
        records.append(replace(one, points=points, caveats=caveats))
    (found,) = project(cells.folder(tmp_path, *records), [10**6])
    titles = {line.title for line in found.lines}
    assert "search p50, ef=64 k=10, 10 requests/s" in titles
    assert not any("500 requests/s" in title for title in titles)
