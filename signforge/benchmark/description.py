"""What dataset.json of a benchmark says of the images, the generator and the gate."""

from collections.abc import Mapping
from typing import Any

from signforge.balance.strategy import strategy_file_sha256
from signforge.benchmark.folder import STRATEGY_SHA256
from signforge.benchmark.gate import FittedGate
from signforge.benchmark.trials import none_for_nan
from signforge.config import Config
from signforge.data.splits import PreparedSplits
from signforge.gan.sampler import ClassConditionalSampler, GanSampler


def describe_run(
    config: Config,
    splits: PreparedSplits,
    sampler: ClassConditionalSampler | None,
    gan_seconds: float = 0.0,
) -> dict[str, Any]:
    """``describe_dataset``, with the content of the file of class counts that the config names."""
    dataset = describe_dataset(splits, sampler, gan_seconds)
    strategy_sha256 = strategy_file_sha256(config.balance.sampling_strategy)
    return {**dataset, STRATEGY_SHA256: strategy_sha256} if strategy_sha256 else dataset


def describe_dataset(
    splits: PreparedSplits, sampler: ClassConditionalSampler | None, gan_seconds: float
) -> dict[str, Any]:
    """What dataset.json holds: source, classes, counts and fingerprints of splits and generator."""
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    notes = list(splits.notes)
    generator = None
    if sampler is not None:
        generator = {"fingerprint": sampler.fingerprint, "seconds": gan_seconds}
        if not isinstance(sampler, GanSampler):
            notes.append(
                "The generator is not one of signforge's: nothing tells which images it was made "
                "from, so arms that use it may know more than the others, nor what its training "
                "took, which their cost leaves out."
            )
        else:
            generator["train_fingerprint"] = sampler.card.train_fingerprint
            generator["seen_kimg"] = sampler.card.seen_kimg
            if sampler.card.train_fingerprint != splits.train.fingerprint:
                notes.append(
                    "The generator was trained on other images than this benchmark's training "
                    "split, so arms that use it may know more than the others."
                )
    return {
        "source": splits.source,
        "resolution": splits.train.resolution,
        "class_names": list(splits.train.class_names),
        "notes": notes,
        "splits": {
            name: {
                "images": len(split),
                "groups": len(set(split.groups[split.groups >= 0].tolist())),
                "class_counts": split.class_counts.tolist(),
                "fingerprint": split.fingerprint,
            }
            for name, split in named.items()
        },
        "generator": generator,
    }


def with_gate(dataset: Mapping[str, Any], fitted: FittedGate) -> dict[str, Any]:
    """``dataset`` of ``describe_dataset`` with what it should say of the gate.

    real_acceptance: share of each class's real training images that pass, (C,), None for a class
    with too few to tell: what the acceptance of synthetic images is to be read against.
    """
    gate = fitted.gate
    return {
        **dataset,
        "notes": [*dataset["notes"], *gate.notes],
        "gate": {
            "sha256": gate.card.weights_sha256,
            "seconds": fitted.seconds,
            "tau": gate.tau,
            "folds": gate.card.folds,
            "steps": gate.card.classifier.steps,
            "real_acceptance": none_for_nan(gate.real_acceptance),
        },
    }
