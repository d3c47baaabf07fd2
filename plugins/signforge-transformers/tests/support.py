"""Small data and a sampler of noise."""

import torch
from torch import Tensor

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


def make_train() -> SyntheticBalancedDataset:
    return SyntheticBalancedDataset(labeled_images(seed=100), NoiseSampler(), refresh=0.5, seed=3)


def as_bytes(images: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)
