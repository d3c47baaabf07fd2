"""How much less test images say than their number, because frames of one object come in groups.

A classifier is right or wrong about all frames of a sign at once, more or less. Resampling frames
as if each stood alone then gives intervals that are too narrow, by the root of the design effect
(Kish 1965, "Survey Sampling", section 5.4): the variance of a mean with its groups drawn whole over
the one with images drawn singly. Where nobody knows the groups of the test images, those of the
validation split stand in for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["val", "test"]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]
Predictions = Mapping[tuple[str, int], IntArray]
"""(arm, seed) -> the predicted class of each image, (N,)."""


@dataclass(frozen=True)
class GroupedPredictions:
    """What arms predicted for images whose groups are known.

    target, groups: true class and group of each image, (N,).
    """

    predictions: Predictions
    target: IntArray
    groups: IntArray


@dataclass(frozen=True)
class Clustering:
    """How many images count as one in a comparison of one seed, and in one of several.

    What arms differ in at every seed sticks to signs more than what one seed does by itself, so
    that the mean over seeds is clustered more. several_seeds: of the part that seeds share, the
    same as one_seed where no arm has two seeds to tell.
    split: measured on; groups: how many groups took part. arms: that were compared with another.
    """

    one_seed: float
    several_seeds: float
    split: Split
    groups: int
    arms: int

    def design_effect(self, seeds: int) -> float:
        """For a comparison over so many seeds."""
        return self.one_seed if seeds == 1 else self.several_seeds


def measure_clustering(found: GroupedPredictions, baseline: str, split: Split) -> Clustering | None:
    """Of the differences between each arm and ``baseline``, over the seeds that both have; another
    arm takes its place where it has no seed in common with any.

    None where no pair is there, and where none tells: no class has two groups, or nothing differs.
    """
    for reference in dict.fromkeys([baseline, *(arm for arm, _ in found.predictions)]):
        measured = _measured(found, reference, split)
        if measured is not None:
            return measured
    return None


def _measured(found: GroupedPredictions, reference: str, split: Split) -> Clustering | None:
    gains: dict[str, list[FloatArray]] = {}
    for (arm, seed), preds in found.predictions.items():
        other = found.predictions.get((reference, seed))
        if arm != reference and other is not None:
            gain = (preds == found.target).astype(np.float64) - (other == found.target)
            gains.setdefault(arm, []).append(gain)
    each, shared = Variances(), Variances()
    for of_arm in gains.values():
        differences = np.stack(of_arm)
        single = mean_variances(differences, found.target, found.groups)
        each += single
        seeds = len(differences)
        if seeds > 1:
            mean = mean_variances(differences.mean(0, keepdims=True), found.target, found.groups)
            # Of the mean over seeds, the part that each seed does by itself shrinks with them.
            own = (single - mean) * (seeds / (seeds - 1))
            shared += mean - own * (1 / seeds)
    one_seed = each.design_effect
    if one_seed is None:
        return None
    several = shared.design_effect or one_seed
    return Clustering(
        one_seed=one_seed,
        several_seeds=max(several, one_seed),
        split=split,
        groups=_groups_that_tell(found),
        arms=len(gains),
    )


def _groups_that_tell(found: GroupedPredictions) -> int:
    counts = [
        len(np.unique(found.groups[(found.target == label) & (found.groups >= 0)]))
        for label in np.unique(found.target)
    ]
    return sum(count for count in counts if count > 1)


@dataclass(frozen=True)
class Variances:
    """Of a macro mean (times the squared number of classes): groups drawn whole, images singly."""

    whole: float = 0.0
    single: float = 0.0

    @property
    def design_effect(self) -> float | None:
        """Their quotient, at least 1; None where there is no variance."""
        return max(self.whole / self.single, 1.0) if self.single > 0 else None

    def __add__(self, other: "Variances") -> "Variances":
        return Variances(self.whole + other.whole, self.single + other.single)

    def __sub__(self, other: "Variances") -> "Variances":
        return self + other * -1

    def __mul__(self, factor: float) -> "Variances":
        return Variances(self.whole * factor, self.single * factor)


def mean_variances(differences: FloatArray, target: IntArray, groups: IntArray) -> Variances:
    """Variances of the macro mean of each row of ``differences``, the mean over rows; unbiased.

    differences: (R, N). target, groups: (N,); a group lies within one class, and images of a
    negative group, which is unknown, are left out. So are classes with a single group: they say
    nothing of how groups differ.
    """
    total = Variances()
    for label in np.unique(target):
        members = (target == label) & (groups >= 0)
        number, of_image = np.unique(groups[members], return_inverse=True)
        if len(number) < 2:
            continue
        count = len(of_image)
        values = differences[:, members]
        residuals = values - values.mean(1, keepdims=True)
        sums = np.stack([np.bincount(of_image, row) for row in residuals])
        whole = len(number) / (len(number) - 1) * (sums**2).sum(1).mean() / count**2
        # The residuals miss the variance of the class's mean, which groups make large.
        single = ((residuals**2).sum(1).mean() / count + whole) / count
        total += Variances(float(whole), float(single))
    return total
