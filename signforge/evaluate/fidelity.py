"""How far samples are from real images: Frechet distance, KID and label agreement.

Frechet distance: Heusel et al. 2017 (1706.08500, eq. 6), here exact and without a D x D square
root; KID: Binkowski et al. 2018 (1801.01401, eq. 4), the unbiased estimate over all pairs.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import per_class_recall
from signforge.evaluate.features import FeatureExtractor
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

SAMPLES_PER_CALL = 512
KERNEL_ROWS = 1024
"""Rows of the kernel matrix held at a time ..."""
KERNEL_VALUES = 2**24
"""... or fewer, so that no more values than these (128 MiB) are held."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean float64 (D,) and a factor float64 (R, D) of the covariance: factor^T factor, n - 1.

    R is the smaller of the number of images and D, so nothing is larger than need be.
    """

    mean: Tensor
    factor: Tensor


@dataclass(frozen=True)
class LabelAgreement:
    """Share of images of each class that a classifier gives this class, all in 0..1."""

    per_class: tuple[float, ...]
    macro: float
    worst_class: int
    worst_class_agreement: float


@dataclass(frozen=True)
class FidelityReport:
    """Samples against real images that neither the sampler nor the extractor has seen.

    n: number of samples and of reference images; samples have the reference's own labels.
    fd, kid: samples against the reference. fd_floor, kid_floor: real training images with the
        same labels, of other physical signs, against the reference: what a perfect sampler of the
        training images would get. fd_ratio: fd / fd_floor, None where the floor is 0.
    macro_label_agreement ...: the extractor's own classes of the samples; the sampler never saw
        the extractor. real_label_agreement: the same macro mean on the reference, the ceiling.
    """

    n: int
    fd: float
    fd_floor: float
    fd_ratio: float | None
    kid: float
    kid_floor: float
    macro_label_agreement: float
    real_label_agreement: float
    worst_class_label_agreement: float
    worst_class: int
    per_class_label_agreement: tuple[float, ...]
    extractor: str
    extractor_sha256: str
    sampler_fingerprint: str
    seed: int

    @property
    def metric_name(self) -> str:
        """``fd_<extractor>_<n>``: Frechet distances compare only within one such name."""
        return f"fd_{self.extractor}_{self.n}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: one key a field, and ``metric_name``."""
        values = {**asdict(self), "per_class_label_agreement": list(self.per_class_label_agreement)}
        return {"metric_name": self.metric_name, **values}


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Samples and real images with the same labels, as an extractor sees them.

    labels: int64 (N,), of reference images and samples. samples: uint8 (N, 3, R, R).
    floor_rows: int64 (N,), training images of the floor, as many of each class, ordered by class.
    real, fake, floor: float32 (N, D) features. real_logits, fake_logits: float32 (N, C).
    """

    labels: Tensor
    samples: Tensor
    floor_rows: Tensor
    real: Tensor
    fake: Tensor
    floor: Tensor
    real_logits: Tensor
    fake_logits: Tensor

    @property
    def repeated(self) -> Tensor:
        """bool (N,): ``repeats`` of the floor."""
        return repeats(self.floor_rows)


def feature_statistics(features: Tensor) -> FeatureStatistics:
    """Statistics of float (N, D) features, N >= 2, in float64."""
    if features.ndim != 2 or len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise SignforgeError(
            "A Frechet distance needs finite features of at least 2 images on each side, got "
            f"shape {tuple(features.shape)}."
        )
    values = features.double()
    mean = values.mean(dim=0)
    factor = (values - mean) / math.sqrt(len(values) - 1)
    if factor.shape[0] > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return FeatureStatistics(mean, factor)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Squared Frechet distance of two Gaussians fitted to float (N, D) and (M, D); >= 0.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in float64. With S = F^T F the eigenvalues
    of S1 S2 are the squared singular values of F1 F2^T, so the last trace is their plain sum;
    that matrix is at most min(N, D) x min(M, D), and exact for fewer images than dimensions.

    Raises SignforgeError for fewer than 2 images a side and features that are not finite.
    """
    first, second = feature_statistics(real), feature_statistics(fake)
    shift = (first.mean - second.mean).square().sum()
    traces = first.factor.square().sum() + second.factor.square().sum()
    overlap = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    return max(float(shift + traces - 2 * overlap), 0.0)


