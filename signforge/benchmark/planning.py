"""Making a BalancePlan: the remedies tried on the validation split, and the best for each class.

The arms of the benchmark train on the training split; nothing here receives the test split.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from signforge.balance.classifier_gate import ClassifierGate
from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.decision import BASELINE, ValidationGroups, decide
from signforge.balance.gate import Gate
from signforge.balance.plan import BalancePlan, PlanProtocol, as_plan
from signforge.balance.strategy import (
    SamplingStrategy,
    resolve_sampling_strategy,
    strategy_file_sha256,
)
from signforge.benchmark.arms import ArmContext, ArmSetup, oversample, real
from signforge.benchmark.folder import Row
from signforge.benchmark.gate import kept_gate
from signforge.benchmark.runner import check_generator
from signforge.benchmark.trials import (
    Stage,
    Trial,
    group_recall,
    run_trials,
    validation_groups,
)
from signforge.config import CLASSIFIER_RUNNING_KEYS, BalanceConfig, ClassifierConfig, Config
from signforge.data.images import LabeledImages
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.files import sha256
from signforge.gan.sampler import ClassConditionalSampler, GanSampler
from signforge.progress import Track, no_progress


def make_plan(
    config: Config,
    train: LabeledImages,
    val: LabeledImages,
    sampler: ClassConditionalSampler,
    folder: Path,
    *,
    confidence: float = 0.8,
    command: str = "",
    message: Callable[[str], None] = lambda _text: None,
    on_row: Callable[[Row], None] = lambda _row: None,
    track: Track = no_progress,
) -> BalancePlan:
    """Trains with each remedy and each seed of ``config.benchmark`` and decides for each class.

    ``config.balance`` says what the remedies fill up to, and whether samples go through a gate
    (``gate_tau`` above 0). folder: finished trials and the gate are kept here; called again with
    the same config and data, nothing is trained twice.
    confidence: least probability, in 0.5..1, that the gain of a class is above zero.
    message: told what the user should know about the gate. on_row: called with each new row once it
    is on disk.

    Raises SignforgeError as ``refuse_other_images`` does, where the remedies would add
    nothing to any class, and as the parts of a trial do.
    """
    if not 0.5 <= confidence <= 1:
        raise SignforgeError(f"The confidence of a plan must lie in 0.5..1, got {confidence}.")
    refuse_other_images(sampler, train)
    balance = config.balance
    if as_plan(balance.sampling_strategy) is not None:
        raise SignforgeError(
            f"sampling_strategy {balance.sampling_strategy} is a plan already; give a name such as "
            "'auto', or counts, to fill the classes up to while planning."
        )
    if bool((_targets(train, balance) <= train.class_counts).all()):
        raise SignforgeError(
            "There is nothing to plan: sampling_strategy and max_synthetic_fraction add no image "
            "to any class."
        )
    stage = Stage(
        train, val, config.classifier, describe_environment(config.classifier.device), command
    )
    gate = shared_gate(balance, config.classifier, train, folder, track=track)
    for note in gate.notes if gate else ():
        message(note)
    first = config.benchmark.first_seed
    seeds = range(first, first + config.benchmark.seeds)
    arms = remedy_trials(train, sampler, balance, gate)
    trials = [arm(seed) for seed in seeds for arm in arms.values()]
    rows = run_trials(trials, stage, folder, on_row=on_row, track=track)
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in arms}
    return plan_from_rows(by_arm, stage, sampler, balance, confidence=confidence)


def refuse_other_images(sampler: ClassConditionalSampler, train: LabeledImages) -> None:
    """Raises SignforgeError where the generator draws other classes or sizes than ``train``'s, or
    was trained on other images: it may then have seen the images that it is judged by."""
    check_generator(sampler, train)
    if isinstance(sampler, GanSampler) and sampler.card.train_fingerprint != train.fingerprint:
        raise SignforgeError(
            "The generator was trained on other images than this training split, so it may have "
            "seen validation images; use the data options it was trained with (see the "
            "config.yaml of its run)."
        )


def plan_from_rows(
    rows: Mapping[str, Sequence[Row]],
    stage: Stage,
    sampler: ClassConditionalSampler,
    balance: BalanceConfig,
    *,
    confidence: float,
    among: npt.NDArray[np.bool_] | None = None,
) -> BalancePlan:
    """The plan that finished trials speak for.

    rows: of "real", "oversample" and "synthetic", for the same seeds in the same order.
    among: bool (M,), the validation groups to decide by; all of them by default.
    """
    groups, _ = validation_groups(stage.val)
    chosen = np.ones(len(groups.labels), dtype=bool) if among is None else among
    train = stage.train
    decisions = decide(
        {name: group_recall(own, groups)[:, chosen] for name, own in rows.items()},
        ValidationGroups(groups.labels[chosen], groups.sizes[chosen]),
        class_names=train.class_names,
        real_counts=train.class_counts.tolist(),
        targets=_targets(train, balance).tolist(),
        confidence=confidence,
        acceptance=mean_acceptance(rows["synthetic"]),
        min_acceptance=balance.min_acceptance,
    )
    return BalancePlan(
        decisions=decisions,
        generator_fingerprint=sampler.fingerprint,
        train_fingerprint=train.fingerprint,
        val_fingerprint=stage.val.fingerprint,
        protocol=PlanProtocol(
            seeds=tuple(row["seed"] for row in rows[BASELINE]),
            steps=stage.classifier.steps,
            batch_size=stage.classifier.batch_size,
            classifier=stage.classifier.name,
            confidence=confidence,
            sampling_strategy=balance.sampling_strategy,
            max_synthetic_fraction=balance.max_synthetic_fraction,
            refresh=balance.refresh,
            gate_tau=balance.gate_tau or None,
            min_acceptance=balance.min_acceptance,
        ),
        versions=stage.environment["versions"],
        command=stage.command,
    )


def remedy_trials(
    train: LabeledImages,
    sampler: ClassConditionalSampler,
    balance: BalanceConfig,
    gate: Gate | None,
) -> Mapping[str, Callable[[int], Trial]]:
    """The three arms that a plan compares, each a function from a seed to its trial."""
    return {
        BASELINE: real_trial(train),
        "oversample": oversample_trial(train, balance),
        "synthetic": synthetic_trial(train, sampler, balance, gate),
    }


def real_trial(train: LabeledImages, name: str = BASELINE) -> Callable[[int], Trial]:
    """The real images as they are."""

    def build(seed: int, track: Track) -> ArmSetup:
        return real(train, ArmContext(seed, None, BalanceConfig(), track))

    return partial(Trial, name, settings={}, build=build)


def oversample_trial(
    train: LabeledImages, balance: BalanceConfig, name: str = "oversample"
) -> Callable[[int], Trial]:
    """Real images repeated up to the targets of ``balance``."""

    def build(seed: int, track: Track) -> ArmSetup:
        return oversample(train, ArmContext(seed, None, balance, track))

    return partial(Trial, name, settings=_target_settings(balance), build=build)


def synthetic_trial(
    train: LabeledImages,
    sampler: ClassConditionalSampler,
    balance: BalanceConfig,
    gate: Gate | None,
    *,
    plan: BalancePlan | None = None,
    name: str = "synthetic",
) -> Callable[[int], Trial]:
    """Samples, through ``gate`` if there is one, up to the targets of ``balance``, or as ``plan``
    says.
    """
    strategy: SamplingStrategy = balance.sampling_strategy if plan is None else plan

    def build(seed: int, track: Track) -> ArmSetup:
        dataset = SyntheticBalancedDataset(
            train,
            sampler,
            sampling_strategy=strategy,
            max_synthetic_fraction=balance.max_synthetic_fraction,
            gate=gate,
            min_acceptance=balance.min_acceptance,
            refresh=balance.refresh,
            seed=seed,
            track=track,
        )
        counts = tuple(int(count) for count in dataset.class_counts)
        return ArmSetup(dataset=dataset, class_counts=counts, uses_generator=True)

    settings: dict[str, Any] = {
        **_target_settings(balance),
        "refresh": balance.refresh,
        "generator_fingerprint": sampler.fingerprint,
        "gate": None if gate is None else _gate_settings(balance),
    }
    if plan is not None:
        settings["plan"] = {
            decision.name: [decision.remedy, decision.count] for decision in plan.decisions
        }
    return partial(Trial, name, settings=settings, build=build)


def mean_acceptance(rows: Sequence[Row]) -> list[float | None] | None:
    """Mean over rows of the share of each class's trial draws that the gate kept.

    None for a class that was not tried, and for all of them where there was no gate.
    """
    shares = [row["acceptance"] for row in rows]
    means = [
        None if any(share is None for share in of_class) else fmean(of_class)
        for of_class in zip(*shares, strict=True)
    ]
    return means if any(mean is not None for mean in means) else None


def shared_gate(
    balance: BalanceConfig,
    classifier: ClassifierConfig,
    train: LabeledImages,
    folder: Path,
    *,
    track: Track = no_progress,
) -> ClassifierGate | None:
    """The gate that ``balance`` asks for, or None, as ``kept_gate`` makes it.

    Gates that differ in nothing but the threshold share their classifiers; others have folders of
    their own in ``folder``.
    """
    if not balance.gate_tau:
        return None
    request = json.dumps(
        [
            train.fingerprint,
            classifier.model_dump(mode="json", exclude={"steps", *CLASSIFIER_RUNNING_KEYS}),
            balance.gate_steps,
            balance.gate_folds,
        ]
    )
    place = folder / f"gate-{sha256(request.encode())[:12]}"
    any_tau = balance.model_copy(update={"gate_tau": BalanceConfig().gate_tau})
    fitted = kept_gate(any_tau, classifier, train, place, track=track)
    assert fitted is not None
    return fitted.gate.with_tau(balance.gate_tau)


def _targets(train: LabeledImages, balance: BalanceConfig) -> Tensor:
    """Images that the remedies give each class: int64 (C,)."""
    return resolve_sampling_strategy(
        balance.sampling_strategy,
        train.class_counts,
        class_names=train.class_names,
        max_synthetic_fraction=balance.max_synthetic_fraction,
    )


def _target_settings(balance: BalanceConfig) -> dict[str, Any]:
    keys = {"sampling_strategy", "max_synthetic_fraction"}
    settings = balance.model_dump(mode="json", include=keys)
    content = strategy_file_sha256(balance.sampling_strategy)
    return settings if content is None else {**settings, "sampling_strategy_sha256": content}


def _gate_settings(balance: BalanceConfig) -> dict[str, Any]:
    keys = {"gate_tau", "gate_folds", "gate_steps", "min_acceptance"}
    return balance.model_dump(mode="json", include=keys)
