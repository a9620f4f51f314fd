"""From what replicates left behind to a cell's figures, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.frame import bottleneck
from harness.summary import Outcome, of_embed

STAGES = {"decode": 0.001, "preprocess": 0.004, "transfer": 1e-7, "forward": 0.02, "finish": 0.002}
MEMORY = {"peak_rss_bytes": 5e8, "device_peak_bytes": None, "device_reserved_bytes": None}


def embedded(factor=1.0, *, samples=20, **more):
    """One replicate of an embed cell, `factor` times as slow as usual."""
    result = {
        "info": {"dim": 3},
        "caveats": [["truncated", "a third of the texts were cut"]],
        "load_s": 2.0 * factor,
        "first_batch_s": 0.5 * factor,
        "first_query_s": 0.1 * factor,
        "compile_s": None,
        "throughput_per_s": 100 / factor,
        "units_per_s": 1000 / factor,
        "pipeline_per_s": 80 / factor,
        "truncated_share": 0.25,
        "items": 16,
        "batch_items": 4,
        "stages": {name: seconds * factor for name, seconds in STAGES.items()},
        "crew": {"workers": 2, "in_turns": True},
        "arithmetic": {"flop_per_item": 3e9, "peak_s_per_item": None},
        "energy_j_per_item": None,
        "energy_reason": "no counter",
        "requests": None,
    }
    arrays = {name: factor * np.linspace(0.01, 0.03, samples) for name in ("forward_s", "batch_s", "query_s")}
    return Outcome(result | more, arrays)


def test_timings_are_geometric_means_over_processes_with_students_t():
    found = of_embed([embedded(1.0), embedded(1.1), embedded(1.21)], MEMORY, device="cpu", unit="tokens").metrics
    throughput = found["throughput_per_s"]
    assert throughput.value == pytest.approx(100 / 1.1)
    half = stats.t.ppf(0.975, 2) * math.log(1.1) / math.sqrt(3)  # logarithms 0, ln 1.1, 2 ln 1.1: their standard deviation is ln 1.1
    assert throughput.lo == pytest.approx(100 / 1.1 * math.exp(-half))
    assert throughput.hi == pytest.approx(100 / 1.1 * math.exp(half))
    assert (throughput.n, throughput.unit, throughput.better) == (3, "items/s", "higher")
    assert found["load_s"].value == pytest.approx(2.2)
    assert found["preprocess_s"].value == pytest.approx(0.0044)


def test_a_percentile_is_each_processs_own_combined():
    found = of_embed([embedded(1.0), embedded(1.21)], MEMORY, device="cpu", unit="tokens").metrics
    assert found["batch_latency_p50_s"].value == pytest.approx(0.02 * 1.1)
    assert found["batch_latency_p95_s"].value is None
    assert "130" in found["batch_latency_p95_s"].reason
    many = of_embed([embedded(1.0, samples=700), embedded(1.21, samples=700)], MEMORY, device="cpu", unit="tokens").metrics
    assert many["query_embed_p99_s"].value == pytest.approx((0.01 + 0.99 * 0.02) * 1.1)


def test_a_units_rate_carries_the_modalitys_own_unit():
    assert of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["units_per_s"].unit == "tokens/s"
    assert of_embed([embedded()], MEMORY, device="cpu", unit="images").metrics["units_per_s"].unit == "images/s"


def test_truncation_is_told_of_all_that_has_a_length():
    for unit in ("tokens", "audio seconds", "frames"):
        found = of_embed([embedded()], MEMORY, device="cpu", unit=unit).metrics["truncated_share"]
        assert (found.value, found.n) == (0.25, 16)
    image = of_embed([embedded()], MEMORY, device="cpu", unit="images").metrics["truncated_share"]
    assert image.value is None
    assert image.reason


def test_moving_to_the_device_is_null_on_a_cpu_and_a_figure_elsewhere():
    assert of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["transfer_s"].value is None
    on_a_gpu = of_embed([embedded()], {**MEMORY, "device_peak_bytes": 7e8}, device="cuda:0", unit="tokens").metrics
    assert on_a_gpu["transfer_s"].value == pytest.approx(1e-7)
    assert on_a_gpu["device_peak_bytes"].value == 7e8


def test_caveats_of_all_processes_are_told_once():
    assert of_embed([embedded(), embedded(1.1)], MEMORY, device="cpu", unit="tokens").caveats == (
        ("truncated", "a third of the texts were cut"),
    )


def test_raw_samples_of_every_process_are_handed_on():
    found = of_embed([embedded(), embedded(2.0)], MEMORY, device="cpu", unit="tokens").samples
    assert {name for name in found if not name.startswith("each_")} == {
        f"{name}_{i}" for name in ("forward_s", "batch_s", "query_s") for i in range(2)
    }
    assert found["query_s_1"].max() == pytest.approx(0.06)


def test_each_processs_own_value_is_kept_beside_the_figure_made_of_them():
    found = of_embed([embedded(), embedded(2.0)], MEMORY, device="cpu", unit="tokens")
    for name in ("throughput_per_s", "pipeline_per_s", "load_s"):
        values = found.samples[f"each_{name}"]
        assert len(values) == 2
        assert math.sqrt(values[0] * values[1]) == pytest.approx(found.metrics[name].value)


def test_bounds_are_what_the_stage_times_allow_combined_over_processes():
    """d = 5 ms, f = 22 ms and 0.1 µs a batch of four."""
    in_turns = of_embed([embedded(), embedded(1.21)], MEMORY, device="cpu", unit="tokens").metrics
    assert in_turns["overlap_bound_per_s"].value == pytest.approx(4 / 0.0245001 / 1.1)
    assert in_turns["device_bound_per_s"].value == pytest.approx(4 / 0.0220001 / 1.1)
    assert in_turns["overlap_bound_per_s"].replication == "process"
    assert in_turns["pipeline_workers"].value == 2
    beside = embedded(crew={"workers": 3, "in_turns": False})
    assert of_embed([beside], MEMORY, device="cuda:0", unit="tokens").metrics["overlap_bound_per_s"].value == pytest.approx(4 / 0.0220001)
    slow = embedded(crew={"workers": 3, "in_turns": False}, stages={**STAGES, "decode": 0.3})
    assert of_embed([slow], MEMORY, device="cuda:0", unit="tokens").metrics["overlap_bound_per_s"].value == pytest.approx(4 * 3 / 0.304)


def test_utilisation_is_the_time_at_the_peak_by_the_time_taken():
    """At its peak the device needs 4 ms for an item; 100 and 82.6 items/s take 10 and 12.1 ms each."""
    counted = {"flop_per_item": 3e9, "peak_s_per_item": 0.004}
    first, second = embedded(arithmetic=counted), embedded(1.21, arithmetic=None)  # counted in one process, true of all
    found = of_embed([first, second], MEMORY, device="cuda:0", unit="tokens").metrics
    assert found["mfu"].value == pytest.approx(0.4 / 1.1)
    assert found["flop_per_s"].value == pytest.approx(3e11 / 1.1)
    assert found["counted_gflop_per_item"].value == 3
    no_peak = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics
    assert no_peak["mfu"].value is None
    assert "CPU" in no_peak["mfu"].reason
    assert no_peak["flop_per_s"].value == pytest.approx(3e11)
    nothing = of_embed([embedded(arithmetic=None)], MEMORY, device="cpu", unit="tokens").metrics
    assert {nothing[name].value for name in ("mfu", "flop_per_s", "counted_gflop_per_item")} == {None}


def test_compiling_is_a_figure_of_its_own_and_cold_figures_are_null_then():
    compiled = [embedded(compile_s=s, first_batch_s=None, first_query_s=None) for s in (8.0, 9.68)]
    found = of_embed(compiled, MEMORY, device="cpu", unit="tokens").metrics
    assert found["compile_s"].value == pytest.approx(8.8)
    for name in ("first_batch_s", "first_query_s"):
        assert found[name].value is None
        assert "compile_s" in found[name].reason
    assert "compile_s" not in of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics
    nothing = of_embed([embedded(compile_s=-0.001)], MEMORY, device="cpu", unit="tokens").metrics["compile_s"]
    assert nothing.value is None
    assert "nothing was compiled" in nothing.reason


def test_energy_is_told_a_thousand_items_or_why_not():
    assert of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["energy_j_per_1000_items"].reason == "no counter"
    drawn = [embedded(energy_j_per_item=joules) for joules in (0.5, 0.605)]
    assert of_embed(drawn, MEMORY, device="cuda:0", unit="tokens").metrics["energy_j_per_1000_items"].value == pytest.approx(550)


def test_what_an_endpoint_counted_is_told_with_a_caveat_where_requests_were_repeated():
    quiet = {"requests": 100.0, "retries": 0.0, "rate_limited": 0.0, "waited_s": 0.0, "billed_tokens": 0.0, "per_s": 10.0}
    found = of_embed([embedded(requests=quiet), embedded(requests={**quiet, "per_s": 12.1})], MEMORY, device="cpu", unit="tokens")
    assert found.metrics["requests"].value == 200
    assert found.metrics["requests_per_s"].value == pytest.approx(11)
    assert found.metrics["retries"].value == 0
    assert "requests_repeated" not in dict(found.caveats)
    limited = {**quiet, "retries": 3.0, "rate_limited": 2.0, "waited_s": 4.25}
    caveat = dict(of_embed([embedded(requests=limited), embedded(requests=quiet)], MEMORY, device="cpu", unit="tokens").caveats)
    assert "3 attempts beside 200 answered" in caveat["requests_repeated"]
    assert "2 of them" in caveat["requests_repeated"]
    assert "4.2 s" in caveat["requests_repeated"]
    assert "requests" not in of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics


def test_the_bottleneck_is_the_longest_stage_that_was_measured():
    found = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics
    assert bottleneck(found) == "forward"
    slow = embedded(stages={**STAGES, "transfer": 1.0})
    assert bottleneck(of_embed([slow], MEMORY, device="cuda:0", unit="tokens").metrics) == "transfer"
    assert bottleneck(of_embed([slow], MEMORY, device="cpu", unit="tokens").metrics) == "forward"
    assert bottleneck({}) is None
