"""The user's own pictures, sounds, videos or texts: a folder, with its sub-folders as labels.

What is taken is decided by what the files hold, never by their names: every file below the folder is tried, except hidden
ones (the name of the file or of a folder on the way begins with a dot). Symbolic links are not followed: one that
leads out of the folder is not the user's data, one that stays inside is a copy.

- An image, a sound or a video is what `harness.datasets.decode` decodes in full, if it shows anything at all (`harness.datasets.examine`).
- A text is a file of valid UTF-8 (a byte order mark is dropped) with something besides white space in it; one file is one
  document. A file with a single invalid byte is left out rather than repaired, because nobody can say what it should read.
- Of files with equal contents only the first that is met is taken: a query's copy in the corpus would be found by anything.

Whatever is left out is counted and named in a caveat and is no error, unless too little is left. So are files that are used but hold
more than a model is shown (animations, CMYK, 16 bits), or are named like another format.

The label of a file is the folder it lies in, relative to the dataset's (``cats``, ``train/cats``); `harness.datasets.labelled` makes
relevance of it.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.datasets.checks import existing_folder, is_unicode, whole_number
from harness.datasets.examine import examine, named
from harness.datasets.fingerprint import digest, fingerprint
from harness.datasets.labelled import Found, caveats, lengths, qrels_by_label, seconds_of
from harness.errors import DataError, SettingsError
from harness.interfaces import Data, Modality

LARGEST_FILE_BYTES = 256 * 2**20
"""A larger file is no picture or document that anybody embeds as one item; reading it could fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """A folder of images, sounds, videos or texts, split at random into a corpus and held-out queries.

    Parameters
    ----------
    path : str
        The folder; ``~`` is expanded, a relative path counts from the current directory.
    modality : {"image", "text", "audio", "video"}
        What its files are.
    corpus : int or None
        Delivered exactly, or refused; None takes all usable files but the queries. With a number, files
        are looked at in a seeded order until enough are found, so a large folder need not be read whole.
    queries : int
        Delivered exactly, or refused. No query is in the corpus.
    seed : int
        Decides which files are queries and, with a number for `corpus`, which are documents.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range or the folder does not exist; all violations are listed.
    """

    path: str
    modality: Modality = "image"
    corpus: int | None = None
    queries: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            *([] if self.corpus is None else whole_number("corpus", self.corpus, least=1, remedy="null for all files")),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
        ]
        if self.modality not in ("image", "text", "audio", "video"):
            wrong.append(f"dataset.modality must be image, text, audio or video, got {self.modality!r}")
        wrong += existing_folder("path", self.path)
        if wrong:
            raise SettingsError(wrong)

    @property
    def query_modality(self) -> Modality:
        """Some of the files are the queries."""
        return self.modality

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser().resolve()

    def identity(self) -> str:
        """SHA-256 over the folder's place and every file's name, size and time of change; reads no contents."""
        whole = hashlib.sha256(os.fsencode(self._root))
        for path in _candidates(self._root):
            try:
                state = path.stat()
            except OSError:
                continue
            whole.update(b"\0" + os.fsencode(path) + f"\0{state.st_size} {state.st_mtime_ns}".encode())
        return whole.hexdigest()

    def materialise(self, folder: Path) -> Data:  # noqa: ARG002 - the user's files stay where they are
        """Look at the files, leave out what cannot be used, and split the rest; writes no files.

        Raises
        ------
        harness.errors.DataError
            If fewer usable files are left than asked for.
        """
        candidates = list(_candidates(self._root))
        random.Random(f"files {self.seed}").shuffle(candidates)
        wanted = None if self.corpus is None else self.corpus + self.queries
        usable: list[Found] = []
        left_out: dict[str, str] = {}
        copies: dict[str, str] = {}
        adapted: dict[str, str] = {}
        first_of: dict[bytes, str] = {}
        for path in candidates:
            if len(usable) == wanted:
                break
            name = path.relative_to(self._root).as_posix()
            try:
                found, remark = _read(path, self._root, self.modality)
            except DataError as error:
                left_out[name] = str(error).removeprefix(f"{path}: ")
                continue
            if found.content in first_of:
                copies[name] = f"same as {first_of[found.content]!r}"
            else:
                first_of[found.content] = name
                usable.append(found)
                if remark:
                    adapted[name] = remark
        if len(usable) < (wanted or self.queries + 1):
            raise DataError(self._too_few(len(usable), left_out, copies))
        queries, corpus = usable[: self.queries], usable[self.queries :]
        qrels, without = qrels_by_label(corpus, queries)
        labels = {item.label for item in usable}
        return Data(
            modality=self.modality,
            name=f"files-{self._root.name}",
            corpus=tuple(item.stored for item in corpus),
            queries=tuple(item.stored for item in queries),
            qrels=qrels,
            fingerprint=fingerprint(self.modality, [item.content for item in corpus], [item.content for item in queries], qrels),
            caveats=tuple(caveats("files", left_out=left_out, copies=copies, adapted=adapted, labels=labels, without=without)),
            labels={
                "source": str(self._root),
                "files_read": len(usable) + len(left_out) + len(copies),
                "files_left_out": len(left_out),
                "copies_left_out": len(copies),
                "classes": len(labels - {None}),
                "queries_without_relevant": without,
                **lengths(usable),
            },
        )

    def _too_few(self, usable: int, left_out: dict[str, str], copies: dict[str, str]) -> str:
        asked = f"dataset.queries={self.queries} and " + (
            "at least one document" if self.corpus is None else f"dataset.corpus={self.corpus}"
        )
        text = f"dataset.path={str(self.path)!r} holds {usable} usable {self.modality} files, and {asked} were asked for; "
        text += (
            "lower them or add files"
            if usable > 1
            else "give another folder or the modality of its files (dataset.modality=image, text, audio or video)"
        )
        if left_out:
            text += f". {len(left_out)} files were left out: {named(left_out)}"
        if copies:
            text += f". {len(copies)} files were copies of others"
        return text


def _candidates(root: Path) -> Iterator[Path]:
    """Every file and every link below `root` that is not hidden, in the order of the names; also folders that cannot be listed."""
    closed: list[str] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: closed.append(str(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*files, *links]) if not name.startswith("."))
    yield from (Path(folder) for folder in sorted(closed))


def _read(path: Path, root: Path, modality: Modality) -> tuple[Found, str]:
    """Read and check one file, and say what a reader should know of it; a `DataError` says what is wrong with it."""
    if not is_unicode(path):
        raise DataError(f"{path}: its name is not valid UTF-8")
    if path.is_symlink():
        raise DataError(f"{path}: a symbolic link")
    if not path.is_file():
        raise DataError(f"{path}: not a file that can be read")
    parent = path.parent.relative_to(root).as_posix()
    label = None if parent == "." else parent
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path}: empty")
        if size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_FILE_BYTES // 2**20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if modality == "text":
        text = _text(path, content)
        return Found(text, label, digest(text.encode())), ""
    item, remark = examine(modality, path)
    return Found(str(path), label, digest(content), seconds_of(item)), remark


def _text(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})") from error
    if "\0" in text:
        raise DataError(f"{path}: not a text (it has zero bytes)")
    if not text:
        raise DataError(f"{path}: nothing but white space")
    return text
