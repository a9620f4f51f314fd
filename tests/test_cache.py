"""Folders made once: whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from harness import cache
from harness.errors import SettingsError
from tests.conftest import ROOT


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


# ---------------------------------------------------------------------------------------- contents, use, pruning


def other_process(code):
    """Start a Python process with this one's cache; it prints a line when it is ready and ends when its input closes."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom harness import cache\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def age(kind, key, days):
    then = time.time() - days * 86400
    os.utime(cache.root() / kind / key / "files.json", (then, then))


@pytest.fixture
def three():
    """Three folders of 1,000, 2,000 and 3,000 bytes that nobody uses, last used 30, 20 and 10 days ago."""
    made = "for i in 1, 2, 3: cache.get('vectors', f'k{i}', lambda folder: (folder / 'x').write_bytes(bytes(1000 * i)))"
    with other_process(made) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.close()
    for i in (1, 2, 3):
        age("vectors", f"k{i}", 40 - 10 * i)


def test_contents_that_were_changed_are_found_by_their_checksum_and_made_again(monkeypatch):
    fill, calls = make()
    folder = cache.get("data", "k", fill)
    (folder / "sub" / "file").write_text("CONTENT")  # as long as before
    assert cache.find("data", "k") == folder
    monkeypatch.setattr(cache, "_sound", set())  # another process
    assert cache.sound("data", "k") is None
    assert (cache.get("data", "k", fill) / "sub" / "file").read_text() == "content"
    assert len(calls) == 2


def test_a_folder_of_an_earlier_version_without_checksums_is_taken():
    fill, calls = make()
    folder = cache.get("data", "k", fill)
    (folder / "files.json").write_text(json.dumps({"sub/file": 7}))
    assert cache.get("data", "k", fill) == folder
    assert len(calls) == 1


def test_the_entries_are_listed_with_kind_size_and_last_use(three):
    found = cache.entries()
    assert [(entry.kind, entry.key, entry.in_use) for entry in found] == [("vectors", f"k{i}", False) for i in (1, 2, 3)]
    for entry, size, days in zip(found, (1000, 2000, 3000), (30, 20, 10), strict=True):
        assert size <= entry.bytes < size + 200  # and the list
        assert entry.used_at == pytest.approx(time.time() - days * 86400, abs=60)


def test_being_asked_for_is_a_use(three):
    assert cache.find("vectors", "k1")
    assert [entry.key for entry in cache.entries()] == ["k2", "k3", "k1"]


def test_pruning_to_a_size_removes_what_was_unused_for_longest(three):
    assert [entry.key for entry in cache.prune(max_bytes=5700)] == ["k1"]
    assert [entry.key for entry in cache.prune(max_bytes=5700)] == []
    assert [entry.key for entry in cache.prune(max_bytes=0)] == ["k2", "k3"]
    assert cache.entries() == []
    assert not list((cache.root() / "vectors").glob(".*-*"))


def test_pruning_by_age_removes_what_is_older(three):
    assert [entry.key for entry in cache.prune(older_than_s=15 * 86400)] == ["k1", "k2"]


def test_what_a_running_process_has_asked_for_is_never_pruned_and_goes_when_the_process_has_ended(three):
    with other_process("cache.find('vectors', 'k1')") as process:
        assert process.stdout.readline() == "ready\n"
        age("vectors", "k1", 99)
        assert [entry.in_use for entry in cache.entries() if entry.key == "k1"] == [True]
        assert [entry.key for entry in cache.prune(max_bytes=0, older_than_s=0)] == ["k2", "k3"]
        process.kill()  # it clears nothing away
        process.wait()
    assert [entry.key for entry in cache.prune(max_bytes=0)] == ["k1"]


def test_what_this_process_has_asked_for_is_not_pruned():
    fill, _ = make()
    folder = cache.get("data", "k", fill)
    assert cache.prune(max_bytes=0) == []
    assert folder.exists()


def test_what_was_pruned_is_made_again(three):
    cache.prune(max_bytes=0)
    fill, calls = make()
    cache.get("vectors", "k1", fill)
    assert len(calls) == 1


