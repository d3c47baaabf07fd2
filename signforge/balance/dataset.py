"""SyntheticBalancedDataset: a torch Dataset whose rare classes are filled up with samples.

Real items come first and untouched; synthetic items follow in the same form, from a pool that
``set_epoch`` refreshes.
"""

import operator
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.formats import form_of_items
from signforge.balance.gate import Gate, measure_acceptance
from signforge.balance.labels import find_labels
from signforge.balance.lighting import Relight
from signforge.balance.matching import as_sampler, check_gate_classes, matching_class_names
from signforge.balance.plan import as_plan
from signforge.balance.pool import TRIAL_STREAM, SyntheticPool
from signforge.balance.strategy import (
    SamplingStrategy,
    describe_class,
    resolve_sampling_strategy,
)
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

ThirdElement: TypeAlias = Literal["none", "is_synthetic", "index"]


class SyntheticBalancedDataset(Dataset[tuple[Any, ...]]):
    """``real`` with its rare classes filled up by synthetic images.

    Item i < len(real) is ``real[i]``, bit for bit (through ``transform``, if there is one). The
    items after it are synthetic, sorted by class, and look like real ones: PIL RGB, uint8 tensor
    (3, H, W), float tensor in [0, 1] or uint8 numpy (H, W, 3), in the size of the real images
    (the generator's size where real sizes differ among each other), with labels of the same type.

    Some classes are filled by real images instead, each equally often or once more: those that a
    plan wants oversampled, and those of which ``gate`` keeps too few.

    real: any map-style Dataset of (image, label).
    generator: a run directory, or anything that implements ClassConditionalSampler.
    sampling_strategy, max_synthetic_fraction: see ``resolve_sampling_strategy``.
    labels: the labels of ``real``; see ``find_labels`` for how they are found otherwise.
    class_names: names of the classes in label order; by default those ``real`` has, else the
        generator's. They must be the generator's, if it has any.
    gate: (images uint8 (N, 3, H, W), labels int64 (N,)) -> bool mask of the images to keep. After
        ``gate_attempts`` rejected draws, a randomly chosen real item of the class stands in.
    min_acceptance: a class of which the gate keeps a smaller share of trial draws than this gets
        no synthetic image; a warning names it. 0 lets every class in.
    relight: (images uint8 (N, 3, H, W), seed) -> the same changed, for synthetic images that the
        gate let through: a ``BorrowedLight`` shows a class of few objects under any light.
    transform: applied to every image, real and synthetic alike; may be set later.
    refresh: share of the synthetic images that each epoch replaces, in 0..1.
    third_element: ``"is_synthetic"`` makes items (image, label, bool), as ``is_synthetic`` says;
        ``"index"`` makes them (image, label, position in this data set).
    memory_cap_mib, pool_folder: synthetic images that need more MiB than this lie in a temporary
        file, in ``pool_folder`` or else the system's own folder, in place of shared memory.
    pool_device: where synthetic images live. On an accelerator they stay there for
        ``OnDeviceLoader`` to pick up: items of this data set have a black image in their place,
        and ``third_element`` is then ``"index"``.
    seed: item i of epoch e depends on (seed, e, i) alone, whatever the number of workers.
    track: shows progress of the first filling.

    Call ``set_epoch`` before each epoch, in the process that made the data set; workers,
    persistent ones too, see the new images through shared memory.

    real_counts, class_counts: images of each class, the real ones and all of them: int64 (C,).
    acceptance: share of each class's trial draws that the gate kept: float64 (C,), NaN where
        none was tried.

    Raises SignforgeError if labels, classes, forms or options do not fit together.
    """

    def __init__(
        self,
        real: Dataset[Any],
        generator: str | os.PathLike[str] | ClassConditionalSampler,
        *,
        sampling_strategy: SamplingStrategy = "auto",
        labels: Iterable[int] | Tensor | np.ndarray[Any, Any] | None = None,
        class_names: Sequence[str] | None = None,
        max_synthetic_fraction: float = 1.0,
        gate: Gate | None = None,
        gate_attempts: int = 4,
        min_acceptance: float = 0.1,
        relight: Relight | None = None,
        transform: Callable[[Any], Any] | None = None,
        refresh: float = 0.25,
        third_element: ThirdElement = "none",
        memory_cap_mib: float = 4096,
        pool_folder: str | os.PathLike[str] | None = None,
        pool_device: str = "cpu",
        seed: int = 0,
        track: Track = no_progress,
    ) -> None:
        if not 0 <= min_acceptance <= 1:
            raise SignforgeError(f"min_acceptance must lie in 0..1, got {min_acceptance}.")
        device = resolve_device(pool_device)
        self.third_element = _third_element(third_element, device)
        sampler = as_sampler(generator)
        real_labels = find_labels(real, labels, track=track)
        if not len(real_labels):
            raise SignforgeError("The real data set is empty.")
        self.real = real
        self.class_names = matching_class_names(real, real_labels, class_names, sampler)
        check_gate_classes(gate, self.class_names)
        self.real_counts = torch.bincount(real_labels, minlength=self.num_classes)
        plan = as_plan(sampling_strategy)
        self.class_counts = resolve_sampling_strategy(
            sampling_strategy if plan is None else plan,
            self.real_counts,
            class_names=self.class_names,
            max_synthetic_fraction=max_synthetic_fraction,
        )
        self._num_real = len(real_labels)
        self._form = form_of_items(real)
        size = self._form.size or (sampler.resolution, sampler.resolution)
        self._labels = torch.cat([real_labels, _labels_of_counts(self.synthetic_counts)])
        self._num_items = len(self._labels)
        self.transform = transform
        oversampled = torch.zeros(self.num_classes, dtype=torch.bool)
        if plan is not None:
            doubt = plan.check(self.class_names, sampler.fingerprint)
            if doubt is not None:
                warnings.warn(doubt, stacklevel=2)
            oversampled = plan.oversampled()
        self.acceptance = torch.full((self.num_classes,), torch.nan, dtype=torch.float64)
        if gate is not None:
            self.acceptance = measure_acceptance(
                sampler,
                gate,
                ((self.synthetic_counts > 0) & ~oversampled).nonzero().flatten(),
                seed=derive_seed(seed, TRIAL_STREAM),
                size=size,
                track=track,
            )
        self._warn_of_low_acceptance(min_acceptance)
        self._warned: set[int] = set()
        self._pool = SyntheticPool(
            sampler,
            self._labels[self._num_real :],
            real_labels=real_labels,
            size=size,
            refresh=refresh,
            seed=seed,
            gate=gate,
            gate_attempts=gate_attempts,
            relight=relight,
            oversampled=oversampled | (self.acceptance < min_acceptance),
            memory_cap_mib=memory_cap_mib,
            folder=None if pool_folder is None else Path(pool_folder),
            device=pool_device,
            track=track,
        )
        self._warn_of_rejections()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def synthetic_counts(self) -> Tensor:
        """Items of each class beyond the real ones, whatever they show: int64 (C,)."""
        return self.class_counts - self.real_counts

    @property
    def oversampled_counts(self) -> Tensor:
        """Items beyond the real ones that show a real image again at this epoch: int64 (C,)."""
        shown = self._pool.labels[self._pool.substitutes >= 0]
        return torch.bincount(shown, minlength=self.num_classes)

    @cached_property
    def targets(self) -> list[int]:
        """The label of every item, real and synthetic."""
        labels: list[int] = self._labels.tolist()
        return labels

    @property
    def epoch(self) -> int:
        return self._pool.epoch

    @property
    def pool_images(self) -> Tensor:
        """The synthetic images of this epoch, on ``pool_device``: uint8 (K, 3, H, W)."""
        return self._pool.images

    def real_indices(self, indices: Tensor) -> Tensor:
        """The item of ``real`` that each item shows at this epoch, -1 for a synthetic image.

        indices: int64 (N,), each in 0..len - 1. Returns int64 (N,).
        """
        shown = indices.clone()
        filled = indices >= self._num_real
        shown[filled] = self._pool.substitutes[indices[filled] - self._num_real]
        return shown

    def pool_rows(self, indices: Tensor) -> Tensor:
        """The row of ``pool_images`` that each item shows, -1 for a real image.

        indices: int64 (N,), each in 0..len - 1. Returns int64 (N,).
        """
        rows = torch.full_like(indices, -1)
        synthetic = self.real_indices(indices) < 0
        rows[synthetic] = self._pool.rows[indices[synthetic] - self._num_real]
        return rows

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        """Brings in the synthetic images of ``epoch`` (>= 0); any order of epochs will do.

        A ``set_epoch`` that ``real`` has is called as well.
        """
        self._pool.set_epoch(epoch, track=track)
        set_epoch_of_real = getattr(self.real, "set_epoch", None)
        if callable(set_epoch_of_real):
            set_epoch_of_real(epoch)
        self._warn_of_rejections()

    def is_synthetic(self, index: int) -> bool:
        """Whether item ``index`` shows a generated image; False where a real one stands in."""
        return self._real_index(self._position(index)) < 0

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        position = self._position(index)
        real_index = self._real_index(position)
        if real_index >= 0:
            item = self.real[real_index]
        else:
            slot = position - self._num_real
            image = self._pool.gather(torch.tensor([slot]))[0]
            item = self._form.render(image, int(self._pool.labels[slot]))
        return self._finished(item, position, is_synthetic=real_index < 0)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """The items at ``indices``: one gather of synthetic images, one batched read of real ones.

        Equal to ``[self[i] for i in indices]``.
        """
        positions = self._positions(indices)
        real_indices = self.real_indices(positions)
        slots = positions[real_indices < 0] - self._num_real
        made = iter(self._form.render_batch(self._pool.gather(slots), self._pool.labels[slots]))
        shown = real_indices.tolist()
        real_items = iter(self._real_items([index for index in shown if index >= 0]))
        items = [next(real_items) if index >= 0 else next(made) for index in shown]
        if self.transform is None and self.third_element == "none":
            return items
        return [
            self._finished(item, position, is_synthetic=index < 0)
            for item, position, index in zip(items, positions.tolist(), shown, strict=True)
        ]

    def _position(self, index: int) -> int:
        position, n = operator.index(index), self._num_items
        if not -n <= position < n:
            raise IndexError(f"index {position} is out of range for {n} items")
        return position % n

    def _positions(self, indices: Sequence[int]) -> Tensor:
        """``_position`` of a whole batch: int64 (N,)."""
        positions = torch.as_tensor(indices)
        if positions.dtype != torch.int64:  # empty, or for operator.index to accept or refuse
            positions = torch.tensor([operator.index(i) for i in indices], dtype=torch.int64)
        n = self._num_items
        outside = positions[(positions < -n) | (positions >= n)]
        if len(outside):
            raise IndexError(f"index {int(outside[0])} is out of range for {n} items")
        return positions % n

    def _real_index(self, position: int) -> int:
        """The real item shown at ``position``, -1 for a synthetic image."""
        slot = position - self._num_real
        return position if slot < 0 else int(self._pool.substitutes[slot])

    def _real_items(self, indices: list[int]) -> list[Any]:
        fetch = getattr(self.real, "__getitems__", None)
        if callable(fetch) and indices:
            return list(fetch(indices))
        return [self.real[index] for index in indices]

    def _finished(
        self, item: tuple[Any, Any], position: int, *, is_synthetic: bool
    ) -> tuple[Any, ...]:
        if self.transform is not None:
            image, label = item
            item = self.transform(image), label
        if self.third_element == "none":
            return item
        return (*item, is_synthetic if self.third_element == "is_synthetic" else position)

    def _warn_of_low_acceptance(self, floor: float) -> None:
        low = (self.acceptance < floor).nonzero().flatten().tolist()
        if low:
            shares = ", ".join(
                f"{describe_class(label, self.class_names)} ({float(self.acceptance[label]):.0%})"
                for label in low
            )
            warnings.warn(
                f"The gate keeps less than {floor:.0%} of the images drawn of {shares}; "
                "oversampled real images fill these classes.",
                stacklevel=3,
            )

    def _warn_of_rejections(self) -> None:
        """One warning for the classes whose samples the gate rejects; once for each class."""
        rejected = (self._pool.substitutes >= 0) & (self._pool.rows >= 0)
        counts = torch.bincount(self._pool.labels[rejected], minlength=self.num_classes)
        new = sorted(set(counts.nonzero().flatten().tolist()) - self._warned)
        if new:
            self._warned.update(new)
            shares = ", ".join(
                f"{describe_class(label, self.class_names)} "
                f"({int(counts[label])} of {int(self.synthetic_counts[label])})"
                for label in new
            )
            warnings.warn(
                f"The gate rejected every draw for some synthetic images of {shares}; "
                "oversampled real images take their places.",
                stacklevel=3,
            )


def _third_element(wanted: ThirdElement, device: torch.device) -> ThirdElement:
    if wanted not in get_args(ThirdElement):
        raise SignforgeError(
            f"third_element must be one of {', '.join(get_args(ThirdElement))}, got {wanted!r}."
        )
    if device.type == "cpu":
        return wanted
    if wanted == "is_synthetic":
        raise SignforgeError(
            f"third_element='is_synthetic' does not go with a pool on {device}, whose loader needs "
            "the index; leave third_element out and ask is_synthetic(index)."
        )
    return "index"


def _labels_of_counts(counts: Tensor) -> Tensor:
    """int64 (C,) -> int64 (sum,): label c counts[c] times, in order of the labels."""
    try:
        return torch.repeat_interleave(counts)
    except RuntimeError:
        raise SignforgeError(
            f"sampling_strategy asks for {int(counts.sum())} synthetic images, more than memory "
            "holds."
        ) from None
