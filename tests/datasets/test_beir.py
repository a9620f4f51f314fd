import json

import ir_measures
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.datasets.beir import Beir
from harness.errors import DataError, SettingsError
from harness.metrics.labels import ndcg_at_k, recall_at_k


def write(root, documents, queries, judgements, *, heading=True, split="test"):
    """Write a dataset; documents and queries are mappings of id to record, judgements are triples."""
    (root / "qrels").mkdir(parents=True, exist_ok=True)
    for name, records in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, **record}, ensure_ascii=False) for key, record in records.items()]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["query-id\tcorpus-id\tscore"] * heading + ["\t".join(map(str, triple)) for triple in judgements]
    (root / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    """Forty documents and ten queries; query i has the documents 3 i (grade 2) and 3 i + 1 (grade 1), and 3 i + 2 judged 0."""
    documents = {f"d{n}": {"title": f"Title {n}", "text": f"text of {n}", "metadata": {}} for n in range(40)}
    queries = {f"q{n}": {"text": f"query number {n}"} for n in range(12)}
    judgements = [(f"q{q}", f"d{3 * q + more}", 2 - more) for q in range(10) for more in range(3)]
    return write(tmp_path / "set", documents, queries, judgements)


def caveat(data, code):
    (found,) = [caveat.text for caveat in data.caveats if caveat.code == code]
    return found


def test_everything_is_taken_in_the_order_of_the_files_and_title_and_text_are_joined(root, tmp_path):
    data = Beir(path=str(root), queries=10).materialise(tmp_path)
    assert data.corpus == tuple(f"Title {n} text of {n}" for n in range(40))
    assert data.queries == tuple(f"query number {n}" for n in range(10))
    assert data.qrels == {q: {3 * q: 2, 3 * q + 1: 1} for q in range(10)}
    assert data.caveats == ()
    assert (data.name, data.labels["split"], data.labels["judgements"]) == ("set-test", "test", 20)


def test_scores_are_those_of_ir_measures_reading_the_same_file(root, tmp_path):
    data = Beir(path=str(root), queries=10).materialise(tmp_path)
    ranking = np.array([np.random.default_rng(q).permutation(40)[:20] for q in range(10)])
    # ir_measures reads TREC's four columns; only the zeros between are added, the judgements are those of the file.
    rows = (root / "qrels" / "test.tsv").read_text().splitlines()[1:]
    (tmp_path / "trec").write_text("".join("{} 0 {} {}\n".format(*row.split("\t")) for row in rows))
    run = [ir_measures.ScoredDoc(f"q{q}", f"d{document}", -float(rank)) for q in range(10) for rank, document in enumerate(ranking[q])]
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "trec")))
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 20], qrels, run)
    assert ndcg_at_k(ranking, data.qrels, k=10).scores.mean() == pytest.approx(expected[ir_measures.nDCG @ 10])
    assert recall_at_k(ranking, data.qrels, k=20).scores.mean() == pytest.approx(expected[ir_measures.R @ 20])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=st.integers(20, 40), queries=st.integers(1, 10), seed=st.integers(0, 20))
def test_a_part_keeps_every_relevant_document_and_its_grade(root, corpus, queries, seed):
    dataset = Beir(path=str(root), corpus=corpus, queries=queries, seed=seed)
    data = dataset.materialise(root)
    assert data == dataset.materialise(root)
    assert (len(data.corpus), len(data.queries)) == (corpus, queries)
    for number, text in enumerate(data.queries):
        original = int(text.split()[-1])
        kept = {data.corpus[document]: grade for document, grade in data.qrels[number].items()}
        assert kept == {f"Title {n} text of {n}": grade for n, grade in ((3 * original, 2), (3 * original + 1, 1))}
    assert list(data.corpus) == sorted(data.corpus, key=lambda text: int(text.split()[-1]))


