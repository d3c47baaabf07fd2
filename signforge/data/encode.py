"""From pixels to image files: PNG bytes, and names of class folders that every file system takes.

The counterpart of ``decode``: what is written here is read back with equal pixels.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from signforge.data.decode import as_rgb
from signforge.errors import SignforgeError


def encode_png(image: object) -> bytes:
    """The PNG file of one image, without any metadata that the image may carry.

    image: in a form that data sets give: uint8 tensor (3, H, W), float tensor (3, H, W) in
    [0, 1], uint8 numpy array (H, W, 3) or PIL image. Raises SignforgeError for another one.
    """
    file = io.BytesIO()
    Image.fromarray(_rgb(image)).save(file, format="PNG")
    return file.getvalue()


def class_folders(class_names: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class, such as ``00014_Stop``.

    The ids are padded so that names sort in label order, which is how ImageFolder and our own
    reader number classes; of the class name only ASCII letters and digits are kept.
    """
    width = max(5, len(str(len(class_names) - 1)))
    return tuple(f"{label:0{width}d}_{_safe(name)}" for label, name in enumerate(class_names))


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60].rstrip("-") or "class"


def _rgb(image: Any) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), contiguous."""
    if isinstance(image, Image.Image):
        return np.array(as_rgb(image, "An image to be saved"))
    pixels = image
    if isinstance(image, Tensor) and image.ndim == 3:
        if image.is_floating_point() and bool(((image >= 0) & (image <= 1)).all()):
            image = image.to(torch.float32).mul(255).round().to(torch.uint8)
        pixels = image.permute(1, 2, 0).cpu().numpy() if image.dtype == torch.uint8 else None
    if _is_rgb(pixels):
        return np.ascontiguousarray(pixels)
    kind = type(image).__name__
    shape = f" {image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else ""
    raise SignforgeError(
        f"An image to be saved is a {kind}{shape}: a PIL image, a uint8 tensor (3, H, W), a float "
        "tensor in [0, 1] or a uint8 numpy array (H, W, 3) is needed."
    )


def _is_rgb(pixels: Any) -> bool:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        return False
    return pixels.ndim == 3 and pixels.shape[2] == 3
