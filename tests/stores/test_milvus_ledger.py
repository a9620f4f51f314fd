"""What a killed program leaves on a server is dropped by the next, and nothing else is."""

import json
import subprocess
import sys

import pytest
from pymilvus import MilvusClient

from stores.index import FLAT
from stores.milvus import Milvus
from stores.milvus_ledger import Note, drop_left_behind
from tests.conftest import ROOT

OWNER = """
import os, sys, time
from stores.index import FLAT
from stores.milvus import Milvus
store = Milvus(uri=sys.argv[1])
store.open(None)
store.create("bench", dim=4, metric="l2", index=FLAT())
print(store._collection, flush=True)
time.sleep(600)
"""

IMPORTER = """
import sys, time
import numpy as np
from stores.index import FLAT
from stores.milvus import Milvus
from stores.milvus_bulk import BulkImport
store = Milvus(uri=sys.argv[1], insert_by="bulk_import", bulk_folder=sys.argv[2])
store.open(None)
store.create("bench", dim=4, metric="l2", index=FLAT())
BulkImport._imported = lambda *_: print("written", flush=True) or time.sleep(600)  # as when the server takes its time
store.insert(np.ones((5, 4), np.float32), 0)
"""


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    """A ledger of the test's own, in the processes that it starts, too."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "milvus-collections"


def owner(uri):
    """A program that has a collection on the server until it is killed; returns it and the collection's name."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, uri], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    name = process.stdout.readline().strip()
    assert name.startswith("harness_bench_")
    return process, name


def kill(process):
    process.kill()
    process.communicate()


def test_collections_of_a_killed_program_are_dropped_by_the_next_and_those_of_a_living_one_are_not(local, tmp_path, ledger):
    uri = local._shared.server.uri
    client = MilvusClient(uri)
    (dead, lost), (alive, kept) = owner(uri), owner(uri)
    try:
        kill(dead)
        assert {lost, kept} <= set(client.list_collections())
        store = Milvus(uri=uri)
        store.open(tmp_path)
        store.create("bench", dim=4, metric="l2", index=FLAT())
        there = set(client.list_collections())
        assert lost not in there
        assert {kept, store._collection} <= there
        store.close()
        assert store._collection not in client.list_collections()
        assert [path.stem for path in ledger.iterdir()] == [kept], "what was dropped is struck"
    finally:
        kill(alive)
        client.drop_collection(kept)
        client.close()


def dropped(uri, database="default", *, can=True):
    """Names that are asked to be dropped."""
    names = []
    drop_left_behind(uri, database, lambda name: names.append(name) or can)
    return names


def test_a_collection_is_its_owners_while_that_lives_and_of_no_other_server(ledger):
    note = Note("http://one:19530", "default", "harness_bench_1")
    assert dropped("http://one:19530") == []
    note.leave()
    assert dropped("http://two:19530") == dropped("http://one:19530", "other") == []
    assert json.loads((ledger / "harness_bench_1.json").read_text())["uri"] == "http://one:19530"
    assert dropped("http://one:19530") == ["harness_bench_1"]
    assert dropped("http://one:19530") == []


def test_what_could_not_be_dropped_stays_noted_and_the_others_are_dropped(ledger):
    for number in (1, 2):
        Note("http://one:19530", "default", f"harness_bench_{number}").leave()
    for _ in range(2):
        assert sorted(dropped("http://one:19530", can=False)) == ["harness_bench_1", "harness_bench_2"]
    assert len(dropped("http://one:19530")) == 2
    assert list(ledger.iterdir()) == []


def test_what_was_dropped_is_struck(ledger):
    Note("http://one:19530", "default", "harness_bench_1").strike()
    assert list(ledger.iterdir()) == []


@pytest.mark.parametrize("words", ["", '{"uri": "http://one:195', '{"uri": "http://one:19530"}', "[1]"])
def test_a_note_that_cannot_be_read_is_said_once_and_holds_up_no_other(ledger, words, caplog):
    Note("http://one:19530", "default", "harness_bench_2").leave()
    (ledger / "harness_bench_1.json").write_text(words)
    assert dropped("http://one:19530") == ["harness_bench_2"]
    assert "harness_bench_1 may be left on a Milvus server" in caplog.text
    assert list(ledger.iterdir()) == []


def test_files_of_an_import_go_when_their_owner_has_ended_and_no_others(ledger, tmp_path):
    mine, another = tmp_path / "shared" / "harness_bench_1", tmp_path / "shared" / "precious"
    for folder in (mine, another):
        folder.mkdir(parents=True)
        (folder / "vector.npy").write_text("rows")
    notes = [Note("http://one:19530", "default", "harness_bench_1", files=mine)]
    notes.append(Note("http://one:19530", "default", "harness_bench_2", files=another))
    dropped("http://one:19530")
    assert mine.exists(), "its owner lives"
    for note in notes:
        note.leave()
    dropped("http://two:19530")
    assert not mine.exists(), "whatever becomes of the collection"
    assert another.exists(), "it has not the name of its collection"
    assert len(dropped("http://one:19530")) == 2


def test_a_collection_that_the_server_does_not_drop_keeps_no_other_from_being_created(local, tmp_path, ledger, caplog):
    uri, lost = local._shared.server.uri, "harness_bench_not a name"  # the server answers with an error
    Note(uri, "default", lost).leave()
    store = Milvus(uri=uri)
    store.open(tmp_path)
    store.create("bench", dim=4, metric="l2", index=FLAT())
    store.close()
    assert f"left {lost}, which cannot be dropped" in caplog.text
    assert [path.stem for path in ledger.iterdir()] == [lost]


def test_files_of_a_killed_bulk_import_are_removed_by_the_next_program(local, tmp_path):
    shared = local._shared.server.folder / "data" / "killed"
    process = subprocess.Popen([sys.executable, "-c", IMPORTER, local.uri, shared], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline()
    kill(process)
    assert list(shared.rglob("vector.npy"))
    store = Milvus(uri=local.uri)
    store.open(tmp_path)
    store.create("bench", dim=4, metric="l2", index=FLAT())
    store.close()
    assert list(shared.rglob("*")) == []
