"""Real English text that every installation has, with relevance labels that cost nothing.

The docstrings of the installed Python packages are read from their source with `ast`; nothing is imported.
A docstring whose first line stands alone gives a query (that summary line) and a document (all that follows
it), so the one relevant document of every query is known. It is text of one register, written by people
who also wrote the query: good for comparing models and indexes with each other, no estimate of their quality
on other text.

What is taken, so that these labels hold and the task is not trivial:

- documents of `min_words` to `max_words` words that read as English, by their share of function words, without
  their examples; longer ones are left out whole, so that none has to be cut;
- summaries of 4 to 30 words;
- no two summaries that are equal and no two documents that begin alike, in letters and digits, whatever their case, spacing
  and punctuation: with a second copy in the corpus, the right answer would be counted as wrong;
- no summary that its own document repeats word for word (in the same sense): finding that shows nothing. Single words
  are shared, as they are between any question and its answer.

The text depends on the seed and on the versions installed, and on nothing else: files are visited in a seeded order, one from
each package in turn, until the corpus is full, so that a smaller corpus is the beginning of a larger one. Whoever names
the packages gets the same text whatever else is installed beside them; the shipped configuration names what this
project itself requires.
"""

from __future__ import annotations

import ast
import os
import platform
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from harness.datasets.checks import whole_number
from harness.datasets.fingerprint import digest, fingerprint
from harness.errors import DataError, SettingsError
from harness.interfaces import Data

OWN_PACKAGES = frozenset({"harness", "models", "stores"})
"""Left out, so that a change in this project does not change the data it measures on."""

LARGEST_FILE_BYTES = 300_000
"""Larger modules are tables and generated code: much parsing, little prose."""

MOST_PER_FILE = 12
"""Documents taken from one file, so that one large module does not fill the corpus."""

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can for from has have if in into is it its may must no not of on or should so such than that "
        "the their then there these they this to was we when where which will with would you",
    )
)
FUNCTION_WORD_SHARE = 0.25
"""English prose has 30–50 % of these words, terse parameter lists 20 %, code and other languages less than 15 %."""

LETTER_SHARE = 0.7
"""Share of letters among the visible characters; formulas, tables and examples have few."""

ALIKE_CHARACTERS = 120
"""Documents that agree in so many first characters are copies of one text with a name changed further down."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_OTHER = re.compile(r"[\W_]+")
_EXAMPLE = re.compile(r"^[ \t]*>>>(?:.*\S.*\n?)*", re.MULTILINE)  # from a prompt to the next blank line
_SUMMARY_ALONE = re.compile(rb'"""\s*\w[^\n]{15,}\n[ \t]*\r?\n')
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """A summary line and the rest of its docstring."""

    summary: str
    document: str


