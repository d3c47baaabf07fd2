"""A cheap look at samples during training: label agreement of each class, Frechet distance, and
which classes have collapsed.

A classifier trained on the real training split judges samples against the validation split;
the GAN sees neither its weights nor its gradients. ``fidelity`` measures finished generators.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from signforge.classify.model import build_classifier
from signforge.config import ClassifierConfig, GanConfig
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.evaluate.features import FeatureExtractor, load_extractor, train_extractor
from signforge.evaluate.fidelity import frechet_distance, label_agreement, same_labels
from signforge.gan.metrics import ProbeValues
from signforge.gan.sampler import GanSampler
from signforge.progress import Track, no_progress

PROBE = "probe"
"""Where the probe's classifier is kept in a run directory."""
SAMPLES_PER_CLASS = 32
"""Samples of each class at least, fewer where MAX_IMAGES would be passed."""
FEWEST_PER_CLASS = 4
"""Below this, neither a share nor a variance says anything."""
MAX_IMAGES = 4096
"""Validation images that the Frechet distance is taken against, at most."""
SEED = 0
"""Of the samples and of the choice of real images: the same ones every time."""
COLLAPSED_AGREEMENT = 0.5
"""A class has collapsed if a smaller share of its samples is recognised as this class ..."""
COLLAPSED_VARIETY = 0.1
"""... or if their features vary less than this share of what real training images vary."""


def build_probe(
    config: GanConfig, splits: PreparedSplits, run: Path, *, track: Track = no_progress
) -> "ValidationProbe | None":
    """The probe of a training run; None for a single class, where there is nothing to tell apart.

    It is ready at once: its classifier is trained (or read again) when it is first called, and
    kept in ``run``/probe.

    Raises SignforgeError for a classifier that timm does not know.
    """
    if splits.train.num_classes < 2:
        return None
    build_classifier(
        config.probe_classifier,
        num_classes=splits.train.num_classes,
        resolution=splits.train.resolution,
        pretrained=False,
        seed=config.seed,
    )
    return ValidationProbe(config, splits, run / PROBE, track)


def probe_classifier(config: GanConfig) -> ClassifierConfig:
    """How the probe's classifier is trained, but for its steps."""
    return ClassifierConfig(
        name=config.probe_classifier,
        precision=config.precision,
        deterministic=config.deterministic,
        device=config.device,
    )


def kept_probe_extractor(
    config: GanConfig, train: LabeledImages, folder: Path
) -> FeatureExtractor | None:
    """The extractor in ``folder`` if it was made from these images as ``config`` says, else None.

    Raises SignforgeError where it is damaged.
    """
    if not (folder / "extractor.json").is_file():
        return None
    try:
        kept = load_extractor(folder, config.device)
    except SignforgeError as error:
        raise SignforgeError(
            f"{str(error).rstrip('.')}; delete {folder} to train it again."
        ) from None
    made_from = (kept.card.train_fingerprint, kept.card.classifier, kept.card.steps)
    wanted = (train.fingerprint, config.probe_classifier, config.probe_steps)
    return kept if made_from == wanted else None


def samples_judged(val: LabeledImages) -> int:
    """How many samples every probe draws and looks at."""
    counts = bounded_counts(val.class_counts, MAX_IMAGES)
    return int(counts.clamp(min=_samples_per_class(val.num_classes)).sum())


def images_compared(splits: PreparedSplits) -> int:
    """How many real images a probe looks at, once."""
    val, train = splits.val, splits.train
    per_class = _samples_per_class(val.num_classes)
    reference = int(bounded_counts(val.class_counts, MAX_IMAGES).sum())
    return 2 * reference + int(train.class_counts.clamp(max=per_class).sum())


