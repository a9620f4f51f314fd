import json
import re
import textwrap

import ir_measures
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from harness.datasets import docstrings
from harness.datasets.docstrings import Docstrings, Pair, is_trivial, pairs_in, reads_as_english, split, visiting_order, words
from harness.errors import DataError, SettingsError

PROSE = "It is read from the file that the caller has opened, and is closed when the last of the readers is done with it."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Docstrings(corpus=400, queries=80).materialise(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site-packages folder of our own; returns a function that writes a source file into it."""
    monkeypatch.setattr(docstrings, "package_folders", lambda: [tmp_path])

    def write(path, source):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(textwrap.dedent(source), encoding="utf-8")
        return file

    return write


def documented(number, *, summary=None, document=None):
    words_of_it = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    summary = summary or f"Return the value that belongs to {words_of_it}."
    return f'def f{number}():\n    """{summary}\n\n    {document or f"The {words_of_it} stands first here. {PROSE}"}\n    """\n'


def plain(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def test_sizes_are_exact_and_every_query_has_its_own_document(data):
    assert (len(data.corpus), len(data.queries)) == (400, 80)
    assert sorted(data.qrels) == list(range(80))
    targets = [next(iter(found)) for found in data.qrels.values()]
    assert all(len(found) == 1 and list(found.values()) == [1] for found in data.qrels.values())
    assert len(set(targets)) == 80
    assert set(targets) <= set(range(400))


def test_no_document_and_no_query_occurs_twice(data):
    assert len({plain(text) for text in data.corpus}) == 400
    assert len({plain(text) for text in data.queries}) == 80


def test_no_document_repeats_its_query(data):
    for query, found in data.qrels.items():
        (document,) = found
        assert plain(data.queries[query]) not in plain(data.corpus[document])


def test_lengths_lie_in_the_limits_and_are_reported(data):
    lengths = sorted(len(words(text)) for text in data.corpus)
    assert lengths[0] >= 20
    assert lengths[-1] <= 100
    assert data.labels["words_max"] == lengths[-1]
    assert abs(data.labels["words_p50"] - np.percentile(lengths, 50)) <= 1
    assert abs(data.labels["words_p95"] - np.percentile(lengths, 95)) <= 2


def test_the_texts_survive_json_in_utf8(data):
    texts = [*data.corpus, *data.queries]
    assert json.loads(json.dumps(texts, ensure_ascii=False).encode()) == texts


def test_word_overlap_alone_finds_most_right_answers_and_misses_many(data):
    """The labels are right (far above chance, 0.006) and the task is not trivial; scikit-learn and ir_measures say so."""
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(data.corpus)
    scores = (vectorizer.transform(data.queries) @ vectorizer.transform(data.corpus).T).toarray()
    qrels = {str(q): {str(d): 1 for d in found} for q, found in data.qrels.items()}
    run = {str(q): {str(d): float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert 0.35 < ndcg < 0.95


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(data, tmp_path):
    assert Docstrings(corpus=100, queries=10).materialise(tmp_path).corpus == data.corpus[:100]


def test_another_seed_gives_other_texts(data, tmp_path):
    other = Docstrings(corpus=100, queries=10, seed=1).materialise(tmp_path)
    assert len(set(other.corpus) & set(data.corpus[:100])) < 50


def test_it_writes_no_files(tmp_path):
    Docstrings(corpus=5, queries=5).materialise(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_named_packages_are_the_only_ones_read_and_what_else_is_installed_does_not_matter(site, tmp_path):
    for package in ("one", "two"):
        site(f"{package}/a.py", "\n".join(documented(n) for n in range(3 if package == "one" else 30, 6 if package == "one" else 33)))
    before = Docstrings(corpus=3, queries=1, packages=["one"]).materialise(tmp_path)
    assert sorted(text[:6] for text in before.corpus) == ["The d ", "The e ", "The f "]
    site("three/a.py", documented(77))
    assert Docstrings(corpus=3, queries=1, packages=["one"]).materialise(tmp_path) == before


def test_packages_of_the_system_that_an_environment_sees_are_read_and_its_own_stand_first(tmp_path, monkeypatch):
    for number, place in enumerate(("own/site-packages", "system/dist-packages"), 1):
        for package in ("both", f"only{number}"):
            (tmp_path / place / package).mkdir(parents=True)
            (tmp_path / place / package / "__init__.py").write_text(documented(number if package == "both" else number + 2))
    monkeypatch.setattr(docstrings.sys, "path", ["/elsewhere", str(tmp_path / "own/site-packages"), str(tmp_path / "system/dist-packages")])
    folder = tmp_path / "data"
    found = Docstrings(corpus=3, queries=3, packages=["both", "only1", "only2"]).materialise(folder)
    assert sorted(query.split()[-1] for query in found.queries) == ["b.", "d.", "e."]


def test_a_package_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(DataError, match=r"got \['no_such_package'\]"):
        Docstrings(packages=["numpy", "no_such_package"]).materialise(tmp_path)


def test_our_own_source_and_test_suites_are_not_read(site, tmp_path):
    for path in ("harness/a.py", "models/a.py", "stores/a.py", "other/tests/a.py", "data_only/sub/a.py"):
        site(path, documented(len(path)))
    (tmp_path / "data_only" / "sub" / "__init__.py").unlink()
    site("other/a.py", documented(99))
    assert Docstrings(corpus=1, queries=1).materialise(tmp_path).queries == ("Return the value that belongs to jj.",)
    with pytest.raises(DataError, match="2 source files of installed packages hold 1 usable"):  # other/__init__.py and other/a.py
        Docstrings(corpus=2, queries=1).materialise(tmp_path)


def test_too_little_text_is_refused_with_the_number_found(site, tmp_path):
    site("one/a.py", "\n".join(documented(n) for n in range(4)))
    with pytest.raises(DataError, match=r"dataset\.corpus=5 .* hold 4 usable docstrings; ask for at most that many"):
        Docstrings(corpus=5, queries=1).materialise(tmp_path)


def test_copies_of_documents_and_of_summaries_are_left_out(site, tmp_path):
    site(
        "one/a.py",
        documented(1)
        + documented(2, summary="Return the  VALUE that belongs to b!")
        + documented(3, document=f"The b stands first here! {PROSE}")
        + documented(4),
    )
    found = Docstrings(corpus=2, queries=2).materialise(tmp_path)
    assert sorted(found.queries) == ["Return the value that belongs to b.", "Return the value that belongs to e."]


def test_nothing_is_imported(site, tmp_path):
    site("one/a.py", documented(1) + "raise SystemExit('imported')\n")
    assert len(Docstrings(corpus=1, queries=1).materialise(tmp_path).corpus) == 1


@pytest.mark.parametrize("content", [b"", b"print 'old'\n", b'"""a\x00', b'x = "\\d"\n', b"# -*- coding: klingon -*-\n", b"(" * 500])
def test_a_file_that_is_no_python_has_no_docstrings(tmp_path, content):
    path = tmp_path / "a.py"
    path.write_bytes(content + documented(1).encode() if content.startswith((b"x", b"#")) else content)
    assert len(pairs_in(path)) == int(content.startswith(b"x"))


def test_docstrings_of_modules_classes_methods_and_functions_are_read_in_order(tmp_path):
    source = (
        '"""The module itself.\n\nRest of m.\n"""\nclass A:\n    """The class in it.\n\n    Rest of A.\n    """\n    async def f(self):\n'
    )
    source += '        """The method of it.\n\n        Rest of f.\n          indented\n        """\n'
    (tmp_path / "a.py").write_text(source)
    assert pairs_in(tmp_path / "a.py") == [
        Pair("The module itself.", "Rest of m."),
        Pair("The class in it.", "Rest of A."),
        Pair("The method of it.", "Rest of f.\n  indented"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Only a summary.",
        "Two lines\nof summary.\n\nRest.",
        "Rest is missing.\n\n  \n",
        "One of:\n\na, b",
        "A bell \x07.\n\nRest.",
        "\ud800 x.\n\nRest.",
    ],
)
def test_a_docstring_whose_first_line_does_not_stand_alone_gives_nothing(text):
    assert split(text) is None


@pytest.mark.parametrize(
    ("summary", "document", "expected"),
    [
        ("Return the size of a file.", PROSE, True),
        ("Return size.", PROSE, False),
        ("Renvoie la taille du fichier ouvert.", "Elle est lue dans le fichier que l'appelant ouvre et ferme quand tout est fini.", False),
        ("Return the size of a file.", ">>> size('a')\n12\n>>> size(the_a)\n13\n", False),
        ("Return the size of a file.", "x = foo(bar)\nfor y in x:\n    call(y, z)\n    baz[y] = qux(z)\n", False),
        ("Return the size of a file.", f"{PROSE}\n\n{'1 2 3 4 5 6 7 8 9 + - * / '.strip() * 20}", False),
        ("Return the size of a file.", f"{PROSE}\n\n>>> size('a')\n12\n", True),
    ],
)
def test_prose_in_english_passes_and_code_examples_and_other_languages_do_not(summary, document, expected):
    assert reads_as_english(Pair(summary, document)) is expected


def test_a_repeated_summary_is_trivial_whatever_its_spelling():
    assert is_trivial(Pair("Return the size, in bytes.", "This will return the\n  SIZE in bytes of it."))
    assert not is_trivial(Pair("Return the size.", "Return the sizes of it."))


def test_files_are_taken_from_the_packages_in_turn(tmp_path):
    packages = {name: [tmp_path / name / str(n) for n in range(count)] for name, count in (("a", 1), ("b", 3), ("c", 2))}
    order = list(visiting_order(packages, 0))
    assert sorted(order) == sorted(path for files in packages.values() for path in files)
    assert {path.parent.name for path in order[:3]} == {"a", "b", "c"}
    assert {path.parent.name for path in order[3:5]} == {"b", "c"}
    assert order == list(visiting_order(dict(reversed(packages.items())), 0))


def test_the_identity_names_the_versions_of_the_packages_it_reads():
    import numpy

    identity = Docstrings(packages=["numpy"]).identity()
    assert identity["numpy"] == numpy.__version__
    assert set(identity) == {"python", "numpy"}
    assert {"numpy", "scipy"} <= set(Docstrings().identity())


def test_all_wrong_settings_are_listed_at_once():
    with pytest.raises(SettingsError) as caught:
        Docstrings(corpus=0, queries=True, seed=-1, min_words="20", max_words=0, packages="numpy")
    assert [text.split()[0] for text in caught.value.violations] == [
        f"dataset.{key}" for key in ("corpus", "queries", "seed", "min_words", "max_words", "packages")
    ]


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(SettingsError) as caught:
        Docstrings(corpus=10, queries=11, min_words=50, max_words=40)
    assert [text.split()[0] for text in caught.value.violations] == ["dataset.queries", "dataset.max_words"]


def test_more_than_all_files_can_hold_is_refused_before_any_is_read(site, monkeypatch, tmp_path):
    site("one/a.py", documented(1))
    monkeypatch.setattr(docstrings, "pairs_in", lambda path: pytest.fail("a file was read"))
    with pytest.raises(DataError, match=r"dataset\.corpus=999999999 documents were asked for.*for 24 at most"):
        Docstrings(corpus=999_999_999, queries=1).materialise(tmp_path)
