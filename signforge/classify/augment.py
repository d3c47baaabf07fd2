"""Label-preserving augmentation of a whole batch at once: poses and light, never flips.

A flip turns "keep right" into "keep left" on traffic signs, so no policy here has one.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from signforge.classify.randaugment import rand_augment
from signforge.device import to_device

MEAN = (0.485, 0.456, 0.406)
"""RGB mean of ImageNet in [0, 1]: what most pretrained weights were trained with."""
STD = (0.229, 0.224, 0.225)

MAX_ROTATION_DEGREES = 7.0
MAX_SHIFT = 0.05
"""Largest shift on either axis, as a share of the image side."""
MAX_SCALE = 0.1
"""Sizes lie within 1 - MAX_SCALE .. 1 + MAX_SCALE."""
MAX_LIGHT = 0.2
"""Brightness and contrast factors lie within 1 - MAX_LIGHT .. 1 + MAX_LIGHT."""


def normalise(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 (N, 3, H, W) with ImageNet's mean and deviation removed."""
    return _standardise(images.float() / 255)


def augment_batch(
    images: Tensor, policy: Literal["none", "basic", "randaugment"], rng: torch.Generator
) -> Tensor:
    """Normalised float32 (N, 3, H, W) from uint8 (N, 3, H, W), on the device of ``images``.

    ``basic`` gives every image its own rotation, shift, scale, brightness and contrast;
    ``randaugment`` two of RandAugment's operations; ``none`` only normalises. The same ``rng``
    state gives the same batch; a CPU ``rng`` draws the same parameters for every device.
    """
    if policy == "none":
        return normalise(images)
    if policy == "randaugment":
        return normalise(rand_augment(images, rng))
    n = len(images)
    draws = to_device(torch.rand((6, n), generator=rng, device=rng.device), images.device) * 2 - 1
    angle, shift_x, shift_y, scale, brightness, contrast = draws
    angle = angle * math.radians(MAX_ROTATION_DEGREES)
    # affine_grid maps output to input places, so an object grows when its coordinates shrink.
    zoom = 1 / (1 + scale * MAX_SCALE)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # Coordinates run from -1 to 1: the image side is 2.
    x, y = shift_x * 2 * MAX_SHIFT, shift_y * 2 * MAX_SHIFT
    theta = torch.stack((cos, -sin, x, sin, cos, y), dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(
        images.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    lit = (moved - mean) * (1 + contrast * MAX_LIGHT).view(n, 1, 1, 1)
    lit += mean * (1 + brightness * MAX_LIGHT).view(n, 1, 1, 1)
    return _standardise(lit.clamp_(0, 1))


def _standardise(images: Tensor) -> Tensor:
    mean, std = (to_device(torch.tensor(v), images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std
