"""Rendered pictures that any machine can make, with labels, captions and real JPEG files to decode.

A picture's label is the colour and shape of its main thing; a query's relevant documents are the corpus pictures of the
same label. The task tells models apart that see colour and shape from those that do not; it says nothing about
photographs. Picture i depends on the seed and on i only, so that a smaller corpus is the beginning of a larger one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.datasets.checks import whole_number
from harness.datasets.fingerprint import digest, fingerprint
from harness.datasets.render import render
from harness.datasets.scene import LABELS, Scene, draw
from harness.errors import SettingsError
from harness.interfaces import Data

JPEG_QUALITY = 90
"""Usual for photographs on the web; Pillow's default of 75 shows blocks around sharp edges."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Seeded pictures of described scenes; other pictures of the same things are the queries.

    Parameters
    ----------
    corpus, queries : int
        Delivered exactly. Labels are spread evenly; with fewer than 64 documents only so many labels occur.
    seed : int
        Another seed gives other pictures of the same 64 labels.
    size : int
        Width and height in pixels. Larger pictures make decoding and resizing count for more.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range; all of them are listed.
    """

    corpus: int = 500
    queries: int = 100
    seed: int = 0
    size: int = 256

    def __post_init__(self) -> None:
        wrong = [
            *whole_number("corpus", self.corpus, least=1),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
            *whole_number("size", self.size, least=32, most=4096),
        ]
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Literal["image"]:
        return "image"

    @property
    def query_modality(self) -> Literal["image"]:
        return "image"

    def identity(self) -> None:
        """Nothing besides settings, code and the versions of the libraries decides about the pictures."""

    def describe(self) -> tuple[list[Scene], list[Scene]]:
        """Return the scenes of the corpus and of the queries, in order; nothing is rendered.

        Scene n of the corpus has the n-th label of a seeded order of all labels, which repeats. Queries go through the
        labels that the corpus has in the same way, so every query has at least one relevant document.
        """
        labels = list(LABELS)
        random.Random(f"labels {self.seed}").shuffle(labels)
        present = labels[: self.corpus]
        corpus = [draw(f"{self.seed} corpus {number}", labels[number % len(labels)]) for number in range(self.corpus)]
        queries = [draw(f"{self.seed} query {number}", present[number % len(present)]) for number in range(self.queries)]
        return corpus, queries

    def materialise(self, folder: Path) -> Data:
        """Render all pictures as JPEG files into `folder`."""
        corpus, queries = self.describe()
        files = {
            kind: [self._write(scene, folder / f"{kind}-{number:06}.jpg") for number, scene in enumerate(scenes)]
            for kind, scenes in (("corpus", corpus), ("query", queries))
        }
        numbers: dict[str, list[int]] = {}
        for number, scene in enumerate(corpus):
            numbers.setdefault(scene.label, []).append(number)
        qrels = {number: dict.fromkeys(numbers[scene.label], 1) for number, scene in enumerate(queries)}
        return Data(
            modality="image",
            name="scenes",
            corpus=tuple(str(path) for path, _ in files["corpus"]),
            queries=tuple(str(path) for path, _ in files["query"]),
            qrels=qrels,
            fingerprint=fingerprint("image", [item for _, item in files["corpus"]], [item for _, item in files["query"]], qrels),
            labels={"source": "rendered scenes", "pixels": f"{self.size} × {self.size}", "classes": len(numbers)},
        )

    def _write(self, scene: Scene, path: Path) -> tuple[Path, bytes]:
        render(scene, self.size).save(path, format="JPEG", quality=JPEG_QUALITY)
        return path, digest(path.read_bytes())
