import io
import json
from pathlib import Path

import datasets as library
import pytest

from harness.datasets.decode import decode
from harness.datasets.huggingface import HuggingFace
from harness.errors import DataError, SettingsError
from tests.datasets.media_files import film, tone, write_video, write_wav
from tests.datasets.samples import picture


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """The hub is not asked, and nothing is written outside the test's folder."""
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache of the library")


def png(seed):
    stream = io.BytesIO()
    picture(seed).save(stream, format="PNG")
    return stream.getvalue()


def parquet(folder, rows, **features):
    """Write rows as the library does; `features` are the types of columns that it does not guess."""
    folder.mkdir(exist_ok=True)
    library.disable_progress_bars()
    table = library.Dataset.from_list(rows)
    for name, kind in features.items():
        table = table.cast_column(name, kind)
    table.to_parquet(str(folder / "test.parquet"))
    return folder


def caveat(data, code):
    (found,) = [caveat.text for caveat in data.caveats if caveat.code == code]
    return found


def codes(data):
    return {caveat.code for caveat in data.caveats}


@pytest.fixture
def texts(tmp_path):
    return parquet(tmp_path / "texts", [{"text": f"text {n}", "topic": f"topic {n % 4}", "ask": f"which is {n}?"} for n in range(40)])


def test_rows_of_a_querys_label_are_relevant(texts, tmp_path):
    data = HuggingFace(path=str(texts), label="topic", corpus=25, queries=10).materialise(tmp_path)
    assert (len(data.corpus), len(data.queries), data.labels["classes"]) == (25, 10, 4)
    assert not set(data.corpus) & set(data.queries)
    for number, query in enumerate(data.queries):
        expected = {n for n, text in enumerate(data.corpus) if int(text.split()[1]) % 4 == int(query.split()[1]) % 4}
        assert data.qrels[number] == dict.fromkeys(expected, 1)
    assert data.caveats == ()


def test_a_query_column_asks_for_its_rows_document(texts, tmp_path):
    data = HuggingFace(path=str(texts), query="ask", queries=15).materialise(tmp_path)
    assert (len(data.corpus), len(data.queries)) == (40, 15)
    for number, query in enumerate(data.queries):
        assert [data.corpus[document] for document in data.qrels[number]] == [f"text {query.split()[-1][:-1]}"]
    assert len(set(HuggingFace(path=str(texts), query="ask", queries=15, corpus=20).materialise(tmp_path).corpus)) == 20


def test_rows_with_one_document_or_one_query_are_joined(tmp_path):
    rows = [{"text": document, "ask": ask} for document, ask in [("a", "1"), ("a", "2"), ("b", "2"), ("c", None), ("d", " "), ("a", "1")]]
    data = HuggingFace(path=str(parquet(tmp_path / "set", rows)), query="ask", queries=2).materialise(tmp_path)
    assert sorted(data.corpus) == ["a", "b", "c", "d"]
    found = {query: {data.corpus[n] for n in data.qrels[number]} for number, query in enumerate(data.queries)}
    assert found == {"1": {"a"}, "2": {"a", "b"}}


def test_without_a_column_that_tells_relevance_there_are_no_qrels(texts, tmp_path):
    data = HuggingFace(path=str(texts), queries=5).materialise(tmp_path)
    assert data.qrels is None
    assert len(data.corpus) == 35


def test_the_seed_decides_and_the_same_seed_gives_the_same(texts, tmp_path):
    made = [HuggingFace(path=str(texts), label="topic", corpus=20, queries=5, seed=seed).materialise(tmp_path) for seed in (0, 0, 1)]
    assert made[0] == made[1]
    assert made[0].corpus != made[2].corpus
    assert made[0].fingerprint != made[2].fingerprint


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".json", ".parquet"])
def test_a_single_local_file_is_read_too(tmp_path, texts, suffix):
    path = tmp_path / f"rows{suffix}"
    rows = [{"text": f"text {n}", "topic": f"t{n % 2}"} for n in range(12)]
    if suffix == ".parquet":
        library.Dataset.from_list(rows).to_parquet(str(path))
    elif suffix in (".csv", ".tsv"):
        between = "," if suffix == ".csv" else "\t"
        path.write_text("".join(f"{between.join(line)}\n" for line in [("text", "topic"), *(tuple(row.values()) for row in rows)]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) if suffix == ".jsonl" else json.dumps(rows))
    data = HuggingFace(path=str(path), label="topic", queries=4).materialise(tmp_path)
    assert sorted([*data.corpus, *data.queries]) == sorted(row["text"] for row in rows)
    assert data.qrels


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_are_stored_as_they_were_and_class_numbers_get_their_names(tmp_path, streaming):
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "kind": n % 2} for n in range(8)]
    folder = parquet(tmp_path / "set", rows, image=library.Image(), kind=library.ClassLabel(names=["cat", "dog"]))
    (tmp_path / "out").mkdir()
    dataset = HuggingFace(path=str(folder), modality="image", column="image", label="kind", queries=3, streaming=streaming)
    data = dataset.materialise(tmp_path / "out")
    stored = [*data.corpus, *data.queries]
    assert sorted((tmp_path / "out").iterdir()) == sorted(Path(path) for path in stored)
    assert {Path(path).read_bytes() for path in stored} == {png(n) for n in range(8)}
    assert all(decode("image", path).size == (40, 30) for path in stored)
    assert all(path.endswith(".png") for path in stored)
    assert data.labels["classes"] == 2
    assert codes(data) == ({"first_rows"} if streaming else set())