def test_pruning_removes_what_a_killed_process_left_half_made_and_not_what_is_being_made(three):
    half = cache.root() / "vectors" / ".k9-abc123"
    half.mkdir()
    at_work = cache.root() / "vectors" / ".k8-abc123"
    at_work.mkdir()
    with FileLock(cache.root() / "vectors" / "k8.lock"):
        cache.prune(max_bytes=1e9)
    assert not half.exists()
    assert at_work.exists()


def test_a_limit_holds_whenever_something_is_added(three, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_MAX", "5.7kB")
    fill, _ = make()
    cache.get("data", "k", fill)
    assert [entry.key for entry in cache.entries()] == ["k2", "k3", "k"]


def test_processes_that_have_ended_leave_no_list_behind_for_long(three):
    cache.find("vectors", "k1")
    assert [path.name.partition("-")[0] for path in (cache.root() / ".in-use").glob("*-*")] == [str(os.getpid())]


def test_what_is_in_use_can_be_read_by_other_users_of_the_same_cache():
    cache.find("vectors", "k1")
    (path,) = (cache.root() / ".in-use").glob("*-*")
    assert path.stat().st_mode & 0o777 == 0o644


def test_pruning_removes_locks_of_what_is_not_there_any_more(three):
    with FileLock(cache.root() / "vectors" / "k2.lock"):
        cache.prune(max_bytes=0)
        assert [path.name for path in (cache.root() / "vectors").iterdir()] == ["k2.lock"]
    fill, calls = make()
    cache.get("vectors", "k2", fill)
    assert len(calls) == 1


@pytest.mark.parametrize("limit", ["20", "much", "-1GB"])
def test_a_limit_that_is_none_is_told_before_anything_is_made(monkeypatch, limit):
    monkeypatch.setenv("HARNESS_CACHE_MAX", limit)
    fill, calls = make()
    with pytest.raises(SettingsError, match="HARNESS_CACHE_MAX must be a size such as 500MB or 20GB, got"):
        cache.get("data", "k", fill)
    assert calls == []


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    fill, _ = make()
    with pytest.raises(SettingsError, match=r"cannot be written .*; set HARNESS_CACHE to another folder"):
        cache.get("data", "k", fill)
    assert cache.entries() == []
    assert cache.prune(max_bytes=0) == []


def test_a_cache_that_cannot_be_pruned_is_an_error_that_says_what_to_do(three):
    shutil.rmtree(cache.root() / ".in-use")
    (cache.root() / ".in-use").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        cache.prune(max_bytes=0)
    assert len(cache.entries()) == 3


@pytest.mark.parametrize(("text", "value"), [("30d", 30 * 86400), ("12h", 43200), ("2w", 1209600), ("5m", 300)])
def test_ages_are_understood(text, value):
    assert cache.seconds_of(text, key="x") == value


def test_the_command_lists_and_prunes(three, harness):
    own = {"HARNESS_CACHE": str(cache.root())}
    listed = harness("cache", "list", plugins=False, env=own)
    assert listed.returncode == 0, listed.stderr
    assert "vectors: 3 folders" in listed.stdout
    assert harness("cache", plugins=False, env=own).stdout == listed.stdout
    pruned = harness("cache", "prune", "--max-size", "3.5kB", plugins=False, env=own)
    assert pruned.returncode == 0, pruned.stderr
    assert "2 removed" in pruned.stdout
    assert "1 left" in pruned.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to remove"),
        (["--max-size", "much"], "--max-size must be a size"),
        (["--older-than", "3"], "--older-than must be an age"),
        (["--older-than", "30s"], "--older-than must be an age"),
        (["--max-size=-5GB"], "--max-size must be a size"),
    ],
)
def test_a_prune_that_says_nothing_or_nonsense_is_refused(harness, arguments, words):
    done = harness("cache", "prune", *arguments, plugins=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_shelf_keeps_what_is_put_there_and_is_listed_and_pruned_like_any_other():
    shelf = cache.shelf("shards", "k")
    (shelf / "piece").write_text("x" * 100)
    assert cache.shelf("shards", "k") == shelf
    assert (shelf / "piece").read_text() == "x" * 100
    (entry,) = cache.entries()
    assert (entry.kind, entry.key, entry.in_use) == ("shards", "k", True)
    assert entry.bytes >= 100
    assert cache.prune(max_bytes=0) == [], "this process uses it"
