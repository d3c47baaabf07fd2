"""Tiny coloured classes, a config that trains on them in a moment, and an untrained sampler."""

from collections.abc import Callable, Sequence

import pytest
import torch

from signforge.config import GanConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.gan.sampler import GanSampler, GeneratorCard, build_generator

NAMES = ("stop", "yield", "no entry")
MakeTrain = Callable[..., LabeledImages]
MakeConfig = Callable[..., GanConfig]


@pytest.fixture(scope="session")
def make_train() -> MakeTrain:
    """make_train(counts=(12, 7, 5), resolution=8, seed=0): class c is noise around its colour."""

    def make(
        counts: Sequence[int] = (12, 7, 5), resolution: int = 8, seed: int = 0
    ) -> LabeledImages:
        rng = torch.Generator().manual_seed(seed)
        n = sum(counts)
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        labels = labels[torch.randperm(n, generator=rng)]
        colour = (labels[:, None] * 80 + torch.arange(3) * 10).view(n, 3, 1, 1)
        noise = torch.randint(0, 60, (n, 3, resolution, resolution), generator=rng)
        return LabeledImages(
            images=(colour + noise).to(torch.uint8),
            labels=labels,
            groups=torch.full((n,), UNKNOWN_GROUP),
            class_names=NAMES[: len(counts)],
            names=tuple(f"image {i}" for i in range(n)),
            source="made",
        )

    return make


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """make_config(**changes): 12 steps of 8 images in fp32 on the CPU."""

    def make(**changes: object) -> GanConfig:
        values: dict[str, object] = {
            "z_dim": 8,
            "base_channels": 4,
            "embedding_dim": 4,
            "batch_size": 8,
            "generator_learning_rate": 1e-3,
            "discriminator_learning_rate": 1e-3,
            "r1_gamma": 1.0,
            "r1_every_steps": 4,
            "guide_steps": 3,
            "class_prior": "uniform",
            "augment": ("color", "translation"),
            "ema_halflife_kimg": 0.1,
            "total_kimg": 0.096,
            "status_every_kimg": 0.001,
            "samples_every_kimg": 1.0,
            "checkpoint_every_kimg": 1.0,
            "precision": "fp32",
            "device": "cpu",
        }
        return GanConfig.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def make_sampler(make_config: MakeConfig) -> Callable[..., GanSampler]:
    """make_sampler(seed=0, class_names=NAMES, resolution=8): randomly initialised, not trained."""

    def make(
        seed: int = 0, class_names: tuple[str, ...] = NAMES, resolution: int = 8
    ) -> GanSampler:
        config = make_config()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = build_generator(config, num_classes=len(class_names), resolution=resolution)
        card = GeneratorCard(
            gan=config,
            resolution=resolution,
            class_names=class_names,
            class_counts=tuple(range(5, 5 + len(class_names))),
            train_fingerprint="ab" * 32,
            seen_kimg=1.5,
            seconds=2.25,
            weights_sha256="",
        )
        return GanSampler(generator, card, torch.device("cpu"))

    return make
