"""SyntheticPool: synthetic images in shared memory, a share of them drawn anew each epoch.

The sampler runs in the process that made the pool and only there; loader workers of any start
method read the same memory.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from signforge.balance.gate import Gate, draw_accepted
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

_LARGEST_BLOCK = 256
_FEWEST_BLOCKS = 20


class SyntheticPool:
    """One image per slot, with a label that never changes.

    Slots are dealt out to blocks like cards (slot i to block i mod B), so that every block holds
    a fair share of every class. A block is drawn as a whole with a seed made of (seed, block,
    how often the block was redrawn); blocks are redrawn in turn, ``refresh * B`` of them an
    epoch. What a slot holds therefore depends on (seed, slot, epoch) alone, and not on the
    epochs seen before.

    images: uint8 (M, 3, H, W), shared memory.
    labels: int64 (M,).
    substitutes: int64 (M,), shared memory: -1 where the slot holds a synthetic image, else the
        index of the real item of the same class that stands in, because the gate rejected
        ``gate_attempts`` draws in a row.
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
        track: Track = no_progress,
    ) -> None:
        if not 0 <= refresh <= 1:
            raise SignforgeError(f"refresh must lie in 0..1, got {refresh}.")
        if gate_attempts < 1:
            raise SignforgeError(f"gate_attempts must be at least 1, got {gate_attempts}.")
        self.labels = labels
        self.images = _shared((len(labels), 3, *size), torch.uint8)
        self.substitutes = _shared((len(labels),), torch.int64).fill_(-1)
        self._epoch = _shared((1,), torch.int64).zero_()
        self._num_blocks = num_blocks(len(labels))
        self._redraws: list[int | None] = [None] * self._num_blocks
        self._refresh = Fraction(str(refresh))
        self._seed = seed
        self._real_labels = real_labels
        self._sampler: ClassConditionalSampler | None = sampler
        self._gate = gate
        self._gate_attempts = gate_attempts
        self.set_epoch(0, track=track)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int, *, track: Track = no_progress) -> None:
        """Redraws the blocks whose content at ``epoch`` (>= 0) differs from what they hold.

        Raises SignforgeError in a copy of the pool (a loader worker's), which has no sampler.
        """
        if epoch < 0:
            raise SignforgeError(f"epoch must be 0 or more, got {epoch}.")
        due = {
            block: times
            for block, held in enumerate(self._redraws)
            if (times := redraws(block, epoch, self._num_blocks, self._refresh)) != held
        }
        if due and self._sampler is None:
            raise SignforgeError(
                "This is a copy of the data set, without the generator: call set_epoch on the "
                "data set in the process that made it."
            )
        for block in track(due, "Drawing synthetic images", len(due)):
            self._fill(block, due[block])
            self._redraws[block] = due[block]
        self._epoch.fill_(epoch)

    def _fill(self, block: int, times: int) -> None:
        slots = slice(block, None, self._num_blocks)
        labels = self.labels[slots]
        images, accepted = draw_accepted(
            lambda some, attempt: self._draw(some, derive_seed(self._seed, block, times, attempt)),
            labels,
            gate=self._gate,
            attempts=self._gate_attempts,
        )
        substitutes = torch.full_like(labels, -1)
        rng = torch.Generator().manual_seed(derive_seed(self._seed, block, times, -1))
        for position in (~accepted).nonzero().flatten().tolist():
            candidates = (self._real_labels == labels[position]).nonzero().flatten()
            choice = torch.randint(len(candidates), (), generator=rng)
            substitutes[position] = candidates[choice]
        self.images[slots] = images
        self.substitutes[slots] = substitutes

    def _draw(self, labels: Tensor, seed: int) -> Tensor:
        """uint8 (N, 3, H, W) on the CPU in the size of the pool."""
        assert self._sampler is not None
        side = self._sampler.resolution
        images = self._sampler.sample(labels.clone(), seed)
        expected = (len(labels), 3, side, side)
        if images.dtype != torch.uint8 or images.shape != expected:
            raise SignforgeError(
                f"The generator's sample() must return uint8 of shape {expected}, "
                f"returned {images.dtype} of shape {tuple(images.shape)}."
            )
        # clone: a sampler in inference mode returns tensors that cannot be written to.
        return resize(images, (self.images.shape[-2], self.images.shape[-1])).cpu().clone()

    def __getstate__(self) -> Mapping[str, Any]:
        # Generators and gates may hold CUDA memory or closures; workers only read images.
        return {**self.__dict__, "_sampler": None, "_gate": None}


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


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, 3, h, w) -> uint8 (N, 3, *size), bilinear with antialiasing; same size: as is."""
    if tuple(images.shape[-2:]) == size:
        return images
    scaled = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        memory = torch.empty(shape, dtype=dtype)
        memory.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        gib = torch.Size(shape).numel() * dtype.itemsize / 2**30
        raise SignforgeError(
            f"No room for {gib:.1f} GiB of synthetic images in shared memory "
            f"({str(error).splitlines()[0]}); ask for fewer by sampling_strategy or "
            "max_synthetic_fraction, or enlarge /dev/shm (docker: --shm-size)."
        ) from None
    return memory
