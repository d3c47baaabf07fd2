"""Classification accuracy score: train on samples only, test on real images.

Ravuri & Vinyals 2019 (1905.10887). It asks for fidelity and variety at once, of every class, and
the Frechet distance does not predict it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import AccuracyReport, accuracy_report
from signforge.evaluate.fidelity import draw_samples
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

ClassPrior = Literal["empirical", "uniform"]


@dataclass(frozen=True)
class ClassificationAccuracyScore:
    """One classifier trained on samples and one on real images: same weights at the start, steps.

    synthetic, real: accuracy of each on the same real images. gap: real top-1 minus synthetic
        top-1, the points that training on samples loses, as a share in -1..1; macro_gap: of the
        macro accuracies.
    """

    synthetic: AccuracyReport
    real: AccuracyReport
    class_prior: ClassPrior
    fresh: bool
    steps: int
    seed: int

    @property
    def gap(self) -> float:
        return self.real.top1 - self.synthetic.top1

    @property
    def macro_gap(self) -> float:
        return self.real.macro_accuracy - self.synthetic.macro_accuracy

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: one key a field, and the gaps."""
        reports = {"synthetic": self.synthetic.as_dict(), "real": self.real.as_dict()}
        gaps = {"gap": self.gap, "macro_gap": self.macro_gap}
        return {**vars(self), **reports, **gaps}


class SampledImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset of samples with fixed labels; ``set_epoch`` draws them.

    fresh: every epoch draws other samples; otherwise the first epoch's stay.
    """

    def __init__(
        self,
        sampler: ClassConditionalSampler,
        labels: Tensor,
        *,
        seed: int,
        fresh: bool,
    ) -> None:
        self.sampler, self.labels = sampler, labels
        self.seed, self.fresh = seed, fresh
        self.drawn_epoch: int | None = None
        self.images = torch.empty(0, dtype=torch.uint8)

    def set_epoch(self, epoch: int) -> None:
        epoch = epoch if self.fresh else 0
        if epoch != self.drawn_epoch:
            seed = derive_seed(self.seed, epoch)
            self.images = draw_samples(self.sampler, self.labels, seed)
            self.drawn_epoch = epoch

    def __getstate__(self) -> dict[str, Any]:
        """Loader workers get the images; what drew them may lie on a GPU, or not travel at all."""
        return {**vars(self), "sampler": None}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def classification_accuracy_score(
    sampler: ClassConditionalSampler,
    train: LabeledImages,
    reference: LabeledImages,
    *,
    config: ClassifierConfig,
    seed: int,
    class_prior: ClassPrior = "empirical",
    fresh: bool = True,
    real: AccuracyReport | None = None,
    track: Track = no_progress,
) -> ClassificationAccuracyScore:
    """``synthetic_accuracy`` beside ``real_accuracy``.

    real: what ``real_accuracy`` gave for the same arguments, to save training it again.

    Raises SignforgeError where the sampler has other classes or another resolution than ``train``.
    """
    synthetic = synthetic_accuracy(
        sampler,
        train,
        reference,
        config=config,
        seed=seed,
        class_prior=class_prior,
        fresh=fresh,
        track=track,
    )
    if real is None:
        real = real_accuracy(train, reference, config=config, seed=seed, track=track)
    return ClassificationAccuracyScore(synthetic, real, class_prior, fresh, config.steps, seed)


def synthetic_accuracy(
    sampler: ClassConditionalSampler,
    train: LabeledImages,
    reference: LabeledImages,
    *,
    config: ClassifierConfig,
    seed: int,
    class_prior: ClassPrior = "empirical",
    fresh: bool = True,
    track: Track = no_progress,
) -> AccuracyReport:
    """Trains ``config``'s classifier on len(train) samples an epoch, and scores ``reference``.

    class_prior: samples a class as in ``train``, or the same of each class; the total is the
        same but for rounding.
    fresh: new samples every epoch, as many as the classifier asks for.

    Raises SignforgeError where the sampler has other classes or another resolution than ``train``.
    """
    if (sampler.num_classes, sampler.resolution) != (train.num_classes, train.resolution):
        raise SignforgeError(
            f"The sampler draws {sampler.num_classes} classes at {sampler.resolution} pixels, the "
            f"training images have {train.num_classes} at {train.resolution}."
        )
    labels = sampling_labels(train.class_counts, class_prior)
    # Drawn in the middle of the training, whose progress is already shown.
    samples = SampledImages(sampler, labels, seed=seed, fresh=fresh)
    return _accuracy_of_training_on(samples, train, reference, config, seed, track)


def real_accuracy(
    train: LabeledImages,
    reference: LabeledImages,
    *,
    config: ClassifierConfig,
    seed: int,
    track: Track = no_progress,
) -> AccuracyReport:
    """The same classifier trained on the real ``train`` instead of samples."""
    return _accuracy_of_training_on(train, train, reference, config, seed, track)


def sampling_labels(class_counts: Tensor, class_prior: ClassPrior) -> Tensor:
    """Labels int64 (N,) to draw: int64 (C,) ``class_counts`` themselves, or their mean for each."""
    if class_prior == "uniform":
        mean = round(float(class_counts.double().mean()))
        class_counts = torch.full_like(class_counts, max(mean, 1))
    return torch.arange(len(class_counts)).repeat_interleave(class_counts)


def _accuracy_of_training_on(
    dataset: Dataset[Any],
    train: LabeledImages,
    reference: LabeledImages,
    config: ClassifierConfig,
    seed: int,
    track: Track,
) -> AccuracyReport:
    model: nn.Module = build_classifier(
        config.name,
        num_classes=train.num_classes,
        resolution=train.resolution,
        pretrained=config.pretrained,
        seed=seed,
    )
    fit_classifier(model, dataset, config=config, seed=seed, track=track)
    logits = predict_logits(model, reference.images, precision=config.precision, track=track)
    return accuracy_report(logits.argmax(dim=1), reference.labels, train.class_counts)
