"""Measures embedding models, devices, batch sizes and vector indexes together, on the same vectors."""

from __future__ import annotations

from harness.frame import load_results

__all__ = ["load_results"]
__version__ = "0.1.0"