def kid(real: Tensor, fake: Tensor) -> float:
    """Squared maximum mean discrepancy of float (N, D) and (M, D) under (x.y / D + 1)^3.

    Unbiased, so it may come out slightly below 0, and does not depend on the sample size as the
    Frechet distance does. Over all pairs in float64: no subsets, no random numbers.

    Raises SignforgeError for fewer than 2 images a side.
    """
    n, m = len(real), len(fake)
    if min(n, m) < 2:
        raise SignforgeError(f"KID needs at least 2 images on each side, got {n} and {m}.")
    x, y = real.double(), fake.double()
    within = (_kernel_sum(x, x) - float(_kernel_diagonal(x).sum())) / (n * (n - 1))
    within += (_kernel_sum(y, y) - float(_kernel_diagonal(y).sum())) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y) / (n * m)


def label_agreement(logits: Tensor, labels: Tensor, num_classes: int) -> LabelAgreement:
    """How often float (N, C) ``logits`` are highest at int64 (N,) ``labels``.

    Raises SignforgeError where a class is absent from ``labels``.
    """
    recall = per_class_recall(logits.argmax(dim=1), labels, num_classes)
    worst = int(recall.argmin())
    return LabelAgreement(tuple(recall.tolist()), float(recall.mean()), worst, float(recall[worst]))


def fidelity_report(
    sampler: ClassConditionalSampler,
    extractor: FeatureExtractor,
    reference: LabeledImages,
    train: LabeledImages,
    *,
    seed: int,
    track: Track = no_progress,
) -> FidelityReport:
    """Samples with the labels of ``reference`` against ``reference``, beside the real floor.

    reference: the validation split, cut by group from ``train``, which sampler and extractor were
    trained on. The floor takes training images without repeats while a class has enough; KID leaves
    repeats out.

    Raises SignforgeError where classes or resolutions differ or ``reference`` lacks a class.
    """
    judged = judge_images(sampler, extractor, reference, train, seed=seed, track=track)
    return report_on(judged, sampler, extractor, seed=seed)


def judge_images(
    sampler: ClassConditionalSampler,
    extractor: FeatureExtractor,
    reference: LabeledImages,
    train: LabeledImages,
    *,
    seed: int,
    train_features: Tensor | None = None,
    track: Track = no_progress,
) -> JudgedImages:
    """Samples, reference and floor, as ``fidelity_report`` compares them, seen by ``extractor``.

    train_features: of all of ``train`` by the same extractor, where they are there already.

    Raises SignforgeError as ``fidelity_report`` does.
    """
    _require_same_classes(sampler, extractor, reference, train)
    samples = draw_samples(sampler, reference.labels, seed, track)
    rng = torch.Generator().manual_seed(derive_seed(seed, 1))
    floor_rows = same_labels(train, reference.class_counts, rng)
    real, real_logits = extractor.features_and_logits(reference.images, track)
    fake, fake_logits = extractor.features_and_logits(samples, track)
    if train_features is None:
        floor = extractor.features(train.images[floor_rows], track)
    else:
        floor = train_features[floor_rows]
    return JudgedImages(
        labels=reference.labels,
        samples=samples,
        floor_rows=floor_rows,
        real=real,
        fake=fake,
        floor=floor,
        real_logits=real_logits,
        fake_logits=fake_logits,
    )


def report_on(
    judged: JudgedImages,
    sampler: ClassConditionalSampler,
    extractor: FeatureExtractor,
    *,
    seed: int,
) -> FidelityReport:
    """The figures of images that ``judge_images`` drew with the same arguments."""
    real, fake, floor = judged.real, judged.fake, judged.floor
    agreement = label_agreement(judged.fake_logits, judged.labels, sampler.num_classes)
    ceiling = label_agreement(judged.real_logits, judged.labels, sampler.num_classes)
    fd, fd_floor = frechet_distance(real, fake), frechet_distance(real, floor)
    return FidelityReport(
        n=len(judged.labels),
        fd=fd,
        fd_floor=fd_floor,
        fd_ratio=fd / fd_floor if fd_floor > 0 else None,
        kid=kid(real, fake),
        kid_floor=kid(real, floor[~judged.repeated]),
        macro_label_agreement=agreement.macro,
        real_label_agreement=ceiling.macro,
        worst_class_label_agreement=agreement.worst_class_agreement,
        worst_class=agreement.worst_class,
        per_class_label_agreement=agreement.per_class,
        extractor=extractor.name,
        extractor_sha256=extractor.weights_sha256,
        sampler_fingerprint=sampler.fingerprint,
        seed=seed,
    )


