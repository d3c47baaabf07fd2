"""What ``create_dataset("torch/signforge", ...)`` returns: the balanced training set, or validation
or test images, all as PIL images, which every transform of timm takes."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from signforge import (
    LabeledImages,
    SignforgeError,
    SyntheticBalancedDataset,
    load_prepared_splits,
    load_sampler,
)
from signforge.balance.classifier_gate import ClassifierGate, fit_classifier_gate
from signforge.progress import Track, no_progress
from signforge_timm.settings import GENERATOR, Settings, settings_from_environment

NAME = "signforge"
"""What follows ``torch/`` in ``--dataset``."""

_logger = logging.getLogger(__name__)
_SPLITS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "eval", "evaluation"), "val"
)


class PilImages(Dataset[tuple[Any, int]]):
    """``images`` as PIL images of mode RGB with int labels, through ``transform`` if it is set."""

    def __init__(self, images: LabeledImages) -> None:
        self.images = images
        self.class_names = images.class_names
        self.targets = images.targets
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels, label = self.images[index]
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        return (image if self.transform is None else self.transform(image)), label


class BalancedTraining(SyntheticBalancedDataset):
    """SyntheticBalancedDataset that logs the counts of each epoch."""

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        super().set_epoch(epoch, track=track)
        repeated = self.oversampled_counts
        drawn = self.synthetic_counts - repeated
        _log(
            f"epoch {epoch}: {len(self):,} images = {int(self.real_counts.sum()):,} real + "
            f"{int(drawn.sum()):,} synthetic + {int(repeated.sum()):,} repeated"
        )
        counts = zip(self.real_counts.tolist(), drawn.tolist(), repeated.tolist(), strict=True)
        shown = " ".join(f"{label}:{a}+{b}+{c}" for label, (a, b, c) in enumerate(counts))
        _log(f"epoch {epoch}, class:real+synthetic+repeated: {shown}")


def signforge_dataset(
    *, root: str | None = None, train: bool = True, download: bool = False
) -> PilImages | BalancedTraining:
    """The split of ``root`` that timm's ``create_dataset`` was asked for.

    root: a source of signforge (``--data-dir``): ``demo`` or a path; None leaves it to the config.
    train: whether it is the training split. That is all timm tells, so the split's name is read
        from timm's own frame: without it, ``--val-split test`` would mean validation.

    Raises SignforgeError for a split of another name, for settings and data that do not fit, and
    for ``download``.
    """
    caller, asked = sys._getframe(1), "train" if train else "val"
    if caller.f_globals.get("__name__") == "timm.data.dataset_factory":
        asked = str(caller.f_locals.get("split"))
    if asked not in _SPLITS:
        raise SignforgeError(
            f"torch/{NAME} has no split {asked!r}; choose one of {', '.join(_SPLITS)}."
        )
    if download:
        raise SignforgeError(
            f"torch/{NAME} downloads nothing: run `signforge data inspect SOURCE --download` "
            "once, and leave out --dataset-download."
        )
    settings = settings_from_environment(root, os.environ)
    splits = load_prepared_splits(settings.config.data)
    images: LabeledImages = getattr(splits, _SPLITS[asked])
    _log(
        f"{len(images):,} {_SPLITS[asked]} images of {splits.source} in {images.num_classes} "
        f"classes (--num-classes {images.num_classes})"
    )
    if images is not splits.train:
        return PilImages(images)
    for note in splits.notes:
        _log(note)
    return _balanced(settings, images)


def _balanced(settings: Settings, train: LabeledImages) -> BalancedTraining:
    if settings.generator is None:
        raise SignforgeError(
            f"{GENERATOR} is not set: give it a folder that `signforge train-cgan` wrote."
        )
    sampler, balance = load_sampler(settings.generator), settings.config.balance
    _log(
        f"generator {settings.generator}, gate {settings.gate}, {balance.sampling_strategy=}, "
        f"{balance.max_synthetic_fraction=}, {balance.min_acceptance=}, {balance.refresh=}"
    )
    if sampler.card.train_fingerprint != train.fingerprint:
        _logger.warning(
            "%s was trained on other images than this training split and may have seen images "
            "that you evaluate on.",
            settings.generator,
        )
    return BalancedTraining(
        PilImages(train),
        sampler,
        sampling_strategy=balance.sampling_strategy,
        max_synthetic_fraction=balance.max_synthetic_fraction,
        min_acceptance=balance.min_acceptance,
        refresh=balance.refresh,
        gate=_gate(settings, train),
    )


def _gate(settings: Settings, train: LabeledImages) -> ClassifierGate | None:
    if settings.gate is None:
        return None
    if not isinstance(settings.gate, float):
        return ClassifierGate.load(settings.gate)
    balance, classifier = settings.config.balance, settings.config.classifier
    config = classifier.model_copy(update={"steps": balance.gate_steps})
    return fit_classifier_gate(train, config=config, tau=settings.gate, folds=balance.gate_folds)


def _log(text: str) -> None:
    """Once, not in every process of a distributed training."""
    if os.environ.get("RANK", "0") == "0":
        _logger.info(text)
