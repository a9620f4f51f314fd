"""The index options' defaults on real text vectors: MiniLM embeddings that lie outside the project, hence the skips."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from stores.faiss import Faiss
from stores.milvus_lite import MilvusLite
from tests.stores.oracle import ROOT, recall

DATA = Path(os.environ.get("HARNESS_DATA", ROOT.parent / "shared/data"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = MilvusLite()
    store.open(tmp_path_factory.mktemp("lite"))
    yield store
    store.close()


@pytest.mark.skipif(not (DATA / "minilm-100k.npy").exists(), reason=f"no minilm-100k.npy in {DATA}; name its folder in HARNESS_DATA")
@pytest.mark.parametrize("rows", [2_000, 5_000])
@pytest.mark.parametrize("index", ["hnsw", "hnsw_sq", "ivf_flat", "ivf_sq8"])
def test_recall_on_text_rises_visibly_with_the_default_knob(store, index, rows):
    corpus = np.load(DATA / "minilm-100k.npy", mmap_mode="r")[:rows].astype(np.float32)
    queries = np.load(DATA / "minilm-2k-queries.npy", mmap_mode="r")[:100].astype(np.float32)
    index = instantiate(OmegaConf.load(ROOT / f"conf/index/{index}.yaml"), _convert_="object")
    store.create("text", dim=corpus.shape[1], metric="cosine", index=index)
    for start in range(0, rows, store.largest_insert):
        store.insert(corpus[start : start + store.largest_insert], start)
    store.build()
    store.wait_ready(rows=rows, deadline_s=120)
    recalls = [recall(store.search(queries, 10, params), queries, corpus, "cosine", rtol=1e-6) for params in index.search_params()]
    store.drop()
    assert (np.diff(recalls[:3]) > 0.02).all(), recalls
    assert recalls[-1] >= recalls[-2]
    assert recalls[0] < 0.9
    assert recalls[-1] > 0.98


@pytest.mark.skipif(not (DATA / "minilm-100k.npy").exists(), reason=f"no minilm-100k.npy in {DATA}; name its folder in HARNESS_DATA")
@pytest.mark.parametrize(("index", "reached"), [("hnsw_pq", 0.5), ("ivf_pq", 0.5), ("ivf_rabitq", 0.95), ("scann", 0.99)])
def test_compressed_rows_of_text_are_found_as_far_as_their_codes_tell(index, reached):
    corpus = np.load(DATA / "minilm-100k.npy", mmap_mode="r")[:2_000].astype(np.float32)
    queries = np.load(DATA / "minilm-2k-queries.npy", mmap_mode="r")[:100].astype(np.float32)
    index = instantiate(OmegaConf.load(ROOT / f"conf/index/{index}.yaml"), _convert_="object")
    store = Faiss()
    store.open(Path())
    store.create("text", dim=corpus.shape[1], metric="cosine", index=index)
    store.insert(corpus, 0)
    store.build()
    recalls = [recall(store.search(queries, 10, params), queries, corpus, "cosine", rtol=1e-6) for params in index.search_params()]
    assert recalls[-1] > reached, recalls
    assert recalls[-1] > recalls[0] + 0.1
