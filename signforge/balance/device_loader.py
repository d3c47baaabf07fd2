"""OnDeviceLoader: batches whose synthetic images never leave the accelerator.

For training where moving images, or making them in workers, holds the GPU up: workers bring the
real images, the pool on the device gives the others.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress


class OnDeviceLoader:
    """Yields (images (B, 3, H, W), labels (B,)), both on ``device``, in the order of ``loader``.

    The same labels, counts and pixels as ``loader`` alone gives without a ``pool_device``.
    Images have the dtype of the real ones: uint8, or float in [0, 1].

    loader: a DataLoader over ``dataset``, or over a Subset of it, with default collate. With
        ``pin_memory=True`` real images travel while the device computes.
    dataset: gives tensors, has no transform of its own, and ``third_element="index"``, which
        ``pool_device="cuda"`` implies. A pool on the CPU does too; its images are then moved.
    transform: applied to a batch of images, real and synthetic alike, on the device, such as
        transforms of torchvision.transforms.v2. Those draw their random numbers once a batch:
        all its images are cropped, turned and so on by the same amount.

    Raises SignforgeError where ``loader`` or ``dataset`` are not as above.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        dataset: SyntheticBalancedDataset,
        *,
        device: str | torch.device,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        _check_loader(loader, dataset)
        _check_items(dataset)
        self.loader = loader
        self.dataset = dataset
        self.device = resolve_device(str(device))
        self.transform = transform
        # A tensor, since CUDA divides by a plain number through its rounded reciprocal.
        self._white = torch.tensor(255.0, device=self.device)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        """``set_epoch`` of the data set and of those samplers of the loader that have one."""
        self.dataset.set_epoch(epoch, track=track)
        batch_sampler = self.loader.batch_sampler
        samplers = (self.loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        for sampler in {id(sampler): sampler for sampler in samplers}.values():
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        _check_transform(self.dataset)
        for batch in self.loader:
            images, labels, indices = _parts(batch)
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            self._draw_in(images, indices)
            yield images if self.transform is None else self.transform(images), labels

    def _draw_in(self, images: Tensor, indices: Tensor) -> None:
        """Writes the synthetic images among the items ``indices`` into ``images``."""
        rows = self.dataset.pool_rows(indices)
        places = (rows >= 0).nonzero().flatten()
        if not len(places):
            return
        pool = self.dataset.pool_images
        chosen = rows[places].to(pool.device, non_blocking=True)
        drawn = pool[chosen].to(self.device, non_blocking=True)
        if images.is_floating_point():
            drawn = drawn.float() / self._white
        # By index, not by mask: a mask on the device makes the host wait for its count.
        images.index_copy_(0, places.to(self.device, non_blocking=True), drawn.to(images.dtype))


def _check_loader(loader: DataLoader[Any], dataset: SyntheticBalancedDataset) -> None:
    source = loader.dataset
    while isinstance(source, Subset):
        source = source.dataset
    if source is not dataset:
        raise SignforgeError(
            "OnDeviceLoader's loader reads another data set than the one given: make it as "
            "DataLoader(dataset, ...) or over a Subset of dataset."
        )


def _check_items(dataset: SyntheticBalancedDataset) -> None:
    _check_transform(dataset)
    if dataset.third_element != "index":
        raise SignforgeError(
            "OnDeviceLoader needs to know which items a batch holds: make the data set with "
            "third_element='index'."
        )
    image, size = dataset[0][0], tuple(dataset.pool_images.shape[1:])
    if not isinstance(image, Tensor) or tuple(image.shape) != size:
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise SignforgeError(
            f"OnDeviceLoader needs real images that are tensors of one shape, here {size}, and "
            f"the first is {found}; signforge.from_dataset makes them so."
        )


def _check_transform(dataset: SyntheticBalancedDataset) -> None:
    if dataset.transform is not None:
        raise SignforgeError(
            "The data set has a transform, which would miss the synthetic images that "
            "OnDeviceLoader adds: set its transform to None and pass it to OnDeviceLoader."
        )


def _parts(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(batch, (list, tuple)) and len(batch) == 3:
        images, labels, indices = batch
        if all(isinstance(part, Tensor) and len(part) == len(images) for part in batch):
            return images, labels, indices
    raise SignforgeError(
        "OnDeviceLoader's loader must give batches (images, labels, indices) of tensors: leave "
        "its collate_fn at the default, and mix batches (CutMix, MixUp) after OnDeviceLoader."
    )
