"""``python -m harness project``: what build time, memory, latency and the knob come to at a larger corpus than was measured.

From search cells that differ in nothing but the size of the corpus, times and the knob are fitted as y = a·nᵇ, by least squares on
logarithms, because they grow close to a power of the size over a few decades; memory as y = a + b·n, because a process has a size of its
own beside that of its rows. Each comes with the prediction interval of a new observation (Student's t with sizes - 2 degrees of freedom).
It is an extrapolation and says so: how far beyond the largest measured corpus each answer lies stands beside it. Fewer than three sizes
leave nothing to judge the fit by and are refused. The bytes of an index are arithmetic; the formulas are here, and are set against what
was measured.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.build import build
from harness.choose.candidates import parameters
from harness.choose.cost import VECTOR_BYTES
from harness.choose.require import number_of, written
from harness.errors import DataError, HarnessError
from harness.fingerprint import digest
from harness.interfaces import Index
from harness.records import Point, Record, current, read_all, write_atomically
from harness.report.units import NULL
from harness.search_summary import overloaded
from harness.statistics import CONFIDENCE

FEWEST_SIZES = 3
"""Two points lie on every line."""
ENOUGH_SIZES = 5
"""With five sizes the factor on the standard error is 3.2, with three 12.7."""
FAR = 10.0
"""So many times the largest corpus that was measured is called far: another decade than the data's."""
VAGUE = 100.0
"""A prediction that may be off by more than this factor is not worth its digits."""
ON_THE_CURVE = 1e-9
"""Residuals of this share of the values are rounding."""
FITS = 0.1
"""Arithmetic that is off by more than this share of what was measured is told."""
LISTED = 3
"""Of the configurations of too few sizes, so many are named, those of most sizes first."""
BITS = {"SQ4U": 4, "SQ6": 6, "SQ8": 8, "BF16": 16, "FP16": 16, "FP32": 32}
"""A dimension of the scalar quantisers, as in `stores.index`."""


@dataclass(frozen=True)
class Guess:
    """A figure at a corpus that was not measured."""

    corpus: int
    value: float
    lo: float | None
    """Ends of the 95 % prediction interval: of one more measurement at this size, if the fit's form holds so far. None where the measured
    values lie on the curve itself: by how much another one would differ is then not known."""
    hi: float | None
    beyond: float
    """The corpus by the largest that was measured."""


@dataclass(frozen=True)
class Line:
    """One figure against the size of the corpus."""

    figure: str
    """The name in records, or ``knob``."""
    title: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    straight: bool
    """Whether it is start + growth · n, instead of start · n ** growth."""
    start: float
    growth: float
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Growth:
    """All that is projected of one configuration."""

    name: str
    sizes: tuple[int, ...]
    """Of the corpora that were measured."""
    lines: tuple[Line, ...]
    arithmetic: str
    """Bytes a document by arithmetic and as measured, in a sentence."""
    index_bytes: tuple[tuple[int, float], ...]
    """(corpus, bytes of the index by arithmetic); empty where there is no formula."""


