"""Networks that torch has captured and another runtime runs.

A network is loaded by torch once, in fp32, captured by ``torch.export`` and written in the runtime's own format; int8 is made of that by
the runtime's own tool. This happens in a process of its own, so that neither its memory nor its threads fall into what is measured, and
the result is kept in the cache under a hash of everything that decides about it: weights, settings, versions, source. From there it is
opened as in production, without torch's copy of the weights, once the process has compared it with its checksums. How long the making
took stands beside it: a cold start that no cache spares.

A runtime is a module with the functions of `Runtime`. It is imported by name, so that its libraries and its source count in the keys of
those cells alone that it computes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol, cast

import platformdirs
from filelock import FileLock
from numpy.typing import NDArray

from harness.errors import SettingsError, UnsupportedError
from harness.interfaces import Attention, Backend, Dtype, ModelInfo, Vectors, Weights

RUNTIMES: Mapping[str, str] = {"onnx": "models.onnx_runtime", "openvino": "models.openvino_runtime"}
"""Runtime by the name of its module."""

DTYPES: tuple[Dtype, ...] = ("fp32", "int8")
"""What both runtimes compute on every CPU. Their 16-bit types are left out: on most CPUs they are made up of fp32 steps."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a text network may be given, in this order."""

_LIBRARIES = ("torch", "transformers", "sentence-transformers")
_SHARE = 0.95
_FACTS = "facts.json"
_LIST = "files.json"
"""The list of a folder's files with their sizes and checksums, by which the cache shows and prunes it."""
_IN_USE = ".in-use"
"""Where the cache looks for what running processes use, see `harness.cache`."""


class Session(Protocol):
    """An opened network."""

    @property
    def threads(self) -> Mapping[str, int]:
        """The threads that were given to it: ``intra_op`` and ``inter_op``."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Vectors:
        """Return the vectors of a batch; called by one thread at a time."""


class Runtime(Protocol):
    """What the module of a runtime offers."""

    PACKAGES: Sequence[str]
    """Import names of what has to be installed."""
    QUANTISER: Sequence[str]
    """Import names of what int8 needs besides."""

    def version(self) -> str:
        """Return the runtime's name and version, e.g. ``onnxruntime 1.31.1``."""

    def write(self, program: Any, inputs: Sequence[str], folder: Path) -> str:
        """Write what ``torch.export`` has captured, its inputs named; returns the precision of its weights."""

    def quantise(self, plain: Path, folder: Path) -> str:
        """Write in int8 what `write` has left in `plain`; returns the precision of its weights."""

    def start(self, folder: Path, *, threads: int) -> Session:
        """Open what was written, with so many threads."""


@dataclass(frozen=True)
class Captured:
    """A network as torch has captured it."""

    program: Any
    """A ``torch.export.ExportedProgram`` from token ids to vectors."""
    inputs: tuple[str, ...]
    info: ModelInfo
    fingerprint: str
    """SHA-256 over the weights that were captured, see `models.parameters.fingerprint`."""
    pooler: bool
    """Whether the network has a pooler of its own, which no embedding looks at."""


@dataclass(frozen=True)
class Opened:
    """A network in another runtime, and what was known of it when it was captured."""

    session: Session
    inputs: tuple[str, ...]
    info: ModelInfo
    fingerprint: str
    pooler: bool


class Capturable(Protocol):
    """A model whose network can be captured; a dataclass of settings."""

    def capture(self, weights: Weights) -> Captured:
        """Load in fp32 and capture the way from prepared inputs to finished vectors."""


def runtime_of(backend: Backend) -> Runtime:
    """Return the module of a runtime; what it needs is imported when it is used."""
    return cast(Runtime, importlib.import_module(RUNTIMES[backend]))


def violations(*, backend: Backend, device: str, dtype: Dtype, attention: Attention, compiled: bool) -> list[str]:
    """Return what a runtime cannot do of what is asked for, and what it lacks here; imports no library."""
    found = []
    if device != "cpu":
        found.append(f"backend={backend} computes on the CPU here, got device={device}; take device=cpu, or backend=torch")
    if dtype not in DTYPES:
        found.append(f"backend={backend} computes in {' or '.join(DTYPES)}, got dtype={dtype}; take one of them, or backend=torch")
    if attention != "auto":
        found.append(f"backend={backend} has its own attention, got attention={attention}; leave attention out")
    if compiled:
        found.append(f"backend={backend} compiles by itself, got compile=true; leave compile out")
    runtime = runtime_of(backend)
    needed = (*runtime.PACKAGES, *(runtime.QUANTISER if dtype == "int8" else ()))
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacking:
        found.append(
            f"backend={backend} needs the package{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}; "
            f"pip install 'embedding-search-harness[{backend}]'"
        )
    return found


