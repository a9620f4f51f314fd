"""What a scene is, before it becomes a picture: a few things of a shape and a colour in front of a background.

A scene is drawn from its seed alone and says everything about itself in words and fractions, no pixels and no samples, so
that the same scene can be rendered as a picture, set in motion, heard, and told as a caption.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "ring", "triangle", "square", "hexagon", "star", "cross", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TONES = ("white", "light grey", "dark grey", "black", "beige", "brown")
"""Colours of backgrounds; none of them is a colour of things, so that a thing always stands out."""

PATTERNS = ("plain", "shaded", "striped", "chequered", "dotted")
LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""What a scene can be about: the colour and shape of its main thing. 64 of them."""

HEADINGS = {
    "to the right": (1, 0),
    "down and to the right": (1, 1),
    "downwards": (0, 1),
    "down and to the left": (-1, 1),
    "to the left": (-1, 0),
    "up and to the left": (-1, -1),
    "upwards": (0, -1),
    "up and to the right": (1, -1),
}
"""Where things can move to, as words and as steps to the right and down."""

TRAVEL = 0.3
"""Way of the main thing in a clip, in sides along each axis of its heading; the largest thing has 0.32 of room."""


@dataclass(frozen=True)
class Thing:
    """One object; lengths are fractions of the picture's side, angles in degrees."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A main thing, up to three much smaller other ones, a background and the picture's noise."""

    seed: str
    main: Thing
    others: tuple[Thing, ...]
    pattern: str
    tones: tuple[str, str]
    """The background's colour, and the second colour of its pattern."""
    noise: float
    """Standard deviation of the sensor noise as a fraction of the full range."""

    @property
    def label(self) -> str:
        """What is depicted: ``red circle``."""
        return f"{self.main.colour} {self.main.shape}"

    @property
    def caption(self) -> str:
        """The whole scene in a sentence: ``a large red circle at the top left, with a blue star, on a striped beige background``."""
        row = ("top", "middle", "bottom")[min(int(self.main.y * 3), 2)]
        column = ("left", "centre", "right")[min(int(self.main.x * 3), 2)]
        place = "in the centre" if (row, column) == ("middle", "centre") else f"at the {row} {column}"
        return f"a {self._size} {self.label} {place}{self._company} on {self._ground}"

    @property
    def caption_in_motion(self) -> str:
        """The scene as a film, in a sentence: ``a large red circle moving upwards, with a blue star, on a striped beige background``."""
        return f"a {self._size} {self.label} moving {self.heading}{self._company} on {self._ground}"

    @property
    def heading(self) -> str:
        """Where the main thing moves, one of `HEADINGS`."""
        return random.Random(f"heading {self.seed} {self.label}").choice(list(HEADINGS))

    def at(self, time: float) -> Scene:
        """Return the scene at a time of the clip, from 0 at its beginning to 1 at its end.

        The main thing moves along its heading and stays whole; the others move half as far, each along a heading of its own.
        """
        chance = random.Random(f"headings {self.seed} {self.label}")
        others = tuple(_moved(thing, chance.choice(list(HEADINGS)), TRAVEL / 2, time) for thing in self.others)
        return replace(self, main=_moved(self.main, self.heading, TRAVEL, time), others=others)

    @property
    def _size(self) -> str:
        return "small" if self.main.radius < 0.2 else "medium-sized" if self.main.radius < 0.27 else "large"

    @property
    def _company(self) -> str:
        names = [f"{article(thing.colour)} {thing.colour} {thing.shape}" for thing in self.others]
        return f", with {' and '.join(names)}," if names else ""

    @property
    def _ground(self) -> str:
        ground = f"{self.pattern} {self.tones[0]}"
        return f"{article(ground)} {ground} background"


def draw(seed: str, label: str) -> Scene:
    """Draw the scene of `label` (one of `LABELS`) that belongs to `seed`; the same words give the same scene on every machine."""
    # Random seeds itself from a string by SHA-512, unlike hash(), which differs from process to process.
    chance = random.Random(f"scene {seed} {label}")
    colour, shape = label.split(" ")
    radius = chance.uniform(0.15, 0.34)
    main = Thing(shape, colour, radius, chance.uniform(radius, 1 - radius), chance.uniform(radius, 1 - radius), chance.uniform(-25, 25))
    others: list[Thing] = []
    for _ in range(chance.randint(0, 3)):
        small = chance.uniform(0.05, 0.09)
        thing = Thing(
            chance.choice(SHAPES),
            chance.choice(COLOURS),
            small,
            chance.uniform(small, 1 - small),
            chance.uniform(small, 1 - small),
            chance.uniform(-25, 25),
        )
        if all(_apart(thing, other) for other in (main, *others)):
            others.append(thing)
    first, second = chance.sample(TONES, 2)
    return Scene(seed, main, tuple(others), chance.choice(PATTERNS), (first, second), chance.uniform(0.0, 0.08))


def _apart(one: Thing, other: Thing) -> bool:
    return math.dist((one.x, one.y), (other.x, other.y)) > one.radius + other.radius + 0.02


def _moved(thing: Thing, heading: str, way: float, time: float) -> Thing:
    """A thing on its way, which goes through the place it was drawn at as near to the middle of the clip as the borders allow."""
    x, y = (
        min(max(place, thing.radius + way / 2), 1 - thing.radius - way / 2) + step * way * (time - 0.5) if step else place
        for place, step in zip((thing.x, thing.y), HEADINGS[heading], strict=True)
    )
    return replace(thing, x=x, y=y)


def article(words: str) -> str:
    """The article that goes before some words."""
    return "an" if words[0] in "aeiou" else "a"
