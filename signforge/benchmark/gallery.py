"""Pictures of the classes that gained and lost most: real, synthetic, nearest training image.

They are kept as small PNG files in the run directory, so that a report can be made again without
data or generator. The neighbours are there for the reader to see whether samples are copies.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from signforge.benchmark.folder import read_json, write_json
from signforge.benchmark.summary import Summary
from signforge.data.charts import GAP, image_grid
from signforge.data.encode import encode_png
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.memorization import nearest_in_class, pixels
from signforge.files import write_atomically
from signforge.gan.sampler import ClassConditionalSampler

FOLDER = "gallery"
COLUMNS = 8
CLASSES_EACH_WAY = 4
GALLERY_SEED = 0
KINDS = ("real", "synthetic", "nearest")
_INDEX = "gallery.json"
_STRIP = re.compile(rf"\d{{5,}}-(?:{'|'.join(KINDS)})\.png")


@dataclass(frozen=True)
class ClassPictures:
    """PNG files of one class, one row of ``COLUMNS`` images each.

    nearest: under each synthetic image the training image of its class that is closest to it.
    """

    real: bytes
    synthetic: bytes
    nearest: bytes


def most_changed(summary: Summary) -> tuple[list[int], list[int]]:
    """Classes that the best arm with a generator helped and hurt most, the extremes first.

    At most ``CLASSES_EACH_WAY`` of each; by mean gain in recall over ``real``, without regard to
    how sure it is.
    """
    arm = next((arm for arm in summary.arms if arm.arm == summary.best_generative), None)
    gains = [gain.mean for gain in arm.class_gains] if arm else []
    order = sorted(range(len(gains)), key=lambda label: gains[label])
    lost = [label for label in order if gains[label] < 0]
    gained = [label for label in reversed(order) if gains[label] > 0]
    return gained[:CLASSES_EACH_WAY], lost[:CLASSES_EACH_WAY]


def save_gallery(
    run_dir: Path,
    sampler: ClassConditionalSampler,
    train: LabeledImages,
    classes: Sequence[int],
) -> None:
    """Pictures of ``classes``; those of other classes, from before, are removed.

    Synthetic images are as the generator draws them: no gate has chosen among them.
    """
    folder = run_dir / FOLDER
    written = []
    for label in classes:
        strips = zip(KINDS, _strips(sampler, train, label), strict=True)
        for kind, images in strips:
            name = f"{label:05d}-{kind}.png"
            write_atomically(folder / name, encode_png(image_grid([images])[:, :-GAP, :-GAP]))
            written.append(name)
    # The index comes last: it vouches for all that lies beside it.
    write_json(
        folder / _INDEX,
        {"generator": sampler.fingerprint, "train": train.fingerprint, "classes": list(classes)},
    )
    for path in folder.iterdir():
        if _STRIP.fullmatch(path.name) and path.name not in written:
            path.unlink()


def read_gallery(run_dir: Path, generator_fingerprint: str) -> dict[int, ClassPictures]:
    """By class, what ``save_gallery`` kept of this generator; empty if nothing or of another."""
    folder = run_dir / FOLDER
    if not (folder / _INDEX).exists():
        return {}
    index = read_json(folder / _INDEX)
    if index["generator"] != generator_fingerprint:
        return {}
    return {
        int(label): ClassPictures(*(_read(folder, int(label), kind) for kind in KINDS))
        for label in index["classes"]
    }


def _read(folder: Path, label: int, kind: str) -> bytes:
    path = folder / f"{label:05d}-{kind}.png"
    try:
        return path.read_bytes()
    except OSError as error:
        raise SignforgeError(
            f"Cannot read {path}: {error.strerror}; remove {folder} to have a report without it."
        ) from None


def _strips(
    sampler: ClassConditionalSampler, train: LabeledImages, label: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Up to ``COLUMNS`` images of each kind, uint8 (n, 3, R, R), in the order of ``KINDS``."""
    members = train.images[train.labels == label]
    spread = torch.linspace(0, len(members) - 1, min(COLUMNS, len(members))).long()
    labels = torch.full((COLUMNS,), label)
    synthetic = sampler.sample(labels, GALLERY_SEED).cpu()
    own = torch.full((len(members),), label)
    nearest = nearest_in_class(pixels(synthetic), labels, pixels(members), own)
    return members[spread], synthetic, members[nearest.indices]
