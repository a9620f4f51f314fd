"""What the harness itself costs, as ratios and differences of two things timed in turn in one process.

Without ``--benchmark-enable`` everything runs once or twice and is checked to be right, not to be quick; `make bench` times it,
prints the figures and fails where the harness would falsify what it measures.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from threadpoolctl import threadpool_limits

from harness import fingerprint
from harness.build import build
from harness.embed_cell import forward_pass
from harness.load import Asked
from harness.replicate import Replicate
from harness.search_cell import _block, _Point
from harness.timing import Timed
from stores.exact import Exact
from stores.index import FLAT
from tests.benchmarks.pairs import alternated, ratio
from tests.conftest import ROOT
from tests.plugins.parts import NullStore

WORDS = "the harness embeds texts and searches their vectors in an index to see how fast and how well that goes".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def one_thread():
    """With as many threads as cores, any other program stops one of them and all wait for it: a pair's times then differ by half."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def minilm():
    """The real model, loaded as a cell loads it, and batches of short texts, ready for its forward pass."""
    model = build(yaml.safe_load((ROOT / "conf/model/minilm.yaml").read_text()), key="model")
    model.load(model.fetch(model.locate()), device="cpu", dtype="fp32")
    rng = np.random.default_rng(0)
    prepared = [model.prepare([" ".join(rng.choice(WORDS, 12)) for _ in range(8)]) for _ in range(4)]
    return model, prepared


def test_forward_throughput_is_at_least_097_of_a_bare_loop(benchmark, publish, minilm):
    """The figure that a cell states against the library called in a loop, over the same batches."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, prepared = minilm
    library = model.network  # the SentenceTransformer itself
    features = [ready.inputs[0] for ready in prepared]

    def through_the_harness():
        timed = Timed()
        forward_pass(model, prepared, "cpu", timed)
        assert timed.count == len(prepared)
        return timed.wall_s

    def bare():
        began = time.perf_counter()
        with torch.inference_mode():
            for batch in features:
                library(dict(batch))
        return time.perf_counter() - began

    with torch.inference_mode():
        expected = library(dict(features[0]))["sentence_embedding"].numpy()
    assert np.array_equal(model.finish(model.forward(prepared[0])), expected), "both do the same work"
    alternated(through_the_harness, bare, pairs=2)  # warm up
    found = ratio(alternated(through_the_harness, bare, pairs=100 if benchmark.enabled else 2))
    benchmark.pedantic(through_the_harness, rounds=5)
    torch.set_num_threads(threads)
    publish(forward_throughput_harness_by_bare=found)
    if benchmark.enabled:
        assert found.pairs >= 20
        assert found.lo >= 0.97


def measured(store, queries, blocks):
    """Measure so many blocks as a search cell does; returns the point."""
    point = _Point("point", Asked(10, {}))
    requests = [np.asarray([i]) for i in range(len(queries))]
    for _ in range(blocks):
        _block(point, store, queries, requests)
    return point


def test_own_time_of_a_query_against_a_null_store(benchmark, publish):
    """What the loop of a search cell adds to a query: to its latency, and to the wall time that QPS is made of."""
    queries = np.zeros((100, 384), dtype=np.float32)
    store = NullStore()
    store.create("", dim=384, metric="cosine", index=FLAT(), vector_type="fp32", filtered=False)

    def bare(requests):
        search = store.search
        one = queries[:1]
        began = time.perf_counter()
        for _ in range(requests):
            search(one, 10, {})
        return (time.perf_counter() - began) / requests

    def through_the_harness(requests):
        point = measured(store, queries, requests // 20)
        assert point.timed.count == requests
        return point.timed.wall_s / requests, float(np.median(point.timed.array()))

    requests = 2000 if benchmark.enabled else 20
    rounds = [(bare(requests), *through_the_harness(requests)) for _ in range(15 if benchmark.enabled else 1)]
    alone, wall, latency = np.median(rounds, axis=0)
    benchmark.pedantic(through_the_harness, args=(requests,), rounds=3)
    publish(
        own_time_in_the_wall_time_of_a_query=f"{(wall - alone) * 1e6:.2f} µs",
        own_time_in_the_latency_of_a_query=f"{(latency - alone) * 1e6:.2f} µs",
    )
    if benchmark.enabled:
        assert wall - alone < 20e-6, "the goal; a share of the quickest store's millisecond that nobody can see"


def test_search_rate_is_not_below_097_of_a_bare_loop(benchmark, publish):
    """Queries of about half a millisecond, the oracle's with 10,000 rows."""
    rng = np.random.default_rng(0)
    corpus, queries = rng.standard_normal((10_000, 384), dtype=np.float32), rng.standard_normal((40, 384), dtype=np.float32)
    store = Exact()
    store.create("", dim=384, metric="cosine", index=FLAT(), vector_type="fp32", filtered=False)
    store.insert(corpus, 0)
    store.build()

    def through_the_harness():
        point = measured(store, queries, 2)
        answers.update(point.answers)
        return point.timed.wall_s

    def bare():
        began = time.perf_counter()
        for i in range(40):
            store.search(queries[i : i + 1], 10, {})
        return time.perf_counter() - began

    answers = {}
    alternated(through_the_harness, bare, pairs=2)
    assert all(np.array_equal(answers[i], store.search(queries[i : i + 1], 10, {})[0]) for i in range(40))
    found = ratio(alternated(through_the_harness, bare, pairs=100 if benchmark.enabled else 2))
    benchmark.pedantic(through_the_harness, rounds=5)
    publish(search_rate_harness_by_bare=found)
    if benchmark.enabled:
        assert found.hi >= 0.97, "it is certain that more than three hundredths are lost"


def test_a_cell_starts_quicker_in_a_warm_server_than_torch_is_imported(benchmark, publish, tmp_path):
    server = Replicate(preload=fingerprint.packages_imported_by(["models.sentence_transformers", "stores.milvus_lite"]))

    def warm():
        folder = tmp_path / str(time.perf_counter_ns())
        folder.mkdir()
        began = time.perf_counter()
        server.run("tests.tasks:succeed", {"value": 1}, folder, timeout_s=60)
        return time.perf_counter() - began

    def imported():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        return time.perf_counter() - began

    try:
        began = time.perf_counter()
        server.wait_until_ready()
        preloaded = time.perf_counter() - began
        times = alternated(warm, imported, pairs=8 if benchmark.enabled else 1)
        benchmark.pedantic(warm, rounds=3)
    finally:
        server.close()
    start, torch_alone = np.median(times, axis=0)
    publish(
        start_of_a_cell_in_a_warm_server=f"{start * 1e3:.0f} ms",
        import_of_torch_alone=f"{torch_alone:.2f} s",
        start_of_the_server_once=f"{preloaded:.1f} s",
    )
    if benchmark.enabled:
        assert start < torch_alone
