"""The remedies that a benchmark compares: what is trained on, with which loss, and both together.

A remedy of one's own is one more function, or one more ``LossArm``, in the mapping that is passed
to the benchmark; nothing registers itself. ``arm_selection`` reads the names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from signforge.balance.dataset import SyntheticBalancedDataset, ThirdElement
from signforge.balance.gate import Gate
from signforge.balance.lighting import BorrowedLight, Relight
from signforge.balance.plan import as_plan
from signforge.balance.real_sampler import RealImageSampler
from signforge.balance.relit_images import RelitImages
from signforge.balance.strategy import SamplingStrategy, resolve_sampling_strategy
from signforge.benchmark.repeat_sampler import RepeatSampler
from signforge.classify.losses import (
    LDAM_SCALE,
    Deferred,
    Loss,
    class_balanced,
    focal,
    ldam_drw,
    logit_adjusted,
)
from signforge.classify.training import Ending
from signforge.config import BalanceConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

BASELINE = "real"
TENTH = 10
"""Of the images that balancing adds, arms named so add one in ten."""
_ENDING = 1
"""Stream of random numbers of the last part of a training."""


@dataclass(frozen=True)
class ArmContext:
    """What an arm may use besides the training images.

    sampler: None if no generator is there. gate: None keeps all that the generator draws.
    """

    seed: int
    sampler: ClassConditionalSampler | None
    balance: BalanceConfig
    track: Track = no_progress
    gate: Gate | None = None


@dataclass(frozen=True)
class ArmSetup:
    """What the classifier trains on, and how.

    sampler: draws the indices of an epoch; None shuffles ``dataset``.
    class_counts: images of each class that an epoch shows, (C,).
    ending: images that the last layer alone is tuned on at the end, within the same steps.
    cosine_scale: as in ``build_classifier``, for losses that need cosines.
    only_real: whether every image shown is a real one, changed or not, though ``dataset`` is not
        the training images themselves.
    uses_generator, uses_gate: whether their training times are part of this arm's cost.
    """

    dataset: Dataset[Any]
    class_counts: tuple[int, ...]
    sampler: Sampler[int] | None = None
    loss: Loss | Deferred = F.cross_entropy
    ending: Ending | None = None
    cosine_scale: float | None = None
    only_real: bool = False
    uses_generator: bool = False
    uses_gate: bool = False


Arm = Callable[[LabeledImages, ArmContext], ArmSetup]


@dataclass(frozen=True)
class LossArm:
    """A remedy in the loss: on the real images as they are, or ``on`` what another arm shows.

    make: from the class counts of the epochs that are trained on. Where an arm fills all classes
        up to one size, priors and class weights are equal and change nothing: combine them with a
        partial filling (``synthetic_tenth``, or ``balance.max_synthetic_fraction`` below 1).
    cosine_scale: as in ``ArmSetup``.
    """

    make: Callable[[Sequence[int]], Loss | Deferred]
    cosine_scale: float | None = None

    def __call__(self, train: LabeledImages, context: ArmContext) -> ArmSetup:
        return self.on(real(train, context))

    def on(self, setup: ArmSetup) -> ArmSetup:
        return replace(setup, loss=self.make(setup.class_counts), cosine_scale=self.cosine_scale)


def real(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """The training images as they are."""
    del context
    return ArmSetup(dataset=train, class_counts=_counts(train.class_counts))


def real_relit(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """The training images as many as they are, half of them in the light of any class's image.

    What borrowed light does as an augmentation, without a generator and without balancing.
    """
    return ArmSetup(
        dataset=RelitImages(train, _any_light(train), seed=context.seed),
        class_counts=_counts(train.class_counts),
        only_real=True,
    )


def oversample(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Real images repeated up to the very class counts that ``synthetic`` fills up to."""
    return _repeated(train, _targets(train, context), context.seed)


