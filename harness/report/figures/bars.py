"""Stacked horizontal bars: what a time is made of, one bar a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.report.figures.parts import Figure, Named, escape
from harness.report.rows import Row, anchor
from harness.report.units import SHOWN

BARS = 12
"""Bars a picture has at most; the table has all rows."""
_PATTERNS = ("", "/", "x", "-", ".")


@dataclass(frozen=True)
class Stack:
    """One part of every bar."""

    title: str
    place: int
    """Position of its colour and pattern."""
    sizes: tuple[float, ...]
    told: tuple[str, ...]
    """What pointing at it shows, for each bar, below the bar's name and the part's title."""


def stacks_of(
    names: Sequence[str], rows: Sequence[Row], *, size: Callable[[Row, str], float], told: Callable[[Row, str], str]
) -> list[Stack]:
    """Return a part for each of some figures that any row has."""
    return [
        Stack(SHOWN[name].title, place, tuple(size(row, name) for row in rows), tuple(told(row, name) for row in rows))
        for place, name in enumerate(names)
        if any(row[name] is not None for row in rows)
    ]


def left_out(shown: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return how many rows have no bar, as the end of a caption."""
    return f" {len(shown)} of {len(rows)}, those nearest the fronts; the table has all." if len(rows) > len(shown) else ""


def bars(
    rows: Sequence[Row], named: Named, totals: Sequence[str], stacks: Sequence[Stack], *, setting: str, title: str, caption: str
) -> Figure:
    """Return stacked horizontal bars, each with its name and total above it, so that long names fit a phone."""
    names = [escape(named.name(row)) for row in rows]
    return {
        "setting": setting,
        "caption": caption,
        "height": 40 * len(rows) + 110,
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(stack.title),
                "x": list(stack.sizes),
                "y": list(range(len(rows))),
                "width": 0.42,
                "text": [f"<b>{name}</b><br>{stack.title}: {told}" for name, told in zip(names, stack.told, strict=True)],
                "textposition": "none",
                "hovertemplate": "%{text}<extra></extra>",
                "customdata": [anchor(row) for row in rows],
                "marker": {"pattern": {"shape": _PATTERNS[stack.place % len(_PATTERNS)], "size": 6, "solidity": 0.25}},
                "meta": {"colour": f"stage-{stack.place}"},
            }
            for stack in stacks
        ],
        "layout": {
            "barmode": "stack",
            "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
            "yaxis": {"range": [len(rows) - 0.5, -0.8], "showticklabels": False, "ticks": "", "showgrid": False, "fixedrange": True},
            "annotations": [
                {
                    "x": 0,
                    "y": place - 0.21,
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "yshift": 1,
                    "showarrow": False,
                    "text": f"{name}  <b>{escape(total)}</b>",
                    "font": {"size": 12},
                }
                for place, (name, total) in enumerate(zip(names, totals, strict=True))
            ],
        },
    }
