"""How a comparison's figures are written, for the terminal, Markdown and the page at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.compare.comparison import Comparison
from harness.compare.judge import Judged, Judgement, Word
from harness.gate.artefacts.words import clean
from harness.records import Measured
from harness.report.units import SHOWN, interval, number, plural, significant

TITLES = {"embed": "Embedding", "point": "Search", "build": "Building and size"}
"""Heading over each kind of row."""

HEADS = ("row", "figure", "base", "head", "head / base", "verdict")

_UNCHANGED = "no difference shown"

_BETWEEN = " · "
"""Between the parts of a row's name; those that all rows of a table share stand in its heading."""


@dataclass(frozen=True)
class Line:
    """One figure of one row, ready to be written."""

    row: str
    figure: str
    base: str
    head: str
    ratio: str
    between: str
    word: Word
    advisory: bool
    why: str

    @property
    def verdict(self) -> str:
        """The verdict with how sure it is."""
        return f"{self.word} (advisory)" if self.advisory and self.word not in (_UNCHANGED, "not comparable") else self.word


def tables(comparison: Comparison) -> list[tuple[str, list[Line], list[Line]]]:
    """Return for each kind of row its heading with what its rows share, the figures that differ or were not compared, and the others."""
    found = []
    for part, title in TITLES.items():
        judged = [one for one in comparison.judged if one.pair.base.part == part and one.judgements]
        if judged:
            names = {id(one): _sides(one) for one in judged}
            every = [words for sides in names.values() for words in sides]
            common = [word for word in every[0] if len(every) > 1 and all(word in words for words in every)]
            lines = [line(_short(names[id(one)], common) or name(one), figure) for one in judged for figure in one.judgements]
            differing = [one for one in lines if one.word != _UNCHANGED]
            found.append((_BETWEEN.join([title, *common]), differing, [one for one in lines if one.word == _UNCHANGED]))
    return found


def refused(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the rows of which nothing could be compared, with the reason."""
    return [(name(one), clean(one.pair.obstacle)) for one in comparison.judged if one.pair.obstacle]


def lone(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return the rows that only one side has: the side, the row, the nearest row of the other side."""
    return [
        (side, clean(f"{TITLES[one.row.part].lower()}: {one.row.name}"), clean(one.why))
        for side, rows in (("base", comparison.only_base), ("head", comparison.only_head))
        for one in rows
    ]


def name(judged: Judged) -> str:
    """Return what a pair is called; where the two differ on purpose, both names."""
    return " → ".join(_BETWEEN.join(words) for words in _sides(judged))


def _sides(judged: Judged) -> list[list[str]]:
    """Return the parts of a pair's name, or of both names where the two differ on purpose."""
    pair = judged.pair
    return [clean(one.name).split(_BETWEEN) for one in ((pair.base, pair.head) if pair.varied else (pair.head,))]


def _short(sides: Sequence[Sequence[str]], common: Sequence[str]) -> str:
    return " → ".join(_BETWEEN.join(word for word in words if word not in common) for words in sides).strip(" →")


def line(row: str, judgement: Judgement) -> Line:
    """Return one figure of a row as a line of a table."""
    figure = judgement.figure
    base, head = judgement.base, judgement.head
    ratio, between = _change(judgement)
    return Line(
        row,
        f"{SHOWN[figure].group.lower()}, {SHOWN[figure].heading}",
        _amount(figure, base, medians=judgement.medians),
        _amount(figure, head, medians=judgement.medians),
        ratio,
        between,
        judgement.word,
        judgement.advisory,
        clean(judgement.reason),
    )


def _amount(figure: str, measured: Measured, *, medians: bool) -> str:
    """Return one side's value with its interval, or with how many runs it is the median of."""
    value = number(figure, measured.value)
    if medians:
        return f"{value} (median of {plural(measured.n, 'run')})"
    return f"{value} {interval(figure, measured.value, measured.lo, measured.hi)}".strip()


def _change(judgement: Judgement) -> tuple[str, str]:
    """Return the ratio or difference and its interval; the interval's level where it is not 95 %."""
    if judgement.change is None:
        return "", ""
    value = f"{judgement.change:+.4f}" if judgement.absolute else _ratio(judgement.change)
    ends: Sequence[float | None] = (judgement.lo, judgement.hi)
    if all(end is None for end in ends) or (judgement.lo == judgement.hi == judgement.change):
        return value, ""
    texts = ["∞" if end is None else f"{end:+.4f}" if judgement.absolute else _ratio(end) for end in ends]
    level = "" if judgement.confidence in (None, 0.95) else f" at {100 * (judgement.confidence or 0):g} %"
    return value, f"[{texts[0]}, {texts[1]}]{level}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if 0.01 <= value < 10 else significant(value)
