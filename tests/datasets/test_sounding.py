from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import spectrogram

from harness.datasets.decode import decode
from harness.datasets.scene import COLOURS, LABELS, SHAPES, Scene, Thing, draw
from harness.datasets.scenes import SAMPLE_RATE, Scenes
from harness.datasets.sounding import PITCHES, VOICES, caption, sound

RATE = 16_000


def alone(colour, shape, **more):
    return Scene("5", Thing(shape, colour, 0.2, 0.5, 0.5, 0), (), "plain", ("white", "black"), **{"noise": 0.0, **more})


def strongest(samples, rate):
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * rate / len(samples)


def test_every_colour_has_a_pitch_and_every_shape_a_voice_of_its_own():
    assert set(PITCHES) == set(COLOURS)
    assert set(VOICES) == set(SHAPES)
    assert len({words for words, _ in PITCHES.values()}) == len(COLOURS)
    assert len({voice.words for voice in VOICES.values()}) == len(SHAPES)
    ordered = [PITCHES[colour][1] for colour in COLOURS]
    assert all(high / low > 1.4 for low, high in pairwise(ordered))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", ["circle", "square", "hexagon", "triangle"])
def test_the_pitch_is_that_of_the_colour(colour, shape):
    heard = strongest(sound(alone(colour, shape), 2.0, RATE), RATE)
    assert heard == pytest.approx(PITCHES[colour][1], rel=0.07)


@given(st.sampled_from(LABELS), st.integers(0, 1000).map(str), st.floats(0.5, 3), st.sampled_from([8000, 16_000, 44_100]))
@settings(max_examples=60, deadline=None)
def test_sounds_are_finite_in_range_loud_enough_and_as_long_as_asked(label, seed, seconds, rate):
    samples = sound(draw(seed, label), seconds, rate)
    assert samples.shape == (round(seconds * rate),)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert 0.08 < np.sqrt((samples**2).mean()) < 0.35


def test_a_moving_thing_is_loudest_in_the_middle_of_the_picture():
    scene = next(scene for seed in range(200) if (scene := draw(str(seed), "red circle")).heading == "to the right" and scene.main.x > 0.6)
    samples = sound(scene, 2.0, RATE)
    assert np.sqrt((samples[2000:8000] ** 2).mean()) > 1.03 * np.sqrt((samples[-8000:-2000] ** 2).mean())


def test_noise_is_heard_as_much_as_it_is_seen():
    clean, noisy = (sound(alone("red", "circle", noise=noise), 1.0, RATE) for noise in (0.0, 0.05))
    assert (noisy - clean)[1000:-1000].std() == pytest.approx(0.4 * 0.05, rel=0.03)


def test_nothing_folds_back_from_above_half_the_rate():
    """The buzz has ten partials; at 1661 Hz the fifth and higher do not fit into 16 kHz and must be silent, not mirrored."""
    samples = sound(alone("pink", "square"), 2.0, RATE)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    pitch = strongest(samples, RATE)
    near = np.abs(frequencies / pitch - np.round(frequencies / pitch)) < 0.02
    assert (spectrum[~near] ** 2).sum() < 1e-3 * (spectrum**2).sum()


def test_captions_say_pitch_voice_company_and_noise():
    other = Thing("arrow", "blue", 0.05, 0.1, 0.1, 0)
    assert caption(alone("orange", "ring", noise=0.03)) == "a very low bell struck again and again over faint noise"
    scene = Scene("0", alone("pink", "star").main, (other,), "plain", ("white", "black"), 0.06)
    assert caption(scene) == "an extremely high fast trill, with a short high whistle gliding upwards again and again, over loud noise"


def features(samples, rate):
    """Loudness by pitch (24 bands an octave apart in sixths) and by rhythm, of which a plain ear could tell a label."""
    _, _, power = spectrogram(samples, rate, nperseg=2048, noverlap=1536)
    edges = np.geomspace(70, 12_000, 46)
    frequencies = np.fft.rfftfreq(2048, 1 / rate)
    bands = np.array([power[(frequencies >= low * 0.97) & (frequencies < high * 1.03)].sum(axis=0) for low, high in pairwise(edges)])
    level = np.log10(bands + 1e-7)
    colour = level.mean(axis=1)
    rhythm = np.abs(np.fft.rfft(level - level.mean(axis=1, keepdims=True), axis=1)).mean(axis=0)[:40]
    return np.concatenate([colour - colour.mean(), rhythm / np.linalg.norm(rhythm) * 2])


def test_the_nearest_sound_by_spectrum_and_rhythm_has_the_same_label(tmp_path):
    """Chance is 1 in 64."""
    dataset = Scenes(medium="audio", corpus=128, queries=40)
    data = dataset.materialise(tmp_path)
    corpus, queries = (
        np.array([features(decode("audio", path).samples, SAMPLE_RATE) for path in paths]) for paths in (data.corpus, data.queries)
    )
    nearest = np.linalg.norm(queries[:, None] - corpus[None], axis=2).argmin(axis=1)
    right = np.mean([document in data.qrels[query] for query, document in enumerate(nearest)])
    assert right > 0.8
