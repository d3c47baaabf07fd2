"""Light for synthetic images, borrowed from real images of any class.

A rare class is a few objects, each seen under one light; the frequent classes have seen every
light. Moving the mean and the standard deviation of an image to those of another is the colour
transfer of Reinhard et al. 2001 ("Color transfer between images", eqs. 10 and 11), here of the
luminance alone: hues, which tell classes apart, stay what they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from torch import Tensor

from signforge.balance.rows import rows_by_class
from signforge.errors import SignforgeError

Relight: TypeAlias = Callable[[Tensor, int], Tensor]
"""(images uint8 (N, 3, H, W), seed) -> images of the same shape and type."""

WEAKEST, STRONGEST = 0.2, 8.0
"""Limits of the change in contrast: beyond, an image is flat, or nothing but amplified noise."""
CHUNK = 1024
"""Images at a time: as floats, they take four times as much room."""


@dataclass(frozen=True)
class BorrowedLight:
    """Gives each image the light of a random real one; each class lends as often as any other.

    means, stds: float32 (M,), of the luminance of the real images, in 0..255.
    rows: for each class that has images, which of these are its own.
    """

    means: Tensor
    stds: Tensor
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Self:
        """images: uint8 (M, 3, H, W), M > 0. labels: int64 (M,)."""
        if not len(images):
            raise SignforgeError("There is no real image whose light could be borrowed.")
        means, stds = _light(images)
        num_classes = int(labels.max()) + 1
        rows = rows_by_class(labels, num_classes)
        every = (rows[label] for label in range(num_classes))
        return cls(means, stds, tuple(own for own in every if len(own)))

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """uint8 (N, 3, H, W) from the same; what is lent depends on ``seed`` and N alone."""
        rng = torch.Generator().manual_seed(seed)
        classes = torch.randint(len(self.rows), (len(images),), generator=rng)
        places = torch.rand(len(images), generator=rng, dtype=torch.float64)
        lenders = torch.tensor(
            [
                int(self.rows[label][int(place * len(self.rows[label]))])
                for label, place in zip(classes.tolist(), places.tolist(), strict=True)
            ],
            dtype=torch.int64,
        )
        return relit(images, self.means[lenders], self.stds[lenders])


def relit(images: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """``images`` with luminance of these means and standard deviations, as far as 0..255 allows.

    images: uint8 (N, 3, H, W). means, stds: float32 (N,). All channels are scaled alike.
    """
    parts = zip(*(torch.split(whole, CHUNK) for whole in (images, means, stds)), strict=True)
    return torch.cat([_relit(*part) for part in parts])


def _relit(images: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    own_means, own_stds = _light(images)
    contrast = (stds / own_stds.clamp_min(1.0)).clamp(WEAKEST, STRONGEST)
    centred = images.float() - own_means[:, None, None, None]
    moved = centred * contrast[:, None, None, None] + means[:, None, None, None]
    return moved.round().clamp(0, 255).to(torch.uint8)


def checked_relit(images: object, before: Tensor) -> Tensor:
    """What a ``Relight`` returned for ``before``. Raises SignforgeError where it is no such."""
    if not isinstance(images, Tensor) or (images.shape, images.dtype) != (
        before.shape,
        before.dtype,
    ):
        found = (
            f"{images.dtype} of shape {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise SignforgeError(
            f"relight must return uint8 images of shape {tuple(before.shape)}, returned {found}."
        )
    return images.cpu()


def _light(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the luminance of each image: float32 (N,) twice."""
    means, stds = [], []
    for part in torch.split(images, CHUNK):
        luminance = part.float().mean(1).flatten(1)
        means.append(luminance.mean(1))
        stds.append(luminance.std(1, correction=0))
    return torch.cat(means), torch.cat(stds)
