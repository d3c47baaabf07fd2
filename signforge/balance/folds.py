"""Folds for cross-fitting that never break a group: frames of one physical sign look alike."""

from collections import defaultdict

import torch
from torch import Tensor

from signforge.balance.rows import rows_by_class
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

NO_FOLD = -1
"""The only image of a class: every model must train on it, so none can judge it."""


def group_folds(images: LabeledImages, folds: int, *, seed: int) -> Tensor:
    """The fold of each image, 0..folds - 1 or ``NO_FOLD``: int64 (N,).

    In each class, groups go to the folds in random order, larger ones first, always to the fold
    with the fewest images of the class (of all classes, where these are equal). An image of
    unknown group is a group of its own. Every class is in two folds at least, so that without
    any one fold there are images of it left; to that end the images of a class with a single
    group are cut into ``folds`` runs (see ``single_group_classes``).

    Raises SignforgeError for fewer than two folds.
    """
    if folds < 2:
        raise SignforgeError(f"Cross-fitting takes at least 2 folds, got {folds}.")
    fold_of = torch.full((len(images),), NO_FOLD)
    totals = [0] * folds
    of_class = rows_by_class(images.labels, images.num_classes)
    for label in range(images.num_classes):
        rows = of_class[label]
        parts = _groups(images.groups[rows])
        if len(parts) == 1:
            parts = list(torch.arange(len(rows)).tensor_split(min(folds, len(rows))))
        if len(parts) < 2:
            continue
        rng = torch.Generator().manual_seed(derive_seed(seed, label))
        order = torch.randperm(len(parts), generator=rng).tolist()
        counts = [0] * folds
        for part in sorted((parts[place] for place in order), key=len, reverse=True):
            fold = min(range(folds), key=lambda f: (counts[f], totals[f]))
            fold_of[rows[part]] = fold
            counts[fold] += len(part)
            totals[fold] += len(part)
    return fold_of


def single_group_classes(images: LabeledImages) -> tuple[int, ...]:
    """Classes whose images all show one physical sign, so that no fold can be without it."""
    of_class = rows_by_class(images.labels, images.num_classes)
    return tuple(
        label
        for label in range(images.num_classes)
        if len(_groups(images.groups[of_class[label]])) == 1
    )


def _groups(groups: Tensor) -> list[Tensor]:
    """int64 (n,) group numbers -> the places of each group, int64 (k,) each."""
    alone = -1 - torch.arange(len(groups))
    numbers = torch.where(groups == UNKNOWN_GROUP, alone, groups)
    of_number: defaultdict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(numbers.tolist()):
        of_number[number].append(place)
    return [torch.tensor(of_number[number]) for number in sorted(of_number)]
