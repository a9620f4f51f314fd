"""The rules that settings of datasets share, so that each dataset states its ranges in one line.

Every function returns the violations it found as sentences (key, rule, value, remedy), none if there are
none, so that a dataset can report all of them at once.
"""

from __future__ import annotations

import math


def whole_number(key: str, value: object, *, least: int, most: int | None = None, remedy: str = "") -> list[str]:
    """Violations of "`key` is a whole number in [`least`, `most`]"; a bool or a string is not a number here."""
    span = f"in [{least}, {most}]" if most is not None else f"of at least {least}"
    inside = type(value) is int and value >= least and (most is None or value <= most)
    return [] if inside else [f"dataset.{key} must be a whole number {span}, got {value!r}{'; ' + remedy if remedy else ''}"]


def number(key: str, value: object, *, least: float, most: float, remedy: str = "") -> list[str]:
    """Violations of "`key` is a finite number in [`least`, `most`]"; a bool or a string is not a number here."""
    inside = type(value) in (int, float) and math.isfinite(value) and least <= value <= most  # type: ignore[arg-type,operator]
    return [] if inside else [f"dataset.{key} must be a number in [{least}, {most}], got {value!r}{'; ' + remedy if remedy else ''}"]
