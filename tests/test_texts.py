"""Texts in a file: the same texts, one at a time."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.texts import Texts, write


def read_back(texts, folder):
    write(texts, Path(folder) / "corpus")
    return Texts(Path(folder) / "corpus")


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=20), max_size=12))  # lone surrogates too, as in odd file names
def test_texts_are_read_back_as_they_were(texts):
    with TemporaryDirectory() as folder:
        found = read_back(texts, folder)
        assert list(found) == texts
        assert found == texts
        assert texts == found
        assert len(found) == len(texts)
        assert [found[i] for i in range(-len(texts), 0)] == texts
        assert found[2:7:2] == texts[2:7:2]


def test_a_text_that_is_not_there_is_an_index_error(tmp_path):
    found = read_back(["a", "b"], tmp_path)
    for number in (2, -3):
        with pytest.raises(IndexError):
            found[number]


def test_other_texts_are_not_equal(tmp_path):
    found = read_back(["a", "b"], tmp_path)
    assert found != ["a", "c"]
    assert found != ["a"]
    assert found != 7


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc, which this system lacks")
def test_the_file_is_closed_with_the_last_reference(tmp_path):
    def open_files():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    found = read_back(["a"], tmp_path)
    assert open_files() > before
    del found
    assert open_files() == before
