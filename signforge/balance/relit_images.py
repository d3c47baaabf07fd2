"""Real images in changing light: borrowed light as an augmentation of all classes."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.lighting import Relight, checked_relit
from signforge.balance.storage import PoolImages, allocate_images
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

_WHICH, _LIGHT = range(2)
"""Streams of random numbers that must not share a seed."""


class RelitImages(Dataset[tuple[Tensor, int]]):
    """The images of ``real``, each of them relit or as it is, drawn anew every epoch.

    Items are (uint8 (3, R, R), int); item i of epoch e depends on the seed, e and i alone.

    share: probability that an image is relit.
    images: uint8 (N, 3, R, R), those of the epoch, in memory that loader workers share.
    Raises SignforgeError where ``relight`` returns something else than it should, and where there
    is no room for a second copy of the images.
    """

    def __init__(
        self, real: LabeledImages, relight: Relight, *, share: float = 0.5, seed: int = 0
    ) -> None:
        self.real = real
        self._relight = relight
        self._share = share
        self._seed = seed
        self._labels = real.labels.tolist()
        self._memory = _room_for(real.images)
        self.set_epoch(0)

    @property
    def images(self) -> Tensor:
        return self._memory.tensor

    def set_epoch(self, epoch: int) -> None:
        """Draws the images of ``epoch``; workers, persistent ones too, see them at once.

        Raises SignforgeError in a loader worker, which would write into the memory of all.
        """
        if not self._memory.is_own:
            raise SignforgeError(
                "This is a copy of the data set: call set_epoch on the data set in the process "
                "that made it."
            )
        rng = torch.Generator().manual_seed(derive_seed(self._seed, _WHICH, epoch))
        chosen = torch.rand(len(self._labels), generator=rng) < self._share
        before = self.real.images[chosen]
        relit = self._relight(before.clone(), derive_seed(self._seed, _LIGHT, epoch))
        relit = checked_relit(relit, before)
        self.images.copy_(self.real.images)
        self.images[chosen] = relit

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # A copy, because the memory shows other images at the next epoch, and to all.
        return self.images[index].clone(), self._labels[index]


def _room_for(images: Tensor) -> PoolImages:
    height, width = images.shape[-2:]
    try:
        return allocate_images(len(images), (height, width))
    except SignforgeError:
        raise SignforgeError(
            f"No room for the {images.nbytes / 2**30:.1f} GiB that RelitImages takes beside the "
            "real images: give it fewer of them, or free memory."
        ) from None
