"""LabeledImages: the only shape in which images travel inside the package."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge.errors import SignforgeError

UNKNOWN_GROUP = -1


@dataclass(frozen=True, eq=False)
class LabeledImages(Dataset[tuple[Tensor, int]]):
    """Decoded images of one split with their labels; itself a map-style torch Dataset.

    images: uint8 (N, 3, H, W), RGB, square.
    labels: int64 (N,), 0 <= label < len(class_names).
    groups: int64 (N,): frames of one physical sign (a GTSRB track) share a number, which is
        unique across classes; ``UNKNOWN_GROUP`` where the source does not tell.
    class_names: one per class, in label order.
    names: one per image: the file, or the place in an archive, that it was read from.
    source: where the images came from, for messages and run records.

    Raises SignforgeError where shapes, dtypes or ranges are not as above.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise SignforgeError(
                f"{self.source}: images must be uint8 of shape (N, 3, H, W), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}."
            )
        if self.images.shape[2] != self.images.shape[3]:
            raise SignforgeError(
                f"{self.source}: images must be square, got {tuple(self.images.shape)}."
            )
        for field, values in (("labels", self.labels), ("groups", self.groups)):
            if values.dtype != torch.int64 or values.shape != (n,):
                raise SignforgeError(
                    f"{self.source}: {field} must be int64 of shape ({n},), "
                    f"got {values.dtype} of shape {tuple(values.shape)}."
                )
        if len(self.names) != n:
            raise SignforgeError(f"{self.source}: {n} images but {len(self.names)} names.")
        outside = (self.labels < 0) | (self.labels >= self.num_classes)
        if bool(outside.any()):
            first = int(outside.nonzero()[0])
            raise SignforgeError(
                f"{self.source}: {self.names[first]} has label {int(self.labels[first])}, "
                f"outside 0..{self.num_classes - 1}; correct the label or remove the image."
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def resolution(self) -> int:
        """Height of an image in pixels (images are square)."""
        return self.images.shape[-2]

    @cached_property
    def targets(self) -> list[int]:
        """Labels under the name that torchvision's data sets use."""
        labels: list[int] = self.labels.tolist()
        return labels

    @cached_property
    def class_counts(self) -> Tensor:
        """Images of each class: int64 (num_classes,)."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of class names, shape, images, labels and groups, not of file names."""
        digest = hashlib.sha256()
        digest.update(repr((self.class_names, tuple(self.images.shape))).encode())
        for tensor in (self.images, self.labels, self.groups):
            if tensor.numel():  # an empty memoryview cannot be cast
                digest.update(tensor.contiguous().numpy().data.cast("B"))
        return digest.hexdigest()

    def subset(self, indices: Tensor) -> "LabeledImages":
        """The images at ``indices`` (int64 (M,)), in that order, with all classes kept."""
        return LabeledImages(
            images=self.images[indices],
            labels=self.labels[indices],
            groups=self.groups[indices],
            class_names=self.class_names,
            names=tuple(self.names[int(i)] for i in indices),
            source=self.source,
        )

    def examples(self, per_class: int) -> list[Tensor]:
        """Up to ``per_class`` images of each class, evenly spread over it: uint8 (n, 3, H, W)."""
        rows = []
        for label in range(self.num_classes):
            indices = (self.labels == label).nonzero().squeeze(1)
            spread = torch.linspace(0, len(indices) - 1, min(per_class, len(indices))).long()
            rows.append(self.images[indices[spread]])
        return rows

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """One gather for a whole batch; torch's fetcher calls this when it is there."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        rows = torch.where(rows < 0, rows + len(self), rows)
        images = self.images.index_select(0, rows)  # half the time of images[rows]
        return list(zip(images, self.labels[rows].tolist(), strict=True))


@dataclass(frozen=True)
class LabeledSplits:
    """What a source holds, split as the source itself splits it.

    val and test are None where the source has none (see ``splits`` for cutting them by group).
    notes: sentences for the user about how the source was understood.
    unreadable: one sentence per file that could not be decoded, naming it; those images are not
        in the splits.
    """

    train: LabeledImages
    val: LabeledImages | None = None
    test: LabeledImages | None = None
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def named(self) -> dict[str, LabeledImages]:
        """The splits that exist, in the order train, val, test."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}
