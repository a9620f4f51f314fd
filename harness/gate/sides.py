"""The two sides of a gate: which source, which interpreter and which settings each is measured with.

A side named by a git reference is a worktree in a temporary folder, removed whatever happens; what a killed gate leaves behind is removed
by the next one. Sides share the interpreter unless another is given, or unless they state different dependencies: then the
base's are installed into an environment of its own, kept in the cache under a hash of what states them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from harness import cache
from harness.errors import HarnessError, SettingsError
from harness.fingerprint import digest

PREFIX = "harness-gate-"
"""Beginning of a temporary folder's name; the gate's process number follows."""


@dataclass(frozen=True)
class Side:
    """One version to be measured."""

    title: str
    """What it is, in words."""
    source: Path
    """Folder that stands first on the import path."""
    python: str
    """Interpreter, and with it the installed libraries."""
    overrides: tuple[str, ...] = ()
    """Settings beside those of each cell."""


@dataclass(frozen=True)
class Asked:
    """Which sides a person asked for."""

    base: str | None = None
    """A git reference; None: where HEAD left origin/main."""
    head: str | None = None
    """A git reference; None: the working tree as it is."""
    base_env: str | None = None
    head_env: str | None = None
    """Interpreters, or folders of environments."""
    base_set: tuple[str, ...] = ()
    head_set: tuple[str, ...] = ()

    @property
    def one_source(self) -> bool:
        """Whether the sides differ in environment or settings alone, so that no reference is needed."""
        return self.base is None and self.head is None and self != Asked()


@contextmanager
def two_sides(asked: Asked, *, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Iterator[tuple[Side, Side]]:
    """Make the sides ready, and remove what was made for them at the end.

    Parameters
    ----------
    asked : Asked
        What was asked for.
    folder : Path
        A folder inside the repository.
    tell : callable
        Told what takes long.

    Raises
    ------
    harness.errors.SettingsError
        When a reference or an interpreter is not there.
    """
    pythons = [_python(value, option) for value, option in ((asked.base_env, "--base-env"), (asked.head_env, "--head-env"))]
    if asked.one_source:
        root = _root(folder) or folder
        now = _worktree_title(root)
        titles = [_title(now, *of) for of in ((asked.base_env, asked.base_set), (asked.head_env, asked.head_set))]
        yield Side(titles[0], root, pythons[0], asked.base_set), Side(titles[1], root, pythons[1], asked.head_set)
        return
    found = _root(folder)
    if found is None:
        raise SettingsError(f"{folder} is in no git repository; run the gate inside one, or compare two result folders: gate DIR DIR")
    base, words = _base(found, asked)
    with ExitStack() as leave:
        _prune(found)
        place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        leave.callback(shutil.rmtree, place, ignore_errors=True)

        def source(commit: str, name: str) -> Path:
            leave.callback(_forget, found, place / name)
            _git(found, "worktree", "add", "--detach", "--force", str(place / name), commit)
            return place / name

        base_source = source(base, "base")
        if asked.head is None:
            head_source, head_title = found, _worktree_title(found)
        else:
            commit = _commit(found, asked.head, "--head")
            head_source, head_title = source(commit, "head"), f"{commit[:7]} ({asked.head})"
        if asked.base_env is None and (differing := _differing(base_source, head_source)):
            tell(f"base and head state different dependencies ({differing}); making base an environment of its own, once")
            pythons[0] = _environment(base_source)
        yield (
            Side(_title(words, asked.base_env, asked.base_set), base_source, pythons[0], asked.base_set),
            Side(_title(head_title, asked.head_env, asked.head_set), head_source, pythons[1], asked.head_set),
        )


def _title(words: str, environment: str | None, overrides: tuple[str, ...]) -> str:
    return ", ".join([words, *([f"environment {environment}"] if environment else []), *([" ".join(overrides)] if overrides else [])])


def _python(value: str | None, option: str) -> str:
    """Return an interpreter, given itself or the folder of an environment."""
    if value is None:
        return sys.executable
    path = Path(value).expanduser()
    for one in (path, path / "bin" / "python", path / "Scripts" / "python.exe"):
        if one.is_file():
            return str(one.absolute())  # not resolved: an environment is found by where its link to the interpreter lies
    raise SettingsError(f"{option} must be a Python interpreter or the folder of an environment, got {value}")


# -------------------------------------------------------------------------------------------------- git


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"git {' '.join(arguments[:2])} failed: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def _root(folder: Path) -> Path | None:
    with contextlib.suppress(HarnessError, FileNotFoundError):
        return Path(_git(folder, "rev-parse", "--show-toplevel"))
    return None


def _commit(root: Path, reference: str, option: str) -> str:
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    except HarnessError as error:
        raise SettingsError(f"{option} {reference} names no commit here; fetch it first (in CI: fetch-depth: 0)") from error


def _base(root: Path, asked: Asked) -> tuple[str, str]:
    """Return the base's commit and what it is: where the working tree left a branch, or with two references given the commit itself."""
    reference = asked.base or "origin/main"
    try:
        commit = _commit(root, reference, "--base")
    except SettingsError:
        if asked.base is None:
            raise SettingsError(
                "--base must be given: there is no origin/main here (in CI: git fetch origin main, with fetch-depth: 0)"
            ) from None
        raise
    if asked.head is not None:
        return commit, f"{commit[:7]} ({reference})"
    try:
        parting = _git(root, "merge-base", "HEAD", commit)
    except HarnessError as error:
        raise SettingsError(f"--base {reference} and HEAD have no commit in common here (in CI: fetch-depth: 0)") from error
    return parting, f"{parting[:7]} ({reference})" if parting == commit else f"{parting[:7]} (merge base of {reference})"


