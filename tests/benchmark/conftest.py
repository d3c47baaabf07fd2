"""Tiny data for the benchmark: squares of four colours, and a sampler that knows the colours."""

import hashlib

import pytest
import torch
from torch import Tensor

from signforge.config import Config
from signforge.config_file import validate
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits

RESOLUTION = 16
COLORS = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 220], [210, 200, 40]])
CLASS_NAMES = ("red", "green", "blue", "yellow | mixed")
TRAIN_COUNTS = (120, 40, 24, 6)


def draw_squares(labels: Tensor, seed: int, noise: float) -> Tensor:
    """uint8 (N, 3, 16, 16): a square in the colour of its class on grey, with noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((len(labels), 3, RESOLUTION, RESOLUTION), 128.0)
    images[:, :, 4:12, 4:12] = COLORS[labels][:, :, None, None].float()
    images += noise * torch.randn(images.shape, generator=rng)
    return images.clamp(0, 255).to(torch.uint8)


def make_split(counts: tuple[int, ...], seed: int, first_group: int) -> LabeledImages:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return LabeledImages(
        images=draw_squares(labels, seed, noise=60),
        labels=labels,
        groups=first_group + torch.arange(len(labels)),
        class_names=CLASS_NAMES,
        names=tuple(f"{seed}/{n}" for n in range(len(labels))),
        source="squares",
    )


class TemplateSampler:
    """The protocol in its smallest form: noisy templates."""

    num_classes = len(CLASS_NAMES)
    resolution = RESOLUTION
    class_names = CLASS_NAMES

    def __init__(self, noise: float = 30.0) -> None:
        self.noise = noise
        self.fingerprint = hashlib.sha256(f"template {noise}".encode()).hexdigest()

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        return draw_squares(labels, seed, self.noise)


@pytest.fixture(scope="session")
def splits() -> PreparedSplits:
    return PreparedSplits(
        train=make_split(TRAIN_COUNTS, seed=1, first_group=0),
        val=make_split((10, 10, 10, 10), seed=2, first_group=1000),
        test=make_split((30, 20, 20, 15), seed=3, first_group=2000),
        notes=("Squares are not signs.",),
    )


@pytest.fixture(scope="session")
def sampler() -> TemplateSampler:
    return TemplateSampler()


@pytest.fixture(scope="session")
def config() -> Config:
    return validate(
        {
            "data": {"source": "squares", "resolution": RESOLUTION},
            # A gate of three steps would keep nothing; the tests of the gate ask for a real one.
            "balance": {"gate_tau": 0.0},
            "classifier": {"name": "test_resnet", "steps": 3, "batch_size": 16, "device": "cpu"},
            "benchmark": {
                "arms": ["real", "oversample", "synthetic"],
                "seeds": 2,
                "bootstrap_resamples": 200,
                "extractor_steps": 5,
            },
        },
        "test",
    )
