import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.datasets import files
from harness.datasets.decode import decode
from harness.datasets.files import Files
from harness.errors import DataError, SettingsError
from harness.interfaces import Clip, Sound
from tests.datasets.media_files import film, tone, write_sound, write_video, write_wav
from tests.datasets.samples import picture, png_that_claims, real_images, real_speech


@pytest.fixture
def pictures(tmp_path):
    """Six pictures in each of two folders."""
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        for number in range(6):
            picture(number + 100 * (label == "dogs")).save(tmp_path / label / f"{number}.png")
    return tmp_path


def texts(folder, count, *, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        (folder / f"{number:03}.txt").write_text(f"text number {number}", encoding="utf-8")
    return folder


def label(path):
    return Path(path).parent.name


def caveat(data, code):
    (found,) = [caveat.text for caveat in data.caveats if caveat.code == code]
    return found


def test_all_usable_files_are_split_into_queries_and_corpus_without_overlap(pictures, tmp_path_factory):
    data = Files(path=str(pictures), queries=4).materialise(tmp_path_factory.mktemp("cache"))
    assert (len(data.corpus), len(data.queries)) == (8, 4)
    assert sorted([*data.corpus, *data.queries]) == sorted(str(path) for path in pictures.rglob("*.png"))
    assert data.caveats == ()
    assert decode("image", data.corpus[0]).size == (40, 30)


def test_documents_of_the_same_folder_are_relevant(pictures, tmp_path):
    data = Files(path=str(pictures), queries=4).materialise(tmp_path)
    for number, query in enumerate(data.queries):
        assert data.qrels[number] == {n: 1 for n, path in enumerate(data.corpus) if label(path) == label(query)}


def test_nested_folders_are_labels_of_their_own(tmp_path):
    for number, folder in enumerate(("a/x", "a/y", "a")):
        texts(tmp_path / folder, 6, start=10 * number)
    data = Files(path=str(tmp_path), modality="text", queries=3).materialise(tmp_path)
    assert data.labels["classes"] == 3
    assert all(3 <= len(found) <= 6 for found in data.qrels.values())


def test_a_flat_folder_and_one_with_a_single_label_have_no_qrels(tmp_path):
    texts(tmp_path / "flat", 5)
    flat = Files(path=str(tmp_path / "flat"), modality="text", queries=1).materialise(tmp_path)
    assert flat.qrels is None
    assert flat.caveats == ()
    single = Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path)
    assert single.qrels is None
    assert "have the same label" in caveat(single, "one_label")


def test_a_query_without_a_document_of_its_label_stands_in_no_qrels_and_is_counted(tmp_path):
    texts(tmp_path / "many", 12)
    for number in range(4):
        texts(tmp_path / f"alone{number}", 1, start=100 + number)
    texts(tmp_path, 2, start=200)  # no label at all
    data = Files(path=str(tmp_path), modality="text", queries=9).materialise(tmp_path)
    numbers = [int(text.split()[-1]) for text in data.queries]
    assert set(data.qrels) == {query for query, number in enumerate(numbers) if number < 12}
    assert 0 < data.labels["queries_without_relevant"] == 9 - len(data.qrels)
    assert caveat(data, "queries_without_relevant").startswith(f"{9 - len(data.qrels)} queries have no document")


def test_if_no_query_has_a_relevant_document_there_are_no_qrels(tmp_path):
    for number in range(5):
        texts(tmp_path / str(number), 1, start=number)
    data = Files(path=str(tmp_path), modality="text", queries=2).materialise(tmp_path)
    assert data.qrels is None
    assert data.labels["queries_without_relevant"] == 2


