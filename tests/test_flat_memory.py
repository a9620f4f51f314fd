"""The canonical pass over a corpus holds neither the corpus nor its vectors in memory."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from harness.data import lay_out
from harness.interfaces import Data, ModelInfo, Prepared, Weights
from harness.replicate import Replicate

BUFFER = 16e6
"""What ten times as many texts may add to the peak: the order of the batches (8 bytes a text, twice while it is sorted) and pages of the
texts' file that are still mapped."""
DIM = 64


@dataclass(frozen=True)
class LetterCounts:
    """The quickest model that passes the audit: how often a text has each letter."""

    dim: int = DIM
    modality: str = "text"
    normalized: bool = False
    gflop_per_item: float = 1e-6

    def locate(self):
        return Weights("pretrained", "none", None, None, fingerprint="letters")

    def fetch(self, weights):
        return weights

    def load(self, weights, *, device, dtype, attention="auto", compiled=False):
        return ModelInfo(dim=self.dim, parameters=0, dtype=dtype)

    def fingerprint(self):
        return "0" * 64

    def prepare(self, items, *, role="document"):
        return Prepared([np.frombuffer(text.encode(), dtype=np.uint8) for text in items], len(items), float(sum(map(len, items))))

    def transfer(self, prepared):
        return prepared

    def forward(self, prepared):
        return np.array([np.bincount(letters % DIM, minlength=DIM) for letters in prepared.inputs])

    def finish(self, outputs):
        return outputs.astype(np.float32)


def peak(folder, texts):
    """Return the peak of a fresh process that embeds so many texts, and where the vectors are."""
    folder.mkdir()
    corpus = [f"text {hashlib.sha256(str(i).encode()).hexdigest()[: 20 + i % 30]} {i}" for i in range(texts)]
    lay_out(Data("text", "made", corpus, [f"query {i}" for i in range(10)], None, "0" * 64), folder)
    spec = {
        "model": {"_target_": "tests.test_flat_memory.LetterCounts"},
        "weights": asdict(LetterCounts().locate()),
        "device": "cpu",
        "dtype": "fp32",
        "attention": "auto",
        "compile": False,
        "interop_threads": None,
        "data": str(folder),
    }
    out = folder / "out"
    out.mkdir()
    server = Replicate()
    try:
        server.run("tests.tasks:vectors_and_peak", spec, out, timeout_s=300)
    finally:
        server.close()
    return json.loads((out / "peak.json").read_text())["peak_rss_bytes"], out, corpus


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    return peak(folder / "small", 20_000), peak(folder / "large", 200_000)


def test_ten_times_as_many_texts_raise_the_peak_by_no_more_than_a_fixed_buffer(both):
    (small, _, _), (large, _, _) = both
    vectors = 180_000 * DIM * 4
    assert vectors > 2 * BUFFER, "held in memory, the vectors alone would show"
    assert large - small < BUFFER


def test_the_vectors_of_the_long_pass_are_those_of_their_texts(both):
    _, (_, out, corpus) = both
    vectors = np.load(out / "corpus.npy", mmap_mode="r")
    assert vectors.shape == (200_000, DIM)
    model = LetterCounts()
    for number in (0, 1, 99_999, 199_999):
        assert np.array_equal(vectors[number], model.finish(model.forward(model.prepare([corpus[number]])))[0])
