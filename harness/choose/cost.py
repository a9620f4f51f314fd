"""What a configuration costs, by the user's own prices: nothing here knows a price.

Three figures: a million documents embedded, a million queries answered, and a month at a stated corpus and request rate. All rest on
rates that were measured on one machine, and on assumptions that `assumptions` prints: how well the machine is used, how many of them
there are, what grows with the corpus. An interval is that of the rate behind it; prices are taken as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.choose.candidates import Candidate
from harness.choose.require import MOST
from harness.errors import SettingsError
from harness.records import Measured

HOURS_A_MONTH = 730.0
"""365 days of 24 hours by 12."""
MILLION = 1_000_000
FIGURES = ("cost_per_million_items", "cost_per_million_queries", "cost_per_month")
LEAST_USED = 0.001
"""A machine that is used to less is none that anybody pays for."""
VECTOR_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "binary": 1 / 8}
"""A dimension, as a store keeps it."""


@dataclass(frozen=True)
class Prices:
    """A price file: each key a number of one currency."""

    currency: str
    machine_per_hour: float
    """A machine like the one measured, without accelerator."""
    accelerator_per_hour: float
    """On top, for configurations that embed on one."""
    memory_gb_month: float
    """A gigabyte (10⁹ bytes) held in memory for a month, where it is paid for beside the machine; 0 where it is not."""
    storage_gb_month: float
    """A gigabyte of vectors and index on disk for a month."""
    utilisation: float
    """The share of the measured query rate that machines are planned to bear on average: requests come in bursts."""


def example() -> Path:
    """Return where the example of a price file lies."""
    from harness.settings import CONF

    return CONF / "prices.example.yaml"


def read(file: Path) -> Prices:
    """Return the prices in a YAML file.

    Raises
    ------
    harness.errors.SettingsError
        When it cannot be read, with everything that is missing or wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    how = f"{example()} shows what is in one"
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OSError, UnicodeDecodeError, OmegaConfBaseException, YAMLError) as error:
        raise SettingsError(f"--prices {file} cannot be read ({' '.join(str(error).split())}); {how}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"--prices {file} must hold key: value lines; {how}")
    names = [one.name for one in fields(Prices)]
    wrong = [f"--prices {file}: {name} must be given; {how}" for name in names if name not in found]
    wrong += [f"--prices {file}: {name} is not a price; it has {', '.join(names)}" for name in found if name not in names]
    for name, value in found.items():
        if name == "currency":
            if not isinstance(value, str) or not value.strip():
                wrong.append(f"--prices {file}: currency must be a name such as EUR, got {value!r}")
        elif name in names:
            least, most = (LEAST_USED, 1) if name == "utilisation" else (0, MOST)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                wrong.append(f"--prices {file}: {name} must be a number in [{least:g}, {most:g}], got {value!r}")
    if wrong:
        raise SettingsError(wrong)
    numbers: dict[str, Any] = {name: value if name == "currency" else float(value) for name, value in found.items()}
    return Prices(**numbers)


def priced(candidate: Candidate, prices: Prices, *, corpus: int | None, rate_per_s: float | None) -> Candidate:
    """Return the candidate with its costs among its figures."""
    hour = hourly(candidate, prices)
    queries = candidate.figures["throughput_per_s"]
    items = candidate.figures.get("pipeline_per_s") or Measured(None, "1/s", "higher", reason="the vectors were given, nothing is embedded")
    found = {
        "cost_per_million_items": _inverse(items, hour / 3600 * MILLION, prices.currency),
        "cost_per_million_queries": _inverse(queries, hour / 3600 * MILLION / prices.utilisation, prices.currency),
        "cost_per_month": _month(candidate, prices, corpus, rate_per_s),
    }
    rates = candidate.pairs.get("throughput_per_s", ())
    each = hour / 3600 * MILLION / prices.utilisation
    pairs = {"cost_per_million_queries": tuple(each / rate for rate in rates) if each else ()}  # what costs nothing has no ratios
    return replace(candidate, figures={**candidate.figures, **found}, pairs={**candidate.pairs, **pairs})


def hourly(candidate: Candidate, prices: Prices) -> float:
    """Return what a machine that serves this candidate costs an hour."""
    device = str(candidate.embed.labels.get("device")) if candidate.embed else "cpu"
    return prices.machine_per_hour + (0.0 if device == "cpu" else prices.accelerator_per_hour)


def machines(rate_per_s: float, throughput_per_s: float, utilisation: float) -> int:
    """Return how many machines bear a rate of queries when each is used to a share of what it can do; one at least."""
    return max(1, math.ceil(rate_per_s / (throughput_per_s * utilisation) * (1 - 1e-12)))


def index_bytes_a_row(candidate: Candidate) -> float:
    """Return the bytes that one more document adds to the index: measured, or else those of its vector."""
    search = candidate.search
    measured, rows = search.metrics.get("index_bytes"), search.data.get("corpus")
    if measured is not None and measured.value and rows:
        return float(measured.value) / int(rows)
    return _vector_bytes(candidate)


def _vector_bytes(candidate: Candidate) -> float:
    return float(candidate.search.data.get("dim") or 0) * VECTOR_BYTES.get(str(candidate.search.settings.get("vector_type", "fp32")), 4.0)


def _month(candidate: Candidate, prices: Prices, corpus: int | None, rate_per_s: float | None) -> Measured:
    if corpus is None or rate_per_s is None:
        return Measured(None, prices.currency, "lower", reason="needs --corpus and --rate")
    throughput, memory = candidate.figures["throughput_per_s"], candidate.figures["memory_bytes"]
    for what, figure in (("throughput", throughput), ("memory", memory)):
        if figure.value is None:
            return Measured(None, prices.currency, "lower", reason=f"its {what} is not known: {figure.reason}")
    assert memory.value is not None
    held = memory.value + index_bytes_a_row(candidate) * max(0, corpus - int(candidate.search.data.get("corpus") or 0))
    stored = corpus * (_vector_bytes(candidate) + index_bytes_a_row(candidate))
    running = hourly(candidate, prices) * HOURS_A_MONTH + held / 1e9 * prices.memory_gb_month
    kept = stored / 1e9 * prices.storage_gb_month

    def at(rate: float | None) -> float | None:
        return None if rate is None else machines(rate_per_s, rate, prices.utilisation) * running + kept

    return Measured(
        at(throughput.value), prices.currency, "lower", at(throughput.hi), at(throughput.lo), throughput.n, reason=throughput.reason
    )


def _inverse(rate: Measured, factor: float, currency: str) -> Measured:
    """Return what a rate costs: a factor by it; the ends of the interval change places."""
    if rate.value is None:
        return Measured(None, currency, "lower", reason=f"the rate is not known: {rate.reason}")
    lo, hi = (None if end is None else factor / end for end in (rate.hi, rate.lo))
    return Measured(factor / rate.value, currency, "lower", lo, hi, rate.n, reason=rate.reason)


def assumptions(prices: Prices, winner: Candidate | None, *, measured: int, corpus: int | None, rate_per_s: float | None) -> list[str]:
    """Return everything that the costs suppose, a sentence each; `measured` is the corpus of the results."""
    c = prices.currency
    found = [
        f"Prices are those of the price file: {prices.machine_per_hour:g} {c} a machine and hour, {prices.accelerator_per_hour:g} {c} "
        f"on top for an accelerator, {prices.memory_gb_month:g} {c} a GB of memory and month, {prices.storage_gb_month:g} {c} "
        "a GB of storage and month.",
        "Machines are like the one measured. A million documents: one machine embeds at its measured pipeline rate without pause.",
        f"A million queries: machines are used to {prices.utilisation:.0%} of the rate at which one embeds queries and searches in turns.",
    ]
    if corpus is None or rate_per_s is None:
        return found
    found += [
        f"A month has {HOURS_A_MONTH:g} hours. {rate_per_s:g} queries/s come on average; each machine holds all {corpus:,} documents.",
        "Memory is what was measured and, for each further document, the index's bytes a document. Storage holds vectors and index once.",
        f"The rate was measured over the {measured:,} documents of the results; "
        + (
            "a larger corpus is searched more slowly, which is not in the cost."
            if corpus >= measured
            else "a smaller corpus is searched more quickly and needs less memory, which is not in the cost."
        ),
    ]
    if winner is not None and winner.figures["throughput_per_s"].value:
        number = machines(rate_per_s, winner.figures["throughput_per_s"].value, prices.utilisation)
        found.append(f"{winner.name} takes {number} machine{'s' if number != 1 else ''} at {hourly(winner, prices):g} {c} an hour.")
    return found
