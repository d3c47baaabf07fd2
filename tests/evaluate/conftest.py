"""Images that a tiny classifier learns in a second, and an extractor trained on them."""

import pytest
import torch

from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.evaluate.features import FeatureExtractor, train_extractor

CLASSES, SIZE = 4, 16


def squares(n: int, seed: int = 0) -> LabeledImages:
    """Noise with a bright square whose corner of the image is the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = torch.randint(0, 120, (n, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        y, x = 8 * (label // 2) + 1, 8 * (label % 2) + 1
        image[:, y : y + 6, x : x + 6] += 100
    return LabeledImages(
        images=images,
        labels=labels,
        groups=torch.full((n,), -1),
        class_names=tuple("abcd"),
        names=tuple(str(i) for i in range(n)),
        source="squares",
    )


@pytest.fixture(scope="session")
def train() -> LabeledImages:
    return squares(160)


@pytest.fixture(scope="session")
def reference() -> LabeledImages:
    return squares(100, seed=1)


@pytest.fixture(scope="session")
def extractor(train: LabeledImages) -> FeatureExtractor:
    config = ClassifierConfig(name="test_resnet", batch_size=16, device="cpu")
    return train_extractor(train, config=config, steps=60, seed=0)
