"""What several test files need: where real pictures lie, and pictures made on the spot."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def real_images() -> Path:
    """Return the folder of real photographs; skips the calling test, saying so, where there is none."""
    return _real("images", "photographs")


def real_speech() -> Path:
    """Return the folder of real recordings of speech; skips the calling test, saying so, where there is none."""
    return _real("speech", "speech")


def _real(name: str, what: str) -> Path:
    folder = Path(os.environ.get("HARNESS_DATA") or REPOSITORY.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"no real {what}: {folder} does not exist; set HARNESS_DATA to a folder that holds {name}/")
    return folder


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return a smooth picture that depends on its seed and survives JPEG."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR).convert(mode)


def png_that_claims(width: int, height: int) -> bytes:
    """Return a small file whose head states a picture of any size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
