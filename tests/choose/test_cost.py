"""Costs, against calculations by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.choose import cost
from harness.choose.candidates import answering, candidate
from harness.errors import SettingsError
from tests.choose import cells
from tests.conftest import ROOT

EXAMPLE = ROOT / "conf" / "prices.example.yaml"
PRICES = cost.Prices("EUR", machine_per_hour=0.36, accelerator_per_hour=3.6, memory_gb_month=2.0, storage_gb_month=0.5, utilisation=0.5)


def one(**changes):
    """100 documents/s, 100 queries/s, 0.8 GB, 1,000 documents of 8 dimensions, 40 bytes of index a document."""
    embed, search = (
        cells.embed(samples=[[0.008] * 20] * 3, **changes),
        cells.search(samples={"each_qps_0": [500.0] * 3}),
    )

    def arrays(record):
        return {name: np.asarray(values) for name, values in record.samples.items()}

    return candidate(embed, search, 0, answering(arrays(embed), search, 0, arrays(search)))


def test_a_million_documents_and_queries_by_hand():
    """10⁶ / 100 a second are 10⁴ s, 2.78 h, at 0.36 an hour: 1.00; queries at half the rate: 2.00."""
    figures = cost.priced(one(), PRICES, corpus=None, rate_per_s=None).figures
    assert figures["cost_per_million_items"].value == pytest.approx(1.00)
    assert figures["cost_per_million_queries"].value == pytest.approx(2.00)
    assert figures["cost_per_month"].value is None
    assert figures["cost_per_month"].reason == "needs --corpus and --rate"


def test_the_interval_of_a_cost_is_that_of_the_rate_turned_round():
    figures = cost.priced(one(), PRICES, corpus=None, rate_per_s=None).figures
    found = figures["cost_per_million_items"]
    assert (found.lo, found.hi) == pytest.approx((1 / 1.05, 1 / 0.95))


def test_an_accelerator_is_paid_for_where_it_embeds():
    on_gpu = one(labels={"model": "small", "dataset": "texts", "device": "cuda"})
    assert cost.priced(on_gpu, PRICES, corpus=None, rate_per_s=None).figures["cost_per_million_items"].value == pytest.approx(11.0)


def test_a_month_by_hand():
    """120 queries/s at 50 a machine are 3 machines.

    Each costs 0.36 × 730 = 262.80 and holds 0.8 GB + 40 B × (10⁶ - 10³) = 0.83996 GB at 2. Storage: 10⁶ × (8 × 4 + 40) B = 0.072 GB at 0.5.
    """
    found = cost.priced(one(), PRICES, corpus=1_000_000, rate_per_s=120.0).figures["cost_per_month"]
    assert found.value == pytest.approx(3 * (0.36 * 730 + 0.83996 * 2) + 0.072 * 0.5)


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e4), st.floats(0.01, 1))
def test_machines_bear_the_rate_and_one_fewer_would_not(rate, throughput, utilisation):
    number = cost.machines(rate, throughput, utilisation)
    assert number * throughput * utilisation >= rate * (1 - 1e-9)
    assert number == 1 or (number - 1) * throughput * utilisation < rate


def test_the_assumptions_name_prices_use_and_machines():
    words = " ".join(cost.assumptions(PRICES, one(), measured=1_000, corpus=1_000_000, rate_per_s=120.0))
    for said in (
        "0.36 EUR a machine",
        "3.6 EUR on top",
        "used to 50%",
        "730 hours",
        "120 queries/s",
        "all 1,000,000 documents",
        "takes 3 machines",
    ):
        assert said in words


def test_the_example_is_read_and_says_that_it_is_one():
    assert cost.read(EXAMPLE).currency == "EUR"
    assert "example" in EXAMPLE.read_text().splitlines()[0]
    assert "made up" in EXAMPLE.read_text().splitlines()[0]


def test_every_mistake_in_a_price_file_is_told(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text(
        "currency: 3\nmachine_per_hour: -1\naccelerator_per_hour: cheap\nmemory_gb_month: true\nutilisation: 1.5\nutilization: 1\n"
    )
    with pytest.raises(SettingsError) as error:
        cost.read(file)
    text = str(error.value)
    for said in (
        "storage_gb_month must be given",
        "utilization is not a price",
        "currency must be a name",
        "machine_per_hour must be a number in [0, 1e+15], got -1",
        "accelerator_per_hour must be a number in [0, 1e+15], got 'cheap'",
        "memory_gb_month must be a number in [0, 1e+15], got True",
        "utilisation must be a number in [0.001, 1], got 1.5",
    ):
        assert said in text


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "currency: !!python/object:os.system {}"])
def test_a_file_that_holds_no_prices_is_refused(tmp_path, text):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="--prices"):
        cost.read(file)


def test_a_price_file_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match="cannot be read"):
        cost.read(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    ("corpus", "said"), [(1_000_000, "a larger corpus is searched more slowly"), (10, "a smaller corpus is searched more")]
)
def test_what_another_corpus_than_the_measured_one_does_to_the_cost_is_said(corpus, said):
    words = " ".join(cost.assumptions(PRICES, one(), measured=1_000, corpus=corpus, rate_per_s=1.0))
    assert f"The rate was measured over the 1,000 documents of the results; {said}" in words
