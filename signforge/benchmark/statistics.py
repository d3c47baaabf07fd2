"""How sure a gain is: paired by training seed and test image, both of them sources of chance.

Method: seeds and test images are crossed random effects (Owen 2007, "The pigeonhole bootstrap").
Images are resampled; the few seeds get Student's t, as resampling them is far too sure of itself.
Images that come in groups count for fewer (``clusters``), and so many are drawn.
The two parts of an interval add in quadrature, each with its own quantile (Howe 1974, "Approximate
confidence limits on the mean of X + Y"), so it is never narrower than a paired t-test over seeds.
Over classes: Holm 1979.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from signforge.errors import SignforgeError

Metric = Literal["top1", "macro_accuracy", "worst_class_recall"]
METRICS: tuple[Metric, ...] = ("top1", "macro_accuracy", "worst_class_recall")
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]
Pick = Callable[[FloatArray], FloatArray]
"""Per-class recall (..., C) -> the figures to compare (..., K)."""
LEVEL = 0.95
SURE_SEEDS = 3
P_FLOOR = 1e-12
SURE_BIAS = 4.0
"""Standard errors of its resamples at which a figure counts as biased."""


@dataclass(frozen=True)
class Gain:
    """``mean`` difference of a metric, arm minus baseline, with its 95 % interval (about 90 % for
    the worst class where arms have different profiles, see ``_Sides``).

    Recalls and accuracies are shares, so a gain of 0.01 is one point. With one seed the interval
    covers test images only. From two seeds on, two copies of one arm are told apart in 5 % of
    cases or fewer, whatever makes them differ.

    p: two-sided p-value of "no difference", below 0.05 exactly where the interval excludes zero.
    image_sd: standard deviation of ``mean`` from the choice of test images, at any number of seeds.
    seed_sd: standard deviation of the gain between single seeds; None for one seed.
    """

    mean: float
    low: float
    high: float
    seeds: int
    p: float
    image_sd: float
    seed_sd: float | None

    @property
    def direction(self) -> int:
        """1 or -1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class ClassGain(Gain):
    """The gain of one class's recall. p_holm: ``p`` corrected for looking at every class.

    In the few images of one class two seeds often agree by luck, so it takes ``SURE_SEEDS`` to be
    sure of a class; of all classes together, two copies of one arm then give any in 5 % of cases.
    """

    p_holm: float

    @property
    def sure(self) -> int:
        """1 or -1 where the class gained or lost after correction, else 0."""
        return self.direction if self.p_holm < 1 - LEVEL and self.seeds >= SURE_SEEDS else 0


@dataclass(frozen=True)
class Comparison:
    """All gains of one arm over another; one resampling serves them all.

    figures: by name, ``METRICS`` and the groups of classes asked for. classes: one per class.
    """

    figures: Mapping[str, Gain]
    classes: tuple[ClassGain, ...]


def compare(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    *,
    groups: Mapping[str, IntArray] | None = None,
    design_effect: float = 1.0,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Gains of ``METRICS``, of the mean recall of each group of classes, and of each class.

    arm, baseline: predicted classes (S, N), row s of both from the same training seed.
    target: true classes (N,). groups: name -> its classes, none empty.
    design_effect: how many images say as much as one that stands alone, at least 1.

    Raises SignforgeError where shapes differ, a class has no test image, or ``design_effect`` is
    below 1.
    """
    groups = groups or {}
    counts = np.bincount(target)
    metrics = [
        *(recall_metric(metric, counts) for metric in METRICS),
        *(recall_metric("macro_accuracy", counts, classes) for classes in groups.values()),
    ]

    def pick(recall: FloatArray) -> FloatArray:
        figures = [metric(recall) for metric in metrics]
        return np.concatenate([np.stack(figures, axis=-1), recall], axis=-1)

    gains = _gains(arm, baseline, target, pick, design_effect, resamples, seed)
    names = (*METRICS, *groups)
    return Comparison(
        figures=dict(zip(names, gains, strict=False)),
        classes=tuple(_with_holm(gains[len(names) :])),
    )


def paired_gain(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    *,
    metric: Metric = "macro_accuracy",
    classes: IntArray | None = None,
    design_effect: float = 1.0,
    resamples: int = 2000,
    seed: int = 0,
) -> Gain:
    """Gain of one metric; ``classes`` restricts it to some classes, unless it is top1.

    Other arguments and errors as in ``compare``.
    """
    value = recall_metric(metric, np.bincount(target), classes)

    def pick(recall: FloatArray) -> FloatArray:
        return value(recall)[..., None]

    return _gains(arm, baseline, target, pick, design_effect, resamples, seed)[0]


def paired_class_gains(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    *,
    design_effect: float = 1.0,
    resamples: int = 2000,
    seed: int = 0,
) -> list[ClassGain]:
    """Gain of every class's recall; arguments and errors as in ``compare``."""
    gains = _gains(arm, baseline, target, lambda recall: recall, design_effect, resamples, seed)
    return _with_holm(gains)


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


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for looking at all of them (Holm 1979); same order, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]


