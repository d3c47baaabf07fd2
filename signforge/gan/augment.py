"""Differentiable augmentation of all that the discriminator sees (Zhao et al. 2020, DiffAugment).

Flips are left out on purpose: mirrored, a "keep right" is a "keep left".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from signforge.device import autocast
from signforge.gan.distributed import WHOLE, Share


@dataclass(frozen=True)
class _Draws:
    """Random numbers for the images here, which are ``share`` of a batch of ``n``."""

    rng: torch.Generator
    share: Share
    n: int
    device: torch.device

    def uniform(self) -> Tensor:
        """One number in 0..1 per image, float (N, 1, 1, 1)."""
        return self.here(torch.rand((self.n, 1, 1, 1), generator=self.rng, device=self.rng.device))

    def here(self, numbers: Tensor) -> Tensor:
        """Those of the images here, out of ``n`` rows."""
        return self.share.of(numbers).to(self.device)


def diff_augment(
    images: Tensor,
    policy: Sequence[str],
    rng: torch.Generator,
    probability: float = 1.0,
    share: Share = WHOLE,
) -> Tensor:
    """Applies ``color``, ``translation``, ``geometric`` and ``cutout`` of ``policy``, one draw per
    image, to a random part ``probability`` of the images.

    images: float (N, 3, H, W) in -1..1 -> the same shape; differentiable in images.
    share: which rows of a larger batch they are, each treated as it would be there.
    """
    if not policy:
        return images
    draws = _Draws(rng, share, len(images) * share.size, images.device)
    augmented = images
    if "color" in policy:
        augmented = _color(augmented, draws)
    if "translation" in policy:
        augmented = _translation(augmented, draws)
    if "geometric" in policy:
        augmented = _geometric(augmented, draws)
    if "cutout" in policy:
        augmented = _cutout(augmented, draws)
    if probability < 1:
        augmented = torch.where(draws.uniform() < probability, augmented, images)
    return augmented


def _color(images: Tensor, draws: _Draws) -> Tensor:
    """Brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5."""
    images = images + (draws.uniform() - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (draws.uniform() * 2)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (draws.uniform() + 0.5)


def _translation(images: Tensor, draws: _Draws, ratio: float = 0.125) -> Tensor:
    """Shifts by up to ``ratio`` of the size in whole pixels; what comes in is zero (mid-grey)."""
    n, _, height, width = images.shape
    pad = max(1, round(height * ratio))
    padded = F.pad(images, (pad, pad, pad, pad))
    rng = draws.rng
    offsets = torch.randint(0, 2 * pad + 1, (2, draws.n), generator=rng, device=rng.device)
    dy, dx = draws.here(offsets.T).T
    rows = dy[:, None] + torch.arange(height, device=images.device)
    columns = dx[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(n, device=images.device)
    shifted = padded.permute(0, 2, 3, 1)[
        image[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return shifted.permute(0, 3, 1, 2)


def _geometric(images: Tensor, draws: _Draws) -> Tensor:
    """Turns by up to 10 degrees and scales by up to 10 %; edges are repeated."""
    angle = (draws.uniform().view(-1) - 0.5) * math.radians(20)
    scale = 1 + (draws.uniform().view(-1) - 0.5) * 0.2
    cos, sin, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros_like(angle)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    with autocast(images.device, "fp32"):  # bf16 is too coarse for coordinates
        grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _cutout(images: Tensor, draws: _Draws, ratio: float = 0.5) -> Tensor:
    """Sets a square of ``ratio`` of the size to zero (mid-grey), centred anywhere."""
    _, _, height, width = images.shape
    half = height * ratio / 2
    rng = draws.rng
    centres = torch.rand((2, draws.n, 1), generator=rng, device=rng.device)
    centres = draws.here(centres.transpose(0, 1)).transpose(0, 1)
    rows = (torch.arange(height, device=images.device) + 0.5 - centres[0] * height).abs() < half
    columns = (torch.arange(width, device=images.device) + 0.5 - centres[1] * width).abs() < half
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)