def same_labels(images: LabeledImages, class_counts: Tensor, rng: torch.Generator) -> Tensor:
    """Random indices int64 into ``images`` with ``class_counts`` (int64 (C,)) of each class.

    An image comes twice only after every other of its class has come once.
    Raises SignforgeError for a class that is wanted and absent.
    """
    chosen = []
    for label, wanted in enumerate(class_counts.tolist()):
        members = (images.labels == label).nonzero().flatten()
        if wanted and len(members) == 0:
            raise SignforgeError(
                f"{images.source}: no image of class {images.class_names[label]} to compare with."
            )
        left = wanted
        while left > 0:
            order = torch.randperm(len(members), generator=rng)[:left]
            chosen.append(members[order])
            left -= len(order)
    return torch.cat(chosen)


def repeats(rows: Tensor) -> Tensor:
    """bool (N,): which of int64 (N,) ``rows``, as ``same_labels`` chooses them, came before.

    A pair of copies is nearer than any two images, so that KID and balls leave them out.
    """
    order = rows.argsort(stable=True)
    ordered = rows[order]
    again = torch.zeros_like(rows, dtype=torch.bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    return again


def proportional_counts(class_counts: Tensor, total: int, *, at_least_one: bool = False) -> Tensor:
    """int64 (C,) that sum to ``total`` in the proportions of int64 (C,) ``class_counts``.

    Largest remainders, so ``total`` = sum of the counts gives them back. A class that has images
    and would get none gets one ``at_least_one``, beyond ``total``; else a SignforgeError is raised.
    """
    exact = class_counts.double() * (total / int(class_counts.sum()))
    counts = exact.floor().long()
    largest = (exact - counts).argsort(descending=True, stable=True)
    counts[largest[: total - int(counts.sum())]] += 1
    forgotten = (counts == 0) & (class_counts > 0)
    if at_least_one:
        counts = counts + forgotten
    elif bool(forgotten.any()):
        raise SignforgeError(
            f"{total} images are too few for every class in these proportions; ask for more."
        )
    return counts


def draw_samples(
    sampler: ClassConditionalSampler, labels: Tensor, seed: int, track: Track = no_progress
) -> Tensor:
    """Samples uint8 (N, 3, R, R) of int64 (N,) labels, a bounded number at a time."""
    starts = range(0, len(labels), SAMPLES_PER_CALL)
    return torch.cat(
        [
            sampler.sample(labels[start : start + SAMPLES_PER_CALL], derive_seed(seed, 0, start))
            for start in track(starts, "samples", len(starts))
        ]
    )


def _require_same_classes(
    sampler: ClassConditionalSampler,
    extractor: FeatureExtractor,
    reference: LabeledImages,
    train: LabeledImages,
) -> None:
    counts = {
        "sampler": sampler.num_classes,
        "extractor": extractor.num_classes,
        "reference": reference.num_classes,
        "training": train.num_classes,
    }
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise SignforgeError(f"Fidelity needs one set of classes, got different numbers: {said}.")
    if sampler.resolution != reference.resolution:
        raise SignforgeError(
            f"The sampler draws {sampler.resolution} pixels, the real images have "
            f"{reference.resolution}; use a sampler of the same data.resolution."
        )


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum of the kernel matrix, a block of rows at a time."""
    total = 0.0
    height = max(min(KERNEL_ROWS, KERNEL_VALUES // len(y)), 1)
    for start in range(0, len(x), height):
        rows = x[start : start + height]
        total += float((rows @ y.T / x.shape[1] + 1).pow_(3).sum())
    return total


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3
