"""Losses for imbalanced classes: what each sample counts, or how its logits are shifted.

Cui et al. 2019 (1901.05555), Lin et al. 2017 (1708.02002), Menon et al. 2021 (2007.07314) and
Cao et al. 2019 (1906.07413). ``class_counts`` are always those of the batches that the loss will
see, which are not those of the real images where the data are balanced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from signforge.device import to_device
from signforge.errors import SignforgeError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits float32 (N, C), labels int64 (N,)) -> scalar."""

CLASS_BALANCED_BETA = 0.999
"""Cui et al. use 0.9 to 0.9999; 1 - 1/1000 lets a class grow richer up to about 1,000 images."""
FOCAL_GAMMA = 2.0
"""The value that Lin et al. found best."""
LDAM_MAX_MARGIN = 0.5
LDAM_SCALE = 30.0
LDAM_BETA = 0.9999
DEFERRED_SHARE = 0.8
"""These four as in the authors' code, whose 200 epochs are re-weighted from epoch 160 on."""


@dataclass(frozen=True)
class Deferred:
    """A loss that changes once: ``early`` for the first ``share`` of the steps, then ``late``."""

    early: Loss
    late: Loss
    share: float = DEFERRED_SHARE


def loss_at(loss: Loss | Deferred, step: int, steps: int) -> Loss:
    """What counts at the 0-based ``step`` of ``steps``."""
    if not isinstance(loss, Deferred):
        return loss
    return loss.early if step < round(loss.share * steps) else loss.late


@dataclass(frozen=True, eq=False)
class ClassWeighted:
    """Mean over the batch of w_y * cross-entropy. weights: float32 (C,)."""

    weights: Tensor

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (to_device(self.weights, logits.device)[labels] * losses).mean()


@dataclass(frozen=True, eq=False)
class LogitAdjusted:
    """Cross-entropy of logits + offsets. offsets: float32 (C,)."""

    offsets: Tensor

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + to_device(self.offsets, logits.device), labels)


@dataclass(frozen=True)
class Focal:
    """Mean of (1 - p_y)^gamma * cross-entropy (Lin et al., eq. 4, with softmax probabilities)."""

    gamma: float = FOCAL_GAMMA

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        # Where p rounds to 1 the slope of 0^gamma is infinite for gamma < 1, its gradient then NaN.
        missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        return (missing.pow(self.gamma) * -log_p).mean()


@dataclass(frozen=True, eq=False)
class LabelMargins:
    """Cross-entropy of logits whose own class is lowered by its margin (Cao et al., eq. 13).

    margins: float32 (C,), in units of the logits. weights: float32 (C,) or None; with weights the
    mean is a weighted one, as in the authors' code.
    """

    margins: Tensor
    weights: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        lowered = logits - own * to_device(self.margins, logits.device)
        weights = None if self.weights is None else to_device(self.weights, logits.device)
        return F.cross_entropy(lowered, labels, weight=weights)


def class_balanced(class_counts: Sequence[int], beta: float = CLASS_BALANCED_BETA) -> ClassWeighted:
    """Cross-entropy weighted by the inverse effective number of images (Cui et al., eq. 12)."""
    return ClassWeighted(effective_number_weights(class_counts, beta))


def logit_adjusted(class_counts: Sequence[int], tau: float = 1.0) -> LogitAdjusted:
    """Cross-entropy of logits + tau * log prior (Menon et al., eq. 10).

    The prior is the share of each class in ``class_counts``: where all are equal it shifts all
    logits alike, which is plain cross-entropy. Predictions are the argmax of the bare logits.
    """
    counts = _checked(class_counts)
    return LogitAdjusted((tau * (counts / counts.sum()).log()).float())


def focal(class_counts: Sequence[int]) -> Focal:
    """The focal loss, which looks at no counts."""
    del class_counts
    return Focal()


def ldam_drw(class_counts: Sequence[int]) -> Deferred:
    """LDAM with deferred re-weighting, for logits that are LDAM_SCALE times a cosine.

    Margins are C / n^(1/4) (Cao et al., eq. 13) with C such that the rarest class gets
    LDAM_MAX_MARGIN, as a cosine; weights by effective numbers join after DEFERRED_SHARE.
    """
    relative = _checked(class_counts) ** -0.25
    margins = (LDAM_SCALE * LDAM_MAX_MARGIN * relative / relative.max()).float()
    weights = effective_number_weights(class_counts, LDAM_BETA)
    return Deferred(early=LabelMargins(margins), late=LabelMargins(margins, weights))


def effective_number_weights(class_counts: Sequence[int], beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n), scaled to a sum of C: float32 (C,) (Cui et al., section 4).

    beta 0 gives 1 everywhere, beta towards 1 the inverse class counts.
    Raises SignforgeError for a class without images, which would weigh infinitely.
    """
    weights = (1 - beta) / (1 - beta ** _checked(class_counts))
    return (weights * len(weights) / weights.sum()).float()


def _checked(class_counts: Sequence[int]) -> Tensor:
    """float64 (C,), all above zero."""
    counts = torch.tensor(class_counts, dtype=torch.float64)
    empty = (counts <= 0).nonzero().flatten().tolist()
    if empty:
        raise SignforgeError(
            f"Class {empty[0]} has no image to train on, so a loss that weighs classes by their "
            "counts is not defined; leave the class out by data.classes, or use another arm."
        )
    return counts