def test_captions_ask_for_pictures_and_the_first_of_several_counts(tmp_path):
    rows = [{"image": {"bytes": png(n), "path": None}, "captions": ["", f"picture {n}", "another"]} for n in range(8)]
    folder = parquet(tmp_path / "set", rows, image=library.Image())
    dataset = HuggingFace(path=str(folder), modality="image", column="image", query="captions", queries=3, corpus=6)
    data = dataset.materialise(tmp_path)
    assert (dataset.modality, dataset.query_modality, data.asked_in) == ("image", "text", "text")
    for number, text in enumerate(data.queries):
        assert [Path(data.corpus[document]).read_bytes() for document in data.qrels[number]] == [png(int(text.split()[-1]))]


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_sounds_and_videos_are_decoded_by_this_project(tmp_path, modality):
    def content(n):
        if modality == "audio":
            return write_wav(tmp_path / "a.wav", tone(0.1, hertz=200 + n)).read_bytes()
        return write_video(tmp_path / "a.mp4", film(4 + n)).read_bytes()

    rows = [{"media": {"bytes": content(n), "path": f"{n}.{'wav' if modality == 'audio' else 'mp4'}"}} for n in range(5)]
    folder = parquet(tmp_path / "set", rows, media=library.Audio() if modality == "audio" else library.Video())
    data = HuggingFace(path=str(folder), modality=modality, column="media", queries=2).materialise(tmp_path)
    assert len(data.corpus) == 3
    assert all(decode(modality, path) is not None for path in data.corpus)
    assert data.labels["seconds_max"] > 0


def test_a_folder_of_pictures_is_read_where_it_lies(tmp_path):
    for number in range(6):
        (tmp_path / "set" / "test" / f"label{number % 2}").mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / "set" / "test" / f"label{number % 2}" / f"{number}.png")
    data = HuggingFace(path=str(tmp_path / "set"), modality="image", column="image", label="label", queries=2).materialise(tmp_path)
    assert (len(data.corpus), data.labels["classes"]) == (4, 2)


def test_a_local_file_may_name_files_beside_it(tmp_path):
    for number in range(4):
        write_wav(tmp_path / f"{number}.wav", tone(0.1 + 0.1 * number))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"sound": f"{n}.wav"}) for n in (0, 1, 2, 3, 9)))
    (tmp_path / "out").mkdir()
    data = HuggingFace(path=str(tmp_path / "rows.jsonl"), modality="audio", column="sound", queries=1).materialise(tmp_path / "out")
    assert len(data.corpus) == 3
    assert "'row 4' (9.wav: No such file or directory)" in caveat(data, "unreadable_rows")


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path):
    held = [png(0), b"", b"no picture", png(1), png(1), png(2)[:50], png(3)]
    rows = [{"image": {"bytes": content, "path": f"{n}.jpg"}} for n, content in enumerate(held)]
    folder = parquet(tmp_path / "set", rows, image=library.Image())
    (tmp_path / "out").mkdir()
    data = HuggingFace(path=str(folder), modality="image", column="image", queries=1).materialise(tmp_path / "out")
    assert (len(data.corpus), data.labels["rows_left_out"], data.labels["copies"]) == (2, 3, 1)
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert "'row 2' (not a picture)" in caveat(data, "unreadable_rows")
    assert caveat(data, "duplicate_rows").startswith("1 rows hold the same as others")
    assert "named .jpg but it is" in caveat(data, "adapted_rows")


def test_texts_that_are_none_or_blank_are_left_out(tmp_path):
    rows = [{"text": text} for text in ("a", None, " ", "b", "c")]
    data = HuggingFace(path=str(parquet(tmp_path / "set", rows)), queries=1).materialise(tmp_path)
    assert caveat(data, "unreadable_rows") == (
        "2 rows could not be used and were left out: 'row 1' (no text but NoneType), 'row 2' (nothing but white space)."
    )