def test_a_part_is_said_to_be_one(root, tmp_path):
    text = caveat(Beir(path=str(root), corpus=25, queries=10).materialise(tmp_path), "part_of_dataset")
    assert text.startswith("25 of 40 documents and 10 of 10 queries")
    assert "not comparable with published ones" in text
    assert "3 of 10 queries" in caveat(Beir(path=str(root), queries=3).materialise(tmp_path), "part_of_dataset")


def test_every_document_is_kept_about_equally_often(root, tmp_path):
    counts = dict.fromkeys(range(40), 0)
    for seed in range(100):
        for text in Beir(path=str(root), corpus=30, queries=10, seed=seed).materialise(tmp_path).corpus:
            counts[int(text.split()[-1])] += 1
    relevant = {3 * q + more for q in range(10) for more in range(2)}
    assert all(counts[n] == 100 for n in relevant)
    assert all(30 <= counts[n] <= 70 for n in set(counts) - relevant)  # 50 expected, standard deviation 5


def test_the_seed_decides_which_queries_are_asked(root, tmp_path):
    asked = {Beir(path=str(root), queries=3, seed=seed).materialise(tmp_path).queries for seed in range(10)}
    assert len(asked) > 5


def test_more_or_fewer_than_there_are_are_refused_with_the_range(root, tmp_path):
    with pytest.raises(DataError, match=r"has 10 queries with a relevant document.*write dataset\.queries=10"):
        Beir(path=str(root), queries=11).materialise(tmp_path)
    for corpus in (19, 41):
        with pytest.raises(DataError, match=rf"dataset\.corpus must be in \[20, 40\].*got {corpus}; null takes all"):
            Beir(path=str(root), queries=10, corpus=corpus).materialise(tmp_path)


def test_judgements_of_what_does_not_exist_are_counted_and_named(root, tmp_path):
    with (root / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\tgone\t1\nnobody\td1\t1\nq11\tlost\t1\n")
    data = Beir(path=str(root), queries=10).materialise(tmp_path)
    assert caveat(data, "unknown_ids") == (
        "3 judgements were left out: 'test.tsv:32' (no document 'gone'), 'test.tsv:33' (no query 'nobody'), "
        "'test.tsv:34' (no document 'lost')."
    )
    assert data.qrels[0] == {0: 2, 1: 1}


def test_documents_without_text_are_left_out_with_their_judgements(root, tmp_path):
    lines = (root / "corpus.jsonl").read_text().splitlines()
    lines[1] = '{"_id": "d1", "title": "", "text": " "}'
    lines[39] = '{"_id": "d39", "text": "without a title"}'
    (root / "corpus.jsonl").write_text("\n".join(lines))
    data = Beir(path=str(root), queries=10).materialise(tmp_path)
    assert data.corpus[-1] == "without a title"
    assert len(data.corpus) == 39
    assert data.qrels[0] == {0: 2}
    assert data.qrels[1] == {2: 2, 3: 1}
    assert "'d1' (no text)" in caveat(data, "empty_documents")
    assert "document 'd1' has no text" in caveat(data, "unknown_ids")


def test_queries_that_are_documents_too_are_said(root, tmp_path):
    lines = (root / "queries.jsonl").read_text().splitlines()
    lines[0] = '{"_id": "q0", "text": "Title 5 text of 5"}'
    (root / "queries.jsonl").write_text("\n".join(lines))
    assert caveat(Beir(path=str(root), queries=10).materialise(tmp_path), "queries_in_corpus").startswith("1 queries are documents too")


def test_a_file_without_heading_with_a_mark_and_windows_line_ends_is_the_same(root, tmp_path):
    expected = Beir(path=str(root), queries=10).materialise(tmp_path)
    for path in (root / "corpus.jsonl", root / "queries.jsonl", root / "qrels" / "test.tsv"):
        lines = path.read_text().splitlines()
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines[1:] if path.suffix == ".tsv" else lines).encode() + b"\r\n\r\n")
    assert Beir(path=str(root), queries=10).materialise(tmp_path) == expected


