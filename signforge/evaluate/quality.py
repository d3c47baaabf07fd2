"""Everything that one extractor says of a sampler, whole and by class, beside its real floor.

``fidelity``, ``class_fidelity``, ``coverage`` and ``memorization`` over one set of features.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.evaluate.class_fidelity import class_frechet_distances, class_kids
from signforge.evaluate.coverage import (
    CoverageReport,
    class_coverage,
    compare_balls,
    neighbour_balls,
)
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import (
    FidelityReport,
    JudgedImages,
    judge_images,
    label_agreement,
    report_on,
)
from signforge.evaluate.memorization import MemorizationReport, memorization_report, pixels
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

NEIGHBOURS = 5
"""k of the balls, the value of Naeem et al. 2020."""


@dataclass(frozen=True)
class Coverage:
    """Samples and floor against the same balls around real images, which k-th neighbours of other
    groups reach to; per_class, per_class_floor: coverage within each class, (C,)."""

    samples: CoverageReport
    floor: CoverageReport
    per_class: tuple[float | None, ...]
    per_class_floor: tuple[float | None, ...]


@dataclass(frozen=True)
class ClassDistances:
    """Of each class, (C,); None where a side has fewer than two images, and for ``fd_floor`` where
    the class has too few training images for a floor of as many as the reference has."""

    fd: tuple[float | None, ...]
    fd_floor: tuple[float | None, ...]
    kid: tuple[float | None, ...]
    kid_floor: tuple[float | None, ...]


@dataclass(frozen=True)
class QualityReport:
    """fidelity, classes: distances and agreement, whole and by class, beside the real floor.

    real_agreement: label agreement of the reference's own images, of each class.
    coverage: None where the reference has too few images of other groups for ``NEIGHBOURS``.
    memorization: by the extractor's features; memorization_pixels: by the images themselves.
    floor_repeats: rows of the floor that hold an image once more, for want of others of its class.
    """

    fidelity: FidelityReport
    classes: ClassDistances
    class_counts: tuple[int, ...]
    real_agreement: tuple[float, ...]
    coverage: Coverage | None
    memorization: MemorizationReport
    memorization_pixels: MemorizationReport
    floor_repeats: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: the keys of ``FidelityReport``, and one for each further part."""
        coverage = asdict(self.coverage) if self.coverage else None
        return {
            **self.fidelity.as_dict(),
            "per_class": {
                "n": list(self.class_counts),
                "label_agreement": list(self.fidelity.per_class_label_agreement),
                "real_label_agreement": list(self.real_agreement),
                **{name: list(values) for name, values in asdict(self.classes).items()},
                "coverage": list(coverage.pop("per_class")) if coverage else None,
                "coverage_floor": list(coverage.pop("per_class_floor")) if coverage else None,
            },
            "floor_repeats": self.floor_repeats,
            "coverage": coverage,
            "memorization": {
                "features": self.memorization.as_dict(),
                "pixels": self.memorization_pixels.as_dict(),
            },
        }


def quality_report(
    sampler: ClassConditionalSampler,
    extractor: FeatureExtractor,
    reference: LabeledImages,
    train: LabeledImages,
    *,
    seed: int,
    track: Track = no_progress,
) -> QualityReport:
    """``fidelity_report`` and all else that its images tell; arguments and errors are the same."""
    train_features = extractor.features(train.images, track)
    judged = judge_images(
        sampler,
        extractor,
        reference,
        train,
        seed=seed,
        train_features=train_features,
        track=track,
    )
    labels, num_classes = judged.labels, reference.num_classes
    return QualityReport(
        fidelity=report_on(judged, sampler, extractor, seed=seed),
        classes=_class_distances(judged, train.labels[judged.floor_rows], num_classes),
        class_counts=tuple(reference.class_counts.tolist()),
        real_agreement=label_agreement(judged.real_logits, labels, num_classes).per_class,
        coverage=_coverage(judged, reference, train),
        memorization=memorization_report(
            judged.fake, labels, train_features, train.labels, judged.real, labels
        ),
        memorization_pixels=memorization_report(
            judged.samples,
            labels,
            train.images,
            train.labels,
            reference.images,
            labels,
            as_rows=pixels,
        ),
        floor_repeats=int(judged.repeated.sum()),
    )


def _class_distances(
    judged: JudgedImages, floor_labels: Tensor, num_classes: int
) -> ClassDistances:
    real, labels = judged.real, judged.labels
    fake, once = (judged.fake, labels), ~judged.repeated
    floor = (judged.floor[once], floor_labels[once])
    # A Frechet distance falls with n: the floor of fewer images would be too high.
    short = set(floor_labels[judged.repeated].tolist())
    fd_floor = class_frechet_distances(real, labels, *floor, num_classes)
    return ClassDistances(
        fd=class_frechet_distances(real, labels, *fake, num_classes),
        fd_floor=tuple(None if c in short else fd for c, fd in enumerate(fd_floor)),
        kid=class_kids(real, labels, *fake, num_classes),
        kid_floor=class_kids(real, labels, *floor, num_classes),
    )


def _coverage(
    judged: JudgedImages, reference: LabeledImages, train: LabeledImages
) -> Coverage | None:
    once = ~judged.repeated
    floor_rows, floor_features = judged.floor_rows[once], judged.floor[once]
    floor_groups = train.groups[floor_rows]
    if not (_enough(reference.groups) and _enough(floor_groups)):
        return None
    real = neighbour_balls(judged.real, k=NEIGHBOURS, groups=reference.groups)
    fake = neighbour_balls(judged.fake, k=NEIGHBOURS)
    floor = neighbour_balls(floor_features, k=NEIGHBOURS, groups=floor_groups)
    labels, floor_labels = judged.labels, train.labels[floor_rows]
    classes = reference.num_classes
    return Coverage(
        samples=compare_balls(real, fake),
        floor=compare_balls(real, floor),
        per_class=class_coverage(real, labels, judged.fake, labels, classes),
        per_class_floor=class_coverage(real, labels, floor_features, floor_labels, classes),
    )


def _enough(groups: Tensor) -> bool:
    """Whether every image has so many of other groups (unknown ones are groups of one)."""
    known = groups[groups != UNKNOWN_GROUP]
    largest = int(torch.unique(known, return_counts=True)[1].max()) if len(known) else 1
    return len(groups) - largest >= NEIGHBOURS
