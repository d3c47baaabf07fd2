"""Oversampling as a sampler of indices: real images repeated, for arms without a generator."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from signforge.balance.oversampling import repeat_evenly
from signforge.balance.rows import rows_by_class
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed


class RepeatSampler(Sampler[int]):
    """Indices of an epoch in which class c appears ``targets[c]`` times, in random order.

    Every image of a class appears equally often, or once more: the images of the last, partial
    repetition are drawn without replacement, anew each epoch, from (seed, epoch).

    labels: int64 (N,). targets: int64 (C,). A target below the class's own count leaves that
    many of its images.
    """

    def __init__(self, labels: Tensor, targets: Tensor, *, seed: int) -> None:
        rows = rows_by_class(labels, len(targets))
        self._of_class = [rows[label] for label in range(len(targets))]
        self._targets = [int(target) for target in targets]
        self._seed = seed
        self._epoch = 0
        for label, (images, target) in enumerate(zip(self._of_class, self._targets, strict=True)):
            if target and not len(images):
                raise SignforgeError(
                    f"Class {label} has no real image that could be repeated; oversampling "
                    "needs at least one."
                )

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self._targets)

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        drawn = [
            repeat_evenly(rows, target, rng)
            for rows, target in zip(self._of_class, self._targets, strict=True)
            if len(rows)
        ]
        indices = torch.cat(drawn)
        order = torch.randperm(len(indices), generator=rng)
        return iter(indices[order].tolist())
