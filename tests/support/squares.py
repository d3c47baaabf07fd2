"""Images that a tiny classifier learns in a second."""

import torch
from torch import Tensor

from signforge.data.images import UNKNOWN_GROUP, LabeledImages

CLASSES, SIZE = 4, 16


def square_images(labels: Tensor, seed: int) -> Tensor:
    """Noise with a bright square whose corner of the image is the class: uint8 (N, 3, 16, 16).

    labels: int64 (N,) below ``CLASSES``.
    """
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (len(labels), 3, SIZE, SIZE), generator=rng, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        y, x = 8 * (label // 2) + 1, 8 * (label % 2) + 1
        image[:, y : y + 6, x : x + 6] += 100
    return images


def squares(n: int, seed: int = 0) -> LabeledImages:
    """``n`` of them, as many of each class, each a sign of its own."""
    labels = torch.arange(n) % CLASSES
    return LabeledImages(
        images=square_images(labels, seed),
        labels=labels,
        groups=torch.full((n,), UNKNOWN_GROUP),
        class_names=tuple("abcd"),
        names=tuple(str(i) for i in range(n)),
        source="squares",
    )
