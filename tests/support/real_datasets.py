"""Real data sets of other packages, written to disk as their authors lay them out."""

import hashlib
import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset
from torchvision.datasets import CIFAR10, GTSRB, ImageFolder

from signforge.data.images import UNKNOWN_GROUP, LabeledImages

SIDE = 16
"""Height and width in pixels, where a data set does not have its own."""


@dataclass(frozen=True)
class Case:
    """A data set, its labels as they were written, and the names of its classes."""

    real: Dataset
    labels: list[int]
    class_names: tuple[str, ...]

    @property
    def counts(self) -> list[int]:
        return [self.labels.count(label) for label in range(len(self.class_names))]

    @property
    def balanced_labels(self) -> list[int]:
        """The real labels, then those of the synthetic images, sorted."""
        most = max(self.counts)
        fills = [[label] * (most - count) for label, count in enumerate(self.counts)]
        return [*self.labels, *itertools.chain.from_iterable(fills)]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image_folder(root: Path) -> Case:
    """folder/class/name.png"""
    counts = {"ahead": 5, "stop": 3, "yield": 1}
    for label, (name, count) in enumerate(counts.items()):
        (root / "folder" / name).mkdir(parents=True)
        for i in range(count):
            pixels = Image.fromarray(noise(10 * label + i, SIDE, SIDE, 3))
            pixels.save(root / "folder" / name / f"{i}.png")
    return Case(ImageFolder(root / "folder"), [0] * 5 + [1] * 3 + [2], tuple(counts))


def gtsrb(root: Path) -> Case:
    """Images of several sizes, as GTSRB-Training_fixed.zip unpacks: PPM files beside a CSV."""
    counts = (2, 6, 1)
    for label, count in enumerate(counts):
        folder = root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for i in range(count):
            height, width = 20 + i, 24 - i
            Image.fromarray(noise(10 * label + i, height, width, 3)).save(
                folder / f"{i // 30:05d}_{i % 30:05d}.ppm"
            )
            name = f"{i // 30:05d}_{i % 30:05d}.ppm"
            lines.append(f"{name};{width};{height};2;2;{width - 3};{height - 3};{label}")
        (folder / f"GT-{label:05d}.csv").write_text("\n".join(lines))
    return Case(GTSRB(root, split="train"), [0] * 2 + [1] * 6 + [2], ("20", "30", "50"))


def cifar10(root: Path) -> Case:
    """The six pickled batches and batches.meta, small; the class is told their own MD5 sums."""
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship")
    names = (*names, "truck")
    labels = [*range(10), *range(10), 3, 3, 3, 3, 3]
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for part, name in enumerate((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")):
        own = labels[part * 5 : part * 5 + 5] or [0]
        batch = {
            "batch_label": f"batch {part + 1}",
            "labels": own,
            "data": noise(part, len(own), 3072),
            "filenames": [f"{part}_{i}.png" for i in range(len(own))],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"num_cases_per_batch": 5, "label_names": names, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))

    def with_md5(name: str) -> list[str]:
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    with pytest.MonkeyPatch.context() as patch:
        for attribute in ("train_list", "test_list"):
            listed = [with_md5(name) for name, _ in getattr(CIFAR10, attribute)]
            patch.setattr(CIFAR10, attribute, listed)
        patch.setitem(CIFAR10.meta, "md5", with_md5("batches.meta")[1])
        real = CIFAR10(root, train=True)
    return Case(real, labels, tuple(names))


def subset_of_gtsrb(root: Path) -> Case:
    whole = gtsrb(root)
    rows = [8, 0, 3, 4, 5]
    return Case(Subset(whole.real, rows), [2, 0, 1, 1, 1], whole.class_names)


def subset_of_cifar10(root: Path) -> Case:
    whole = cifar10(root)
    rows = list(range(24, 4, -1))
    labels = [whole.labels[row] for row in rows]
    return Case(Subset(whole.real, rows), labels, whole.class_names)


def concat_of_image_folders(root: Path) -> Case:
    (root / "more").mkdir()
    one, two = image_folder(root), image_folder(root / "more")
    parts = ConcatDataset([one.real, Subset(two.real, [8, 0, 5])])
    return Case(parts, [*one.labels, 2, 0, 1], one.class_names)


def concat_of_gtsrb_and_cifar10(root: Path) -> Case:
    """Sizes and class names differ, the form (PIL) does not."""
    one, two = gtsrb(root), cifar10(root)
    return Case(ConcatDataset([one.real, two.real]), one.labels + two.labels, two.class_names)


def stack_of_columns(root: Path) -> Case:
    """A column of images beside a column of labels."""
    whole = image_folder(root)
    images = [image for image, _ in whole.real]
    return Case(StackDataset(images, whole.labels), whole.labels, whole.class_names)


def hugging_face(root: Path) -> Case:
    """A Hugging Face data set that was saved and loaded, through the adapter of the docs."""
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    whole = image_folder(root)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(whole.class_names))
    )
    columns = {"image": [path for path, _ in whole.real.samples], "label": whole.labels}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(root / "hf")
    rows = datasets.load_from_disk(root / "hf")
    real = StackDataset(rows["image"], rows["label"])
    return Case(real, whole.labels, tuple(rows.features["label"].names))


def labeled_images(_: Path) -> Case:
    labels = [0, 1, 1, 2, 1, 0, 1]
    names = ("stop", "yield", "ahead")
    real = LabeledImages(
        images=torch.from_numpy(noise(0, 7, 3, SIDE, SIDE)),
        labels=torch.tensor(labels),
        groups=torch.full((7,), UNKNOWN_GROUP),
        class_names=names,
        names=tuple("abcdefg"),
        source="test",
    )
    return Case(real, labels, names)


def tensor_dataset(root: Path) -> Case:
    """Floats in [0, 1] with labels that are tensors."""
    whole = labeled_images(root)
    images = whole.real.images.float() / 255
    return Case(TensorDataset(images, whole.real.labels), whole.labels, whole.class_names)
