"""SyntheticBalancedDataset: a torch Dataset whose rare classes are filled up with samples.

Real items come first and untouched; synthetic items follow in the same form, from a pool that
``set_epoch`` refreshes.
"""

import operator
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.formats import ItemForm, detect_form, same_image
from signforge.balance.gate import Gate
from signforge.balance.labels import find_labels, known_class_names, spot_indices
from signforge.balance.pool import SyntheticPool
from signforge.balance.strategy import (
    SamplingStrategy,
    describe_class,
    resolve_sampling_strategy,
)
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, load_sampler
from signforge.progress import Track, no_progress


class SyntheticBalancedDataset(Dataset[tuple[Any, Any]]):
    """``real`` with its rare classes filled up by synthetic images.

    Item i < len(real) is ``real[i]``, bit for bit (through ``transform``, if there is one). The
    items after it are synthetic, sorted by class, and look like real ones: PIL RGB, uint8 tensor
    (3, H, W), float tensor in [0, 1] or uint8 numpy (H, W, 3), in the size of the real images
    (the generator's size where real sizes differ among each other), with labels of the same type.

    real: any map-style Dataset of (image, label).
    generator: a run directory, or anything that implements ClassConditionalSampler.
    sampling_strategy, max_synthetic_fraction: see ``resolve_sampling_strategy``.
    labels: the labels of ``real``; see ``find_labels`` for how they are found otherwise.
    class_names: names of the classes in label order; by default those ``real`` has, else the
        generator's. They must be the generator's, if it has any.
    gate: (images uint8 (N, 3, H, W), labels int64 (N,)) -> bool mask of the images to keep. After
        ``gate_attempts`` rejected draws, a randomly chosen real item of the class stands in.
    transform: applied to every image, real and synthetic alike; may be set later.
    refresh: share of the synthetic images that each epoch replaces, in 0..1.
    seed: item i of epoch e depends on (seed, e, i) alone, whatever the number of workers.
    track: shows progress of the first filling.

    Call ``set_epoch`` before each epoch, in the process that made the data set; workers,
    persistent ones too, see the new images through shared memory.

    Raises SignforgeError if labels, classes, forms or options do not fit together.
    """

    def __init__(
        self,
        real: Dataset[Any],
        generator: str | os.PathLike[str] | ClassConditionalSampler,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        labels: Sequence[int] | Tensor | np.ndarray[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
        max_synthetic_fraction: float = 1.0,
        gate: Gate | None = None,
        gate_attempts: int = 4,
        transform: Callable[[Any], Any] | None = None,
        refresh: float = 0.25,
        seed: int = 0,
        track: Track = no_progress,
    ) -> None:
        sampler = _as_sampler(generator)
        real_labels = find_labels(real, labels, track=track)
        if not len(real_labels):
            raise SignforgeError("The real data set is empty.")
        self.real = real
        self.class_names = _matching_class_names(real, real_labels, class_names, sampler)
        self.real_counts = torch.bincount(real_labels, minlength=self.num_classes)
        self.class_counts = resolve_sampling_strategy(
            sampling_strategy,
            self.real_counts,
            class_names=self.class_names,
            max_synthetic_fraction=max_synthetic_fraction,
        )
        self._num_real = len(real_labels)
        self._form = _form_of_items(real)
        synthetic_labels = _labels_of_counts(self.synthetic_counts)
        self._labels = torch.cat([real_labels, synthetic_labels])
        self._num_items = len(self._labels)
        self.transform = transform
        self._warned: set[int] = set()
        self._pool = SyntheticPool(
            sampler,
            synthetic_labels,
            real_labels=real_labels,
            size=self._form.size or (sampler.resolution, sampler.resolution),
            refresh=refresh,
            seed=seed,
            gate=gate,
            gate_attempts=gate_attempts,
            track=track,
        )
        self._warn_of_rejections()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def synthetic_counts(self) -> Tensor:
        """Synthetic items of each class, those that real ones stand in for included: int64 (C,)."""
        return self.class_counts - self.real_counts

    @property
    def rejected_counts(self) -> Tensor:
        """Synthetic items whose place a real one takes at this epoch (gate): int64 (C,)."""
        rejected = self._pool.labels[self._pool.substitutes >= 0]
        return torch.bincount(rejected, minlength=self.num_classes)

    @property
    def targets(self) -> list[int]:
        """The label of every item, real and synthetic."""
        labels: list[int] = self._labels.tolist()
        return labels

    @property
    def epoch(self) -> int:
        return self._pool.epoch

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        """Brings in the synthetic images of ``epoch`` (>= 0); any order of epochs will do."""
        self._pool.set_epoch(epoch, track=track)
        self._warn_of_rejections()

    def is_synthetic(self, index: int) -> bool:
        """Whether item ``index`` shows a generated image; False where a real one stands in."""
        position = self._position(index)
        return position >= self._num_real and self._real_index(position) < 0

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        position = self._position(index)
        real_index = self._real_index(position)
        if real_index >= 0:
            return self._transformed(self.real[real_index])
        slot = position - self._num_real
        image = self._pool.images[slot].clone()
        return self._transformed(self._form.render(image, int(self._pool.labels[slot])))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """The items at ``indices``: one gather of synthetic images, one batched read of real ones.

        Equal to ``[self[i] for i in indices]``.
        """
        rows = torch.tensor([self._position(index) for index in indices], dtype=torch.int64)
        real_indices = self._real_indices(rows)
        slots = rows[real_indices < 0] - self._num_real
        images = iter(self._pool.images[slots])
        labels = iter(self._pool.labels[slots].tolist())
        shown = real_indices.tolist()
        real_items = iter(self._real_items([index for index in shown if index >= 0]))
        items = [
            next(real_items) if index >= 0 else self._form.render(next(images), next(labels))
            for index in shown
        ]
        return items if self.transform is None else [self._transformed(item) for item in items]

    def _position(self, index: int) -> int:
        position, n = operator.index(index), self._num_items
        if not -n <= position < n:
            raise IndexError(f"index {position} is out of range for {n} items")
        return position % n

    def _real_index(self, position: int) -> int:
        """The real item shown at ``position``, -1 for a synthetic image."""
        slot = position - self._num_real
        return position if slot < 0 else int(self._pool.substitutes[slot])

    def _real_indices(self, rows: Tensor) -> Tensor:
        """The same for many positions, int64 (N,) -> int64 (N,)."""
        shown = rows.clone()
        filled = rows >= self._num_real
        shown[filled] = self._pool.substitutes[rows[filled] - self._num_real]
        return shown

    def _real_items(self, indices: list[int]) -> list[Any]:
        fetch = getattr(self.real, "__getitems__", None)
        if callable(fetch) and indices:
            return list(fetch(indices))
        return [self.real[index] for index in indices]

    def _transformed(self, item: tuple[Any, Any]) -> tuple[Any, Any]:
        if self.transform is None:
            return item
        image, label = item
        return self.transform(image), label

    def _warn_of_rejections(self) -> None:
        """One warning for the classes whose samples the gate rejects; once for each class."""
        rejected = self.rejected_counts
        new = sorted(set(rejected.nonzero().flatten().tolist()) - self._warned)
        if new:
            self._warned.update(new)
            shares = ", ".join(
                f"{describe_class(label, self.class_names)} "
                f"({int(rejected[label])} of {int(self.synthetic_counts[label])})"
                for label in new
            )
            warnings.warn(
                f"The gate rejected every draw for some synthetic images of {shares}; "
                "oversampled real images take their places.",
                stacklevel=3,
            )


def _as_sampler(
    generator: str | os.PathLike[str] | ClassConditionalSampler,
) -> ClassConditionalSampler:
    if isinstance(generator, (str, os.PathLike)):
        return load_sampler(Path(generator))
    missing = [
        name
        for name in ("num_classes", "resolution", "class_names", "sample")
        if not hasattr(generator, name)
    ]
    if missing:
        raise SignforgeError(
            f"generator is a {type(generator).__name__} without {', '.join(missing)}: give a run "
            "directory or an object that implements ClassConditionalSampler."
        )
    return generator


def _matching_class_names(
    real: Dataset[Any],
    real_labels: Tensor,
    class_names: Sequence[str] | None,
    sampler: ClassConditionalSampler,
) -> tuple[str, ...]:
    """The names of the classes; raises where the data and the generator have other classes."""
    names = tuple(class_names) if class_names is not None else known_class_names(real)
    seen = int(real_labels.max()) + 1
    num_real = seen if names is None else len(names)
    if seen > num_real:
        raise SignforgeError(
            f"The real data has labels up to {seen - 1}, but only {num_real} class names."
        )
    if num_real != sampler.num_classes:
        raise SignforgeError(
            f"The real data has {num_real} classes, the generator draws {sampler.num_classes}: "
            "use a generator trained on these classes, or pass class_names= if the real data "
            "lacks images of its last classes."
        )
    theirs = tuple(sampler.class_names)
    if names is None:
        return theirs or tuple(str(label) for label in range(num_real))
    if theirs:
        for label, (ours, other) in enumerate(zip(names, theirs, strict=True)):
            if ours != other:
                raise SignforgeError(
                    f"Class {label} is {ours!r} in the real data but {other!r} to the generator; "
                    "if they are the same classes in the same order, pass the generator's names as "
                    "class_names=."
                )
    return names


def _form_of_items(real: Dataset[Any]) -> ItemForm:
    n = len(real)  # type: ignore[arg-type]
    items = [real[index] for index in spot_indices(n)]
    form = detect_form(items)
    if not same_image(items[0][0], real[0][0]):
        warnings.warn(
            "The real data set gives another image each time item 0 is read, so it augments by "
            "itself, which synthetic images would miss; pass that augmentation as transform= to "
            "SyntheticBalancedDataset instead.",
            stacklevel=3,
        )
    return form


def _labels_of_counts(counts: Tensor) -> Tensor:
    """int64 (C,) -> int64 (sum,): label c counts[c] times, in order of the labels."""
    try:
        return torch.repeat_interleave(counts)
    except RuntimeError:
        raise SignforgeError(
            f"sampling_strategy asks for {int(counts.sum())} synthetic images, more than memory "
            "holds."
        ) from None