def test_files_that_cannot_be_used_are_counted_and_named_and_the_rest_is_used(pictures, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    picture(50).save(outside / "out.png")
    (pictures / "cats" / "0 empty.png").touch()
    (pictures / "cats" / "1 text.jpg").write_text("no picture")
    (pictures / "cats" / "2 cut.png").write_bytes((pictures / "cats" / "0.png").read_bytes()[:100])
    (pictures / "cats" / "3 link.png").symlink_to(outside / "out.png")
    (pictures / "cats" / "4 broken.png").symlink_to(outside / "gone.png")
    (pictures / "cats" / "5 loop").symlink_to(pictures)
    os.mkfifo(pictures / "cats" / "6 pipe.png")
    data = Files(path=str(pictures), queries=2).materialise(outside)
    assert (len(data.corpus), data.labels["files_left_out"]) == (10, 7)
    text = caveat(data, "unreadable_files")
    assert text.startswith("7 files could not be used")
    assert "'cats/0 empty.png' (empty), 'cats/1 text.jpg' (not a picture), 'cats/2 cut.png' (not a readable picture" in text
    assert "'cats/3 link.png' (a symbolic link)" in text
    assert text.endswith(" and 2 more.")


def test_names_decide_nothing(tmp_path):
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.txt", format="JPEG")
    assert len(Files(path=str(tmp_path), queries=1).materialise(tmp_path).corpus) == 2


def test_hidden_files_and_folders_are_skipped_and_not_counted(tmp_path):
    texts(tmp_path, 3)
    texts(tmp_path / ".hidden", 3, start=10)
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    data = Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path)
    assert len(data.corpus) == 2
    assert data.caveats == ()


def test_control_characters_in_a_name_do_not_reach_the_caveat(tmp_path):
    texts(tmp_path, 3)
    (tmp_path / "bad\x1b[31m\n.txt").touch()
    text = caveat(Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path), "unreadable_files")
    assert text.isprintable()


def test_a_name_that_is_not_utf8_is_left_out_and_said(tmp_path):
    texts(tmp_path, 3)
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes only valid names")
    data = Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path)
    assert "its name is not valid UTF-8" in caveat(data, "unreadable_files").encode().decode()


def test_copies_are_left_out_so_that_no_query_lies_in_the_corpus(pictures, tmp_path):
    for number in range(6):
        (pictures / "dogs" / f"copy {number}.png").write_bytes((pictures / "cats" / f"{number}.png").read_bytes())
    data = Files(path=str(pictures), queries=4).materialise(tmp_path)
    assert len(data.corpus) + len(data.queries) == 12
    assert len({Path(path).read_bytes() for path in [*data.corpus, *data.queries]}) == 12
    assert caveat(data, "duplicate_files").startswith("6 files hold the same as others")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Grüße\r\nan alle\n".encode(), "Grüße\r\nan alle"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        (b"caf\xe9", "not UTF-8 (byte 3)"),
        ("utf-16 text".encode("utf-16"), "not UTF-8 (byte 0)"),
        ("no mark".encode("utf-16-le"), "not a text (it has zero bytes)"),
        (b" \n\t ", "nothing but white space"),
        (b"", "empty"),
    ],
)
def test_text_is_valid_utf8_or_left_out_with_the_reason(tmp_path, content, expected):
    texts(tmp_path, 2)
    (tmp_path / "x.txt").write_bytes(content)
    data = Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path)
    assert expected in [*data.corpus, *data.queries] or f"'x.txt' ({expected})" in caveat(data, "unreadable_files")


def test_a_file_too_large_to_be_one_document_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_FILE_BYTES", 2**20)
    texts(tmp_path, 2)
    (tmp_path / "x.txt").write_bytes(b"a" * (2**20 + 1))
    data = Files(path=str(tmp_path), modality="text", queries=1).materialise(tmp_path)
    assert "'x.txt' (larger than 1 MiB)" in caveat(data, "unreadable_files")


def test_sizes_asked_for_are_delivered_exactly_and_reading_stops_there(pictures, tmp_path):
    data = Files(path=str(pictures), corpus=5, queries=3).materialise(tmp_path)
    assert (len(data.corpus), len(data.queries), data.labels["files_read"]) == (5, 3, 8)
    assert Files(path=str(pictures), queries=3).materialise(tmp_path).corpus[:5] == data.corpus


def test_more_than_there_is_is_refused_with_the_remedy(pictures, tmp_path):
    with pytest.raises(
        DataError, match=r"holds 12 usable image files, and dataset\.queries=3 and dataset\.corpus=10 were asked for; lower them"
    ):
        Files(path=str(pictures), corpus=10, queries=3).materialise(tmp_path)
    with pytest.raises(DataError, match=r"dataset\.queries=12 and at least one document were asked for"):
        Files(path=str(pictures), queries=12).materialise(tmp_path)