def test_a_limit_and_streaming_take_the_first_rows(texts, tmp_path):
    limited = HuggingFace(path=str(texts), label="topic", queries=2, limit=10).materialise(tmp_path)
    streamed = HuggingFace(path=str(texts), label="topic", queries=2, corpus=8, streaming=True).materialise(tmp_path)
    for data in (limited, streamed):
        assert {int(text.split()[1]) for text in [*data.corpus, *data.queries]} == set(range(10))
    assert "the first 10 rows" in caveat(streamed, "first_rows")
    assert HuggingFace(path=str(texts), queries=2, limit=10, streaming=True).materialise(tmp_path).labels["rows_read"] == 10


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"column": "body"}, r"has no column dataset\.column=body; it has text, topic, ask"),
        ({"label": "class"}, r"has no column dataset\.label=class"),
        ({"column": "body", "query": "q"}, r"dataset\.column=body nor dataset\.query=q"),
        ({"split": "dev"}, 'Unknown split "dev". Should be one of'),
        ({"name": "english"}, "'english' not found"),
        ({"queries": 40}, r"40 usable documents and 40 usable rows in the 40 rows looked at, and dataset\.queries=40 and at least one"),
        ({"query": "ask", "queries": 41}, "40 usable queries"),
        ({"corpus": 36, "queries": 5, "limit": 39}, r"dataset\.corpus=36 were asked for; lower them, or raise dataset\.limit"),
    ],
)
def test_what_is_not_there_is_said(texts, tmp_path, more, reason):
    with pytest.raises(DataError, match=reason):
        HuggingFace(path=str(texts), **more).materialise(tmp_path)


def test_a_dataset_out_of_reach_and_a_file_of_another_kind_are_data_errors(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.path='nobody/nothing' .* cannot be read: ConnectionError"):
        HuggingFace(path="nobody/nothing").materialise(tmp_path)
    (tmp_path / "a.xls").touch()
    with pytest.raises(DataError, match=r"must be one of \.parquet"):
        HuggingFace(path=str(tmp_path / "a.xls")).materialise(tmp_path)


def test_a_foreign_dataset_cannot_name_files_of_this_machine(tmp_path, monkeypatch):
    write_wav(tmp_path / "secret.wav", tone(0.1))
    rows = library.Dataset.from_list([{"sound": str(tmp_path / "secret.wav")} for _ in range(3)])
    monkeypatch.setattr(library, "load_dataset", lambda **_: rows)
    with pytest.raises(DataError, match=r"has 0 usable documents.*no file's content but str"):
        HuggingFace(path="some/dataset", modality="audio", column="sound").materialise(tmp_path)


def test_without_a_revision_the_data_are_said_to_be_unpinned(tmp_path, monkeypatch):
    asked = []
    rows = library.Dataset.from_list([{"text": str(n)} for n in range(9)])
    monkeypatch.setattr(library, "load_dataset", lambda **how: asked.append(how) or rows)
    unpinned = HuggingFace(path="some/dataset", queries=2).materialise(tmp_path)
    assert codes(unpinned) == {"unpinned_revision"}
    pinned = HuggingFace(path="some/dataset", name="en", split="dev", revision="abc", queries=2, streaming=False)
    assert pinned.materialise(tmp_path).caveats == ()
    assert asked[1] == {"path": "some/dataset", "revision": "abc", "name": "en", "split": "dev", "streaming": False, "cache_dir": None}
    assert pinned.identity() != HuggingFace(path="some/dataset", revision="abd").identity()


def test_the_identity_follows_local_files(texts):
    dataset = HuggingFace(path=str(texts))
    before = dataset.identity()
    assert dataset.identity() == before
    (texts / "more.parquet").write_bytes(b"x")
    assert dataset.identity() != before


def test_all_wrong_settings_are_listed_at_once():
    with pytest.raises(SettingsError) as caught:
        HuggingFace(
            path="",
            name="",
            split=3,
            revision=1,
            streaming=1,
            modality="smell",
            column=" ",
            label="a",
            query="b",
            limit=1,
            corpus=0,
            queries=0,
            seed=-1,
        )
    keys = ("corpus", "queries", "seed", "limit", "path", "split", "column", "name", "revision", "streaming", "modality", "label=a")
    assert [text.split()[0] for text in caught.value.violations] == [f"dataset.{key}" for key in keys]
    with pytest.raises(SettingsError, match="every query needs its document"):
        HuggingFace(path="x", query="q", corpus=5, queries=6)


def test_no_library_is_said_with_the_remedy(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'embedding-search-harness\[huggingface\]'"):
        HuggingFace(path=str(texts)).materialise(tmp_path)
