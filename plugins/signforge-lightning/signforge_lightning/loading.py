"""How batches reach the Trainer: a loader that starts late, and an order for each epoch."""

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from signforge.seeds import derive_seed


class LateLoader(DataLoader[Any]):
    """A DataLoader that reads nothing before its first batch is asked for.

    Lightning makes the iterator of the first epoch of a ``fit`` before any hook can tell a data
    set which epoch that is, and the workers of a plain DataLoader then read ahead: after a resume
    they hand out images of the wrong epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


class EpochShuffle(RandomSampler):
    """Every position of ``data_source`` once, in an order made of (seed, epoch) alone.

    Lightning calls ``set_epoch``. By its type Lightning knows it for a shuffle, and where several
    processes train it puts a DistributedSampler in its place.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        yield from torch.randperm(len(self.data_source), generator=rng).tolist()
