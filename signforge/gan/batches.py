"""Batches of real images and of labels, drawn on the training device without a DataLoader."""

import torch
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.gan.distributed import WHOLE, Share
from signforge.gan.sampler import from_uint8


class BatchSource:
    """The training images on the device, drawn class by class from the class prior."""

    def __init__(self, train: LabeledImages, class_prior: str, device: torch.device) -> None:
        self.device = device
        order = torch.argsort(train.labels, stable=True)
        self.images = train.images[order].to(device)
        counts = train.class_counts
        self.counts = counts.to(device)
        self.starts = (counts.cumsum(0) - counts).to(device)
        power = {"empirical": 1.0, "tempered": 0.5, "uniform": 0.0}[class_prior]
        self._empirical = _proportional(counts, 1.0).to(device)
        self._target = _proportional(counts, power).to(device)
        self.prior = self._target

    def warm_up_prior(self, progress: float) -> None:
        """Sets the prior between the empirical one (progress 0) and ``class_prior`` (1)."""
        self.prior = torch.lerp(self._empirical, self._target, progress)

    def labels(self, n: int, rng: torch.Generator) -> Tensor:
        """int64 (n,) from the class prior."""
        return torch.multinomial(self.prior, n, replacement=True, generator=rng)

    def batch(self, n: int, rng: torch.Generator, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
        """Real images float (n, 3, H, W) in -1..1 and their labels int64 (n,), or a share of n."""
        labels = self.labels(n, rng)
        return self.images_of(labels, rng, share), share.of(labels)

    def images_of(self, labels: Tensor, rng: torch.Generator, share: Share = WHOLE) -> Tensor:
        """One random real image of each label, float (n, 3, H, W) in -1..1.

        labels: int64 (n,) of the whole batch; only the images of ``share`` of it are gathered.
        """
        offsets = torch.rand(len(labels), generator=rng, device=self.device, dtype=torch.float64)
        labels, offsets = share.of(labels), share.of(offsets)
        counts = self.counts[labels]
        rows = self.starts[labels] + torch.minimum((offsets * counts).long(), counts - 1)
        return from_uint8(self.images[rows])


def _proportional(counts: Tensor, power: float) -> Tensor:
    """float (C,), summing to 1: proportional to counts ** power, 0 for classes without images."""
    weights = (counts > 0) * counts.float() ** power
    return weights / weights.sum()
