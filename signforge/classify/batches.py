"""Batches to train a classifier on: which images a step sees follows from seed and step alone.

A training that was cut short goes on at any batch, without reading those before it.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from signforge.config import ClassifierConfig
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

ORDER, AUGMENT, MODEL, WORKERS, ENDING = range(5)
"""Streams of random numbers of a training that must not share a seed."""

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Images uint8 (N, 3, R, R), labels int64 (N,), and which are synthetic, bool (N,), if told."""


def draw_batches(
    dataset: Dataset[Any],
    sampler: Sampler[int] | None,
    config: ClassifierConfig,
    seed: int,
    device: torch.device,
    first: int = 0,
) -> Generator[Batch]:
    """Batches without end, epoch after epoch, from number ``first`` on: none before it is read."""
    order = torch.Generator()
    if sampler is None:
        if _length(dataset) == 0:
            raise SignforgeError("There is no image to train the classifier on.")
        sampler = RandomSampler(dataset, generator=order)  # type: ignore[arg-type]
    length = _length(sampler)
    if length < 2:
        raise SignforgeError(f"The classifier needs at least 2 images an epoch, got {length}.")
    workers = torch.Generator()
    # Workers live for one epoch: longer-lived ones would keep the copy of the dataset that they
    # started with, and miss its set_epoch.
    remaining = _Remaining(sampler)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=remaining,
        num_workers=config.num_workers,
        collate_fn=_collate,
        drop_last=length >= config.batch_size,
        pin_memory=device.type == "cuda",
        generator=workers,
    )
    epoch, passed = divmod(first, len(loader))
    remaining.passed = passed * config.batch_size
    while True:
        order.manual_seed(derive_seed(seed, ORDER, epoch))
        workers.manual_seed(derive_seed(seed, WORKERS, epoch))
        _set_epoch(dataset, sampler, epoch)
        for batch in loader:
            if isinstance(batch, str):
                raise SignforgeError(batch)
            yield batch
        epoch += 1
        remaining.passed = 0


def _set_epoch(dataset: Dataset[Any], sampler: Sampler[int] | None, epoch: int) -> None:
    for changing in (dataset, sampler):
        set_epoch = getattr(changing, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)


def catch_up(
    dataset: Dataset[Any], sampler: Sampler[int] | None, steps: int, config: ClassifierConfig
) -> None:
    """Brings both to the epoch of the last of so many ``steps``."""
    if steps:
        length = _length(dataset if sampler is None else sampler)
        _set_epoch(dataset, sampler, (steps - 1) // max(1, length // config.batch_size))


class _Remaining(Sampler[int]):
    """The indices of an epoch, but for the first ``passed``."""

    def __init__(self, whole: Sampler[int]) -> None:
        self.whole = whole
        self.passed = 0

    def __iter__(self) -> Iterator[int]:
        return islice(self.whole, self.passed, None)

    def __len__(self) -> int:
        return _length(self.whole)


def seeded(
    batches: Iterator[Batch], steps: Iterable[int], seed: int, device: torch.device
) -> Iterator[Batch]:
    """One batch a step; what its items and dropout draw from is seeded by the step's number."""
    for step in steps:
        _seed_global(derive_seed(seed, step), device)
        yield next(batches)


def _collate(items: Sequence[tuple[Any, ...]]) -> Batch | str:
    """One batch, or what is wrong with it.

    A sentence and not an exception: torch wraps what a worker raises in the worker's traceback.
    """
    images = [item[0] for item in items]
    for image in images:
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            return (
                f"Images to train on must be uint8 tensors (3, R, R), got {describe_image(image)}."
            )
        if image.shape != images[0].shape:
            return (
                "Images to train on must all have one size, got "
                f"{describe_image(images[0])} and {describe_image(image)}."
            )
    labels = torch.tensor([int(item[1]) for item in items])
    marks = [item[2] for item in items if len(item) > 2]
    for mark in marks:
        if not isinstance(mark, bool):
            return (
                "The third member of an item tells whether it is synthetic, a bool, got "
                f"{describe_image(mark)}; leave it out, or use third_element='is_synthetic'."
            )
    if marks and len(marks) != len(items):
        return (
            f"{len(marks)} of the {len(items)} items of a batch tell whether they are synthetic: "
            "give all items to train on a third member, or none."
        )
    synthetic = torch.tensor(marks) if marks else None
    return torch.stack(images), labels, synthetic


def describe_image(image: object) -> str:
    """Type and shape of a tensor, the type of anything else: for messages."""
    if isinstance(image, Tensor):
        return f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    return type(image).__name__


def _length(sized: object) -> int:
    if not isinstance(sized, Sized):
        raise SignforgeError(f"{type(sized).__name__} has no length; training needs one.")
    return len(sized)


def _seed_global(seed: int, device: torch.device) -> None:
    """Seeds torch's global generators, which the caller has forked."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
