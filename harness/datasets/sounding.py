"""A scene as a sound: the only place that knows how a described scene is heard.

What is seen is heard: the main thing's colour is its pitch, its shape the voice that sounds it (timbre and rhythm together), the other
things are short quiet calls of their own voices, and the picture's noise is noise. The main thing is loudest in the middle of the
picture, so that its motion is heard too. A model that hears pitch and timbre can tell the labels apart, and a sentence can name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.datasets.scene import Scene, Thing, article

Signal = NDArray[np.float64]

PITCHES = {
    "red": ("extremely low", 98.0),
    "orange": ("very low", 147.0),
    "yellow": ("low", 220.0),
    "green": ("rather low", 330.0),
    "cyan": ("rather high", 494.0),
    "blue": ("high", 740.0),
    "purple": ("very high", 1109.0),
    "pink": ("extremely high", 1661.0),
}
"""Words and fundamental frequency in Hz for each colour: fifths, wide enough apart for `DETUNE`, the voices' glides and any ear."""

DETUNE = 0.03
"""Each thing's pitch is shifted by up to this share, half a semitone, as a picture's colours are varied."""

MAIN_LEVEL, OTHER_LEVEL = 0.16, 0.05
"""Root mean square of the main thing's sound in the middle of the picture, and of the calls of others; full scale is 1."""

CALL_S = 0.2
"""How long another thing is heard; it calls once."""


@dataclass(frozen=True)
class Voice:
    """How a shape sounds."""

    words: str
    partials: tuple[tuple[float, float], ...]
    """Frequency as a multiple of the fundamental, and amplitude."""
    glide: Callable[[Signal], Signal]
    """Frequency as a multiple of the pitch, by time in seconds."""
    envelope: Callable[[Signal], Signal]
    """Loudness in [0, 1], by time in seconds."""


def _steady(t: Signal) -> Signal:
    return np.ones_like(t)


def _struck(times_per_s: float, decay_s: float) -> Callable[[Signal], Signal]:
    return lambda t: np.exp(-(t % (1 / times_per_s)) / decay_s) * np.minimum(t % (1 / times_per_s) / 0.004, 1.0)


def _harmonics(count: int, step: int = 1, power: float = 1.0) -> tuple[tuple[float, float], ...]:
    return tuple((float(n), n**-power) for n in range(1, count * step, step))


VOICES = {
    "circle": Voice("pure steady tone", ((1, 1),), _steady, _steady),
    # Partials of a church bell, hum note to double octave (N. Fletcher, T. Rossing, "The Physics of Musical Instruments", chapter 21).
    "ring": Voice(
        "bell struck again and again", ((0.5, 0.6), (1, 1), (1.2, 0.8), (1.5, 0.5), (2, 0.9), (2.7, 0.4)), _steady, _struck(2, 0.25)
    ),
    "triangle": Voice("wavering flute", _harmonics(3, 2, 2.0), lambda t: 1 + 0.03 * np.sin(2 * np.pi * 6 * t), _steady),
    "square": Voice("harsh steady buzz", _harmonics(10, 2), _steady, _steady),
    "hexagon": Voice("quickly plucked string", _harmonics(12), _steady, _struck(5, 0.06)),
    "star": Voice("fast trill", _harmonics(4), lambda t: np.where(t * 12 % 1 < 0.5, 1.0, 1.26), _steady),
    "cross": Voice("siren swelling up and down", _harmonics(5), lambda t: 2 ** (0.35 * np.sin(2 * np.pi * 1.5 * t)), _steady),
    "arrow": Voice("whistle gliding upwards again and again", ((1, 1), (2, 0.2)), lambda t: 2 ** (t * 2.5 % 1 - 0.5), _struck(2.5, 0.4)),
}
"""The voice of each shape: timbre, glide and rhythm all differ, so that none is told from another by one of them alone."""


def caption(scene: Scene) -> str:
    """What is heard, in a sentence: ``a very low bell struck again and again, with a short high fast trill, over faint noise``."""
    calls = [f"a short {_words(thing)}" for thing in scene.others]
    company = f", with {' and '.join(calls)}," if calls else ""
    noise = "in near silence" if scene.noise < 0.02 else "over faint noise" if scene.noise < 0.05 else "over loud noise"
    words = _words(scene.main)
    return f"{article(words)} {words}{company} {noise}"


def sound(scene: Scene, seconds: float, rate: int) -> Signal:
    """Return the samples of `scene` in motion, `seconds` long at `rate` samples a second, in [-1, 1], shape (n,).

    Float64, so that what the processors' sine functions differ in is lost when the samples are stored as 16 bits.
    """
    seed = int.from_bytes(hashlib.sha256(f"sound {scene.seed} {scene.label}".encode()).digest()[:8])
    chance = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    start, end = scene.at(0.0).main, scene.at(1.0).main
    x, y = (np.linspace(one, other, len(t)) for one, other in ((start.x, end.x), (start.y, end.y)))
    mix = MAIN_LEVEL * (1.2 - np.hypot(x - 0.5, y - 0.5)) * _voiced(scene.main, t, rate, chance)
    for thing in scene.others:
        call = OTHER_LEVEL * _voiced(thing, t[: round(CALL_S * rate)], rate, chance)
        at = int(chance.integers(0, max(len(t) - len(call), 0), endpoint=True))
        mix[at : at + len(call)] += call * np.hanning(len(call))
    mix += chance.standard_normal(len(t)) * scene.noise * 0.4
    edge = np.minimum(np.minimum(np.arange(len(t)), np.arange(len(t))[::-1]) / (0.01 * rate), 1.0)  # no click at either end
    return np.clip(mix * edge, -1.0, 1.0)


def _voiced(thing: Thing, t: Signal, rate: int, chance: np.random.Generator) -> Signal:
    """The sound of one thing with a root mean square of 1."""
    voice = VOICES[thing.shape]
    frequency = PITCHES[thing.colour][1] * (1 + DETUNE * chance.uniform(-1, 1)) * voice.glide(t)
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    offsets = chance.uniform(0, 2 * np.pi, len(voice.partials))
    top = float(frequency.max(initial=0.0))
    tones = [
        amplitude * np.sin(multiple * phase + offset)
        for (multiple, amplitude), offset in zip(voice.partials, offsets, strict=True)
        if multiple * top < 0.45 * rate  # what lies above half the rate would come back as another tone
    ]
    wave: Signal = np.sum(tones, axis=0) * voice.envelope(t)
    level = float(np.sqrt(np.mean(wave**2)))
    return wave / level


def _words(thing: Thing) -> str:
    return f"{PITCHES[thing.colour][0]} {VOICES[thing.shape].words}"
