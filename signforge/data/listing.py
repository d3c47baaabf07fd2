"""Listing: which image files a source holds, with label, group and region of each.

The readers of official, Kaggle and class-folder layouts only list; decoding is done here, once
for all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from signforge.data.archive import FileTree
from signforge.data.decode import Roi, decode_image, fit_image
from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress


@dataclass(frozen=True)
class ImageEntry:
    """One image file: ``path`` in its FileTree, ``name`` as users and reports see it."""

    path: str
    name: str
    label: int
    group: int
    roi: Roi | None = None


@dataclass(frozen=True)
class Listing:
    """The image files of a source, split as the source splits them; empty = no such split."""

    class_names: tuple[str, ...]
    train: tuple[ImageEntry, ...]
    val: tuple[ImageEntry, ...] = ()
    test: tuple[ImageEntry, ...] = ()
    notes: tuple[str, ...] = ()


def decode_listing(
    tree: FileTree,
    listing: Listing,
    *,
    resolution: int,
    crop: Literal["full", "roi"],
    track: Track = no_progress,
) -> LabeledSplits:
    """Decodes all files of ``listing`` to (resolution, resolution).

    Files that cannot be decoded end up in ``unreadable``. Raises SignforgeError where
    ``crop="roi"`` and an image has no region, and where no training image can be decoded.
    """
    unreadable: list[str] = []
    splits: dict[str, LabeledImages] = {}
    for split in ("train", "val", "test"):
        entries: tuple[ImageEntry, ...] = getattr(listing, split)
        if crop == "roi":
            _require_regions(tree, entries)
        if not entries:
            continue
        images = np.empty((len(entries), 3, resolution, resolution), dtype=np.uint8)
        readable: list[ImageEntry] = []
        for entry in _tracked(entries, f"Decoding {split} images", track):
            try:
                image = decode_image(tree.read(entry.path), entry.name)
            except SignforgeError as error:
                unreadable.append(str(error))
                continue
            roi = entry.roi if crop == "roi" else None
            images[len(readable)] = fit_image(image, roi, resolution)
            readable.append(entry)
        if readable:
            splits[split] = LabeledImages(
                images=torch.from_numpy(images)[: len(readable)],
                labels=torch.tensor([entry.label for entry in readable], dtype=torch.int64),
                groups=torch.tensor([entry.group for entry in readable], dtype=torch.int64),
                class_names=listing.class_names,
                names=tuple(entry.name for entry in readable),
                source=f"{tree.source} ({split})",
            )
    if "train" not in splits:
        first = unreadable[0] if unreadable else "it lists none."
        raise SignforgeError(f"{tree.source} has no readable training image: {first}")
    return LabeledSplits(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        notes=listing.notes,
        unreadable=tuple(unreadable),
    )


def number_groups(keys: list[tuple[int, int] | None], unknown: int) -> list[int]:
    """Running numbers for (class, track) keys in sorted order; ``unknown`` for None."""
    known = sorted({key for key in keys if key is not None})
    numbers = {key: number for number, key in enumerate(known)}
    return [unknown if key is None else numbers[key] for key in keys]


def _require_regions(tree: FileTree, entries: tuple[ImageEntry, ...]) -> None:
    missing = next((entry for entry in entries if entry.roi is None), None)
    if missing is not None:
        raise SignforgeError(
            f"{tree.source}: {missing.name} has no region of interest to crop to; "
            "use crop full, or add the CSV that gives it."
        )


def _tracked(
    entries: tuple[ImageEntry, ...], description: str, track: Track
) -> Iterator[ImageEntry]:
    return track(entries, description, len(entries))
