"""What a reader should know about foreign files before they are measured with.

A file that cannot be used is refused with the reason. One that can be used may still hold something else than a model is shown: the
other frames of an animation, the inks of a print, the low bits of a scan. Such files are used, and named in a caveat.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from harness.datasets.decode import decode
from harness.datasets.media import usual_suffixes
from harness.errors import DataError
from harness.interfaces import Item, Modality, Sound

LEAST_SIDE = 4
"""Pixels. Tracking pixels and spacers are smaller and show nothing; some libraries take a side of 1 or 3 for the colour channels."""

NAMED = 5
"""File names in a caveat; the count says how many there are in all."""


def examine(modality: Modality, path: Path) -> tuple[Item, str]:
    """Decode a file in full and return the item and what was done to it that a reader should know, "" if nothing.

    Raises
    ------
    harness.errors.DataError
        If it cannot be decoded, or shows nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a remark of Pillow's on odd metadata; what matters is whether it decodes
        item = decode(modality, str(path))
        if modality == "image":
            if min(item.size) < LEAST_SIDE:
                raise DataError(f"{path}: {item.width} × {item.height} pixels show nothing; {LEAST_SIDE} a side are the least")
            remarks = _picture_remarks(path)
        else:
            if isinstance(item, Sound) and not np.ptp(item.samples):
                raise DataError(f"{path}: nothing but silence")
            remarks = _name_remarks(path, usual_suffixes(path))
    return item, ", ".join(remarks)


def _picture_remarks(path: Path) -> list[str]:
    with Image.open(path) as image:
        suffixes = {suffix[1:] for suffix, name in Image.registered_extensions().items() if name == image.format}
        remarks = _name_remarks(path, frozenset(suffixes | ({"jpg", "jpeg"} if image.format == "MPO" else set())))
        if getattr(image, "is_animated", False) and image.format != "MPO":  # an MPO's further pictures are the camera's previews
            remarks.append("animated or of several pages: its first frame")
        if image.mode == "CMYK":
            remarks.append("CMYK: converted to RGB without its profile")
        elif image.mode.startswith(("I", "F")):
            remarks.append(f"{'floating-point' if image.mode == 'F' else '16-bit or deeper'} grey: brought to 8 bits")
    return remarks


def _name_remarks(path: Path, usual: frozenset[str]) -> list[str]:
    suffix = path.suffix[1:].lower()
    return [f"named .{suffix} but it is {'/'.join(sorted(usual))}"] if suffix and usual and suffix not in usual else []


def named(reasons: Mapping[str, str]) -> str:
    """Return the first few names with their reasons; `repr` keeps control characters in a name from reaching a terminal."""
    shown = [f"{name!r} ({reason})" for name, reason in sorted(reasons.items())[:NAMED]]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
