"""SyntheticPool: synthetic images that workers share, a share of them drawn anew each epoch.

The sampler runs in the process that made the pool and only there; loader workers of any start
method read the same memory.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from signforge.balance.drawing import draw_images
from signforge.balance.gate import Gate, draw_accepted
from signforge.balance.lighting import Relight, checked_relit
from signforge.balance.oversampling import repeat_evenly
from signforge.balance.rows import rows_by_class
from signforge.balance.shares import exact_share
from signforge.balance.storage import allocate_images
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

TRIAL_STREAM, OVERSAMPLING_STREAM = -1, -2
"""Second parts of seeds that must differ from those of blocks, which are numbered from 0."""

_SUBSTITUTES, _LIGHT = -1, -2
"""Last parts of a block's seeds that must differ from its attempts, which are numbered from 0."""

_LARGEST_BLOCK = 256
_FEWEST_BLOCKS = 20


class SyntheticPool:
    """One slot per item to add, with a label that never changes; most slots hold an image.

    Slots of ``oversampled`` classes show real images instead: every one of the class equally
    often or once more, which ones changes with (seed, epoch, class).

    The other slots are dealt out to blocks like cards (slot i to block i mod B), so that every
    block holds a fair share of every class. A block is drawn as a whole with a seed made of
    (seed, block, how often the block was redrawn); blocks are redrawn in turn, ``refresh * B`` of
    them an epoch. What a slot holds therefore depends on (seed, slot, epoch) alone, and not on
    the epochs seen before.

    labels: int64 (M,).
    relight: changes the images of a block once the gate has let them through.
    oversampled: bool (C,), the classes without synthetic images; None is no class.
    memory_cap_mib, folder, device: where the images live, see ``allocate_images``; all else stays
        on the CPU.

    images: uint8 (K, 3, H, W), one for each slot of a class that is not oversampled, in the order
        of the slots.
    rows: int64 (M,), the row of ``images`` that belongs to a slot, -1 for oversampled classes.
    substitutes: int64 (M,), shared memory: -1 where the slot shows a synthetic image, else the
        index of the real item of the same class that stands in, because the class is
        oversampled or the gate rejected ``gate_attempts`` draws in a row.
    """

    def __init__(
        self,
        sampler: ClassConditionalSampler,
        labels: Tensor,
        *,
        real_labels: Tensor,
        size: tuple[int, int],
        refresh: float,
        seed: int,
        gate: Gate | None = None,
        gate_attempts: int = 4,
        relight: Relight | None = None,
        oversampled: Tensor | None = None,
        memory_cap_mib: float = 4096,
        folder: Path | None = None,
        device: str = "cpu",
        track: Track = no_progress,
    ) -> None:
        self._refresh = exact_share(refresh, "refresh")
        if gate_attempts < 1:
            raise SignforgeError(f"gate_attempts must be at least 1, got {gate_attempts}.")
        num_classes = 1 + max(int(part.max()) for part in (real_labels, labels) if len(part))
        if oversampled is None:
            oversampled = torch.zeros(num_classes, dtype=torch.bool)
        generated = ~oversampled[labels]
        self.labels = labels
        self.rows = torch.where(generated, generated.cumsum(0) - 1, -1)
        self._slots = generated.nonzero().flatten()
        self._filled_slots = (~generated).nonzero().flatten()
        self._filled_labels = (
            torch.bincount(labels[self._filled_slots]).nonzero().flatten().tolist()
        )
        self._filled_of_class = rows_by_class(labels[self._filled_slots], num_classes)
        self._real_of_class = rows_by_class(real_labels, num_classes)
        self._size = size
        self._memory = allocate_images(
            len(self._slots), size, memory_cap_mib=memory_cap_mib, folder=folder, device=device
        )
        self.substitutes = _shared(torch.full_like(labels, -1))
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))
        self._num_blocks = num_blocks(len(self._slots))
        self._redraws: list[int | None] = [None] * self._num_blocks
        self._seed = seed
        self._sampler: ClassConditionalSampler | None = sampler
        self._gate = gate
        self._gate_attempts = gate_attempts
        self._relight = relight
        self.set_epoch(0, track=track)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        return self._memory.tensor

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        """Redraws the blocks whose content at ``epoch`` (>= 0) differs from what they hold.

        Raises SignforgeError in a copy of the pool, such as a loader worker's: pickled ones have no
        sampler, and whatever a forked one writes appears in the pool that it was forked from.
        """
        if epoch < 0:
            raise SignforgeError(f"epoch must be 0 or more, got {epoch}.")
        if self._sampler is None or not self._memory.is_own:
            raise SignforgeError(
                "This is a copy of the data set, without the generator: call set_epoch on the "
                "data set in the process that made it."
            )
        due = {
            block: times
            for block, held in enumerate(self._redraws)
            if (times := redraws(block, epoch, self._num_blocks, self._refresh)) != held
        }
        for block in track(due, "Drawing synthetic images", len(due)):
            self._fill(block, due[block])
            self._redraws[block] = due[block]
        self._repeat_real_items(epoch)
        self._epoch.fill_(epoch)

    def gather(self, slots: Tensor) -> Tensor:
        """The images of ``slots``, int64 (N,) -> uint8 (N, 3, H, W) on the CPU, a copy.

        Black where the pool lives on another device, which loader workers must not touch.
        """
        if self.images.device.type == "cpu":
            return self.images.index_select(0, self.rows[slots])
        return torch.zeros((len(slots), *self.images.shape[1:]), dtype=torch.uint8)

    def _fill(self, block: int, times: int) -> None:
        rows = slice(block, None, self._num_blocks)
        slots = self._slots[rows]
        labels = self.labels[slots]
        images, accepted = draw_accepted(
            lambda some, attempt: self._draw(some, derive_seed(self._seed, block, times, attempt)),
            labels,
            gate=self._gate,
            attempts=self._gate_attempts,
        )
        substitutes = torch.full_like(labels, -1)
        rng = torch.Generator().manual_seed(derive_seed(self._seed, block, times, _SUBSTITUTES))
        for position in (~accepted).nonzero().flatten().tolist():
            candidates = self._real_of_class[int(labels[position])]
            choice = torch.randint(len(candidates), (), generator=rng)
            substitutes[position] = candidates[choice]
        if self._relight is not None:
            seed = derive_seed(self._seed, block, times, _LIGHT)
            images = checked_relit(self._relight(images.clone(), seed), images)
        self.images[rows] = images
        self.substitutes[slots] = substitutes

    def _draw(self, labels: Tensor, seed: int) -> Tensor:
        assert self._sampler is not None
        return draw_images(self._sampler, labels, seed, self._size)

    def _repeat_real_items(self, epoch: int) -> None:
        for label in self._filled_labels:
            slots = self._filled_slots[self._filled_of_class[label]]
            seed = derive_seed(self._seed, OVERSAMPLING_STREAM, epoch, label)
            rng = torch.Generator().manual_seed(seed)
            self.substitutes[slots] = repeat_evenly(self._real_of_class[label], len(slots), rng)

    def __getstate__(self) -> Mapping[str, Any]:
        # These may hold CUDA memory, closures or many images; workers only read the pool's.
        return {**self.__dict__, "_sampler": None, "_gate": None, "_relight": None}


def num_blocks(slots: int) -> int:
    """At most 256 slots a block (one sampler call); small pools still refresh in small steps."""
    return max(-(-slots // _LARGEST_BLOCK), min(slots, _FEWEST_BLOCKS))


def redraws(block: int, epoch: int, num_blocks: int, refresh: Fraction) -> int:
    """How often ``block`` has been redrawn when ``epoch`` begins; 0 is the first drawing.

    Blocks take turns: after floor(epoch * refresh * num_blocks) turns, each had its whole rounds
    and the first ones one more.
    """
    rounds, rest = divmod(int(epoch * refresh * num_blocks), num_blocks)
    return rounds + (block < rest)


def _shared(numbers: Tensor) -> Tensor:
    """``numbers`` in memory that workers share."""
    try:
        numbers.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise SignforgeError(
            f"No room for {numbers.nbytes / 2**20:.1f} MiB in shared memory "
            f"({str(error).splitlines()[0]}): enlarge /dev/shm (docker: --shm-size)."
        ) from None
    return numbers