def _gains(
    arm: IntArray,
    baseline: IntArray,
    target: IntArray,
    pick: Pick,
    design_effect: float,
    resamples: int,
    seed: int,
) -> list[Gain]:
    """One Gain for each of the K figures of ``pick``."""
    _check(arm, baseline, target, design_effect)
    rng = np.random.default_rng(seed)
    correct = np.concatenate([arm == target, baseline == target])
    seeds = len(arm)

    def differences(recall: FloatArray) -> FloatArray:
        return pick(recall[..., :seeds, :]) - pick(recall[..., seeds:, :])

    recall = _recall(correct, target)
    per_seed = differences(recall)
    mean = per_seed.mean(0)
    worth = np.maximum(np.bincount(target) // design_effect, 1).astype(np.int64)
    drawn = _resampled_recall(correct, target, worth, resamples, rng)
    # Spread as if there were no difference (McNemar), not only around the one seen: a handful of
    # images that all changed for the better would show no spread at all.
    noise = rng.standard_normal((resamples, 1, len(worth))) / np.sqrt(worth)
    drawn[:, :seeds] += noise * (recall[:seeds] - recall[seeds:])
    deviations = differences(drawn) - per_seed

    draws = deviations.mean(1)
    images, image_var = _Sides(draws), draws.var(0)
    if seeds == 1:
        seed_var, between, freedom = np.zeros(len(mean)), None, 1
        shared = np.ones(len(mean))
    else:
        # What images do to each seed differently is part of the spread between seeds already.
        single = np.maximum(deviations.var(0).mean(0) - image_var, 0) / (seeds - 1)
        between = per_seed.var(0, ddof=1)
        seed_var, freedom = between / seeds, seeds - 1
        shared = _divide(np.maximum(image_var - single, 0), image_var)

    def reach(side: FloatArray, level: FloatArray | float) -> FloatArray:
        """How far the interval that leaves out ``level`` goes from the mean to one side."""
        few, many = -special.stdtrit(freedom, level / 2), -special.ndtri(level / 2)
        both = np.sqrt(few**2 * seed_var + many**2 * shared * side**2)
        # Seeds that agree by luck never make it narrower than the images alone allow.
        reached: FloatArray = np.maximum(both, many * side)
        return reached

    low = mean - reach(images.low, 1 - LEVEL)
    high = mean + reach(images.high, 1 - LEVEL)
    side = np.where(mean > 0, images.low, images.high)
    p = _smallest_level(abs(mean), lambda level: reach(side, level))
    return [
        Gain(
            mean=float(mean[k]),
            # Two seeds that disagree stretch an interval past what a share can gain.
            low=max(float(low[k]), -1.0),
            high=min(float(high[k]), 1.0),
            seeds=seeds,
            p=float(p[k]) if mean[k] else 1.0,
            image_sd=float(np.sqrt(shared[k] * image_var[k])),
            seed_sd=None if between is None else float(np.sqrt(between[k])),
        )
        for k in range(len(mean))
    ]


def _smallest_level(distance: FloatArray, reach: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Where the interval just reaches zero, by bisection: below it, ``reach`` > ``distance``."""
    low, high = np.full(len(distance), np.log(P_FLOOR)), np.zeros(len(distance))
    for _ in range(40):
        middle = (low + high) / 2
        covers = reach(np.exp(middle)) > distance
        low, high = np.where(covers, middle, low), np.where(covers, high, middle)
    level: FloatArray = np.exp(high)
    return level


class _Sides:
    """Half-widths of an interval around zero in normal standard deviations, (K,) for each side.

    Percentiles of a skewed figure may leave the estimate outside; an interval contains it.

    A figure that is no mean is biased: the worst of many equal classes looks worse than any is, and
    an arm with many such classes looks worse than one with few. The percentiles of its draws then
    lie on the wrong side (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", 10.2 and
    13.4), so both sides get the wider of the two, and the bias on top: nine intervals in ten hold
    the truth where percentiles alone would in five or six.
    """

    def __init__(self, draws: FloatArray) -> None:
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        unit = special.ndtri(1 - tail)
        bias = abs(draws.mean(0))
        # A mean shows no more of it than its resamples do by chance.
        biased = bias > SURE_BIAS * draws.std(0) / np.sqrt(len(draws))
        either = np.maximum(-low, high) + bias
        self.low: FloatArray = np.where(biased, either, np.maximum(-low, 0)) / unit
        self.high: FloatArray = np.where(biased, either, np.maximum(high, 0)) / unit


def _with_holm(gains: Sequence[Gain]) -> list[ClassGain]:
    corrected = holm([gain.p for gain in gains])
    return [ClassGain(**vars(gain), p_holm=p) for gain, p in zip(gains, corrected, strict=True)]


def _divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """Their quotient, 0 where ``below`` is."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _recall(correct: npt.NDArray[np.bool_], target: IntArray) -> FloatArray:
    """(R, N) -> (R, C)."""
    counts = np.bincount(target)
    hits = [np.bincount(target, weights=row, minlength=len(counts)) for row in correct]
    recall: FloatArray = np.stack(hits) / counts
    return recall


def _resampled_recall(
    correct: npt.NDArray[np.bool_],
    target: IntArray,
    worth: IntArray,
    resamples: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Recall (resamples, R, C) when images are drawn anew, the same ones for every row.

    worth: how many are drawn of each class, (C,).
    Images are drawn within their class: drawn over the whole test set, a rare class could
    vanish from a resample, and macro accuracy with a fixed denominator would not exist there.
    Images of a class that the same rows get right are interchangeable, so their numbers follow
    one multinomial law; that is exact, and much cheaper than drawing images one by one.
    """
    # Images of one class and pattern get one number, in the order of the classes.
    kind: IntArray = target
    for row in correct:
        kind = np.unique(2 * kind.astype(np.int64) + row, return_inverse=True)[1]
    _, first, sizes = np.unique(kind, return_index=True, return_counts=True)
    counts = np.bincount(target)
    recall = np.empty((resamples, len(correct), len(counts)))
    for label, count in enumerate(counts):
        chosen = target[first] == label
        drawn = rng.multinomial(worth[label], sizes[chosen] / count, size=resamples)
        recall[:, :, label] = drawn @ correct[:, first[chosen]].T / worth[label]
    return recall


def _check(arm: IntArray, baseline: IntArray, target: IntArray, design_effect: float) -> None:
    if arm.ndim != 2 or arm.shape != baseline.shape or arm.shape[1:] != target.shape:
        raise SignforgeError(
            f"Paired predictions must have one shape (seeds, images): arm {arm.shape}, "
            f"baseline {baseline.shape}, target {target.shape}."
        )
    if design_effect < 1:
        raise SignforgeError(f"design_effect must be at least 1, got {design_effect:g}.")
    absent = np.flatnonzero(np.bincount(target) == 0)
    if len(absent):
        raise SignforgeError(
            f"Class {absent[0]} has no test image, so its recall does not exist; "
            "test on data that shows every class."
        )
