import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.datasets.decode import decode
from harness.datasets.render import RGB, film, render
from harness.datasets.scene import COLOURS, HEADINGS, LABELS, SHAPES, TONES, Scene, Thing, draw
from harness.datasets.scenes import SAMPLE_RATE, Scenes
from harness.datasets.sounding import sound
from harness.errors import SettingsError

seeds = st.integers(0, 10**6).map(str)
labels = st.sampled_from(LABELS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Scenes(corpus=70, queries=20, size=64).materialise(tmp_path_factory.mktemp("scenes"))


def test_there_is_one_label_for_each_colour_and_shape():
    assert len(LABELS) == len(set(LABELS)) == len(SHAPES) * len(COLOURS) == 64


@given(seeds, labels)
def test_a_scene_shows_what_its_label_and_caption_say(seed, label):
    scene = draw(seed, label)
    assert scene.label == label
    assert label in scene.caption
    assert f"{scene.pattern} {scene.tones[0]} background" in scene.caption
    assert all(f"{thing.colour} {thing.shape}" in scene.caption for thing in scene.others)


@given(seeds, labels)
def test_the_main_thing_is_whole_the_largest_and_uncovered(seed, label):
    scene = draw(seed, label)
    assert scene.main.radius <= min(scene.main.x, scene.main.y, 1 - scene.main.x, 1 - scene.main.y)
    for thing in scene.others:
        assert thing.radius < scene.main.radius
        assert math.dist((thing.x, thing.y), (scene.main.x, scene.main.y)) > thing.radius + scene.main.radius


@given(seeds, seeds, labels)
def test_a_scene_is_decided_by_its_seed(one, other, label):
    assert (draw(one, label) == draw(other, label)) == (one == other)


def test_captions_use_the_right_article():
    arrow = Thing("arrow", "orange", 0.3, 0.5, 0.5, 0)
    assert Scene("0", arrow, (), "plain", ("white", "black"), 0).caption == "a large orange arrow in the centre on a plain white background"
    ring = Thing("ring", "blue", 0.1, 0.1, 0.9, 0)
    scene = Scene("0", ring, (arrow,), "plain", ("white", "black"), 0)
    assert scene.caption == "a small blue ring at the bottom left, with an orange arrow, on a plain white background"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_main_thing_has_its_colour_where_it_is_and_the_background_elsewhere(shape, colour):
    scene = Scene("7", Thing(shape, colour, 0.3, 0.4, 0.6, 0), (), "plain", ("light grey", "black"), 0)
    pixels = np.asarray(render(scene, 100)).astype(int)
    row, column = (60, 40) if shape != "ring" else (60, 40 + 25)
    assert np.abs(pixels[row, column] - RGB[colour]).max() <= 12
    assert np.abs(pixels[5, 95] - RGB["light grey"]).max() <= 12
    coloured = (np.abs(pixels - RGB[colour]).max(axis=2) <= 30).mean()
    assert 0.02 < coloured < 0.29  # a disc of that radius covers 28 %


def test_the_colours_of_things_and_backgrounds_are_all_far_apart():
    names = [*COLOURS, *TONES]
    things = [(a, b) for a in COLOURS for b in names if a != b]
    assert min(math.dist(RGB[a], RGB[b]) for a, b in things) > 2 * 12 * math.sqrt(3)  # twice the spread of each


def test_noise_is_as_strong_as_described():
    thing = Thing("circle", "red", 0.1, 0.2, 0.2, 0)
    clean, noisy = (
        np.asarray(render(Scene("1", thing, (), "plain", ("light grey", "black"), noise), 200)).astype(float)[100:] for noise in (0.0, 0.05)
    )
    assert (noisy - clean).std() == pytest.approx(0.05 * 255, rel=0.03)


@pytest.mark.parametrize("pattern", ["plain", "shaded", "striped", "chequered", "dotted"])
def test_every_pattern_renders_at_the_smallest_and_at_odd_sizes(pattern):
    scene = Scene("3", Thing("star", "blue", 0.3, 0.5, 0.5, 10), (), pattern, ("white", "brown"), 0.05)
    for size in (32, 101):
        assert render(scene, size).size == (size, size)
    colours = len(np.unique(np.asarray(render(Scene("3", scene.main, (), pattern, scene.tones, 0.0), 100))[:15].reshape(-1, 3), axis=0))
    assert (colours == 1) == (pattern == "plain")


def test_sizes_are_exact_and_the_files_are_jpegs_of_the_size_asked_for(data):
    assert (len(data.corpus), len(data.queries)) == (70, 20)
    with Image.open(data.corpus[0]) as image:
        assert image.format == "JPEG"
    assert decode("image", data.corpus[0]).size == (64, 64)


def test_qrels_join_exactly_the_pictures_of_one_label(data):
    corpus, queries = Scenes(corpus=70, queries=20).describe()
    for number, query in enumerate(queries):
        assert data.qrels[number] == {n: 1 for n, scene in enumerate(corpus) if scene.label == query.label}
        assert data.qrels[number]


@given(st.integers(1, 200), st.integers(1, 100), st.integers(0, 5))
def test_every_query_has_a_relevant_document_and_labels_are_spread_evenly(corpus, queries, seed):
    documents, asked = Scenes(corpus=corpus, queries=queries, seed=seed).describe()
    counts = {label: sum(scene.label == label for scene in documents) for label in {scene.label for scene in documents}}
    assert {scene.label for scene in asked} <= set(counts)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert not set(documents) & set(asked)


def test_no_two_pictures_are_equal(data):
    from pathlib import Path

    assert len({Path(path).read_bytes() for path in [*data.corpus, *data.queries]}) == 90


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one():
    assert Scenes(corpus=20, queries=1).describe()[0] == Scenes(corpus=30, queries=1).describe()[0][:20]


def test_another_seed_gives_other_pictures_and_another_fingerprint(data, tmp_path):
    other = Scenes(corpus=70, queries=20, size=64, seed=1).materialise(tmp_path)
    assert other.fingerprint != data.fingerprint
    assert not set(Scenes(seed=0).describe()[0]) & set(Scenes(seed=1).describe()[0])


def test_the_nearest_picture_by_colour_has_the_same_colour(data):
    """The pictures carry their label: the most colourful pixels of a query agree in hue with its relevant documents."""
    corpus, queries = Scenes(corpus=70, queries=20).describe()
    spread = {label: RGB[label] for label in COLOURS}
    right = 0
    for path, scene in zip([*data.corpus, *data.queries], [*corpus, *queries], strict=True):
        image = np.asarray(decode("image", path)).astype(float)
        votes = {colour: (np.linalg.norm(image - value, axis=2) < 60).mean() for colour, value in spread.items()}
        right += max(votes, key=votes.get) == scene.main.colour
    assert right / 90 > 0.8


@given(seeds, labels, st.floats(0, 1))
def test_in_motion_everything_stays_whole_and_the_main_thing_goes_along_its_heading(seed, label, time):
    scene = draw(seed, label)
    for thing in (scene.at(time).main, *scene.at(time).others):
        assert thing.radius - 1e-9 <= thing.x <= 1 - thing.radius + 1e-9
        assert thing.radius - 1e-9 <= thing.y <= 1 - thing.radius + 1e-9
    start, end = scene.at(0).main, scene.at(1).main
    assert (end.x - start.x, end.y - start.y) == pytest.approx(tuple(0.3 * step for step in HEADINGS[scene.heading]))
    assert f"{label} moving {scene.heading}" in scene.caption_in_motion
    assert scene.at(time).label == label


def test_all_headings_occur():
    assert {draw(str(seed), LABELS[0]).heading for seed in range(100)} == set(HEADINGS)


def test_the_frames_of_a_film_share_colours_and_ground_and_have_noise_of_their_own():
    still = Scene("3", Thing("star", "blue", 0.3, 0.5, 0.5, 10), (), "striped", ("white", "brown"), 0.0)
    first, *_, last = (np.asarray(frame).astype(int) for frame in film(still, 64, 5))
    assert (first[:6, :6] == last[:6, :6]).all()
    assert (first != last).any()
    noisy = [np.asarray(frame).astype(int) for frame in film(Scene("3", still.main, (), "plain", ("dark grey", "brown"), 0.05), 64, 3)]
    assert 8 < (noisy[1] - noisy[2])[:8].std() < 30


def test_a_single_frame_is_enough():
    assert len(list(film(draw("1", LABELS[0]), 32, 1))) == 1


def test_another_exposure_changes_the_noise_alone():
    scene = Scene("1", Thing("circle", "red", 0.1, 0.2, 0.2, 0), (), "plain", ("light grey", "black"), 0.05)
    one, other = (np.asarray(render(scene, 100, exposure=number)).astype(float) for number in (0, 1))
    assert (one != other).mean() > 0.8
    assert abs(one.mean() - other.mean()) < 0.5


@pytest.mark.parametrize("medium", ["image", "audio", "video"])
def test_captions_are_asked_about_the_same_documents_and_relevant_ones_have_the_label(tmp_path, medium):
    small = {"corpus": 12, "queries": 5, "size": 32, "seconds": 0.5, "medium": medium}
    plain = Scenes(**small).materialise(tmp_path)
    told = Scenes(**small, asked_by="caption").materialise(tmp_path)
    assert (told.modality, told.query_modality, told.asked_in) == (medium, "text", "text")
    assert (plain.query_modality, plain.asked_in) == (medium, None)
    assert (told.corpus, told.qrels) == (plain.corpus, plain.qrels)
    assert told.fingerprint != plain.fingerprint
    scenes = Scenes(**small).describe()[1]
    for text, scene in zip(told.queries, scenes, strict=True):
        assert text == Scenes(**small).told(scene)
        assert medium == "audio" or scene.label in text
    assert len(set(told.queries)) == 5


def test_a_film_holds_its_scene_in_motion_and_its_sound(tmp_path):
    dataset = Scenes(medium="video", corpus=6, queries=1, size=96, seconds=1.5, frames_per_s=10)
    data = dataset.materialise(tmp_path)
    for path, scene in zip(data.corpus, dataset.describe()[0], strict=True):
        clip = decode("video", path)
        assert clip.frames.shape == (15, 96, 96, 3)
        assert clip.frames_per_s == 10
        for number in (0, 7, 14):
            shown = np.asarray(render(scene.at(number / 14), 96, exposure=number)).astype(float)
            assert np.abs(clip.frames[number] - shown).mean() < 14
        expected = sound(scene, 1.5, SAMPLE_RATE)
        np.testing.assert_allclose(clip.sound.samples, expected, atol=2**-14)  # 16 bits, written by 32767 and read by 32768
        assert clip.sound.rate == SAMPLE_RATE


def test_all_wrong_settings_are_listed_at_once():
    with pytest.raises(SettingsError) as caught:
        Scenes(corpus=0, queries=1.5, seed="0", size=10_000, seconds=float("nan"), frames_per_s=0, medium="text", asked_by="label")
    keys = ("corpus", "queries", "seed", "size", "seconds", "frames_per_s", "medium", "asked_by")
    assert [text.split()[0] for text in caught.value.violations] == [f"dataset.{key}" for key in keys]


def test_an_odd_size_is_refused_for_films_alone():
    with pytest.raises(SettingsError, match="even for video"):
        Scenes(medium="video", size=65)
    assert Scenes(size=65).size == 65


def test_a_corpus_that_nobody_can_render_is_refused_at_once():
    with pytest.raises(SettingsError, match=r"dataset\.corpus must be a whole number in \[1, 1000000\]"):
        Scenes(corpus=999_999_999)
