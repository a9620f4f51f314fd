"""The corpus cell: how fast an engine's workers take documents through a model, from the stored item to the vector that is kept.

The clock runs from when the first worker begins with its first shard, every worker having its model loaded by then, until the last shard
is written down: reading, preparing, embedding, bringing the vectors back and checking them are in it, and so is the time at the end in
which workers have nothing left to do. Starting the cluster and loading models is not, nor is the audit, in this process, before. Workers'
clocks are compared with this process's, so on several machines these have to agree, as NTP makes them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.audit import AUDITED, audit
from harness.build import build
from harness.corpus import Corpus
from harness.datasets.decode import decode
from harness.errors import DataError
from harness.interfaces import CorpusEngine, Part
from harness.replicate import Report


def measure(spec: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Take a seeded sample of the documents through the model once; leaves ``result.json`` in `folder`.

    Parameters
    ----------
    spec : mapping
        What a process that uses the model is told (`harness.cells.embed_spec`); besides ``engine``, its settings, and ``items``, how many
        documents.
    """
    engine: CorpusEngine = build(spec["engine"], key="engine")
    data = Corpus(spec).data
    numbers = list(range(len(data.corpus)))
    random.Random(spec["seed"]).shuffle(numbers)
    corpus = Corpus(spec, numbers=numbers[: spec["items"]])
    report("audit", 0.0)
    several = AUDITED[data.modality]
    distinct = list(dict.fromkeys(data.corpus[i] for i in numbers[: 8 * several]))[:several]
    caveats = audit(*corpus.start(), [decode(data.modality, item) for item in distinct], asked=spec["dtype"])
    kept = 0

    def keep(part: Part) -> None:
        nonlocal kept
        kept += len(part.numbers)

    def told(done: int) -> None:
        report("corpus", done / spec["items"], spec["items"])

    made_by = engine.embed(corpus, keep, device=spec["device"], shards=folder / "shards", told=told)
    if not kept == made_by["items"] == spec["items"]:
        raise DataError(f"{made_by['items']} documents were embedded and {kept} handed over, of {spec['items']}")
    (folder / "result.json").write_text(json.dumps({**made_by, "caveats": [[caveat.code, caveat.text] for caveat in caveats]}))
