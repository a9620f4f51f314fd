"""What every store has to keep, over every store, index and metric that `conf/` has; a new YAML is picked up by itself.

A store whose server does not run here, or whose library is not installed, is skipped, with the reason that it gives.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from itertools import product

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.errors import StoreError
from harness.interfaces import Changeable, Store, part_of
from stores.index import FLAT
from stores.vectors import DTYPES, METRICS
from tests.stores.oracle import ROOT, distances, hard_rows, recall

ROWS, DIM, K = 1_200, 64, 10
CORPUS, QUERIES = hard_rows(ROWS, DIM, 1), hard_rows(40, DIM, 2)
STORES = sorted(path.stem for path in (ROOT / "conf/store").glob("*.yaml"))
INDEXES = sorted(path.stem for path in (ROOT / "conf/index").glob("*.yaml"))
QUANTISED = ("SQ", "PQ", "RABITQ", "SCANN")
LEAST_RECALL = {"IVF_SQ8": 0.95, "IVF_PQ": 0.75, "IVF_RABITQ": 0.4, "SCANN": 0.95, "HNSW_SQ": 0.95, "HNSW_PQ": 0.75, "HNSW_PRQ": 0.75}
"""What a compressed index still finds of these hard rows when it looks at all of them."""
DISORDER = {"IVF_PQ": 1.5, "HNSW_PQ": 1.5, "HNSW_PRQ": 1.5}
"""By how much rows may be out of order where codes are compared and not rows, in standard deviations of the distances."""
PARTS = (1, 10, 100, 500)
"""Filters that let 0.1, 1, 10 and 50 % of the rows pass."""
NO_ENGINE = ("pip install", "did not answer", "could not start", "needs a GPU")
"""What a store says whose engine is not to be had on this machine."""

DECLARED = ("milvus", "zilliz", "faiss_gpu")
"""Stores that cannot be run here: a user's server, which differs from milvus_local by where it is, so that its cases stand for it; or one
that needs a GPU and an environment of its own. Their own tests have what can be held without an engine."""
RUN = [name for name in STORES if name not in DECLARED]
SLOW = ("milvus_local",)
"""Stores that take seconds to make a collection ready: each index with one metric, and each metric with one index, have to do."""


def from_yaml(group, name):
    return instantiate(OmegaConf.load(ROOT / f"conf/{group}/{name}.yaml"), _convert_="object")


@cache
def supported():
    return list(_supported())


def _supported():
    for store, index, metric in product(RUN, INDEXES, METRICS):
        if store in SLOW and metric != "cosine" and index != "flat":
            continue
        if not from_yaml("store", store).violations(index=from_yaml("index", index), metric=metric, dim=DIM, rows=ROWS, k=[K]):
            yield pytest.param((store, index, metric), id=f"{store}-{index}-{metric}")


def is_quantised(index):
    return any(word in index.family for word in QUANTISED)


def opened(name, folder):
    store = from_yaml("store", name)
    folder.mkdir(parents=True)
    try:
        store.open(folder)
    except StoreError as error:
        if store.in_process and not any(words in str(error) for words in NO_ENGINE):
            raise
        pytest.skip(f"store={name}: {error}")
    return store


def fill(store, rows, batches=3):
    first_id = 0
    for batch in np.array_split(rows, batches):
        store.insert(batch, first_id)
        first_id += len(batch)
    store.build()
    return store.wait_ready(rows=len(rows), deadline_s=120)


@pytest.fixture(scope="module", params=RUN)
def store(request, tmp_path_factory):
    if request.param == "milvus_local":
        request.getfixturevalue("local")  # keeps the server running between stores
    store = opened(request.param, tmp_path_factory.mktemp("store") / request.param)
    yield store
    store.close()


@dataclasses.dataclass
class Case:
    """A filled collection and what it answered at each operating point."""

    store: Store
    index: object
    metric: str
    ready: object
    index_bytes: int | None
    answers: list


def filled(param, folder):
    name, index, metric = param
    store, index = opened(name, folder / name), from_yaml("index", index)
    filtered = not store.violations(index=index, metric=metric, dim=DIM, rows=ROWS, k=[K], filtered=True)
    store.create("corpus", dim=DIM, metric=metric, index=index, filtered=filtered)
    ready = fill(store, CORPUS)
    return Case(store, index, metric, ready, store.index_bytes(), [store.search(QUERIES, K, params) for params in index.search_params()])


@pytest.fixture(scope="module")
def slow_cases(local, tmp_path_factory):
    """The cases of the store whose server waits more than it works, made side by side, by their parameters."""
    asked = [case.values[0] for case in supported() if case.values[0][0] in SLOW]
    with ThreadPoolExecutor(len(asked)) as threads:
        made = list(threads.map(lambda param: filled(param, tmp_path_factory.mktemp("case")), asked))
    yield dict(zip(asked, made, strict=True))
    for each in made:
        each.store.close()


@pytest.fixture(scope="module", params=supported())
def case(request, tmp_path_factory):
    if request.param[0] in SLOW:
        yield request.getfixturevalue("slow_cases")[request.param]
        return
    found = filled(request.param, tmp_path_factory.mktemp("case"))
    yield found
    found.store.close()


ENGINES = {"exact": "numpy", "faiss": "faiss-cpu", "milvus_lite": "milvus-lite", "usearch": "usearch"}
"""The packages whose versions engines inside this process are verified by."""


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_called_verified_runs_here_on_the_version_that_this_project_is_tested_with(name):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    run = {from_yaml("index", case.values[0][1]).family for case in supported() if case.values[0][0] == name}
    ((version, families),) = from_yaml("store", name).verified.items()
    assert version == pins[ENGINES[name]].partition("+")[0]
    assert run == set(families)


@pytest.mark.parametrize("name", STORES)
def test_a_store_says_what_it_is(name):
    path = ROOT / f"conf/store/{name}.yaml"
    assert path.read_text().startswith("# ")
    store = from_yaml("store", name)
    assert isinstance(store, Store)
    assert store.name == name
    assert store.families
    assert set(store.metrics) <= set(METRICS)
    assert store.largest_insert >= 1


def test_every_index_option_has_a_store():
    had = {family for store in STORES for family in from_yaml("store", store).families}
    assert {from_yaml("index", index).family for index in INDEXES} <= had


def test_answers_are_ids_of_rows_each_once(case):
    for answer in case.answers:
        assert answer.dtype == np.int64
        assert answer.shape == (len(QUERIES), K)
        for ids in answer:
            found = ids[ids >= 0]
            assert (ids[len(found) :] == -1).all()
            assert len(set(found.tolist())) == len(found)
            assert (found < ROWS).all()


def test_the_widest_search_finds_k_rows(case):
    assert (case.answers[-1] >= 0).all()


def test_answers_are_sorted_best_first(case):
    to_rows = distances(QUERIES, CORPUS, case.metric)
    tolerance = DISORDER.get(case.index.family, 0.1 if is_quantised(case.index) else 1e-6) * to_rows.std()
    for answer in case.answers:
        for row, ids in enumerate(answer):
            assert (np.diff(to_rows[row][ids[ids >= 0]]) >= -tolerance).all()


def test_flat_finds_everything_recall_rises_with_a_knob_and_probing_every_cell_finds_everything(case):
    recalls = [recall(answer, QUERIES, CORPUS, case.metric) for answer in case.answers]
    if case.index.knob is None:
        assert case.index.family == "FLAT"
        assert recalls == [1.0]
        return
    assert recalls[0] < 0.95
    assert recalls[-1] > recalls[0] + 0.05
    assert (np.diff(recalls) >= (-0.05 if is_quantised(case.index) else -0.01)).all()
    if case.index.knob == "nprobe":
        assert case.index.search_params()[-1]["nprobe"] == case.index.build_params()["nlist"]
        assert recalls[-1] >= LEAST_RECALL.get(case.index.family, 1.0)


def test_ready_counts_all_rows(case):
    assert case.ready.rows == ROWS
    assert case.ready.segments is None or case.ready.segments >= 1


def test_index_bytes_are_of_the_size_of_what_is_stored(case):
    if case.index_bytes is None:  # the server keeps the rows alone
        assert (case.store.name, case.index.family) == ("milvus_local", "FLAT")
        return
    vectors = ROWS * DIM * 4
    if is_quantised(case.index):
        assert vectors / 8 < case.index_bytes < vectors * 1.5
    else:
        assert vectors <= case.index_bytes < vectors * 2


def test_one_query_is_answered_as_among_many(case):
    params = case.index.search_params()[-1]
    for row in range(5):
        alone = case.store.search(QUERIES[row : row + 1], K, params)
        assert recall(alone, QUERIES[row : row + 1], CORPUS, case.metric) == pytest.approx(
            recall(case.answers[-1][row : row + 1], QUERIES[row : row + 1], CORPUS, case.metric)
        )


def test_a_wrong_query_is_refused_and_the_store_goes_on(case):
    params = case.index.search_params()[-1]
    for queries in (np.ones((1, DIM + 1), np.float32), np.ones(DIM, np.float32), np.ones((1, DIM), np.float64)):
        with pytest.raises(StoreError, match="must be float32 of shape"):
            case.store.search(queries, K, params)
    assert case.store.search(QUERIES[:1], K, params).shape == (1, K)


def test_searches_side_by_side_answer_as_one_after_the_other(case):
    params = case.index.search_params()[-1]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: case.store.search(QUERIES[i : i + 1], K, params)[0], [i % 40 for i in range(160)]))
    serial = np.concatenate([case.store.search(QUERIES[i : i + 1], K, params) for i in range(40)])
    assert (np.array(found) == np.tile(serial, (4, 1))).all()


def test_deeper_than_there_are_rows_the_answer_is_padded(case):
    params = {name: ROWS + 5 if name in ("ef", "reorder_k") else value for name, value in case.index.search_params()[-1].items()}
    answer = case.store.search(QUERIES[:2], ROWS + 5, params)
    assert answer.shape == (2, ROWS + 5)
    for ids in answer:
        found = ids[ids >= 0]
        assert len(found) >= ROWS * 0.6
        assert (ids[len(found) :] == -1).all()
        assert len(set(found.tolist())) == len(found)


def filtered_recall(case, below):
    """Recall against brute force over the rows that the filter lets pass; fewer than k of them may be all there are."""
    allowed = np.flatnonzero(part_of(np.arange(ROWS)) < below)
    answer = case.store.search(QUERIES, K, case.index.search_params()[-1], below=below)
    assert np.isin(answer[answer >= 0], allowed).all(), "a row that the filter keeps out"
    rank_of = np.full(ROWS + 1, -1)
    rank_of[allowed] = np.arange(len(allowed))
    ranks = rank_of[answer][:, : min(K, len(allowed))]
    return recall(ranks, QUERIES, CORPUS[allowed], case.metric)


@pytest.mark.parametrize("below", PARTS)
def test_a_filter_lets_its_rows_pass_and_no_other(case, below):
    if case.store.violations(index=case.index, metric=case.metric, dim=DIM, rows=ROWS, k=[K], filtered=True):
        with pytest.raises(StoreError, match="filter"):
            case.store.search(QUERIES, K, case.index.search_params()[-1], below=below)
        return
    found = filtered_recall(case, below)
    if case.index.family == "FLAT" or (case.index.knob == "nprobe" and not is_quantised(case.index)):
        assert found == 1.0
    else:
        assert found > 0.75 * LEAST_RECALL.get(case.index.family, 1.0)


def quantised(vectors, vector_type):
    """What a store of that type is handed, and the numbers that it then holds."""
    if vector_type == "int8":
        whole = np.clip(vectors * 30, -127, 127).astype(np.int8)
        return whole, whole.astype(np.float32)
    if vector_type == "binary":
        bits = vectors > 0
        return np.packbits(bits, axis=1), np.where(bits, np.float32(1), np.float32(-1))
    if vector_type == "fp16":
        return vectors, vectors.astype(np.float16).astype(np.float32)
    if vector_type == "bf16":
        upper = (vectors.view(np.uint32) + 0x7FFF + ((vectors.view(np.uint32) >> 16) & 1)) & 0xFFFF0000  # round to nearest, ties to even
        return vectors, upper.astype(np.uint32).view(np.float32)
    return vectors, vectors


def stored_types():
    for name, index, metric in product(RUN, ("flat", "hnsw", "ivf_flat"), METRICS):
        store, settings = from_yaml("store", name), from_yaml("index", index)
        if name in SLOW and metric != "l2":
            continue
        for vector_type in store.vector_types:
            if vector_type != "fp32" and not store.violations(
                index=settings, metric=metric, dim=DIM, rows=ROWS, k=[K], vector_type=vector_type
            ):
                yield pytest.param(name, index, metric, vector_type, id=f"{name}-{index}-{metric}-{vector_type}")


@pytest.mark.parametrize(("name", "index", "metric", "vector_type"), list(stored_types()))
def test_a_vector_type_is_searched_as_brute_force_over_the_quantised_vectors_does(name, index, metric, vector_type, tmp_path):
    store, index = opened(name, tmp_path / "store"), from_yaml("index", index)
    handed, held = quantised(CORPUS, vector_type)
    asked, meant = quantised(QUERIES, vector_type)
    assert handed.dtype == DTYPES[vector_type]
    store.create("typed", dim=DIM, metric=metric, index=index, vector_type=vector_type)
    fill(store, handed)
    answer = store.search(asked, K, index.search_params()[-1])
    rtol = 2**-7 if vector_type in ("fp16", "bf16") else 1e-5  # the order in which an engine rounds and normalises is its own
    assert recall(answer, meant, held, metric, rtol=rtol) >= (0.97 if index.family == "HNSW" else 1.0)
    if store.index_bytes() is not None:
        plain = ROWS * DIM * 4
        assert store.index_bytes() < plain * (1.3 if index.family == "HNSW" else 0.75)
    with pytest.raises(StoreError, match="vectors must be"):
        store.search(QUERIES.astype(np.float64), K, index.search_params()[-1])
    store.close()


def test_duplicates_of_a_row_are_found_each_once(store):
    rows = np.repeat(CORPUS[:60], 20, axis=0)
    store.create("duplicates", dim=DIM, metric="l2", index=FLAT())
    fill(store, rows)
    answer = store.search(CORPUS[:60], 20, {})
    for row, ids in enumerate(answer):
        assert sorted(ids.tolist()) == list(range(20 * row, 20 * row + 20))
    store.drop()


def test_dropped_and_closed_a_store_leaves_neither_rows_nor_threads(store, tmp_path):
    before = {thread.ident for thread in threading.enumerate()}
    folder = tmp_path / "left"
    other = opened(store.name, folder)
    other.create("left", dim=DIM, metric="l2", index=FLAT())
    fill(other, CORPUS)
    other.drop()
    with pytest.raises(StoreError):
        other.search(QUERIES, K, {})
    other.close()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < CORPUS.nbytes / 4

    def left():
        return [thread.name for thread in threading.enumerate() if thread.ident not in before and not thread.daemon]

    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:  # a client library may take a moment
        time.sleep(0.05)
    assert left() == []


def test_insert_in_one_or_many_batches_is_the_same(store):
    answers = []
    for batches in (1, 7):
        store.create("batches", dim=DIM, metric="l2", index=FLAT())
        fill(store, CORPUS, batches)
        answers.append(store.search(QUERIES, K, {}))
        store.drop()
    assert (answers[0] == answers[1]).all()


def test_a_row_finds_itself_under_its_own_number(store):
    store.create("itself", dim=DIM, metric="cosine", index=FLAT())
    fill(store, CORPUS, 5)
    assert store.search(CORPUS[:200], 1, {})[:, 0].tolist() == list(range(200))
    store.drop()


def test_where_rows_run_out_the_answer_is_padded(store):
    store.create("few", dim=DIM, metric="ip", index=FLAT())
    fill(store, CORPUS[:4], 2)
    answer = store.search(QUERIES[:3], 7, {})
    assert (np.sort(answer[:, :4]) == np.arange(4)).all()
    assert (answer[:, 4:] == -1).all()
    store.drop()


def test_collections_in_turn_do_not_mix_and_a_dropped_one_can_be_created_again_with_another_dimension(store):
    for name, dim, metric, first in (("again", 5, "l2", 0), ("other", DIM, "cosine", 300), ("again", DIM, "ip", 600)):
        store.create(name, dim=dim, metric=metric, index=FLAT())
        rows = np.ascontiguousarray(CORPUS[first : first + 300, :dim])
        fill(store, rows)
        queries = np.ascontiguousarray(QUERIES[:, :dim])
        assert recall(store.search(queries, K, {}), queries, rows, metric) == 1.0
        store.drop()


def test_two_stores_of_a_kind_live_side_by_side(store, tmp_path):
    other = opened(store.name, tmp_path / "other")
    for each, rows in ((store, CORPUS[:300]), (other, CORPUS[300:700])):
        each.create("same_name", dim=DIM, metric="l2", index=FLAT())
        fill(each, rows)
    for each, rows in ((store, CORPUS[:300]), (other, CORPUS[300:700])):
        assert recall(each.search(QUERIES, K, {}), QUERIES, rows, "l2") == 1.0
    store.drop()
    other.close()


def test_the_floor_index_is_one_that_the_store_has_and_returns_k_rows(store, tmp_path):
    def found(rows, k):
        index = store.floor_index(rows=rows, k=k)
        assert store.violations(index=index, metric="l2", dim=4, rows=rows, k=[k]) == []
        assert index.violations(rows=rows, dim=4, k=[k]) == []
        (params,) = index.search_params()
        with closing(opened(store.name, tmp_path / f"{rows}-{k}")) as one:
            one.create("floor", dim=4, metric="l2", index=index)
            fill(one, np.ascontiguousarray(CORPUS[:rows, :4]))
            return (one.search(np.ascontiguousarray(QUERIES[:, :4]), k, params) >= 0).mean()

    with ThreadPoolExecutor(4) as threads:  # a server waits more than it works
        each = threads.map if store.name in SLOW else map
        assert min(each(found, (10, 10, 500, 500), (1, 10, 10, 100))) > 0.99


def test_search_before_ready_is_refused(store):
    store.create("early", dim=DIM, metric="l2", index=FLAT())
    with pytest.raises(StoreError, match="before"):
        store.search(QUERIES, K, {})
    store.insert(CORPUS, 0)
    with pytest.raises(StoreError, match="before"):
        store.search(QUERIES, K, {})
    store.drop()


def test_missing_rows_are_not_ready(store):
    store.create("short", dim=DIM, metric="l2", index=FLAT())
    store.insert(CORPUS[:50], 0)
    store.build()
    with pytest.raises(StoreError, match="50"):
        store.wait_ready(rows=51, deadline_s=0.05)
    store.drop()


def test_bad_rows_are_refused_before_they_reach_the_engine(store):
    store.create("bad", dim=DIM, metric="cosine", index=FLAT())
    bad = CORPUS[:10].copy()
    bad[3, 0] = np.nan
    with pytest.raises(StoreError, match="row 23 holds NaN"):
        store.insert(bad, 20)
    bad[3] = 0
    with pytest.raises(StoreError, match="row 23 is all zeros"):
        store.insert(bad, 20)
    with pytest.raises(StoreError, match="must be float32"):
        store.insert(CORPUS[:10, 1:], 0)
    fill(store, CORPUS[:20])
    store.drop()


@dataclasses.dataclass(frozen=True)
class Unknown(FLAT):
    """A family that no store has."""

    family = "NO_SUCH"


def test_what_a_store_has_not_got_is_refused_with_the_list_of_what_it_has(store):
    (message,) = store.violations(index=Unknown(), metric=store.metrics[0], dim=DIM, rows=ROWS, k=[K])
    assert message == f"store={store.name} has no index NO_SUCH; it has {', '.join(store.families)}"
    (message,) = store.violations(index=FLAT(), metric="hamming", dim=DIM, rows=ROWS, k=[K])
    assert message == f"store={store.name} has no metric hamming; it has {', '.join(store.metrics)}"
    with pytest.raises(StoreError, match="NO_SUCH"):
        store.create("unknown", dim=DIM, metric=store.metrics[0], index=Unknown())


@pytest.mark.parametrize(("name", "index"), list(product(STORES, INDEXES)))
def test_an_index_is_refused_exactly_when_it_is_not_in_the_list(name, index):
    store, index = from_yaml("store", name), from_yaml("index", index)
    refused = store.violations(index=index, metric=store.metrics[0], dim=DIM, rows=ROWS, k=[K])
    assert bool(refused) == (index.family not in store.families)


def test_a_dimension_or_k_below_one_is_refused(store):
    assert len(store.violations(index=FLAT(), metric=store.metrics[0], dim=0, rows=ROWS, k=[0, K])) == 2


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_was_not_opened_says_so_and_closes_quietly(name):
    store = from_yaml("store", name)
    with pytest.raises(StoreError):
        store.insert(CORPUS[:1], 0)
    with pytest.raises(StoreError):
        store.search(QUERIES, K, {})
    store.close()
    store.close()


CHANGEABLE = [name for name in RUN if isinstance(from_yaml("store", name), Changeable)]


def shows(store, queries, wanted, within_s=20.0):
    """Whether searches come to answer so: an engine may show a change some time after it has acknowledged it."""
    deadline = time.monotonic() + within_s
    while not (seen := (store.search(queries, K, {}) == wanted).all()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


@pytest.mark.parametrize("name", CHANGEABLE)
def test_rows_come_go_and_are_replaced_while_the_collection_is_searched(name, request, tmp_path):
    if name == "milvus_local":
        request.getfixturevalue("local")  # keeps the server running between stores
    store = opened(name, tmp_path / "store")
    store.create("changing", dim=DIM, metric="l2", index=FLAT())
    fill(store, CORPUS[:1000])
    rows = dict(enumerate(CORPUS[:1000]))

    def nearest():
        ids = np.array(list(rows))
        order = np.argsort(distances(QUERIES, np.stack(list(rows.values())), "l2"), axis=1, kind="stable")
        return ids[order[:, :K]]

    assert (store.search(QUERIES, K, {}) == nearest()).all()
    gone = np.unique(nearest()[:, :3])
    store.delete(gone)
    for number in gone.tolist():
        del rows[number]
    assert shows(store, QUERIES, nearest()), "deleted"
    fresh = np.arange(5_000, 5_000 + len(QUERIES))
    store.add(QUERIES + 0.001, fresh)
    rows |= dict(zip(fresh.tolist(), QUERIES + 0.001, strict=True))
    assert shows(store, QUERIES, nearest()), "inserted"
    changed = np.array([*list(rows)[:2], 5_003])
    store.upsert(QUERIES[:3] + 0.0005, changed)
    rows |= dict(zip(changed.tolist(), QUERIES[:3] + 0.0005, strict=True))
    assert shows(store, QUERIES, nearest()), "replaced"
    with pytest.raises(StoreError, match="must be float32"):
        store.add(QUERIES[:1].astype(np.float64), np.array([9_000]))
    store.close()
