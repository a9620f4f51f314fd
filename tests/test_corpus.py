"""The canonical pass: the same batches whoever takes them, every document once, vectors that are the model's own."""

import json
import pickle

import numpy as np
import pytest

from harness.corpus import CANONICAL_BATCH, Corpus, OneProcess, canonical_batches, whole_batches
from harness.data import open_data
from harness.errors import DataError
from harness.interfaces import CorpusEngine, CorpusWork
from harness.vectors import make_vectors
from tests.cells import embed_spec, lay_out
from tests.plugins.parts import HashedWords

MODEL = "tests.plugins.parts.HashedWords"


def quiet(*_):
    pass


@pytest.fixture
def spec(tmp_path):
    return embed_spec(lay_out(tmp_path / "data", corpus=200, queries=40), target=MODEL)


def by_hand(texts):
    model = HashedWords()
    return np.concatenate([model.finish(model.forward(model.prepare([text]))) for text in texts])


class Backwards:
    """An engine of somebody else's: the runs in reverse, one at a time, by a copy of the work that was sent."""

    def violations(self, *, device):
        return []

    def embed(self, work, keep, *, device, shards, told):
        shards.mkdir(parents=True)
        (shards / "note").write_text("for a later run")
        sent = pickle.loads(pickle.dumps(work.elsewhere(device)))
        done = 0
        for run in reversed(whole_batches(work, 50)):
            for part in sent.embed(run):
                keep(part)
            done += len(run)
            told(done)
        return {"engine": "backwards", "items": done, "seconds": 1.0}


class Forgetful(OneProcess):
    """An engine that loses a batch."""

    def embed(self, work, keep, *, device, shards, told):
        for part in list(work.embed(work.numbers))[1:]:
            keep(part)
        return {"engine": "forgetful"}


def made(spec, folder, engine=None, **more):
    folder.mkdir()
    make_vectors({**spec, **({} if engine is None else {"engine": {"_target_": engine}}), **more}, folder, quiet)
    return json.loads((folder / "vectors.json").read_text())


def test_row_i_is_document_i_embedded_alone(spec, tmp_path):
    made(spec, tmp_path / "made")
    data = open_data(tmp_path / "data")
    for name, texts in (("corpus", data.corpus), ("queries", data.queries)):
        found = np.load(tmp_path / "made" / f"{name}.npy")
        assert np.allclose(found, by_hand(texts), atol=1e-6)


def test_another_engine_makes_the_same_vectors_bit_for_bit_and_the_record_says_who_it_was(spec, tmp_path):
    here = made(spec, tmp_path / "here")
    there = made(spec, tmp_path / "there", "tests.test_corpus.Backwards")
    assert there["fingerprint"] == here["fingerprint"]
    assert (here["made_by"]["engine"], here["made_by"]["items"]) == ("local", 200)
    assert there["made_by"] == {"engine": "backwards", "items": 200, "seconds": 1.0}
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["corpus.npy", "queries.npy", "vectors.json"]


def test_what_an_engine_keeps_for_a_later_run_outlasts_the_folder_where_that_was_asked_for(spec, tmp_path):
    made(spec, tmp_path / "made", "tests.test_corpus.Backwards", shards=str(tmp_path / "shelf"))
    assert (tmp_path / "shelf" / "note").read_text() == "for a later run"


def test_an_engine_that_loses_documents_is_found_out(spec, tmp_path):
    with pytest.raises(DataError, match="168 vectors of 200 documents"):
        made(spec, tmp_path / "made", "tests.test_corpus.Forgetful")


def test_runs_are_whole_batches_in_order_and_together_all_documents_once(spec):
    corpus = Corpus(spec)
    assert isinstance(OneProcess(), CorpusEngine)
    work: CorpusWork = corpus
    batches = list(canonical_batches(corpus.data))
    for items in (1, 32, 33, 64, 100, 1_000):
        runs = whole_batches(work, items)
        cut = [list(run[first : first + CANONICAL_BATCH["text"]]) for run in runs for first in range(0, len(run), CANONICAL_BATCH["text"])]
        assert cut == batches
        assert sorted(number for run in runs for number in run) == list(range(200))
        assert max(map(len, runs)) <= max(items, CANONICAL_BATCH["text"])


def test_work_is_sent_without_its_model_and_without_the_corpus(spec):
    corpus = Corpus(spec)
    list(corpus.embed(corpus.numbers[:32]))
    sent = pickle.dumps(corpus.elsewhere("cpu"))
    assert len(sent) < 2_000
    (part,) = pickle.loads(sent).embed(corpus.numbers[:32])
    (own,) = corpus.embed(corpus.numbers[:32])
    assert (part.vectors == own.vectors).all()
    assert list(part.numbers) == list(own.numbers) == list(corpus.numbers[:32])


def test_a_model_that_was_released_is_loaded_again_when_it_is_needed(spec):
    corpus = Corpus(spec)
    before = corpus.start()
    assert corpus.start() is before
    corpus.release()
    assert corpus.start() is not before


def test_progress_rises_to_all_documents_and_queries(spec, tmp_path):
    told = []
    (tmp_path / "made").mkdir()
    make_vectors(spec, tmp_path / "made", lambda stage, share, total: told.append((stage, share, total)))
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {(stage, total) for stage, _, total in told} == {("vectors", 240)}
