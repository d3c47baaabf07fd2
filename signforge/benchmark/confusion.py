"""Which classes a remedy mixes up more, and which less, than plain training does."""

from dataclasses import dataclass

import numpy as np

from signforge.benchmark.statistics import IntArray

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


def confusion_changes(
    arm: IntArray, baseline: IntArray, target: IntArray, num_classes: int, *, top: int = 10
) -> list[ConfusionChange]:
    """The ``top`` pairs of different classes whose share changed most, the largest change first.

    arm, baseline: predicted classes (S, N), row s of both from the same seed. target: true classes
    (N,). Pairs without any change are left out, so there may be fewer. Only pairs that occur are
    looked at: of 10,000 classes there are a hundred million.
    """
    seeds, images = len(arm), np.bincount(target, minlength=num_classes)
    # A cell of the confusion matrix as one number, row by row.
    cells = target.astype(np.int64) * num_classes + np.concatenate([arm, baseline])
    occupied, places = np.unique(cells, return_inverse=True)
    labels, taken_for = np.divmod(occupied, num_classes)
    places = places.reshape(cells.shape)
    counts = np.stack([np.bincount(row, minlength=len(occupied)) for row in places])
    shares = counts / images[labels]
    after, before = shares[:seeds], shares[seeds:]
    per_seed = after - before
    change = np.where(labels == taken_for, 0, per_seed.mean(axis=0))
    found = []
    for cell in np.argsort(-np.abs(change), kind="stable")[:top]:
        if abs(change[cell]) < NO_CHANGE:
            break
        same_side = np.sign(per_seed[:, cell]) == np.sign(change[cell])
        found.append(
            ConfusionChange(
                label=int(labels[cell]),
                taken_for=int(taken_for[cell]),
                images=int(images[labels[cell]]),
                baseline=float(before[:, cell].mean()),
                arm=float(after[:, cell].mean()),
                seeds=seeds,
                seeds_agreeing=int(same_side.sum()),
            )
        )
    return found
