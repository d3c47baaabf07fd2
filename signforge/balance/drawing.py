"""Images of given classes from any sampler, checked and in the size that is asked for."""

import torch
from torch import Tensor
from torch.nn import functional as F

from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler


def draw_images(
    sampler: ClassConditionalSampler, labels: Tensor, seed: int, size: tuple[int, int]
) -> Tensor:
    """One image per label, int64 (N,) -> uint8 (N, 3, *size) on the CPU, owned by the caller.

    Raises SignforgeError for a sampler that returns another type or shape than it should.
    """
    side = sampler.resolution
    images: object = sampler.sample(labels.clone(), seed)
    expected = (len(labels), 3, side, side)
    if (
        not isinstance(images, Tensor)
        or images.dtype != torch.uint8
        or tuple(images.shape) != expected
    ):
        found = (
            f"{images.dtype} of shape {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise SignforgeError(
            f"The generator's sample() must return a tensor of uint8 of shape {expected}, "
            f"returned {found}."
        )
    # clone: a sampler in inference mode returns tensors that cannot be written to.
    return resize(images, size).cpu().clone()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, 3, h, w) -> uint8 (N, 3, *size), bilinear with antialiasing; same size: as is."""
    if tuple(images.shape[-2:]) == size:
        return images
    scaled = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)
