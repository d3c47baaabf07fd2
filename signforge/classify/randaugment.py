"""RandAugment on a batch: two random operations an image (Cubuk et al. 2020, 1909.13719).

Operations and strengths are those of torchvision's ``RandAugment`` at its defaults, none of which
flips. Torchvision itself draws from the global random state and treats a whole batch alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from signforge.device import to_device

NUM_OPERATIONS = 2
_STRENGTH = 9 / 30
"""Magnitude 9 on a scale that ends at 30."""

MAX_ROTATION_DEGREES = 30 * _STRENGTH
MAX_SHEAR = 0.3 * _STRENGTH
MAX_SHIFT = 150 / 331 * _STRENGTH
"""As a share of the image side."""
MAX_LIGHT = 0.9 * _STRENGTH
POSTERIZE_BITS = round(8 - 4 * _STRENGTH)
SOLARIZE_ABOVE = 255 * (1 - _STRENGTH)


def rand_augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 (N, 3, H, W) -> the same, every image changed by two operations of its own.

    The same ``rng`` state gives the same batch; a CPU ``rng`` draws the same for every device.
    """
    shape = (NUM_OPERATIONS, len(images))
    chosen = torch.randint(len(OPERATIONS), shape, generator=rng, device=rng.device)
    positive = torch.rand(shape, generator=rng, device=rng.device) < 0.5
    for choice, up in zip(chosen, positive, strict=True):
        changed = images.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            for sign in (1, -1):
                mask = (choice == number) & (up == (sign > 0))
                rows = to_device(mask.nonzero().flatten(), images.device)
                if len(rows):
                    changed[rows] = operation(images[rows], sign)
        images = changed
    return images


def _warp(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """The affine ``matrix`` maps places in the result to places in ``images``; edges repeat."""
    theta = to_device(torch.tensor(matrix), images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return moved.round().to(torch.uint8)


def _rotate(images: Tensor, sign: int) -> Tensor:
    angle = sign * math.radians(MAX_ROTATION_DEGREES)
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp(images, ((cos, -sin, 0), (sin, cos, 0)))


OPERATIONS: Mapping[str, Callable[[Tensor, int], Tensor]] = MappingProxyType(
    {
        "identity": lambda images, _: images,
        "shear_x": lambda images, sign: _warp(images, ((1, sign * MAX_SHEAR, 0), (0, 1, 0))),
        "shear_y": lambda images, sign: _warp(images, ((1, 0, 0), (sign * MAX_SHEAR, 1, 0))),
        # Coordinates run from -1 to 1: the image side is 2.
        "shift_x": lambda images, sign: _warp(images, ((1, 0, sign * 2 * MAX_SHIFT), (0, 1, 0))),
        "shift_y": lambda images, sign: _warp(images, ((1, 0, 0), (0, 1, sign * 2 * MAX_SHIFT))),
        "rotate": _rotate,
        "brightness": lambda images, sign: tv.adjust_brightness(images, 1 + sign * MAX_LIGHT),
        "saturation": lambda images, sign: tv.adjust_saturation(images, 1 + sign * MAX_LIGHT),
        "contrast": lambda images, sign: tv.adjust_contrast(images, 1 + sign * MAX_LIGHT),
        "sharpness": lambda images, sign: tv.adjust_sharpness(images, 1 + sign * MAX_LIGHT),
        "posterize": lambda images, _: tv.posterize(images, POSTERIZE_BITS),
        "solarize": lambda images, _: tv.solarize(images, SOLARIZE_ABOVE),
        "autocontrast": lambda images, _: tv.autocontrast(images),
        "equalize": lambda images, _: tv.equalize(images),
    }
)
"""(uint8 (N, 3, H, W), sign 1 or -1) -> the same; those without a direction ignore the sign."""