def fit(
    sizes: Sequence[float], values: Sequence[float], at: Sequence[int], *, straight: bool = False
) -> tuple[float, float, tuple[Guess, ...]]:
    """Return what values = start · sizes ** growth, or start + growth · sizes, comes to, and the values expected elsewhere.

    Ordinary least squares of log(value) on log(size), or, where `straight`, of value on size. A new observation at x has the standard error
    s √(1 + 1/m + (x - x̄)² / Σ(xᵢ - x̄)²), s² being the residuals' sum of squares by m - 2 (any textbook on regression, such as
    N. Draper, H. Smith, "Applied Regression Analysis", 3rd edition, section 3.1).

    Parameters
    ----------
    straight : bool, optional
        For what has a part that is there at any size, as memory has; its interval ends at 0.

    Raises
    ------
    harness.errors.DataError
        For fewer than three different sizes.
    """
    from scipy import stats

    def seen(n: Any) -> Any:
        return np.asarray(n, dtype=np.float64) if straight else np.log(np.asarray(n, dtype=np.float64))

    def back(value: float) -> float:
        return max(value, 0.0) if straight else _exp(value)

    x, y = seen(sizes), seen(values)
    if len(np.unique(x)) < FEWEST_SIZES:
        raise DataError(f"a projection needs at least {FEWEST_SIZES} corpus sizes, got {len(np.unique(x))}")
    spread = float(((x - x.mean()) ** 2).sum())
    growth = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    start = float(y.mean() - growth * x.mean())
    freedom = len(x) - 2
    error = math.sqrt(float(((y - start - growth * x) ** 2).sum()) / freedom)
    scatters = error > ON_THE_CURVE * (float(np.abs(y).max()) if straight else 1.0)
    factor = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom))
    guesses = []
    for n in at:
        middle = start + growth * float(seen(n))
        half = factor * error * math.sqrt(1 + 1 / len(x) + (float(seen(n)) - float(x.mean())) ** 2 / spread)
        lo, hi = (back(middle - half), back(middle + half)) if scatters else (None, None)
        guesses.append(Guess(n, back(middle), lo, hi, n / max(sizes)))
    return start if straight else math.exp(start), growth, tuple(guesses)


def _exp(value: float) -> float:
    """Return e to a power, within what a float holds."""
    return math.exp(min(value, 700.0))


# -------------------------------------------------------------------------------------------- memory


def index_arithmetic(index: Index, *, dim: int, vector_type: str = "fp32") -> tuple[float, float] | None:
    """Return the bytes of an index a document, and those it has whatever the corpus; None for a family without a formula here.

    As FAISS lays them out, whose structures Milvus's engine took over: a graph has 2·M links in the lowest layer and M in each further
    one, of which a node is in 1 / (M - 1) on average (levels are drawn with 1 / ln M), 4 bytes a link, and 12 bytes a node for its level
    and place; cells have 8 bytes of id for each document and a centre of float32 for each cell.
    """
    params = index.build_params()
    row = dim * VECTOR_BYTES[vector_type]
    family = index.family
    if family == "FLAT":
        return row, 0.0
    again = dim * BITS[str(params["refine_type"])] / 8 if params.get("refine") else 0.0
    code = math.ceil(int(params["m"]) * int(params["nbits"]) / 8) if "m" in params else 0
    books = 4.0 * dim * 2 ** int(params["nbits"]) if "m" in params else 0.0
    if family in ("HNSW", "HNSW_SQ", "HNSW_PQ"):
        links = int(params["M"])
        graph = 4 * (2 * links + links / (links - 1)) + 12
        kept = {"HNSW": row, "HNSW_SQ": dim * BITS[str(params.get("sq_type", "SQ8"))] / 8, "HNSW_PQ": float(code)}[family]
        return graph + kept + again, books
    if family in ("IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN"):
        kept = {"IVF_FLAT": row, "IVF_SQ8": float(dim), "IVF_PQ": float(code), "SCANN": dim / 4 + 4.0 * dim}[family]
        return 8 + kept + again, 4.0 * dim * int(params["nlist"]) + books
    return None


# -------------------------------------------------------------------------------------------- cells


def project(folder: Path, corpora: Sequence[int], *, min_recall: float = 0.95) -> list[Growth]:
    """Return what is to be expected at some corpus sizes, for each configuration that was measured at three sizes or more.

    Raises
    ------
    harness.errors.DataError
        When there is none; says which sizes there are.
    """
    groups = _groups(current(read_all(folder)))
    found = [_growth(records, corpora, min_recall) for records in groups.values() if len(records) >= FEWEST_SIZES]
    if found:
        return found
    nearest = sorted(groups.values(), key=len, reverse=True)
    there = [f"{_name(records)}: {', '.join(f'{size:,}' for size in sorted(records))}" for records in nearest[:LISTED]]
    there += [f"and {len(nearest) - LISTED} more configurations"] if len(nearest) > LISTED else []
    raise DataError(
        f"{folder} holds no configuration measured at {FEWEST_SIZES} corpus sizes or more ({'; '.join(there) or 'no search cell'}); "
        f"{_apart(nearest)}measure more, as in `python -m harness -m dataset=docstrings dataset.corpus=1000,3000,9000`"
    )


