"""Which classes a remedy mixes up more, and which less, than plain training does."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from signforge.benchmark.statistics import FloatArray, IntArray

NO_CHANGE = 1e-9
"""Shares of seeds that cancel out leave this much at most."""


@dataclass(frozen=True)
class ConfusionChange:
    """Test images of class ``label`` that are taken for class ``taken_for``.

    baseline, arm: their share of the class, 0..1, mean over seeds.
    images: test images of the class. seeds_agreeing: of ``seeds``, those that changed to the same
        side as the mean did.
    """

    label: int
    taken_for: int
    images: int
    baseline: float
    arm: float
    seeds: int
    seeds_agreeing: int

    @property
    def change(self) -> float:
        """Share of the class, negative where fewer images are mixed up."""
        return self.arm - self.baseline


def confusion_shares(preds: IntArray, target: IntArray, num_classes: int) -> FloatArray:
    """(S, C, C) for predictions (S, N) and true classes (N,): row = true class, sums to 1.

    A class without test images has a row of zeros.
    """
    size = num_classes * num_classes
    cells: npt.NDArray[np.int64] = target.astype(np.int64) * num_classes + preds
    counts = np.stack([np.bincount(row, minlength=size) for row in cells])
    counts = counts.reshape(len(preds), num_classes, num_classes)
    shares: FloatArray = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
    return shares


def confusion_changes(
    arm: IntArray, baseline: IntArray, target: IntArray, num_classes: int, *, top: int = 10
) -> list[ConfusionChange]:
    """The ``top`` pairs of different classes whose share changed most, the largest change first.

    arm, baseline: predicted classes (S, N), row s of both from the same seed. Pairs without any
    change are left out, so there may be fewer.
    """
    after, before = (confusion_shares(preds, target, num_classes) for preds in (arm, baseline))
    per_seed = after - before
    change = per_seed.mean(axis=0)
    np.fill_diagonal(change, 0)
    images = np.bincount(target, minlength=num_classes)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:top]
    found = []
    for label, taken_for in zip(*np.unravel_index(order, change.shape), strict=True):
        if abs(change[label, taken_for]) < NO_CHANGE:
            break
        same_side = np.sign(per_seed[:, label, taken_for]) == np.sign(change[label, taken_for])
        found.append(
            ConfusionChange(
                label=int(label),
                taken_for=int(taken_for),
                images=int(images[label]),
                baseline=float(before[:, label, taken_for].mean()),
                arm=float(after[:, label, taken_for].mean()),
                seeds=len(arm),
                seeds_agreeing=int(same_side.sum()),
            )
        )
    return found
