"""What a killed program leaves on a server is dropped by the next, and nothing else is."""

import json
import subprocess
import sys

import pytest
from pymilvus import MilvusClient

from stores.index import FLAT
from stores.milvus import Milvus
from stores.milvus_ledger import Note, left_behind
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


def test_a_collection_is_its_owners_while_that_lives_and_of_no_other_server(ledger):
    note = Note("http://one:19530", "default", "harness_bench_1")
    assert list(left_behind("http://one:19530", "default")) == []
    note.leave()
    assert list(left_behind("http://two:19530", "default")) == list(left_behind("http://one:19530", "other")) == []
    assert json.loads((ledger / "harness_bench_1.json").read_text())["uri"] == "http://one:19530"
    assert list(left_behind("http://one:19530", "default")) == ["harness_bench_1"]
    assert list(left_behind("http://one:19530", "default")) == [], "asked for the next, the first counts as dropped"


def test_what_could_not_be_dropped_stays_noted(ledger):
    Note("http://one:19530", "default", "harness_bench_1").leave()
    for _ in left_behind("http://one:19530", "default"):
        break  # as when the server refuses
    assert list(left_behind("http://one:19530", "default")) == ["harness_bench_1"]


def test_what_was_dropped_is_struck(ledger):
    Note("http://one:19530", "default", "harness_bench_1").strike()
    assert list(ledger.iterdir()) == []
