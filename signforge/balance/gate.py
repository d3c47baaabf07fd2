"""Which synthetic images are good enough to use: draw again what a gate rejects."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from signforge.errors import SignforgeError

Gate: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(images uint8 (N, 3, H, W), labels int64 (N,)) -> bool (N,), True where the image is kept."""


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


def _mask(gate: Gate, images: Tensor, labels: Tensor) -> Tensor:
    # Copies, so that a gate that normalises in place or keeps its mask cannot change the pool.
    mask = torch.as_tensor(gate(images.clone(), labels.clone())).to("cpu", copy=True)
    if mask.dtype != torch.bool or mask.shape != labels.shape:
        raise SignforgeError(
            f"gate must return a bool mask of shape {tuple(labels.shape)}, "
            f"returned {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask
