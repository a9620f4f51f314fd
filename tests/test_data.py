"""A dataset on disk and its batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Batches, open_data, prepare
from harness.errors import DataError
from harness.interfaces import Caveat, Data
from tests.plugins.parts import Sentences

NODE = {"_target_": "tests.plugins.parts.Sentences", "corpus": 30, "queries": 5, "seed": 0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@given(st.lists(st.text("ab ", max_size=20), min_size=1, max_size=40), st.integers(1, 50), st.sampled_from(["text", "image"]))
def test_batches_cover_every_item_once(corpus, batch_size, modality):
    data = Data(modality, "made", corpus, [], None, "")
    batches = Batches.of(data, range(len(corpus)), batch_size)
    found = list(batches)
    assert sorted(number for batch in found for number in batch) == list(range(len(corpus)))
    assert len(found) == len(batches)
    assert all(len(batch) == batch_size for batch in found[:-1])
    assert 1 <= len(found[-1]) <= batch_size


@given(st.lists(st.text("ab ", max_size=20), min_size=1, max_size=40))
def test_texts_are_taken_longest_first_and_pictures_as_they_come(corpus):
    numbers = list(range(len(corpus)))
    ordered = Batches.of(Data("text", "made", corpus, [], None, ""), numbers, 4).numbers
    assert [len(corpus[i]) for i in ordered] == sorted((len(text) for text in corpus), reverse=True)
    assert list(Batches.of(Data("image", "made", corpus, [], None, ""), numbers, 4).numbers) == numbers


def test_what_was_laid_out_is_read_back_as_it_was_made(tmp_path):
    made = Sentences(corpus=30, queries=5).materialise(tmp_path)
    assert open_data(prepare(Sentences(corpus=30, queries=5), NODE)) == made


def test_a_dataset_is_made_once_and_again_when_its_sources_or_settings_change():
    class Counted(Sentences):
        made = 0
        source = "a"

        def identity(self):
            return self.source

        def materialise(self, folder):
            type(self).made += 1
            return super().materialise(folder)

    first = prepare(Counted(), NODE)
    assert prepare(Counted(), NODE) == first
    assert Counted.made == 1
    Counted.source = "b"
    assert prepare(Counted(), NODE) != first
    assert prepare(Counted(), {**NODE, "seed": 1}) != first
    assert Counted.made == 3


def test_pictures_are_found_wherever_the_cache_is_moved(tmp_path):
    class Pictures(Sentences):
        modality = "image"

        def materialise(self, folder):
            (folder / "0.png").write_bytes(b"a picture")
            caveat = Caveat("unreadable_files", "one file could not be read")
            return Data("image", "pictures", [str(folder / "0.png"), "/elsewhere/1.png"], [], None, "f" * 64, (caveat,), {"left_out": 1})

    folder = prepare(Pictures(), NODE)
    moved = folder.rename(tmp_path / "moved")
    found = open_data(moved)
    assert list(found.corpus) == [str(moved / "0.png"), "/elsewhere/1.png"]
    assert found.caveats[0].code == "unreadable_files"
    assert found.labels == {"left_out": 1}
    assert found.qrels is None


def test_a_dataset_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    class Empty(Sentences):
        def materialise(self, folder):
            (folder / "half").write_text("half")
            raise DataError("nothing usable is left")

    with pytest.raises(DataError):
        prepare(Empty(), NODE)
    assert [path.name for path in (tmp_path / "cache/data").iterdir() if path.suffix != ".lock"] == []
