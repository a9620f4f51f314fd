"""Folders made once: whole or not at all."""

import threading

import pytest

from harness import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def make(text="content"):
    calls = []

    def fill(folder):
        calls.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(text)

    return fill, calls


def test_a_folder_is_made_once_and_found_afterwards():
    fill, calls = make()
    assert cache.find("data", "k") is None
    first = cache.get("data", "k", fill)
    assert cache.get("data", "k", fill) == first == cache.find("data", "k")
    assert len(calls) == 1
    assert (first / "sub" / "file").read_text() == "content"


def test_what_fails_while_being_made_leaves_nothing():
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.get("data", "k", fail)
    assert cache.find("data", "k") is None
    assert [path.name for path in (cache.root() / "data").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("damage", ["shortened", "removed", "list removed", "list broken"])
def test_a_damaged_folder_is_made_again(damage):
    fill, calls = make()
    folder = cache.get("data", "k", fill)
    if damage == "shortened":
        (folder / "sub" / "file").write_text("con")
    elif damage == "removed":
        (folder / "sub" / "file").unlink()
    elif damage == "list removed":
        (folder / "files.json").unlink()
    else:
        (folder / "files.json").write_text("{")
    assert cache.find("data", "k") is None
    assert (cache.get("data", "k", fill) / "sub" / "file").read_text() == "content"
    assert len(calls) == 2


def test_two_that_want_the_same_folder_make_it_once():
    fill, calls = make()
    threads = [threading.Thread(target=cache.get, args=("data", "k", fill)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_kinds_and_keys_are_apart():
    one, _ = make("one")
    two, _ = make("two")
    assert cache.get("data", "k", one) != cache.get("vectors", "k", two)
    assert (cache.get("vectors", "k", one) / "sub" / "file").read_text() == "two"


def test_what_a_killed_process_left_half_made_is_removed_by_the_next():
    fill, _ = make()
    half = cache.root() / "data" / ".k-abc123"
    half.mkdir(parents=True)
    (half / "file").write_text("half")
    other = cache.root() / "data" / ".other-abc123"
    other.mkdir()
    cache.get("data", "k", fill)
    assert not half.exists()
    assert other.exists()  # somebody may be at work on it