def predominant(constants: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Return the precision of a network's matrices, given that of each constant with its shape.

    The one in which `_SHARE` of their numbers are kept: what makes a network int8 leaves small tables, as of positions, as they were.
    Where none is, all of them: ``fp32+int8``.
    """
    found: Counter[str] = Counter()
    for precision, shape in constants:
        if sum(size > 1 for size in shape) > 1:  # the others are scales, biases and vectors
            found[precision] += math.prod(shape)
    most = [precision for precision, count in found.items() if count >= _SHARE * found.total()]
    return "+".join(most or sorted(found))


def opened(model: Capturable, weights: Weights, *, backend: Backend, dtype: Dtype, threads: int) -> Opened:
    """Return a model's network in another runtime, made first where it has not been made yet.

    Raises
    ------
    harness.errors.UnsupportedError
        When the network cannot be captured, or not be written for that runtime.
    """
    folder = made(model, weights, backend=backend, dtype=dtype)
    facts = json.loads((folder / _FACTS).read_text())
    runtime = runtime_of(backend)
    session = runtime.start(folder, threads=threads)
    info = {
        **facts["info"],
        "missing_keys": tuple(facts["info"]["missing_keys"]),
        "unexpected_keys": tuple(facts["info"]["unexpected_keys"]),
        "dtype": facts["dtype"],
        "runtime": runtime.version(),
        "threads": dict(session.threads),
        "export_s": facts["export_s"],
    }
    return Opened(session, tuple(facts["inputs"]), ModelInfo(**info), facts["fingerprint"], facts["pooler"])


def made(model: Capturable, weights: Weights, *, backend: Backend, dtype: Dtype) -> Path:
    """Return the folder in the cache that holds a model's network for a runtime, making it first where there is none."""
    recipe = _recipe(model, weights, backend, dtype)
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
    root = Path(os.environ.get("HARNESS_CACHE") or platformdirs.user_cache_dir("embedding-search-harness"))
    folder = root / "exported" / key
    told = {
        "target": f"{type(model).__module__}:{type(model).__qualname__}",
        "settings": _settings(model),
        "weights": asdict(weights),
        "backend": backend,
        "dtype": dtype,
    }
    _kept(folder, lambda empty: _in_a_process({**told, "folder": str(empty)}))
    return folder


def _recipe(model: Capturable, weights: Weights, backend: Backend, dtype: Dtype) -> dict[str, Any]:
    """Return everything that decides about what is written."""
    runtime = runtime_of(backend)
    own = sys.modules[type(model).__module__].__file__  # perhaps in a user's package
    sources = {*Path(__file__).parent.glob("*.py"), *([Path(own)] if own else [])}
    return {
        "model": {name: value for name, value in _settings(model).items() if name not in ("path", "gflop_per_item")},
        "weights": weights.fingerprint,
        "backend": backend,
        "dtype": dtype,
        "versions": {name: _version(name) for name in (*_LIBRARIES, *runtime.PACKAGES, *runtime.QUANTISER)},
        "source": sorted({_checksum(source) for source in sources}),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _settings(model: Any) -> dict[str, Any]:
    return {field.name: getattr(model, field.name) for field in fields(model) if field.init}


def _kept(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder of the cache under a temporary name, and rename it when it is whole; whoever comes meanwhile waits."""
    _note_use(folder)
    if _sound(folder):
        with suppress(OSError):  # somebody else's cache
            os.utime(folder / _LIST)  # when it was last used
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the cache {folder.parent} cannot be written ({error.strerror}); set HARNESS_CACHE to another folder"
        ) from error
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if _sound(folder):
            return
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make(temporary)
            files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
            listed = {str(path.relative_to(temporary)): [path.stat().st_size, _checksum(path)] for path in files}
            (temporary / _LIST).write_text(json.dumps(listed))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            _compared.add(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_compared: set[Path] = set()
"""Folders whose contents this process has compared with their checksums."""
_used: dict[Path, IO[str]] = {}
"""The notes of this process, by the folder that each tells of, locked until the process ends."""


def _sound(folder: Path) -> bool:
    """Say whether a folder is there with the very contents that were written."""
    try:
        listed = json.loads((folder / _LIST).read_text())
        if folder not in _compared and any(_checksum(folder / name) != checksum for name, (_, checksum) in listed.items()):
            return False
    except (OSError, ValueError):
        return False
    _compared.add(folder)
    return True


def _checksum(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _note_use(folder: Path) -> None:
    """Note for whoever prunes the cache that this process uses a folder from now until it ends."""
    notes = folder.parents[1] / _IN_USE
    if folder in _used:
        return
    with suppress(OSError):  # it cannot be written, as somebody else's: nothing else is wrong
        notes.mkdir(parents=True, exist_ok=True)
        with FileLock(notes / "lock"):  # so that nobody prunes between this note and the look at the folder
            handle = tempfile.NamedTemporaryFile("w", prefix=f"{os.getpid()}-", dir=notes, delete=False)  # noqa: SIM115
            os.fchmod(handle.fileno(), 0o644)  # so that another user of the same cache can read it
            fcntl.flock(handle, fcntl.LOCK_EX)  # which the system takes away when this process ends, however it does
            handle.write(f"{folder.parent.name}/{folder.name}\n")
            handle.flush()
            _used[folder] = handle


def _in_a_process(told: Mapping[str, Any]) -> None:
    """Make what is told in a process of its own, which finds modules where this one does."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "models.exported", json.dumps(told)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnsupportedError(
            f"backend={told['backend']}: the network could not be exported in {told['dtype']} ({said[:400]}); take backend=torch"
        )


def write(told: Mapping[str, Any]) -> None:
    """Export what is told into its folder: the network in the runtime's format, and what is known of it."""
    folder, backend = Path(told["folder"]), told["backend"]
    module, _, name = told["target"].partition(":")
    model: Capturable = getattr(importlib.import_module(module), name)(**told["settings"])
    weights, runtime = Weights(**told["weights"]), runtime_of(backend)
    if told["dtype"] == "int8":
        plain = made(model, weights, backend=backend, dtype="fp32")
        facts = json.loads((plain / _FACTS).read_text())
        began = time.perf_counter()
        facts["dtype"] = runtime.quantise(plain, folder)
        facts["export_s"] += time.perf_counter() - began
    else:
        began = time.perf_counter()
        captured = model.capture(weights)
        facts = {
            "info": asdict(captured.info),
            "fingerprint": captured.fingerprint,
            "inputs": captured.inputs,
            "pooler": captured.pooler,
            "dtype": runtime.write(captured.program, captured.inputs, folder),
            "export_s": time.perf_counter() - began,
        }
    (folder / _FACTS).write_text(json.dumps(facts))


if __name__ == "__main__":
    write(json.loads(sys.argv[1]))
