"""The remedies that a benchmark compares: each is one function from a training set to a setup.

A new arm is one more function in the mapping that is passed to the benchmark; nothing registers
itself.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.strategy import resolve_sampling_strategy
from signforge.classify.training import Loss
from signforge.config import BalanceConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

BASELINE = "real"


@dataclass(frozen=True)
class ArmContext:
    """What an arm may use besides the training images. sampler: None if no generator is there."""

    seed: int
    sampler: ClassConditionalSampler | None
    balance: BalanceConfig
    track: Track = no_progress


@dataclass(frozen=True)
class ArmSetup:
    """What the classifier trains on.

    sampler: draws the indices of an epoch; None shuffles ``dataset``.
    class_counts: images of each class that an epoch shows, (C,).
    uses_generator: whether the generator's training time is part of this arm's cost.
    """

    dataset: Dataset[Any]
    class_counts: tuple[int, ...]
    sampler: Sampler[int] | None = None
    loss: Loss = F.cross_entropy
    uses_generator: bool = False


Arm = Callable[[LabeledImages, ArmContext], ArmSetup]


def real(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """The training images as they are."""
    del context
    return ArmSetup(dataset=train, class_counts=_counts(train.class_counts))


def oversample(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Real images repeated up to the very class counts that ``synthetic`` fills up to."""
    targets = resolve_sampling_strategy(
        context.balance.sampling_strategy,
        train.class_counts,
        class_names=train.class_names,
        max_synthetic_fraction=context.balance.max_synthetic_fraction,
    )
    sampler = RepeatSampler(train.labels, targets, seed=context.seed)
    return ArmSetup(dataset=train, class_counts=_counts(targets), sampler=sampler)


def synthetic(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Rare classes filled up with samples of the generator.

    Raises SignforgeError where there is no generator.
    """
    if context.sampler is None:
        raise SignforgeError(
            "The arm synthetic draws its images from a generator and none was given; "
            "pass one, or leave the arm out."
        )
    dataset = SyntheticBalancedDataset(
        train,
        context.sampler,
        sampling_strategy=context.balance.sampling_strategy,
        max_synthetic_fraction=context.balance.max_synthetic_fraction,
        refresh=context.balance.refresh,
        seed=context.seed,
        track=context.track,
    )
    counts = torch.as_tensor(dataset.class_counts)
    return ArmSetup(dataset=dataset, class_counts=_counts(counts), uses_generator=True)


ARMS: Mapping[str, Arm] = MappingProxyType(
    {"real": real, "oversample": oversample, "synthetic": synthetic}
)
"""The arms that ship; pass ``{**ARMS, "mine": my_arm}`` to compare your own."""


def select_arms(names: Sequence[str], arms: Mapping[str, Arm] = ARMS) -> dict[str, Arm]:
    """The named arms in that order, each once.

    Raises SignforgeError for an unknown name, with the known ones, and for no name at all.
    """
    if not names:
        raise SignforgeError(f"No arm to run; choose some of {', '.join(arms)}.")
    for name in names:
        if name not in arms:
            closest = difflib.get_close_matches(name, arms, n=1)
            hint = f" (did you mean {closest[0]}?)" if closest else ""
            raise SignforgeError(f"Unknown arm {name!r}{hint}: the arms are {', '.join(arms)}.")
    return {name: arms[name] for name in names}


def needs_generator(names: Sequence[str]) -> bool:
    """Whether a shipped arm among ``names`` draws from a generator."""
    return any(part == "synthetic" for name in names for part in name.split("+"))


class RepeatSampler(Sampler[int]):
    """Indices of an epoch in which class c appears ``targets[c]`` times, in random order.

    Every image of a class appears equally often, or once more: the images of the last, partial
    repetition are drawn without replacement, anew each epoch, from (seed, epoch).

    labels: int64 (N,). targets: int64 (C,). A target below the class's own count leaves that
    many of its images.
    """

    def __init__(self, labels: Tensor, targets: Tensor, *, seed: int) -> None:
        self._of_class = [(labels == c).nonzero().flatten() for c in range(len(targets))]
        self._targets = [int(target) for target in targets]
        self._seed = seed
        self._epoch = 0
        for label, (rows, target) in enumerate(zip(self._of_class, self._targets, strict=True)):
            if target and not len(rows):
                raise SignforgeError(
                    f"Class {label} has no real image that could be repeated; oversampling "
                    "needs at least one."
                )

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self._targets)

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        drawn = []
        for rows, target in zip(self._of_class, self._targets, strict=True):
            whole, rest = divmod(target, max(len(rows), 1))
            partial = rows[torch.randperm(len(rows), generator=rng)[:rest]]
            drawn += [rows.repeat(whole), partial]
        indices = torch.cat(drawn)
        order = torch.randperm(len(indices), generator=rng)
        return iter(indices[order].tolist())


def _counts(counts: Tensor) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)
