"""What the doctor finds: the machine as it is, and conflicts that are made up for it."""

import importlib.metadata
import socket
import sys

import pytest

from harness import devices, doctor
from harness.errors import SettingsError


@pytest.fixture(autouse=True)
def quiet_network(monkeypatch):
    """Nothing here waits for a network: the hub is a closed port of this machine unless a test says otherwise."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def findings(about=None):
    found = list(doctor.examine())
    return found if about is None else [finding for finding in found if finding.about == about]


def installed(monkeypatch, **versions):
    """Pretend that distributions are installed, or with None that they are not."""
    real = importlib.metadata.version
    pretended = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name not in pretended:
            return real(name)
        if pretended[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return pretended[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_this_environment_is_sound():
    assert [finding for finding in findings() if finding.state == "bad"] == []


def test_machine_python_libraries_and_cache_are_stated(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    by_name = {finding.about: finding for finding in findings()}
    assert "usable cores" in by_name["machine"].text
    assert sys.executable in by_name["python"].text
    assert by_name["devices"].text.startswith("cpu")
    for library in doctor.LIBRARIES:
        assert by_name[library].text == importlib.metadata.version(library)
    assert by_name["cache"].text.startswith(f"{tmp_path / 'cache'} (not made yet)")


def test_both_builds_of_faiss_are_a_conflict_with_a_remedy(monkeypatch):
    installed(monkeypatch, faiss_cpu="1.15.1", faiss_gpu="1.15.1")
    (found,) = findings("faiss")
    assert found.state == "bad"
    assert "faiss-cpu and faiss-gpu overwrite each other's files" in found.text


def test_one_build_of_faiss_is_none():
    assert findings("faiss") == []


def test_a_torchvision_for_another_torch_is_a_conflict(monkeypatch):
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    (found,) = findings("torchvision")
    assert found.state == "bad"
    assert "pip uninstall torchvision" in found.text
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0+cpu")
    assert findings("torchvision") == []


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    installed(monkeypatch, pymilvus=None)
    (found,) = findings("pymilvus")
    assert (found.state, found.text) == ("bad", "not installed; pip install pymilvus")


def test_a_torch_that_cannot_be_asked_is_bad_and_the_rest_goes_on(monkeypatch):
    def broken():
        raise SettingsError("torch 9.9 cannot be imported")

    monkeypatch.setattr(devices, "available", broken)
    found = findings()
    assert ("bad", "torch 9.9 cannot be imported") in [(finding.state, finding.text) for finding in found if finding.about == "devices"]
    assert found[-1].about == "cache"


def test_a_hub_that_does_not_answer_is_a_note_that_says_what_happens_then():
    (found,) = findings("model hub")
    assert found.state == "note"
    assert found.text.startswith("http://127.0.0.1:9 does not answer")
    assert "random weights" in found.text


def test_a_hub_that_answers_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        (found,) = findings("model hub")
    assert found.state == "ok"


def test_being_told_to_stay_offline_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = findings("model hub")
    assert (found.state, "HF_HUB_OFFLINE" in found.text) == ("note", True)


def test_a_folder_named_like_one_of_ours_is_noted(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    (found,) = findings("models")
    assert found.state == "note"
    assert findings("stores") == []


def test_a_package_that_shadows_ours_is_bad(monkeypatch, tmp_path):
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name == "stores" or name.startswith("stores.")]:
        monkeypatch.delitem(sys.modules, name)
    (found,) = findings("stores")
    assert found.state == "bad"
    assert str(tmp_path) in found.text


def test_the_command_prints_a_line_for_each_finding(harness):
    done = harness("doctor", plugins=False, env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": ""})
    assert done.returncode == 0, done.stderr
    for about in ("machine", "python", "devices", "torch", "pymilvus", "model hub", "milvus server", "cache"):
        assert f" {about}: " in done.stdout
