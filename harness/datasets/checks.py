"""The rules that settings of datasets share, so that each dataset states its ranges in one line.

Every function returns the violations it found as sentences (key, rule, value, remedy), none if there are
none, so that a dataset can report all of them at once.
"""

from __future__ import annotations

import math
from pathlib import Path


def whole_number(key: str, value: object, *, least: int, most: int | None = None, remedy: str = "") -> list[str]:
    """Violations of "`key` is a whole number in [`least`, `most`]"; a bool or a string is not a number here."""
    span = f"in [{least}, {most}]" if most is not None else f"of at least {least}"
    inside = type(value) is int and value >= least and (most is None or value <= most)
    return [] if inside else [f"dataset.{key} must be a whole number {span}, got {value!r}{'; ' + remedy if remedy else ''}"]


def number(key: str, value: object, *, least: float, most: float, remedy: str = "") -> list[str]:
    """Violations of "`key` is a finite number in [`least`, `most`]"; a bool or a string is not a number here."""
    inside = type(value) in (int, float) and math.isfinite(value) and least <= value <= most  # type: ignore[arg-type,operator]
    return [] if inside else [f"dataset.{key} must be a number in [{least}, {most}], got {value!r}{'; ' + remedy if remedy else ''}"]


def existing_folder(key: str, value: object, *, holding: str = "your files") -> list[str]:
    """Violations of "`key` is an existing folder"; ``~`` is expanded, a relative path counts from the current directory."""
    if not isinstance(value, str | Path) or not str(value).strip():
        return [f"dataset.{key} must be a folder, got {value!r}; write dataset.{key}=DIR"]
    root = Path(value).expanduser().resolve()
    if not root.is_dir():
        return [f"dataset.{key} must be an existing folder, got {str(value)!r}; give the folder that holds {holding}"]
    if not is_unicode(root):
        return [f"dataset.{key} must be spelt in valid UTF-8, got {str(value)!r}; rename the folder"]
    return []


def is_unicode(path: Path) -> bool:
    """Whether a path can be written down as text; names on disk are bytes, and records are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a path that belongs to a dataset's folder leads out of it, by a link, ``..`` or by being absolute."""
    return not path.resolve().is_relative_to(folder.resolve())
