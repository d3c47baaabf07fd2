"""Which remedy serves a class best: gains in validation recall, shrunk over classes, and a choice.

Between-group variance is pooled over classes as the dispersion of a quasi-binomial (Wedderburn
1974), since rare classes have one or two groups. Shrinkage is empirical Bayes with a normal prior
around zero (Efron & Morris 1973), its variance by the moments of DerSimonian & Laird 1986 in the
general form of DerSimonian & Kacker 2007.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from signforge.balance.plan import ClassDecision, RemedyEvidence, TriedRemedy
from signforge.errors import SignforgeError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

BASELINE = "real"
_UNRELATED = 2.0
"""Variance of the difference of two unrelated yes-or-no outcomes, in units of p (1 - p)."""


@dataclass(frozen=True, eq=False)
class ValidationGroups:
    """What the recalls were measured on: one entry a group (physical sign) of the validation set.

    labels: int64 (M,), the class of each group. sizes: int64 (M,), its images.
    """

    labels: IntArray
    sizes: IntArray


@dataclass(frozen=True, eq=False)
class ClassGains:
    """Gain of one remedy in the recall of each class, float64 (C,) each; 0 for a class unseen.

    gain: mean over seeds, and over the class's groups.
    standard_error: of ``gain``, for other groups and other seeds.
    group_variance: the part of its square that other groups would change.
    posterior_mean, posterior_sd: after shrinkage over classes.
    probability: that the gain is above zero; 0.5 where nothing speaks for either side.
    per_seed: float64 (S, C), the gain of each seed.
    """

    gain: FloatArray
    standard_error: FloatArray
    group_variance: FloatArray
    posterior_mean: FloatArray
    posterior_sd: FloatArray
    probability: FloatArray
    per_seed: FloatArray


def class_gains(
    remedy: FloatArray, baseline: FloatArray, groups: ValidationGroups, num_classes: int
) -> ClassGains:
    """The gains of ``remedy`` over ``baseline`` and how sure they are.

    remedy, baseline: recall within each group, float64 (S, M) in 0..1, row s of both from the same
    training seed.

    Model of class c with G groups and mean recall p over both arms, h = p (1 - p): its gain has
    variance h (W / G + B / S), and its true gain is drawn from a normal law around zero with
    variance h A. A class at the ceiling can neither gain nor vary, hence h. W (between groups), B
    (between seeds, of a whole class) and A (between classes) are the same for all classes and
    estimated by moments. With one seed B is unknown and taken as 0.

    The prior lies around zero and not around the mean gain, because a class shall not get a
    remedy for what others gain by it.

    Raises SignforgeError for shapes that do not fit together.
    """
    _check(remedy, baseline, groups)
    labels, seeds = groups.labels, len(remedy)
    count = np.bincount(labels, minlength=num_classes)
    seen = count > 0
    difference = remedy - baseline
    per_seed = _class_means(difference, labels, count)
    gain = per_seed.mean(0)
    spread = _spread((remedy + baseline).mean(0) / 2, groups, count)

    over_seeds = difference.mean(0)
    between = ((over_seeds - gain[labels]) ** 2).sum()
    freedom = ((count - 1) * spread)[seen].sum()
    # One further degree of freedom at its largest: no handful of lucky groups gives variance 0.
    typical = spread[seen].mean()
    group_unit = (between + _UNRELATED * typical) / (freedom + typical)
    seed_unit = _seed_unit(difference, per_seed, gain, labels, count, spread)

    group_variance = spread * group_unit / np.maximum(count, 1)
    unit = group_unit / np.maximum(count, 1) + seed_unit / seeds
    prior = _prior_unit(gain[seen], spread[seen], unit[seen])
    kept = np.where(seen, prior / (prior + unit), 0.0)
    mean = kept * gain
    deviation = np.sqrt(spread * unit * kept)
    standardised = np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
    return ClassGains(
        gain=gain,
        standard_error=np.where(seen, np.sqrt(spread * unit), 0.0),
        group_variance=np.where(seen, group_variance, 0.0),
        posterior_mean=mean,
        posterior_sd=deviation,
        probability=stats.norm.cdf(standardised),
        per_seed=per_seed,
    )


def decide(
    recalls: Mapping[str, FloatArray],
    groups: ValidationGroups,
    *,
    class_names: Sequence[str],
    real_counts: Sequence[int],
    targets: Sequence[int],
    confidence: float = 0.8,
    acceptance: Sequence[float | None] | None = None,
    min_acceptance: float = 0.1,
) -> tuple[ClassDecision, ...]:
    """A remedy for each class: the one with the largest posterior mean gain among those whose gain
    is above zero with probability ``confidence`` or more, else "nothing".

    recalls: {"real": ..., and "synthetic", "oversample" or both}, as in ``class_gains``.
    real_counts, targets: (C,), images that a class has, and those that the remedies filled it to.
    acceptance: (C,), share of trial draws that the gate kept; None for a class that was not tried.
        A class below ``min_acceptance`` is never filled with samples.

    A class without validation groups, or that the remedies add no image to, gets "nothing".

    Raises SignforgeError for shapes that do not fit together.
    """
    num_classes = len(class_names)
    tried: tuple[TriedRemedy, ...] = ("synthetic", "oversample")
    gains = {
        name: class_gains(recalls[name], recalls[BASELINE], groups, num_classes)
        for name in tried
        if name in recalls
    }
    num_groups = np.bincount(groups.labels, minlength=num_classes)
    num_images = np.bincount(groups.labels, weights=groups.sizes, minlength=num_classes)
    shares = acceptance if acceptance is not None else [None] * num_classes
    decisions = []
    for label, (name, real, target, share) in enumerate(
        zip(class_names, real_counts, targets, shares, strict=True)
    ):
        evidence = {remedy: _evidence(values, label) for remedy, values in gains.items()}
        collapsed = share is not None and share < min_acceptance
        open_to = {
            remedy: values
            for remedy, values in evidence.items()
            if target > real
            and num_groups[label]
            and values.probability >= confidence
            and not (remedy == "synthetic" and collapsed)
        }
        best = max(open_to, key=lambda remedy: open_to[remedy].posterior_mean, default=None)
        decisions.append(
            ClassDecision(
                name=name,
                remedy=best or "nothing",
                count=int(target if best else real),
                real_count=int(real),
                num_groups=int(num_groups[label]),
                num_images=int(num_images[label]),
                acceptance=None if share is None else round(share, 6),
                evidence=evidence,
            )
        )
    return tuple(decisions)


def _class_means(values: FloatArray, labels: IntArray, count: IntArray) -> FloatArray:
    """Mean over the groups of each class, (S, M) -> (S, C); 0 for a class without groups."""
    sums = np.stack([np.bincount(labels, weights=row, minlength=len(count)) for row in values])
    means: FloatArray = sums / np.maximum(count, 1)
    return means


def _spread(recall: FloatArray, groups: ValidationGroups, count: IntArray) -> FloatArray:
    """h = p (1 - p) of each class (C,), with p pulled from 0 and 1 by half an image."""
    images = np.bincount(groups.labels, weights=groups.sizes, minlength=len(count))
    p = _class_means(recall[None], groups.labels, count)[0]
    p = (images * p + 0.5) / (images + 1)
    spread: FloatArray = p * (1 - p)
    return spread


def _seed_unit(
    difference: FloatArray,
    per_seed: FloatArray,
    gain: FloatArray,
    labels: IntArray,
    count: IntArray,
    spread: FloatArray,
) -> float:
    """B: what seeds do to a class as a whole, beyond what they do to each group by itself."""
    seeds, seen = len(difference), count > 0
    if seeds == 1:
        return 0.0
    residual = difference - difference.mean(0) - per_seed[:, labels] + gain[labels]
    freedom = ((count - 1) * (seeds - 1) * spread)[seen].sum()
    residual_unit = (residual**2).sum() / freedom if freedom else 0.0
    observed = per_seed.var(0, ddof=1)[seen].sum()
    expected = (spread[seen] * residual_unit / count[seen]).sum()
    return max(0.0, float((observed - expected) / spread[seen].sum()))


def _prior_unit(gain: FloatArray, spread: FloatArray, unit: FloatArray) -> float:
    """A of gain ~ N(0, spread (A + unit)): sum of squares over its expectation, weights 1/unit."""
    excess = ((gain**2 - spread * unit) / unit).sum()
    return max(0.0, float(excess / (spread / unit).sum()))


def _evidence(gains: ClassGains, label: int) -> RemedyEvidence:
    def of(values: FloatArray) -> float:
        return round(float(values[label]), 6)

    return RemedyEvidence(
        gain=of(gains.gain),
        standard_error=of(gains.standard_error),
        posterior_mean=of(gains.posterior_mean),
        posterior_sd=of(gains.posterior_sd),
        probability=of(gains.probability),
    )


def _check(remedy: FloatArray, baseline: FloatArray, groups: ValidationGroups) -> None:
    shape = (len(remedy), len(groups.labels))
    if not (remedy.shape == baseline.shape == shape) or groups.sizes.shape != shape[1:]:
        raise SignforgeError(
            f"Recalls to decide by must be of shape (seeds, groups): remedy {remedy.shape}, "
            f"baseline {baseline.shape}, {len(groups.labels)} labels, {len(groups.sizes)} sizes."
        )
    if not remedy.size:
        raise SignforgeError("There is no validation image or no seed to decide by.")