def _worktree_title(root: Path) -> str:
    with contextlib.suppress(HarnessError):
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return f"working tree at {_git(root, 'rev-parse', '--short=7', 'HEAD')}" + (" with changes" if changed else "")
    return "the code here"


def _prune(root: Path) -> None:
    """Remove what gates that were killed have left behind."""
    temporary = Path(tempfile.gettempdir())
    for left in temporary.glob(f"{PREFIX}*"):
        found = re.match(rf"{PREFIX}(\d+)-", left.name)
        if found and not psutil.pid_exists(int(found[1])):
            for name in ("base", "head"):
                _forget(root, left / name)
            shutil.rmtree(left, ignore_errors=True)


def _forget(root: Path, worktree: Path) -> None:
    """Remove a worktree of ours; `git worktree prune` would also forget a user's own that is on a disk not mounted just now."""
    with contextlib.suppress(HarnessError):
        _git(root, "worktree", "remove", "--force", "--force", str(worktree))
    shutil.rmtree(worktree, ignore_errors=True)


# ---------------------------------------------------------------------------------------- environments


def _stated(source: Path) -> dict[str, Any]:
    """Return what a source says of its dependencies, file by file."""
    found: dict[str, Any] = {}
    project = source / "pyproject.toml"
    if project.exists():
        body = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        found["pyproject.toml"] = {name: body.get(name) for name in ("dependencies", "optional-dependencies", "requires-python")}
    for name in ("constraints.txt", "requirements.txt"):
        if (source / name).exists():
            lines = (source / name).read_text(encoding="utf-8").splitlines()
            found[name] = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found


def _differing(base: Path, head: Path) -> str:
    """Return the names of the files in which two sources state different dependencies."""
    one, other = _stated(base), _stated(head)
    return ", ".join(sorted(name for name in {*one, *other} if one.get(name) != other.get(name)))


def _environment(source: Path) -> str:
    """Return the interpreter of an environment that has what a source depends on, installing it if there is none yet."""
    stated = _stated(source)
    place = cache.root() / "environments" / digest({"stated": stated, "python": sys.version})[:20]
    python, whole = place / "bin" / "python", place / "whole"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if whole.exists():
            return str(python)
        shutil.rmtree(place, ignore_errors=True)
        extras = ",".join(name for name in ("offline",) if name in (stated.get("pyproject.toml", {}).get("optional-dependencies") or {}))
        pinned = ["--constraint", str(source / "constraints.txt")] if "constraints.txt" in stated else []
        what = [str(source) + (f"[{extras}]" if extras else "")] if "pyproject.toml" in stated else ["-r", str(source / "requirements.txt")]
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned, *what],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = " ".join(done.stderr.split())[-300:]
                raise HarnessError(
                    f"base's dependencies could not be installed ({last}); make an environment and give it: --base-env PYTHON"
                )
        whole.touch()
    return str(python)
