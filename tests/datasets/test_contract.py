"""What every dataset has to keep, asked of every YAML in conf/dataset that names a class."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from harness.datasets.decode import decode
from harness.interfaces import Clip, Dataset, Sound
from tests.datasets.samples import REPOSITORY, picture
from tests.datasets.test_beir import write as write_beir

FOLDER = REPOSITORY / "conf" / "dataset"
OPTIONS = sorted(
    path.stem for path in FOLDER.glob("*.yaml") if "_target_" in OmegaConf.load(path) and path.stem not in ("vectors", "synthetic")
)
"""Vectors have no items to decode; what they keep is asked in test_vectors.py and test_synthetic.py."""

KINDS = {"text": str, "image": Image.Image, "audio": Sound, "video": Clip}
VARIANTS = {"asked_by", "medium", "corpus", "queries", "size"}
"""Settings in which further options of one class differ from its defaults."""

SMALL = {"size": 32, "seconds": 0.5, "frames_per_s": 4}
"""What makes a dataset's items small, where it has such settings."""

HEAVY = ("torch", "transformers", "sentence_transformers", "pymilvus", "milvus_lite", "faiss", "pandas", "scipy", "sklearn")

MATERIALISE = """
import json, sys
from pathlib import Path
from hydra.utils import instantiate
dataset = instantiate(json.loads(sys.argv[1]), _convert_="object")
constructed = sorted(set(sys.modules) & set(json.loads(sys.argv[3])))
data = dataset.materialise(Path(sys.argv[2]))
files = [[path.name, path.read_bytes().hex()] for path in sorted(Path(sys.argv[2]).iterdir())]
print(json.dumps({
    "constructed": constructed, "imported": sorted(set(sys.modules) & set(json.loads(sys.argv[3]))), "files": files,
    "corpus": [text.removeprefix(sys.argv[2]) for text in data.corpus],
    "queries": [text.removeprefix(sys.argv[2]) for text in data.queries],
    "qrels": sorted([q, sorted(found.items())] for q, found in data.qrels.items()), "fingerprint": data.fingerprint,
    "labels": dict(data.labels), "caveats": [[caveat.code, caveat.text] for caveat in data.caveats], "identity": dataset.identity(),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's folder that a dataset with a path is given: two labels, and a file that is no picture."""
    root = tmp_path_factory.mktemp("user")
    for number in range(60):
        (root / f"label{number % 2}").mkdir(exist_ok=True)
        picture(number).save(root / f"label{number % 2}" / f"{number}.png")
    (root / "label0" / "notes.md").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def paths(folder, tmp_path_factory):
    """What the user gives as a path to the options that need one."""
    beir = tmp_path_factory.mktemp("beir")
    write_beir(
        beir,
        {f"d{n}": {"title": "A title", "text": f"and text {n}"} for n in range(40)},
        {f"q{n}": {"text": f"query {n}"} for n in range(9)},
        [(f"q{n}", f"d{n}", 1) for n in range(9)],
    )
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"text {n}", "topic": n % 2}) for n in range(40)))
    return {"files": folder, "beir": beir, "huggingface": rows}


@pytest.fixture(params=OPTIONS)
def node(request, paths):
    """The settings of a dataset, as small as it goes."""
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{request.param}.yaml"), resolve=True)
    small = {name: value for name, value in SMALL.items() if name in node}
    if request.param == "huggingface":
        small["label"] = "topic"
    return {**node, **small, **({"path": str(paths[request.param])} if "path" in node else {}), "corpus": 30, "queries": 7}


def test_the_options_are_those_that_are_shipped():
    assert {"docstrings", "files", "scenes", "scenes_by_caption", "scenes_audio", "scenes_video"} <= set(OPTIONS)


def test_auto_names_options_that_exist_and_have_the_modality():
    """A model of two modalities is asked in the second for documents of the first."""
    chosen = OmegaConf.to_container(OmegaConf.load(FOLDER / "auto.yaml"))["by_modality"]
    for modality, option in chosen.items():
        if modality == "vectors":
            continue  # given by the user: there is no path to build it with
        dataset = instantiate(OmegaConf.load(FOLDER / f"{option}.yaml"), _convert_="object")
        assert (dataset.modality, dataset.query_modality) == (modality.split("+")[0], modality.split("+")[-1])


@pytest.mark.parametrize("option", OPTIONS)
def test_the_first_line_of_the_file_describes_it(option):
    first = (FOLDER / f"{option}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert 20 < len(first) < 140


@pytest.mark.parametrize("option", OPTIONS)
def test_the_file_states_the_class_own_defaults(option, paths):
    """What a reader of the YAML sees is what a caller from Python gets, apart from what has no default there."""
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{option}.yaml"))
    own = {"path": str(paths[option])} if "path" in node else {}
    plain = instantiate({"_target_": node["_target_"], **own}, _convert_="object")
    shipped = instantiate({**node, **own}, _convert_="object")
    varied = VARIANTS if option.startswith("scenes_") else set()
    names = set(node) - {"_target_", "packages"} - varied
    assert {name: getattr(shipped, name) for name in names} == {name: getattr(plain, name) for name in names}


def test_it_keeps_the_protocol_and_delivers_the_sizes_asked_for(node, tmp_path):
    dataset = instantiate(node, _convert_="object")
    assert isinstance(dataset, Dataset)
    assert (dataset.corpus, dataset.queries) == (30, 7)
    data = dataset.materialise(tmp_path)
    assert (len(data.corpus), len(data.queries)) == (30, 7)
    assert (data.modality, data.query_modality) == (dataset.modality, dataset.query_modality)
    assert len(bytes.fromhex(data.fingerprint)) == 32
    assert not set(data.corpus) & set(data.queries)
    json.dumps([dict(data.labels), dataset.identity()], allow_nan=False)


def test_qrels_name_existing_queries_and_documents_with_positive_grades(node, tmp_path):
    data = instantiate(node, _convert_="object").materialise(tmp_path)
    assert data.qrels
    for query, documents in data.qrels.items():
        assert 0 <= query < len(data.queries)
        assert documents
        assert all(0 <= document < len(data.corpus) and grade > 0 for document, grade in documents.items())


def test_every_item_decodes_to_what_a_model_of_its_modality_takes(node, tmp_path):
    data = instantiate(node, _convert_="object").materialise(tmp_path)
    for modality, items in ((data.modality, data.corpus), (data.query_modality, data.queries)):
        for stored in items:
            item = decode(modality, stored)
            assert isinstance(item, KINDS[modality])
            if modality == "text":
                assert item.strip()
            elif modality == "image":
                assert item.mode == "RGB"


def test_files_are_written_into_the_folder_given_and_nowhere_else(node, tmp_path):
    (tmp_path / "cache").mkdir()
    data = instantiate(node, _convert_="object").materialise(tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    for modality, items in ((data.modality, data.corpus), (data.query_modality, data.queries)):
        if modality != "text":
            assert all(Path(path).is_absolute() and Path(path).is_file() for path in items)


def test_two_fresh_processes_make_the_same_and_import_nothing_heavy(node, tmp_path):
    running = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        command = [sys.executable, "-c", MATERIALISE, json.dumps(node), str(folder), json.dumps(HEAVY)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    made = [json.loads(process.communicate()[0]) for process in running]
    assert made[0] == made[1]
    assert made[0]["constructed"] == []
    if "HuggingFace" not in node["_target_"]:  # which is made of a library that imports pandas
        assert made[0]["imported"] == []
