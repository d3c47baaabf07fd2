"""Cutting images into train, val and test, and train into a long tail, by whole groups.

Frames of one physical sign look alike, so a cut through a group leaks from one side to the other.
The "exp" and "step" profiles follow Cui et al., arXiv:1901.05555, and Buda et al.,
arXiv:1710.05381, with whole groups in place of single images.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from signforge.config import DataConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

MANY_ABOVE = 100
FEW_BELOW = 20

Group = list[int]
"""Indices of the images of one group; of one image where its group is unknown."""


@dataclass(frozen=True)
class PreparedSplits:
    """Splits ready for training: every class is in each of them, and cuts never break a group.

    notes: sentences for the user about what was cut.
    """

    train: LabeledImages
    val: LabeledImages
    test: LabeledImages
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What the images were read from, as the user named it."""
        return self.train.source.removesuffix(" (train)")


def prepare_splits(config: DataConfig, splits: LabeledSplits) -> PreparedSplits:
    """Cuts test from train if the source has none, then val, then train to a long tail.

    Raises SignforgeError if train, val or test would lack a class, naming the classes.
    """
    train, val, test = splits.train, splits.val, splits.test
    notes: list[str] = []
    _require_every_class(train, "train")
    _require_splittable(train, cuts=(val is None) + (test is None))
    if test is None:
        train, test = split_by_group(
            train,
            holdout_fraction=config.test_fraction,
            seed=config.split_seed,
            keep_groups=1 + (val is None),
        )
        notes.append(_cut_note("test", train, test, config.split_seed))
    if val is None:
        train, val = split_by_group(
            train, holdout_fraction=config.val_fraction, seed=config.split_seed
        )
        notes.append(_cut_note("val", train, val, config.split_seed))
    _require_every_class(val, "val")
    _require_every_class(test, "test")
    if config.imbalance_ratio is not None:
        before = len(train)
        train = long_tail(train, imbalance_ratio=config.imbalance_ratio, seed=config.split_seed)
        notes.append(
            f"Cut train from {before:,} to {len(train):,} images, a long tail by whole groups: "
            f"imbalance ratio {imbalance_ratio(train.class_counts):.1f}, "
            f"{config.imbalance_ratio:g} asked for."
        )
    return PreparedSplits(train, val, test, tuple(notes))


def split_by_group(
    images: LabeledImages, *, holdout_fraction: float, seed: int, keep_groups: int = 1
) -> tuple[LabeledImages, LabeledImages]:
    """``(kept, held_out)``: in each class, whole groups whose share is nearest to the fraction.

    Every class keeps at least ``keep_groups`` groups, as far as a class of two or more groups can
    while it has at least one held out. An unknown group counts as one group per image. The same
    groups are chosen in whatever order known groups come.

    Raises SignforgeError if ``holdout_fraction`` is not inside (0, 1) or a group spans classes.
    """
    if not 0 < holdout_fraction < 1:
        raise SignforgeError(
            f"The share of held-out images must be between 0 and 1, got {holdout_fraction}."
        )
    rng = torch.Generator().manual_seed(seed)
    held_out: list[int] = []
    for groups in _groups_of_classes(images):
        total = sum(map(len, groups))
        chosen = _choose_groups(groups, target=holdout_fraction * total, most=total - 1, rng=rng)
        chosen.sort(key=len)  # those to be given back first
        surplus = max(len(chosen) - max(len(groups) - keep_groups, 1), 0)
        held_out += [index for group in chosen[surplus:] for index in group]
    is_held_out = torch.zeros(len(images), dtype=torch.bool)
    is_held_out[torch.tensor(held_out, dtype=torch.int64)] = True
    return (
        images.subset((~is_held_out).nonzero().flatten()),
        images.subset(is_held_out.nonzero().flatten()),
    )