def test_numbers_as_ids_are_read_as_text(tmp_path):
    root = write(tmp_path / "set", {}, {}, [("7", "1", 1)])
    (root / "corpus.jsonl").write_text('{"_id": 1, "text": "one"}\n{"_id": "2", "text": "two"}')
    (root / "queries.jsonl").write_text('{"_id": 7, "text": "which"}')
    assert Beir(path=str(root), queries=1).materialise(tmp_path).qrels == {0: {0: 1}}


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("corpus.jsonl", '{"_id": "x", "text": ', "no JSON in UTF-8"),
        ("corpus.jsonl", "[1]", "not a JSON object"),
        ("corpus.jsonl", '{"_id": "x"}', "text .* must be a text, got None"),
        ("corpus.jsonl", '{"_id": "x", "text": "a", "title": 3}', "must be a text, got 3"),
        ("corpus.jsonl", '{"text": "a"}', "_id must be a text, got None"),
        ("corpus.jsonl", '{"_id": true, "text": "a"}', "_id must be a text, got True"),
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}', "_id 'd0' occurs a second time"),
        ("queries.jsonl", '{"_id": "q0", "text": "a"}', "_id 'q0' occurs a second time"),
        ("queries.jsonl", "{}", "_id must be a text"),
        ("qrels/test.tsv", "q1 d1 1", "with tabs between, got 'q1 d1 1'"),
        ("qrels/test.tsv", "q1\td1", "with tabs between"),
        ("qrels/test.tsv", "q1\t0\td1\t1", "with tabs between"),
        ("qrels/test.tsv", "q1\td1\t1.5", "whole grade"),
        ("qrels/test.tsv", "q0\td0\t1", "a second grade for query 'q0' and document 'd0'"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_file_and_line(root, tmp_path, name, line, reason):
    path = root / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "", line]))
    with pytest.raises(DataError, match=rf"{name}:{len(lines) + 2}: .*{reason}"):
        Beir(path=str(root), queries=10).materialise(tmp_path)


def test_bytes_that_are_not_utf8_are_an_error_that_names_the_file(root, tmp_path):
    with (root / "qrels" / "test.tsv").open("ab") as file:
        file.write(b"q\xff\td1\t1\n")
    with pytest.raises(DataError, match=r"test\.tsv: not UTF-8"):
        Beir(path=str(root), queries=10).materialise(tmp_path)


def test_the_same_judgement_twice_is_one(root, tmp_path):
    with (root / "qrels" / "test.tsv").open("a") as file:
        file.write("q0\td0\t2\n")
    assert Beir(path=str(root), queries=10).materialise(tmp_path).qrels[0] == {0: 2, 1: 1}


def test_a_split_without_relevant_documents_is_refused(root, tmp_path):
    (root / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t0\n")
    with pytest.raises(DataError, match=r"has 0 queries with a relevant document.*choose another split"):
        Beir(path=str(root), split="dev", queries=1).materialise(tmp_path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_changed_file_changes_the_identity(root, name):
    dataset = Beir(path=str(root), queries=10)
    before = dataset.identity()
    assert dataset.identity() == before
    (root / name).write_text((root / name).read_text() + "\n")
    assert dataset.identity() != before


def test_all_wrong_settings_are_listed_at_once(root, tmp_path):
    with pytest.raises(SettingsError) as caught:
        Beir(path=str(tmp_path / "gone"), split="", corpus=0, queries=True, seed=-1)
    assert [text.split()[0] for text in caught.value.violations] == [
        f"dataset.{key}" for key in ("corpus", "queries", "seed", "path", "split")
    ]
    with pytest.raises(SettingsError, match=r"dataset\.split must be one of test in .*, got 'dev'"):
        Beir(path=str(root), split="dev")
    with pytest.raises(SettingsError, match=r"must hold corpus\.jsonl(.|\n)*must hold queries\.jsonl(.|\n)*holds no \.tsv file"):
        Beir(path=str(tmp_path / "set" / "qrels"))