def oversample_tenth(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Real images repeated up to the class counts of ``synthetic_tenth``, as its control."""
    return _repeated(train, _tenth_of_missing(train, context), context.seed)


def synthetic(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Rare classes filled up with samples of the generator that the gate, if any, lets through.

    Raises SignforgeError where there is no generator.
    """
    return _filled(train, context)


def synthetic_ungated(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic`` with everything that the generator draws."""
    return synthetic(train, replace(context, gate=None))


def synthetic_tenth(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic`` with a tenth of the images that it adds to each class, rounded down.

    Classes stay imbalanced, which leaves something to do for a loss that is combined with it.
    """
    return _filled(train, context, tenth=True)


def synthetic_relit(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic``, each sample in the light of a real image of any class."""
    return _filled(train, context, relight=_any_light(train))


def synthetic_tenth_relit(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic_tenth``, each sample in the light of a real image of any class."""
    return _filled(train, context, tenth=True, relight=_any_light(train))


def oversample_relit(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic_relit`` without a generator, as its control: real images, drawn again."""
    return _without_generator(synthetic_relit, train, context)


def oversample_tenth_relit(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic_tenth_relit`` without a generator, as its control."""
    return _without_generator(synthetic_tenth_relit, train, context)


def synthetic_separate_statistics(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic``, its samples normalised apart from the real images while training."""
    return _filled(train, context, third="is_synthetic")


def synthetic_tenth_separate_statistics(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic_tenth``, its samples normalised apart from the real images while training."""
    return _filled(train, context, tenth=True, third="is_synthetic")


def synthetic_then_real(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """``synthetic``, then the last layer alone on real images for the last fifth of the steps.

    After SYNAuG (Ye-Bin et al. 2023, 2308.00994). The real images are repeated up to the same
    class counts (as cRT does, Kang et al. 2020, 1910.09217), so that the last layer does not
    learn back the imbalance, and losses that look at class counts stay right.
    """
    setup = synthetic(train, context)
    repeats = RepeatSampler(
        train.labels, torch.tensor(setup.class_counts), seed=derive_seed(context.seed, _ENDING)
    )
    return replace(setup, ending=Ending(train, repeats))


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "real": real,
        "oversample": oversample,
        "oversample_tenth": oversample_tenth,
        "class_balanced_loss": LossArm(class_balanced),
        "logit_adjustment": LossArm(logit_adjusted),
        "focal_loss": LossArm(focal),
        "ldam_drw": LossArm(ldam_drw, cosine_scale=LDAM_SCALE),
        "synthetic": synthetic,
        "synthetic_ungated": synthetic_ungated,
        "synthetic_tenth": synthetic_tenth,
        "synthetic_then_real": synthetic_then_real,
        "synthetic_separate_statistics": synthetic_separate_statistics,
        "synthetic_tenth_separate_statistics": synthetic_tenth_separate_statistics,
        "real_relit": real_relit,
        "synthetic_relit": synthetic_relit,
        "synthetic_tenth_relit": synthetic_tenth_relit,
        "oversample_relit": oversample_relit,
        "oversample_tenth_relit": oversample_tenth_relit,
    }
)
"""The arms that ship; pass ``{**ARMS, "mine": my_arm}`` to compare your own."""


def _repeated(train: LabeledImages, targets: Tensor, seed: int) -> ArmSetup:
    sampler = RepeatSampler(train.labels, targets, seed=seed)
    return ArmSetup(dataset=train, class_counts=_counts(targets), sampler=sampler)


def _filled(
    train: LabeledImages,
    context: ArmContext,
    *,
    tenth: bool = False,
    relight: Relight | None = None,
    third: ThirdElement = "none",
) -> ArmSetup:
    """As the config says, or a ``tenth`` of the way.

    third: ``"is_synthetic"`` has ``fit_classifier`` normalise samples apart.
    """
    if context.sampler is None:
        raise SignforgeError(
            "A synthetic arm draws its images from a generator and none was given; pass one, or "
            "leave the arm out."
        )
    share = context.balance.max_synthetic_fraction
    plan = as_plan(context.balance.sampling_strategy)
    if plan is not None and isinstance(context.sampler, RealImageSampler):
        plan = plan.model_copy(update={"generator_fingerprint": None})  # it was made for samples
    strategy: SamplingStrategy = plan or context.balance.sampling_strategy
    if tenth:
        # The share has capped what is missing already.
        counts, share = _tenth_of_missing(train, context), 1.0
        strategy = (
            plan.with_counts(counts, train.class_counts)
            if plan is not None
            else dict(enumerate(counts.tolist()))
        )
    dataset = SyntheticBalancedDataset(
        train,
        context.sampler,
        sampling_strategy=strategy,
        max_synthetic_fraction=share,
        gate=context.gate,
        min_acceptance=context.balance.min_acceptance,
        relight=relight,
        third_element=third,
        refresh=context.balance.refresh,
        seed=context.seed,
        track=context.track,
    )
    return ArmSetup(
        dataset=dataset,
        class_counts=_counts(torch.as_tensor(dataset.class_counts)),
        uses_generator=True,
        uses_gate=context.gate is not None,
    )


def _without_generator(arm: Arm, train: LabeledImages, context: ArmContext) -> ArmSetup:
    setup = arm(train, replace(context, sampler=RealImageSampler(train), gate=None))
    return replace(setup, only_real=True, uses_generator=False)


def _any_light(train: LabeledImages) -> BorrowedLight:
    return BorrowedLight.of(train.images, train.labels)


def _targets(train: LabeledImages, context: ArmContext) -> Tensor:
    """Images of each class that ``synthetic`` fills up to: int64 (C,)."""
    return resolve_sampling_strategy(
        context.balance.sampling_strategy,
        train.class_counts,
        class_names=train.class_names,
        max_synthetic_fraction=context.balance.max_synthetic_fraction,
    )


def _tenth_of_missing(train: LabeledImages, context: ArmContext) -> Tensor:
    missing = _targets(train, context) - train.class_counts
    return train.class_counts + missing // TENTH


def _counts(counts: Tensor) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)
