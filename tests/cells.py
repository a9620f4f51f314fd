"""Cells measured in the test's own process, with few and quick requests."""

import json
from dataclasses import asdict

import numpy as np

from harness import data, embed_cell, search_cell
from harness.summary import Outcome
from tests.plugins.parts import HashedWords, Sentences
from tests.plugins.probes import EVENTS

QUICKLY = {"share_s": 0.02, "max_s": 0.4, "min_requests": 20, "seed": 0, "replicate": 0}


def lay_out(folder, *, corpus=64, queries=16):
    """Write a dataset as the harness lays it out; returns its folder."""
    folder.mkdir()
    data.lay_out(Sentences(corpus=corpus, queries=queries).materialise(folder), folder)
    return folder


def embed_spec(data, *, target="tests.plugins.probes.WatchedModel", settings=None, **more):
    """Return what a process that measures an embed cell is told."""
    return {
        "model": {"_target_": target, "dim": 32, **(settings or {})},
        "weights": asdict(HashedWords().locate()),
        "device": "cpu",
        "dtype": "fp32",
        "attention": "auto",
        "compile": False,
        "interop_threads": None,
        "batch_size": 4,
        "data": str(data),
        "embed_items": 16,
        **QUICKLY,
        **more,
    }


def search_spec(vectors, *, store="tests.plugins.probes.WatchedStore", settings=None, index=None, **more):
    """Return what a process that measures a search cell is told."""
    return {
        "store": {"_target_": store, **(settings or {})},
        "index": index or {"_target_": "stores.index.FLAT"},
        "metric": "cosine",
        "k": [10],
        "vectors": str(vectors),
        "deadline_s": 30.0,
        "vector_type": "fp32",
        "filter": [None],
        "target_recall": [],
        "truth": {},
        "concurrency": [1],
        "rate": [],
        "p99_target_s": None,
        "churn_per_s": [],
        "churn_upserts": 0.0,
        "nq": 1,
        **QUICKLY,
        **more,
    }


def vectors(folder, *, rows=200, queries=16, dim=8, seed=0):
    """Write normalised Gaussian vectors as the canonical pass leaves them; returns their folder."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for name, count in (("corpus", rows), ("queries", queries)):
        made = rng.standard_normal((count, dim)).astype(np.float32)
        np.save(folder / f"{name}.npy", made / np.linalg.norm(made, axis=1, keepdims=True))
    return folder


def measured(what, spec, folder, report=lambda *_: None):
    """Measure one replicate in this process; returns its outcome. The events are those of this cell alone."""
    folder.mkdir(parents=True, exist_ok=True)
    EVENTS.clear()
    {"embed": embed_cell.measure, "search": search_cell.measure}[what](spec, folder, report)
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        return Outcome(json.loads((folder / "result.json").read_text()), dict(archive))
