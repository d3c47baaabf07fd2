"""What the scripts on balancing share: the data, the generator, and the sets that are compared."""

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from records import command_line, provenance
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.config import DataConfig
from signforge.data.images import LabeledImages
from signforge.data.load import load_splits
from signforge.gan.sampler import ClassConditionalSampler
from signforge.seeds import derive_seed

GENERATOR = Path(__file__).parent / "assets" / "gtsrb-generator"
Transform = Callable[[Any], Any]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="demo", help="as for signforge train-cgan")
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="a run of train-cgan")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for the JSON and the Markdown table")


def load_training_images(source: str) -> LabeledImages:
    """The training split as the source has it: no validation split is cut from it."""
    return load_splits(DataConfig(source=source)).train


def origin(
    script: str, argv: Sequence[str], options: argparse.Namespace, sampler: ClassConditionalSampler
) -> dict[str, Any]:
    """Command, versions, hardware and commit, with the generator's fingerprint."""
    return {
        **provenance(command_line(script, argv)),
        "generator": sampler.fingerprint,
        "batch_size": options.batch_size,
    }


class Transformed(Dataset[tuple[Any, int]]):
    """Real images through ``transform``, with one gather a batch as our data set has it."""

    def __init__(self, images: LabeledImages, transform: Transform | None) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        items = self.images.__getitems__(indices)
        if self.transform is None:
            return items
        return [(self.transform(image), label) for image, label in items]


class NaivelyBalanced(Dataset[tuple[Any, int]]):
    """The same counts as ``balanced``, each synthetic image drawn by itself when it is read."""

    def __init__(
        self,
        images: LabeledImages,
        sampler: ClassConditionalSampler,
        balanced: SyntheticBalancedDataset,
        transform: Transform | None,
    ) -> None:
        self.images = images
        self.sampler = sampler
        self.labels: Tensor = torch.tensor(balanced.targets)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index < len(self.images):
            image, label = self.images[index]
        else:
            labels = self.labels[index : index + 1]
            image, label = self.sampler.sample(labels, derive_seed(0, index))[0], int(labels)
        return (image if self.transform is None else self.transform(image)), label


class FirstIndices(Sampler[int]):
    """The first ``limit`` indices of another sampler's epoch."""

    def __init__(self, sampler: Sampler[int], limit: int) -> None:
        self.sampler = sampler
        self.limit = limit

    def __len__(self) -> int:
        return min(self.limit, len(self.sampler))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), len(self))
