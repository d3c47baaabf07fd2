"""A real sampler that is no GAN, and small data sets to fill up with it."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from signforge.data.images import UNKNOWN_GROUP, LabeledImages

NAMES = ("stop", "yield", "no entry", "ahead")


class TemplateSampler:
    """Draws each class in its own colour, with noise; implements ClassConditionalSampler."""

    fingerprint = "template-1"

    def __init__(self, class_names: tuple[str, ...], resolution: int) -> None:
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.resolution = resolution
        self.calls: list[tuple[int, ...]] = []

    @torch.inference_mode()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        self.calls.append(tuple(labels.tolist()))
        rng = torch.Generator().manual_seed(seed)
        shape = (len(labels), 3, self.resolution, self.resolution)
        noise = torch.randint(0, 32, shape, generator=rng)
        channel = torch.arange(3).view(1, 3, 1, 1)
        colour = (labels.view(-1, 1, 1, 1) * 53 + channel * 71) % 224
        return (colour + noise).to(torch.uint8)


MakeSampler = Callable[..., TemplateSampler]
MakeReal = Callable[..., LabeledImages]


@pytest.fixture
def make_sampler() -> MakeSampler:
    def make(class_names: tuple[str, ...] = NAMES, resolution: int = 8) -> TemplateSampler:
        return TemplateSampler(class_names, resolution)

    return make


@pytest.fixture
def make_real() -> MakeReal:
    def make(
        counts: Sequence[int] = (5, 9, 2, 4),
        class_names: tuple[str, ...] = NAMES,
        resolution: int = 8,
    ) -> LabeledImages:
        n = sum(counts)
        rng = torch.Generator().manual_seed(3)
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return LabeledImages(
            images=torch.randint(
                0, 256, (n, 3, resolution, resolution), dtype=torch.uint8, generator=rng
            ),
            labels=labels[torch.randperm(n, generator=rng)],
            groups=torch.full((n,), UNKNOWN_GROUP),
            class_names=class_names,
            names=tuple(f"image {i}" for i in range(n)),
            source="test",
        )

    return make
