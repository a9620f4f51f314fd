"""Items with labels: which of them are relevant to which query, and what a reader has to know about it.

Documents of a query's label are relevant to it with grade 1. Fewer than two labels say nothing, so there are no qrels then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.datasets.examine import named
from harness.interfaces import Caveat, Clip, Item, Sound


class Found(NamedTuple):
    """A usable item: what is stored for it, its label (None without one), the digest of its content, and how long it lasts."""

    stored: str
    label: str | None
    content: bytes
    seconds: float | None = None


def seconds_of(item: Item) -> float | None:
    """How long an item lasts, None for those that do not."""
    if isinstance(item, Sound):
        return item.seconds
    return len(item.frames) / item.frames_per_s if isinstance(item, Clip) else None


def qrels_by_label(corpus: Sequence[Found], queries: Sequence[Found]) -> tuple[dict[int, dict[int, int]] | None, int]:
    """Return relevance by label, and how many queries have no relevant document; those stand in no qrels, so they count in no quality."""
    if len({item.label for item in (*corpus, *queries)} - {None}) < 2:
        return None, 0
    documents: dict[str, dict[int, int]] = {}
    for number, item in enumerate(corpus):
        if item.label is not None:
            documents.setdefault(item.label, {})[number] = 1
    qrels = {number: documents[item.label] for number, item in enumerate(queries) if item.label in documents}
    return qrels or None, len(queries) - len(qrels)


def lengths(items: Sequence[Found]) -> dict[str, Any]:
    """Return the median and the longest duration in seconds, nothing for items that have none."""
    found = sorted(item.seconds for item in items if item.seconds is not None)
    return {"seconds_p50": round(found[len(found) // 2], 3), "seconds_max": round(found[-1], 3)} if found else {}


def caveats(
    what: str,
    *,
    left_out: Mapping[str, str],
    copies: Mapping[str, str],
    adapted: Mapping[str, str],
    labels: set[str | None],
    without: int,
) -> Iterator[Caveat]:
    """Yield what a reader has to know; `what` is ``files`` or ``rows``, the mappings give the reason by name."""
    if left_out:
        yield Caveat(f"unreadable_{what}", f"{len(left_out)} {what} could not be used and were left out: {named(left_out)}.")
    if copies:
        yield Caveat(f"duplicate_{what}", f"{len(copies)} {what} hold the same as others and were left out: {named(copies)}.")
    if adapted:
        yield Caveat(f"adapted_{what}", f"{len(adapted)} {what} are used, but a model is not shown all that they hold: {named(adapted)}.")
    if len(labels - {None}) == 1:
        yield Caveat("one_label", f"All labelled {what} have the same label, which tells nothing apart, so quality is not measured.")
    if without:
        yield Caveat(
            "queries_without_relevant",
            f"{without} queries have no document of their label in the corpus; they are searched and timed and count in no quality figure.",
        )