@dataclass(frozen=True, kw_only=True)
class Docstrings:
    """English docstrings of installed packages: summary lines as queries, the rests as documents.

    Parameters
    ----------
    corpus, queries : int
        Delivered exactly, or refused. The summaries of `queries` documents drawn at random are the queries.
    seed : int
        Decides which files are read first and which summaries are asked.
    min_words, max_words : int, int or None
        Documents outside are left out. The default upper bound keeps nearly every document below the
        256 tokens of small models and a corpus affordable without a GPU; None takes any length.
    packages : sequence of str or None
        Top-level packages to read; None reads all that are installed.

    Raises
    ------
    harness.errors.SettingsError
        If a value is out of range; all of them are listed.
    """

    corpus: int = 1500
    queries: int = 300
    seed: int = 0
    min_words: int = 20
    max_words: int | None = 64
    packages: Sequence[str] | None = None

    def __post_init__(self) -> None:
        wrong = [
            *whole_number("corpus", self.corpus, least=1),
            *whole_number("queries", self.queries, least=1),
            *whole_number("seed", self.seed, least=0),
            *whole_number("min_words", self.min_words, least=1),
            *([] if self.max_words is None else whole_number("max_words", self.max_words, least=1, remedy="null for any length")),
        ]
        sound = not wrong
        if sound and self.queries > self.corpus:
            wrong.append(
                f"dataset.queries must be at most dataset.corpus={self.corpus}, got {self.queries}; every query needs its document"
            )
        if sound and self.max_words is not None and self.max_words < self.min_words:
            wrong.append(f"dataset.max_words must be at least dataset.min_words={self.min_words}, got {self.max_words}")
        if self.packages is not None:
            if isinstance(self.packages, str) or not self.packages or not all(isinstance(name, str) for name in self.packages):
                wrong.append(
                    f"dataset.packages must be a list of package names or null, got {self.packages!r}; write packages=[numpy,scipy]"
                )
            else:
                object.__setattr__(self, "packages", tuple(self.packages))
        if wrong:
            raise SettingsError(wrong)

    @property
    def modality(self) -> Literal["text"]:
        return "text"

    @property
    def query_modality(self) -> Literal["text"]:
        return "text"

    def identity(self) -> dict[str, str]:
        """Versions of the distributions that hold the packages, of all installed ones if none are named, and of Python."""
        named = None if self.packages is None else {name for package in self.packages for name in _distributions().get(package, ())}
        found = {
            distribution.name: distribution.version
            for distribution in metadata.distributions()
            if named is None or distribution.name in named
        }
        return {"python": platform.python_version(), **dict(sorted(found.items()))}

    def materialise(self, folder: Path) -> Data:  # noqa: ARG002 - the texts themselves are what is stored
        """Read docstrings until the corpus is full; writes no files.

        Raises
        ------
        harness.errors.DataError
            If the installed packages hold fewer usable docstrings than asked for, or a named package is not installed.
        """
        files = _installed(package_folders(), self.packages)
        most = MOST_PER_FILE * sum(map(len, files.values()))
        if self.corpus > most:
            raise DataError(
                f"dataset.corpus={self.corpus} documents were asked for, and the installed packages have source files for {most} at most; "
                "ask for fewer, or allow more packages (dataset.packages=null)"
            )
        pairs: list[Pair] = []
        seen: set[str] = set()
        read = 0
        for path in visiting_order(files, self.seed):
            read += 1
            found = (pair for pair in pairs_in(path) if self._length_fits(pair) and reads_as_english(pair) and not is_trivial(pair))
            pairs.extend([pair for pair in found if _is_new(pair, seen)][: min(MOST_PER_FILE, self.corpus - len(pairs))])
            if len(pairs) == self.corpus:
                break
        if len(pairs) < self.corpus:
            raise DataError(
                f"dataset.corpus={self.corpus} documents were asked for, and {read} source files of installed packages hold {len(pairs)} "
                "usable docstrings; ask for at most that many, or allow longer ones (dataset.max_words=null) "
                "or more packages (dataset.packages=null)"
            )
        asked = random.Random(f"{self.seed} queries").sample(range(self.corpus), self.queries)
        corpus = tuple(pair.document for pair in pairs)
        queries = tuple(pairs[number].summary for number in asked)
        qrels = {query: {document: 1} for query, document in enumerate(asked)}
        lengths = sorted(len(words(text)) for text in corpus)
        return Data(
            modality="text",
            name="docstrings",
            corpus=corpus,
            queries=queries,
            qrels=qrels,
            fingerprint=fingerprint("text", [digest(text.encode()) for text in corpus], [digest(text.encode()) for text in queries], qrels),
            labels={
                "source": "docstrings of installed Python packages",
                "files_read": read,
                "words_p50": lengths[len(lengths) // 2],
                "words_p95": lengths[len(lengths) * 95 // 100],
                "words_max": lengths[-1],
            },
        )

    def _length_fits(self, pair: Pair) -> bool:
        return self.min_words <= len(words(pair.document)) <= (self.max_words or len(pair.document))


def package_folders() -> list[Path]:
    """Where packages are installed, in the order in which imports look: an environment may see the system's and the user's too."""
    seen = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return [*seen, *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _installed(roots: Sequence[Path], packages: Sequence[str] | None) -> dict[str, list[Path]]:
    """Source files by top-level package, both sorted; test suites and folders that are no packages are left out."""
    found: dict[str, list[Path]] = {}
    for root in dict.fromkeys(root.resolve() for root in roots):
        if not root.is_dir():
            continue
        for entry in sorted(root.iterdir()):
            name = entry.stem
            if name in OWN_PACKAGES or (packages is not None and name not in packages) or name in found:
                continue
            if entry.suffix == ".py" and entry.is_file():
                found[name] = [entry]
            elif (entry / "__init__.py").is_file():
                found[name] = list(_sources(entry))
    missing = sorted(set(packages or ()) - set(found))
    if missing:
        raise DataError(f"dataset.packages must name installed top-level packages, got {missing}; install them or leave them out")
    return found


def _sources(package: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(package):
        folders[:] = sorted(
            name
            for name in folders
            if name.isidentifier() and name not in ("test", "tests") and Path(folder, name, "__init__.py").is_file()
        )
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def visiting_order(packages: dict[str, list[Path]], seed: int) -> Iterator[Path]:
    """One file from each package in turn; the order of packages and of files within them is seeded."""
    names = sorted(packages)
    random.Random(f"{seed} packages").shuffle(names)
    queues = []
    for name in names:
        files = list(packages[name])
        random.Random(f"{seed} {name}").shuffle(files)
        queues.append(iter(files))
    while queues:
        left = []
        for queue in queues:
            path = next(queue, None)
            if path is not None:
                left.append(queue)
                yield path
        queues = left


def pairs_in(path: Path) -> list[Pair]:
    """Every docstring of a source file whose first line stands alone and has something below it, in the order of the source.

    Modules, classes, functions and methods count; what is nested inside functions does not. A file that is
    no Python (templates, other versions' syntax), cannot be read or is very large has none.
    """
    try:
        source = path.read_bytes() if path.stat().st_size <= LARGEST_FILE_BYTES else b""
        if not _SUMMARY_ALONE.search(source):
            return []  # most files have none, and parsing is what takes the time
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks on other people's source
            module = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [pair for text in _docstrings(module) if (pair := split(text)) is not None]


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    if text:
        yield text
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child)


def split(docstring: str) -> Pair | None:
    """Summary line and rest, or None if the first line does not stand alone, nothing follows, or it holds control characters.

    A first line that ends in a colon, comma or opening bracket goes on below and does not stand alone.
    """
    summary, _, rest = docstring.partition("\n")
    blank, _, document = rest.partition("\n")
    summary, document = summary.strip(), document.strip()
    if blank.strip() or not document or not summary or summary[-1] in ":;,=(-" or _CONTROL.search(docstring):
        return None
    return Pair(summary, document)


def reads_as_english(pair: Pair) -> bool:
    """Whether the summary is a phrase of 4 to 30 words and the document, without its examples, is mostly English prose."""
    summary = words(pair.summary)
    if not 4 <= len(summary) <= 30 or not FUNCTION_WORDS.intersection(summary):
        return False
    prose = _EXAMPLE.sub("", pair.document)
    read = words(prose)
    return sum(word in FUNCTION_WORDS for word in read) >= FUNCTION_WORD_SHARE * len(read) and sum(map(len, read)) >= LETTER_SHARE * len(
        "".join(pair.document.split())
    )


def is_trivial(pair: Pair) -> bool:
    """Whether the document repeats the summary word for word, whatever the case, spacing and punctuation."""
    return f" {_plain(pair.summary)} " in f" {_plain(pair.document)} "


def _is_new(pair: Pair, seen: set[str]) -> bool:
    """Whether neither part is known yet; notes both if so."""
    keys = {f"summary {_plain(pair.summary)}", f"document {_plain(pair.document)[:ALIKE_CHARACTERS]}"}
    if keys & seen:
        return False
    seen |= keys
    return True


def words(text: str) -> list[str]:
    """Lower-case words of letters; numbers, identifiers' underscores and punctuation separate them."""
    return _WORD.findall(text.lower())


def _plain(text: str) -> str:
    return _OTHER.sub(" ", text.lower()).strip()
