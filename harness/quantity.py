"""Numbers with a unit, as people write them on a command line: ``20GB``, ``30d``, ``20ms``, ``10M``.

Nobody means a millibyte, so that upper and lower case are the same. A number without its unit is refused, unless the units have an empty
one among them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from harness.errors import SettingsError

BYTES = {
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}


def quantity(text: str, units: Mapping[str, float], *, key: str, kind: str) -> float:
    """Return what a number with a unit comes to: the number by the unit's factor.

    >>> quantity("20 GB", BYTES, key="--max-size", kind="a size such as 20GB")
    20000000000.0

    Parameters
    ----------
    units : mapping of str to float
        Factors, by unit.
    key, kind : str
        Where the text stands and what it should have been, for the error.

    Raises
    ------
    harness.errors.SettingsError
        When it is no number, or its unit is none of these, or it is beyond what a float holds.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([^\d\s.]*)", text.strip())
    factors = {name.casefold(): factor for name, factor in units.items()}
    if found is not None and found[2].casefold() in factors:
        value = float(found[1]) * factors[found[2].casefold()]
        if math.isfinite(value):
            return value
    raise SettingsError(f"{key} must be {kind}, got {text!r}")
