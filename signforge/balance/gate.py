"""Which synthetic images are good enough to use: draw again what a gate rejects, and find the
classes of which it rejects too many.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from signforge.balance.drawing import draw_images
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

Gate: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(images uint8 (N, 3, H, W), labels int64 (N,)) -> bool (N,), True where the image is kept."""

TRIAL_DRAWS = 64
"""Of each class: enough to tell an acceptance of 0.1 to about 0.04 (its standard error)."""


def draw_accepted(
    draw: Callable[[Tensor, int], Tensor], labels: Tensor, *, gate: Gate | None, attempts: int
) -> tuple[Tensor, Tensor]:
    """One image per label, those that ``gate`` rejects drawn again, ``attempts`` times in all.

    draw: (labels int64 (K,), attempt number) -> uint8 (K, 3, H, W).
    Returns (images uint8 (N, 3, H, W), accepted bool (N,)); where accepted is False, the image
    is the last one rejected.
    """
    images = draw(labels, 0)
    if gate is None:
        return images, torch.ones(len(labels), dtype=torch.bool)
    accepted = _mask(gate, images, labels)
    for attempt in range(1, attempts):
        missing = (~accepted).nonzero().flatten()
        if not len(missing):
            break
        redrawn = draw(labels[missing], attempt)
        images[missing] = redrawn
        accepted[missing] = _mask(gate, redrawn, labels[missing])
    return images, accepted


def measure_acceptance(
    sampler: ClassConditionalSampler,
    gate: Gate,
    labels: Tensor,
    *,
    draws: int = TRIAL_DRAWS,
    seed: int,
    size: tuple[int, int] | None = None,
    track: Track = no_progress,
) -> Tensor:
    """The share of ``draws`` trial images of each class that ``gate`` keeps: float64 (C,).

    labels: int64 (K,), the classes to try; the others get NaN. Each class has a seed of its own,
    so its share does not depend on which others are tried.
    size: (height, width) in pixels that the gate sees images in; the sampler's own by default.

    Raises SignforgeError for a sampler or a gate that returns something else than it should.
    """
    acceptance = torch.full((sampler.num_classes,), torch.nan, dtype=torch.float64)
    size = size or (sampler.resolution, sampler.resolution)
    for label in track(labels.tolist(), "Trying the gate", len(labels)):
        trial = torch.full((draws,), label, dtype=torch.int64)
        images = draw_images(sampler, trial, derive_seed(seed, label), size)
        acceptance[label] = _mask(gate, images, trial).double().mean()
    return acceptance


def _mask(gate: Gate, images: Tensor, labels: Tensor) -> Tensor:
    # Copies, so that a gate that normalises in place or keeps its mask cannot change the pool.
    mask = torch.as_tensor(gate(images.clone(), labels.clone())).to("cpu", copy=True)
    if mask.dtype != torch.bool or mask.shape != labels.shape:
        raise SignforgeError(
            f"gate must return a bool mask of shape {tuple(labels.shape)}, "
            f"returned {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask
