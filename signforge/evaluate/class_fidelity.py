"""Frechet distance and KID within each class: a good whole can hide classes that fail.

Both as in ``fidelity``, exact also for fewer images of a class than features (the low-rank form).
"""

from collections.abc import Callable

from torch import Tensor

from signforge.evaluate.fidelity import frechet_distance, kid

FEWEST_IMAGES = 2
"""Of a class on each side; fewer have no covariance and no pair."""


def class_frechet_distances(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, num_classes: int
) -> tuple[float | None, ...]:
    """Frechet distance of each class: float (N, D) ``real`` against (M, D) ``fake``.

    real_labels, fake_labels: int64 (N,), (M,). None where a side has fewer than two images.
    The bias of a distance falls with n: put the floor of as many real images beside it.
    """
    return _of_each_class(frechet_distance, (real, real_labels), (fake, fake_labels), num_classes)


def class_kids(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, num_classes: int
) -> tuple[float | None, ...]:
    """Unbiased KID of each class; arguments and None as in ``class_frechet_distances``."""
    return _of_each_class(kid, (real, real_labels), (fake, fake_labels), num_classes)


def _of_each_class(
    distance: Callable[[Tensor, Tensor], float],
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor, Tensor],
    num_classes: int,
) -> tuple[float | None, ...]:
    values: list[float | None] = []
    for label in range(num_classes):
        sides = [features[labels == label] for features, labels in (real, fake)]
        enough = min(map(len, sides)) >= FEWEST_IMAGES
        values.append(distance(*sides) if enough else None)
    return tuple(values)
