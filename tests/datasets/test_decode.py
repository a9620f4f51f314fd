import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.datasets.decode import MAX_PIXELS, decode, decode_image
from harness.errors import DataError
from tests.datasets.samples import picture, png_that_claims, real_images


def pixels(image):
    return np.asarray(image)


def test_a_text_is_itself():
    assert decode("text", "no/path.jpg") == "no/path.jpg"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif", "webp", "jpg"])
def test_every_common_format_gives_rgb_of_the_right_size(tmp_path, suffix):
    picture(1).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    got = decode("image", str(tmp_path / f"a.{suffix}"))
    assert isinstance(got, Image.Image)
    assert (got.mode, got.size) == ("RGB", (40, 30))
    if suffix not in ("gif", "jpg"):
        assert (pixels(got) == pixels(picture(1))).all()


def test_the_content_decides_not_the_name(tmp_path):
    picture(1).save(tmp_path / "a.txt", format="PNG")
    assert (pixels(decode_image(tmp_path / "a.txt")) == pixels(picture(1))).all()


def test_a_photograph_decodes_to_what_pillow_gives():
    for path in sorted(real_images().iterdir())[:40]:
        with Image.open(path) as image:
            expected = pixels(image.convert("RGB"))
        assert (pixels(decode_image(path)) == expected).all()


def test_all_modes_that_pillow_writes_become_rgb(tmp_path):
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"):
        image = picture(2).convert("L").convert("I").convert("I;16") if mode == "I;16" else picture(2).convert(mode)
        path = tmp_path / f"{mode.replace(';', '')}.tiff"
        image.save(path)
        assert (decode_image(path).mode, decode_image(path).size) == ("RGB", (40, 30)), mode


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (10, 20, 30, alpha))
    image.save(tmp_path / "a.png")
    expected = [[round(255 + (c - 255) * alpha / 255) for c in (10, 20, 30)] for alpha in (0, 128, 255)]
    assert np.abs(pixels(decode_image(tmp_path / "a.png"))[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_a_palette_with_a_transparent_entry_is_laid_over_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert pixels(decode_image(tmp_path / "a.png"))[0].tolist() == [[200, 0, 0], [255, 255, 255]]


def test_grey_and_16_bit_grey_agree(tmp_path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "plain.png")
    assert (pixels(decode_image(tmp_path / "deep.png")) == pixels(decode_image(tmp_path / "plain.png"))).all()
    assert pixels(decode_image(tmp_path / "deep.png"))[15, 15].tolist() == [255, 255, 255]


def test_big_endian_16_bit_grey_is_read_too(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 0x1234, 0xFF00))
    assert pixels(decode_image(tmp_path / "a.pgm"))[0, :, 0].tolist() == [0x12, 0xFF]


def test_floating_point_grey_is_stretched_and_refused_if_not_finite(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.0, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert pixels(decode_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.zeros((1, 3), dtype=np.float32)).save(tmp_path / "flat.tiff")
    assert pixels(decode_image(tmp_path / "flat.tiff")).max() == 0
    Image.fromarray(np.array([[np.nan, 0.0]], dtype=np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(DataError, match="not finite"):
        decode_image(tmp_path / "nan.tiff")


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_the_exif_orientation_is_applied(tmp_path, orientation, undo):
    upright = picture(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright if undo is None else upright.transpose(undo)).save(tmp_path / "a.png", exif=exif)
    assert (pixels(decode_image(tmp_path / "a.png")) == pixels(upright)).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert np.abs(pixels(decode_image(tmp_path / f"a.{suffix}"))[0, 0].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # Pillow warns where we refuse
@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 30_000])
def test_a_small_file_that_claims_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(DataError, match=r"more than 89478485 pixels|DecompressionBombError"):
        decode_image(tmp_path / "bomb.png")


def test_formats_that_start_other_programs_are_refused(tmp_path):
    picture(1).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(DataError, match="format EPS is not read"):
        decode_image(tmp_path / "a.png")


def test_a_picture_cut_short_is_refused_not_filled_with_grey(tmp_path):
    data = io.BytesIO()
    picture(1, size=(200, 200)).save(data, format="JPEG")
    (tmp_path / "a.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(DataError, match="truncated"):
        decode_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_a_data_error_that_names_the_file(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg"):
        decode_image(tmp_path / "a.jpg")


def test_a_missing_file_is_a_data_error_too(tmp_path):
    with pytest.raises(DataError, match="FileNotFoundError"):
        decode_image(tmp_path / "gone.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged metadata of a picture that it can read
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damaged_bytes_give_a_picture_or_a_data_error_and_nothing_else(tmp_path, data, suffix):
    stream = io.BytesIO()
    picture(4).save(stream, format=suffix)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    try:
        image = decode_image(tmp_path / "a")
    except DataError:
        return
    assert image.mode == "RGB"
    assert pixels(image).shape == (image.height, image.width, 3)
