"""Squares to train on and to compare with, and an extractor trained on them."""

import pytest

from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.evaluate.features import FeatureExtractor, train_extractor
from support.squares import squares


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
