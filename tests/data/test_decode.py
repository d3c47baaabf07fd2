import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from signforge.data import decode
from signforge.data.decode import Roi, decode_image, fit_image
from signforge.errors import SignforgeError


@pytest.mark.parametrize("format_", ["PPM", "PNG"])
def test_lossless_formats_give_the_exact_pixels(draw, encode, format_: str) -> None:
    pixels = draw(1, 9, 7)
    image = decode_image(encode(pixels, format_), "x")
    assert np.array_equal(np.asarray(image), pixels)


def test_jpeg_and_other_modes_become_rgb(encode: Callable[..., bytes]) -> None:
    grey = np.full((8, 8), 77, dtype=np.uint8)
    for format_ in ("JPEG", "PNG", "PPM"):
        image = decode_image(encode(grey, format_), "x")
        assert image.mode == "RGB"
        assert np.asarray(image).shape == (8, 8, 3)
        assert abs(int(np.asarray(image)[0, 0, 0]) - 77) <= 1
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, "PNG", transparency=b"\x00" * 256)
    assert decode_image(palette.getvalue(), "x").mode == "RGB"


@pytest.mark.parametrize("cut", [0, 1, 5, 14, 100, -1])
def test_truncated_ppm_is_an_error_that_names_it(draw, encode, cut: int) -> None:
    data = encode(draw(1))
    with pytest.raises(SignforgeError, match=r"Images/00014/x\.ppm"):
        decode_image(data[:cut], "Images/00014/x.ppm")


def test_truncated_png_and_jpeg(draw, encode) -> None:
    for format_ in ("PNG", "JPEG"):
        data = encode(draw(1, 64, 64), format_)
        with pytest.raises(SignforgeError, match="cannot be decoded"):
            decode_image(data[: len(data) // 2], "x")


@pytest.mark.parametrize("format_", ["BMP", "GIF", "TIFF", "WEBP"])
def test_other_formats_are_not_opened(draw, encode, format_: str) -> None:
    with pytest.raises(SignforgeError, match="PPM, PNG, JPEG"):
        decode_image(encode(draw(1), format_), "x.png")


def colour_png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A PNG of RGB with ``bits`` a channel; ``rows`` as PNG compresses them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (12000, 12000), (60000, 60000)])
def test_oversized_images_are_refused_by_their_header(width: int, height: int) -> None:
    for data in (colour_png(width, height, 8, b""), f"P6 {width} {height} 255\n".encode()):
        with pytest.raises(SignforgeError, match="bomb has more than"):
            decode_image(data, "bomb")


def test_pixel_cap_is_inclusive(draw, encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 144)
    decode_image(encode(draw(1, 12, 12)), "x")
    with pytest.raises(SignforgeError, match="more than 144 pixels"):
        decode_image(encode(draw(1, 12, 13)), "x")


def test_sixteen_bit_png_is_refused_not_clipped() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(file, "PNG")
    with pytest.raises(SignforgeError, match="8 bits a channel"):
        decode_image(file.getvalue(), "x.png")


def test_colour_of_sixteen_bits_is_reduced_to_eight() -> None:
    values = np.array([0, 0x1234, 0x9C40, 0xFFFF, 0x8000, 0x00FF], dtype=">u2")
    png = colour_png(2, 1, 16, zlib.compress(b"\0" + values.tobytes()))
    for data in (png, b"P6 2 1 65535\n" + values.tobytes()):
        pixels = np.asarray(decode_image(data, "x")).astype(int).flatten()
        assert np.abs(pixels - values.astype(int) / 257).max() < 1


def test_an_image_of_the_target_size_stays_byte_equal(draw) -> None:
    pixels = draw(3, 32, 32)
    fitted = fit_image(Image.fromarray(pixels), None, 32)
    assert np.array_equal(fitted, pixels.transpose(2, 0, 1))


def test_resize_is_antialiased() -> None:
    # One white column in eight, shrunk eight times: a resize without antialiasing gives 0 or 255.
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, ::8] = 255
    fitted = fit_image(Image.fromarray(pixels), None, 8)
    assert abs(float(fitted.mean()) - 255 / 8) < 6
    assert fitted.max() < 64


def test_roi_is_exclusive_on_the_right() -> None:
    pixels = np.arange(10 * 12 * 3, dtype=np.uint16).astype(np.uint8).reshape(10, 12, 3)
    roi = Roi(width=12, height=10, x1=3, y1=2, x2=9, y2=8)
    fitted = fit_image(Image.fromarray(pixels), roi, 6)
    assert np.array_equal(fitted, pixels[2:8, 3:9].transpose(2, 0, 1))


def test_roi_scales_with_an_image_stored_at_another_size() -> None:
    roi = Roi(width=64, height=128, x1=8, y1=16, x2=56, y2=112)
    assert roi.box((64, 128)) == (8, 16, 56, 112)
    assert roi.box((32, 32)) == (4, 4, 28, 28)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_scaled_roi_lies_in_the_image(
    measured: tuple[int, int], stored: tuple[int, int], data: st.DataObject
) -> None:
    x1 = data.draw(st.integers(0, measured[0] - 1))
    y1 = data.draw(st.integers(0, measured[1] - 1))
    x2 = data.draw(st.integers(x1 + 1, measured[0]))
    y2 = data.draw(st.integers(y1 + 1, measured[1]))
    left, upper, right, lower = Roi(*measured, x1, y1, x2, y2).box(stored)
    assert 0 <= left < right <= stored[0]
    assert 0 <= upper < lower <= stored[1]
    assert abs(left - x1 * stored[0] / measured[0]) <= 1
    # Half a pixel of rounding, and one where a region thinner than a pixel is widened.
    assert abs(right - x2 * stored[0] / measured[0]) <= 1.5
