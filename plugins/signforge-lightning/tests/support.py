"""Small data, a sampler of noise, and a classifier that writes down what it is shown."""

# ruff: noqa: ARG002 - Lightning's hooks have fixed arguments

from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from signforge import LabeledImages, SyntheticBalancedDataset

COUNTS = (24, 6, 2)
CLASS_NAMES = ("ahead", "stop", "yield")
SIDE = 8


class NoiseSampler:
    """Noise that gets brighter from class to class; only its pixels matter here."""

    num_classes = len(COUNTS)
    resolution = SIDE
    class_names = CLASS_NAMES
    fingerprint = "noise"

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randint(80, (len(labels), 3, SIDE, SIDE), generator=rng)
        return (noise + 80 * labels[:, None, None, None]).to(torch.uint8)


class Learner(LightningModule):
    """A linear classifier; ``seen`` holds the images and labels of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, len(COUNTS))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append((images.clone(), labels.clone()))
        return nn.functional.cross_entropy(self.layer(images.flatten(1) / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def shown(self) -> tuple[Tensor, Tensor]:
        """All images and labels in the order in which they were shown."""
        images, labels = zip(*self.seen, strict=True)
        return torch.cat(images), torch.cat(labels)


class Recorder(Learner):
    """The same with validation and test; ``evaluated`` holds the batches of both."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluated: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)


def labeled_images(seed: int) -> LabeledImages:
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    return LabeledImages(
        images=NoiseSampler().sample(labels, seed),
        labels=labels,
        groups=torch.full_like(labels, -1),
        class_names=CLASS_NAMES,
        names=tuple(map(str, range(len(labels)))),
        source="test",
    )


make_train = partial(
    SyntheticBalancedDataset, labeled_images(seed=100), NoiseSampler(), refresh=0.5, seed=3
)


def make_trainer(folder: Path, **settings: object) -> Trainer:
    defaults: dict[str, object] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return Trainer(**{**defaults, **settings})
