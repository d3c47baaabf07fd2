"""Real images in changing light: borrowed light as an augmentation of all classes."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.lighting import Relight, checked_relit
from signforge.data.images import LabeledImages
from signforge.seeds import derive_seed

_WHICH, _LIGHT = range(2)
"""Streams of random numbers that must not share a seed."""


class RelitImages(Dataset[tuple[Tensor, int]]):
    """The images of ``real``, each of them relit or as it is, drawn anew every epoch.

    Items are (uint8 (3, R, R), int); item i of epoch e depends on the seed, e and i alone.

    share: probability that an image is relit.
    Raises SignforgeError where ``relight`` returns something else than it should.
    """

    def __init__(
        self, real: LabeledImages, relight: Relight, *, share: float = 0.5, seed: int = 0
    ) -> None:
        self.real = real
        self._relight = relight
        self._share = share
        self._seed = seed
        self._labels = real.labels.tolist()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the images of ``epoch``."""
        rng = torch.Generator().manual_seed(derive_seed(self._seed, _WHICH, epoch))
        chosen = torch.rand(len(self._labels), generator=rng) < self._share
        images = self.real.images.clone()
        before = images[chosen]
        relit = self._relight(before.clone(), derive_seed(self._seed, _LIGHT, epoch))
        images[chosen] = checked_relit(relit, before)
        self.images = images

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self._labels[index]
