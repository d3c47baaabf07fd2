"""From the bytes of one image file to uint8 RGB pixels of the wanted size.

Only PPM, PNG and JPEG are opened, up to a pixel cap; a damaged file is an error that names it,
never a half-grey image.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from signforge.errors import SignforgeError

FORMATS = ("PPM", "PNG", "JPEG")
MAX_PIXELS = 64 * 2**20
"""Largest width times height that is decoded; below Pillow's own warning threshold."""

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def check_mode(image: Image.Image, name: str) -> None:
    """Raises SignforgeError for modes of more than 8 bits, which Pillow would clip to white.

    Colour of 16 bits a channel is none of them: Pillow reduces it to 8 as it opens it.
    """
    if image.mode not in _MODES:
        raise SignforgeError(
            f"{name} has pixels of kind {image.mode}; save it with 8 bits a channel."
        )


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """``image`` in the mode RGB; ``name`` is for messages. Raises as ``check_mode`` does."""
    check_mode(image, name)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True)
class Roi:
    """Region of interest in pixels: x1 <= x < x2 and y1 <= y < y2 in an image width x height.

    The exclusive upper bounds are what GTSRB's CSVs mean: so the left and right margins of a
    sign are equal or nearly so (6.0 and 5.6 pixels on average over the 39,209 training images).
    """

    width: int
    height: int
    x1: int
    y1: int
    x2: int
    y2: int

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, upper, right, lower) in an image of ``size`` = (width, height).

        Where that is not the size the region was measured at, the region is scaled with the
        image and rounded to whole pixels, at least one.
        """
        left, right = _scaled(self.x1, self.x2, self.width, size[0])
        upper, lower = _scaled(self.y1, self.y2, self.height, size[1])
        return left, upper, right, lower


def decode_image(data: bytes, name: str) -> Image.Image:
    """The RGB image in the bytes of a PPM, PNG or JPEG file; ``name`` is for messages.

    Raises SignforgeError for other formats, damaged or truncated files, more than MAX_PIXELS
    pixels, and where ``check_mode`` does.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            check_mode(image, name)
            image.load()
            return as_rgb(image, name)
    except SignforgeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SignforgeError(
            f"{name} has more than {MAX_PIXELS:,} pixels; shrink or remove it."
        ) from None
    except UnidentifiedImageError:
        raise SignforgeError(
            f"{name} is not a readable {', '.join(FORMATS)} image; convert or remove it."
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SignforgeError(f"{name} cannot be decoded: {reason}; replace or remove it.") from None


def fit_image(image: Image.Image, roi: Roi | None, resolution: int) -> npt.NDArray[np.uint8]:
    """Cuts to ``roi`` if given, then resizes with antialiasing to (resolution, resolution).

    image: RGB. Returns uint8 (3, resolution, resolution). An image that already has the size is
    returned byte by byte as it is.
    """
    if roi is not None:
        image = image.crop(roi.box(image.size))
    if image.size != (resolution, resolution):
        # Pillow widens the triangle filter with the reduction factor: that is the antialiasing.
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _scaled(low: int, high: int, measured: int, stored: int) -> tuple[int, int]:
    if measured == stored:
        return low, high
    scale = stored / measured
    start = min(round(low * scale), stored - 1)
    return start, max(round(high * scale), start + 1)
