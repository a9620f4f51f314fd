"""What identifies a dataset's contents: one SHA-256 over items, their order, the queries and the labels.

Two runs whose datasets have the same fingerprint measured the same data. Images, sounds and videos enter by the bytes of
their files, not by their pixels and samples: how a file is compressed is part of what the decode stage is timed on,
and the bytes do not change with the version of the decoder. Nothing about where the data lies enters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from harness.interfaces import Modality

Qrels = Mapping[int, Mapping[int, int]]


def digest(content: bytes) -> bytes:
    """SHA-256 of one item's bytes; the one place that names the hash function."""
    return hashlib.sha256(content).digest()


def fingerprint(
    modality: Modality, corpus: Sequence[bytes], queries: Sequence[bytes], qrels: Qrels | None, *, asked_in: Modality | None = None
) -> str:
    """SHA-256, hexadecimal, over the digests of all items in order and over the qrels.

    Counts and tags frame the parts, so that no two different datasets spell the same bytes. No labels
    (`qrels` is None) and labels without any entry (an empty mapping) are different datasets.

    Parameters
    ----------
    modality : str
        Part of the hash: the same bytes as a text and as an image are different data.
    corpus, queries : sequence of bytes
        One `digest` for each item, in the dataset's order.
    qrels : mapping or None
        Query number to document number to grade; the order of its keys does not matter.
    asked_in : str or None
        The modality of the queries where it is another one than the documents'.
    """
    whole = hashlib.sha256()
    for kind, tag, digests in ((modality, "corpus", corpus), (asked_in or modality, "queries", queries)):
        whole.update(f"{kind} {tag} {len(digests)}\n".encode())
        whole.update(b"".join(digests))
    whole.update(b"no qrels\n" if qrels is None else f"qrels {len(qrels)}\n".encode())
    for query, documents in sorted((qrels or {}).items()):
        for document, grade in sorted(documents.items()):
            whole.update(f"{query} {document} {grade}\n".encode())
    return whole.hexdigest()