def _groups(records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Return the search cells that differ in nothing but their corpus, by its size; vectors of random weights mean nothing."""
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.kind != "search" or record.status != "ok" or record.model.get("weights") == "random" or not record.data.get("corpus"):
            continue
        settings = {name: value for name, value in record.settings.items() if name != "data"}
        about = [record.labels, settings, _contents(record), record.data.get("dim"), record.environment.get("fingerprint")]
        group = found.setdefault(digest(json.loads(json.dumps(about, default=str))), {})
        group[int(record.data["corpus"])] = record
    return found


def _apart(groups: Sequence[Mapping[int, Record]]) -> str:
    """Say what keeps cells of one name apart that would have sizes enough together; empty where none would."""
    alike: dict[str, list[Mapping[int, Record]]] = {}
    for records in groups:
        alike.setdefault(_name(records), []).append(records)
    for name, same in alike.items():
        if len(set().union(*same)) >= FEWEST_SIZES:
            cells = [next(iter(records.values())) for records in same]
            told = [{**one.settings, "data": _contents(one), "machine": one.environment.get("fingerprint")} for one in cells]
            keys = sorted(set().union(*told))
            differing = [key for key in keys if len({json.dumps(one.get(key), sort_keys=True, default=str) for one in told}) > 1]
            return f"those of {name} differ in more than size ({', '.join(differing)}) and so make no line; "
    return ""


def _contents(record: Record) -> str:
    """Return what a corpus is of, whatever its size: by its option alone every folder of files or of BEIR would be one."""
    return re.sub(r"^[\d,]+ ", "", str(record.data.get("name")))  # generated vectors are called by how many they are


def _name(records: Mapping[int, Record]) -> str:
    labels = next(iter(records.values())).labels
    what = f"{labels.get('index')} {parameters(labels.get('build_params'))}".strip()
    return f"{labels.get('model')} · {labels.get('dataset')} · {labels.get('store')} · {what}"


def _growth(records: Mapping[int, Record], corpora: Sequence[int], min_recall: float) -> Growth:
    by_size = {size: records[size] for size in sorted(records)}
    lines = []
    for figure, title, values in _series(by_size, min_recall):
        if len(values) >= FEWEST_SIZES:
            straight = figure.endswith("_bytes")
            start, growth, guesses = fit(list(values), list(values.values()), corpora, straight=straight)
            lines.append(Line(figure, title, tuple(values), tuple(values.values()), straight, start, growth, guesses))
    words, arithmetic = _arithmetic(by_size, corpora)
    return Growth(_name(by_size), tuple(by_size), tuple(lines), words, arithmetic)


def _series(records: Mapping[int, Record], min_recall: float) -> Iterator[tuple[str, str, dict[int, float]]]:
    """Yield figures with their values by corpus size, positive ones only."""

    def of(names: Sequence[str]) -> dict[int, float]:
        found = {}
        for size, record in records.items():
            values = [record.metrics[name].value if name in record.metrics else None for name in names]
            if all(value is not None for value in values) and (total := sum(value or 0.0 for value in values)) > 0:
                found[size] = total
        return found

    yield "load_s", "insert and build", of(("insert_s", "build_s"))
    yield "index_bytes", "index", of(("index_bytes",))
    yield "peak_rss_bytes", "process, source vectors included", of(("peak_rss_bytes",))
    yield "server_rss_bytes", "server", of(("server_rss_bytes",))
    points: dict[str, dict[int, Point]] = {}
    for size, record in records.items():
        for point in record.points:
            if _ordinary(record, point) and point.nq == 1 and point.target_recall is None and point.search_params is not None:
                clients = f"{point.concurrency} client{'s' if point.concurrency != 1 else ''}"
                load = clients if point.concurrency else f"{point.rate_per_s:g} requests/s"
                points.setdefault(f"{parameters(point.search_params)} k={point.k}, {load}".strip(), {})[size] = point
    for name, at in points.items():
        for figure, title in (("search_latency_p50_s", "search p50"), ("search_latency_p99_s", "search p99")):
            values = {size: value for size, point in at.items() if (value := _value(point, figure))}
            yield figure, f"{title}, {name}", values
    for k in sorted({point.k for record in records.values() for point in record.points}):
        knobs = {size: knob for size, record in records.items() if (knob := required_knob(record, k, min_recall))}
        yield "knob", f"{_knob_name(records)} for recall@{k} ≥ {min_recall:g}", knobs


def _ordinary(record: Record, point: Point) -> bool:
    """Whether a point searched all rows, which stayed as they were, at a stated load that it kept up with."""
    stated = point.concurrency is not None or point.rate_per_s is not None
    return point.selectivity is None and point.churn_per_s is None and stated and not overloaded(record.caveats, point)


def _value(point: Point, figure: str) -> float | None:
    found = point.metrics.get(figure)
    return None if found is None else found.value


def _knob_name(records: Mapping[int, Record]) -> str:
    return str(_index(next(iter(records.values()))).knob)


def _index(record: Record) -> Index:
    found: Index = build(record.settings["index"], key="index")
    return found


def required_knob(record: Record, k: int, min_recall: float) -> float | None:
    """Return the value of the knob that reaches a recall, read off between the two measured values around it.

    None where the measured ones are all above or all below it.

    Linear in log(knob) between them. Where the knob was tuned to this very recall, that value.
    """
    name = _index(record).knob
    if name is None:
        return None
    points = [point for point in record.points if _ordinary(record, point) and point.k == k and name in point.search_params]
    tuned = [float(point.search_params[name]) for point in points if point.target_recall == min_recall]
    if tuned:
        return tuned[0]
    curve = {float(p.search_params[name]): recall for p in points if (recall := _value(p, "recall")) is not None}
    below: tuple[float, float] | None = None
    for knob, recall in sorted(curve.items()):
        if recall >= min_recall:
            if below is None:  # a lower value may do as well: a bound, which no fit may take for a value
                return None
            share = (min_recall - below[1]) / (recall - below[1])
            return math.exp(math.log(below[0]) + share * (math.log(knob) - math.log(below[0])))
        below = (knob, recall)
    return None


def _arithmetic(records: Mapping[int, Record], corpora: Sequence[int]) -> tuple[str, tuple[tuple[int, float], ...]]:
    size, record = max(records.items())
    found = index_arithmetic(_index(record), dim=int(record.data["dim"]), vector_type=str(record.settings.get("vector_type", "fp32")))
    if found is None:
        return f"No formula for the bytes of {_index(record).family}.", ()
    each, fixed = found
    by_arithmetic = tuple((n, each * n + fixed) for n in corpora)
    words = f"By arithmetic the index takes {each:,.0f} bytes a document" + (f" and {fixed / 1e6:,.2f} MB besides" if fixed else "")
    measured = record.metrics.get("index_bytes")
    if measured is None or measured.value is None:
        return f"{words}; what it really took is not known.", by_arithmetic
    ratio = measured.value / (each * size + fixed)
    agree = "which agrees" if abs(ratio - 1) <= FITS else "which does not agree: rely on the fit"
    return f"{words}; at {size:,} documents it took {ratio:.2f} times that, {agree}.", by_arithmetic


# ---------------------------------------------------------------------------------------------- shown


def run(folder: Path, *, corpus: str, min_recall: float = 0.95) -> int:
    """Print and write what is to be expected at some corpus sizes, separated by commas; returns the exit code."""
    from rich.console import Console

    from harness.errors import SettingsError

    if not 0 < min_recall <= 1:
        raise SettingsError(f"--min-recall must be a number in (0, 1], got {min_recall!r}")
    try:
        corpora = list(dict.fromkeys(number_of(one, "--corpus") for one in corpus.split(",")))
    except SettingsError as error:
        raise SettingsError(f"{error} in {corpus!r}, where commas separate sizes" if "," in corpus else str(error)) from error
    found = project(folder, corpora, min_recall=min_recall)
    body = {"folder": str(folder), "corpora": corpora, "growths": [asdict(one) for one in found]}
    path = folder / "projection.json"
    try:
        write_atomically(path, json.dumps(body, indent=1, allow_nan=False).encode())
    except OSError as error:
        raise HarnessError(f"{folder} cannot be written ({error.strerror or error}); make the folder writable") from error
    _print(found, corpora, Console())
    print(path)  # noqa: T201 - written to the terminal, as by every command
    return 0


def _print(growths: Sequence[Growth], corpora: Sequence[int], console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from harness.report.units import plural

    for growth in growths:
        largest = max(growth.sizes)
        console.print(f"\n[bold]{escape(growth.name)}[/bold]")
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
        table.add_column("figure", overflow="fold")
        table.add_column("measured", overflow="fold")
        table.add_column("grows as", justify="right")
        for n in corpora:
            table.add_column(f"{n:,}\n{n / largest:.3g}× measured", justify="right")
        for line in growth.lines:
            seen = f"{_shown(line, line.values[0])} … {_shown(line, line.values[-1])}\nat {line.sizes[0]:,} … {line.sizes[-1]:,}"
            table.add_row(
                escape(line.title),
                seen,
                f"{written(line.figure, max(line.start, 0.0))} + {line.growth:,.0f} B · n" if line.straight else f"n^{line.growth:.2f}",
                *(_predicted(line, one) for one in line.guesses),
            )
        console.print(table)
        console.print(escape(growth.arithmetic), highlight=False)
        fewest = min((len(line.sizes) for line in growth.lines), default=ENOUGH_SIZES)
        if fewest < ENOUGH_SIZES:
            left = f"{fewest} sizes leave {plural(fewest - 2, 'degree')} of freedom, hence such intervals"
            console.print(f"{left}; measure {ENOUGH_SIZES} or more.", highlight=False)
        for n, size in growth.index_bytes:
            console.print(f"  {n:,} documents: {written('index_bytes', size)} of index by arithmetic", highlight=False)
    if max(corpora) > FAR * min(max(growth.sizes) for growth in growths):
        console.print(
            f"\nMore than {FAR:g} times the largest corpus measured: the intervals hold only if growth goes on as it was, which caches, "
            "segments and memory that runs out do not promise. Measure a larger corpus before you rely on it.",
            style="yellow",
        )


def _predicted(line: Line, guess: Guess) -> str:
    """Return a prediction with its interval; where that spans more than `VAGUE` it says only that."""
    if guess.lo is None or guess.hi is None:
        return f"{_shown(line, guess.value)}\nno scatter, no interval"
    too_low = not line.straight and guess.value > VAGUE * max(guess.lo, 1e-300)  # a line's interval may well end at 0
    if too_low or guess.hi > VAGUE * guess.value:
        return f"{NULL}\nwithin more than a factor of {VAGUE:g}"
    return f"{_shown(line, guess.value)}\n\\[{_shown(line, guess.lo)}, {_shown(line, guess.hi)}]"


def _shown(line: Line, value: float) -> str:
    from harness.report.units import duration, significant

    if line.figure == "knob":
        return significant(value)
    if line.figure == "load_s" and value >= 1:
        return duration(value)
    return written(line.figure, value)
