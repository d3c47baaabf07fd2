"""Accuracy as long-tail papers report it: overall, per class, by shot group, and the worst class.

Per-class recall is torchmetrics'; macro accuracy is its mean over all classes, and many / medium /
few follow Liu et al. 2019 (1904.05160).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from signforge.data.splits import shot_group
from signforge.errors import SignforgeError


@dataclass(frozen=True)
class AccuracyReport:
    """Shares in 0..1.

    many, medium, few: mean recall over the classes with more than 100, 20 to 100, and fewer than
        20 training images; None where there is no such class.
    worst_class: the class of ``worst_class_recall``, the first of them where several are equal.
    """

    top1: float
    macro_accuracy: float
    worst_class_recall: float
    worst_class: int
    many: float | None
    medium: float | None
    few: float | None
    per_class_recall: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, one key a field."""
        return {**asdict(self), "per_class_recall": list(self.per_class_recall)}


def accuracy_report(preds: Tensor, target: Tensor, train_class_counts: Tensor) -> AccuracyReport:
    """How well ``preds`` meet ``target``.

    preds, target: int64 (N,), classes 0..C-1. train_class_counts: int64 (C,), the images of each
    class that the classifier was trained on (real ones), which decide the shot groups.

    Raises SignforgeError where a class is absent from ``target`` or shapes and ranges do not fit.
    """
    recall = per_class_recall(preds, target, len(train_class_counts))
    groups = shot_group(train_class_counts)

    def mean_of(group: str) -> float | None:
        chosen = [
            value for value, name in zip(recall.tolist(), groups, strict=True) if name == group
        ]
        return sum(chosen) / len(chosen) if chosen else None

    worst = int(recall.argmin())
    return AccuracyReport(
        top1=float((preds == target).double().mean()),
        macro_accuracy=float(recall.mean()),
        worst_class_recall=float(recall[worst]),
        worst_class=worst,
        many=mean_of("many"),
        medium=mean_of("medium"),
        few=mean_of("few"),
        per_class_recall=tuple(recall.tolist()),
    )


def per_class_recall(preds: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """float64 (C,): the share of each class in ``target`` that ``preds`` got right.

    preds, target: int64 (N,). Raises SignforgeError for different shapes, values outside 0..C-1,
    and classes absent from ``target``, whose recall nobody knows.
    """
    if preds.shape != target.shape or target.ndim != 1 or len(target) == 0:
        raise SignforgeError(
            "Predictions and labels must be two lists of one length, got "
            f"{tuple(preds.shape)} and {tuple(target.shape)}."
        )
    for name, values in (("Predictions", preds), ("Labels", target)):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_classes:
            raise SignforgeError(
                f"{name} must lie in 0..{num_classes - 1}, got {low if low < 0 else high}."
            )
    counts = torch.bincount(target, minlength=num_classes)
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent:
        raise SignforgeError(
            f"No image of class {', '.join(map(str, absent))} to evaluate on: a mean over classes "
            "would not count it; evaluate on images of every class."
        )
    hits = torch.bincount(target[preds == target], minlength=num_classes)
    return hits.double() / counts
