"""Nothing is let in: no code from data, no file from outside a dataset's folder; and nothing is let out: no secret in anything written."""

import ast
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from harness.data import lay_out, open_data
from harness.datasets.beir import Beir
from harness.datasets.files import Files
from harness.datasets.huggingface import HuggingFace
from harness.datasets.vectors import VectorFiles
from harness.errors import DataError, SettingsError
from tests.conftest import PLUGINS, QUICK, ROOT, own_environment
from tests.models.endpoint import DIM, serve

SOURCES = sorted(path for top in ("harness", "models", "stores") for path in (ROOT / top).rglob("*.py"))

# ------------------------------------------------------------------------------------ no code from data

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
RUNS_CODE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.hub.load", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen"),
}


def unsafe(source):
    """What a source does that would run code found in a file, or let an archive write where it likes, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in UNPICKLERS:
            found.append(f"{where}: from {node.module}")
        if isinstance(node, ast.Import):
            found += [f"{where}: import {one.name}" for one in node.names if one.name in UNPICKLERS - {"pickle"}]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: word.value.value if isinstance(word.value, ast.Constant) else ... for word in node.keywords}
        if name in RUNS_CODE or name.endswith((".extractall", ".extract", ".unpack_archive")):
            found.append(f"{where}: {name}")
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append(f"{where}: torch.load without weights_only=True")
        found += [f"{where}: {word}" for word in ("allow_pickle", "trust_remote_code", "shell") if given.get(word, False) is not False]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_read_from_a_file_is_run(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "is_unsafe"),
    [
        ("import pickle\npickle.loads(b'')", True),
        ("import pickle\ntry: ...\nexcept pickle.UnpicklingError: ...", False),
        ("from pickle import loads", True),
        ("import dill", True),
        ("torch.load(file)", True),
        ("torch.load(file, weights_only=False)", True),
        ("torch.load(file, weights_only=safe)", True),
        ("torch.load(file, weights_only=True)", False),
        ("np.load(file, allow_pickle=True)", True),
        ("np.load(file, allow_pickle=False)", False),
        ("np.load(file)", False),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", True),
        ("subprocess.run(words, shell=True)", True),
        ("tarfile.open(file).extractall(folder)", True),
        ("yaml.load(file)", True),
        ("yaml.safe_load(file)", False),
        ("eval(text)", True),
        ("network.eval()", False),
    ],
)
def test_what_would_run_it_is_seen(source, is_unsafe):
    assert bool(unsafe(source)) is is_unsafe


# ---------------------------------------------------------------------- no file from outside a dataset's folder


@pytest.fixture
def outside(tmp_path):
    """A folder that no dataset has any business with."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_a_beir_folder_whose_files_lead_out_of_it_is_refused(tmp_path, outside):
    good = '{"_id": "1", "text": "a private text"}\n'
    for name in ("corpus.jsonl", "queries.jsonl", "test.tsv"):
        (outside / name).write_text("q\td\t1\n" if name.endswith("tsv") else good)
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text(good)
    (folder / "qrels/test.tsv").write_text("1\t1\t1\n")
    Beir(path=str(folder), queries=1)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(outside / Path(name).name)
        with pytest.raises(SettingsError, match=rf"{Path(name).name} is a link that leads out of it"):
            Beir(path=str(folder), queries=1)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    for split in ("../../outside/test", str(outside / "test")):
        with pytest.raises(SettingsError, match=r"dataset\.split must be the name of a split"):
            Beir(path=str(folder), queries=1, split=split)


