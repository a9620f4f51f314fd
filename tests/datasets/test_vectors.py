"""Files of vectors in every format, read back by the libraries that made them or byte by byte; and searched."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from harness.data import open_data, prepare
from harness.datasets.vectors import VectorFiles
from harness.errors import AuditError, DataError, SettingsError
from harness.plan import make_plan
from harness.truth import key_of, make_truth
from harness.vectors import open_truth

RNG = np.random.default_rng(0)
CORPUS = RNG.standard_normal((500, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((40, 12)).astype(np.float32)
WHOLE = np.clip(np.rint(CORPUS * 40), -128, 127)
ASKED = np.clip(np.rint(QUERIES * 40), -128, 127)


def nearest(corpus=CORPUS, queries=QUERIES, k=100, metric="cosine"):
    return NearestNeighbors(n_neighbors=k, metric=metric).fit(corpus).kneighbors(queries, return_distance=False)


def big_ann(path, rows):
    with path.open("wb") as handle:
        handle.write(np.asarray(rows.shape, dtype=np.uint32).tobytes() + rows.tobytes())
    return str(path)


def texmex(path, rows):
    with path.open("wb") as handle:
        for row in rows:
            handle.write(np.int32(len(row)).tobytes() + row.tobytes())
    return str(path)


def hdf5(path, *, corpus=CORPUS, queries=QUERIES, neighbours=None, distance="angular"):
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = corpus, queries
        file["neighbors"] = nearest(corpus, queries) if neighbours is None else neighbours
        file.attrs["distance"] = distance
    return str(path)


def bench(folder):
    """VectorDBBench's folder, its rows shuffled and its ids no row numbers."""
    folder.mkdir()
    order = np.random.default_rng(1).permutation(len(CORPUS))
    half = len(order) // 2
    for part, rows in enumerate((order[:half], order[half:])):
        pd.DataFrame({"id": rows + 1000, "emb": list(CORPUS[rows])}).to_parquet(folder / f"shuffle_train-{part:02}-of-02.parquet")
    pd.DataFrame({"id": np.arange(40), "emb": list(QUERIES)}).to_parquet(folder / "test.parquet")
    back = np.random.default_rng(2).permutation(40)
    pd.DataFrame({"id": back, "neighbors_id": list(nearest()[back] + 1000)}).to_parquet(folder / "neighbors.parquet")
    return str(folder), order


def made(tmp_path, **settings):
    folder = tmp_path / "made"
    folder.mkdir()
    dataset = VectorFiles(**settings)
    data = dataset.materialise(folder)
    return dataset, data, folder


@pytest.mark.parametrize("form", ["npy", "float16", "fbin", "i8bin", "u8bin", "fvecs", "bvecs", "hdf5"])
def test_every_format_gives_its_rows_as_float32(tmp_path, form):
    corpus, queries, more = CORPUS, QUERIES, {}
    if form in ("npy", "float16"):
        kind = np.float16 if form == "float16" else np.float32
        corpus, queries = CORPUS.astype(kind), QUERIES.astype(kind)
        np.save(tmp_path / "corpus.npy", corpus)
        np.save(tmp_path / "queries.npy", queries)
        more = {"path": str(tmp_path / "corpus.npy"), "queries_path": str(tmp_path / "queries.npy")}
    elif form == "hdf5":
        more = {"path": hdf5(tmp_path / "x.hdf5")}
    else:
        kind = {"f": np.float32, "i": np.int8, "u": np.uint8, "b": np.uint8}[form[0]]
        if kind is not np.float32:
            corpus, queries = ((rows + (128 if kind is np.uint8 else 0)).astype(kind) for rows in (WHOLE, ASKED))
        write = texmex if form.endswith("vecs") else big_ann
        more = {"path": write(tmp_path / f"c.{form}", corpus), "queries_path": write(tmp_path / f"q.{form}", queries)}
    dataset, data, folder = made(tmp_path, **more)
    assert dataset.dim == 12
    found, asked = np.load(folder / "corpus.npy"), np.load(folder / "queries.npy")
    assert found.dtype == asked.dtype == np.float32
    assert np.array_equal(found, corpus.astype(np.float32))
    assert np.array_equal(asked, queries.astype(np.float32))
    assert (len(data.corpus), len(data.queries), data.modality) == (500, 40, "vectors")


