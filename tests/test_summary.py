"""From what replicates left behind to a cell's figures, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.frame import bottleneck
from harness.summary import Outcome, of_embed

STAGES = {"decode": 0.001, "preprocess": 0.004, "transfer": 1e-7, "forward": 0.02, "finish": 0.002}
MEMORY = {"peak_rss_bytes": 5e8, "device_peak_bytes": None}


def embedded(factor=1.0, *, samples=20, **more):
    """One replicate of an embed cell, `factor` times as slow as usual."""
    result = {
        "info": {"dim": 3},
        "caveats": [["truncated", "a third of the texts were cut"]],
        "load_s": 2.0 * factor,
        "first_batch_s": 0.5 * factor,
        "first_query_s": 0.1 * factor,
        "throughput_per_s": 100 / factor,
        "units_per_s": 1000 / factor,
        "pipeline_per_s": 80 / factor,
        "truncated_share": 0.25,
        "items": 16,
        "stages": {name: seconds * factor for name, seconds in STAGES.items()},
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


def test_truncation_is_told_for_text_only():
    text = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics["truncated_share"]
    assert (text.value, text.n) == (0.25, 16)
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
    assert set(found) == {f"{name}_{i}" for name in ("forward_s", "batch_s", "query_s") for i in range(2)}
    assert found["query_s_1"].max() == pytest.approx(0.06)


def test_the_bottleneck_is_the_longest_stage_that_was_measured():
    found = of_embed([embedded()], MEMORY, device="cpu", unit="tokens").metrics
    assert bottleneck(found) == "forward"
    slow = embedded(stages={**STAGES, "transfer": 1.0})
    assert bottleneck(of_embed([slow], MEMORY, device="cuda:0", unit="tokens").metrics) == "transfer"
    assert bottleneck(of_embed([slow], MEMORY, device="cpu", unit="tokens").metrics) == "forward"
    assert bottleneck({}) is None