def test_a_folder_of_vectors_whose_files_lead_out_of_it_is_refused(tmp_path, outside):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": list(range(20)), "emb": np.random.default_rng(0).standard_normal((20, 4)).tolist()})
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(table, outside / "train.parquet")
    (folder / "train.parquet").symlink_to(outside / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet is a link that leads out of it"):
        VectorFiles(path=str(folder), queries=5).materialise(tmp_path)


def test_a_table_of_pictures_cannot_name_files_outside_its_folder(tmp_path, outside):
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    for number, place in enumerate((folder, folder, folder, outside)):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place / f"{number}.png")
    (folder / "link.png").symlink_to(outside / "3.png")
    names = ["0.png", "1.png", "2.png", "../outside/3.png", str(outside / "3.png"), "link.png"]
    (folder / "table.csv").write_text("\n".join(["picture", *names]))
    made = tmp_path / "made"
    made.mkdir()
    data = HuggingFace(path=str(folder / "table.csv"), modality="image", column="picture", queries=1, split="train").materialise(made)
    assert len(data.corpus) + len(data.queries) == 3
    assert not any((outside / "3.png").read_bytes() == path.read_bytes() for path in made.rglob("*") if path.is_file())
    assert "outside the dataset's folder" in " ".join(caveat.text for caveat in data.caveats)


def test_links_in_a_folder_of_files_are_not_followed(tmp_path, outside):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"a public text, number {number}")
    (outside / "secret.txt").write_text("a private text")
    (folder / "4.txt").symlink_to(outside / "secret.txt")
    (folder / "more").symlink_to(outside)
    data = Files(path=str(folder), modality="text", queries=1).materialise(tmp_path)
    assert not any("private" in text for text in (*data.corpus, *data.queries))
    made = tmp_path / "made"
    made.mkdir()
    lay_out(data, made)
    assert len(open_data(made).corpus) == 3


# ------------------------------------------------------------------------------------- no secret in anything written

NAMES = (
    *("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MILVUS_TOKEN", "MILVUS_PASSWORD", "ZILLIZ_API_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"),
)


class Planted:
    """Secrets in all places where a user keeps them; every one is random, so that none is found by chance."""

    def __init__(self, **addresses):
        self.environment = {name: f"sk{secrets.token_hex(16)}" for name in NAMES}
        self.words = list(self.environment.values())
        for name, address in addresses.items():
            password = f"pw{secrets.token_hex(16)}"
            self.words.append(password)
            self.environment[name] = address.replace("//", f"//user:{password}@")

    def assert_in_none_of(self, **texts):
        for where, text in texts.items():
            for name, word in zip([*self.environment], self.words, strict=True):
                shown = [text[max(0, at.start() - 80) : at.end() + 20] for at in re.finditer(re.escape(word[:20]), text)]
                assert not shown, f"{name} is in {where}: {shown[0]}"


def written(folder):
    """Every byte below a folder, names included."""
    parts = (f"{path}\n".encode() + (path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))
    return b"\n".join(parts).decode("latin-1")


class Watch(threading.Thread):
    """Collects the command lines of all processes that share a cache, as everybody on the machine can see them."""

    def __init__(self, cache):
        super().__init__(daemon=True)
        self.cache, self.lines, self.over = str(cache), set(), threading.Event()

    def run(self):
        while not self.over.is_set():
            for process in psutil.process_iter():
                try:
                    if process.environ().get("HARNESS_CACHE") == self.cache:
                        self.lines.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
            time.sleep(0.2)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def run(folder, planted, *arguments, plugins=True):
    """Run the command line with everything it writes below one folder, and the secrets in its environment."""
    environment = {name: value for name, value in os.environ.items() if name not in planted.environment}
    environment |= own_environment(folder / "cache") | planted.environment | {"HF_HUB_OFFLINE": "", "HF_HOME": str(folder / "hub")}
    with Watch(folder / "cache") as watch:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *arguments, *(["--config-dir", str(PLUGINS)] if plugins else [])],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
        )
    return done, "\n".join(watch.lines)


