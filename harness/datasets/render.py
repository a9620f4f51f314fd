"""A scene as a picture or a film: the only place that knows how a described scene looks.

Drawn at `OVERSAMPLING` times the size and scaled down, so that edges are smooth as in a photograph, with a little
variation of every colour and with noise, so that no two pictures of a label are alike in their pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from harness.datasets.scene import Scene, Thing

OVERSAMPLING = 2
RGB = {
    "red": (205, 35, 35),
    "orange": (240, 130, 20),
    "yellow": (240, 220, 40),
    "green": (40, 150, 55),
    "cyan": (60, 205, 215),
    "blue": (35, 65, 200),
    "purple": (120, 45, 150),
    "pink": (245, 130, 185),
    "white": (240, 240, 240),
    "light grey": (190, 190, 190),
    "dark grey": (85, 85, 85),
    "black": (22, 22, 22),
    "beige": (215, 200, 170),
    "brown": (110, 80, 55),
}
COLOUR_SPREAD = 12
"""Each channel of each colour is shifted by up to so many of 255 steps."""

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


def film(scene: Scene, size: int, frames: int) -> Iterator[Image.Image]:
    """Yield the frames of `scene` in motion: the same colours and background in all of them, noise of its own in each."""
    for number in range(frames):
        yield render(scene.at(number / max(frames - 1, 1)), size, exposure=number)


def render(scene: Scene, size: int, *, exposure: int = 0) -> Image.Image:
    """Return the RGB picture of `scene`, `size` × `size` pixels; the same on every machine with the same NumPy and Pillow.

    Parameters
    ----------
    scene : Scene
        What to show.
    size : int
        Width and height in pixels.
    exposure : int
        Another number gives other noise, and changes nothing else.
    """
    seed = int.from_bytes(hashlib.sha256(f"render {scene.seed} {scene.label}".encode()).digest()[:8])
    chance = np.random.default_rng(seed)
    side = size * OVERSAMPLING
    picture = _background(scene, side, chance)
    pen = ImageDraw.Draw(picture)
    for thing in (*scene.others, scene.main):
        _draw_thing(pen, thing, side, _varied(thing.colour, chance))
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    if exposure:
        chance = np.random.default_rng([seed, exposure])
    noise = chance.standard_normal(pixels.shape, dtype=np.float32) * np.float32(255 * scene.noise)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _varied(name: str, chance: np.random.Generator) -> Colour:
    red, green, blue = (int(np.clip(value + shift, 0, 255)) for value, shift in zip(RGB[name], _shifts(chance), strict=True))
    return red, green, blue


def _shifts(chance: np.random.Generator) -> list[int]:
    return [int(shift) for shift in chance.integers(-COLOUR_SPREAD, COLOUR_SPREAD, size=3, endpoint=True)]


def _background(scene: Scene, side: int, chance: np.random.Generator) -> Image.Image:
    first, second = (_varied(tone, chance) for tone in scene.tones)
    picture = Image.new("RGB", (side, side), first)
    # The second colour only tints the pattern, so that the background stays of the colour that the caption names.
    tint: Colour = tuple((3 * one + 2 * other) // 5 for one, other in zip(first, second, strict=True))  # type: ignore[assignment]
    step = side // int(chance.integers(6, 12))
    pen = ImageDraw.Draw(picture)
    if scene.pattern == "shaded":
        ramp = Image.linear_gradient("L").resize((side, side))
        picture.paste(tint, (0, 0, side, side), ramp)
    elif scene.pattern == "striped":
        for left in range(0, side, step):
            pen.rectangle((left, 0, left + step // 2, side), fill=tint)
    elif scene.pattern == "chequered":
        for row in range(0, side // step + 1):
            for column in range(row % 2, side // step + 1, 2):
                pen.rectangle((column * step, row * step, (column + 1) * step - 1, (row + 1) * step - 1), fill=tint)
    elif scene.pattern == "dotted":
        for top in range(0, side, step):
            for left in range(0, side, step):
                pen.ellipse((left, top, left + step // 3, top + step // 3), fill=tint)
    return picture


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, side: int, colour: Colour) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "circle":
        pen.ellipse(box, fill=colour)
    elif thing.shape == "ring":
        pen.ellipse(box, outline=colour, width=max(1, round(radius * 0.35)))
    else:
        turn = math.radians(thing.angle)
        corners = OUTLINES[thing.shape]
        pen.polygon(
            [
                (x + radius * (a * math.cos(turn) - b * math.sin(turn)), y + radius * (a * math.sin(turn) + b * math.cos(turn)))
                for a, b in corners
            ],
            fill=colour,
        )


def _regular(corners: int, radii: Sequence[float] = (1.0,), start: float = -90.0) -> Points:
    """Corners on circles whose radii are taken in turn, from `start` degrees on."""
    angles = [math.radians(start + 360 * number / corners) for number in range(corners)]
    return [(radii[n % len(radii)] * math.cos(angle), radii[n % len(radii)] * math.sin(angle)) for n, angle in enumerate(angles)]


_ARM = 0.3
OUTLINES: dict[str, Points] = {
    "triangle": _regular(3),
    "square": _regular(4, start=-45),
    "hexagon": _regular(6),
    "star": _regular(10, (1.0, 0.42)),
    "cross": [
        *((-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM)),
        *((_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM)),
    ],
    "arrow": [(-1, -0.25), (0.1, -0.25), (0.1, -0.65), (0.98, 0), (0.1, 0.65), (0.1, 0.25), (-1, 0.25)],
}
"""Corners in a circle of radius 1 around the origin, y downwards, before turning."""