def long_tail(
    images: LabeledImages,
    *,
    imbalance_ratio: float,
    profile: Literal["exp", "step"] = "exp",
    seed: int,
) -> LabeledImages:
    """Whole groups of each class, as near as they come to the target count of its rank.

    With classes ranked by falling count (rank 0 has n_max images, C classes have any):
    "exp" targets n_max * imbalance_ratio ** (-rank / (C - 1)), "step" n_max / imbalance_ratio
    for the rarer half and n_max for the rest. At least one group stays, never more than there is.

    Raises SignforgeError if ``imbalance_ratio`` is below 1 or a group spans classes.
    """
    if not imbalance_ratio >= 1:  # as NaN is neither
        raise SignforgeError(f"The imbalance ratio must be at least 1, got {imbalance_ratio}.")
    rng = torch.Generator().manual_seed(seed)
    counts = images.class_counts
    by_rank = [c for c in counts.argsort(descending=True, stable=True).tolist() if counts[c] > 0]
    rank = {label: place for place, label in enumerate(by_rank)}
    kept: list[int] = []
    for label, groups in enumerate(_groups_of_classes(images)):
        if not groups:
            continue
        if profile == "exp":
            exponent = rank[label] / max(len(by_rank) - 1, 1)
        else:
            exponent = float(rank[label] >= (len(by_rank) + 1) // 2)
        target = int(counts.max()) * imbalance_ratio**-exponent
        chosen = _choose_groups(groups, target=target, most=int(counts[label]), rng=rng)
        kept += [index for group in chosen for index in group]
    return images.subset(torch.tensor(sorted(kept), dtype=torch.int64))


def limit_groups(images: LabeledImages, limits: Mapping[int, int], seed: int) -> LabeledImages:
    """``images`` with only so many groups left of each class in ``limits`` (label to number).

    The groups stay that a shuffle by (seed, label) puts first: a smaller limit keeps a part of
    what a larger one keeps, whatever happens to other classes and in whatever order known groups
    come. An unknown group counts as one group per image.

    Raises SignforgeError for a limit below 1, a class that is not there or has fewer groups, and
    a group that spans classes.
    """
    groups_of_classes = _groups_of_classes(images)
    dropped: list[int] = []
    for label, limit in limits.items():
        if not 0 <= label < images.num_classes:
            raise SignforgeError(f"{images.source}: there is no class {label}.")
        groups = groups_of_classes[label]
        if not 1 <= limit <= len(groups):
            raise SignforgeError(
                f"{images.source}: class {images.class_names[label]} has {len(groups)} groups, so "
                f"1 to {len(groups)} of them can be kept, not {limit}."
            )
        rng = torch.Generator().manual_seed(derive_seed(seed, label))
        order = torch.randperm(len(groups), generator=rng).tolist()
        dropped += [index for place in order[limit:] for index in groups[place]]
    is_kept = torch.ones(len(images), dtype=torch.bool)
    is_kept[torch.tensor(dropped, dtype=torch.int64)] = False
    return images.subset(is_kept.nonzero().flatten())


def imbalance_ratio(class_counts: Tensor) -> float:
    """n_max / n_min of int64 (C,) counts; infinite where a class has no image."""
    smallest, largest = int(class_counts.min()), int(class_counts.max())
    return largest / smallest if smallest else math.inf


def shot_group(class_counts: Tensor) -> list[Literal["many", "medium", "few"]]:
    """For int64 (C,) counts: "many" above 100 images, "few" below 20, else "medium"."""
    return [
        "many" if count > MANY_ABOVE else "few" if count < FEW_BELOW else "medium"
        for count in class_counts.tolist()
    ]


def _groups_of_classes(images: LabeledImages) -> list[list[Group]]:
    """The groups of each class, by rising group number, unknown ones last as single images."""
    known: list[defaultdict[int, Group]] = [defaultdict(list) for _ in images.class_names]
    single: list[list[Group]] = [[] for _ in images.class_names]
    class_of: dict[int, int] = {}
    labels, groups = images.labels.tolist(), images.groups.tolist()
    for index, (label, group) in enumerate(zip(labels, groups, strict=True)):
        if group == UNKNOWN_GROUP:
            single[label].append([index])
        elif class_of.setdefault(group, label) != label:
            raise SignforgeError(
                f"{images.source}: group {group} holds images of two classes, "
                f"{images.class_names[class_of[group]]} and {images.class_names[label]} "
                f"({images.names[index]}); give each class its own group numbers."
            )
        else:
            known[label][group].append(index)
    return [
        [by_group[group] for group in sorted(by_group)] + alone
        for by_group, alone in zip(known, single, strict=True)
    ]


def _choose_groups(
    groups: list[Group], *, target: float, most: int, rng: torch.Generator
) -> list[Group]:
    """A random choice of groups with at least 1 and at most ``most`` images, nearest to target.

    An exact subset sum over the group sizes. Groups of one size are interchangeable, so the
    sums are built from bundles of 1, 2, 4, ... groups of one size; bit s of ``reachable`` says
    that s images can be had.
    """
    by_size: defaultdict[int, list[Group]] = defaultdict(list)
    for place in torch.randperm(len(groups), generator=rng).tolist():
        by_size[len(groups[place])].append(groups[place])
    bundles = []
    for size, alike in by_size.items():
        left, width = len(alike), 1
        while left:
            width = min(width, left)
            bundles.append((size, width))
            left, width = left - width, width * 2
    reachable = [1]
    for size, width in bundles:
        reachable.append(reachable[-1] | reachable[-1] << size * width)
    sums = [s for s in range(1, most + 1) if reachable[-1] >> s & 1]
    if not sums:
        return []
    rest = min(sums, key=lambda s: (abs(s - target), s))
    chosen: list[Group] = []
    for (size, width), before in reversed(list(zip(bundles, reachable, strict=False))):
        if not before >> rest & 1:
            rest -= size * width
            chosen += [by_size[size].pop() for _ in range(width)]
    return chosen


def _require_every_class(images: LabeledImages, split: str) -> None:
    missing = [
        name
        for name, count in zip(images.class_names, images.class_counts.tolist(), strict=True)
        if count == 0
    ]
    if missing:
        raise SignforgeError(
            f"{images.source}: {split} has no image of {_listed(missing)}; "
            f"add images of each class to {split}, or leave the classes out of the data set."
        )


def _require_splittable(train: LabeledImages, cuts: int) -> None:
    if not cuts:
        return
    short = [
        f"{name} ({len(groups)})"
        for name, groups in zip(train.class_names, _groups_of_classes(train), strict=True)
        if len(groups) <= cuts
    ]
    if short:
        raise SignforgeError(
            f"{train.source}: cutting {'val and test' if cuts == 2 else 'a held-out split'} from "
            f"train takes {cuts + 1} groups of every class (physical signs, or images where groups "
            f"are unknown), and there are too few of {_listed(short)}; add more of them, or "
            "bring a split of your own."
        )


def _listed(names: list[str], most: int = 8) -> str:
    quoted = ", ".join(names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more classes"


def _cut_note(split: str, kept: LabeledImages, cut: LabeledImages, seed: int) -> str:
    share = len(cut) / (len(cut) + len(kept))
    if bool((cut.groups == UNKNOWN_GROUP).any()):
        how = "image by image, because the source does not say which images show one sign"
    else:
        how = f"in {len(set(cut.groups.tolist())):,} whole groups"
    return f"Cut {split} from train (split_seed {seed}): {len(cut):,} images, {share:.1%}, {how}."
