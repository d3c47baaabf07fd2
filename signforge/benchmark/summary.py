"""Rows and predictions -> what the benchmark found: figures of each arm, gains, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.folder import Row, read_json, read_predictions, read_rows, read_target
from signforge.benchmark.statistics import (
    Gain,
    IntArray,
    paired_class_gains,
    paired_gain,
)
from signforge.config import load_config
from signforge.errors import SignforgeError

SHOT_GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and the standard deviation between them (None for one seed)."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds; accuracies and recalls are shares from 0 to 1.

    many, medium, few: None where the data has no class of that kind.
    per_class_recall: (C,), mean over seeds. class_counts: images an epoch shows, (C,).
    over_real, over_cheap: gains in macro accuracy; None for the arm itself, and where there is
        no such arm with the same seeds. class_gains: over ``real``, one per class, or empty.
    """

    arm: str
    seeds: tuple[int, ...]
    top1: Spread
    macro_accuracy: Spread
    worst_class_recall: Spread
    many: Spread | None
    medium: Spread | None
    few: Spread | None
    per_class_recall: tuple[float, ...]
    class_counts: tuple[int, ...]
    uses_generator: bool
    gan_seconds: float
    classifier_seconds: float
    over_real: Gain | None
    over_cheap: Gain | None
    class_gains: tuple[Gain, ...]


@dataclass(frozen=True)
class Summary:
    """What a benchmark found. best_cheap: the arm without a generator, besides ``real``, with
    the highest macro accuracy; None if there is none."""

    verdict: str
    arms: tuple[ArmSummary, ...]
    best_cheap: str | None
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]


def summarise_run(run_dir: Path) -> Summary:
    """The summary of a run directory, from its own files alone.

    Raises SignforgeError where it holds no finished row.
    """
    config = load_config(run_dir / "config.yaml").benchmark
    dataset = read_json(run_dir / "dataset.json")
    wanted = range(config.first_seed, config.first_seed + config.seeds)
    rows = [
        row for row in read_rows(run_dir) if row["arm"] in config.arms and row["seed"] in wanted
    ]
    predictions = {
        (row["arm"], row["seed"]): read_predictions(run_dir, row["arm"], row["seed"])
        for row in rows
    }
    return summarise(
        rows,
        predictions,
        read_target(run_dir),
        arms=tuple(dict.fromkeys(config.arms)),
        class_names=tuple(dataset["class_names"]),
        train_counts=tuple(dataset["splits"]["train"]["class_counts"]),
        resamples=config.bootstrap_resamples,
    )


def summarise(
    rows: Sequence[Row],
    predictions: Mapping[tuple[str, int], IntArray],
    target: IntArray,
    *,
    arms: Sequence[str],
    class_names: tuple[str, ...],
    train_counts: tuple[int, ...],
    resamples: int = 2000,
) -> Summary:
    """Figures of every arm that has a row, in the order of ``arms``.

    predictions: (N,) for every (arm, seed) in ``rows``. target: (N,) true classes.
    """
    of_arm = {
        arm: sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])
        for arm in arms
    }
    of_arm = {arm: found for arm, found in of_arm.items() if found}
    if not of_arm:
        raise SignforgeError("The benchmark has no finished row yet; run it to the end first.")
    macro = {arm: _spread(found, "macro_accuracy").mean for arm, found in of_arm.items()}
    cheap = [
        arm
        for arm, found in of_arm.items()
        if arm != BASELINE and not any(row["uses_generator"] for row in found)
    ]
    best_cheap = max(cheap, key=lambda arm: macro[arm]) if cheap else None

    def pair(arm: str, other: str | None) -> tuple[IntArray, IntArray] | None:
        """Predictions (S, N) of both arms for the seeds that both have."""
        if other is None or other == arm or other not in of_arm:
            return None
        others = {row["seed"] for row in of_arm[other]}
        seeds = [row["seed"] for row in of_arm[arm] if row["seed"] in others]
        if not seeds:
            return None
        return (
            np.stack([predictions[arm, seed] for seed in seeds]),
            np.stack([predictions[other, seed] for seed in seeds]),
        )

    def gain(both: tuple[IntArray, IntArray] | None) -> Gain | None:
        return paired_gain(*both, target, resamples=resamples) if both else None

    summaries = []
    for arm, found in of_arm.items():
        against_real = pair(arm, BASELINE)
        class_gains = (
            paired_class_gains(*against_real, target, resamples=resamples) if against_real else []
        )
        groups = {
            group: _spread(found, group) if found[0][group] is not None else None
            for group in SHOT_GROUPS
        }
        recall = np.array([row["per_class_recall"] for row in found]).mean(0)
        summaries.append(
            ArmSummary(
                arm=arm,
                seeds=tuple(row["seed"] for row in found),
                top1=_spread(found, "top1"),
                macro_accuracy=_spread(found, "macro_accuracy"),
                worst_class_recall=_spread(found, "worst_class_recall"),
                **groups,
                per_class_recall=tuple(recall.tolist()),
                class_counts=tuple(found[0]["class_counts"]),
                uses_generator=any(row["uses_generator"] for row in found),
                gan_seconds=_spread(found, "gan_seconds").mean,
                classifier_seconds=_spread(found, "classifier_seconds").mean,
                over_real=gain(against_real),
                over_cheap=gain(pair(arm, best_cheap)),
                class_gains=tuple(class_gains),
            )
        )
    return Summary(
        verdict=verdict(summaries, best_cheap),
        arms=tuple(summaries),
        best_cheap=best_cheap,
        class_names=class_names,
        train_counts=train_counts,
        test_counts=tuple(np.bincount(target, minlength=len(class_names)).tolist()),
    )


