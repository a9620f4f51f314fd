"""Sound at a model's rate, against sines and against SciPy's resampling by Fourier transform."""

import numpy as np
import pytest

from harness.errors import DataError
from harness.interfaces import Sound
from models.sound import checked, resampled


def sine(hertz, rate, seconds=1.0):
    return Sound(np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32), rate)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 44_099])
def test_a_sine_keeps_its_frequency_and_its_loudness(rate):
    samples = resampled(sine(440, rate, 2.0), 16_000, seconds=30)
    assert samples.dtype == np.float32
    assert len(samples) == 32_000
    expected = np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=0.01)


def test_what_the_new_rate_cannot_hold_is_filtered_out_and_not_folded_back():
    assert np.abs(resampled(sine(11_000, 44_100), 16_000, seconds=30)[200:-200]).max() < 0.01  # would come back as 5,000 Hz


def test_speech_like_noise_comes_out_as_fourier_resampling_has_it():
    from scipy.signal import resample

    rng = np.random.default_rng(0)
    spectrum = np.zeros(4001, dtype=complex)
    spectrum[50:3000] = rng.standard_normal(2950) + 1j * rng.standard_normal(2950)  # one second at 8 kHz, nothing near 4 kHz
    samples = np.fft.irfft(spectrum, 8000)
    samples = (samples / np.abs(samples).max()).astype(np.float32)
    ours, theirs = resampled(Sound(samples, 8000), 16_000, seconds=30), resample(samples, 16_000)
    np.testing.assert_allclose(ours[500:-500], theirs[500:-500], atol=0.01)


def test_an_excerpt_is_that_part_of_the_whole_but_for_its_edges():
    whole = Sound(np.random.default_rng(1).uniform(-1, 1, 44_100).astype(np.float32), 44_100)
    part = resampled(whole, 16_000, seconds=0.25, start_s=0.5)
    assert len(part) == 4_000
    np.testing.assert_allclose(part[50:-50], resampled(whole, 16_000, seconds=30)[8_050 : 12_000 - 50], atol=1e-5)


def test_an_excerpt_ends_where_the_sound_ends():
    short = sine(100, 8_000)
    assert len(resampled(short, 8_000, seconds=1, start_s=0.75)) == 2_000
    assert len(resampled(short, 16_000, seconds=1, start_s=1.5)) == 0


def test_at_its_own_rate_a_sound_stays_what_it_is():
    whole = sine(100, 16_000)
    np.testing.assert_array_equal(resampled(whole, 16_000, seconds=0.5), whole.samples[:8_000])


def test_one_sample_is_a_sound():
    assert len(resampled(Sound(np.array([0.5], dtype=np.float32), 44_100), 16_000, seconds=30)) == 1
    assert checked(Sound(np.zeros(1, dtype=np.float32), 8_000)).seconds == 1 / 8_000


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("a text", "must be a Sound, got str"),
        (Sound(np.empty(0, dtype=np.float32), 16_000), "at least 1"),
        (Sound(np.zeros((5, 2), dtype=np.float32), 16_000), r"\(5, 2\)"),
        (Sound(np.zeros(5, dtype=np.float32), 0), "rate"),
        (Sound(np.array([0, np.nan], dtype=np.float32), 16_000), "peak of nan"),
        (Sound(np.array([0, -np.inf], dtype=np.float32), 16_000), "peak of inf"),
        (Sound(np.array([0, -12_000], dtype=np.float32), 16_000), "was not scaled"),
    ],
)
def test_what_is_no_sound_is_refused(item, said):
    with pytest.raises(DataError, match=said):
        checked(item, what="sound 3")