def test_a_folder_of_the_other_modality_or_with_nothing_in_it_is_refused(pictures, tmp_path):
    with pytest.raises(
        DataError, match=r"holds 0 usable text files.*give another folder or the modality.*12 files were left out: 'cats/0\.png'"
    ):
        Files(path=str(pictures), modality="text").materialise(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds 0 usable image files"):
        Files(path=str(tmp_path / "nothing")).materialise(tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=st.integers(1, 8), queries=st.integers(1, 4), seed=st.integers(0, 50))
def test_the_split_depends_on_the_seed_alone(pictures, corpus, queries, seed):
    one, other = (Files(path=str(pictures), corpus=corpus, queries=queries, seed=seed).materialise(pictures) for _ in range(2))
    assert one == other
    assert not set(one.corpus) & set(one.queries)


def test_every_file_is_a_query_about_equally_often(pictures, tmp_path):
    counts = dict.fromkeys((str(path) for path in pictures.rglob("*.png")), 0)
    for seed in range(200):
        for path in Files(path=str(pictures), queries=3, seed=seed).materialise(tmp_path).queries:
            counts[path] += 1
    assert min(counts.values()) >= 25  # 50 expected, standard deviation 6
    assert max(counts.values()) <= 75


@pytest.mark.parametrize(
    "change",
    [
        lambda root: picture(999).save(root / "cats" / "0.png"),
        lambda root: (root / "cats" / "0.png").rename(root / "dogs" / "9.png"),
        lambda root: (root / "cats" / "0.png").unlink(),
        lambda root: picture(999).save(root / "cats" / "9.png"),
    ],
)
def test_any_change_of_the_files_changes_fingerprint_and_identity(pictures, tmp_path, change):
    dataset = Files(path=str(pictures), queries=4)
    before = dataset.materialise(tmp_path).fingerprint, dataset.identity()
    assert (dataset.materialise(tmp_path).fingerprint, dataset.identity()) == before
    change(pictures)
    assert dataset.materialise(tmp_path).fingerprint != before[0]
    assert dataset.identity() != before[1]


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path):
    for place in ("here", "there"):
        texts(tmp_path / place / "a", 5)
        texts(tmp_path / place / "b", 5, start=10)
    here, there = (Files(path=str(tmp_path / place), modality="text", queries=3) for place in ("here", "there"))
    assert here.materialise(tmp_path).fingerprint == there.materialise(tmp_path).fingerprint
    assert here.identity() != there.identity()


def test_real_photographs_are_all_usable(tmp_path):
    folder = real_images()
    data = Files(path=str(folder), queries=20).materialise(tmp_path)
    assert len(data.corpus) + len(data.queries) == len(list(folder.iterdir()))
    assert data.qrels is None
    assert data.caveats == ()


def test_odd_pictures_are_used_or_left_out_and_named_either_way(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "cut.jpg").write_bytes(b"")
    picture(10).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(tmp_path / "scan.png")
    picture(11).save(tmp_path / "moving.gif", save_all=True, append_images=[picture(12)])
    picture(13).save(tmp_path / "wrong.png", format="JPEG")
    picture(14, size=(1, 1)).save(tmp_path / "pixel.png")
    (tmp_path / "bomb.png").write_bytes(png_that_claims(20_000, 20_000))
    data = Files(path=str(tmp_path), queries=2).materialise(tmp_path)
    assert {Path(path).stem for path in [*data.corpus, *data.queries]} == {"0", "1", "2", "3", "print", "scan", "moving", "wrong"}
    adapted = caveat(data, "adapted_files")
    assert adapted.startswith("4 files are used, but")
    for name, remark in (("moving.gif", "animated"), ("print.jpg", "CMYK"), ("scan.png", "16-bit"), ("wrong.png", "named .png but it is")):
        assert f"'{name}' ({remark}" in adapted
    left_out = caveat(data, "unreadable_files")
    assert left_out.startswith("3 files could not be used")
    for name, remark in (("cut.jpg", "empty"), ("pixel.png", "1 × 1 pixels show nothing"), ("bomb.png", "not a readable picture")):
        assert f"'{name}' ({remark}" in left_out


