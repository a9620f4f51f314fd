"""From what a dataset stores to what a model takes: the decode stage of every measurement.

The one place where a picture becomes pixels; `harness.datasets.media` is that of sound and video. A dataset that reads foreign
files decodes each of them here before it lists it, so that a measuring process, which decodes here too, meets no surprise.

The rules for pictures, chosen once for all models:

- the format is what the bytes say, not what the name says; formats that start other programs (EPS) or that are no
  pictures to Pillow's core are refused;
- animated files give their first frame;
- the EXIF orientation is applied; colour profiles are not;
- transparency is laid over white;
- 16-bit grey keeps its high byte, as Pillow does for 16-bit colour; 32-bit integer and floating-point grey,
  which have no agreed range, are stretched from their own minimum and maximum to 0 … 255;
- a picture of more than `MAX_PIXELS`, or cut short, or damaged, is refused with a `DataError`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.datasets.media import decode_sound, decode_video
from harness.errors import DataError
from harness.interfaces import Item, Modality

FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
"""Pillow's names of the formats that are read."""

MAX_PIXELS = 89_478_485
"""Pillow's own threshold for a warning: a quarter of a gibibyte of RGB pixels. A small file can claim any size."""


def decode(modality: Modality, stored: str) -> Item:
    """Return the item that `stored` stands for: the text itself, or the RGB picture, the sound or the video in the file of that name.

    Returns
    -------
    str or PIL.Image.Image or harness.interfaces.Sound or harness.interfaces.Clip
        By modality: text, image, audio, video.

    Raises
    ------
    harness.errors.DataError
        If the file cannot be read, or holds nothing of the modality, or is damaged, or too large.
    """
    if modality == "text":
        return stored
    return {"image": decode_image, "audio": decode_sound, "video": decode_video}[modality](Path(stored))


def decode_image(path: Path) -> Image.Image:
    """Read one image file into memory, in mode RGB, by the rules above."""
    try:
        return _pixels(path)
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a picture") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes, and a damaged file is no bug of ours
        raise DataError(f"{path}: not a readable picture ({type(error).__name__}: {error})") from error


def _pixels(path: Path) -> Image.Image:
    with Image.open(path) as image:
        if image.format not in FORMATS:
            raise DataError(f"{path}: format {image.format} is not read; convert it to PNG or JPEG")
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path}: {image.width} × {image.height} is more than {MAX_PIXELS} pixels; scale it down")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # 16-bit PGM opens as 32-bit integers
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretched(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _stretched(grey: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite")
    return np.rint((grey - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)
