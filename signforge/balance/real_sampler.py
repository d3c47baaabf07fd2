"""The real images as a sampler: what oversampling is where something happens to the copies."""

import torch
from torch import Tensor

from signforge.balance.rows import rows_by_class
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError


class RealImageSampler:
    """A ClassConditionalSampler that draws the real images of a class, with replacement.

    ``sample`` raises SignforgeError for a class without any image.
    """

    def __init__(self, real: LabeledImages) -> None:
        self._images = real.images
        self._rows = rows_by_class(real.labels, real.num_classes)
        self.num_classes = real.num_classes
        self.resolution = real.resolution
        self.class_names = real.class_names
        self.fingerprint = real.fingerprint

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """labels: int64 (N,). Returns uint8 (N, 3, R, R); the same for the same arguments."""
        rng = torch.Generator().manual_seed(seed)
        places = torch.rand(len(labels), generator=rng, dtype=torch.float64)
        chosen = torch.tensor(
            [self._row(*pair) for pair in zip(labels.tolist(), places.tolist(), strict=True)],
            dtype=torch.int64,
        )
        return self._images[chosen]

    def _row(self, label: int, place: float) -> int:
        if not 0 <= label < self.num_classes or not len(self._rows[label]):
            raise SignforgeError(f"Class {label} has no real image that could be drawn.")
        return int(self._rows[label][int(place * len(self._rows[label]))])