@pytest.mark.parametrize("where", ["key", "address"])
def test_nothing_that_a_run_writes_or_shows_holds_a_secret(tmp_path, where):
    with serve() as endpoint:
        planted = Planted(**({"OPENAI_BASE_URL": endpoint.url} if where == "address" else {}), HF_ENDPOINT="http://127.0.0.1:9")
        arguments = [] if where == "address" else [f"model.base_url={endpoint.url}"]
        if where == "address":
            del planted.environment["OPENAI_API_KEY"]
            del planted.words[0]
        quick = [argument for argument in QUICK if not argument.startswith(("model=", "processes="))]
        model = ["model=openai_embedding", f"model.dim={DIM}", "model.source=tiny", "model.patience_s=2"]
        hydras = "hydra.output_subdir=notes"  # so that it is Hydra that runs the job
        done, lines = run(tmp_path, planted, *quick, *model, *arguments, "processes=1", hydras)
        assert done.returncode == 0, done.stderr
        assert endpoint.requests[-1][0]["Authorization"], "the endpoint was shown it"
    files = written(tmp_path)
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("records/*.json")]
    assert sorted(record["kind"] for record in records) == ["embed", "search"]
    assert all(record["key"] in files for record in records), "it looks where records are"
    assert "results.csv" in files
    assert "notes/overrides.yaml" in files, "and where Hydra writes"
    assert "harness.replicate" in lines, "and at the measuring processes"
    planted.assert_in_none_of(stdout=done.stdout, stderr=done.stderr, files=files, processes=lines)


def test_the_address_of_a_hub_is_shown_without_its_password(tmp_path):
    planted = Planted(HF_ENDPOINT="http://127.0.0.1:9")
    done, lines = run(tmp_path, planted, "plan", "model=resnet50", "dataset.corpus=8", "dataset.queries=2", "batch_size=2", "k=[2]")
    assert "127.0.0.1:9" in done.stderr + done.stdout, "it says which hub it has asked"
    health, more = run(tmp_path, planted, "doctor", plugins=False)
    assert "127.0.0.1:9" in health.stdout
    planted.assert_in_none_of(
        plan=done.stdout + done.stderr, doctor=health.stdout + health.stderr, files=written(tmp_path), lines=lines + more
    )


@pytest.mark.parametrize(
    "asked",
    [
        ["store=milvus", "store.uri=http://127.0.0.1:9"],
        ["store=milvus", "store.uri=http://user:PASSWORD@127.0.0.1:19530"],
        ["store=milvus", "+store.token=PASSWORD"],
        ["model=openai_embedding", "model.base_url=http://user:PASSWORD@127.0.0.1:9/v1"],
        ["store=zilliz", "index=autoindex"],
    ],
    ids=lambda asked: asked[-1].replace("PASSWORD", "…"),
)
def test_what_is_refused_is_not_repeated_with_its_secret(tmp_path, asked):
    planted = Planted(ZILLIZ_ENDPOINT="https://127.0.0.1:9")
    password = f"pw{secrets.token_hex(16)}"
    given = [argument.replace("PASSWORD", password) for argument in asked]
    groups = {argument.partition("=")[0] for argument in given}
    quick = [argument for argument in QUICK if argument.partition("=")[0] not in groups]
    done, _ = run(tmp_path, planted, *quick, *given, "timeout_s=30")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    planted.words.append(password)
    planted.environment["what was typed"] = password
    planted.assert_in_none_of(stdout=done.stdout, stderr=done.stderr, files=written(tmp_path))


UNPINNED = {"minilm": "whose package would not be asked for a revision", "perceiver": "whose commit is not known"}


def test_every_model_of_the_hub_is_pinned_by_a_commit():
    sources = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf/model").glob("*.yaml"))}
    revisions = {name: node["revision"] for name, node in sources.items() if "/" in str(node.get("source")) and "revision" in node}
    assert len(revisions) > 20
    assert {name for name, revision in revisions.items() if revision is None} == set(UNPINNED)
    pinned = [revision for revision in revisions.values() if revision is not None]
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned)
    assert len(set(pinned)) == len(pinned), "none was copied from another model"
