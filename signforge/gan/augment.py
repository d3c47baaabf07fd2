"""Differentiable augmentation of all that the discriminator sees (Zhao et al. 2020, DiffAugment).

Flips are left out on purpose: mirrored, a "keep right" is a "keep left".
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def diff_augment(images: Tensor, policy: Sequence[str], rng: torch.Generator) -> Tensor:
    """Applies ``color``, ``translation`` and ``cutout`` of ``policy``, one draw per image.

    images: float (N, 3, H, W) in -1..1 -> the same shape; differentiable in images.
    """
    if "color" in policy:
        images = _color(images, rng)
    if "translation" in policy:
        images = _translation(images, rng)
    if "cutout" in policy:
        images = _cutout(images, rng)
    return images


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


def _cutout(images: Tensor, rng: torch.Generator, ratio: float = 0.5) -> Tensor:
    """Sets a square of ``ratio`` of the size to zero (mid-grey), centred anywhere."""
    n, _, height, width = images.shape
    half = height * ratio / 2
    centres = torch.rand((2, n, 1), generator=rng, device=rng.device).to(images.device)
    rows = (torch.arange(height, device=images.device) + 0.5 - centres[0] * height).abs() < half
    columns = (torch.arange(width, device=images.device) + 0.5 - centres[1] * width).abs() < half
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)
