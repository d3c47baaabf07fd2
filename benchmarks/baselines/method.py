"""What every trained method offers the judge: train for a time, then draw images of a class."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from signforge.data.images import LabeledImages
from signforge.evaluate.features import weights_sha256
from signforge.gan.sampler import SAMPLING_BATCH, ClassConditionalSampler, from_uint8, to_uint8


class Method(Protocol):
    """A GAN in training.

    ``seconds`` counts training alone, so that measuring between two calls of ``train_until``
    costs a method nothing; ``seen_images`` counts real images shown to the discriminator.
    """

    seconds: float
    seen_images: int

    def train_until(self, seconds: float) -> None: ...
    def sampler(self) -> ClassConditionalSampler: ...


class SteppedMethod(ABC):
    """A Method made of equal steps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seen_images = 0

    @abstractmethod
    def step(self) -> int:
        """One update of every network; returns the real images shown."""

    @abstractmethod
    def sampler(self) -> ClassConditionalSampler: ...

    def train_until(self, seconds: float) -> None:
        before, started = self.seconds, time.perf_counter()
        while self.seconds < seconds:
            self.seen_images += self.step()
            self.seconds = before + time.perf_counter() - started


class NetworkSampler:
    """A copy of a generator ``(z, labels) -> images in -1..1`` as a ClassConditionalSampler."""

    def __init__(
        self, generator: nn.Module, *, z_dim: int, class_names: tuple[str, ...], resolution: int
    ) -> None:
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.z_dim = z_dim
        self.class_names = class_names
        self.resolution = resolution
        self.fingerprint = weights_sha256(self.generator)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """labels int64 (N,) -> uint8 (N, 3, resolution, resolution)."""
        device = next(self.generator.parameters()).device
        z = torch.randn((len(labels), self.z_dim), generator=torch.Generator().manual_seed(seed))
        drawn = [
            to_uint8(self.generator(rows.to(device), of.to(device)).float()).cpu()
            for rows, of in zip(z.split(SAMPLING_BATCH), labels.split(SAMPLING_BATCH), strict=True)
        ]
        return torch.cat(drawn)


class FloatImages(Dataset[tuple[Tensor, int]]):
    """(float32 (3, R, R) in -1..1, label), converted one image at a time as tutorials do."""

    def __init__(self, images: LabeledImages) -> None:
        self.images, self.labels = images.images, images.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return from_uint8(self.images[index]), self.labels[index]


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader
