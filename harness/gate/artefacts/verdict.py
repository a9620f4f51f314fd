"""``verdict.json``: the whole outcome for programs; what is not a finite number is null."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from harness.gate.outcome import Outcome, worst_first

SCHEMA_VERSION = 1
"""Raised when a name or a meaning in the file changes."""


def to_json(outcome: Outcome, at: str) -> str:
    """Return the JSON text: the run, then every case, what needs a reader first."""
    body = asdict(outcome)
    del body["cases"], body["control"]
    body |= {
        "schema_version": SCHEMA_VERSION,
        "ended_at": at,
        "contaminated": outcome.contaminated,
        "counts": outcome.counts,
        "exit_code": outcome.exit_code,
        "cases": [asdict(case) for case in worst_first(outcome.cases)],
        "control": None if outcome.control is None else [asdict(case) for case in outcome.control],
    }
    return json.dumps(_finite(body), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
