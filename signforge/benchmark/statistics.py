"""How sure a gain is: a paired hierarchical bootstrap over seeds and test images.

Method: both crossed factors are perturbed in every resample, the same way for both arms (Owen
2007, "The pigeonhole bootstrap"): test images by resampling, the few seeds by normal weights
(a multiplier bootstrap) with Welch-Satterthwaite degrees of freedom.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from signforge.errors import SignforgeError

Metric = Literal["top1", "macro_accuracy", "worst_class_recall"]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """``mean`` difference of a metric, arm minus baseline, with its 95 % interval.

    Recalls and accuracies are shares, so a gain of 0.01 is one point. With one seed the interval
    covers test images only. Noise of single images is counted in both parts, so the interval
    errs on the wide side. Two copies of one arm are told apart in about 5 % of cases or fewer,
    with two seeds up to 8 % where nothing but the training seed makes them differ.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def direction(self) -> int:
        """1 or -1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def paired_gain(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    *,
    metric: Metric = "macro_accuracy",
    classes: IntArray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Gain:
    """Gain of one metric; ``classes`` restricts it to some classes, unless it is top1.

    arm, baseline: predicted classes (S, N), row s of both from the same training seed.
    target: true classes (N,).

    Raises SignforgeError where shapes differ or a class in ``classes`` has no test image.
    """
    value = recall_metric(metric, np.bincount(target), classes)

    def pick(recall: FloatArray) -> FloatArray:
        return value(recall)[..., None]

    return _gains(arm, baseline, target, pick, resamples, seed)[0]


def paired_class_gains(
    arm: IntArray, baseline: IntArray, target: IntArray, *, resamples: int = 2000, seed: int = 0
) -> list[Gain]:
    """Gain of every class's recall; arguments as in ``paired_gain``."""
    return _gains(arm, baseline, target, lambda recall: recall, resamples, seed)


def recall_metric(
    metric: Metric, test_counts: IntArray, classes: IntArray | None = None
) -> Callable[[FloatArray], FloatArray]:
    """The metric as a function of per-class recall (..., C) -> (...).

    test_counts: test images of each class (C,), the weights that turn recall into top-1.
    """
    if metric == "top1":
        share = test_counts / test_counts.sum()
        return lambda recall: recall @ share
    chosen = np.arange(len(test_counts)) if classes is None else np.asarray(classes)
    if metric == "macro_accuracy":
        return lambda recall: recall[..., chosen].mean(-1)
    return lambda recall: recall[..., chosen].min(-1)


def _gains(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    value: Callable[[FloatArray], FloatArray],
    resamples: int,
    seed: int,
) -> list[Gain]:
    """``value`` maps recall (..., C) to (..., K); one Gain for each of the K."""
    _check(arm, baseline, target)
    rng = np.random.default_rng(seed)
    correct = np.concatenate([arm == target, baseline == target])
    seeds = len(arm)

    def differences(recall: FloatArray) -> FloatArray:
        return value(recall[..., :seeds, :]) - value(recall[..., seeds:, :])

    observed = differences(_recall(correct, target)).mean(0)
    per_seed = differences(_resampled_recall(correct, target, resamples, rng))
    image_part = per_seed.mean(1)
    if seeds == 1:
        draws = image_part
        stretch = np.ones(len(observed))
    else:
        # Drawing seeds with replacement would spread by (S - 1) / S too little, and two or three
        # of them have next to no tails; normal weights have the variance of the mean, s^2 / S.
        weights = rng.standard_normal((resamples, seeds)) / np.sqrt(seeds * (seeds - 1))
        deviations = per_seed - image_part[:, None]
        seed_part = np.einsum("bs,bsk->bk", weights, deviations)
        draws = image_part + seed_part
        stretch = _student_stretch(image_part.var(0), seed_part.var(0), seeds)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    # Percentiles of a skewed metric may leave the estimate outside; an interval contains it.
    low = observed + np.minimum(low - observed, 0) * stretch
    high = observed + np.maximum(high - observed, 0) * stretch
    # Two seeds that disagree stretch the interval of a rare class past what a share can gain.
    low, high = np.maximum(low, -1), np.minimum(high, 1)
    return [
        Gain(mean=float(m), low=float(a), high=float(b), seeds=seeds)
        for m, a, b in zip(observed, low, high, strict=True)
    ]


def _student_stretch(image_var: FloatArray, seed_var: FloatArray, seeds: int) -> FloatArray:
    """How much wider than normal an interval must be, as the spread of few seeds is uncertain.

    Welch-Satterthwaite: only the seed part of the variance has few degrees of freedom (S - 1).
    """
    total = image_var + seed_var
    share = np.divide(seed_var, total, out=np.zeros_like(total), where=total > 0)
    freedom = (seeds - 1) / np.maximum(share**2, 1e-12)
    upper = 1 - (1 - LEVEL) / 2
    stretch: FloatArray = stats.t.ppf(upper, freedom) / stats.norm.ppf(upper)
    return stretch


def _recall(correct: npt.NDArray[np.bool_], target: IntArray) -> FloatArray:
    """(R, N) -> (R, C)."""
    counts = np.bincount(target)
    hits = [np.bincount(target, weights=row, minlength=len(counts)) for row in correct]
    recall: FloatArray = np.stack(hits) / counts
    return recall


def _resampled_recall(
    correct: npt.NDArray[np.bool_], target: IntArray, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Recall (resamples, R, C) when images are drawn anew, the same ones for every row.

    Images are drawn within their class: drawn over the whole test set, a rare class could
    vanish from a resample, and macro accuracy with a fixed denominator would not exist there.
    Images of a class that the same rows get right are interchangeable, so their numbers follow
    one multinomial law; that is exact, and much cheaper than drawing images one by one.
    """
    counts = np.bincount(target)
    recall = np.empty((resamples, len(correct), len(counts)))
    for label, count in enumerate(counts):
        patterns, sizes = np.unique(correct[:, target == label], axis=1, return_counts=True)
        drawn = rng.multinomial(count, sizes / count, size=resamples)
        recall[:, :, label] = drawn @ patterns.T / count
    return recall


def _check(arm: IntArray, baseline: IntArray, target: IntArray) -> None:
    if arm.ndim != 2 or arm.shape != baseline.shape or arm.shape[1:] != target.shape:
        raise SignforgeError(
            f"Paired predictions must have one shape (seeds, images): arm {arm.shape}, "
            f"baseline {baseline.shape}, target {target.shape}."
        )
    absent = np.flatnonzero(np.bincount(target) == 0)
    if len(absent):
        raise SignforgeError(
            f"Class {absent[0]} has no test image, so its recall does not exist; "
            "test on data that shows every class."
        )