def test_odd_sounds_are_used_or_left_out_and_named_either_way(tmp_path):
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", tone(0.2 + 0.1 * number))
    write_wav(tmp_path / "wrong.mp3", tone(0.6))
    write_sound(tmp_path / "lossy.ogg", tone(0.2, rate=48_000), "libopus")
    write_wav(tmp_path / "silent.wav", np.zeros(1600))
    write_wav(tmp_path / "none.wav", [])
    (tmp_path / "cut.wav").write_bytes((tmp_path / "0.wav").read_bytes()[:3000])
    (tmp_path / "empty.wav").touch()
    picture(1).save(tmp_path / "picture.wav", format="PNG")
    (tmp_path / "words.wav").write_text("no sound " * 100)
    data = Files(path=str(tmp_path), modality="audio", queries=2).materialise(tmp_path)
    assert {Path(path).name for path in [*data.corpus, *data.queries]} == {"0.wav", "1.wav", "2.wav", "wrong.mp3", "lossy.ogg"}
    assert "1 files are used, but" in caveat(data, "adapted_files")
    assert "'wrong.mp3' (named .mp3 but it is wav/wave)" in caveat(data, "adapted_files")
    left_out = caveat(data, "unreadable_files")
    assert left_out.startswith("6 files could not be used")
    assert "'cut.wav' (cut short" in left_out
    assert "'empty.wav' (empty)" in left_out
    assert "'picture.wav' (not a sound or video" in left_out
    assert "'silent.wav' (nothing but silence)" in left_out
    assert (data.modality, data.labels["seconds_p50"], data.labels["seconds_max"]) == ("audio", 0.3, 0.6)
    assert all(isinstance(decode("audio", path), Sound) for path in data.corpus)


def test_odd_videos_are_used_or_left_out_and_named_either_way(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", film(5 + number))
    write_video(tmp_path / "right.mkv", film(10)).rename(tmp_path / "wrong.mov")
    write_wav(tmp_path / "sound.mp4", tone(0.2))
    picture(1).save(tmp_path / "still.gif")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:800])
    data = Files(path=str(tmp_path), modality="video", queries=1).materialise(tmp_path)
    assert {Path(path).name for path in [*data.corpus, *data.queries]} == {"0.mp4", "1.mp4", "2.mp4", "wrong.mov"}
    assert "'wrong.mov' (named .mov but it is" in caveat(data, "adapted_files")
    left_out = caveat(data, "unreadable_files")
    for name, remark in (("cut.mp4", "not a readable"), ("sound.mp4", "no video in it"), ("still.gif", "not a sound or video")):
        assert f"'{name}' ({remark}" in left_out
    assert isinstance(decode("video", data.corpus[0]), Clip)


def test_real_speech_is_all_usable_and_labelled_by_digit(tmp_path):
    folder = real_speech()
    data = Files(path=str(folder), modality="audio", queries=30).materialise(tmp_path)
    assert len(data.corpus) + len(data.queries) == len(list(folder.rglob("*.wav")))
    assert data.caveats == ()
    assert data.labels["classes"] == 10
    for number, query in enumerate(data.queries):
        assert set(data.qrels[number]) == {n for n, path in enumerate(data.corpus) if label(path) == label(query)}


def test_a_relative_path_and_a_tilde_are_understood(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    monkeypatch.setenv("HOME", str(pictures.parent))
    expected = Files(path=str(pictures), queries=2).materialise(pictures)
    assert Files(path=pictures.name, queries=2).materialise(pictures) == expected
    assert Files(path=f"~/{pictures.name}", queries=2).materialise(pictures) == expected


def test_all_wrong_settings_are_listed_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        Files(path=str(tmp_path / "gone"), modality="smell", corpus=0, queries=None, seed=0.5)
    assert [text.split()[0] for text in caught.value.violations] == [
        f"dataset.{key}" for key in ("corpus", "queries", "seed", "modality", "path")
    ]


@pytest.mark.parametrize("path", ["", None, 3, __file__])
def test_a_path_that_is_no_folder_is_refused(path):
    with pytest.raises(SettingsError, match=r"dataset\.path must be"):
        Files(path=path)