def test_a_vectordbbench_folder_keeps_its_own_ids_out_of_the_neighbours(tmp_path):
    path, order = bench(tmp_path / "bench")
    _, _, folder = made(tmp_path, path=path)
    assert np.array_equal(np.load(folder / "corpus.npy"), CORPUS[order])
    row = {number: i for i, number in enumerate(order.tolist())}
    assert np.load(folder / "given.npy").tolist() == [[row[i] for i in line] for line in nearest().tolist()]


def test_neighbours_of_their_own_file_are_read(tmp_path):
    np.save(tmp_path / "c.npy", CORPUS)
    np.save(tmp_path / "q.npy", QUERIES)
    for path in (texmex(tmp_path / "n.ivecs", nearest().astype(np.int32)), big_ann(tmp_path / "n.ibin", nearest().astype(np.int32))):
        (tmp_path / path[-4:]).mkdir()
        settings = {"path": str(tmp_path / "c.npy"), "queries_path": str(tmp_path / "q.npy"), "neighbours_path": path}
        _, _, folder = made(tmp_path / path[-4:], **settings)
        assert np.array_equal(np.load(folder / "given.npy"), nearest())


def test_given_neighbours_are_part_of_what_the_ground_truth_and_the_search_cell_are_kept_under(tmp_path, monkeypatch):
    """Or a wrong one would be found again in the cache after its file has been left out."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "c.npy", CORPUS)
    np.save(tmp_path / "q.npy", QUERIES)
    wrong = nearest().astype(np.int32)
    wrong[3, 0] = next(i for i in range(500) if i not in wrong[3])
    paths = [None, texmex(tmp_path / "n.ivecs", nearest().astype(np.int32)), texmex(tmp_path / "w.ivecs", wrong)]
    asked = ["model=none", "dataset=vectors", f"dataset.path={tmp_path}/c.npy", f"dataset.queries_path={tmp_path}/q.npy", "store=exact",
             "index=flat", "dataset.queries=40", "k=[10]", f"results={tmp_path}/results"]  # fmt: skip
    cells = []
    for path in paths:
        given = [] if path is None else [f"dataset.neighbours_path={path}"]
        cells += make_plan([*asked, *given], multirun=False).cells
    assert len({cell.key for cell in cells}) == 3
    assert len({key_of(cell.data_folder, k=100, metric="cosine", below=None) for cell in cells}) == 3
    assert len({open_data(cell.data_folder).fingerprint for cell in cells}) == 1, "the vectors are the same"


def test_without_a_file_of_queries_rows_are_held_out_and_not_searched_among(tmp_path):
    np.save(tmp_path / "c.npy", CORPUS)
    _, data, folder = made(tmp_path, path=str(tmp_path / "c.npy"), queries=50)
    corpus, queries = np.load(folder / "corpus.npy"), np.load(folder / "queries.npy")
    assert (len(corpus), len(queries), len(data.corpus)) == (450, 50, 450)
    both = {row.tobytes() for row in corpus} | {row.tobytes() for row in queries}
    assert both == {row.tobytes() for row in CORPUS}


def test_a_part_of_the_corpus_is_its_beginning_and_the_neighbours_no_longer_apply(tmp_path):
    _, data, folder = made(tmp_path, path=hdf5(tmp_path / "x.hdf5"), corpus=100, queries=7)
    assert np.array_equal(np.load(folder / "corpus.npy"), CORPUS[:100])
    assert np.array_equal(np.load(folder / "queries.npy"), QUERIES[:7])
    assert not (folder / "given.npy").exists()
    assert [caveat.code for caveat in data.caveats] == ["given_neighbours_unused"]
    assert data.caveats[0].text.endswith("what the file says its distance is: angular.")


def truth_of(folder, tmp_path, metric):
    out = tmp_path / f"truth {metric}"
    out.mkdir()
    make_truth({"vectors": str(folder), "k": 100, "metric": metric, "below": None}, out, lambda *_: None)
    return open_truth(out, metric=metric, rows=500)


def test_given_neighbours_become_the_truth_with_scores_that_fall(tmp_path, monkeypatch):
    from harness import truth as making

    _, _, folder = made(tmp_path, path=hdf5(tmp_path / "x.hdf5"))
    sizes = []
    search = making.exact_neighbours

    def watched(queries, *more, **named):
        sizes.append(len(queries))
        return search(queries, *more, **named)

    monkeypatch.setattr(making, "exact_neighbours", watched)
    monkeypatch.setattr(making, "_SAMPLE", 10)
    truth = truth_of(folder, tmp_path, "cosine")
    assert sizes == [10], "only the sample was searched"
    assert truth.ids.tolist() == nearest().tolist()
    unit = CORPUS / np.linalg.norm(CORPUS, axis=1, keepdims=True)
    asked = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)
    assert truth.scores == pytest.approx(np.take_along_axis(asked @ unit.T, truth.ids, axis=1), abs=1e-6)
    assert (np.diff(truth.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("wrong", ["metric", "stale", "shifted"])
def test_neighbours_of_another_metric_or_of_other_vectors_are_refused_and_are_no_recall_of_zero(tmp_path, wrong):
    neighbours = {"metric": nearest(metric="euclidean"), "stale": nearest(CORPUS[::-1]), "shifted": (nearest() + 1) % 500}[wrong]
    _, _, folder = made(tmp_path, path=hdf5(tmp_path / "x.hdf5", neighbours=neighbours))
    with pytest.raises(AuditError, match="not those of exact search under metric=cosine: on 40 queries they hold"):
        truth_of(folder, tmp_path, "cosine")


def test_neighbours_that_name_a_row_twice_are_refused(tmp_path):
    neighbours = nearest()
    neighbours[7, 3] = neighbours[7, 2]
    _, _, folder = made(tmp_path, path=hdf5(tmp_path / "x.hdf5", neighbours=neighbours))
    with pytest.raises(AuditError, match="a row twice"):
        truth_of(folder, tmp_path, "cosine")


def test_what_was_laid_out_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    path = hdf5(tmp_path / "x.hdf5")
    folder = prepare(VectorFiles(path=path), {"_target_": "harness.datasets.vectors.VectorFiles", "path": path})
    data = open_data(folder)
    assert (len(data.corpus), len(data.queries), data.modality, data.query_modality) == (500, 40, "vectors", "vectors")
    assert len(data.labels["neighbours"]) == 64
    assert data.labels == {"source": path, "dim": 12, "distance": "angular", "neighbours": data.labels["neighbours"]}
    assert json.loads((folder / "vectors.json").read_text())["fingerprint"] == data.fingerprint


def test_other_rows_or_another_split_are_other_data(tmp_path):
    prints = []
    for number, (corpus, queries) in enumerate([(CORPUS, QUERIES), (CORPUS[:499], QUERIES), (CORPUS, QUERIES[:39]), (CORPUS * 2, QUERIES)]):
        where = tmp_path / str(number)
        where.mkdir()
        neighbours = nearest(corpus, queries)
        prints.append(made(where, path=hdf5(where / "x.hdf5", corpus=corpus, queries=queries, neighbours=neighbours))[1].fingerprint)
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.fbin", np.asarray([500, 12], np.uint32).tobytes() + b"\0" * 100, r"says 500 × 12, which are 24008 bytes, but it has 108"),
        ("x.fvecs", np.int32(12).tobytes() + b"\0" * 47, "no whole number of such rows"),
        ("x.fvecs", b"", "not a readable|first row|unpack"),
        ("x.npy", b"no array", "not a readable .npy file"),
        ("x.hdf5", b"no file", "not a readable HDF5 file"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as told:
        made(tmp_path, path=str(tmp_path / name))
    assert name in str(told.value)


def test_a_row_that_cannot_be_ranked_is_named(tmp_path):
    broken = CORPUS.copy()
    broken[321, 5] = np.nan
    np.save(tmp_path / "c.npy", broken)
    with pytest.raises(DataError, match="row 321 holds NaN"):
        made(tmp_path, path=str(tmp_path / "c.npy"), queries=1, seed=3)


def test_pickles_are_not_loaded(tmp_path):
    np.save(tmp_path / "c.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable"):
        made(tmp_path, path=str(tmp_path / "c.npy"))


def test_wrong_settings_are_named_all_at_once(tmp_path):
    with pytest.raises(SettingsError) as told:
        VectorFiles(path=str(tmp_path / "gone.npy"), queries_path=str(tmp_path / "x.txt"), corpus=0, queries=True, seed=-1)
    assert [text.split(" ")[0] for text in told.value.violations] == [
        f"dataset.{key}" for key in ("corpus", "queries", "seed", "path", "queries_path")
    ]
