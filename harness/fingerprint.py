"""What can change a number besides the settings: the machine, the libraries and the source that runs.

Every part is plain data that also goes into the record, so that two differing keys can be explained. The host's name
is left out on purpose: two machines of one kind are the same instrument.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import psutil


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, independent of the order of its keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def digest_of(parts: Mapping[str, Any]) -> str:
    """Return the `digest` of a mapping; what `source_of` and `versions_used_by` answer inside `remembering` is put into words once."""
    words = (f"{json.dumps(name)}:{_in_words(value)}" for name, value in sorted(parts.items()))
    return hashlib.sha256(f"{{{','.join(words)}}}".encode()).hexdigest()


def _in_words(value: Any) -> str:
    known = _words.get(id(value))
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) if known is None else known


@cache
def usable_cores() -> int:
    """Return how many cores this process may use: those it may run on, or as many as its container's time amounts to."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota, _, period = (_cgroup("cpu.max") or "max").partition(" ")
    return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))


@cache
def machine() -> Mapping[str, Any]:
    """Return what this machine is: processor, cores, memory, kernel, thread and container limits; never the host's name."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "limits": {"cpu": _cgroup("cpu.max"), "memory": _cgroup("memory.max")},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^(?:model name|Hardware|CPU part)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    if sys.platform == "darwin":
        return subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
    return platform.processor() or "unknown"


def _cgroup(name: str) -> str | None:
    """Return a limit of this process's own control group, None where there is none to be read."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        return (Path("/sys/fs/cgroup") / own / name).read_text().strip()
    except OSError:
        return None


T = TypeVar("T")
_answers: dict[tuple[str, ...], Any] | None = None
_words: dict[int, str] = {}
"""The answers above as JSON, by their place in memory, which they keep as long as they are remembered."""


@contextmanager
def remembering() -> Iterator[None]:
    """Look the same up only once while the body runs, in which neither sources nor libraries change, as while a plan is made."""
    global _answers
    outer, _answers = _answers, {} if _answers is None else _answers
    try:
        yield
    finally:
        _answers = outer
        if outer is None:
            _words.clear()


def _once(function: Callable[[Iterable[str]], T]) -> Callable[[Iterable[str]], T]:
    """Make a function of module names look each up once inside `remembering`."""

    @wraps(function)
    def asked(modules: Iterable[str]) -> T:
        if _answers is None:
            return function(modules)
        names = tuple(modules)
        key = (function.__name__, *names)
        if key not in _answers:
            _answers[key] = function(names)
            if isinstance(_answers[key], Mapping):
                _words[id(_answers[key])] = json.dumps(_answers[key], sort_keys=True, separators=(",", ":"))
        answer: T = _answers[key]
        return answer

    return asked


@_once
def source_of(modules: Iterable[str]) -> Mapping[str, str]:
    """Return the SHA-256 of each named module's source and of all it imports from the same top-level packages or from ours.

    The imports are read from the source, and no module is imported for it (packages that hold one are); an import inside a
    function counts like any other.
    """
    ours = {"harness", "models", "stores"} | {name.partition(".")[0] for name in modules}
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name == "harness" or name.partition(".")[0] not in ours:  # our own __init__ only re-exports
            continue
        path = _path_of(name)
        if path is None:
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        waiting += _imports(name, path)
    return dict(sorted(found.items()))


def _path_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Return every module that a source file may import, including names that turn out not to be modules."""
    return _parsed(module if path.name == "__init__.py" else module.rpartition(".")[0], path.read_bytes())


@cache
def _parsed(package: str, source: bytes) -> tuple[str, ...]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return (*names, *{name.rpartition(".")[0] for name in names if "." in name})


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@_once
def packages_imported_by(modules: Iterable[str]) -> list[str]:
    """Return the installed third-party packages that some modules import, directly or through our own modules."""
    own = source_of(modules)
    names = {imported.partition(".")[0] for name in own if (path := _path_of(name)) is not None for imported in _imports(name, path)}
    return sorted(name for name in names if name in _distributions() and name not in {module.partition(".")[0] for module in own})


@_once
def versions_used_by(modules: Iterable[str]) -> Mapping[str, str]:
    """Return the versions of the libraries that some modules import, directly or through our own modules, and what those require.

    Requirements are followed without extras; platform markers that do not hold are left out because those are not installed.
    """
    waiting = [distribution for package in packages_imported_by(modules) for distribution in _distributions()[package]]
    versions: dict[str, str] = {}
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in versions:
            continue
        found = _installed(name)
        if found is not None:
            versions[name], needed = found
            waiting += needed
    return dict(sorted(versions.items()))


def _installed(name: str) -> tuple[str, list[str]] | None:
    """Return the version of a library and what it requires, extras left out; None where it is not there. Asked once in `remembering`."""
    key = ("distribution", name)
    if _answers is not None and key in _answers:
        known: tuple[str, list[str]] | None = _answers[key]
        return known
    try:
        there = importlib.metadata.distribution(name)
        needed = [need for need in there.requires or [] if "extra ==" not in need and "extra==" not in need]
        found = there.version, [re.split(r"[\s;<>=!~\[(]", need, maxsplit=1)[0] for need in needed]
    except importlib.metadata.PackageNotFoundError:
        found = None
    if _answers is not None:
        _answers[key] = found
    return found


@cache
def commit() -> str | None:
    """Return the git commit of this program's own checkout, marked ``+changes`` where files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")
