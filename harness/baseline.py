"""What ranking by shared words reaches on a dataset: what a text model's quality has to be seen beside.

It depends on neither model nor index, so it is computed once for a dataset's texts and kept in the cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from harness import cache
from harness.fingerprint import digest, source_of, versions_used_by
from harness.interfaces import Data, Ids
from harness.metrics.bm25 import bm25_ranking


def bm25(data: Data, *, depth: int) -> Ids | None:
    """Return the documents that BM25 ranks first for every query.

    Parameters
    ----------
    data : Data
        With texts for documents and queries.
    depth : int
        How many documents a query gets.

    Returns
    -------
    ndarray of shape (n_queries, depth), int64, or None
        Best first, -1 where fewer share a word with the query; None where documents or queries are no texts.
    """
    if data.modality != "text" or data.query_modality != "text":
        return None
    contents = hashlib.sha256(f"{len(data.corpus)} {len(data.queries)}".encode())
    for texts in (data.corpus, data.queries):
        for text in texts:
            contents.update(text.encode("utf-8", "surrogatepass") + b"\0")
    made_by = ["harness.metrics.bm25"]
    key = digest({"texts": contents.hexdigest(), "depth": depth, "source": source_of(made_by), "versions": versions_used_by(made_by)})

    def make(folder: Path) -> None:
        np.save(folder / "ids.npy", bm25_ranking(data.corpus, data.queries, depth=depth))

    ids: Ids = np.load(cache.get("baseline", key[:32], make) / "ids.npy")
    return ids
