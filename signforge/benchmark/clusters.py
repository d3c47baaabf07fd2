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
    """``design_effect`` images count as one; measured on ``split``, in ``groups`` groups."""

    design_effect: float
    split: Split
    groups: int


def measure_clustering(found: GroupedPredictions, baseline: str, split: Split) -> Clustering | None:
    """Of the differences between each arm and ``baseline``, over the seeds that both have.

    None where no such pair is there or they do not tell (see ``design_effect``).
    """
    pairs: dict[str, list[FloatArray]] = {}
    for (arm, seed), preds in found.predictions.items():
        other = found.predictions.get((baseline, seed))
        if arm != baseline and other is not None:
            gain = (preds == found.target).astype(np.float64) - (other == found.target)
            pairs.setdefault(arm, []).append(gain)
    if not pairs:
        return None
    differences = np.stack([np.mean(gains, axis=0) for gains in pairs.values()])
    effect = design_effect(differences, found.target, found.groups)
    if effect is None:
        return None
    return Clustering(effect, split, len(np.unique(found.groups)))


def design_effect(differences: FloatArray, target: IntArray, groups: IntArray) -> float | None:
    """Variance of the macro mean of ``differences``, groups drawn whole, over images drawn singly.

    differences: (P, N), one row a comparison; their variances are added up. target, groups: (N,);
    a group lies within one class.

    At least 1. Classes with one group say nothing of how groups differ and are left out; None
    where no class is left, or nothing differs in any.
    """
    whole, single = 0.0, 0.0
    for label in np.unique(target):
        members = target == label
        number, of_image = np.unique(groups[members], return_inverse=True)
        count = len(of_image)
        if len(number) < 2:
            continue
        values = differences[:, members]
        residuals = values - values.mean(1, keepdims=True)
        sums = np.stack([np.bincount(of_image, row) for row in residuals])
        whole += len(number) / (len(number) - 1) * float((sums**2).sum()) / count**2
        single += count / (count - 1) * float((residuals**2).sum()) / count**2
    return max(whole / single, 1.0) if single else None
