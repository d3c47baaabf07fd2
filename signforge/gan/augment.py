"""Differentiable augmentation of all that the discriminator sees (Zhao et al. 2020, DiffAugment).

Flips are left out on purpose: mirrored, a "keep right" is a "keep left".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def diff_augment(
    images: Tensor, policy: Sequence[str], rng: torch.Generator, probability: float = 1.0
) -> Tensor:
    """Applies ``color``, ``translation``, ``geometric`` and ``cutout`` of ``policy``, one draw per
    image, to a random share ``probability`` of the images.

    images: float (N, 3, H, W) in -1..1 -> the same shape; differentiable in images.
    """
    if not policy:
        return images
    augmented = images
    if "color" in policy:
        augmented = _color(augmented, rng)
    if "translation" in policy:
        augmented = _translation(augmented, rng)
    if "geometric" in policy:
        augmented = _geometric(augmented, rng)
    if "cutout" in policy:
        augmented = _cutout(augmented, rng)
    if probability < 1:
        augmented = torch.where(_uniform(images, rng) < probability, augmented, images)
    return augmented


def _uniform(images: Tensor, rng: torch.Generator) -> Tensor:
    """One number in 0..1 per image, float (N, 1, 1, 1)."""
    return torch.rand((len(images), 1, 1, 1), generator=rng, device=rng.device).to(images.device)


def _color(images: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5."""
    images = images + (_uniform(images, rng) - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (_uniform(images, rng) * 2)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (_uniform(images, rng) + 0.5)


def _translation(images: Tensor, rng: torch.Generator, ratio: float = 0.125) -> Tensor:
    """Shifts by up to ``ratio`` of the size in whole pixels; what comes in is zero (mid-grey)."""
    n, _, height, width = images.shape
    pad = max(1, round(height * ratio))
    padded = F.pad(images, (pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=rng, device=rng.device)
    dy, dx = offsets.to(images.device)
    rows = dy[:, None] + torch.arange(height, device=images.device)
    columns = dx[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(n, device=images.device)
    shifted = padded.permute(0, 2, 3, 1)[
        image[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return shifted.permute(0, 3, 1, 2)


def _geometric(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turns by up to 10 degrees and scales by up to 10 %; edges are repeated."""
    angle = (_uniform(images, rng).view(-1) - 0.5) * math.radians(20)
    scale = 1 + (_uniform(images, rng).view(-1) - 0.5) * 0.2
    cos, sin, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros_like(angle)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    with torch.autocast(images.device.type, enabled=False):  # bf16 is too coarse for coordinates
        grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _cutout(images: Tensor, rng: torch.Generator, ratio: float = 0.5) -> Tensor:
    """Sets a square of ``ratio`` of the size to zero (mid-grey), centred anywhere."""
    n, _, height, width = images.shape
    half = height * ratio / 2
    centres = torch.rand((2, n, 1), generator=rng, device=rng.device).to(images.device)
    rows = (torch.arange(height, device=images.device) + 0.5 - centres[0] * height).abs() < half
    columns = (torch.arange(width, device=images.device) + 0.5 - centres[1] * width).abs() < half
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)
