"""Metrics of retrieval: index fidelity (`recall`) and quality against labels (`labels`), one score a query.

A metric is a function from ids to per-query scores in [0, 1]; averaging and intervals are `harness.statistics`' business.
"""

from __future__ import annotations