def verdict(arms: Sequence[ArmSummary], best_cheap: str | None) -> str:
    """One sentence: which remedy to use, how much better it is and how sure that is.

    A remedy is recommended only if its interval over ``real`` lies above zero, and one that
    needs a generator only if the best cheap remedy is not as good: where both win and their
    difference is not measurable, the cheap one is enough.
    """
    named = {arm.arm: arm for arm in arms}
    tried = [arm for arm in arms if arm.over_real is not None]
    if not tried:
        return (
            "No remedy was compared with plain training: run the arm `real` and at least one "
            "other with the same seeds."
        )
    winners = [arm for arm in tried if _direction(arm.over_real) > 0]
    if not winners:
        best = max(tried, key=lambda arm: arm.macro_accuracy.mean)
        figures = _figures(best.over_real)
        if all(_direction(arm.over_real) < 0 for arm in tried):
            return (
                f"Use plain training (`real`): every remedy made macro accuracy worse, the best of "
                f"them, `{best.arm}`, by {figures}."
            )
        return (
            f"No measurable difference: no remedy raised macro accuracy over plain training "
            f"(`real`) beyond chance; the best, `{best.arm}`, changed it by {figures}."
        )
    best = max(winners, key=lambda arm: arm.macro_accuracy.mean)
    cheap = named[best_cheap] if best_cheap else None
    over_real = f"macro accuracy {_figures(best.over_real)} over plain training (`real`)"
    if not best.uses_generator or cheap is None:
        return f"Use `{best.arm}`: {over_real}."
    over_cheap = _figures(best.over_cheap)
    if _direction(best.over_cheap) > 0:
        return (
            f"Use `{best.arm}`: {over_real}, and {over_cheap} over the best cheap remedy, "
            f"`{cheap.arm}`."
        )
    if cheap in winners:
        return (
            f"Use `{cheap.arm}`: macro accuracy {_figures(cheap.over_real)} over plain training "
            f"(`real`), and `{best.arm}` is not measurably better than it ({over_cheap})."
        )
    return (
        f"Use `{best.arm}`: {over_real}, though it is not measurably better than the best cheap "
        f"remedy, `{cheap.arm}` ({over_cheap})."
    )


def points(share: float) -> str:
    """``0.0123`` -> ``"+1.23"``, in percentage points."""
    return f"{100 * share:+.2f}"


def _figures(gain: Gain | None) -> str:
    assert gain is not None
    covers = "test images only" if gain.seeds == 1 else f"{gain.seeds} seeds and test images"
    return (
        f"{points(gain.mean)} points (95 % interval {points(gain.low)} to {points(gain.high)}, "
        f"over {covers})"
    )


def _direction(gain: Gain | None) -> int:
    return 0 if gain is None else gain.direction


def _spread(rows: Sequence[Row], key: str) -> Spread:
    values = np.array([row[key] for row in rows], dtype=np.float64)
    return Spread(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None)
