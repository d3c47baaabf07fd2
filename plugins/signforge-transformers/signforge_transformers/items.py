"""Items and batches as Hugging Face's image classifiers take them: pixel_values and labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge import SignforgeError


class DictItems(Dataset[dict[str, Any]]):
    """A Dataset of (image, label) whose items are ``{"pixel_values": image, "labels": label}``.

    Images stay as they are; ``PixelCollator`` makes a batch of them.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.dataset[index]
        return {"pixel_values": image, "labels": label}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items at ``indices``, by one call where the data set takes whole batches."""
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        return [{"pixel_values": image, "labels": label} for image, label in items]

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the data set, where it has epochs."""
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if set_epoch:
            set_epoch(epoch)


class PixelCollator:
    """Items of DictItems -> ``pixel_values`` float32 (N, 3, H, W) and ``labels`` int64 (N,).

    processor: a Hugging Face image processor; it gets the images as they are. Without one, PIL
        images and uint8 become floats in [0, 1] and float tensors stay as they are.

    Raises SignforgeError for images of several sizes without processor, and for float images
    with a processor that would rescale them once more.
    """

    def __init__(self, processor: Callable[..., Any] | None = None) -> None:
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        images = [item["pixel_values"] for item in items]
        labels = torch.tensor([int(item["labels"]) for item in items], dtype=torch.int64)
        return {"pixel_values": self._pixels(images), "labels": labels}

    def _pixels(self, images: list[Any]) -> Tensor:
        if self.processor is None:
            tensors = [_to_float(image) for image in images]
            sizes = {tuple(tensor.shape) for tensor in tensors}
            if len(sizes) > 1:
                raise SignforgeError(
                    f"The images of a batch have shapes {sorted(sizes)}: give PixelCollator an "
                    "image processor, or the data set a transform, that makes them alike."
                )
            return torch.stack(tensors)
        rescales = getattr(self.processor, "do_rescale", False)
        if rescales and isinstance(images[0], Tensor) and images[0].is_floating_point():
            raise SignforgeError(
                "The image processor divides by 255, but the images are floats already: let the "
                "data set give PIL or uint8 images, or set do_rescale=False."
            )
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels


def _to_float(image: Any) -> Tensor:
    """PIL, uint8 numpy (H, W, 3), or a tensor (3, H, W) -> float32 (3, H, W)."""
    if not isinstance(image, Tensor):
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels: Tensor = image.float()
    return pixels if image.is_floating_point() else pixels / 255
