"""Does a sampler replay its training images: nearest neighbours against a real-to-real control.

The control is the idea of Meehan et al. 2020 (2004.05675): unseen real images lie at some
distance from the training images too, and samples should not lie closer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.coverage import nearest_distances


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each image the nearest training image of its own class.

    distances: float64 (N,), Euclidean. indices: int64 (N,), rows of the training set, for panels.
    """

    distances: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class MemorizationReport:
    """Samples closer to a training image than nearly all unseen real images are.

    No metric detects memorisation reliably. A share far above ``quantile`` says that samples hug
    training images, which plain, average looking samples do too; a share near it does not prove
    that nothing was copied, for a copy that is shifted or recoloured may lie far away. Look at
    ``neighbours`` side by side with the samples before saying anything.

    quantile: of the control's distances in a class, below which a sample counts as too close; a
        perfect sampler's shares are about this, less surely so where the control shows few signs.
    per_class_share, macro_share: 0..1; worst_class has the largest, the first of them.
    median_ratio: mean over classes of median sample distance / median control distance; 1 for a
        perfect sampler, 0 for a copycat. None where a control median is 0.
    """

    quantile: float
    macro_share: float
    per_class_share: tuple[float, ...]
    worst_class: int
    worst_class_share: float
    median_ratio: float | None
    neighbours: Neighbours

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: one key a field but ``neighbours``."""
        values = {name: value for name, value in vars(self).items() if name != "neighbours"}
        return {**values, "per_class_share": list(self.per_class_share)}


def memorization_report(
    samples: Tensor,
    sample_labels: Tensor,
    train: Tensor,
    train_labels: Tensor,
    control: Tensor,
    control_labels: Tensor,
    *,
    quantile: float = 0.05,
    as_rows: Callable[[Tensor], Tensor] = lambda values: values,
) -> MemorizationReport:
    """Samples against the training images, beside unseen real images against the same.

    samples, train, control: float (N, D), (M, D), (K, D), all by one extractor or all by
        ``pixels``; their labels int64. control: real images of other physical signs than train
        shows, such as a validation split cut by group.
    as_rows: turns what is given into such rows, a class at a time; with ``pixels`` the images
        themselves may be given, uint8 (N, 3, R, R), and are never all held as floats.

    Raises SignforgeError for a quantile outside (0, 1) and a class that one of the sets lacks.
    """
    if not 0 < quantile < 1:
        raise SignforgeError(f"The control's quantile must lie between 0 and 1, got {quantile}.")
    found = nearest_in_class(samples, sample_labels, train, train_labels, as_rows)
    unseen = nearest_in_class(control, control_labels, train, train_labels, as_rows).distances
    num_classes = 1 + max(int(labels.max()) for labels in (sample_labels, control_labels))
    shares, ratios = [], []
    for label in range(num_classes):
        ours, theirs = found.distances[sample_labels == label], unseen[control_labels == label]
        if min(len(ours), len(theirs)) == 0:
            raise SignforgeError(
                f"Class {label} has {len(ours)} samples and {len(theirs)} control images; the "
                "memorisation test needs both of every class."
            )
        shares.append(float((ours < theirs.quantile(quantile)).double().mean()))
        ratios.append(float(ours.median() / theirs.median()))
    values = torch.tensor(shares, dtype=torch.float64)
    ratio = torch.tensor(ratios, dtype=torch.float64).mean()
    worst = int(values.argmax())
    return MemorizationReport(
        quantile=quantile,
        macro_share=float(values.mean()),
        per_class_share=tuple(shares),
        worst_class=worst,
        worst_class_share=shares[worst],
        median_ratio=float(ratio) if bool(ratio.isfinite()) else None,
        neighbours=found,
    )


def nearest_in_class(
    queries: Tensor,
    labels: Tensor,
    train: Tensor,
    train_labels: Tensor,
    as_rows: Callable[[Tensor], Tensor] = lambda values: values,
) -> Neighbours:
    """For float (N, D) queries the nearest of (M, D) training rows among those of their class.

    as_rows: see ``memorization_report``.

    Raises SignforgeError for a class that has queries and no training row.
    """
    distances = torch.empty(len(queries), dtype=torch.float64)
    indices = torch.empty(len(queries), dtype=torch.int64)
    for label in sorted(set(labels.tolist())):
        asked = (labels == label).nonzero().flatten()
        members = (train_labels == label).nonzero().flatten()
        if len(members) == 0:
            raise SignforgeError(f"There is no training image of class {label} to compare with.")
        ours, theirs = as_rows(queries[asked]), as_rows(train[members])
        _, places = nearest_distances(ours, theirs)
        # Anew, by differences: those by products leave a copy at 1e-8, which is far from zero.
        distances[asked] = (ours.double() - theirs[places].double()).norm(dim=1)
        indices[asked] = members[places]
    return Neighbours(distances, indices)


def pixels(images: Tensor | LabeledImages) -> Tensor:
    """float32 (N, 3 * R * R) in 0..1 of uint8 (N, 3, R, R): images compared as they are."""
    values = images.images if isinstance(images, LabeledImages) else images
    return values.flatten(start_dim=1).float() / 255