def _samples_per_class(num_classes: int) -> int:
    return max(min(SAMPLES_PER_CLASS, MAX_IMAGES // num_classes), FEWEST_PER_CLASS)


class ValidationProbe:
    """Called with the sampler and the kimg seen, it measures samples as ``ProbeValues``."""

    def __init__(
        self, config: GanConfig, splits: PreparedSplits, folder: Path, track: Track
    ) -> None:
        self._config = config
        self._splits = splits
        self._folder = folder
        self._track = track

    def __call__(self, sampler: GanSampler, seen_kimg: float) -> ProbeValues:
        """Draws samples with the labels of the validation images, and more of rare classes.

        Raises SignforgeError where the classifier kept in the run directory is damaged.
        """
        del seen_kimg  # the same measurement at any time
        real = self._real
        num_classes = sampler.num_classes
        samples = sampler.sample(torch.cat([real.labels, real.more_labels]), SEED)
        labels = torch.cat([real.labels, real.more_labels])
        features, logits = self._extractor.features_and_logits(samples, self._track)
        agreement = label_agreement(logits, labels, num_classes)
        fd = frechet_distance(real.features, features[: len(real.labels)])
        variety = class_variance(features, labels, num_classes) / real.variance
        return ProbeValues(
            label_agreement=agreement.macro,
            worst_class_label_agreement=agreement.worst_class_agreement,
            worst_class=agreement.worst_class,
            per_class_label_agreement=agreement.per_class,
            fd=fd,
            fd_ratio=fd / real.fd_floor if real.fd_floor > 0 else None,
            collapsed_classes=collapsed_classes(agreement.per_class, variety),
        )

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        """The one in the run directory if it was made from the same things, else a new one."""
        config, train = self._config, self._splits.train
        kept = kept_probe_extractor(config, train, self._folder)
        if kept is not None:
            return kept
        extractor = train_extractor(
            train,
            config=probe_classifier(config),
            steps=config.probe_steps,
            seed=config.seed,
            track=self._track,
        )
        extractor.save(self._folder)
        return extractor

    @cached_property
    def _real(self) -> "_RealImages":
        train, val = self._splits.train, self._splits.val
        rng = torch.Generator().manual_seed(SEED)
        per_class = _samples_per_class(val.num_classes)
        counts = bounded_counts(val.class_counts, MAX_IMAGES)
        reference = val.subset(same_labels(val, counts, rng))
        others = train.subset(same_labels(train, counts, rng))
        spread = train.subset(_at_most(train, per_class, rng))
        features = self._extractor.features(reference.images, self._track)
        floor = self._extractor.features(others.images, self._track)
        spread_features = self._extractor.features(spread.images, self._track)
        return _RealImages(
            labels=reference.labels,
            more_labels=torch.arange(val.num_classes).repeat_interleave(
                (per_class - counts).clamp(min=0)
            ),
            features=features,
            fd_floor=frechet_distance(features, floor),
            variance=class_variance(spread_features, spread.labels, train.num_classes),
        )


def class_variance(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Trace of the covariance of each class: float64 (C,), NaN for fewer than two images.

    features: float (N, D), labels: int64 (N,).
    """
    values = features.double()
    counts = torch.bincount(labels, minlength=num_classes).double()
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, labels, values)
    centred = values - (sums / counts[:, None])[labels]
    squares = values.new_zeros(num_classes).index_add_(0, labels, centred.square().sum(dim=1))
    return torch.where(counts > 1, squares / (counts - 1), torch.nan)


def collapsed_classes(agreement: Sequence[float], variety: Tensor) -> tuple[int, ...]:
    """Classes whose samples are not recognised, or are nearly all the same.

    agreement: share 0..1 of each class. variety: float (C,), the variance of samples over that
    of real images; NaN and infinity, where real images say nothing, do not count.
    """
    return tuple(
        label
        for label, (share, ratio) in enumerate(zip(agreement, variety.tolist(), strict=True))
        if share < COLLAPSED_AGREEMENT or ratio < COLLAPSED_VARIETY
    )


def bounded_counts(class_counts: Tensor, most: int) -> Tensor:
    """int64 (C,) counts in the same proportions that add up to about ``most``, at least 1 each."""
    total = int(class_counts.sum())
    if total <= most:
        return class_counts
    return (class_counts * most // total).clamp(min=1)


@dataclass(frozen=True)
class _RealImages:
    """What samples are compared with."""

    labels: Tensor
    """Of the validation images, int64 (N,)."""
    more_labels: Tensor
    """Further samples to draw so that there are enough of every class."""
    features: Tensor
    fd_floor: float
    """Frechet distance of as many training images with the same labels."""
    variance: Tensor
    """``class_variance`` of training images."""


def _at_most(images: LabeledImages, per_class: int, rng: torch.Generator) -> Tensor:
    return same_labels(images, images.class_counts.clamp(max=per_class), rng)
