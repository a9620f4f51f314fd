"""What every store has to keep, over every store, index and metric that `conf/` has; a new YAML is picked up by itself.

A store whose engine is a server that does not run here is skipped, with the reason that it gives.
"""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.errors import StoreError
from harness.interfaces import Store
from stores.index import FLAT
from stores.vectors import METRICS
from tests.stores.oracle import ROOT, distances, hard_rows, recall

ROWS, DIM, K = 1_200, 48, 10
CORPUS, QUERIES = hard_rows(ROWS, DIM, 1), hard_rows(40, DIM, 2)
STORES = sorted(path.stem for path in (ROOT / "conf/store").glob("*.yaml"))
INDEXES = sorted(path.stem for path in (ROOT / "conf/index").glob("*.yaml"))
QUANTISED = ("SQ", "PQ", "RABITQ", "SCANN")


def from_yaml(group, name):
    return instantiate(OmegaConf.load(ROOT / f"conf/{group}/{name}.yaml"), _convert_="object")


def supported():
    for store, index, metric in product(STORES, INDEXES, METRICS):
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
        if store.in_process:
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


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory):
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


@pytest.fixture(scope="module", params=list(supported()))
def case(request, tmp_path_factory):
    name, index, metric = request.param
    store, index = opened(name, tmp_path_factory.mktemp("case") / name), from_yaml("index", index)
    store.create("corpus", dim=DIM, metric=metric, index=index)
    ready = fill(store, CORPUS)
    yield Case(store, index, metric, ready, store.index_bytes(), [store.search(QUERIES, K, params) for params in index.search_params()])
    store.close()


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
    assert {param.values[0][1] for param in supported()} == set(INDEXES)


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
    tolerance = (0.1 if is_quantised(case.index) else 1e-6) * to_rows.std()
    for answer in case.answers:
        for row, ids in enumerate(answer):
            assert (np.diff(to_rows[row][ids[ids >= 0]]) >= -tolerance).all()


def test_flat_finds_everything(case):
    if case.index.family != "FLAT":
        pytest.skip("an approximate index")
    assert recall(case.answers[0], QUERIES, CORPUS, case.metric) == 1.0


def test_recall_rises_with_the_knob_from_below_one(case):
    if case.index.knob is None:
        pytest.skip("an index without a knob")
    recalls = [recall(answer, QUERIES, CORPUS, case.metric) for answer in case.answers]
    assert recalls[0] < 0.95
    assert recalls[-1] > recalls[0] + 0.05
    assert (np.diff(recalls) >= -0.01).all()


def test_ivf_that_probes_every_cell_finds_everything(case):
    if case.index.knob != "nprobe":
        pytest.skip("an index without cells")
    assert case.index.search_params()[-1]["nprobe"] == case.index.build_params()["nlist"]
    found = recall(case.answers[-1], QUERIES, CORPUS, case.metric)
    assert found > 0.95 if is_quantised(case.index) else found == 1.0


def test_ready_counts_all_rows(case):
    assert case.ready.rows == ROWS
    assert case.ready.segments is None or case.ready.segments >= 1


def test_index_bytes_are_of_the_size_of_what_is_stored(case):
    if case.index_bytes is None:
        pytest.skip("the store cannot tell")
    vectors = ROWS * DIM * 4
    if is_quantised(case.index):
        assert vectors / 8 < case.index_bytes < vectors * 1.2
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


def test_a_dropped_collection_can_be_created_again_with_another_dimension(store):
    for dim, metric in ((DIM, "cosine"), (5, "l2"), (DIM, "ip")):
        store.create("again", dim=dim, metric=metric, index=FLAT())
        rows = np.ascontiguousarray(CORPUS[:100, :dim])
        fill(store, rows)
        queries = np.ascontiguousarray(QUERIES[:, :dim])
        assert recall(store.search(queries, K, {}), queries, rows, metric) == 1.0
        store.drop()


def test_collections_in_turn_do_not_mix(store):
    for name, rows in (("first", CORPUS[:300]), ("second", CORPUS[300:400])):
        store.create(name, dim=DIM, metric="l2", index=FLAT())
        fill(store, rows)
        assert recall(store.search(QUERIES, K, {}), QUERIES, rows, "l2") == 1.0
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


def test_the_floor_index_is_one_that_the_store_has_and_returns_k_rows(store):
    for rows, k in ((10, 1), (10, 10), (500, 10), (500, 100)):
        index = store.floor_index(rows=rows, k=k)
        assert store.violations(index=index, metric="l2", dim=4, rows=rows, k=[k]) == []
        assert index.violations(rows=rows, dim=4, k=[k]) == []
        (params,) = index.search_params()
        store.create("floor", dim=4, metric="l2", index=index)
        fill(store, np.ascontiguousarray(CORPUS[:rows, :4]))
        assert (store.search(np.ascontiguousarray(QUERIES[:, :4]), k, params) >= 0).mean() > 0.99
        store.drop()


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
