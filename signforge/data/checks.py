"""What is in a data set and what is wrong with it, before anything trains on it.

Duplicates are images whose decoded pixels are byte-equal: across splits they leak the answer
(8 test images of GTSRB are frames of a training track), within one they are counted twice.
"""

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.data.splits import imbalance_ratio, shot_group


@dataclass(frozen=True)
class Duplicate:
    """Images with equal pixels.

    files: split name -> names of the images, both in the order of the source.
    classes: names of their classes, in label order; several where the labels contradict.
    """

    files: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]


def inspect_splits(splits: LabeledSplits, source: str) -> dict[str, Any]:
    """Sizes, counts, imbalance, tracks, duplicates and unreadable files, ready for JSON.

    groups is the number of distinct groups, null where the source tells none; class_counts is in
    class order; imbalance_ratio is of train, null where a class has no image there.
    """
    train = splits.train
    ratio = imbalance_ratio(train.class_counts)
    within, across = [], []
    for duplicate in find_duplicates(splits):
        for split, names in duplicate.files.items():
            if len(names) > 1:
                within.append({"split": split, **_classes(duplicate), "files": list(names)})
        if len(duplicate.files) > 1:
            files = {split: list(names) for split, names in duplicate.files.items()}
            across.append({**_classes(duplicate), "files": files})
    return {
        "source": source,
        "resolution": train.resolution,
        "num_classes": train.num_classes,
        "class_names": list(train.class_names),
        "imbalance_ratio": ratio if math.isfinite(ratio) else None,
        "shot_groups": shot_group(train.class_counts),
        "splits": {name: _describe(split) for name, split in splits.named().items()},
        "duplicates": {"within": within, "across": across},
        "unreadable": list(splits.unreadable),
        "notes": list(splits.notes),
    }


def find_duplicates(splits: LabeledSplits) -> list[Duplicate]:
    """Every set of two or more images with equal pixels, in the order of their first image."""
    places: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    named = splits.named()
    for split, images in named.items():
        for index, pixels in enumerate(images.images.contiguous().numpy()):
            places[hashlib.sha1(pixels.data, usedforsecurity=False).digest()].append((split, index))
    duplicates = []
    for same in places.values():
        if len(same) < 2:
            continue
        files: defaultdict[str, list[str]] = defaultdict(list)
        labels = set()
        for split, index in same:
            files[split].append(named[split].names[index])
            labels.add(int(named[split].labels[index]))
        duplicates.append(
            Duplicate(
                files={split: tuple(names) for split, names in files.items()},
                classes=tuple(splits.train.class_names[label] for label in sorted(labels)),
            )
        )
    return duplicates


def _classes(duplicate: Duplicate) -> dict[str, Any]:
    if len(duplicate.classes) == 1:
        return {"class": duplicate.classes[0]}
    return {"class": None, "classes": list(duplicate.classes)}


def _describe(images: LabeledImages) -> dict[str, Any]:
    groups = set(images.groups.tolist()) - {UNKNOWN_GROUP}
    return {
        "images": len(images),
        "groups": len(groups) or None,
        "class_counts": images.class_counts.tolist(),
        "fingerprint": images.fingerprint,
    }
